"""Every store: schedules, of which each tick is dealt with once."""

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store import port
from runtime.store.memory import records
from runtime.store.port import FireRow, FireSchedule, PutSchedule, RemoveSchedule, ScheduleRow
from runtime.store.sqlite import schedules as in_file

NIGHTLY = ScheduleRow(
    name="nightly",
    cron="0 3 * * *",
    tz="Europe/Berlin",
    job=json.dumps({"kind": "resize"}),
    catchup="one",
    overlap="skip",
    by="config",
    paused=False,
    next_at=100,
    high_mark=50,
    created_at=1,
    updated_at=1,
)


@pytest.fixture
async def nightly(desk: Any) -> ScheduleRow:
    """The schedule, kept."""
    await desk.one(PutSchedule(NIGHTLY))
    return NIGHTLY


def tick(desk: Any, fire_at: int = 100, **more: Any) -> FireSchedule:
    given = {"name": "nightly", "next_at": fire_at + 100, "now": desk.now, "job": desk.row(), "outcome": "fired"}
    return FireSchedule(**(given | {"fire_at": fire_at} | more))


async def test_a_schedule_is_kept_as_it_is_given(desk: Any) -> None:
    assert await desk.store.schedules() == ()
    other = replace(NIGHTLY, name="hourly", next_at=None, paused=True, last_at=7, last_job="j", paused_by_hand=True)
    for row in (NIGHTLY, other):
        await desk.one(PutSchedule(row))
    assert await desk.store.schedules() == (other, NIGHTLY)
    changed = replace(NIGHTLY, cron="* * * * *", updated_at=9)
    await desk.one(PutSchedule(changed))
    assert await desk.store.schedules() == (other, changed)


async def test_a_tick_adds_its_job_and_moves_the_schedule_on(desk: Any, nightly: ScheduleRow) -> None:
    change = tick(desk)
    inserted = await desk.one(change)
    assert (inserted.id, inserted.status, inserted.existing) == (change.job.id, "pending", False)
    (row,) = await desk.store.schedules()
    moved = {"next_at": 200, "high_mark": 100, "last_at": 100, "last_job": inserted.id, "updated_at": desk.now}
    assert row == replace(nightly, **moved)
    assert await desk.store.fires("nightly") == (FireRow("nightly", 100, inserted.id, "fired", desk.now),)
    assert await desk.told() == [
        ("job.enqueued", inserted.id, {"status": "pending"}),
        ("schedule.fired", "nightly", {"fire_at": 100, "job": inserted.id}),
    ]


@pytest.mark.parametrize("outcome", ["skipped_overlap", "skipped_catchup"])
async def test_a_tick_may_only_be_noted(desk: Any, nightly: ScheduleRow, outcome: str) -> None:
    assert await desk.one(tick(desk, job=None, outcome=outcome)) is None
    (row,) = await desk.store.schedules()
    assert row == replace(nightly, next_at=200, high_mark=100, updated_at=desk.now)
    assert await desk.store.fires("nightly") == (FireRow("nightly", 100, None, outcome, desk.now),)
    assert await desk.told() == [("schedule.skipped", "nightly", {"fire_at": 100, "outcome": outcome})]
    assert await desk.store.jobs() == ()


@pytest.mark.parametrize("fire_at", [49, 50, 100])
async def test_a_tick_is_dealt_with_once(desk: Any, nightly: ScheduleRow, fire_at: int) -> None:
    await desk.one(tick(desk))
    before = await desk.dump()
    assert await desk.one(tick(desk, fire_at)) is None  # at or before the mark: neither fired nor noted
    assert await desk.one(tick(desk, fire_at, job=None, outcome="skipped_catchup")) is None
    assert await desk.dump() == before
    assert nightly.high_mark == 50


async def test_the_mark_holds_over_a_clock_that_was_set_back(desk: Any, nightly: ScheduleRow) -> None:
    await desk.one(tick(desk, 100))
    await desk.one(tick(desk, 300))
    assert await desk.one(tick(desk, 200)) is None
    (row,) = await desk.store.schedules()
    assert (row.high_mark, row.next_at, row.last_at) == (300, 400, 300)


