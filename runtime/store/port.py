"""The store as a port: every write is a value, applied with others as one transaction; reads are methods.

`await store.commit([change, ...])` is all-or-nothing for its caller: if one change raises, none of that caller's
changes happened, while the commits of others that were gathered into the same transaction go on. It returns after the
data is on the disk. A commit that is cancelled while it waits has an *unknown* outcome: it may have happened.

Every write of an attempt carries a `Fence`. A write whose fence is lost changes nothing: it answers None or False,
and with `strict=True` raises `LeaseLost`, which takes the caller's whole commit back.

Whatever moves jobs, `watch` tells of it after the commit, so that whoever keeps counts misses none.

Two implementations pass one conformance suite: `memory` (the reference, for simulation) and `sqlite`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from schemas.agents import WorkerStatus
from schemas.events import Event
from schemas.jobs import (
    EdgeState,
    Fence,
    GraphView,
    JobFilter,
    JobView,
    Lane,
    Lease,
    LogLine,
    OnFailure,
    QueueState,
    Status,
)

AGING_MS: Final = 6_000
"""What one level of priority is worth in waiting time: a job is overtaken only by jobs that become eligible less than
`(difference in priority) * AGING_MS` later, so nothing starves."""

MAX_CRASHES: Final = 3
"""The crash with which a job becomes `failed/poison`."""

MAX_FIRES: Final = 1_000
"""Ticks of a schedule that are kept on record."""


def rank_of(lane: Lane, eligible_at: int, priority: int) -> int:
    """Return the key by which pending jobs are claimed, lowest first; an agent's queue is first in, first out."""
    return 0 if lane == "agent" else eligible_at + priority * AGING_MS


