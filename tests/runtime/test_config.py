"""Reading config.toml: the report to the letter, layers, origins, ownership, and what a reload changes."""

import grp
import json
import os
import pwd
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.config import Changes, check_trust, diff, find, load, render
from runtime.config_report import cover
from runtime.config_spans import Loc, scan
from runtime.errors import ConfigInvalid, ConfigNotFound, ConfigUnsafe
from schemas.config import Settings

KEY = "sk-live-canary0123456789abcdef"
GOOD = '[agents.assistant]\nllm = { provider = "local", model = "smollm2" }\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(folder: Path, text: str) -> Path:
    (folder / "config.toml").write_text(text)
    (folder / "config.toml").chmod(0o644)
    return Path("config.toml")


def mistakes(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[dict[str, Any]]:
    with pytest.raises(ConfigInvalid) as caught:
        load(put(folder, text), environ or {})
    found: list[dict[str, Any]] = caught.value.data["mistakes"]
    assert json.loads(json.dumps(found)) == found
    return found


def report(folder: Path, text: str, environ: dict[str, str] | None = None) -> str:
    return render(mistakes(folder, text, environ))  # type: ignore[arg-type]  # they came back from JSON as plain dicts


# -- the report, to the letter -----------------------------------------------------------------------------------------


def test_a_mistake_in_an_inline_table_is_underlined(folder: Path) -> None:
    text = '[runtime]\n\n[agents.a]\nactor = "a:B"\n\n[agents.researcher]\nrole = "x"\n\n'
    text += 'llm = { provider = "local", model = "tiny", temperature = "hot" }\n'
    assert report(folder, text) == (
        "error[float_type]: Input should be a valid number\n"
        " --> config.toml:9:59\n"
        "  |\n"
        '9 | llm = { provider = "local", model = "tiny", temperature = "hot" }\n'
        "  |                                                           ^^^^^ agents.researcher.llm.temperature"
    )


def test_a_mistake_in_a_table_is_underlined_and_the_key_that_was_meant_is_named(folder: Path) -> None:
    assert report(folder, "[agents.assistant]\nactor = 'a:B'\nrol = 'x'\n") == (
        "error[extra_forbidden]: there is no key `rol` here\n"
        " --> config.toml:3:1\n"
        "  |\n"
        "3 | rol = 'x'\n"
        "  | ^^^ agents.assistant.rol\n"
        "  = help: did you mean `role`?"
    )


def test_a_mistake_in_a_dotted_key_is_underlined(folder: Path) -> None:
    assert report(folder, "\n" * 9 + 'runtime . "lease"  =  "30 parsecs" # far\n') == (
        'error[duration]: write a time like "30s" (units: ms, s, m, h, d)\n'
        "  --> config.toml:10:23\n"
        "   |\n"
        '10 | runtime . "lease"  =  "30 parsecs" # far\n'
        "   |                       ^^^^^^^^^^^^ runtime.lease"
    )


def test_a_mistake_under_a_quoted_key_is_underlined(folder: Path) -> None:
    assert report(folder, '[agents."my agent"]\nactor = "a:B"\n') == (
        "error[string_pattern_mismatch]: a name starts with a lower-case letter; "
        "lower-case letters, digits and _ . - follow, 64 at most\n"
        " --> config.toml:1:9\n"
        "  |\n"
        '1 | [agents."my agent"]\n'
        '  |         ^^^^^^^^^^ agents."my agent"'
    )


def test_a_mistake_in_an_array_over_several_lines_is_underlined(folder: Path) -> None:
    assert report(folder, '[agents.a]\nactor = "a:B"\ntools = [\n  "shell", # fine\n  3,\n]\n') == (
        "error[string_type]: Input should be a valid string\n"
        " --> config.toml:5:3\n"
        "  |\n"
        "5 |   3,\n"
        "  |   ^ agents.a.tools[1]"
    )


def test_an_array_of_tables_in_place_of_a_table_is_underlined(folder: Path) -> None:
    assert report(folder, "[[runtime]]\nlease = '1s'\n[[runtime]]\n") == (
        "error[model_type]: a table is wanted here\n --> config.toml:1:3\n  |\n1 | [[runtime]]\n  |   ^^^^^^^ runtime"
    )


def test_an_undefined_provider_is_underlined_at_its_value(folder: Path) -> None:
    text = (
        '[providers.ollama]\nbase_url = "http://localhost:11434/v1"\n[agents.a.llm]\nmodel = "x"\nprovider = "olama"\n'
    )
    assert report(folder, text) == (
        "error[unknown_provider]: no provider of this name is defined\n"
        " --> config.toml:5:12\n"
        "  |\n"
        '5 | provider = "olama"\n'
        "  |            ^^^^^^^ agents.a.llm.provider\n"
        "  = help: did you mean `ollama`?"
    )


def test_a_tool_that_is_not_there_is_underlined_in_its_list(folder: Path) -> None:
    text = '[agents.a]\nactor = "a:B"\ntools = ["shell", "files.raed", "mine:tool"]\n'
    assert report(folder, text) == (
        "error[unknown_tool]: there is no built-in tool of this name\n"
        " --> config.toml:3:19\n"
        "  |\n"
        '3 | tools = ["shell", "files.raed", "mine:tool"]\n'
        "  |                   ^^^^^^^^^^^^ agents.a.tools[1]\n"
        "  = help: did you mean `files.read`?"
    )


def test_a_schedule_that_means_nothing_is_underlined_at_its_words(folder: Path) -> None:
    text = '[schedules.nightly]\ncron = "30 25 * * *"\ntz = "Europe/Berln"\nkind = "shel"\ntags = ["no good"]\n'
    assert report(folder, text) == (
        "error[schedule_cron]: the hour '25' is not understood: it is 0 to 23; lists (1,15), ranges (9-17), "
        "steps (*/5) and * as well\n"
        " --> config.toml:2:8\n"
        "  |\n"
        '2 | cron = "30 25 * * *"\n'
        "  |        ^^^^^^^^^^^^^ schedules.nightly.cron\n"
        "\n"
        "error[schedule_tz]: there is no time zone 'Europe/Berln'; did you mean 'Europe/Berlin'?\n"
        " --> config.toml:3:6\n"
        "  |\n"
        '3 | tz = "Europe/Berln"\n'
        "  |      ^^^^^^^^^^^^^^ schedules.nightly.tz\n"
        "\n"
        "error[unknown_kind]: no kind of this name is defined\n"
        " --> config.toml:4:8\n"
        "  |\n"
        '4 | kind = "shel"\n'
        "  |        ^^^^^^ schedules.nightly.kind\n"
        "  = help: did you mean `shell`?\n"
        "\n"
        "error[string_pattern_mismatch]: a tag starts with a letter or a digit; letters, digits and _ . : / - follow, "
        "64 at most\n"
        " --> config.toml:5:9\n"
        "  |\n"
        '5 | tags = ["no good"]\n'
        "  |         ^^^^^^^^^ schedules.nightly.tags[0]"
    )


def test_a_schedule_may_run_a_kind_of_ones_own_or_write_to_an_agent(folder: Path) -> None:
    schedules = (
        '[schedules.a]\ncron = "@daily"\nkind = "mine"\n[schedules.b]\ncron = "@daily"\nkind = "agent.message"\n'
    )
    loaded = load(put(folder, schedules + '[kinds.mine]\nrun = "jobs:mine"\n'), {})
    assert [table.kind for table in loaded.settings.schedules.values()] == ["mine", "agent.message"]
    with pytest.raises(ConfigInvalid):
        load(put(folder, schedules), {})


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("[pools.loop]\nsize = 1\nqueues = ['a']\n", "general_pool", "its size is `pool` under [runtime]"),
        ("[pools.child]\nsize = 1\nqueues = ['a']\n", "general_pool", "its size is `child_pool` under [runtime]"),
        ("[pools.own]\nsize = 1\nqueues = []\n", "pool_queues", "one queue at least"),
        ("[pools.own]\nsize = 1\nqueues = ['agent:a']\n", "string_pattern_mismatch", "a name starts with"),
        ("[schedules.a]\ncron = '@daily'\nkind = 'echo'\nqueue = 'A'\n", "string_pattern_mismatch", "a name starts"),
        ("[queues.q]\nrate = { per = '1s' }\n", "rate", "needs `requests` or `tokens`"),
        ("[retention]\ncompleted = 'ever'\n", "duration", "write a time like"),
        ("[retention]\ncompletd = '7d'\n", "extra_forbidden", "there is no key `completd` here"),
    ],
)
def test_a_mistake_in_a_table_of_the_queue_is_named(folder: Path, text: str, code: str, says: str) -> None:
    (found,) = mistakes(folder, text)
    assert found["code"] == code
    assert says in found["message"]