async def test_what_is_on_record_is_not_fired_again_though_the_mark_was_taken_back(desk: Any, nightly: Any) -> None:
    await desk.one(tick(desk, 100))
    await desk.one(PutSchedule(nightly))
    assert await desk.one(tick(desk, 100)) is None
    assert len(await desk.store.fires("nightly")) == 1


async def test_of_no_schedule_nothing_happens(desk: Any, nightly: ScheduleRow) -> None:
    before = await desk.dump()
    assert await desk.one(tick(desk, name="other")) is None
    assert await desk.dump() == before


async def test_a_schedule_may_have_no_further_tick(desk: Any, nightly: ScheduleRow) -> None:
    await desk.one(tick(desk, next_at=None))
    assert (await desk.store.schedules())[0].next_at is None


async def test_a_trigger_by_hand_is_no_tick(desk: Any, nightly: ScheduleRow) -> None:
    inserted = await desk.one(tick(desk, 30, outcome="triggered", next_at=None))
    (row,) = await desk.store.schedules()
    assert row == replace(nightly, last_at=30, last_job=inserted.id, updated_at=desk.now)
    assert await desk.store.fires("nightly") == (FireRow("nightly", 30, inserted.id, "triggered", desk.now),)
    assert await desk.one(tick(desk, 30, outcome="triggered")) is None
    assert (await desk.one(tick(desk, 100))).status == "pending"


async def test_a_job_that_is_not_taken_in_is_noted_as_refused(desk: Any, nightly: ScheduleRow) -> None:
    older = await desk.add(key="k", args={"n": 1})
    conflict = await desk.one(tick(desk, 100, job=desk.row(key="k", args={"n": 2})))
    assert (conflict.id, conflict.conflict) == (older, True)
    unknown = await desk.one(tick(desk, 200, job=desk.row(parent="nobody")))
    assert unknown.unknown == "nobody"
    (row,) = await desk.store.schedules()
    assert (row.high_mark, row.next_at, row.last_at, row.last_job) == (200, 300, None, None)
    assert [(fire.job, fire.outcome) for fire in await desk.store.fires("nightly")] == [(None, "refused")] * 2
    assert len(await desk.store.jobs()) == 1
    assert (await desk.told())[-1] == ("schedule.skipped", "nightly", {"fire_at": 200, "outcome": "refused"})


async def test_a_schedule_is_forgotten_with_its_ticks_and_its_jobs_stay(desk: Any, nightly: ScheduleRow) -> None:
    inserted = await desk.one(tick(desk))
    assert await desk.one(RemoveSchedule("nightly")) is True
    assert await desk.store.schedules() == ()
    assert await desk.store.fires("nightly") == ()
    assert await desk.status(inserted.id) == ("pending", None)
    assert await desk.one(RemoveSchedule("nightly")) is False
    await desk.one(PutSchedule(nightly))
    assert (await desk.one(tick(desk))).status == "pending"


async def test_a_schedule_that_is_put_again_keeps_its_ticks(desk: Any, nightly: ScheduleRow) -> None:
    await desk.one(tick(desk))
    await desk.one(PutSchedule(replace(nightly, cron="* * * * *", high_mark=100)))
    assert len(await desk.store.fires("nightly")) == 1


async def test_the_latest_ticks_are_told_newest_first_and_the_oldest_go(
    desk: Any, nightly: ScheduleRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (records, in_file):
        monkeypatch.setattr(module, "MAX_FIRES", 4)
    for fire_at in range(100, 700, 100):
        await desk.one(tick(desk, fire_at, job=None, outcome="skipped_overlap"))
    assert [fire.fire_at for fire in await desk.store.fires("nightly")] == [600, 500, 400, 300]
    assert [fire.fire_at for fire in await desk.store.fires("nightly", limit=2)] == [600, 500]
    assert await desk.store.fires("other") == ()
    assert port.MAX_FIRES == 1_000


async def test_the_job_of_a_schedule_is_json(desk: Any) -> None:
    with pytest.raises(StoreError):
        await desk.one(PutSchedule(replace(NIGHTLY, job="{no")))
    assert await desk.store.schedules() == ()
