"""Jobs: their states and moves, what is submitted and shown, and the messages between queue and workers."""

from typing import Any, Final, Literal

from pydantic import Field

from schemas.agents import WorkerStatus
from schemas.base import Message, Millis, Model, Request
from schemas.errors import ErrorClass, Problem

Status = Literal["pending", "waiting", "delayed", "active", "paused", "completed", "failed", "cancelled"]
"""pending: runnable now; waiting: gated on something else; delayed: gated on time; active: owned by (worker, boot,
epoch); paused: held by a person or because its kind is unknown; the last three are ended, and `failed` is the dead
letter."""

Lane = Literal["loop", "child", "agent"]
"""Where a job runs: in the daemon's event loop, in a child process of its own, or by the agent whose queue it is on."""

ENDED: Final = ("completed", "failed", "cancelled")

# Everything not in this table is refused, here and by a trigger in the database that is written from it. Why each row:
#   pending   is claimed, held, cancelled, or fails by its deadline without ever starting
#   waiting   is released by what it waited for; a broken dependency may fail or cancel it
#   delayed   comes due
#   active    ends, or goes back: a retry waits (delayed), a crash or a clean stop re-queues (pending)
#   paused    goes on where it would stand now
#   failed and cancelled are taken back only by a person's retry; completed never is
MOVES: Final[dict[Status, frozenset[Status]]] = {
    "pending": frozenset({"active", "delayed", "paused", "cancelled", "failed"}),
    "waiting": frozenset({"pending", "delayed", "paused", "cancelled", "failed"}),
    "delayed": frozenset({"pending", "waiting", "paused", "cancelled", "failed"}),
    "active": frozenset({"completed", "failed", "cancelled", "delayed", "waiting", "paused", "pending"}),
    "paused": frozenset({"pending", "waiting", "delayed", "cancelled"}),
    "failed": frozenset({"pending"}),
    "cancelled": frozenset({"pending"}),
    "completed": frozenset(),
}

REASONS: Final[dict[Status, tuple[str, ...]]] = {
    "waiting": ("deps", "limit", "signal", "children"),
    "delayed": ("scheduled", "retry", "snooze", "rate_limit"),
    "paused": ("user", "hold"),
    "failed": ("exhausted", "permanent", "poison", "timeout", "dependency", "deadline"),
    "cancelled": ("user", "deadline", "dependency", "superseded"),
}

MAX_PAYLOAD: Final = 256 * 1024
MAX_RESULT: Final = 1024 * 1024
MAX_LOG_LINES: Final = 10_000


class RetryPolicy(Model):
    """How failed attempts are tried again. Times are in milliseconds. Job over kind over queue."""

    max_attempts: int = Field(default=3, ge=1, le=1000)
    base_ms: int = Field(default=1000, ge=0)
    factor: float = Field(default=2.0, ge=1)
    max_ms: int = Field(default=300_000, ge=0)
    jitter: float = Field(default=1.0, ge=0, le=1)
    retry_on: tuple[ErrorClass, ...] = ("transient", "rate_limited", "timeout", "lost", "bug")


class NewJob(Model):
    """A job as it is submitted. Times are in milliseconds."""

    kind: str = Field(min_length=1, max_length=64)
    args: dict[str, Any] = Field(default_factory=dict)
    queue: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_:.-]{0,95}$")
    priority: int = Field(default=100, ge=0, le=1000, description="lower runs sooner")
    delay_ms: int = Field(default=0, ge=0, le=366 * 86_400_000)
    key: str | None = Field(default=None, min_length=1, max_length=255, description="idempotency key, unique per kind")
    max_attempts: int | None = Field(default=None, ge=1, le=1000)
    timeout_ms: int | None = Field(default=None, ge=1, description="per attempt")
    data: dict[str, Any] = Field(default_factory=dict, description="activity context, stored and shown, never read")


class Submitted(Model):
    """A job was accepted: it is on the disk. `existing` tells that its key was known and nothing was added."""

    id: str
    status: Status
    existing: bool = False


class JobView(Model):
    """A job as it is shown. Times are milliseconds UTC."""

    id: str
    name: str = Field(description="the kind")
    queue: str
    status: Status
    reason: str | None
    priority: int
    attempts: int
    max_attempts: int
    crashes: int = 0
    payload: Any = None
    result: Any = None
    error: Problem | None = None
    progress: Any = None
    data: Any = None
    key: str | None = None
    worker: str | None = None
    conversation: str | None = None
    timeout_ms: int | None = None
    created_at: Millis
    updated_at: Millis
    execute_after: Millis
    started_at: Millis | None = None
    finished_at: Millis | None = None
    history: tuple["AttemptView", ...] = ()


class AttemptView(Model):
    """One attempt of a job."""

    epoch: int
    attempt: int
    worker: str
    started_at: Millis
    ended_at: Millis | None = None
    outcome: str | None = None
    error: Problem | None = None


class LogLine(Model):
    """One line a job wrote. `n` counts from 1 within the job."""

    n: int
    at: Millis
    level: str
    text: str