def test_what_is_missing_is_reported_at_the_table_that_lacks_it(folder: Path) -> None:
    assert report(folder, "[kinds.resize]\ntimeout = '1m'\n") == (
        "error[missing]: `run` is missing\n"
        " --> config.toml:1:8\n"
        "  |\n"
        "1 | [kinds.resize]\n"
        "  |        ^^^^^^ kinds.resize.run"
    )


def test_a_syntax_error_has_its_place(folder: Path) -> None:
    assert report(folder, "[runtime]\nlease = = 3\n") == (
        "error[toml]: Invalid value\n --> config.toml:2:9\n  |\n2 | lease = = 3\n  |         ^"
    )


def test_a_file_that_ends_too_early_is_reported_at_its_end(folder: Path) -> None:
    assert [(one["line"], one["column"]) for one in mistakes(folder, "[runtime]\nlease = [")] == [(2, 10)]


def test_a_mistake_in_a_variable_names_the_variable(folder: Path) -> None:
    assert report(folder, GOOD, {"UNDERSTUDY_RUNTIME__LEASE": "soon"}) == (
        'error[duration]: write a time like "30s" (units: ms, s, m, h, d)\n'
        " --> $UNDERSTUDY_RUNTIME__LEASE\n"
        "  |\n"
        "  | UNDERSTUDY_RUNTIME__LEASE=soon\n"
        "  |                           ^^^^ runtime.lease"
    )


