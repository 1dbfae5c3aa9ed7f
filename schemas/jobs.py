"""Jobs: their states and moves, what is submitted and shown, and the messages between queue and workers."""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from schemas.agents import WorkerStatus
from schemas.base import Message, Millis, Model, PlainMessage, Request
from schemas.errors import ErrorClass, Problem

Status = Literal["pending", "waiting", "delayed", "active", "paused", "completed", "failed", "cancelled"]
"""pending: runnable now; waiting: gated on something else; delayed: gated on time; active: owned by (worker, boot,
epoch); paused: held by a person or because its kind is unknown; the last three are ended, and `failed` is the dead
letter."""

Lane = Literal["loop", "child", "agent"]
"""Where a job runs: in the daemon's event loop, in a child process of its own, or by the agent whose queue it is on."""

ENDED: Final = ("completed", "failed", "cancelled")

# Everything not in this table is refused, here and by a trigger in the database that is written from it. Why each row:
#   pending   is claimed, steps aside (waiting) where its limit is reached, is held, cancelled, or fails by its deadline
#             without ever starting
#   waiting   is released by what it waited for; a broken dependency may fail or cancel it
#   delayed   comes due
#   active    ends, or goes back: a retry waits (delayed), a crash or a clean stop re-queues (pending)
#   paused    goes on where it would stand now
#   failed and cancelled are taken back only by a person's retry, which may wait for a parent again; completed never is
MOVES: Final[dict[Status, frozenset[Status]]] = {
    "pending": frozenset({"active", "waiting", "delayed", "paused", "cancelled", "failed"}),
    "waiting": frozenset({"pending", "delayed", "paused", "cancelled", "failed"}),
    "delayed": frozenset({"pending", "waiting", "paused", "cancelled", "failed"}),
    "active": frozenset({"completed", "failed", "cancelled", "delayed", "waiting", "paused", "pending"}),
    "paused": frozenset({"pending", "waiting", "delayed", "cancelled"}),
    "failed": frozenset({"pending", "waiting"}),
    "cancelled": frozenset({"pending", "waiting"}),
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
MAX_BATCH: Final = 10_000
MAX_EDGES: Final = 1_000
MAX_STEPS: Final = 10_000
MAX_SIGNALS: Final = 1_000
"""Signals of one job that nobody has taken yet."""
MAX_SNOOZES: Final = 1_000
"""With the next one a job fails as permanent: it would never end."""

KEEP_TAG: Final = "keep"
"""A job with this tag is never removed by retention."""

OnFailure = Literal["cancel", "run", "hold"]
"""What a job does when one it depends on fails or is cancelled: ends too, runs all the same, or waits for a person."""

EdgeState = Literal["open", "satisfied", "broken", "ignored"]
"""open: the parent has not ended; satisfied: it completed; broken: it did not, and the child holds; ignored: it did
not, and the child runs all the same (policy `run`, or a person let it go on)."""

Ambiguous = Literal["retry", "fail", "hold"]
"""What becomes of a step that was begun and never ended: run it again with the same idempotency key, fail the job, or
hold it for a person."""

QueueState = Literal["running", "paused", "draining"]
"""paused: nothing of it starts; draining: what is in it runs, new jobs are refused."""

Tag: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}$")]
QueueName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_:.-]{0,95}$")]


def _whole(key: str) -> str:
    """Return a key that every store and every JSON can hold."""
    if "\0" in key or (not key.isascii() and key != key.encode(errors="replace").decode()):
        raise ValueError("it holds a NUL or half a character, which cannot be kept")
    return key


Key: TypeAlias = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_whole)]


LONGEST_MS: Final = 366 * 86_400_000
"""The longest that a job can be made to wait, or to take, but for its deadline."""


