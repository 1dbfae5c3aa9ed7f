"""The clocks: ids that sort and never repeat, and a virtual time that follows the loop."""

import re
import time
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock import SystemClock, VirtualClock, format_uuid7

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@given(ms=st.integers(0, 2**48 - 1), counter=st.integers(0, 0xFFF), rand=st.integers(0, 2**64 - 1))
def test_an_id_is_a_uuid_of_version_7_with_its_time_in_front(ms: int, counter: int, rand: int) -> None:
    text = format_uuid7(ms, counter, rand)
    assert UUID7.fullmatch(text)
    assert int(text.replace("-", "")[:12], 16) == ms
    assert int(text[15:18], 16) == counter


@given(earlier=st.tuples(st.integers(0, 2**47), st.integers(0, 0xFFE)), rand=st.integers(0, 2**64 - 1))
def test_ids_sort_by_time_and_then_by_counter(earlier: tuple[int, int], rand: int) -> None:
    ms, counter = earlier
    assert format_uuid7(ms, counter, 2**64 - 1) < format_uuid7(ms, counter + 1, 0)
    assert format_uuid7(ms, 0xFFF, rand) < format_uuid7(ms + 1, 0, 0)


def test_ids_made_in_one_millisecond_are_sorted_and_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    clock = SystemClock()
    ids = [clock.new_id() for _ in range(10_000)]  # more than fit into the counter of one millisecond
    assert ids == sorted(set(ids))


def test_ids_go_on_rising_when_the_wall_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2_000_000_000, 1_000_000_000, 3_000_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    clock = SystemClock()
    ids = [clock.new_id() for _ in range(3)]
    assert ids == sorted(ids)


def test_the_systems_time_is_in_milliseconds() -> None:
    before = time.time()
    assert before * 1000 - 1 <= SystemClock().now() <= time.time() * 1000 + 1


def test_chance_is_at_least_0_and_below_1() -> None:
    for clock in (SystemClock(), VirtualClock()):
        assert all(0.0 <= clock.random() < 1.0 for _ in range(1000))


async def test_monotonic_time_is_the_loops_own() -> None:
    for clock in (SystemClock(), VirtualClock()):
        before = anyio.current_time()
        assert before <= clock.monotonic() <= anyio.current_time()


async def test_virtual_time_follows_the_loop_to_the_millisecond(anyio_backend_name: str) -> None:
    clock = VirtualClock(start_ms=5_000)
    assert clock.now() == 5_000
    if anyio_backend_name == "trio":
        await anyio.sleep(86_400.25)
        assert clock.now() == 5_000 + 86_400_250


async def test_a_step_of_the_wall_clock_is_none_of_monotonic_time() -> None:
    clock = VirtualClock(start_ms=5_000)
    wall, monotonic, first = clock.now(), clock.monotonic(), clock.new_id()
    clock.step(-3_000)
    assert clock.now() - wall <= -2_000
    assert 0 <= clock.monotonic() - monotonic < 1
    assert clock.new_id() > first


def test_one_seed_makes_one_history() -> None:
    def history(seed: int) -> list[Any]:
        clock = VirtualClock(seed)
        return [(clock.new_id(), clock.random()) for _ in range(20)]

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_virtual_ids_are_sorted_and_different() -> None:
    clock = VirtualClock()
    ids = [clock.new_id() for _ in range(9_000)]
    assert ids == sorted(set(ids))