def test_tabs_and_wide_characters_keep_the_caret_in_place(folder: Path) -> None:
    text = '[agents.a]\nllm = {\tprovider = "local", model = "漢字", temperature = "hot" }\n'
    source, caret = report(folder, text).split("\n")[3:5]
    cells = [2 if char in "漢字" else 1 for char in source]
    at = source.index('"hot"')
    assert caret.index("^") == sum(cells[:at])
    assert caret.index("\t") == source.index("\t")


def test_a_long_line_is_cut_around_the_mistake(folder: Path) -> None:
    text = f"[agents.a]\nactor = 'a:B'\noptions = {{ a = '{'x' * 5000}' }}\nllm = {{ provider = 'local', "
    text += f"model = '{'m' * 5000}', temperature = 'hot' }}\n"
    source, caret = report(folder, text).split("\n")[3:5]
    assert len(source) < 200
    assert source[caret.index("^") : caret.rindex("^") + 1] == "'hot'"


def test_a_line_cannot_steer_the_terminal(folder: Path) -> None:
    assert "\x1b" not in report(folder, "[runtime]\nlease = \x1b[2J\n")
    assert "\x1b" not in report(folder, '"\\u001b[2J" = 1\n')


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = (
        "[runtime]\nlease = 'x'\ndurability = 'ful'\npol = 1\n[agents.a]\nrole = 3\n[agents.b]\nactor = 'nothing'\n"
        "[kinds.echo]\nrun = 'a:b'\n[providers.p]\ntype = 'opnai'\n[providers.q]\n[nothing]\n"
    )
    found = mistakes(folder, text, {"UNDERSTUDY_RUNTIM__POOL": "1", "UNDERSTUDY_NONSENSE": "1"})
    assert [(one["line"], one["code"], one["path"]) for one in found] == [
        (2, "duration", "runtime.lease"),
        (3, "literal_error", "runtime.durability"),
        (4, "extra_forbidden", "runtime.pol"),
        (6, "string_type", "agents.a.role"),
        (8, "string_pattern_mismatch", "agents.b.actor"),
        (9, "builtin_kind", "kinds.echo"),
        (12, "union_tag_invalid", "providers.p.type"),
        (13, "missing", "providers.q.base_url"),
        (14, "extra_forbidden", "nothing"),
        (0, "unknown_variable", ""),
        (0, "extra_forbidden", "runtim"),
    ]


