"""A deadline that moves on, on a loop that is played."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from runtime.timer import LazyTimer


class Handle:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self._when, self.call, self.cancelled = when, call, False

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Counts its timers, and lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handles: list[Handle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Handle:
        self.handles.append(Handle(when, call))
        return self.handles[-1]

    def pass_to(self, now: float) -> None:
        while due := [one for one in self.handles if not one.cancelled and one.when() <= now]:
            first = min(due, key=Handle.when)
            self.now = first.when()
            self.handles.remove(first)
            first.call()
        self.now = now

    @property
    def armed(self) -> list[float]:
        return [one.when() for one in self.handles if not one.cancelled]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


@pytest.fixture
def rung(loop: Loop) -> list[float]:
    return []


@pytest.fixture
def timer(loop: Loop, rung: list[float]) -> LazyTimer:
    return LazyTimer(lambda: rung.append(loop.now))


def test_it_rings_once_when_its_time_has_come(timer: LazyTimer, loop: Loop, rung: list[Any]) -> None:
    timer.set(2)
    loop.pass_to(10)
    assert rung == [2]
    assert loop.armed == []


def test_to_move_it_on_sets_no_timer_of_the_loop(timer: LazyTimer, loop: Loop, rung: list[Any]) -> None:
    timer.set(10)
    for second in range(1, 10):
        loop.pass_to(second)
        timer.set(10)
    assert len(loop.handles) == 1
    loop.pass_to(100)
    assert rung == [19]


def test_an_earlier_time_is_kept(timer: LazyTimer, loop: Loop, rung: list[Any]) -> None:
    timer.set(10)
    timer.set(1)
    loop.pass_to(20)
    assert rung == [1]


def test_at_rest_it_does_not_ring_and_can_be_set_again(timer: LazyTimer, loop: Loop, rung: list[Any]) -> None:
    timer.set(1)
    timer.rest()
    loop.pass_to(5)
    assert rung == []
    timer.set(1)
    loop.pass_to(10)
    assert rung == [6]


def test_stopped_it_leaves_nothing_with_the_loop(timer: LazyTimer, loop: Loop, rung: list[Any]) -> None:
    timer.set(1)
    timer.stop()
    assert loop.armed == []
    loop.pass_to(5)
    assert rung == []
