"""Schedules on a virtual clock: each tick one job at its time, whatever the clock, the store and the daemon do."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
import structlog.testing

from actors.company import Company
from actors.keeper import Keeper
from actors.schedules import Look, Schedules
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.core.spec import ChildSpec
from runtime.errors import (
    AgentNotFound,
    QueueDraining,
    ScheduleExists,
    ScheduleFromConfig,
    ScheduleInvalid,
    ScheduleNotFound,
    StoreError,
    StoreFull,
    UnknownKind,
)
from runtime.store.port import CancelJobs, FireSchedule, PutQueue, PutSchedule, QueueRow, RemoveSchedule
from schemas.jobs import JobView, NewJob
from schemas.schedules import (
    AddSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ScheduleView,
    TriggerSchedule,
)
from schemas.schedules import (
    RemoveSchedule as Remove,
)

MINUTE, HOUR = 60.0, 3600.0


def at(text: str, tz: str = "UTC", fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).timestamp()) * 1000


NOON = at("2026-01-14T12:00:30")

HOURLY = """
    [schedules.hourly]
    cron = "0 * * * *"
    kind = "echo"
    args = { say = "hi" }
"""


@dataclass
class Scene:
    """Keeper and schedules of a house, and what a test does to them."""

    house: Company
    stage: Any

    @property
    def disk(self) -> Any:
        return self.house.store

    async def ask(self, message: Any) -> Any:
        return await self.stage.system.ref("schedules").ask(message)

    async def add(self, name: str = "s", cron: str = "0 * * * *", kind: str = "echo", **fields: Any) -> ScheduleView:
        job = fields.pop("job", None) or NewJob(kind=kind)
        found: ScheduleView = await self.ask(AddSchedule(name=name, cron=cron, job=job, **fields))
        return found

    async def show(self, name: str = "s") -> ScheduleView:
        found: ScheduleView = await self.ask(GetSchedule(name=name))
        return found

    async def jobs(self, name: str = "s") -> list[JobView]:
        """The jobs of a schedule, oldest first."""
        found = [await self.disk.job(job.id) for job in await self.disk.jobs(limit=5000)]
        return sorted(
            (job for job in found if (job.data or {}).get("schedule") == name), key=lambda job: job.data["fire_at"]
        )

    async def fired(self, name: str = "s") -> list[int]:
        """The ticks that have a job."""
        return [job.data["fire_at"] for job in await self.jobs(name)]

    async def outcomes(self, name: str = "s") -> list[str]:
        return [fire.outcome for fire in reversed(await self.disk.fires(name))]

    def step(self, seconds: float) -> None:
        clock = self.house.clock
        assert isinstance(clock, VirtualClock)
        clock.step(round(seconds * 1000))

    async def reload(self, path: Any, text: str) -> None:
        path.write_text(text)
        self.house.loaded = load(path, {})
        self.house.kinds.use(self.house.loaded.settings)
        await self.stage.system.ref("schedules").tell(Look())
        await self.ask(ListSchedules())


Play = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def play(furnish: Any, perform: Any) -> Play:
    """Run keeper and schedules, from *now* on; `disk=` goes on with what an earlier daemon left."""

    @asynccontextmanager
    async def run(config: str = "", *, now: int = NOON, **more: Any) -> AsyncIterator[Scene]:
        house = furnish(config, **more)
        house.clock = VirtualClock(seed=len(house.boot) + int(house.boot[-1]), start_ms=now)

        def cast(house: Company) -> tuple[ChildSpec, ...]:
            return ChildSpec("store", lambda: Keeper(house)), ChildSpec("schedules", lambda: Schedules(house))

        async with perform(house, cast) as stage:
            yield Scene(house, stage)

    return run


def hours(first: str, count: int) -> list[int]:
    return [at(first) + n * 3_600_000 for n in range(count)]


# -- each tick one job, at its time ------------------------------------------------------------------------------------


async def test_each_tick_adds_one_job_at_its_time(play: Play) -> None:
    async with play(HOURLY) as s:
        await anyio.sleep(3 * HOUR)
        jobs = await s.jobs("hourly")
        assert [job.data["fire_at"] for job in jobs] == hours("2026-01-14T13:00", 3)
        assert [job.created_at for job in jobs] == hours("2026-01-14T13:00", 3)
        assert [(job.name, job.payload, job.status) for job in jobs] == [("echo", {"say": "hi"}, "pending")] * 3
        found = await s.show("hourly")
        assert (found.last_job, found.last_at) == (jobs[-1].id, jobs[-1].created_at)
        assert found.next_at == at("2026-01-14T16:00")
        assert [(tick.outcome, tick.job) for tick in found.ticks] == [("fired", job.id) for job in reversed(jobs)]


async def test_ticks_of_many_schedules_are_told_as_events(play: Play) -> None:
    async with play(HOURLY) as s:
        await s.add("other", "30 * * * *")
        await anyio.sleep(HOUR)
        told = [event for event in await s.disk.events(after=0) if event.type == "schedule.fired"]
        assert [(event.subject, event.data["fire_at"]) for event in told] == [
            ("other", at("2026-01-14T12:30")),
            ("hourly", at("2026-01-14T13:00")),
        ]


async def test_a_tick_that_does_not_exist_fires_once_after_the_missing_hour(play: Play) -> None:
    async with play(now=at("2026-03-28T12:00", "Europe/Berlin")) as s:
        await s.add(cron="30 2 * * *", tz="Europe/Berlin")
        await anyio.sleep(48 * HOUR)
        assert await s.fired() == [at("2026-03-29T03:00", "Europe/Berlin"), at("2026-03-30T02:30", "Europe/Berlin")]


async def test_a_tick_that_comes_twice_fires_once(play: Play) -> None:
    async with play(now=at("2026-10-24T12:00", "Europe/Berlin")) as s:
        await s.add(cron="30 2 * * *", tz="Europe/Berlin")
        await anyio.sleep(48 * HOUR)
        assert await s.fired() == [at("2026-10-25T02:30", "Europe/Berlin"), at("2026-10-26T02:30", "Europe/Berlin")]


async def test_while_the_daemon_stops_nothing_fires(play: Play) -> None:
    async with play(HOURLY) as s:
        s.house.draining = True
        await anyio.sleep(2 * HOUR)
        assert await s.fired("hourly") == []


# -- what was missed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catchup", "fired", "outcomes"),
    [
        ("skip", [], ["skipped_catchup"]),
        ("one", hours("2026-01-14T17:00", 1), ["fired"]),
        ("all", hours("2026-01-14T13:00", 5), ["fired"] * 5),
    ],
)
async def test_what_the_daemon_slept_through_is_made_up_for_by_policy(
    play: Play, catchup: str, fired: list[int], outcomes: list[str]
) -> None:
    async with play() as s:
        await s.add(catchup=catchup)
        disk = s.disk
    async with play(now=at("2026-01-14T17:30"), disk=disk, boot="boot-2") as s:
        assert (await s.show()).next_at == at("2026-01-14T18:00")
        assert await s.fired() == fired
        assert await s.outcomes() == outcomes
        await anyio.sleep(HOUR)
        assert await s.fired() == [*fired, at("2026-01-14T18:00")]


@pytest.mark.parametrize("config", [True, False])
async def test_a_schedule_of_the_configuration_is_made_up_for_too(play: Play, config: bool) -> None:
    async with play(HOURLY) as s:
        disk = s.disk
    async with play(HOURLY if config else "", now=at("2026-01-14T17:30"), disk=disk, boot="boot-2") as s:
        await s.ask(ListSchedules())
        assert await s.fired("hourly") == ([at("2026-01-14T17:00")] if config else [])


async def test_a_thousand_missed_ticks_at_most_are_made_up_for_in_order(play: Play) -> None:
    async with play() as s:
        await s.add(cron="* * * * *", catchup="all")
        disk = s.disk
    end = at("2026-01-16T12:00:30")
    async with play(now=end, disk=disk, boot="boot-2") as s:
        await s.show()
        assert await s.fired() == [at("2026-01-16T12:00") - n * 60_000 for n in reversed(range(1000))]
        assert len({job.id for job in await s.jobs()}) == 1000


async def test_a_sleep_of_the_machine_is_noticed_within_a_minute(play: Play) -> None:
    async with play() as s:
        await s.add()
        await anyio.sleep(10)
        s.step(5 * HOUR + 20 * MINUTE)
        await anyio.sleep(MINUTE + 1)
        assert await s.fired() == [at("2026-01-14T17:00")]


@pytest.mark.parametrize(("catchup", "count"), [("skip", 0), ("one", 1), ("all", 5)])
async def test_a_clock_that_is_set_forward_catches_up_by_policy(play: Play, catchup: str, count: int) -> None:
    async with play() as s:
        await s.add(catchup=catchup)
        s.step(5 * HOUR + 20 * MINUTE)
        await anyio.sleep(MINUTE + 1)
        assert len(await s.fired()) == count
        assert (await s.show()).next_at == at("2026-01-14T18:00")


async def test_a_clock_that_is_set_back_fires_no_tick_again(play: Play) -> None:
    async with play() as s:
        await s.add(catchup="all")
        await anyio.sleep(2 * HOUR)
        before = await s.fired()
        s.step(-2 * HOUR)
        await anyio.sleep(2 * HOUR)
        assert await s.fired() == before == hours("2026-01-14T13:00", 2)
        await anyio.sleep(HOUR)
        assert await s.fired() == [*before, at("2026-01-14T15:00")]


async def test_a_step_of_the_clock_is_logged(play: Play) -> None:
    with structlog.testing.capture_logs() as logs:
        async with play(HOURLY) as s:
            s.step(-90)
            await anyio.sleep(2 * MINUTE)
    assert [log["by_seconds"] for log in logs if log["event"] == "clock_moved"] == [-90]


# -- overlap -----------------------------------------------------------------------------------------------------------


async def test_with_overlap_skip_a_tick_has_no_job_while_the_last_one_has_not_ended(play: Play) -> None:
    async with play() as s:
        await s.add(overlap="skip")
        await anyio.sleep(2 * HOUR)
        (first,) = await s.jobs()
        assert await s.outcomes() == ["fired", "skipped_overlap"]
        await s.disk.commit([CancelJobs((first.id,), s.house.clock.now())])
        await anyio.sleep(HOUR)
        assert await s.fired() == [at("2026-01-14T13:00"), at("2026-01-14T15:00")]
        told = [event for event in await s.disk.events(after=0) if event.type == "schedule.skipped"]
        assert [(event.subject, event.data["outcome"]) for event in told] == [("s", "skipped_overlap")]


async def test_what_is_made_up_for_does_not_overlap_either(play: Play) -> None:
    async with play() as s:
        await s.add(overlap="skip", catchup="all")
        disk = s.disk
    async with play(now=at("2026-01-14T17:30"), disk=disk, boot="boot-2") as s:
        await s.show()
        assert await s.outcomes() == ["fired"] + ["skipped_overlap"] * 4
        assert await s.fired() == [at("2026-01-14T13:00")]


# -- a store that refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catchup", ["skip", "one", "all"])
async def test_a_tick_waits_for_a_store_that_refuses_and_is_not_missed(play: Play, catchup: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with play() as s:
            await s.add(catchup=catchup)
            await s.add("other", "20 * * * *", catchup=catchup)
            s.disk.refuses = StoreFull("no space left")
            await anyio.sleep(HOUR + 15 * MINUTE)
            assert s.disk.refused > 100
            s.disk.refuses = None
            await anyio.sleep(2)
            assert await s.fired() == [at("2026-01-14T13:00")]
            assert await s.fired("other") == [at("2026-01-14T12:20")]
            assert s.stage.heard("actor.crashed") == []
    assert len([log for log in logs if log["event"] == "schedules_wait_for_the_store"]) == 1


@pytest.mark.parametrize("catchup", ["one", "all"])
async def test_a_tick_whose_commit_nobody_heard_of_has_one_job(play: Play, catchup: str) -> None:
    async with play() as s:
        await s.add(catchup=catchup)
        s.disk.unheard = FireSchedule
        await anyio.sleep(2 * HOUR)
        assert await s.fired() == hours("2026-01-14T13:00", 2)
        assert len(await s.disk.fires("s")) == 2
        assert s.stage.heard("actor.crashed") == []


async def test_with_overlap_skip_a_job_that_nobody_heard_of_still_counts(play: Play) -> None:
    async with play() as s:
        await s.add(overlap="skip")
        s.disk.unheard = FireSchedule
        await anyio.sleep(2 * HOUR)
        assert await s.outcomes() == ["fired", "skipped_overlap"]


async def test_the_daemon_dies_at_a_tick_and_the_next_one_makes_up_for_it(play: Play) -> None:
    async with play() as s:
        await s.add(catchup="all")
        await anyio.sleep(30 * MINUTE)
        disk = s.stage.die()
        await anyio.sleep(HOUR)
    async with play(now=at("2026-01-14T14:30"), disk=disk, boot="boot-2") as s:
        await s.show()
        assert await s.fired() == hours("2026-01-14T13:00", 2)


async def test_who_asks_while_the_store_refuses_is_told_so_and_nobody_falls(play: Play) -> None:
    async with play(HOURLY) as s:
        await s.add("kept")
        for failure in (StoreFull("no space left"), StoreError("the outcome is unknown")):
            s.disk.refuses = failure
            for message in (
                AddSchedule(name="new", cron="@daily", job=NewJob(kind="echo")),
                Remove(name="kept"),
                TriggerSchedule(name="kept"),
                PauseSchedule(name="kept"),
            ):
                with pytest.raises(StoreError):
                    await s.ask(message)
        s.disk.refuses = None
        assert [view.name for view in await s.ask(ListSchedules())] == ["hourly", "kept"]
        assert s.stage.heard("actor.crashed") == []


# -- a job that is not taken in ----------------------------------------------------------------------------------------

KIND = """
    [kinds.mine]
    run = "jobs:mine"
