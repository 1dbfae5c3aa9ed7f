"""The store as a port: every write is a value, applied with others as one transaction; reads are methods.

`await store.commit([change, ...])` is all-or-nothing for its caller: if one change raises, none of that caller's
changes happened, while the commits of others that were gathered into the same transaction go on. It returns after the
data is on the disk. A commit that is cancelled while it waits has an *unknown* outcome: it may have happened.

Every write of an attempt carries a `Fence`. A write whose fence is lost changes nothing: it answers None or False,
and with `strict=True` raises `LeaseLost`, which takes the caller's whole commit back.

Two implementations pass one conformance suite: `memory` (the reference, for simulation) and `sqlite`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from schemas.agents import WorkerStatus
from schemas.events import Event
from schemas.jobs import JobView, Lane, Lease, LogLine, Status

AGING_MS: Final = 6_000
"""What one level of priority is worth in waiting time: a job is overtaken only by jobs that become eligible less than
`(difference in priority) * AGING_MS` later, so nothing starves."""

MAX_CRASHES: Final = 3
"""The crash with which a job becomes `failed/poison`."""


def rank_of(lane: Lane, eligible_at: int, priority: int) -> int:
    """Return the key by which pending jobs are claimed, lowest first; an agent's queue is first in, first out."""
    return 0 if lane == "agent" else eligible_at + priority * AGING_MS


# -- what is written -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job to insert. `args`, `data` and `retry` are JSON text (args with sorted keys, so that equal ones are equal
    text).

    user_code: the job runs code of the user's inside the daemon's own process, so it can bring the daemon down.
    conversation: on an agent's queue, jobs of one conversation run one after another, in the order of arrival.
    """

    id: str
    kind: str
    queue: str
    lane: Lane
    args: str
    priority: int = 100
    execute_after: int = 0
    max_attempts: int = 3
    timeout_ms: int | None = None
    retry: str | None = None
    key: str | None = None
    data: str | None = None
    conversation: str | None = None
    user_code: bool = False


@dataclass(frozen=True, slots=True)
class InsertJobs:
    """Add jobs; those due are `pending`, the others `delayed`. Result: one `Inserted` each, in order."""

    jobs: tuple[JobRow, ...]
    now: int


@dataclass(frozen=True, slots=True)
class Inserted:
    """existing: the key was known with the same arguments, nothing was added, `id` is the older job's.
    conflict: the key was known with other arguments, nothing was added."""

    id: str
    status: Status
    existing: bool = False
    conflict: bool = False


@dataclass(frozen=True, slots=True)
class ClaimJobs:
    """Give the first pending jobs of (queue, lane) to *workers*, one each. Result: a tuple of `Claimed`, best rank
    first.

    Raises `epoch` and `attempts`, opens the attempt. A paused queue yields nothing. On lane `agent` a job is passed
    over while an older job of its conversation has not ended.
    """

    queue: str
    lane: Lane
    workers: tuple[str, ...]
    boot: str
    now: int
    lease_until: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job with the right to write about this attempt. `args` and `retry` are JSON text."""

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


Fence: TypeAlias = Lease | Claimed
"""What names an attempt: seq, epoch, worker and boot. Epoch alone is not enough once another boot may have claimed."""


@dataclass(frozen=True, slots=True)
class Finish:
    """How an attempt ends. The caller has decided; the store checks the fence and that nobody asked to cancel.

    status/reason   as in `schemas.jobs`; anything but `completed` becomes `cancelled/user` where a cancel is on record.
                    `pending` keeps its old place in the queue
    execute_after   when a `delayed` job is due
    refund          the attempt does not count
    crash           counted apart; the crash that reaches `MAX_CRASHES` makes it `failed/poison` unless it completed or
                    was to be cancelled. An attempt with neither crash nor refund clears its job of suspicion
    result, error   JSON text
    """

    fence: Fence
    status: Status
    reason: str | None = None
    result: str | None = None
    error: str | None = None
    execute_after: int | None = None
    refund: bool = False
    crash: bool = False


@dataclass(frozen=True, slots=True)
class FinishJobs:
    """End attempts. Result: a `Finished` each, in order, or None where the fence was lost (`strict`: LeaseLost)."""

    finishes: tuple[Finish, ...]
    now: int
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """Where the job stands after its attempt."""

    id: str
    queue: str
    lane: Lane
    status: Status
    reason: str | None
    execute_after: int


@dataclass(frozen=True, slots=True)
class RecordProcess:
    """Keep the process group an attempt runs in. Result: False where the fence was lost."""

    fence: Fence
    pgid: int
    started: int


@dataclass(frozen=True, slots=True)
class SaveProgress:
    """Keep how far an attempt is (JSON text). Result: False where the fence was lost."""

    fence: Fence
    progress: str
    now: int


