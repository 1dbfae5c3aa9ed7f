"""The rules of schedules, without I/O: which ticks fire, what is made up for, and what a table of the configuration
makes of a row.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.cron import Cron
from runtime.store.port import ScheduleRow
from schemas.config import ScheduleSettings
from schemas.jobs import NewJob
from schemas.schedules import FROM_CONFIG, MAX_CATCHUP

LATE_MS: Final = 60_000
"""A tick that is seen this late is on time: no alarm is set for longer."""


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done about ticks that have come.

    fires    these times, in order, have a job each
    skipped  this tick is only noted as missed
    missed   ticks that came and have no job; counted up to `MAX_CATCHUP`
    """

    fires: tuple[int, ...] = ()
    skipped: int | None = None
    missed: int = 0


NOTHING: Final = Due()


def due(cron: Cron, row: ScheduleRow, now: int, seen: int | None) -> Due:
    """Decide what the ticks since the schedule's mark come to. *seen* is the last tick that was seen on time: a store
    that refuses writes since then does not make it a missed one.

    | catchup | fires |
    |---|---|
    | skip | the latest tick, if it is on time |
    | one | the latest tick |
    | all | every tick, at most the latest `MAX_CATCHUP` |
    """
    if row.paused or row.next_at is None or row.next_at > now:
        return NOTHING
    ticks = cron.latest(row.high_mark, now, MAX_CATCHUP + 1)
    if not ticks:
        return NOTHING
    if row.catchup == "all":
        fires = ticks[-MAX_CATCHUP:]
        return Due(tuple(fires), missed=len(ticks) - len(fires))
    last = ticks[-1]
    if row.catchup == "one" or now - last <= LATE_MS or last == seen:
        return Due((last,), missed=len(ticks) - 1)
    return Due(skipped=last, missed=len(ticks))


def of_config(name: str, table: ScheduleSettings, old: ScheduleRow | None, now: int) -> ScheduleRow:
    """Return the row of a schedule of the configuration; *old* is what is kept under its name, whoever it is by.

    What a person said about `paused` stays. Where the times are others the ticks begin anew, now; where it was paused
    until now, too. A tick that was fired is never fired again.
    """
    cron = Cron.parse(table.cron, table.tz)
    row = ScheduleRow(
        name=name,
        cron=table.cron,
        tz=table.tz,
        job=job_text(job_of(table)),
        catchup=table.catchup,
        overlap=table.overlap,
        by=FROM_CONFIG,
        paused=table.paused,
        next_at=None,
        high_mark=now,
        created_at=now,
        updated_at=now,
    )
    return planned(cron, row if old is None else _over(old, row, now))


def _over(old: ScheduleRow, new: ScheduleRow, now: int) -> ScheduleRow:
    by_hand = old.paused_by_hand and old.by == FROM_CONFIG
    paused = old.paused if by_hand else new.paused
    same_times = (old.by, old.cron, old.tz, old.paused) == (new.by, new.cron, new.tz, paused)
    row = replace(
        new,
        paused=paused,
        paused_by_hand=by_hand,
        high_mark=old.high_mark if same_times else max(old.high_mark, now),
        last_at=old.last_at,
        last_job=old.last_job,
        created_at=old.created_at,
        updated_at=old.updated_at,
        next_at=old.next_at,
    )
    return row if row == old else replace(row, updated_at=now)


def job_of(table: ScheduleSettings) -> NewJob:
    """Return the job of a table of the configuration."""
    return NewJob(kind=table.kind, args=table.args, queue=table.queue, priority=table.priority, tags=table.tags)


def job_text(job: NewJob) -> str:
    """Return *job* as it is kept with its schedule."""
    return job.model_dump_json(exclude_defaults=True)


def planned(cron: Cron, row: ScheduleRow) -> ScheduleRow:
    """Return *row* with its next tick."""
    return replace(row, next_at=None if row.paused else cron.after(row.high_mark))


def paused(cron: Cron, row: ScheduleRow, wanted: bool, now: int, configured: bool | None) -> ScheduleRow:
    """Return *row* paused by a person or going on from now; *configured* is what the configuration says, if it does."""
    if row.paused == wanted:
        return row
    mark = row.high_mark if wanted else max(row.high_mark, now)
    by_hand = configured is not None and wanted != configured
    return planned(cron, replace(row, paused=wanted, paused_by_hand=by_hand, high_mark=mark, updated_at=now))


def dated(job: NewJob, name: str, fire_at: int) -> NewJob:
    """Return *job* with the schedule and the tick it is for in its data."""
    context: dict[str, Any] = {"schedule": name, "fire_at": fire_at}
    return job.model_copy(update={"data": {**job.data, **context}})
