"""The schedules: each tick adds one job, at its time, once; what was missed is made up for by policy."""

import json
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import anyio
from pydantic import ValidationError

from actors.company import Company
from actors.timetable import LATE_MS, dated, due, job_text, of_config, paused, planned
from runtime import log
from runtime.core.actor import Actor, handles
from runtime.core.deadlines import Timer
from runtime.cron import Cron
from runtime.errors import (
    QueueDraining,
    RequestInvalid,
    ScheduleExists,
    ScheduleFromConfig,
    ScheduleInvalid,
    ScheduleNotFound,
    StoreError,
    UnderstudyError,
)
from runtime.store import port
from runtime.store.port import ScheduleRow
from schemas.base import Ack, Message
from schemas.config import Settings
from schemas.jobs import NewJob, Submitted
from schemas.schedules import (
    FROM_CONFIG,
    AddSchedule,
    Catchup,
    GetSchedule,
    ListSchedules,
    Overlap,
    PauseSchedule,
    RemoveSchedule,
    ScheduleView,
    TickOutcome,
    TickView,
    TriggerSchedule,
)

LONGEST_SLEEP: Final = 60.0
"""Seconds; a step of the wall clock is noticed after this long at most."""
RETRY_STORE_AFTER: Final = 1.0
STEP_MS: Final = 5_000
"""Wall and monotonic time that drift apart by more than this have been moved, or the machine slept."""
CHUNK: Final = 100
"""Ticks to a commit, where many are made up for."""
UPCOMING: Final = 5
SKIPPED: Final = "skipped_catchup"

logger = log.get(__name__)

T = TypeVar("T")


class Look(Message, type="schedules.look", overflow="drop_oldest"):
    """It is time to look at the clock, or the configuration has changed."""


