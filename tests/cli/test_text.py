"""Tables, times and escaping."""

import io
import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import text


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    assert text.table(("NAME", "N", "WHY"), [("a", 5, None), ("longer", 12, "")]) == (
        "NAME     N  WHY\n"  #
        "a        5  -\n"
        "longer  12  -"
    )


def test_a_table_without_rows_is_its_header() -> None:
    assert text.table(("ID", "N"), []) == "ID  N"


def test_wide_letters_and_combining_marks_keep_the_columns() -> None:
    lines = text.table(("A", "B"), [("日本", "x"), ("e\u0301e", "y")]).splitlines()
    assert lines == ["A     B", "日本  x", "e\u0301e    y"]


def test_a_cell_is_always_one_line() -> None:
    assert text.cell("a\nb\tc\r") == "a\\nb\\tc\\x0d"
    assert text.cell({"a": ["x\x1b"]}) == '{"a": ["x\\u001b"]}'
    assert [text.cell(value) for value in (None, "", True, 0)] == ["-", "-", "yes", "0"]


def test_multiline_text_keeps_newlines_and_tabs_and_nothing_else() -> None:
    assert text.escape("a\r\n\tb\x1b[31m\x07\x9b\u202e", multiline=True) == "a\n\tb\\x1b[31m\\x07\\x9b\\u202e"


@pytest.mark.parametrize(
    "unseen",
    [
        "\xad",
        "\u034f",
        "\u115f",
        "\u2063",
        "\u3164",
        "\ufe01",
        "\uffa0",
        "\u2800",
        "\U000e0041",
        "\U000e0101",
        "\u200c\u200d",
    ],
)
def test_what_nobody_would_see_is_shown(unseen: str) -> None:
    for words in (f"rm{unseen} x", f"é{unseen} x"):
        shown = text.escape(words)
        assert shown.isascii() or shown.replace("é", "").replace("\u200c", "").isascii(), ascii(shown)
        assert shown != words
        assert json.loads(text.dump(words)) == words
        assert unseen not in text.dump(words)


def test_every_format_character_is_shown_but_those_that_join_letters() -> None:
    unseen = {chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) in ("Cf", "Cc", "Cs", "Zl", "Zp")}
    assert {char for char in unseen if text.escape(char) == char} == set()
    assert {char for char in unseen if text.escape(f"\u0645{char}") == f"\u0645{char}"} == {"\u200c", "\u200d"}


@pytest.mark.parametrize("words", ["\u0645\u06cc\u200c\u0634\u0648\u062f", "❤️", "1️⃣", "👩‍👩‍👧", "❤️‍🔥", "©️ 2026"])
def test_letters_and_emoji_that_are_joined_stay_as_they_are(words: str) -> None:
    assert text.escape(words) == words
    assert not {"\u200c", "\u200d", "\ufe0f"} & set(text.dump(words)), "what a person approves shows all"
    assert json.loads(text.dump(words)) == words


@given(st.text())
def test_nothing_escaped_can_command_a_terminal(foreign: str) -> None:
    shown = text.escape(foreign)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert shown.encode().decode() == shown


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_safe_and_still_the_same_value(value: object) -> None:
    shown = text.dump(value)
    assert json.loads(shown) == value
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (86_400 * 3, "3 d")]
)
def test_a_span_is_shown_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert text.span(seconds) == shown


def test_times_are_relative_and_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "now_ms", lambda: 1_790_000_000_000)
    assert text.ago(1_790_000_000_000 - 3000) == "3 s ago"
    assert text.ago(1_790_000_000_000 + 90_000) == "in 1 min"
    assert text.ago(None) == "-"
    assert text.when(1_790_000_000_000) == "0 s ago (2026-09-21T14:13:20Z)"
    assert text.stamp(10**30) == str(10**30)


def test_the_clock_is_wall_time_in_milliseconds() -> None:
    before = time.time()
    assert before - 0.01 <= text.now_ms() / 1000 <= time.time() + 0.01


def test_colour_needs_a_terminal_and_honours_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert text.paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert text.paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert text.paint("x", "red", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert text.paint("x", "red", Terminal()) == "x"