# -- what is written -------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """That jobs (so many) of (queue, lane) went from one status to another in a transaction.

    before None: they are new; after None: they were deleted. due: the earliest time at which one of them is to be
    looked at again (a delayed job's time, the end of a wait, a deadline).
    """

    queue: str
    lane: Lane
    before: Status | None
    after: Status | None
    jobs: int
    due: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """A job that must end first, by its id. It is in the store already, or earlier in the same `InsertJobs`."""

    parent: str
    on_failure: OnFailure = "cancel"


@dataclass(slots=True)  # made for every job, and freezing costs more than all the rest of making it
class JobRow:
    """A job to insert. `args`, `data` and `retry` are JSON text (args with sorted keys, so that equal ones are equal
    text).

    user_code: the job runs code of the user's inside the daemon's own process, so it can bring the daemon down.
    conversation: on an agent's queue, jobs of one conversation run one after another, in the order of arrival.
    unique: at most one job of (kind, unique) has not ended.
    parent: the id of the job this one is a part of.
    limit_key, limit_max: a job may start while fewer than its `limit_max` jobs of its `limit_key` are active.
    tokens: what it reserves of its queue's rate.
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
    unique: str | None = None
    deadline_at: int | None = None
    heartbeat_ms: int | None = None
    tags: tuple[str, ...] = ()
    parent: str | None = None
    depends_on: tuple[Edge, ...] = ()
    limit_key: str | None = None
    limit_max: int = 1
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class InsertJobs:
    """Add jobs. Result: one `Inserted` each, in order.

    A job with an open edge is `waiting/deps`; else one that is due is `pending`, and the others are `delayed`. A
    parent that has completed satisfies its edge at once; one that failed or was cancelled has its edge's policy
    applied at once (cancel: the job is born `cancelled/dependency`; run: ignored; hold: broken, it waits).

    whole: all of them or none: where one is refused (conflict, unknown parent), nothing is added.
    fence: the attempt whose children they are; where it is lost, LeaseLost is raised.
    """

    jobs: tuple[JobRow, ...]
    now: int
    whole: bool = False
    fence: Fence | None = None


@dataclass(slots=True)  # made for every job, and freezing costs more than all the rest of making it
class Inserted:
    """existing: its key was known with the same arguments, or its unique word is held by a job that has not ended:
    nothing was added, `id` is the older job's.
    conflict: the key was known with other arguments, nothing was added.
    unknown: there is no job of this id, which was named as parent or in `depends_on`; nothing was added.
    """

    id: str
    status: Status
    existing: bool = False
    conflict: bool = False
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class ClaimJobs:
    """Give the first pending jobs of (queue, lane) to *workers*, one each. Result: a tuple of `Claimed`, best rank
    first.

    Raises `epoch` and `attempts`, opens the attempt. A paused queue yields nothing. On lane `agent` a job is passed
    over while an older job of its conversation has not ended. A job whose `limit_key` is full moves to `waiting/limit`
    instead, and the next one is looked at. With *tokens*, claiming stops before the job whose tokens, with those of
    the jobs before it, are more; the first may take more where *full* (the bucket cannot hold more than it has).
    """

    queue: str
    lane: Lane
    workers: tuple[str, ...]
    boot: str
    now: int
    lease_until: int
    tokens: int | None = None
    full: bool = False


@dataclass(slots=True)  # made for every job, and freezing costs more than all the rest of making it
class Finish:
    """How an attempt ends. The caller has decided; the store checks the fence and that nobody asked to cancel.

    status/reason   as in `schemas.jobs`; anything but `completed` becomes `cancelled/user` where a cancel is on record.
                    `pending` keeps its old place in the queue
    execute_after   when a `delayed` job is due
    waits, wait_until  with `waiting/signal` the name of the signal and when to stop waiting for it (None: never); with
                    `waiting/children` until when. A job whose signal is there already, or which has no child that has
                    not ended, becomes `pending` instead. A wait's end makes it `pending` too; its code finds out why
    refund          the attempt does not count
    asked           a snooze is the job's own wish; only those are counted
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
    waits: str | None = None
    wait_until: int | None = None
    asked: bool = True


@dataclass(frozen=True, slots=True)
class FinishJobs:
    """End attempts. Result: a `Finished` each, in order, or None where the fence was lost (`strict`: LeaseLost). Of an
    attempt that is named twice the first end counts.

    In the same transaction a job that ended releases what waited for it: its dependants (or has the policy of their
    edges applied, to the last descendant), the next `waiting/limit` job of its key in every queue and lane, and its
    parent where that waits for its children and this was the last. What edges release is ranked from now; what comes
    from a limit or a wait keeps its rank. A job of a key that stops being active in any other way gives its place to
    the next as well. A snooze is counted; one past `MAX_SNOOZES` ends as `failed/permanent`. What held a `pause_at`
    wish and goes back to wait is `paused/user` instead.
    """

    finishes: tuple[Finish, ...]
    now: int
    strict: bool = False


@dataclass(slots=True)  # made for every job, and freezing costs more than all the rest of making it
class Finished:
    """Where the job stands after its attempt. `execute_after` tells when a delayed one is due, and nothing of one that
    ended.
    """

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
class BeginStep:
    """Note that an attempt begins a step. Result: a `StepBegun`, or None where the fence was lost.

    A step that another attempt began and that never ended is ambiguous; with *retry* it is begun anew. *charge* is
    added with it where the verdict is `run` (what a call may cost is spent before the call is made); where it would
    pass one of the charge's limits the verdict is `budget` and nothing is begun.

    *at_once*: it is ended in the same commit, after what it stands for. It does not heed a wish to pause, for nothing
    is left running, and raises TooManySteps in place of the verdict `full`: what stands before it in the commit must
    not be done without it.
    """

    fence: Fence
    name: str
    now: int
    retry: bool = True
    charge: "Charge | None" = None
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class StepBegun:
    """verdict  run: its body is to run; done: it is on record, `output` is JSON text; ambiguous: see `BeginStep`;
    pause: a person asked to pause the job, nothing was begun; full: it has `MAX_STEPS` steps already; budget: the
    charge would pass a limit, `output` is the name of the limit
    """

    verdict: Literal["run", "done", "ambiguous", "pause", "full", "budget"]
    output: str | None = None


@dataclass(frozen=True, slots=True)
class EndStep:
    """Record how a step of an attempt ended: its output (JSON text), or an error, after which it may run again.

    Result: False where the fence was lost or the attempt has no such step open. *charge* is added where it is True: the
    difference between what was spent in advance and what the call has cost.
    """

    fence: Fence
    name: str
    now: int
    output: str | None = None
    error: str | None = None
    cost: float | None = None
    charge: "Charge | None" = None


@dataclass(frozen=True, slots=True)
class Charge:
    """What is added to (or, negative, taken from) what an agent has spent on a day ("2026-11-22", UTC). cost is in
    millionths of the currency of the prices.

    max_tokens, max_cost: what the day's tokens (both kinds together) and cost may be at most with it.
    """

    agent: str
    day: str
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    max_tokens: int | None = None
    max_cost: int | None = None


@dataclass(frozen=True, slots=True)
class AbsorbJobs:
    """Take into this attempt what was said meanwhile: the pending jobs of (queue, conversation) with the tag *tag*,
    oldest first, end as `cancelled/superseded` with the error *error* (JSON text), and their (id, args) become the
    output of the step *step*, so that an attempt that asks again for the same step gets the same.

    Result: the output as JSON text, `[[id, args], ...]` where args is an object; None where the fence was lost. Where
    there is nothing to take in, no step is recorded and the result is `[]`.
    """

    fence: Fence
    step: str
    queue: str
    conversation: str
    tag: str
    error: str
    now: int


@dataclass(frozen=True, slots=True)
class AskApproval:
    """Put a question to a person, once for (job, step): asked again the row that is there is returned.

    arguments: canonical JSON text; digest: of these. Result: an `ApprovalRow`, or None where the fence was lost. Event
    approval.asked {agent, tool, run}, subject is the approval's id.
    """

    fence: Fence
    id: str
    agent: str
    conversation: str
    step: str
    tool: str
    arguments: str
    digest: str
    why: str
    now: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class AnswerApproval:
    """Answer a pending approval that has not expired, and wake its run by the signal `approval/ID` (payload: true or
    false) however many signals it has. arguments, digest: the canonical ones a person put in place, both or neither;
    always: also keep a grant for (agent, tool, digest), of the edited arguments where there are some. Neither counts
    where the call is denied.

    Result: (whether this is what answered it, the row as it is now), or None for an unknown id. One that is past its
    expiry (at `expires_at` it is) becomes `expired`, and one whose job has ended `void`. Event approval.allowed |
    approval.denied {agent, tool, run, by}, then job.signalled; or approval.expired.
    """

    id: str
    allow: bool
    now: int
    by: str
    reason: str | None = None
    arguments: str | None = None
    digest: str | None = None
    always: bool = False


@dataclass(frozen=True, slots=True)
class UseApproval:
    """Use an approval for the step and the tool it was asked for, once: it must be allowed, its digest (of the edited
    arguments, if a person edited them) equal to *digest*, and not expired. Used already by this job's same step it may
    be used again (a re-run of the call), then at any time.

    Raises ApprovalInvalid where it may not be used, which takes the caller's whole commit back; LeaseLost where the
    fence is lost. Event approval.used {agent, tool, run}, the first time.
    """

    fence: Fence
    id: str
    step: str
    tool: str
    digest: str
    now: int


@dataclass(frozen=True, slots=True)
class ExpireApprovals:
    """Note pending approvals past their expiry as `expired`, and those whose job has ended as `void`. Result: a
    tuple of ids. Event approval.expired {agent, tool, run, status}. No run is woken: it knows how long to wait.
    """

    now: int


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """An approval as it is kept. status as in `schemas.tools.ApprovalStatus`; arguments and edited are JSON text,
    digest is of the arguments asked for, edited_digest of those a person put in place. It goes when its job is deleted.
    """

    id: str
    agent: str
    job: str
    conversation: str
    step: str
    tool: str
    arguments: str
    digest: str
    why: str
    status: str
    asked_at: int
    expires_at: int
    answered_at: int | None = None
    answered_by: str | None = None
    reason: str | None = None
    edited: str | None = None
    edited_digest: str | None = None
    always: bool = False


@dataclass(frozen=True, slots=True)
class GrantRow:
    """A call that an agent may make without asking. arguments is canonical JSON text."""

    agent: str
    tool: str
    digest: str
    arguments: str
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class RevokeGrant:
    """Forget a grant. Result: whether there was one."""

    agent: str
    tool: str
    digest: str


@dataclass(frozen=True, slots=True)
class ForkConversation:
    """Begin the conversation *target* of an agent with the messages of *source*, all of them or the first *keep*; they
    are shared, not copied. Result: how many messages it has, or None where there is no *source*. Raises
    ConversationExists where *target* has messages already.
    """

    agent: str
    source: str
    target: str
    now: int
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class PutPersona:
    """Keep an agent that was defined at run time; settings is JSON text of its table."""

    name: str
    settings: str
    now: int


@dataclass(frozen=True, slots=True)
class RemovePersona:
    """Forget one; its state and conversations stay. Result: whether there was one."""

    name: str


@dataclass(frozen=True, slots=True)
class PersonaRow:
    """An agent that was defined at run time."""

    name: str
    settings: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class PutNote:
    """Have an agent remember *text* under *key*, in place of what it had there; None: forget it. The oldest go where
    there are more than *keep*. Result: True, or where it was to be forgotten whether there was one.
    """

    agent: str
    key: str
    text: str | None
    now: int
    keep: int = 1000


@dataclass(frozen=True, slots=True)
class NoteRow:
    """Something an agent remembers."""

    key: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of a conversation as it is kept: its place (from 1), its time, the run it came with, its JSON text."""

    n: int
    at: int
    job: str | None
    body: str


@dataclass(frozen=True, slots=True)
class SendSignal:
    """Keep a signal for a job and wake it where it waits for it. Result: `SignalSent`, or None (unknown id)."""

    job: str
    name: str
    payload: str
    now: int


@dataclass(frozen=True, slots=True)
class SignalSent:
    """Where the job stands after a signal; `kept` is False where it has ended or holds `MAX_SIGNALS` already."""

    status: Status
    kept: bool


@dataclass(frozen=True, slots=True)
class TakeSignal:
    """Take the oldest signal of a name, once: it becomes the output of the step *step*, so an attempt that asks again
    for the same step gets the same. Result: a `SignalTaken`, or None where the fence was lost.
    """

    fence: Fence
    name: str
    step: str
    now: int


@dataclass(frozen=True, slots=True)
class SignalTaken:
    """payload: JSON text; None where there is no such signal yet."""

    payload: str | None


@dataclass(frozen=True, slots=True)
class CancelJobs:
    """Cancel jobs: those not started end now (as does what depends on them, by the policy of their edges), of an
    active one the wish is kept. What is named together is taken together: each ends as `cancelled/user`, also one that
    depends on another of them. Result: one `CancelResult` or None (unknown id) each.
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
class PauseJobs:
    """Hold jobs: those not started become `paused/user` (also one in `paused/hold`), of an active one the wish is kept
    for its next step.

    Result: one `PauseResult` or None (unknown id) each.
    """

    ids: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class ResumeJobs:
    """Let held jobs go on where they would stand now: waiting for parents, delayed, or pending. An active one forgets
    the wish to pause. One in `waiting/deps` whose open question is broken edges alone goes on without them.

    Result: one `PauseResult` or None (unknown id) each.
    """

    ids: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class PauseResult:
    """outcome as in `schemas.jobs.Held`; status: where it stands now."""

    outcome: Literal["paused", "resumed", "requested", "too_late", "unchanged"]
    status: Status


@dataclass(frozen=True, slots=True)
class RetryJobs:
    """Take failed or cancelled jobs back to `pending` with a new budget (attempts, crashes and snoozes 0; epoch goes
    on; a deadline that has passed is taken away; done steps stay done).

    Edges of dependants that broke over them are open again. With *dependants* also those that were cancelled or failed
    as `dependency` over them, to the last descendant, wait for them again. What is retried alone goes on without the
    parents that failed: their edges are ignored. A parent that has not ended is waited for (`waiting/deps`), also one
    that is retried in the same change. Refused where another job holds its unique word now.

    Result: one each: `Retried`, or the status that forbids it, or None (unknown id).
    """

    ids: tuple[str, ...]
    now: int
    dependants: bool = False


@dataclass(frozen=True, slots=True)
class Retried:
    """The job is pending again; *before* tells from where. also: how many dependants were taken back with it."""

    queue: str
    lane: Lane
    before: Status
    also: int = 0


@dataclass(frozen=True, slots=True)
class PromoteDue:
    """Make delayed jobs that are due pending, oldest first, and jobs whose wait for a signal or for children is over,
    at most *limit*. Result: a tuple of (queue, lane, how many).
    """

    now: int
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ExpireJobs:
    """End jobs that are past their deadline and neither active nor paused as `failed/deadline`, at most *limit*, with
    what that releases. (Of what a person holds a person decides.) Result: how many ended.
    """

    now: int
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ExpireLeases:
    """Take back what attempts of *boot* hold beyond their lease, as lost: `pending` with the attempt counted, or
    `failed/exhausted` after the last one; a wish to cancel becomes `cancelled/user`, a wish to pause `paused/user`.
    Result: a tuple of `Lost`.
    """

    boot: str
    now: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt that lost its lease, and where its job stands."""

    lease: Lease
    status: Status


@dataclass(frozen=True, slots=True)
class RepairJobs:
    """Look for what no rule allows and put it right. Result: a dict of how often each repair was made; empty when all
    was well.

    deps_released: `waiting/deps` without an open or broken edge; limit_released: `waiting/limit` though its key has
    room and nobody of it is pending in its queue and lane; children_released: `waiting/children` though none lives;
    signal_released: `waiting/signal` though the signal is there.
    """

    now: int


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """Make jobs that were held because their kind was unknown pending, where the kind is known now. Result: as of
    `PromoteDue`.
    """

    kinds: tuple[str, ...]
    now: int


@dataclass(frozen=True, slots=True)
class DeleteEnded:
    """Forget jobs that ended before *before*, and all but the newest *keep* of (status, queue), at most *limit*, with
    their data. Result: how many went.

    Never: a job with the tag `keep`, a parent with an open or broken edge or with a child that has not ended (it may
    want the result), a job with children or parents by `parent` that have not ended. queue None: every queue but those
    in *without*, which *keep* counts together; what may not go is counted too.
    """

    status: Status
    queue: str | None
    before: int
    keep: int | None
    limit: int = 500
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoverJobs:
    """Take back what dead owners held, by the rules of blame. Result: a tuple of `Recovered`.

    worker None: everything active of another boot than *boot* (the daemon died). Otherwise what that worker of *boot*
    holds. In one statement: a wish to cancel becomes `cancelled/user`, a wish to pause `paused/user`; all others go
    back to `pending`; the attempt is refunded. A job with `user_code` whose *daemon* died becomes a suspect; on lane
    `agent` a suspect was running alone, so the death is its crash, and the third makes it `failed/poison`. (A suspect
    of lane `loop` is re-run in a child process: the daemon's death is never its doing.) What runs in a child, or is our
    own code, is innocent of the daemon's death.
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
    host: str = ""
    capabilities: str = "{}"
    """JSON text: `pool`, `serves` (queues; empty means all), `draining`."""


@dataclass(frozen=True, slots=True)
class PutWorkers:
    """Insert or replace workers; workers of other boots become `offline`, and offline ones not seen for a day go."""

    workers: tuple[WorkerRow, ...]
    boot: str
    now: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Note that workers live, (id, status) each, and renew the lease of every attempt of this boot but those of the
    jobs *silent* (by seq), whose process was not heard of."""

    beats: tuple[tuple[str, WorkerStatus], ...]
    boot: str
    now: int
    lease_until: int
    silent: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoveWorkers:
    """Forget workers that were taken out of service on purpose."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What is kept of a queue beside its jobs. `rate` is JSON text of `schemas.jobs.Rate`.

    by, since: who set `state`, and when. set_by_hand: the names of the fields that a person has set, over the
    configuration. requests_left, tokens_left, filled_at: the state of its token bucket.
    """

    name: str
    state: QueueState = "running"
    by: str | None = None
    since: int | None = None
    max_active: int | None = None
    rate: str | None = None
    blocked_until: int | None = None
    requests_left: float | None = None
    tokens_left: float | None = None
    filled_at: int | None = None
    set_by_hand: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PutQueue:
    """Keep a queue's row as it is given."""

    row: QueueRow
    now: int


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule. `job` is JSON text of `schemas.jobs.NewJob`; `next_at` None: it never fires again.

    by: `config`, or who added it. high_mark: no fire time at or before it is ever fired again.
    paused_by_hand: a person has set `paused`, over the configuration.
    """

    name: str
    cron: str
    tz: str
    job: str
    catchup: str
    overlap: str
    by: str
    paused: bool
    next_at: int | None
    high_mark: int
    last_at: int | None = None
    last_job: str | None = None
    created_at: int = 0
    updated_at: int = 0
    paused_by_hand: bool = False


@dataclass(frozen=True, slots=True)
class PutSchedule:
    """Keep a schedule's row as it is given."""

    row: ScheduleRow


@dataclass(frozen=True, slots=True)
class RemoveSchedule:
    """Forget a schedule with its fires; its jobs stay. Result: whether there was one."""

    name: str


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """Deal with one tick, once: where *fire_at* is not past the schedule's `high_mark`, where (name, fire_at) is on
    record, or where there is no such schedule, nothing happens.

    job None: the tick is only noted, as *outcome* says why. Sets `next_at`, raises `high_mark` to *fire_at*, and where
    a job was added sets `last_at` (to *fire_at*) and `last_job`. A trigger by hand (outcome `triggered`) is no tick: it
    leaves `next_at` and `high_mark` alone and does not ask the mark. The newest `MAX_FIRES` ticks of a schedule are
    kept. Result: the `Inserted` of the job, or None.
    """

    name: str
    fire_at: int
    next_at: int | None
    now: int
    job: JobRow | None
    outcome: str = "fired"


@dataclass(frozen=True, slots=True)
class FireRow:
    """A tick of a schedule that was dealt with. outcome: fired, triggered, skipped_overlap, skipped_catchup, or refused
    (its job would not be taken in: its kind is unknown, say).
    """

    name: str
    fire_at: int
    job: str | None
    outcome: str
    at: int


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
    """Forget all but the newest *keep* events of those that earlier commits have kept. Result: how many went."""

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
    | BeginStep
    | EndStep
    | SendSignal
    | TakeSignal
    | CancelJobs
    | PauseJobs
    | ResumeJobs
    | RetryJobs
    | PromoteDue
    | ExpireJobs
    | ExpireLeases
    | RepairJobs
    | ReleaseHeld
    | RecoverJobs
    | DeleteEnded
    | PutWorkers
    | Heartbeat
    | RemoveWorkers
    | PutQueue
    | PutSchedule
    | RemoveSchedule
    | FireSchedule
    | PutAgent
    | SaveState
    | AppendMessages
    | AppendEvents
    | PruneEvents
    | PutSetting
    | AbsorbJobs
    | AskApproval
    | AnswerApproval
    | UseApproval
    | ExpireApprovals
    | RevokeGrant
    | ForkConversation
    | PutPersona
    | RemovePersona
    | PutNote
)