class RetryPolicy(Model):
    """How failed attempts are tried again. Times are in milliseconds. Job over kind over queue."""

    max_attempts: int = Field(default=3, ge=1, le=1000)
    base_ms: int = Field(default=1000, ge=0, le=LONGEST_MS)
    factor: float = Field(default=2.0, ge=1, le=1000)
    max_ms: int = Field(default=300_000, ge=0, le=LONGEST_MS)
    jitter: float = Field(default=1.0, ge=0, le=1)
    retry_on: tuple[ErrorClass, ...] = ("transient", "rate_limited", "timeout", "lost", "bug")


class Dependency(Model):
    """An edge to a job that must end first: its id, or `#name` for the job of the same batch with that `ref`."""

    job: str = Field(min_length=1, max_length=255)
    on_failure: OnFailure = "cancel"


class NewJob(Model):
    """A job as it is submitted. Times are in milliseconds."""

    kind: str = Field(min_length=1, max_length=64)
    args: dict[str, Any] = Field(default_factory=dict)
    queue: QueueName | None = None
    priority: int = Field(default=100, ge=0, le=1000, description="lower runs sooner")
    delay_ms: int = Field(default=0, ge=0, le=LONGEST_MS, description="do not start before this long from now")
    run_at: Millis | None = Field(default=None, description="do not start before this time; instead of a delay")
    deadline_ms: int | None = Field(
        default=None, ge=1, le=3650 * 86_400_000, description="the whole job, waiting included, from now"
    )
    key: Key | None = Field(default=None, description="idempotency key, unique per kind while the job is kept")
    unique: Key | None = Field(
        default=None, description="at most one job of its kind with this word has not ended; a second is not added"
    )
    depends_on: tuple[Dependency, ...] = Field(default=(), max_length=MAX_EDGES, description="jobs that end first")
    parent: str | None = Field(default=None, max_length=255, description="the job that this one is a part of")
    tags: tuple[Tag, ...] = Field(default=(), max_length=20, description="to find it by; `keep` keeps it for good")
    limit_key: Key | None = Field(default=None, description="jobs that share this key also share `limit_max`")
    limit_max: int = Field(default=1, ge=1, le=100_000, description="how many jobs of its key may run at once")
    tokens: int = Field(default=0, ge=0, le=100_000_000, description="an estimate, reserved from the queue's rate")
    retry: RetryPolicy | None = Field(default=None, description="over that of the kind")
    max_attempts: int | None = Field(default=None, ge=1, le=1000)
    timeout_ms: int | None = Field(default=None, ge=1, le=LONGEST_MS, description="per attempt")
    heartbeat_ms: int | None = Field(
        default=None, ge=100, le=LONGEST_MS, description="an attempt that is silent for this long is ended as timed out"
    )
    data: dict[str, Any] = Field(default_factory=dict, description="activity context, stored and shown, never read")
    ref: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="its name within a batch")

    @model_validator(mode="after")
    def _one_start(self) -> "NewJob":
        if self.run_at is not None and self.delay_ms:
            raise ValueError("give run_at or delay_ms, not both")
        return self


class Submitted(Model):
    """A job was accepted: it is on the disk. `existing` tells that its key, or its unique word, was known and nothing
    was added."""

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
    unique: str | None = None
    tags: tuple[str, ...] = ()
    parent: str | None = None
    depends_on: tuple["EdgeView", ...] = ()
    limit_key: str | None = None
    limit_max: int = 1
    tokens: int = 0
    worker: str | None = Field(default=None, description="who runs it, or who ran its last attempt")
    conversation: str | None = None
    timeout_ms: int | None = None
    heartbeat_ms: int | None = None
    snoozes: int = 0
    waits_for: str | None = Field(default=None, description="the signal it waits for")
    wait_until: Millis | None = Field(default=None, description="when it stops to wait for a signal or for children")
    deadline_at: Millis | None = None
    cancel_requested: bool = False
    pause_requested: bool = False
    created_at: Millis
    updated_at: Millis
    execute_after: Millis
    started_at: Millis | None = None
    finished_at: Millis | None = None
    history: tuple["AttemptView", ...] = ()
    steps: tuple["StepView", ...] = ()