"""


async def test_a_kind_that_is_unknown_at_its_time_is_noted_and_the_schedule_goes_on(play: Play) -> None:
    async with play(KIND) as s:
        await s.add(kind="mine")
        disk = s.disk
    with structlog.testing.capture_logs() as logs:
        async with play(disk=disk, boot="boot-2") as s:
            await anyio.sleep(HOUR)
            found = await s.show()
            assert found.trouble is not None
            assert "no kind 'mine'" in found.trouble
            assert [(tick.outcome, tick.job) for tick in found.ticks] == [("refused", None)]
            told = [event for event in await s.disk.events(after=0) if event.type == "schedule.skipped"]
            assert [event.data["outcome"] for event in told] == ["refused"]
    assert [log["code"] for log in logs if log["event"] == "tick_refused"] == ["job.unknown_kind"]
    async with play(KIND, now=at("2026-01-14T13:30"), disk=disk, boot="boot-3") as s:
        await anyio.sleep(HOUR)
        assert await s.fired() == [at("2026-01-14T14:00")]
        assert (await s.show()).trouble is None


async def test_a_queue_that_is_drained_takes_no_job_of_a_schedule(play: Play) -> None:
    async with play() as s:
        await s.add()
        await s.disk.commit([PutQueue(QueueRow("default", state="draining", set_by_hand=("state",)), NOON)])
        await anyio.sleep(HOUR)
        assert await s.outcomes() == ["refused"]
        with pytest.raises(QueueDraining):
            await s.ask(TriggerSchedule(name="s"))
        await s.disk.commit([PutQueue(QueueRow("default"), NOON)])
        await anyio.sleep(HOUR)
        assert await s.outcomes() == ["refused", "fired"]


async def test_a_schedule_whose_words_mean_nothing_any_more_harms_no_other(play: Play) -> None:
    async with play() as s:
        await s.add("good")
        await s.add("gone")
        (gone, _) = await s.disk.schedules()
        await s.disk.commit([PutSchedule(replace(gone, name="gone", tz="Atlantis/Deep", next_at=NOON))])
        await s.disk.commit([PutSchedule(replace(gone, name="odd", job='{"what": 1}'))])
        disk = s.disk
    async with play(disk=disk, boot="boot-2") as s:
        await anyio.sleep(HOUR)
        assert len(await s.fired("good")) == 1
        found = {view.name: view for view in await s.ask(ListSchedules())}
        assert found["gone"].next_at is None
        assert "Atlantis" in (found["gone"].trouble or "")
        assert "cannot be read" in (found["odd"].trouble or "")
        assert await s.outcomes("odd") == ["refused"]
        assert (await s.show("gone")).upcoming == ()
        await s.ask(Remove(name="gone"))


# -- what may be asked -------------------------------------------------------------------------------------------------


async def test_a_schedule_is_added_shown_and_kept(play: Play) -> None:
    async with play() as s:
        added = await s.add(cron="30 3 * * MON-FRI", tz="Europe/Berlin", by="mia", job=NewJob(kind="echo", priority=5))
        assert (added.by, added.next_at) == ("mia", at("2026-01-15T03:30", "Europe/Berlin"))
        assert (added.says, added.job) == ("At 03:30 on Monday through Friday", {"kind": "echo", "priority": 5})
        shown = await s.show()
        assert [at(f"2026-01-{day}T03:30", "Europe/Berlin") for day in (15, 16, 19, 20, 21)] == list(shown.upcoming)
        disk = s.disk
    async with play(disk=disk, boot="boot-2") as s:
        assert await s.ask(ListSchedules()) == (added,)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"cron": "61 * * * *"}, ScheduleInvalid, "the minute '61'"),
        ({"cron": "0 0 31 2 MON#5,31"}, ScheduleInvalid, "day of week"),
        ({"tz": "Europe/Berln"}, ScheduleInvalid, "did you mean 'Europe/Berlin'?"),
        ({"kind": "nothing"}, UnknownKind, "there is no kind 'nothing'"),
        ({"job": NewJob(kind="agent.message", args={"agent": "bob"})}, AgentNotFound, "bob"),
    ],
)
async def test_a_mistake_is_refused_at_the_door(play: Play, fields: dict[str, Any], error: Any, says: str) -> None:
    async with play() as s:
        with pytest.raises(error, match=re.escape(says)):
            await s.add(**fields)
        assert await s.ask(ListSchedules()) == ()


async def test_a_name_is_taken_once_unless_it_is_replaced(play: Play) -> None:
    async with play(HOURLY) as s:
        first = await s.add()
        await anyio.sleep(HOUR)
        with pytest.raises(ScheduleExists):
            await s.add(cron="@daily")
        with pytest.raises(ScheduleFromConfig):
            await s.add("hourly", replace=True)
        changed = await s.add(cron="30 * * * *", replace=True)
        assert (changed.created_at, changed.last_at) == (first.created_at, at("2026-01-14T13:00"))
        await anyio.sleep(HOUR)
        assert await s.fired() == [at("2026-01-14T13:00"), at("2026-01-14T13:30")]


async def test_a_schedule_that_is_removed_fires_no_more_and_its_jobs_stay(play: Play) -> None:
    async with play(HOURLY) as s:
        await s.add()
        await anyio.sleep(HOUR)
        await s.ask(Remove(name="s"))
        await anyio.sleep(2 * HOUR)
        assert await s.fired() == [at("2026-01-14T13:00")]
        with pytest.raises(ScheduleNotFound, match="there are: hourly"):
            await s.show()
        for message in (Remove(name="s"), PauseSchedule(name="s"), TriggerSchedule(name="s")):
            with pytest.raises(ScheduleNotFound):
                await s.ask(message)
        with pytest.raises(ScheduleFromConfig, match="defined in the configuration"):
            await s.ask(Remove(name="hourly"))


async def test_a_trigger_adds_one_job_now_and_leaves_the_ticks_alone(play: Play) -> None:
    async with play() as s:
        await s.add(paused=True)
        await s.add("busy", overlap="skip")
        for name in ("s", "busy", "busy"):
            before = await s.show(name)
            submitted = await s.ask(TriggerSchedule(name=name))
            after = await s.show(name)
            assert (submitted.status, submitted.existing) == ("pending", False)
            assert (after.next_at, after.last_job) == (before.next_at, submitted.id)
            assert (after.ticks[0].outcome, after.ticks[0].job) == ("triggered", submitted.id)
        assert len(await s.jobs()) == 1
        assert len(await s.jobs("busy")) == 2


async def test_a_trigger_in_the_very_moment_of_a_tick_takes_nothing_from_it(play: Play) -> None:
    async with play(now=at("2026-01-14T12:00")) as s:
        await s.add(cron="* * * * *")
        await anyio.sleep(30)
        s.step(30)  # so that it is the full minute, and the alarm has not heard of it
        for _ in range(2):
            await s.ask(TriggerSchedule(name="s"))
        assert sorted(await s.outcomes()) == ["fired", "triggered", "triggered"]


async def test_ticks_that_pass_while_a_schedule_is_paused_are_not_made_up_for(play: Play) -> None:
    async with play() as s:
        await s.add(catchup="all")
        held = await s.ask(PauseSchedule(name="s"))
        assert (held.paused, held.next_at, held.paused_by_hand) == (True, None, False)
        await anyio.sleep(3 * HOUR)
        going = await s.ask(PauseSchedule(name="s", paused=False))
        assert going.next_at == at("2026-01-14T16:00")
        await anyio.sleep(HOUR)
        assert await s.fired() == [at("2026-01-14T16:00")]
        kinds = [event.type for event in await s.disk.events(after=0, subject="s")]
        assert kinds == ["schedule.put", "schedule.paused", "schedule.resumed", "schedule.fired"]


# -- the configuration -------------------------------------------------------------------------------------------------


async def test_the_configuration_is_merged_at_start(play: Play) -> None:
    async with play(HOURLY) as s:
        await s.add("mine")
        disk = s.disk
    other = HOURLY.replace("hourly", "fresh").replace("echo", "sleep").replace('say = "hi"', "seconds = 1")
    async with play(other, disk=disk, boot="boot-2") as s:
        found = {view.name: (view.by, view.job["kind"]) for view in await s.ask(ListSchedules())}
        assert found == {"fresh": ("config", "sleep"), "mine": ("a person", "echo")}
        assert s.disk.written(RemoveSchedule)[-1] == RemoveSchedule("hourly")
    written = len(disk.written(PutSchedule))
    async with play(other, disk=disk, boot="boot-3") as s:
        await s.ask(ListSchedules())
        assert len(s.disk.written(PutSchedule)) == written  # nothing changed, so nothing is written


async def test_a_reload_changes_adds_and_removes(play: Play, tmp_path: Any) -> None:
    path = tmp_path / "config.toml"
    async with play(HOURLY) as s:
        await s.add("mine")
        await s.reload(path, '[schedules.hourly]\ncron = "30 * * * *"\nkind = "echo"\n')
        await anyio.sleep(HOUR)
        assert await s.fired("hourly") == [at("2026-01-14T12:30")]
        await s.reload(path, '[schedules.fresh]\ncron = "45 * * * *"\nkind = "echo"\n')
        await anyio.sleep(HOUR)
        assert [view.name for view in await s.ask(ListSchedules())] == ["fresh", "mine"]
        assert await s.fired("hourly") == [at("2026-01-14T12:30")]
        assert await s.fired("fresh") == [at("2026-01-14T13:45")]


async def test_a_name_of_both_is_the_configurations_and_the_log_says_so(play: Play) -> None:
    async with play() as s:
        await s.add("hourly", "30 * * * *", by="mia")
        disk = s.disk
    with structlog.testing.capture_logs() as logs:
        async with play(HOURLY, disk=disk, boot="boot-2") as s:
            (found,) = await s.ask(ListSchedules())
            assert (found.by, found.cron) == ("config", "0 * * * *")
    (line,) = [log for log in logs if log["event"] == "schedule_taken_over"]
    assert (line["schedule"], line["added_by"]) == ("hourly", "mia")


async def test_a_pause_by_hand_is_kept_over_the_configuration_and_a_restart(play: Play) -> None:
    async with play(HOURLY) as s:
        held = await s.ask(PauseSchedule(name="hourly"))
        assert (held.paused, held.paused_by_hand) == (True, True)
        disk = s.disk
    async with play(HOURLY, disk=disk, boot="boot-2") as s:
        await anyio.sleep(3 * HOUR)
        assert await s.fired("hourly") == []
        back = await s.ask(PauseSchedule(name="hourly", paused=False))
        assert (back.paused, back.paused_by_hand) == (False, False)


async def test_what_the_configuration_asks_for_and_cannot_have_is_logged_at_once(play: Play) -> None:
    with structlog.testing.capture_logs() as logs:
        async with play('[schedules.nap]\ncron = "@daily"\nkind = "sleep"\nargs = { seconds = "long" }\n') as s:
            (found,) = await s.ask(ListSchedules())
            assert json.loads(found.model_dump_json())["trouble"] == found.trouble
    (line,) = [log for log in logs if log["event"] == "schedule_in_trouble"]
    assert "seconds" in line["reason"]
