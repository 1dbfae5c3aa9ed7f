"""Secrets: nothing shows them, references lead to them safely, and the redactor finds them in every form."""

import base64
import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from runtime.errors import SecretUnavailable
from runtime.secrets import Redactor, Secret, resolve

CANARY = 'can"ary\\0123/456+789 é'


def redactor(*values: str) -> Redactor:
    made = Redactor()
    for value in values:
        made.register(Secret(value))
    return made


# -- the type ----------------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_only_when_asked() -> None:
    secret = Secret(CANARY)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!r:>80}",
        repr([secret]),
        repr({"k": secret}),
    ]
    assert [one for one in shown if "ary" in one] == []
    assert secret.reveal() == CANARY
    assert not hasattr(secret, "__dict__")


def test_a_secret_leaves_the_process_by_no_copy() -> None:
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied"):
            leave(Secret(CANARY))
    with pytest.raises(TypeError):
        json.dumps(Secret(CANARY))


def test_equal_secrets_are_equal_and_nothing_else_is() -> None:
    assert Secret("é") == Secret("é")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


# -- references --------------------------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{CANARY}\n")
    path.chmod(0o600)
    return path


def test_a_variable_is_resolved() -> None:
    assert resolve("env:KEY", {"KEY": CANARY}).reveal() == CANARY


@pytest.mark.parametrize(("environ", "state"), [({}, "not set"), ({"KEY": ""}, "empty")])
def test_a_variable_that_is_not_there_is_named(environ: dict[str, str], state: str) -> None:
    with pytest.raises(SecretUnavailable, match=f"^the environment variable KEY is {state}$"):
        resolve("env:KEY", environ)


def test_a_file_is_resolved_without_its_last_line_end(key_file: Path) -> None:
    assert resolve(f"file:{key_file}", {}).reveal() == CANARY
    key_file.write_bytes(b" two\nlines \r\n")
    assert resolve(f"file:{key_file}", {}).reveal() == " two\nlines "


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_refused_with_the_fix(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(SecretUnavailable, match=f"chmod 600 {key_file}$"):
        resolve(f"file:{key_file}", {})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    with pytest.raises(SecretUnavailable, match="belongs to uid 12345"):
        resolve(f"file:{key_file}", {})


@pytest.mark.parametrize(
    ("raw", "reason"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "not text"), (b"x" * 70_000, "larger")]
)
def test_a_file_without_a_usable_value_is_refused(key_file: Path, raw: bytes, reason: str) -> None:
    key_file.write_bytes(raw)
    with pytest.raises(SecretUnavailable, match=reason):
        resolve(f"file:{key_file}", {})


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, reason in (("pipe", "not a regular file"), ("", "not a regular file"), ("gone", "No such file")):
        with pytest.raises(SecretUnavailable, match=reason):
            resolve(f"file:{tmp_path}/{name}", {})
    with pytest.raises(SecretUnavailable, match="whole path"):
        resolve("file:key", {})


@pytest.mark.parametrize("scheme", ["cred", "cmd", "keyring", "vault"])
def test_a_scheme_to_come_says_what_works_now(scheme: str) -> None:
    with pytest.raises(SecretUnavailable, match=rf"^{scheme}: is not supported yet; use env:NAME or file:/path$"):
        resolve(f"{scheme}:x", {})


@pytest.mark.parametrize(
    "pasted", ["sk-canary0123456789", "sk:canary0123456789", "env:sk-canary0123456789", "file:sk-canary0123456789"]
)
def test_a_key_pasted_as_a_reference_is_not_told(pasted: str) -> None:
    with pytest.raises(SecretUnavailable) as caught:
        resolve(pasted, {})
    assert "canary" not in str(caught.value)
    assert "canary" not in str(caught.value.data)


# -- the redactor ------------------------------------------------------------------------------------------------------


def carriers(value: str) -> dict[str, str]:
    raw = value.encode()
    return {
        "plain": f"key={value};",
        "json": json.dumps({"k": value}),
        "json without escapes": json.dumps({"k": value}, ensure_ascii=False),
        "repr": repr({"k": value}),
        "url": f"https://h/?k={quote(value)}&x",
        "url, all": quote(value, safe=""),
        "url, form": quote_plus(value),
        "base64": base64.b64encode(raw).decode(),
        "base64 behind a user": "Basic " + base64.b64encode(b"user:" + raw).decode(),
        "base64 between": base64.b64encode(b"ab" + raw + b"cde").decode(),
        "base64 for urls": base64.urlsafe_b64encode(b"x" + raw).decode(),
        "hex": raw.hex(),
        "repr in json": json.dumps(repr([value])),
    }