class EdgeView(Model):
    """An edge as it is shown: `job` is the parent, and how it stands."""

    job: str
    on_failure: OnFailure = "cancel"
    state: EdgeState = "open"
    status: Status | None = None


class StepView(Model):
    """A step of a job: recorded once, never run again once it is done."""

    name: str
    state: Literal["started", "done", "failed"]
    epoch: int
    started_at: Millis
    ended_at: Millis | None = None
    output: Any = None
    error: str | None = None
    cost: float | None = None


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
    """A worker as it is shown. `serves` are the queues it is kept for; none means all."""

    id: str
    agent: str | None
    lane: Lane
    status: WorkerStatus
    draining: bool = False
    serves: tuple[str, ...] = ()
    pool: str = ""
    job: str | None = None
    created_at: Millis
    last_heartbeat_at: Millis


class Rate(Model):
    """A token bucket with two units; each is filled evenly over `per_ms` and holds at most that much."""

    requests: int | None = Field(default=None, ge=1, le=1_000_000, description="jobs that may start within the time")
    tokens: int | None = Field(default=None, ge=1, le=1_000_000_000, description="tokens that they may use together")
    per_ms: int = Field(default=60_000, ge=100, le=86_400_000)


class QueueView(Model):
    """A queue with what stands in it and what holds it back."""

    name: str
    state: QueueState = "running"
    by: str | None = Field(default=None, description="who paused it: a person, or the configuration")
    since: Millis | None = None
    max_active: int | None = None
    rate: Rate | None = None
    blocked_until: Millis | None = Field(default=None, description="a provider said 429: nothing starts before")
    counts: dict[str, int] = Field(default_factory=dict)


class Reason(Model):
    """One thing that keeps a job from moving. `code` is for programs, `text` says it, `hint` what would help."""

    code: str
    text: str
    hint: str = ""
    data: dict[str, Any] = Field(default_factory=dict)


class WhyView(Model):
    """Why a job is where it is: every reason found, the one that decides first."""

    id: str
    status: Status
    reason: str | None
    summary: str
    reasons: tuple[Reason, ...] = ()


class GraphNode(Model):
    """A job in a picture of dependencies."""

    id: str
    kind: str
    status: Status
    reason: str | None = None


class GraphEdge(Model):
    """`child` waits for `parent` (relation depends), or is a part of it (relation part)."""

    parent: str
    child: str
    relation: Literal["depends", "part"] = "depends"
    on_failure: OnFailure = "cancel"
    state: EdgeState = "open"


