"""The checker of storms itself: it accepts what is right, and finds each wrong."""

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.storm_history import History, Line, Told, wrongs

GOOD = History(
    acknowledged={"a": "1", "b": "2"},
    status={"1": "completed", "2": "completed", "3": "completed"},
    events=[
        Told(1, "job.started", "1", 5),
        Told(2, "job.recovered", "1", 8),
        Told(3, "job.started", "1", 9),
        Told(4, "job.completed", "1", 14),
        Told(5, "job.started", "2", 14),
        Told(6, "job.completed", "2", 15),
        Told(7, "job.started", "3", 16),
        Told(8, "job.completed", "3", 17),
    ],
    lines=[
        Line("a", "start", 70, 6),
        Line("a", "body:pay", 70, 6),
        Line("a", "start", 71, 10),
        Line("a", "body:pay", 71, 11),
        Line("a", "kept:pay", 71, 12),
        Line("a", "end", 71, 13),
    ],
    traced=frozenset({"a"}),
    after={"b": ("a",)},
    limits={"one": 1},
    limited={"1": "one", "2": "one"},
    parts={"b": 1},
    parents={"3": "2"},
    ticks=[("often", 60), ("often", 120), ("seldom", 60)],
)


def test_the_checker_accepts_a_good_history() -> None:
    assert wrongs(GOOD) == []


def more_events(*events: Told) -> History:
    return replace(GOOD, events=sorted([*GOOD.events, *events], key=lambda event: event.offset))


def more_lines(*lines: Line) -> History:
    return replace(GOOD, lines=[*GOOD.lines, *lines])


@pytest.mark.parametrize(
    ("doctored", "wrong"),
    [
        (replace(GOOD, status={"1": "completed", "3": "completed"}), "b: acknowledged, but it is lost"),
        (replace(GOOD, status=GOOD.status | {"2": "failed"}), "b: acknowledged, but it is failed"),
        (more_events(Told(9, "job.completed", "1", 20)), "a: completed 2 times"),
        (more_events(Told(9, "job.completed", "3", 20)), "3: completed 2 times"),
        (more_events(Told(9, "job.started", "2", 20)), "b: started again after it was completed"),
        (more_lines(Line("a", "start", 72, 15)), "a: ran again after it was completed"),
        (more_lines(Line("a", "end", 70, 12)), "a: two runs of it overlapped"),
        (more_lines(Line("a", "body:ship", 70, 12)), "a: two runs of it overlapped"),
        (replace(GOOD, lines=GOOD.lines[:5]), "a: completed without having run to its end"),
        (more_lines(Line("a", "body:pay", 71, 13)), "a: step pay ran again after it was recorded"),
        (replace(GOOD, after={"a": ("b",)}), "a: began before b had ended"),
        (
            replace(GOOD, events=[*GOOD.events[:3], Told(3, "job.started", "2", 9), *GOOD.events[3:]]),
            "2 jobs of one were active at once",
        ),
        (replace(GOOD, parents={}), "b: has 0 parts, not 1"),
        (replace(GOOD, parents=GOOD.parents | {"4": "2"}), "b: has 2 parts, not 1"),
        (replace(GOOD, status=GOOD.status | {"3": "failed"}), "part 3 is failed"),
        (replace(GOOD, ticks=[*GOOD.ticks, ("often", 60)]), "often: the tick of 60 made 2 jobs"),
        (replace(GOOD, survivors=[70]), "a process of a dead daemon lived beside its successor: 70"),
        (replace(GOOD, integrity="row 3 missing"), "the database is damaged: row 3 missing"),
        (replace(GOOD, acknowledged={"a": "1", "b": "1"}), "two keys have one job"),
    ],
)
def test_the_checker_finds_what_is_wrong(doctored: Any, wrong: str) -> None:
    assert wrong in wrongs(doctored)
