"""Schedules: jobs that come again and again, how they are shown, and what may be asked about them."""

from typing import Any, Final, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.base import Ack, Millis, Model, Name, Request
from schemas.jobs import NewJob, Submitted

Catchup = Literal["skip", "one", "all"]
"""What becomes of ticks that were missed while the daemon was away: none is made up for, the latest, or every one."""

Overlap = Literal["allow", "skip"]
"""skip: a tick adds no job while the last one has not ended."""

TickOutcome = Literal["fired", "triggered", "skipped_overlap", "skipped_catchup", "refused"]
"""What became of a tick.

fired
    its job was added.
triggered
    a person had a job added, at no tick.
skipped_overlap
    the job before it had not ended.
skipped_catchup
    it was missed and is not made up for; ticks before it that were missed with it are not noted one by one.
refused
    its job was not taken in: its kind is unknown, or its arguments are not what the kind wants.
"""

MAX_CATCHUP: Final = 1_000
"""With `catchup = "all"`, this many ticks are made up for at most: the latest."""

FROM_CONFIG: Final = "config"
"""Who a schedule of the configuration is by."""

NOT_HERE: Final = ("run_at", "key", "depends_on", "parent", "ref")
"""What a job of a schedule may not have: a fixed time, or something that there can be only once."""


class TickView(Model):
    """A tick that was dealt with; `job` is the one that was added."""

    fire_at: Millis
    outcome: TickOutcome
    job: str | None = None
    at: Millis = Field(description="when it was dealt with")


class ScheduleView(Model):
    """A schedule as it is shown. Times are milliseconds UTC."""

    name: str
    cron: str
    tz: str
    says: str = Field(default="", description="the cron text in words")
    job: dict[str, Any] = Field(description="what is submitted at each tick; as of a new job, without its defaults")
    catchup: Catchup
    overlap: Overlap
    by: str = Field(description="`config`, or who added it")
    paused: bool
    paused_by_hand: bool = Field(default=False, description="a person has set `paused`, over the configuration")
    next_at: Millis | None = Field(default=None, description="the next tick; none while paused, or if none ever comes")
    last_at: Millis | None = None
    last_job: str | None = None
    trouble: str | None = Field(default=None, description="why its job would be refused, as things stand")
    created_at: Millis
    updated_at: Millis
    upcoming: tuple[Millis, ...] = Field(default=(), description="the next ticks, where one schedule is shown")
    ticks: tuple[TickView, ...] = Field(default=(), description="the last ticks, newest first, where one is shown")


class ListSchedules(Request[tuple[ScheduleView, ...]], type="schedule.list", public=True):
    """Show every schedule, by name."""


class GetSchedule(Request[ScheduleView], type="schedule.get", public=True):
    """Show one schedule with its last ticks and the next ones."""

    name: str
    limit: int = Field(default=20, ge=0, le=1000, description="how many of its last ticks")


class AddSchedule(Request[ScheduleView], type="schedule.add", public=True, overflow="reject"):
    """Add a schedule, kept in the database beside those of the configuration; answered when it is on the disk.

    With `replace` one of this name that a person added is changed: its ticks go on from now, and none is fired twice.
    """

    name: Name
    cron: str = Field(max_length=200, description='"minute hour day month weekday", or @daily')
    tz: str = Field(default="UTC", max_length=64, description='a time zone such as "Europe/Berlin"')
    job: NewJob = Field(description="what is submitted at each tick")
    catchup: Catchup = "one"
    overlap: Overlap = "allow"
    paused: bool = False
    replace: bool = False
    by: str = Field(default="a person", min_length=1, max_length=100)

    @model_validator(mode="after")
    def _again_and_again(self) -> "AddSchedule":
        for field in NOT_HERE:
            if getattr(self.job, field):
                raise PydanticCustomError(
                    "schedule_job", "the job of a schedule has no `{field}`: it comes again and again", {"field": field}
                )
        if self.by == FROM_CONFIG:
            raise PydanticCustomError("schedule_by", "`config` names the configuration; give another name")
        return self


class RemoveSchedule(Request[Ack], type="schedule.remove", public=True):
    """Forget a schedule that a person added. Its jobs stay."""

    name: str


class TriggerSchedule(Request[Submitted], type="schedule.trigger", public=True):
    """Add the job of a schedule now, once, whether it is paused or its last job has not ended. Its ticks stay."""

    name: str


class PauseSchedule(Request[ScheduleView], type="schedule.pause", public=True):
    """Have a schedule fire no more, or go on. Ticks that pass meanwhile are not made up for. Kept over restarts, for a
    schedule of the configuration too."""

    name: str
    paused: bool = True