class GraphView(Model):
    """All jobs that hang together with one; `cut` tells that there were more than could be shown."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    cut: bool = False


# -- what may be asked of the queue ------------------------------------------------------------------------------------


class SubmitJob(Request[Submitted], type="job.submit", public=True, overflow="reject"):
    """Add a job; answered when it is on the disk."""

    job: NewJob


class GetJob(Request[JobView], type="job.get", public=True):
    """Show one job with its attempts."""

    id: str


class JobFilter(Model):
    """Which jobs; what is not given does not matter."""

    status: Status | None = None
    reason: str | None = Field(default=None, max_length=32)
    queue: str | None = None
    kind: str | None = None
    tag: str | None = None
    parent: str | None = None
    limit_key: str | None = None


class ListJobs(Request[tuple[JobView, ...]], type="job.list", public=True):
    """Show jobs, newest first. `errors` adds the error and every attempt, as the dead letter is read."""

    status: Status | None = None
    reason: str | None = Field(default=None, max_length=32)
    queue: str | None = None
    kind: str | None = None
    tag: str | None = None
    parent: str | None = None
    limit_key: str | None = None
    errors: bool = False
    limit: int = Field(default=50, ge=1, le=1000)
    before: str | None = Field(default=None, description="only jobs older than this id")


class WhyJob(Request[WhyView], type="job.why", public=True):
    """Tell exactly why a job is not moving."""

    id: str


class ShowGraph(Request[GraphView], type="job.graph", public=True):
    """Show the jobs that hang together with one by dependencies or as its parts."""

    id: str
    limit: int = Field(default=1000, ge=1, le=20_000)


class SubmitJobs(Request[tuple[Submitted, ...]], type="job.submit_many", public=True, overflow="reject"):
    """Add jobs all together or not at all; answered when they are on the disk. They may depend on one another by
    `ref`."""

    jobs: tuple[NewJob, ...] = Field(min_length=1, max_length=MAX_BATCH)


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
    """Run a failed or cancelled job again, with a new budget of attempts and the same id.

    Dependants that were held over it wait for it again; `dependants` also takes back those that were cancelled over it.
    """

    id: str
    dependants: bool = False


class Held(Model):
    """What became of a wish to pause or to resume.

    paused, resumed
        done.
    requested
        it runs; it stops at its next step.
    too_late
        it had ended already; `status` tells how.
    unchanged
        there was nothing to do.
    """

    id: str
    outcome: Literal["paused", "resumed", "requested", "too_late", "unchanged"]
    status: Status


class PauseJob(Request[Held], type="job.pause", public=True):
    """Hold a job: one that waits at once, one that runs at its next step."""

    id: str


class ResumeJob(Request[Held], type="job.resume", public=True):
    """Let a held job go on where it would stand now; one that is held by a failed parent goes on without it."""

    id: str


class SignalJob(Request[Submitted], type="job.signal", public=True):
    """Send a job a signal: it is kept until the job takes it, and wakes a job that waits for it."""

    id: str
    name: Key
    payload: Any = None


Action = Literal["cancel", "retry", "pause", "resume"]


class Acted(Model):
    """matched: what the filter found; done: where something changed; left: what could not be changed, by status."""

    matched: int
    done: int = 0
    left: dict[str, int] = Field(default_factory=dict)
    more: bool = Field(default=False, description="the filter finds more than the limit allowed")


class ActOnJobs(Request[Acted], type="job.act", public=True):
    """Do one thing to all jobs that a filter finds, at most `limit`; with `dry_run` only count them."""

    action: Action
    where: JobFilter = Field(default_factory=JobFilter)
    limit: int = Field(default=10_000, ge=1, le=100_000)
    dry_run: bool = False
    dependants: bool = False


class ListQueues(Request[tuple[QueueView, ...]], type="queue.list", public=True):
    """Show every queue."""


class ChangeQueue(Request[QueueView], type="queue.change", public=True):
    """Pause a queue, let it go on, drain it, or change its limits; what is not given stays. Kept over restarts; for
    a queue that a person has changed the configuration no longer decides what was given."""

    name: QueueName
    state: QueueState | None = None
    max_active: int | None = Field(default=None, ge=0, le=100_000, description="0 takes the limit away")
    rate: Rate | None = Field(default=None, description="a rate without requests and tokens takes the rate away")
    by: str = Field(default="a person", max_length=100)


class ListWorkers(Request[tuple[WorkerView, ...]], type="worker.list", public=True):
    """Show every worker."""


class ResizePool(Request[int], type="pool.resize", public=True):
    """Give a pool another size until the daemon stops; answers the old size. Workers too many end after their job."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$")
    size: int = Field(ge=0, le=10_000)


class DrainWorker(Request[WorkerView], type="worker.drain", public=True):
    """Have a worker end its job and take no other; `drain=False` lets it take jobs again."""

    id: str
    drain: bool = True


# -- between queue and workers (never from outside) --------------------------------------------------------------------


# These are made for every job, so they are plain values: built once, never validated inside the process, never changed.


@dataclass(slots=True, frozen=True)
class Lease:
    """What a worker holds of a job: the right to write about this attempt and no other."""

    seq: int
    id: str
    epoch: int
    worker: str
    boot: str


