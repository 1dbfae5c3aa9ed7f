"""What a provider says when it refuses: its words without our key, and how long it wants us to wait."""

import html
import json
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.llm.faults import quote, retry_after

NOW = 1_700_000_000_000
KEY = "sk/a<b>&'c+d=="


@pytest.mark.parametrize(
    "echoed",
    [
        KEY,
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        json.dumps(KEY)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        html.escape(KEY),
        KEY.encode().hex(),
    ],
)
def test_a_key_is_not_quoted_however_it_is_written(echoed: str) -> None:
    assert quote(f"wrong key {echoed}!", KEY) == "wrong key [key]!"


def test_the_hexadecimal_of_a_short_key_is_no_key() -> None:
    assert quote("78 x 78", "x") == "78 [key] 78"


@given(st.text(max_size=60) | st.floats().map(str) | st.integers().map(str))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
@example("Mon, 01 Jan 2024 00:00:00 +99999999999999")
@example("1e999")
def test_a_wish_to_wait_is_a_number_of_seconds_or_nothing(text: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        seconds = retry_after({name: text}, NOW)
        assert seconds is None or 0 <= seconds <= 366 * 86_400


def test_a_date_is_the_seconds_until_then() -> None:
    assert retry_after({"retry-after": formatdate(NOW / 1000 + 30, usegmt=True)}, NOW) == 30
    assert retry_after({"retry-after": formatdate(NOW / 1000 - 30, usegmt=True)}, NOW) == 0