# Events the job changes write in their own transaction; subject is the job's id, data always has queue and kind:
#   InsertJobs   job.enqueued {status} (| job.cancelled {reason: "dependency"} where it is born so)
#   ClaimJobs    job.started {worker, attempt, epoch}
#   FinishJobs   job.completed | job.failed {reason} | job.cancelled {reason} | job.delayed {reason, execute_after}
#                | job.requeued | job.held {reason} | job.waiting {reason}
#   an edge      job.released for a dependant that may go on; job.cancelled | job.failed {reason: "dependency"}
#   BeginStep    none          EndStep  job.step {step, cost} when it is done
#   SendSignal   job.signalled {signal}
#   CancelJobs   job.cancelled {reason: "user"} | job.cancel_requested
#   PauseJobs    job.held {reason: "user"} | job.pause_requested       ResumeJobs  job.resumed {status}
#   RetryJobs    job.retried         RecoverJobs  job.recovered {status, suspect} (| job.failed | job.cancelled)
#   ExpireJobs   job.failed {reason: "deadline"}       ExpireLeases  job.lost {status} (| job.failed | job.cancelled)
#   FireSchedule schedule.fired {fire_at, job} | schedule.skipped {fire_at, outcome}, subject is the schedule's name
#   PromoteDue, ReleaseHeld, RepairJobs, a freed key: none: nothing anybody waits for


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
class ParentResult:
    """A job that another depends on, as its code sees it. `result` and `error` are JSON text."""

    id: str
    kind: str
    status: Status
    state: EdgeState
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class ChildResult:
    """A part of a job, as its code sees it. `result` and `error` are JSON text."""

    id: str
    kind: str
    status: Status
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class WhyFacts:
    """What the database knows of why a job stands where it does.

    ahead: pending jobs of its queue and lane that rank before it, counted up to 1,000
    key_active: the ids of active jobs of its `limit_key`
    """

    job: JobView
    ahead: int
    key_active: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tidied:
    """What tidying up did and left: pages given back, pages that are still free, bytes of the write-ahead log."""

    freed: int = 0
    free: int = 0
    wal_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process group that an attempt of another boot ran in."""

    job: str
    pgid: int
    started: int


EventListener: TypeAlias = Callable[[Sequence[Event]], None]
MoveListener: TypeAlias = Callable[[Sequence[Move]], None]


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

    def watch(self, listener: MoveListener) -> None:
        """Have *listener* called in the event loop after each transaction that moved jobs, before its commits
        return.
        """
        ...

    async def tidy(self, pages: int) -> Tidied:
        """Give back up to *pages* free pages and fold the log in, without waiting for readers."""
        ...

    async def job(self, job_id: str) -> JobView | None:
        """Return a job whole, with its attempts, edges and steps."""
        ...

    async def jobs(
        self, where: JobFilter | None = None, *, before: str | None = None, limit: int = 50, errors: bool = False
    ) -> tuple[JobView, ...]:
        """Return jobs, newest first, without arguments and results; with *errors* with their error and attempts."""
        ...

    async def parents(self, job_id: str) -> tuple[ParentResult, ...]:
        """Return the jobs that a job depends on, in the order of their ids."""
        ...

    async def children(self, job_id: str) -> tuple[ChildResult, ...]:
        """Return the parts of a job, in the order of their ids."""
        ...

    async def graph(self, job_id: str, limit: int) -> GraphView | None:
        """Return what hangs together with a job by edges or as its parts, at most *limit* jobs, nearest first."""
        ...

    async def why(self, job_id: str) -> WhyFacts | None:
        """Return the facts that tell why a job is not moving."""
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
        """Return when the first delayed job is due, the first wait ends or the first deadline of a job that is neither
        active nor paused passes, in milliseconds UTC.
        """
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
        """Return what is kept of queues."""
        ...

    async def schedules(self) -> tuple[ScheduleRow, ...]:
        """Return every schedule, by name."""
        ...

    async def still_runs(self, name: str) -> bool:
        """Tell whether a job of a kept tick of schedule *name* has not ended, a trigger's or one tried again too."""
        ...

    async def fires(self, name: str, *, limit: int = 50) -> tuple[FireRow, ...]:
        """Return the latest ticks of a schedule that were dealt with, newest first."""
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

    async def journal(
        self, agent: str, conversation: str, *, after: int = 0, limit: int = 1000
    ) -> tuple[MessageRow, ...]:
        """Return messages of a conversation with a place over *after*, oldest first; those of a fork's beginning
        too.
        """
        ...

    async def approvals(
        self, *, status: str | None = None, agent: str | None = None, job: str | None = None, limit: int = 100
    ) -> tuple[ApprovalRow, ...]:
        """Return approvals, newest first."""
        ...

    async def approval(self, approval_id: str) -> ApprovalRow | None:
        """Return one approval."""
        ...

    async def grants(self, agent: str | None = None) -> tuple[GrantRow, ...]:
        """Return what agents may do without asking, by agent, tool and time."""
        ...

    async def spent(self, agent: str, *, since: str = "") -> tuple[Charge, ...]:
        """Return what an agent has spent, a row a day from the day *since* on, oldest first."""
        ...

    async def personas(self) -> tuple[PersonaRow, ...]:
        """Return the agents that were defined at run time, by name."""
        ...

    async def notes(self, agent: str, *, words: tuple[str, ...] = (), limit: int = 20) -> tuple[NoteRow, ...]:
        """Return what an agent remembers, newest first; with *words* those with most of them in key or text (letter
        case apart) first, and only those with one at least.
        """
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