@dataclass(slots=True)
class Claimed:
    """A claimed job: its lease, and what running it takes. `args` and `retry` are JSON text.

    steps, signals, deps: whether there is anything of the kind on record, so that asking can be spared.
    """

    seq: int
    id: str
    epoch: int
    worker: str
    boot: str
    kind: str
    queue: str
    lane: Lane
    args: str
    attempt: int
    max_attempts: int
    crashes: int
    suspect: bool
    timeout_ms: int | None
    retry: str | None
    conversation: str | None
    created_at: int
    snoozes: int = 0
    deadline_at: int | None = None
    heartbeat_ms: int | None = None
    limit_key: str | None = None
    parent: int | None = None
    tokens: int = 0

    @property
    def lease(self) -> Lease:
        """The right to write, without the rest."""
        return Lease(self.seq, self.id, self.epoch, self.worker, self.boot)


Fence: TypeAlias = Lease | Claimed
"""What names an attempt: seq, epoch, worker and boot. Epoch alone is not enough once another boot may have claimed."""


@dataclass(slots=True)
class Outcome:
    """How an attempt ended, as its worker saw it; what becomes of the job is the queue's decision.

    refund    the attempt does not count: the daemon stops, the work was never begun
    crash     the job's own process died by a signal that was not ours
    snooze    it goes on after `retry_after_ms`, which is no failure
    unasked   the snooze was not the job's own wish, so it is not one of those it has
    hold      it waits for a person: nobody knows its kind any more, or a step of it is ambiguous
    pause     it stopped at a step because a person asked for it
    waits     it waits for the signal of this name, or for its children where the name is empty; until `wait_until`
    tokens    what it used, where it told; the rest of the estimate goes back to the queue's rate
    text      the result as JSON text, where it is at hand; then `result` is not looked at
    """

    ok: bool
    result: Any = None
    error: Problem | None = None
    error_class: ErrorClass | None = None
    retry_after_ms: int | None = None
    refund: bool = False
    crash: bool = False
    snooze: bool = False
    unasked: bool = False
    hold: bool = False
    pause: bool = False
    waits: str | None = None
    wait_until: int | None = None
    tokens: int | None = None
    text: str | None = None


class WorkerReady(Message, type="worker.ready"):
    """A worker has come up and holds nothing: what an earlier incarnation of it held goes back."""

    worker: str
    lane: Lane
    queue: str | None = Field(default=None, description="the one queue it serves; None for all but agents' queues")
    serves: tuple[str, ...] = Field(default=(), description="the queues its pool is kept for; none means all")
    pool: str = ""
    slots: int = 1
    user_code: bool = Field(default=False, description="its jobs run code of the user's inside the daemon")
    incarnation: int = 0


@dataclass(slots=True)
class RunJob(PlainMessage, type="job.run"):
    """Work for one incarnation of a worker; a later one leaves it alone, for its job has gone back to the queue."""

    job: Claimed
    incarnation: int = 0


@dataclass(slots=True)
class JobEnded(PlainMessage, type="job.ended"):
    """A worker tells how an attempt ended; it has room again."""

    lease: Fence
    outcome: Outcome


@dataclass(slots=True)
class JobSettled(PlainMessage, type="job.settled"):
    """An agent ended an attempt in its own commit; it has room again."""

    lease: Fence


@dataclass(slots=True)
class JobProgress(PlainMessage, type="job.progress", overflow="drop_oldest"):
    """How far an attempt is."""

    lease: Fence
    progress: Any


@dataclass(slots=True)
class JobLogged(PlainMessage, type="job.logged"):
    """Lines an attempt wrote: (at, level, text)."""

    lease: Fence
    lines: tuple[tuple[int, str, str], ...]


@dataclass(slots=True)
class JobHeard(PlainMessage, type="job.heard", overflow="drop_oldest"):
    """The process of an attempt has shown that it lives; without this its lease is not renewed."""

    lease: Fence


@dataclass(slots=True)
class JobProcess(PlainMessage, type="job.process"):
    """The process an attempt runs in; answered when it is on the disk, false where the lease is lost.

    started: start time of the group's leader, in clock ticks since boot.
    kept: the process stays when the attempt is over, so it is on the disk once for all attempts in it.
    """

    lease: Fence
    pgid: int
    started: int
    kept: bool = False
