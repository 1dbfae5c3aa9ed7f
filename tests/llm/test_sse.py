"""Server-sent events come out the same however the bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LlmTooLarge
from runtime.llm.sse import SseParser

STREAM = (
    b"\xef\xbb\xbfdata: one\n\n: a comment\r\ndata:two\r\ndata:  lines\r\n\r\n"
    b"event: x\rid: 7\rdata: three\r\rretry: 5\n\ndata\n\ndata: last"
)
EVENTS = [b"one", b"two\n lines", b"three", b"", b"last"]


def parse(stream: bytes, cuts: list[int]) -> list[bytes]:
    parser = SseParser(1000)
    places = [0, *sorted(cuts), len(stream)]
    events = [one for a, b in pairwise(places) for one in parser.feed(stream[a:b])]
    return events + parser.close()


def test_line_ends_of_every_kind_are_understood() -> None:
    assert parse(STREAM, []) == EVENTS


def test_bytes_may_come_one_by_one() -> None:
    assert parse(STREAM, list(range(len(STREAM)))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: list[int]) -> None:
    assert parse(STREAM, cuts) == EVENTS


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_at_all_are_taken(chunks: list[bytes]) -> None:
    parser = SseParser(10_000)
    events = [one for chunk in chunks for one in parser.feed(chunk)] + parser.close()
    assert all(b"\r" not in one for one in events)
    assert sum(map(len, events)) <= sum(map(len, chunks))


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 100, b"data: " + b"x" * 100 + b"\n", b"data: 0123456789\n" * 9])
def test_a_line_or_event_over_the_cap_is_refused(flood: bytes) -> None:
    parser = SseParser(64)
    with pytest.raises(LlmTooLarge):
        parser.feed(flood)


def test_the_first_line_that_is_no_event_stream_is_kept() -> None:
    parser = SseParser(64)
    assert parser.feed(b": fine\n<html>\n<body>\n") == []
    assert parser.stray == b"<html>"