@dataclass(frozen=True, slots=True)
class AppendLogs:
    """Keep lines (at, level, text) of an attempt, at most `MAX_LOG_LINES` a job: the oldest go. Result: False where
    the fence was lost.
    """

    fence: Fence
    lines: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class CancelJobs:
    """Cancel jobs: those not started end now, of an active one the wish is kept. Result: one `CancelResult` or None
    (unknown id) each.
    """

    ids: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class CancelResult:
    """outcome as in `schemas.jobs.Cancelled`; before: where it stood; fence: of the attempt to stop, for
    `requested`.
    """

    outcome: Literal["cancelled", "requested", "too_late"]
    status: Status
    before: Status
    queue: str
    lane: Lane
    fence: Lease | None = None


@dataclass(frozen=True, slots=True)
class RetryJobs:
    """Take failed or cancelled jobs back to `pending` with a new budget (attempts and crashes 0; epoch goes on).

    Result: one each: `Retried`, or the status that forbids it, or None (unknown id).
    """

    ids: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class Retried:
    """The job is pending again; *before* tells from where."""

    queue: str
    lane: Lane
    before: Status


@dataclass(frozen=True, slots=True)
class PromoteDue:
    """Make delayed jobs that are due pending, oldest first, at most *limit*. Result: a tuple of (queue, lane, how
    many).
    """

    now: int
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """Make jobs that were held because their kind was unknown pending, where the kind is known now. Result: as of
    `PromoteDue`.
    """

    kinds: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class RecoverJobs:
    """Take back what dead owners held, by the rules of blame. Result: a tuple of `Recovered`.

    worker None: everything active of another boot than *boot* (the daemon died). Otherwise what that worker of *boot*
    holds. In one statement: a wish to cancel becomes `cancelled/user`; all others go back to `pending` with the
    attempt refunded. A job with `user_code` whose *daemon* died becomes a suspect; on lane `agent` a suspect was
    running alone, so the death is its crash, and the third makes it `failed/poison`. (A suspect of lane `loop` is
    re-run in a child process: the daemon's death is never its doing.) What runs in a child, or is our own code, is
    innocent of the daemon's death.
    """

    boot: str
    now: int
    worker: str | None = None


@dataclass(frozen=True, slots=True)
class Recovered:
    """A job that was taken back."""

    id: str
    queue: str
    lane: Lane
    status: Status
    suspect: bool


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as kept in the table."""

    id: str
    agent: str | None
    lane: Lane
    status: WorkerStatus
    boot: str
    pid: int
    created_at: int
    last_heartbeat_at: int


@dataclass(frozen=True, slots=True)
class PutWorkers:
    """Insert or replace workers; workers of other boots become `offline`, and offline ones not seen for a day go."""

    workers: tuple[WorkerRow, ...]
    boot: str
    now: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Note that workers live, (id, status) each, and renew the lease of every attempt of this boot."""

    beats: tuple[tuple[str, WorkerStatus], ...]
    boot: str
    now: int
    lease_until: int


@dataclass(frozen=True, slots=True)
class RemoveWorkers:
    """Forget workers that were taken out of service on purpose."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetQueue:
    """Pause a queue or let it go on; it is made if it is new."""

    name: str
    paused: bool
    now: int


@dataclass(frozen=True, slots=True)
class PutAgent:
    """Keep what an agent should be (`desired`: running|suspended) and what it was last seen to be, with the reason."""

    name: str
    desired: str
    observed: str
    reason: str | None
    now: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Keep an agent's state (JSON text). Raises VersionConflict unless the row still has *expected* (0: there is none).

    Result: the new version. The first save of a new incarnation takes the row over; an older incarnation of the same
    boot is refused, so a zombie can write nothing.
    """

    agent: str
    state: str
    schema_version: int
    expected: int
    boot: str
    incarnation: int
    now: int