def test_the_error_itself_names_the_first_mistake_and_how_many_follow(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"^config\.toml:2: .*write a time.* \(and 1 more\)$"):
        load(put(folder, "[runtime]\nlease = 'x'\ngrace = 'y'\n"), {})


@pytest.mark.parametrize(
    ("raw", "code"),
    [(b"a = '\xff'\n", "encoding"), (b"#" * (1024 * 1024 + 1), "too_large"), (b"a = " + b"[" * 5000, "toml")],
)
def test_a_file_that_cannot_be_read_is_one_mistake(folder: Path, raw: bytes, code: str) -> None:
    path = put(folder, "")
    path.write_bytes(raw)
    with pytest.raises(ConfigInvalid) as caught:
        load(path, {})
    assert [one["code"] for one in caught.value.data["mistakes"]] == [code]


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f'[providers.openai]\napi_key = "{KEY}"\n',
        f"[providers.openai]\napi_key = '{KEY}' # here\nbase = 1\n",
        f'providers.openai = {{ api_key = "{KEY}", tpye = 1 }}\n',
        f'[providers.openai]\n"api_key" = "{KEY}"\napi_key = 1\n',
        f'[providers.openai]\napi_key = "{KEY}\n',
        f"[providers.openai]\napi_key = {KEY}\n",
        f'[providers.openai]\napi_key = """\n{KEY}""" nonsense\n',
        f'[providers.openai]\napi_key = ["{KEY}"]\n',
        f'[providers.openai]\napikey = "{KEY}"\n',
        f"[providers.openai]\napi_key.{KEY} = 1\n",
        f'[agents.a]\nllm = {{ provider = "{KEY}", model = "x" }}\n',
        f'[agents.a]\nllm = {{ provider = "local", model = "x", extra = {{ token = "{KEY}" }}, bad = 1 }}\n',
        f'[providers.openai]\nbase_url = "https://me:{KEY}@host/v1"\n',
    ],
)
def test_a_key_in_the_file_is_never_told(folder: Path, text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(put(folder, text), {})
    error = caught.value
    told = [str(error), repr(error), json.dumps(error.data), render(error.data["mistakes"]), repr(error.__context__)]
    assert [one for one in told if KEY in one or KEY[8:] in one] == []
    assert error.__context__ is None or error.__suppress_context__


def test_a_literal_key_names_the_right_form_and_its_line_is_covered(folder: Path) -> None:
    assert report(folder, f'[providers.openai]\napi_key = "{KEY}" # mine\n') == (
        "error[secret_literal]: a secret is named here, never written out\n"
        " --> config.toml:2:11\n"
        "  |\n"
        f'2 | api_key = "{"*" * len(KEY)}" # mine\n'
        f"  |           {'^' * (len(KEY) + 2)} providers.openai.api_key\n"
        "  = help: put it into the environment and write `env:OPENAI_API_KEY`, or into a file and write `file:/path`"
    )


@pytest.mark.parametrize(
    "name", ["UNDERSTUDY_PROVIDERS__OPENAI__API_KEY", "UNDERSTUDY_API_KEYY", "UNDERSTUDY_PROVIDERS__OPENAI__X"]
)
def test_a_key_in_a_variable_is_never_told(folder: Path, name: str) -> None:
    value = "a-canary-without-the-look-of-a-key"
    assert value not in report(folder, GOOD, {name: value})


def test_covering_keeps_every_line_and_column() -> None:
    text = f'a = 1\napi_key = """\n{KEY}\n  two words"""\nmax_tokens = 256\n'
    covered = cover(text)
    assert [len(line) for line in covered.split("\n")] == [len(line) for line in text.split("\n")]
    assert "max_tokens = 256" in covered
    assert "two" not in covered


# -- layers and origins ------------------------------------------------------------------------------------------------


def test_a_good_file_loads_and_every_key_knows_its_line(folder: Path) -> None:
    loaded = load(put(folder, GOOD), {})
    assert loaded.settings.agents["assistant"].llm is not None
    assert (loaded.path, loaded.folder) == (folder / "config.toml", folder)
    assert loaded.origin("agents.assistant") == "config.toml:1"
    assert loaded.origin("agents.assistant.llm.model") == "config.toml:2"
    assert loaded.origin("runtime.lease") == "built-in"


def test_windows_line_ends_and_an_empty_file_load(folder: Path) -> None:
    assert load(put(folder, ""), {}).settings == Settings()
    path = put(folder, "")
    path.write_bytes(b"# one\r\n[runtime]\r\nlease = '2s'\r\n")
    assert load(path, {}).origin("runtime.lease") == "config.toml:3"


def test_a_variable_wins_over_the_file_and_is_its_origin(folder: Path) -> None:
    loaded = load(
        put(folder, "[runtime]\nlease = '1m'\n"), {"UNDERSTUDY_RUNTIME__LEASE": "2s", "UNDERSTUDY_RUNTIME__POOL": "7"}
    )
    assert (loaded.settings.runtime.lease, loaded.settings.runtime.pool) == (2000, 7)
    assert loaded.origin("runtime.lease") == "$UNDERSTUDY_RUNTIME__LEASE"


def test_a_variable_reaches_a_name_with_hyphens_and_text_that_looks_like_a_number(folder: Path) -> None:
    text = GOOD.replace("assistant", "my-agent")
    environ = {"UNDERSTUDY_AGENTS__MY_AGENT__LLM__MODEL": "7", "UNDERSTUDY_RUNTIME__POOL": "7"}
    settings = load(put(folder, text), environ).settings
    assert settings.runtime.pool == 7
    assert settings.agents["my-agent"].llm is not None
    assert settings.agents["my-agent"].llm.model == "7"


def test_a_variable_with_a_line_end_sets_only_itself(folder: Path) -> None:
    loaded = load(put(folder, GOOD), {"UNDERSTUDY_AGENTS__ASSISTANT__ROLE": "1\nx = 2"})
    assert loaded.settings.agents["assistant"].role == "1\nx = 2"


def test_what_the_process_itself_reads_is_no_setting(folder: Path) -> None:
    environ = {"UNDERSTUDY_HOME": "/x", "UNDERSTUDY_CONFIG": "/y", "UNDERSTUDY_HOST": "/z", "PATH": "/bin"}
    assert load(put(folder, GOOD), environ).settings == load(put(folder, GOOD), {}).settings


def test_what_a_variable_leaves_incomplete_is_reported_at_the_variable(folder: Path) -> None:
    found = mistakes(folder, GOOD, {"UNDERSTUDY_AGENTS__NEW__ROLE": "x"})
    assert [(one["file"], one["code"]) for one in found] == [("$UNDERSTUDY_AGENTS__NEW__ROLE", "agent_incomplete")]


def test_the_file_is_found_by_flag_then_variable_then_folder(folder: Path) -> None:
    put(folder, GOOD)
    other = folder / "other.toml"
    other.write_text(GOOD)
    assert find(None, {}) == Path("config.toml")
    assert find(None, {"UNDERSTUDY_CONFIG": str(other)}) == other
    assert find("config.toml", {"UNDERSTUDY_CONFIG": str(other)}) == Path("config.toml")


@pytest.mark.parametrize(
    ("flag", "environ", "by"),
    [
        ("gone.toml", {}, "-c"),
        (None, {"UNDERSTUDY_CONFIG": "gone.toml"}, r"\$UNDERSTUDY_CONFIG"),
        (None, {}, "the current folder"),
    ],
)
def test_a_missing_file_says_what_was_tried(folder: Path, flag: str | None, environ: dict[str, str], by: str) -> None:
    with pytest.raises(ConfigNotFound, match=rf"there is no file {folder}/.*tried: {by}"):
        find(flag, environ)


def test_the_default_file_of_the_repository_loads() -> None:
    root = Path(__file__).parents[2]
    settings = Settings.model_validate(
        tomllib.loads((root / "config.toml").read_text()), context={"providers": {"local", "scripted"}}
    )
    assert {name: agent.llm.provider for name, agent in settings.agents.items() if agent.llm} == {
        "assistant": "local",
        "echo": "scripted",
    }


def test_every_example_in_the_default_file_loads(folder: Path) -> None:
    text = (Path(__file__).parents[2] / "config.toml").read_text()
    lines = [line.removeprefix("# ") if "=" in line or line.startswith("# [") else line for line in text.split("\n")]
    good = [
        line
        for line in lines
        if not line.startswith("Under") and "UNDERSTUDY_" not in line and "def resize" not in line
    ]
    settings = load(put(folder, "\n".join(good)), {}).settings
    assert {"ollama", "openai"} <= settings.providers.keys()
    assert "resize" in settings.kinds


# -- places of everything in any file ----------------------------------------------------------------------------------

_keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
_leaves = st.one_of(
    st.integers(-9, 9**9), st.booleans(), st.floats(allow_nan=False), st.text(st.characters(exclude_categories=["Cs"]))
)
_data = st.dictionaries(
    _keys,
    st.recursive(
        _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3), max_leaves=12
    ),
)