def leaked(value: str, text: str) -> bool:
    """Whether *value* can be read from *text*, by undoing each encoding."""
    raw = value.encode()
    inner = [base64.b64encode(bytes(shift) + raw).decode()[shift + 1 :].rstrip("=")[:-2] for shift in range(3)]
    escaped = [json.dumps(form, ensure_ascii=False)[1:-1] for form in (value, repr(value)[1:-1])]
    forms = [
        *escaped,
        json.dumps(repr(value)[1:-1])[1:-1],
        value,
        quote(value),
        quote_plus(value),
        quote(value, safe=""),
        raw.hex(),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
    ]
    return any(form in text or form.replace("+", "-").replace("/", "_") in text for form in [*forms, *inner])


@pytest.mark.parametrize("how", carriers(CANARY))
def test_a_secret_is_found_in_every_form(how: str) -> None:
    text = carriers(CANARY)[how]
    assert leaked(CANARY, text)
    cleaned = redactor(CANARY).text(text)
    assert "[secret]" in cleaned
    assert not leaked(CANARY, cleaned)


ODD = "p/a<ss>&'w\"ord+=="


@pytest.mark.parametrize(
    "text",
    [
        r"p\/a<ss>&'w\"ord+==",  # PHP
        r"p/a\u003css\u003e\u0026'w\"ord+==",  # Go
        r"p/a\u003Css\u003E\u0026\u0027w\u0022ord+==",
        "p/a&lt;ss&gt;&amp;&#x27;w&quot;ord+==",  # Python
        "p/a&lt;ss&gt;&amp;&#39;w&quot;ord+==",
        "p/a&lt;ss&gt;&amp;&#39;w&#34;ord&#43;==",  # Go
        ODD.encode().hex().upper(),
        quote(ODD, safe="").lower(),
    ],
)
def test_a_secret_is_found_as_other_programs_write_it(text: str) -> None:
    assert redactor(ODD).text(f"x {text} y") == "x [secret] y"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=60))
def test_any_secret_is_found_in_every_form(value: str) -> None:
    made = redactor(value)
    assert [how for how, text in carriers(value).items() if "[secret]" not in made.text(text)] == []


def test_structures_are_redacted_and_keep_their_shape() -> None:
    value = {
        "a": [CANARY, 1, None],
        CANARY: (f"x{CANARY}y", {"b"}),
        "n": {"s": frozenset({CANARY})},
        "raw": CANARY.encode(),
    }
    cleaned: Any = redactor(CANARY).apply(value)
    assert cleaned == {
        "a": ["[secret]", 1, None],
        "[secret]": ("x[secret]y", {"b"}),
        "n": {"s": frozenset({"[secret]"})},
        "raw": b"[secret]",
    }


def test_a_secret_that_contains_another_is_replaced_whole() -> None:
    assert redactor("abcdef", "abcdefghij").text("abcdefghij abcdef") == "[secret] [secret]"


def test_each_line_of_a_key_file_is_a_secret() -> None:
    made = redactor("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nabc\n-----END KEY-----")
    assert made.text("line: MIIEvQIBADANBgkqhkiG9w0BAQEFAASC") == "line: [secret]"


def test_very_short_secrets_do_not_eat_ordinary_text() -> None:
    assert redactor("a", "").text("banana") == "banana"


def test_text_without_secrets_is_left_alone() -> None:
    assert Redactor().text("nothing") == "nothing"
    assert redactor(CANARY).text("nothing") == "nothing"


def test_the_text_of_a_validation_error_is_redacted() -> None:
    class Loose(BaseModel):
        n: int

    with pytest.raises(ValidationError) as caught:
        Loose.model_validate({"n": CANARY})
    assert leaked(CANARY, str(caught.value))
    made = redactor(CANARY)
    assert not leaked(CANARY, made.text(str(caught.value)))
    assert not leaked(CANARY, made.text(caught.value.json()))
    assert not leaked(CANARY, str(made.apply(caught.value.errors())))