@dataclass(frozen=True, slots=True)
class AppendMessages:
    """Append messages, JSON text of `ChatMessage` each, to an agent's conversation, which is made if it is new."""

    agent: str
    conversation: str
    messages: tuple[str, ...]
    job: str | None
    now: int


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Keep events that are no part of another change: (type, subject, JSON text of data) each."""

    events: tuple[tuple[str, str, str], ...]
    now: int


@dataclass(frozen=True, slots=True)
class PruneEvents:
    """Forget all but the newest *keep* events. Result: how many went."""

    keep: int


@dataclass(frozen=True, slots=True)
class PutSetting:
    """Keep one value (JSON text) under a name."""

    name: str
    value: str


Change: TypeAlias = (
    InsertJobs
    | ClaimJobs
    | FinishJobs
    | RecordProcess
    | SaveProgress
    | AppendLogs
    | CancelJobs
    | RetryJobs
    | PromoteDue
    | ReleaseHeld
    | RecoverJobs
    | PutWorkers
    | Heartbeat
    | RemoveWorkers
    | SetQueue
    | PutAgent
    | SaveState
    | AppendMessages
    | AppendEvents
    | PruneEvents
    | PutSetting
)

# Events the job changes write in their own transaction; subject is the job's id, data always has queue and kind:
#   InsertJobs   job.enqueued {status}
#   ClaimJobs    job.started {worker, attempt, epoch}
#   FinishJobs   job.completed | job.failed {reason} | job.cancelled {reason} | job.delayed {reason, execute_after}
#                | job.requeued | job.held {reason}
#   CancelJobs   job.cancelled {reason: "user"} | job.cancel_requested
#   RetryJobs    job.retried         RecoverJobs  job.recovered {status, suspect} (| job.failed | job.cancelled)
#   PromoteDue, ReleaseHeld          none: nothing anybody waits for


# -- what is read ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateRow:
    """An agent's saved state; `state` is JSON text."""

    agent: str
    state: str
    schema_version: int
    version: int
    boot: str
    incarnation: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What is kept about an agent beside its state."""

    name: str
    desired: str
    observed: str
    reason: str | None
    updated_at: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue that was set by hand."""

    name: str
    paused: bool


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process group that an attempt of another boot ran in."""

    job: str
    pgid: int
    started: int


EventListener: TypeAlias = Callable[[Sequence[Event]], None]


class Store(Protocol):
    """What the product asks of its memory. Every call may raise `StoreError` or one of its kind."""

    async def open(self) -> None:
        """Make it ready: migrate, check. Raises StoreNewer, StoreCorrupt, StoreMismatch."""
        ...

    async def close(self) -> None:
        """Finish what was handed in and let go; safe to call twice."""
        ...

    async def commit(self, changes: Sequence[Change]) -> list[Any]:
        """Apply *changes* as one transaction; return one result each, in order, when they are on the disk."""
        ...

    def listen(self, listener: EventListener) -> None:
        """Have *listener* called in the event loop after each transaction with its events, in the order of their
        offsets.
        """
        ...

    async def job(self, job_id: str) -> JobView | None:
        """Return a job whole, with its attempts."""
        ...

    async def jobs(
        self,
        *,
        status: Status | None = None,
        queue: str | None = None,
        kind: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> tuple[JobView, ...]:
        """Return jobs, newest first, without arguments, results and attempts."""
        ...

    async def job_logs(
        self, job_id: str, *, after: int = 0, tail: int | None = None, limit: int = 1000
    ) -> tuple[LogLine, ...] | None:
        """Return lines of a job with `n` over *after*, oldest first, or its last *tail* ones; None for an unknown
        job.
        """
        ...

    async def counts(self, *, ended: bool) -> dict[tuple[str, Lane, Status], int]:
        """Count jobs by queue, lane and status: the living ones (fast), or those that have ended (a walk over an
        index).
        """
        ...

    async def next_due(self) -> int | None:
        """Return when the first delayed job is due, in milliseconds UTC."""
        ...

    async def suspects(self) -> tuple[tuple[str, str], ...]:
        """Return (id, queue) of suspects on agents' queues that have not ended, oldest first."""
        ...

    async def processes(self, boot: str) -> tuple[ProcessRow, ...]:
        """Return the process groups of active attempts of other boots than *boot*."""
        ...

    async def workers(self) -> tuple[WorkerRow, ...]:
        """Return every worker of the table."""
        ...

    async def queues(self) -> tuple[QueueRow, ...]:
        """Return the queues that were set by hand."""
        ...

    async def agents(self) -> tuple[AgentRow, ...]:
        """Return what is kept about agents."""
        ...

    async def state(self, agent: str) -> StateRow | None:
        """Return an agent's saved state."""
        ...

    async def conversations(self, agent: str) -> tuple[str, ...]:
        """Return the names of an agent's conversations, the last used first."""
        ...

    async def messages(self, agent: str, conversation: str, *, limit: int = 100) -> tuple[str, ...]:
        """Return the last messages of a conversation (JSON text), oldest first."""
        ...

    async def events(
        self, *, after: int, types: tuple[str, ...] = (), subject: str | None = None, limit: int = 1000
    ) -> tuple[Event, ...]:
        """Return events past a cursor, oldest first. A type may end in `*`; none means all."""
        ...

    async def event_bounds(self) -> tuple[int, int]:
        """Return the offsets of the oldest event that is kept and of the newest ever written; (1, 0) where there was
        none.
        """
        ...

    async def setting(self, name: str) -> str | None:
        """Return a kept value (JSON text)."""
        ...