class WorkerView(Model):
    """A worker as it is shown."""

    id: str
    agent: str | None
    lane: Lane
    status: WorkerStatus
    job: str | None = None
    created_at: Millis
    last_heartbeat_at: Millis


class QueueView(Model):
    """A queue with what stands in it."""

    name: str
    paused: bool = False
    counts: dict[str, int] = Field(default_factory=dict)


# -- what may be asked of the queue ------------------------------------------------------------------------------------


class SubmitJob(Request[Submitted], type="job.submit", public=True, overflow="reject"):
    """Add a job; answered when it is on the disk."""

    job: NewJob


class GetJob(Request[JobView], type="job.get", public=True):
    """Show one job with its attempts."""

    id: str


class ListJobs(Request[tuple[JobView, ...]], type="job.list", public=True):
    """Show jobs, newest first."""

    status: Status | None = None
    queue: str | None = None
    kind: str | None = None
    limit: int = Field(default=50, ge=1, le=1000)
    before: str | None = Field(default=None, description="only jobs older than this id")


class GetJobLogs(Request[tuple[LogLine, ...]], type="job.logs", public=True):
    """Show what a job wrote, oldest first; with `tail`, its last lines."""

    id: str
    after: int = Field(default=0, ge=0)
    tail: int | None = Field(default=None, ge=1, le=MAX_LOG_LINES)
    limit: int = Field(default=1000, ge=1, le=MAX_LOG_LINES)


class Cancelled(Model):
    """What became of a wish to cancel.

    cancelled
        it had not started and never will.
    requested
        it runs; the wish is on the disk and the work is being ended.
    too_late
        it had ended already; `status` tells how.
    """

    id: str
    outcome: Literal["cancelled", "requested", "too_late"]
    status: Status


class CancelJob(Request[Cancelled], type="job.cancel", public=True):
    """End a job, whatever it does."""

    id: str
    reason: str = Field(default="", max_length=500)


class RetryJob(Request[Submitted], type="job.retry", public=True):
    """Run a failed or cancelled job again, with a new budget of attempts and the same id."""

    id: str


class ListQueues(Request[tuple[QueueView, ...]], type="queue.list", public=True):
    """Show every queue."""


class ListWorkers(Request[tuple[WorkerView, ...]], type="worker.list", public=True):
    """Show every worker."""


# -- between queue and workers (never from outside) --------------------------------------------------------------------


class Lease(Model):
    """What a worker holds of a job: the right to write about this attempt and no other."""

    seq: int
    id: str
    epoch: int
    worker: str
    boot: str


class Assignment(Model):
    """A claimed job on its way to a worker."""

    lease: Lease
    kind: str
    queue: str
    lane: Lane
    args: dict[str, Any]
    attempt: int
    max_attempts: int
    crashes: int
    suspect: bool
    timeout_ms: int | None
    conversation: str | None
    created_at: Millis


class Outcome(Model):
    """How an attempt ended, as its worker saw it; what becomes of the job is the queue's decision.

    refund  the attempt does not count: the daemon stops, the work was never begun
    crash   the job's own process died by a signal that was not ours
    snooze  the job asked to go on after `retry_after_ms`, which is no failure
    hold    nobody knows the job's kind any more: it waits for one who does
    """

    ok: bool
    result: Any = None
    error: Problem | None = None
    error_class: ErrorClass | None = None
    retry_after_ms: int | None = None
    refund: bool = False
    crash: bool = False
    snooze: bool = False
    hold: bool = False


class WorkerReady(Message, type="worker.ready"):
    """A worker has come up and holds nothing: what an earlier incarnation of it held goes back."""

    worker: str
    lane: Lane
    queue: str | None = Field(default=None, description="the one queue it serves; None for all but agents' queues")
    slots: int = 1
    user_code: bool = Field(default=False, description="its jobs run code of the user's inside the daemon")
    incarnation: int = 0


class RunJob(Message, type="job.run"):
    """Work for one incarnation of a worker; a later one leaves it alone, for its job has gone back to the queue."""

    assignment: Assignment
    incarnation: int = 0


class JobEnded(Message, type="job.ended"):
    """A worker tells how an attempt ended; it has room again."""

    lease: Lease
    outcome: Outcome


class JobSettled(Message, type="job.settled"):
    """An agent ended an attempt in its own commit; the queue only learns how."""

    lease: Lease
    status: Status
    execute_after: int = 0


class JobAdded(Message, type="job.added"):
    """An agent added a job in its own commit; the queue only learns of it."""

    queue: str
    lane: Lane
    status: Status
    execute_after: int


class JobProgress(Message, type="job.progress", overflow="drop_oldest"):
    """How far an attempt is."""

    lease: Lease
    progress: Any


class JobLogged(Message, type="job.logged"):
    """Lines an attempt wrote: (at, level, text)."""

    lease: Lease
    lines: tuple[tuple[int, str, str], ...]


class JobProcess(Request[bool], type="job.process"):
    """The process an attempt runs in; answered when it is on the disk, false where the lease is lost."""

    lease: Lease
    pgid: int
    started: int = Field(description="start time of the group's leader, in clock ticks since boot")
