"""What is kept of output and which lines are handed on, however much there is."""

import pytest

from runtime.sandbox.output import LINES_AT_ONCE, LINES_PER_SECOND, MAX_LINE, Allowance, Lines, Tail


class Watch:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch():
    return Watch()


@pytest.fixture
def got():
    return []


@pytest.fixture
def lines(got, watch):
    return Lines(got.append, watch)


def test_little_output_is_kept_whole():
    tail = Tail(limit=10)
    tail.add(b"01234")
    tail.add(b"56789")
    assert (tail.text(), tail.dropped, tail.total) == ("0123456789", 0, 10)


@pytest.mark.parametrize("chunk", [1, 3, 5, 7, 26])
def test_of_much_output_both_ends_are_kept_however_it_came(chunk):
    data = b"abcdefghijklmnopqrstuvwxyz"
    tail = Tail(limit=10)
    for start in range(0, len(data), chunk):
        tail.add(data[start : start + chunk])
    assert tail.text() == "abcde\n[... 16 bytes left out ...]\nvwxyz"
    assert (tail.dropped, tail.total) == (16, 26)


def test_bytes_that_are_no_text_are_replaced():
    tail = Tail()
    tail.add(b"a\xff\xe2\x82\xacb")
    assert tail.text() == "a\ufffd€b"


def test_lines_are_whole_whatever_the_chunks(lines, got):
    for byte in "one\ntwö\r\n\nlast".encode():
        lines.add(bytes([byte]))
    assert got == ["one", "twö", ""]
    lines.close()
    assert got == ["one", "twö", "", "last"]


def test_a_character_cut_off_at_the_end_is_replaced(lines, got):
    lines.add("€".encode()[:2])
    lines.close()
    assert got == ["\ufffd"]


def test_a_long_line_is_cut_and_nothing_of_it_is_lost(lines, got):
    lines.add(b"x" * (2 * MAX_LINE + 5) + b"\ny")
    lines.close()
    assert list(map(len, got)) == [MAX_LINE, MAX_LINE, 5, 1]


def test_a_line_without_end_is_not_held_in_memory(lines, got):
    for _ in range(100):
        lines.add(b"x" * MAX_LINE)
    assert len(lines._rest) <= 2 * MAX_LINE
    lines.close()
    assert sum(map(len, got)) == 100 * MAX_LINE


def test_of_a_flood_the_first_lines_are_handed_on_and_the_rest_is_counted(lines, got):
    for _ in range(100):
        lines.add(b"y\n" * 1000)
    lines.close()
    assert len(got) == LINES_AT_ONCE + 1
    assert got[-1] == f"[... {100_000 - LINES_AT_ONCE} lines left out ...]"


def test_after_a_flood_lines_are_handed_on_again(lines, got, watch):
    lines.add(b"y\n" * (LINES_AT_ONCE + 7))
    lines.add(b"lost\n")
    watch.now += 1
    lines.add(b"seen\n")
    assert got[-2:] == ["[... 8 lines left out ...]", "seen"]


def test_a_steady_flood_passes_at_the_steady_rate(watch):
    allowance = Allowance(watch)
    passed = 0
    for _ in range(100_000):
        watch.now += 0.0001
        passed += allowance.take()
    assert passed == pytest.approx(LINES_AT_ONCE + 10 * LINES_PER_SECOND, rel=0.01)