class Schedules(Actor):
    """The one that fires schedules. What it knows is a copy of the store's rows: after a commit of which it did not
    hear the outcome it reads them again before it does anything else, so no tick is lost and none is fired twice.
    """

    def __init__(self, house: Company) -> None:
        self.house = house
        self.rows: dict[str, ScheduleRow] = {}
        self.known = False
        """Whether `rows` are what the store has."""
        self.merged: Settings | None = None
        self.seen: dict[str, int] = {}
        self.store_down = False
        self.alarm: Timer | None = None
        self.looked: tuple[int, float] | None = None

    async def on_start(self) -> None:
        await self._look()

    # -- time ----------------------------------------------------------------------------------------------------------

    @handles
    async def look(self, message: Look) -> None:
        await self._look()

    async def _look(self) -> None:
        """Fire what is due and set the alarm for what comes next. A store that refuses is asked again in a second."""
        wait = LONGEST_SLEEP
        self._notice_steps()
        self._note_what_is_on_time()
        try:
            await self._get_ready()
            if not self.house.draining:
                await self._fire_due()
                wait = self._until_next()
            self.store_down = False
        except StoreError as error:
            if not self.store_down:
                logger.warning("schedules_wait_for_the_store", reason=error.detail)
            self.store_down = True
            wait = RETRY_STORE_AFTER
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm = self.ctx.after(wait, Look())

    def _until_next(self) -> float:
        now = self.house.clock.now()
        first = min((row.next_at for row in self.rows.values() if row.next_at is not None), default=None)
        return LONGEST_SLEEP if first is None else min(LONGEST_SLEEP, max(0, first - now) / 1000)

    def _notice_steps(self) -> None:
        wall, monotonic = self.house.clock.now(), self.house.clock.monotonic()
        if self.looked is not None:
            step = wall - self.looked[0] - round((monotonic - self.looked[1]) * 1000)
            if abs(step) > STEP_MS:
                logger.info("clock_moved", by_seconds=round(step / 1000))
        self.looked = wall, monotonic

    def _note_what_is_on_time(self) -> None:
        """Remember the tick of each schedule that has just come: while the store refuses writes it is not missed."""
        now = self.house.clock.now()
        for row in self.rows.values():
            if row.next_at is not None and row.next_at <= now:
                for tick in Cron.parse(row.cron, row.tz).latest(max(row.high_mark, now - LATE_MS - 1), now, 1):
                    self.seen[row.name] = tick

    async def _fire_due(self) -> None:
        now = self.house.clock.now()
        for row in sorted(self.rows.values(), key=lambda row: (row.next_at or 0, row.name)):
            if row.next_at is not None and row.next_at <= now:
                await self._fire(row, now)

    async def _fire(self, row: ScheduleRow, now: int) -> None:
        cron = Cron.parse(row.cron, row.tz)
        came = due(cron, row, now, self.seen.get(row.name))
        if came.missed and not self.store_down:
            logger.info("ticks_missed", schedule=row.name, missed=came.missed, catchup=row.catchup)
        if came.skipped is not None:
            after = cron.after(came.skipped)
            await self._commit_ticks(row, [port.FireSchedule(row.name, came.skipped, after, now, None, SKIPPED)])
        for start in range(0, len(came.fires), CHUNK):
            fires = came.fires[start : start + CHUNK]
            await self._commit_ticks(row, await self._tick_changes(cron, self.rows[row.name], fires, now))

    async def _tick_changes(
        self, cron: Cron, row: ScheduleRow, fires: Sequence[int], now: int
    ) -> list[port.FireSchedule]:
        """Return the changes for some ticks, each with its job or with the reason why it has none."""
        alone = row.overlap == "skip"
        runs = alone and await self.house.store.still_runs(row.name)
        closed = await self._closed()
        changes: list[port.FireSchedule] = []
        for fire_at in fires:
            job, outcome = (None, "skipped_overlap") if runs else self._job(row, fire_at, now, closed)
            runs = runs or (alone and job is not None)
            changes.append(port.FireSchedule(row.name, fire_at, cron.after(fire_at), now, job, outcome))
        return changes

    async def _commit_ticks(self, row: ScheduleRow, changes: Sequence[port.FireSchedule]) -> None:
        row = self.rows[row.name]
        for change, result in zip(changes, await self._commit(changes), strict=True):
            row = replace(row, next_at=change.next_at, high_mark=change.fire_at)
            if result is not None:
                row = replace(row, last_at=change.fire_at, last_job=result.id)
        self.rows[row.name] = row

    async def _closed(self) -> frozenset[str]:
        """Return the queues that take no new jobs: somebody drains them."""
        return frozenset(row.name for row in await self.house.store.queues() if row.state == "draining")

    def _job(
        self, row: ScheduleRow, fire_at: int, now: int, closed: frozenset[str]
    ) -> tuple[port.JobRow | None, TickOutcome]:
        """Return the job of a tick, or none where it would not be taken in: the schedule goes on all the same."""
        try:
            return self._prepare(row, fire_at, now, closed), "fired"
        except UnderstudyError as error:
            logger.warning("tick_refused", schedule=row.name, fire_at=fire_at, code=error.code, reason=error.detail)
            return None, "refused"

    def _prepare(self, row: ScheduleRow, fire_at: int, now: int, closed: frozenset[str] = frozenset()) -> port.JobRow:
        try:
            job = dated(NewJob.model_validate_json(row.job), row.name, fire_at)
        except ValidationError as error:  # it was written by a version that knew other words
            raise RequestInvalid(f"its job cannot be read: {error.error_count()} mistakes in it") from None
        found = self.house.kinds.prepare(job, self.house.clock.new_id(), now, inside=row.by == FROM_CONFIG)
        if found.queue in closed:
            raise QueueDraining(f"the queue {found.queue} is being drained and takes no new jobs")
        return found

    # -- the store and the configuration -------------------------------------------------------------------------------

    async def _get_ready(self) -> None:
        """Know what the store has, with what the configuration says merged into it. Raises StoreError."""
        if not self.known:
            self.rows = {row.name: self._planned(row) for row in await self.house.store.schedules()}
            self.known = True
        settings = self.house.loaded.settings
        if self.merged is None or (settings is not self.merged and settings.schedules != self.merged.schedules):
            await self._merge(settings)
        self.merged = settings

    def _planned(self, row: ScheduleRow) -> ScheduleRow:
        """Return *row* with its next tick by the rules of its time zone as this machine knows them now."""
        cron = self._cron(row)
        return replace(row, next_at=None) if cron is None else planned(cron, row)

    async def _merge(self, settings: Settings) -> None:
        """Bring the rows in line with the configuration: its tables win over what a person added under their name."""
        now = self.house.clock.now()
        wanted = {name: of_config(name, table, self.rows.get(name), now) for name, table in settings.schedules.items()}
        changed = [row for name, row in wanted.items() if row != self.rows.get(name)]
        gone = [row.name for row in self.rows.values() if row.by == FROM_CONFIG and row.name not in wanted]
        for row in changed:
            old = self.rows.get(row.name)
            if old is not None and old.by != FROM_CONFIG:
                logger.warning("schedule_taken_over", schedule=row.name, added_by=old.by, now_by=FROM_CONFIG)
            self._warn_of_trouble(row)
        news = [*(("schedule.put", row.name) for row in changed), *(("schedule.removed", name) for name in gone)]
        if news:
            changes: list[port.Change] = [port.PutSchedule(row) for row in changed]
            changes += [port.RemoveSchedule(name) for name in gone]
            changes.append(events(news, now))
            await self._commit(changes)
        self.rows = {name: row for name, row in self.rows.items() if name not in gone} | wanted

    def _warn_of_trouble(self, row: ScheduleRow) -> None:
        trouble = self._trouble(row)
        if trouble is not None:
            logger.warning("schedule_in_trouble", schedule=row.name, reason=trouble)

    async def _commit(self, changes: Sequence[port.Change]) -> list[Any]:
        """Commit; who asked for it may leave meanwhile, and the outcome is heard all the same."""
        self.known = False
        with anyio.CancelScope(shield=True):
            results = await self.house.store.commit(changes)
        self.known = True
        return results

    async def _put(self, row: ScheduleRow, what: str) -> None:
        await self._commit([port.PutSchedule(row), events([(what, row.name)], self.house.clock.now())])
        self.rows[row.name] = row

    # -- what may be asked ---------------------------------------------------------------------------------------------

    async def _answer(self, work: Awaitable[T]) -> None:
        """Answer with what *work* gives. A store that refuses is the asker's to hear of, and no reason to fall."""
        asked = self.reply_later()
        try:
            asked.resolve(await work)
        except UnderstudyError as error:
            asked.fail(error)
        await self._look()  # what was changed may be due, or come sooner than the alarm

    @handles
    async def all(self, message: ListSchedules) -> None:
        await self._answer(self._all())

    @handles
    async def one(self, message: GetSchedule) -> None:
        await self._answer(self._one(message))

    @handles
    async def add(self, message: AddSchedule) -> None:
        await self._answer(self._add(message))

    @handles
    async def remove(self, message: RemoveSchedule) -> None:
        await self._answer(self._remove(message.name))

    @handles
    async def trigger(self, message: TriggerSchedule) -> None:
        await self._answer(self._trigger(message.name))

    @handles
    async def pause(self, message: PauseSchedule) -> None:
        await self._answer(self._pause(message.name, message.paused))

    async def _all(self) -> tuple[ScheduleView, ...]:
        await self._get_ready()
        return tuple(self._view(row) for _, row in sorted(self.rows.items()))

    async def _one(self, message: GetSchedule) -> ScheduleView:
        row = await self._find(message.name)
        fires = await self.house.store.fires(row.name, limit=message.limit) if message.limit else ()
        cron = self._cron(row)
        after = max(row.high_mark, self.house.clock.now())
        return self._view(row).model_copy(
            update={
                "upcoming": () if row.paused or cron is None else cron.upcoming(after, UPCOMING),
                "ticks": tuple(map(tick_view, fires)),
            }
        )

    async def _add(self, message: AddSchedule) -> ScheduleView:
        await self._get_ready()
        now, old = self.house.clock.now(), self.rows.get(message.name)
        if old is not None and old.by == FROM_CONFIG:
            raise from_config(message.name)
        if old is not None and not message.replace:
            raise ScheduleExists(f"there is a schedule {message.name} already, added by {old.by}", name=message.name)
        row = self._new_row(message, old, now)
        self.house.kinds.prepare(message.job, self.house.clock.new_id(), now, inside=False)
        await self._put(row, "schedule.put")
        return self._view(row)

    def _new_row(self, message: AddSchedule, old: ScheduleRow | None, now: int) -> ScheduleRow:
        cron = Cron.parse(message.cron, message.tz)
        if cron.after(now) is None:
            raise ScheduleInvalid(f"{message.cron!r} never comes in the next fifty years", field="cron")
        row = ScheduleRow(
            name=message.name,
            cron=message.cron,
            tz=message.tz,
            job=job_text(message.job),
            catchup=message.catchup,
            overlap=message.overlap,
            by=message.by,
            paused=message.paused,
            next_at=None,
            high_mark=now,
            created_at=now,
            updated_at=now,
        )
        if old is not None:
            mark = max(old.high_mark, now)
            row = replace(row, high_mark=mark, last_at=old.last_at, last_job=old.last_job, created_at=old.created_at)
        return planned(cron, row)

    async def _remove(self, name: str) -> Ack:
        row = await self._find(name)
        if row.by == FROM_CONFIG:
            raise from_config(name)
        await self._commit([port.RemoveSchedule(name), events([("schedule.removed", name)], self.house.clock.now())])
        del self.rows[name]
        self.seen.pop(name, None)
        return Ack()

    async def _trigger(self, name: str) -> Submitted:
        at = self.house.clock.now()
        while True:
            row, now = await self._find(name), self.house.clock.now()
            at = at if at % 1000 else at + 1  # a whole second may be a tick, which has a job of its own
            job = self._prepare(row, at, now, await self._closed())
            (added,) = await self._commit([port.FireSchedule(name, at, row.next_at, now, job, "triggered")])
            if added is not None:
                self.rows[name] = replace(row, last_at=at, last_job=added.id)
                return Submitted(id=added.id, status=added.status, existing=added.existing)
            at += 1  # there was a trigger in this very millisecond already
            self.known = False

    async def _pause(self, name: str, wanted: bool) -> ScheduleView:
        row = await self._find(name)
        cron = Cron.parse(row.cron, row.tz)
        table = self.house.loaded.settings.schedules.get(name)
        changed = paused(cron, row, wanted, self.house.clock.now(), None if table is None else table.paused)
        if changed != row:
            await self._put(changed, "schedule.paused" if wanted else "schedule.resumed")
        return self._view(changed)

    async def _find(self, name: str) -> ScheduleRow:
        await self._get_ready()
        row = self.rows.get(name)
        if row is None:
            known = sorted(self.rows)
            raise ScheduleNotFound(f"there is no schedule {name!r}; there are: {', '.join(known) or 'none'}", name=name)
        return row

    # -- showing -------------------------------------------------------------------------------------------------------

    def _cron(self, row: ScheduleRow) -> Cron | None:
        """Return when a schedule comes; None where its words mean nothing any more (its time zone went away)."""
        try:
            return Cron.parse(row.cron, row.tz)
        except ScheduleInvalid as error:
            logger.error("schedule_unreadable", schedule=row.name, reason=error.detail)
            return None

    def _trouble(self, row: ScheduleRow) -> str | None:
        try:
            Cron.parse(row.cron, row.tz)
            self._prepare(row, 0, self.house.clock.now())
        except UnderstudyError as error:
            return error.detail
        return None

    def _view(self, row: ScheduleRow) -> ScheduleView:
        cron = self._cron(row)
        catchup: Catchup = row.catchup  # type: ignore[assignment]  # words of ours, read from the store
        overlap: Overlap = row.overlap  # type: ignore[assignment]
        return ScheduleView(
            name=row.name,
            cron=row.cron,
            tz=row.tz,
            says="" if cron is None else cron.says(),
            job=json.loads(row.job),
            catchup=catchup,
            overlap=overlap,
            by=row.by,
            paused=row.paused,
            paused_by_hand=row.paused_by_hand,
            next_at=row.next_at,
            last_at=row.last_at,
            last_job=row.last_job,
            trouble=self._trouble(row),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


def tick_view(fire: port.FireRow) -> TickView:
    """Return a tick as it is shown."""
    return TickView(fire_at=fire.fire_at, outcome=fire.outcome, job=fire.job, at=fire.at)  # type: ignore[arg-type]


def from_config(name: str) -> ScheduleFromConfig:
    """Return the error of who would change a schedule that the configuration defines."""
    return ScheduleFromConfig(f"the schedule {name} is defined in the configuration, under [schedules.{name}]")


def events(news: Iterable[tuple[str, str]], now: int) -> port.AppendEvents:
    """Return the change that tells of schedules: (what, name) each."""
    return port.AppendEvents(tuple((kind, name, "{}") for kind, name in news), now)
