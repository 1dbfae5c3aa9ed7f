"""The heap of deadlines: order, cancellation, and that nothing piles up."""

import pytest

from runtime.core.deadlines import Deadlines, Timer


class Wall:
    """A clock set by hand that remembers when it was asked to wake."""

    def __init__(self) -> None:
        self.now = 0.0
        self.wakes: list[float] = []
        self.deadlines = Deadlines(lambda: self.now, self.wakes.append)

    def advance(self, to: float) -> None:
        self.now = to
        self.deadlines.sweep()


@pytest.fixture
def wall() -> Wall:
    return Wall()


def test_what_is_due_fires_in_order_of_time(wall):
    fired = []
    for when in (3.0, 1.0, 2.0, 9.0):
        Timer(wall.deadlines, when, lambda when=when: fired.append(when))
    wall.advance(3.0)
    assert fired == [1.0, 2.0, 3.0]
    wall.advance(10.0)
    assert fired == [1.0, 2.0, 3.0, 9.0]


def test_only_an_earlier_deadline_asks_for_a_new_wake(wall):
    for when in (5.0, 7.0, 4.0, 6.0):
        Timer(wall.deadlines, when, lambda: None)
    assert wall.wakes == [5.0, 4.0]
    wall.advance(4.0)
    assert wall.wakes[-1] == 5.0


def test_a_cancelled_timer_does_not_fire_and_is_not_waited_for(wall):
    fired = []
    first = Timer(wall.deadlines, 1.0, lambda: fired.append(1))
    second = Timer(wall.deadlines, 2.0, lambda: fired.append(2))
    Timer(wall.deadlines, 3.0, lambda: fired.append(3))
    first.cancel()
    first.cancel()
    second.cancel()
    wall.advance(1.5)
    assert wall.wakes[-1] == 3.0
    wall.advance(4.0)
    assert fired == [3]
    assert first.over


def test_ended_entries_do_not_pile_up(wall):
    kept = Timer(wall.deadlines, 1e9, lambda: None)
    for n in range(10_000):
        Timer(wall.deadlines, 1000.0 + n, lambda: None).cancel()
    assert len(wall.deadlines) < 200
    assert not kept.over


def test_a_timer_made_by_a_timer_is_waited_for(wall):
    fired = []
    Timer(wall.deadlines, 1.0, lambda: Timer(wall.deadlines, 1.5, lambda: fired.append("inner")))
    wall.advance(1.0)
    assert wall.wakes[-1] == 1.5
    wall.advance(2.0)
    assert fired == ["inner"]


def test_an_error_in_one_deadline_loses_no_other(wall):
    fired = []
    Timer(wall.deadlines, 1.0, lambda: 1 / 0)
    Timer(wall.deadlines, 2.0, lambda: fired.append(2))
    with pytest.raises(ZeroDivisionError):
        wall.advance(1.0)
    assert wall.wakes[-1] == 2.0
    wall.advance(2.0)
    assert fired == [2]
