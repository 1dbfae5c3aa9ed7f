"""The rules of schedules: which ticks fire and which are made up for, and what a table of the configuration changes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.timetable import LATE_MS, Due, due, of_config, paused, planned
from runtime.cron import Cron
from runtime.store.port import ScheduleRow
from schemas.config import ScheduleSettings
from schemas.jobs import NewJob
from schemas.schedules import MAX_CATCHUP

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = 20_000 * DAY
HOURLY = Cron.parse("0 * * * *", "UTC")


def row(**fields: Any) -> ScheduleRow:
    plain = ScheduleRow(
        name="s",
        cron="0 * * * *",
        tz="UTC",
        job=NewJob(kind="echo").model_dump_json(exclude_defaults=True),
        catchup="one",
        overlap="allow",
        by="config",
        paused=False,
        next_at=None,
        high_mark=NOW,
        created_at=NOW,
        updated_at=NOW,
    )
    return planned(HOURLY, replace(plain, **fields))


def table(**fields: Any) -> ScheduleSettings:
    return ScheduleSettings.model_validate({"cron": "0 * * * *", "kind": "echo"} | fields)


# -- which ticks fire --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catchup", ["skip", "one", "all"])
def test_before_its_time_nothing_fires_and_at_its_time_the_tick_does(catchup: str) -> None:
    found = row(catchup=catchup)
    assert due(HOURLY, found, NOW + HOUR - 1, None) == Due()
    assert due(HOURLY, found, NOW + HOUR, None) == Due((NOW + HOUR,))
    assert due(HOURLY, found, NOW + HOUR + LATE_MS, None) == Due((NOW + HOUR,))


@pytest.mark.parametrize(
    ("catchup", "expected"),
    [
        ("skip", Due(skipped=NOW + 5 * HOUR, missed=5)),
        ("one", Due((NOW + 5 * HOUR,), missed=4)),
        ("all", Due(tuple(NOW + n * HOUR for n in range(1, 6)))),
    ],
)
def test_what_was_missed_is_made_up_for_by_policy(catchup: str, expected: Due) -> None:
    assert due(HOURLY, row(catchup=catchup), NOW + 5 * HOUR + 30 * MINUTE, None) == expected


def test_the_tick_that_comes_right_now_fires_though_others_were_missed() -> None:
    assert due(HOURLY, row(catchup="skip"), NOW + 5 * HOUR, None) == Due((NOW + 5 * HOUR,), missed=4)


def test_a_tick_that_was_seen_on_time_is_not_missed_while_the_store_refuses() -> None:
    late = NOW + HOUR + 50 * MINUTE
    assert due(HOURLY, row(catchup="skip"), late, NOW + HOUR) == Due((NOW + HOUR,))
    assert due(HOURLY, row(catchup="skip"), late + HOUR, NOW + HOUR).fires == ()


def test_a_thousand_ticks_are_made_up_for_at_most_the_latest() -> None:
    found = due(HOURLY, row(catchup="all"), NOW + 5000 * HOUR, None)
    assert found.fires == tuple(NOW + n * HOUR for n in range(5000 - MAX_CATCHUP + 1, 5001))
    assert found.missed == 1  # more than that, but nobody counts them


def test_a_clock_that_was_set_back_fires_nothing_again() -> None:
    fired = row(high_mark=NOW + 3 * HOUR)
    assert fired.next_at == NOW + 4 * HOUR
    assert due(HOURLY, fired, NOW, None) == Due()
    assert due(HOURLY, replace(fired, next_at=NOW), NOW + 2 * HOUR, None) == Due()


def test_a_paused_schedule_fires_nothing() -> None:
    assert due(HOURLY, row(paused=True), NOW + 9 * HOUR, None) == Due()


@given(
    catchup=st.sampled_from(["skip", "one", "all"]),
    steps=st.lists(st.integers(-10 * HOUR, 30 * HOUR), min_size=1, max_size=20),
)
def test_whatever_the_clock_does_no_tick_fires_twice_and_ticks_rise(catchup: str, steps: list[int]) -> None:
    now, found, fired = NOW, row(catchup=catchup), []
    for step in steps:
        now += step
        came = due(HOURLY, found, now, None)
        fired += came.fires
        last = came.fires[-1] if came.fires else came.skipped
        if last is not None:
            found = planned(HOURLY, replace(found, high_mark=last))
        assert all(tick <= now for tick in came.fires)
        assert found.next_at is not None
        assert found.next_at > now
    assert fired == sorted(set(fired))


# -- the configuration -------------------------------------------------------------------------------------------------


def test_a_new_table_begins_now() -> None:
    found = of_config("s", table(args={"a": 1}, queue="night", tags=["t"], priority=5, tz="Europe/Berlin"), None, NOW)
    assert (found.by, found.high_mark, found.next_at, found.tz) == ("config", NOW, NOW + HOUR, "Europe/Berlin")
    assert NewJob.model_validate_json(found.job) == NewJob(
        kind="echo", args={"a": 1}, queue="night", tags=("t",), priority=5
    )


def test_the_same_table_changes_nothing_so_what_was_missed_meanwhile_is_still_due() -> None:
    old = of_config("s", table(), None, NOW)
    assert of_config("s", table(), old, NOW + 5 * HOUR) == old


def test_another_job_or_policy_keeps_the_ticks_and_other_times_begin_anew() -> None:
    old = replace(of_config("s", table(), None, NOW), last_at=NOW - HOUR, last_job="j")
    later = NOW + 5 * HOUR
    changed = of_config("s", table(args={"x": 1}, overlap="skip"), old, later)
    assert (changed.high_mark, changed.next_at, changed.updated_at) == (NOW, NOW + HOUR, later)
    assert (changed.last_at, changed.last_job, changed.created_at) == (NOW - HOUR, "j", NOW)
    moved = of_config("s", table(cron="30 * * * *"), old, later)
    assert (moved.high_mark, moved.next_at) == (later, later + HOUR // 2)
    ahead = replace(old, high_mark=later + DAY)
    assert of_config("s", table(cron="30 * * * *"), ahead, later).high_mark == later + DAY


def test_what_a_person_said_about_pausing_stays_over_the_configuration() -> None:
    old = of_config("s", table(), None, NOW)
    held = paused(HOURLY, old, True, NOW + HOUR, False)
    assert (held.paused, held.paused_by_hand, held.next_at) == (True, True, None)
    assert of_config("s", table(), held, NOW + 2 * HOUR) == held
    assert of_config("s", table(args={"x": 1}), held, NOW + 2 * HOUR).paused
    back = paused(HOURLY, held, False, NOW + 90 * MINUTE, False)
    assert (back.paused, back.paused_by_hand) == (False, False)
    assert (back.high_mark, back.next_at) == (NOW + 90 * MINUTE, NOW + 2 * HOUR)


def test_a_table_that_is_no_longer_paused_goes_on_from_now() -> None:
    old = of_config("s", table(paused=True), None, NOW)
    assert old.next_at is None
    going = of_config("s", table(), old, NOW + 90 * MINUTE)
    assert (going.paused, going.high_mark, going.next_at) == (False, NOW + 90 * MINUTE, NOW + 2 * HOUR)


def test_the_configuration_wins_over_a_person_and_fires_nothing_again() -> None:
    theirs = row(by="mia", paused=True, high_mark=NOW + DAY, created_at=NOW - DAY)
    ours = of_config("s", table(), theirs, NOW)
    assert (ours.by, ours.paused, ours.high_mark, ours.created_at) == ("config", False, NOW + DAY, NOW - DAY)


def test_to_pause_what_is_paused_changes_nothing() -> None:
    assert paused(HOURLY, held := row(paused=True), True, NOW + HOUR, None) is held