def paths(value: Any, path: Loc = ()) -> list[Loc]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(loc for key, item in inner for loc in paths(item, (*path, key)))]


@settings(deadline=None)
@given(_data)
def test_every_value_of_any_file_has_a_place(data: dict[str, Any]) -> None:
    text = tomlkit.dumps(data).replace("\r\n", "\n")
    read = tomllib.loads(text)
    spans = scan(text)
    assert sorted(map(repr, spans)) == sorted(map(repr, paths(read)))
    lines = text.split("\n")
    for span in spans.values():
        for place in span:
            assert 1 <= place.column <= len(lines[place.line - 1])
            assert place.column + place.width - 1 <= len(lines[place.line - 1])


def test_places_follow_every_way_of_writing() -> None:
    text = (
        'a.b . "c d" = 1\n[x.y]\nk = { p = [1, {q = \'r\'}], z = """\nmulti""""" } # c\n[[t]]\n'
        'v = 1979-05-27 07:32:00 # c\n[t.sub]\ns = "\\"]"\n[[t]]\n[[t.in]]\n'
        "\"q.k\" = [\n  1, # one\n  [ ],\n]\n[x]\ne = ''''''\n"
    )
    spans = scan(text)
    assert sorted(map(repr, spans)) == sorted(map(repr, paths(tomllib.loads(text))))
    lines = text.split("\n")
    shown = {
        loc: lines[place.line - 1][place.column - 1 :][: place.width] for loc in spans if (place := spans[loc].value)
    }
    assert shown["a", "b", "c d"] == "1"
    assert shown["x", "y", "k", "p", 1, "q"] == "'r'"
    assert shown["t", 0, "v"] == "1979-05-27 07:32:00"
    assert shown["t", 0, "sub", "s"] == '"\\"]"'
    assert shown["t", 1, "in", 0, "q.k", 1] == "[ ]"
    assert spans["x",].key.line == 15
    assert spans["x", "e"].key.line == 16


