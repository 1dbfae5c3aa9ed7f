"""Answers are kept by the hash of their request, for a time, within bounds."""

from typing import Any

import pytest

from runtime.clock import SystemClock
from runtime.llm.cache import FLOAT_BYTES, PART_BYTES, Cache, key_of, size_of
from schemas.chat import (
    ChatMessage,
    ChatRequest,
    Embedded,
    EmbedRequest,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
)


class Hands(SystemClock):
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


def cache_of(ttl: float = 10.0, **bounds: int) -> tuple[Cache[str], Hands]:
    clock = Hands()
    return Cache(ttl, clock, **bounds), clock


def test_a_value_lives_for_its_time() -> None:
    cache, clock = cache_of()
    cache.put("k", "v", 5)
    clock.at = 9.99
    assert (cache.get("k"), cache.hits, cache.bytes) == ("v", 1, 5)
    clock.at = 10.0
    assert (cache.get("k"), cache.hits, cache.bytes, len(cache)) == (None, 1, 0, 0)


def test_being_asked_for_does_not_make_it_younger() -> None:
    cache, clock = cache_of()
    cache.put("k", "v", 5)
    clock.at = 9.0
    assert cache.get("k") == "v"
    clock.at = 11.0
    assert cache.get("k") is None


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    cache, _ = cache_of(max_entries=2)
    cache.put("a", "1", 1)
    cache.put("b", "2", 1)
    assert cache.get("a") == "1"
    cache.put("c", "3", 1)
    assert [cache.get(key) for key in "abc"] == ["1", None, "3"]


def test_bytes_are_bounded_and_counted_once() -> None:
    cache, _ = cache_of(max_bytes=10)
    cache.put("a", "1", 6)
    cache.put("a", "2", 7)
    assert (cache.bytes, cache.get("a")) == (7, "2")
    cache.put("b", "3", 4)
    assert (cache.bytes, cache.get("a"), cache.get("b")) == (4, None, "3")
    cache.put("c", "4", 11)
    assert (cache.bytes, cache.get("c"), cache.get("b")) == (4, None, "3")
    cache.clear()
    assert (cache.bytes, len(cache)) == (0, 0)


def test_no_time_to_live_and_no_key_keep_nothing() -> None:
    cache, _ = cache_of(0.0)
    cache.put("k", "v", 1)
    assert not cache.on
    assert cache.get("k") is None
    other, _ = cache_of()
    other.put(None, "v", 1)
    assert other.get(None) is None
    assert len(other) == 0


def test_the_key_is_that_of_the_whole_request_whatever_its_order(request_of: Any) -> None:
    base = key_of(request_of("a", extra={"x": 1, "y": 2}))
    assert base == key_of(request_of("a", extra={"y": 2, "x": 1}))
    assert base is not None
    assert len(base) == 64
    others = [
        request_of("b", extra={"x": 1, "y": 2}),
        request_of("a", extra={"x": 1, "y": 3}),
        request_of("a", model="other", extra={"x": 1, "y": 2}),
        request_of("a", temperature=0.0, extra={"x": 1, "y": 2}),
        ChatRequest(model="m", messages=(ChatMessage(role="system", content="a"),), extra={"x": 1, "y": 2}),
    ]
    assert len({base, *map(key_of, others)}) == 6
    assert key_of(EmbedRequest(model="m", texts=("a",))) != key_of(EmbedRequest(model="m", texts=("a", "a")))


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x"])
def test_what_json_cannot_say_has_no_key(request_of: Any, value: Any) -> None:
    assert key_of(request_of("a", extra={"x": value})) is None


def test_half_a_character_has_a_key(request_of: Any) -> None:
    assert key_of(request_of("\ud800")) is not None


def test_sizes_follow_what_is_held() -> None:
    assert size_of(TextPart(text="øø")) == PART_BYTES + 4
    assert size_of(ToolCallPart(call=ToolCall(id="1", name="t", arguments="{}"))) == PART_BYTES + 2
    assert size_of(StopPart()) == PART_BYTES
    assert size_of(Embedded(vectors=((0.1, 0.2), (0.3, 0.4)))) == PART_BYTES + 4 * FLOAT_BYTES