# -- trust -------------------------------------------------------------------------------------------------------------


def test_our_own_file_in_our_own_folder_is_trusted(folder: Path) -> None:
    check_trust(put(folder, GOOD))


def test_a_file_that_our_own_private_group_may_write_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(folder, GOOD)
    path.chmod(0o664)
    us = pwd.getpwuid(os.getuid())
    group = grp.struct_group((us.pw_name, "x", path.stat().st_gid, [us.pw_name]))
    monkeypatch.setattr("pwd.getpwuid", lambda _: pwd.struct_passwd((*us[:3], path.stat().st_gid, *us[4:])))
    monkeypatch.setattr("grp.getgrgid", lambda _: group)
    check_trust(path)
    shared = grp.struct_group((us.pw_name, "x", path.stat().st_gid, [us.pw_name, "somebody"]))
    monkeypatch.setattr("grp.getgrgid", lambda _: shared)
    with pytest.raises(ConfigUnsafe):
        check_trust(path)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused_with_the_fix(
    folder: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.trust._is_private", lambda _: False)
    path = put(folder, GOOD)
    path.chmod(mode)
    with pytest.raises(ConfigUnsafe) as caught:
        load(path, {})
    assert caught.value.data["fix"] == f"chmod go-w {folder}/config.toml"
    subprocess.run(caught.value.data["fix"], shell=True, check=True)
    load(path, {})


def test_a_folder_that_others_may_write_is_refused_with_the_fix(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / put(folder, GOOD)
    folder.chmod(0o777)
    with pytest.raises(ConfigUnsafe) as caught:
        check_trust(path)
    assert caught.value.data["fix"] == f"chmod go-w '{folder}'"


def test_a_folder_further_up_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "mine"
    folder.mkdir(mode=0o755, parents=True)
    (tmp_path / "shared").chmod(0o1777)
    check_trust(folder / put(folder, GOOD))


def test_a_link_between_folders_is_refused_where_others_may_write_either(tmp_path: Path) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    far.mkdir(mode=0o755)
    near.mkdir(mode=0o755)
    put(far, GOOD)
    (near / "config.toml").symlink_to(far / "config.toml")
    check_trust(near / "config.toml")
    for folder in (far, near):
        folder.chmod(0o777)
        with pytest.raises(ConfigUnsafe, match=f"chmod go-w {folder}"):
            check_trust(near / "config.toml")
        folder.chmod(0o755)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused_with_the_fix(folder: Path) -> None:
    path = put(folder, GOOD)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigUnsafe) as caught:
        load(path, {})
    assert caught.value.data["fix"] == f"sudo chown 0 {folder}/config.toml && chmod go-w {folder}/config.toml"


# -- reload ------------------------------------------------------------------------------------------------------------


def settings_of(text: str) -> Settings:
    return Settings.model_validate(tomllib.loads(text))


def test_a_reload_without_changes_changes_nothing() -> None:
    assert not diff(settings_of(GOOD), settings_of("# a comment\n" + GOOD))


def test_a_reload_names_what_changed_and_what_needs_a_new_start() -> None:
    llm = "llm = { provider = 'p', model = 'x' }\n"
    old = settings_of(
        f"[providers.p]\nbase_url = 'http://a'\n[agents.keep]\n{llm}[agents.gone]\n{llm}[agents.other]\n{llm}"
    )
    new = settings_of(
        f"[runtime]\nlease = '1m'\n[providers.p]\nbase_url = 'http://b'\n[providers.local]\n[agents.keep]\n{llm}"
        f"[agents.other]\nrole = 'new'\n{llm}[agents.fresh]\n{llm}[kinds.k]\nrun = 'a:b'\n"
        "[pools.p]\nsize = 2\nqueues = ['x']\n[retention]\nfailed = '1d'\n[queues.x]\nmax_active = 1\n"
    )
    assert diff(old, new) == Changes(
        added=("fresh",),
        removed=("gone",),
        changed=("other",),
        providers=("local", "p"),
        needs_restart=("runtime.lease", "pools.p"),
    )


def test_the_report_can_be_shown_without_loading_anything_else() -> None:
    code = "import sys, runtime.config_report; print([m for m in ('pydantic', 'tomlkit', 'anyio') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "code", "out", "err"),
    [
        (GOOD, 0, "no mistakes; 1 agent", ""),
        ("[runtime]\nlease = 'x'\n[nothing]\n", 78, "", " --> config.toml:2:9\n"),
        (None, 78, "", "error: there is no file "),
    ],
)
def test_config_check_is_a_program(folder: Path, text: str | None, code: int, out: str, err: str) -> None:
    if text is not None:
        put(folder, text)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "runtime.config_check"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == code, done.stderr
    assert out in done.stdout
    assert err in done.stderr
    assert "Traceback" not in done.stderr
