"""The store in plain Python: the reference that says what every change means, and the store of simulations."""

import json
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Final, TypeVar

from anyio.lowlevel import checkpoint

from runtime.errors import LeaseLost, StoreError, VersionConflict
from runtime.store.port import (
    MAX_CRASHES,
    AgentRow,
    AppendEvents,
    AppendLogs,
    AppendMessages,
    CancelJobs,
    CancelResult,
    Change,
    Claimed,
    ClaimJobs,
    EventListener,
    Fence,
    Finish,
    Finished,
    FinishJobs,
    Heartbeat,
    Inserted,
    InsertJobs,
    JobRow,
    ProcessRow,
    PromoteDue,
    PruneEvents,
    PutAgent,
    PutSetting,
    PutWorkers,
    QueueRow,
    RecordProcess,
    Recovered,
    RecoverJobs,
    ReleaseHeld,
    RemoveWorkers,
    Retried,
    RetryJobs,
    SaveProgress,
    SaveState,
    SetQueue,
    StateRow,
    WorkerRow,
    rank_of,
)
from schemas.errors import Problem
from schemas.events import Event
from schemas.jobs import ENDED, MAX_LOG_LINES, MOVES, REASONS, AttemptView, JobView, Lane, Lease, LogLine, Status

FORGET_WORKER_MS: Final = 86_400_000

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Job:
    """A job as it stands: what was asked for (`row`) and what became of it."""

    seq: int
    row: JobRow
    status: Status
    reason: str | None
    execute_after: int
    rank: int
    created_at: int
    updated_at: int
    epoch: int = 0
    attempts: int = 0
    crashes: int = 0
    suspect: bool = False
    worker: str | None = None
    boot: str | None = None
    lease_until: int | None = None
    process: tuple[int, int] | None = None
    cancel_at: int | None = None
    result: str | None = None
    error: str | None = None
    progress: str | None = None
    lines: int = 0
    started_at: int | None = None
    finished_at: int | None = None

    @property
    def place(self) -> tuple[str, Lane]:
        """The queue and lane it is claimed from."""
        return self.row.queue, self.row.lane

    @property
    def lease(self) -> Lease:
        """The right of the attempt that runs."""
        return Lease(seq=self.seq, id=self.row.id, epoch=self.epoch, worker=self.worker or "", boot=self.boot or "")


class _Table(dict[K, V]):
    """A dictionary whose writes can be taken back: each notes how to undo itself in *journal*."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__()
        self._journal = journal

    def put(self, key: K, value: V | None) -> None:
        """Set *key*, or remove it where *value* is None."""
        self._journal.append(partial(self._set, key, self.get(key)))
        self._set(key, value)

    def _set(self, key: K, value: V | None) -> None:
        if value is None:
            self.pop(key, None)
        else:
            self[key] = value


class _Jobs(_Table[int, _Job]):
    """The jobs by seq, with the sorted lists that answer what the queue asks all day."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__(journal)
        self.by_id: dict[str, int] = {}
        self.by_key: dict[tuple[str, str], int] = {}
        self.ready: defaultdict[tuple[str, Lane], list[tuple[int, int]]] = defaultdict(list)
        self.due: list[tuple[int, int]] = []
        self.active: list[int] = []
        self.talks: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def move(self, job: _Job, status: Status, reason: str | None, now: int, **more: Any) -> _Job:
        """Give *job* another status; raises StoreError where `MOVES` has no such move or `REASONS` no such reason."""
        if status not in MOVES[job.status] or (status in REASONS and reason not in REASONS[status]):
            raise StoreError(f"job {job.row.id} may not go from {job.status} to {status}/{reason}", job=job.row.id)
        ended = now if status in ENDED else None
        moved = replace(job, status=status, reason=reason, updated_at=now, finished_at=ended)
        if job.status == "active":
            moved = replace(moved, worker=None, boot=None, lease_until=None, process=None)
        moved = replace(moved, **more)
        self.put(job.seq, moved)
        return moved

    def _set(self, key: int, value: _Job | None) -> None:
        old = self.get(key)
        for where, entry in () if old is None else self._entries(old):
            del where[bisect_left(where, entry)]
        super()._set(key, value)
        for where, entry in () if value is None else self._entries(value):
            insort(where, entry)
        job = value or old
        if job is not None and (value is None or old is None):
            self._name(job, None if value is None else key)

    def _entries(self, job: _Job) -> Iterator[tuple[list[Any], Any]]:
        if job.status == "pending":
            yield self.ready[job.place], (job.rank, job.seq)
        elif job.status == "delayed":
            yield self.due, (job.execute_after, job.seq)
        elif job.status == "active":
            yield self.active, job.seq
        if job.row.lane == "agent" and job.row.conversation is not None and job.status not in ENDED:
            yield self.talks[job.row.queue, job.row.conversation], job.seq

    def _name(self, job: _Job, seq: int | None) -> None:
        names: list[tuple[dict[Any, int], Any]] = [(self.by_id, job.row.id)]
        if job.row.key is not None:
            names.append((self.by_key, (job.row.kind, job.row.key)))
        for table, name in names:
            if seq is None:
                del table[name]
            else:
                table[name] = seq


class MemoryStore:
    """Everything in dictionaries. What was committed stays over `close` and `open`, as a file would.

    A commit yields to the loop once and is then applied in one go, so it is never seen half done; cancelled at that
    point it has not happened.
    """

    def __init__(self) -> None:
        self._journal: list[Callable[[], None]] = []
        self._jobs = _Jobs(self._journal)
        self._attempts: _Table[tuple[int, int], AttemptView] = _Table(self._journal)
        self._logs: _Table[tuple[int, int], LogLine] = _Table(self._journal)
        self._workers: _Table[str, WorkerRow] = _Table(self._journal)
        self._queues: _Table[str, QueueRow] = _Table(self._journal)
        self._agents: _Table[str, AgentRow] = _Table(self._journal)
        self._states: _Table[str, StateRow] = _Table(self._journal)
        self._messages: _Table[tuple[str, str], tuple[str, ...]] = _Table(self._journal)
        self._used: _Table[tuple[str, str], tuple[int, int]] = _Table(self._journal)
        self._events: _Table[int, Event] = _Table(self._journal)
        self._settings: _Table[str, str] = _Table(self._journal)
        self._last: _Table[str, int] = _Table(self._journal)
        self._listeners: list[EventListener] = []
        self._failure: tuple[Exception, bool] | None = None
        self._open = False

    async def open(self) -> None:
        await checkpoint()
        self._open = True

    async def close(self) -> None:
        await checkpoint()
        self._open = False
        self._listeners.clear()

    def listen(self, listener: EventListener) -> None:
        self._listeners.append(listener)

    def fail_next(self, error: Exception, *, applied: bool = False) -> None:
        """Make the next commit raise *error*; with *applied* only after it was kept: its acknowledgement was lost."""
        self._failure = (error, applied)

    async def commit(self, changes: Sequence[Change]) -> list[Any]:
        await checkpoint()
        self._check_open()
        failure, self._failure = self._failure, None
        if failure is not None and not failure[1]:
            raise failure[0]
        before = self._last.get("event", 0)
        results = self._apply(changes)
        news = [self._events[at] for at in range(before + 1, self._last.get("event", 0) + 1) if at in self._events]
        for listener in list(self._listeners) if news else ():
            listener(news)
        if failure is not None:
            raise failure[0]
        return results

    def _apply(self, changes: Sequence[Change]) -> list[Any]:
        try:
            return [self._VERBS[type(change)](self, change) for change in changes]
        except BaseException:
            for undo in reversed(self._journal):
                undo()
            raise
        finally:
            self._journal.clear()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("the store is not open")

    def _next(self, what: str) -> int:
        number = self._last.get(what, 0) + 1
        self._last.put(what, number)
        return number

    def _emit(self, at: int, type: str, subject: str, data: dict[str, Any]) -> None:  # noqa: A002  # the event's word
        offset = self._next("event")
        self._events.put(offset, Event(offset=offset, at=at, type=type, subject=subject, data=data))

    def _tell(self, job: _Job, at: int, what: str, **facts: Any) -> None:
        self._emit(at, f"job.{what}", job.row.id, {"queue": job.row.queue, "kind": job.row.kind, **facts})

    # -- jobs come and go ----------------------------------------------------------------------------------------------

    def _insert(self, change: InsertJobs) -> list[Inserted]:
        return [self._insert_one(row, change.now) for row in change.jobs]

    def _insert_one(self, row: JobRow, now: int) -> Inserted:
        known = None if row.key is None else self._jobs.by_key.get((row.kind, row.key))
        if known is not None:
            older = self._jobs[known]
            same = older.row.args == row.args
            return Inserted(older.row.id, older.status, existing=same, conflict=not same)
        if row.id in self._jobs.by_id:
            raise StoreError(f"there is a job {row.id} already", job=row.id)
        _check_json(row.args)
        eligible = max(now, row.execute_after)
        status, reason = _gate(row.execute_after, now)
        rank = rank_of(row.lane, eligible, row.priority)
        job = _Job(self._next("job"), row, status, reason, eligible, rank, created_at=now, updated_at=now)
        self._jobs.put(job.seq, job)
        self._tell(job, now, "enqueued", status=status)
        return Inserted(row.id, status)

    def _claim(self, change: ClaimJobs) -> tuple[Claimed, ...]:
        if change.queue in self._queues and self._queues[change.queue].paused:
            return ()
        # Listed before the first is claimed: a conversation yields one job at most, so none of these can block another.
        heads = list(islice(self._claimable(change.queue, change.lane), len(change.workers)))
        return tuple(self._claim_one(job, worker, change) for job, worker in zip(heads, change.workers, strict=False))

    def _claimable(self, queue: str, lane: Lane) -> Iterator[_Job]:
        for _, seq in self._jobs.ready[queue, lane]:
            job = self._jobs[seq]
            if lane != "agent" or job.row.conversation is None or self._may_speak(job, job.row.conversation):
                yield job

    def _may_speak(self, job: _Job, conversation: str) -> bool:
        # An older job that a person took back is the head again while a younger one may still be active.
        talk = self._jobs.talks[job.row.queue, conversation]
        return talk[0] == job.seq and all(self._jobs[seq].status != "active" for seq in talk)

    def _claim_one(self, job: _Job, worker: str, change: ClaimJobs) -> Claimed:
        job = self._jobs.move(
            job,
            "active",
            None,
            change.now,
            worker=worker,
            boot=change.boot,
            lease_until=change.lease_until,
            epoch=job.epoch + 1,
            attempts=job.attempts + 1,
            started_at=job.started_at or change.now,
        )
        attempt = AttemptView(epoch=job.epoch, attempt=job.attempts, worker=worker, started_at=change.now)
        self._attempts.put((job.seq, job.epoch), attempt)
        self._tell(job, change.now, "started", worker=worker, attempt=job.attempts, epoch=job.epoch)
        return _claimed(job, worker, change.boot)

    def _finish(self, change: FinishJobs) -> list[Finished | None]:
        return [self._finish_one(finish, change) for finish in change.finishes]

    def _finish_one(self, finish: Finish, change: FinishJobs) -> Finished | None:
        job = self._held(finish.fence)
        if job is None:
            if change.strict:
                raise LeaseLost(
                    f"attempt {finish.fence.epoch} no longer owns job {finish.fence.id}", job=finish.fence.id
                )
            return None
        status, reason = _verdict(job, finish)
        due = job.execute_after if status != "delayed" or finish.execute_after is None else finish.execute_after
        self._end_attempt(job, change.now, _outcome(status, reason, finish), finish.error)
        more: dict[str, Any] = {
            "execute_after": due,
            "rank": rank_of(job.row.lane, due, job.row.priority),
            "attempts": job.attempts - finish.refund,
            "crashes": job.crashes + finish.crash,
            "result": finish.result,
            "error": finish.error,
            # It is cleared of suspicion only by an attempt that came to its own end.
            "suspect": job.suspect and (finish.crash or finish.refund),
        }
        job = self._jobs.move(job, status, reason, change.now, **more)
        self._tell_end(job, change.now)
        return Finished(job.row.id, job.row.queue, job.row.lane, job.status, job.reason, job.execute_after)

    def _tell_end(self, job: _Job, now: int) -> None:
        what = {"pending": "requeued", "paused": "held"}.get(job.status, job.status)
        facts: dict[str, Any] = {} if job.reason is None else {"reason": job.reason}
        if job.status == "delayed":
            facts["execute_after"] = job.execute_after
        self._tell(job, now, what, **facts)

    def _held(self, fence: Fence) -> _Job | None:
        """The job, while *fence* is the attempt that owns it."""
        job = self._jobs.get(fence.seq)
        if job is None or job.status != "active":
            return None
        return job if (job.epoch, job.worker, job.boot) == (fence.epoch, fence.worker, fence.boot) else None

    def _end_attempt(self, job: _Job, now: int, outcome: str, error: str | None) -> None:
        key = (job.seq, job.epoch)
        ended = {"ended_at": now, "outcome": outcome, "error": _problem(error)}
        self._attempts.put(key, self._attempts[key].model_copy(update=ended))

    # -- what an attempt writes ----------------------------------------------------------------------------------------

    def _record_process(self, change: RecordProcess) -> bool:
        job = self._held(change.fence)
        if job is None:
            return False
        self._jobs.put(job.seq, replace(job, process=(change.pgid, change.started)))
        return True

    def _save_progress(self, change: SaveProgress) -> bool:
        job = self._held(change.fence)
        if job is None:
            return False
        self._jobs.put(job.seq, replace(job, progress=change.progress))
        return True

    def _append_logs(self, change: AppendLogs) -> bool:
        job = self._held(change.fence)
        if job is None:
            return False
        for n, (at, level, text) in enumerate(change.lines, job.lines + 1):
            self._logs.put((job.seq, n), LogLine(n=n, at=at, level=level, text=text))
            if n > MAX_LOG_LINES:
                self._logs.put((job.seq, n - MAX_LOG_LINES), None)
        self._jobs.put(job.seq, replace(job, lines=job.lines + len(change.lines)))
        return True

    # -- what people and the queue ask for -----------------------------------------------------------------------------

    def _cancel(self, change: CancelJobs) -> list[CancelResult | None]:
        return [self._cancel_one(self._find(job_id), change.now) for job_id in change.ids]

    def _cancel_one(self, job: _Job | None, now: int) -> CancelResult | None:
        if job is None:
            return None
        if job.status in ENDED:
            return CancelResult("too_late", job.status, job.status, *job.place)
        if job.status == "active":
            self._jobs.put(job.seq, replace(job, cancel_at=job.cancel_at or now, updated_at=now))
            self._tell(job, now, "cancel_requested")
            return CancelResult("requested", job.status, job.status, *job.place, fence=job.lease)
        self._tell_end(self._jobs.move(job, "cancelled", "user", now), now)
        return CancelResult("cancelled", "cancelled", job.status, *job.place)

    def _retry(self, change: RetryJobs) -> list[Retried | Status | None]:
        return [self._retry_one(self._find(job_id), change.now) for job_id in change.ids]

    def _retry_one(self, job: _Job | None, now: int) -> Retried | Status | None:
        if job is None or job.status not in ("failed", "cancelled"):
            return None if job is None else job.status
        fresh: dict[str, Any] = {"attempts": 0, "crashes": 0, "suspect": False, "cancel_at": None}
        fresh |= {"result": None, "error": None, "progress": None}
        rank = rank_of(job.row.lane, now, job.row.priority)
        before = job.status
        job = self._jobs.move(job, "pending", None, now, execute_after=now, rank=rank, **fresh)
        self._tell(job, now, "retried")
        return Retried(*job.place, before)

    def _promote(self, change: PromoteDue) -> tuple[tuple[str, Lane, int], ...]:
        due = islice((seq for at, seq in self._jobs.due if at <= change.now), change.limit)
        return self._make_pending([self._jobs[seq] for seq in due], change.now, lambda job: job.execute_after)

    def _release(self, change: ReleaseHeld) -> tuple[tuple[str, Lane, int], ...]:
        held = [job for job in self._jobs.values() if (job.status, job.reason) == ("paused", "hold")]
        known = [job for job in held if job.row.kind in change.kinds]
        return self._make_pending(known, change.now, lambda job: max(job.execute_after, change.now))

    def _make_pending(
        self, jobs: Iterable[_Job], now: int, eligible_at: Callable[[_Job], int]
    ) -> tuple[tuple[str, Lane, int], ...]:
        woken: Counter[tuple[str, Lane]] = Counter()
        for job in jobs:
            rank = rank_of(job.row.lane, eligible_at(job), job.row.priority)
            woken[self._jobs.move(job, "pending", None, now, rank=rank).place] += 1
        return tuple((queue, lane, n) for (queue, lane), n in sorted(woken.items()))

    def _recover(self, change: RecoverJobs) -> tuple[Recovered, ...]:
        orphans = [self._jobs[seq] for seq in self._jobs.active if _is_orphan(self._jobs[seq], change)]
        return tuple(self._recover_one(job, change) for job in orphans)

    def _recover_one(self, job: _Job, change: RecoverJobs) -> Recovered:
        status, reason, suspect, crashes = _blame(job, daemon_died=change.worker is None)
        self._end_attempt(job, change.now, "lost", None)
        more = {"suspect": suspect, "crashes": crashes, "attempts": job.attempts - 1}
        job = self._jobs.move(job, status, reason, change.now, **more)
        self._tell(job, change.now, "recovered", status=status, suspect=suspect)
        if status != "pending":
            self._tell_end(job, change.now)
        return Recovered(job.row.id, *job.place, status, suspect)

    def _find(self, job_id: str) -> _Job | None:
        seq = self._jobs.by_id.get(job_id)
        return None if seq is None else self._jobs[seq]

    # -- workers, queues, agents ---------------------------------------------------------------------------------------

    def _put_workers(self, change: PutWorkers) -> None:
        for worker in list(self._workers.values()):
            if worker.boot != change.boot and worker.status != "offline":
                worker = replace(worker, status="offline")
                self._workers.put(worker.id, worker)
            if worker.status == "offline" and worker.last_heartbeat_at < change.now - FORGET_WORKER_MS:
                self._workers.put(worker.id, None)
        for worker in change.workers:
            self._workers.put(worker.id, worker)

    def _heartbeat(self, change: Heartbeat) -> None:
        for worker_id, status in change.beats:
            worker = self._workers.get(worker_id)
            if worker is not None and worker.boot == change.boot:
                self._workers.put(worker_id, replace(worker, status=status, last_heartbeat_at=change.now))
        for job in [self._jobs[seq] for seq in self._jobs.active]:
            if job.boot == change.boot:
                self._jobs.put(job.seq, replace(job, lease_until=change.lease_until))

    def _remove_workers(self, change: RemoveWorkers) -> None:
        for worker_id in change.ids:
            self._workers.put(worker_id, None)

    def _set_queue(self, change: SetQueue) -> None:
        self._queues.put(change.name, QueueRow(change.name, change.paused))

    def _put_agent(self, change: PutAgent) -> None:
        self._agents.put(change.name, AgentRow(change.name, change.desired, change.observed, change.reason, change.now))

    def _save_state(self, change: SaveState) -> int:
        _check_json(change.state)
        row = self._states.get(change.agent)
        version = 0 if row is None else row.version
        if version != change.expected:
            raise VersionConflict(f"the state of {change.agent} is at version {version}, not {change.expected}")
        if row is not None and row.boot == change.boot and row.incarnation > change.incarnation:
            raise VersionConflict(f"incarnation {change.incarnation} of {change.agent} was replaced")
        self._states.put(
            change.agent,
            StateRow(
                change.agent,
                change.state,
                change.schema_version,
                version + 1,
                change.boot,
                change.incarnation,
                change.now,
            ),
        )
        return version + 1

    def _append_messages(self, change: AppendMessages) -> None:
        for message in change.messages:
            _check_json(message)
        key = (change.agent, change.conversation)
        self._messages.put(key, self._messages.get(key, ()) + change.messages)
        self._used.put(key, (change.now, self._next("use")))

    # -- events and settings -------------------------------------------------------------------------------------------

    def _append_events(self, change: AppendEvents) -> None:
        for type_, subject, data in change.events:
            self._emit(change.now, type_, subject, _check_json(data))

    def _prune_events(self, change: PruneEvents) -> int:
        going = sorted(self._events)[: max(0, len(self._events) - change.keep)]
        for offset in going:
            self._events.put(offset, None)
        return len(going)

    def _put_setting(self, change: PutSetting) -> None:
        _check_json(change.value)
        self._settings.put(change.name, change.value)

    # -- what is read --------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        await self._reading()
        job = self._find(job_id)
        if job is None:
            return None
        epochs = (self._attempts.get((job.seq, epoch)) for epoch in range(1, job.epoch + 1))
        return _view(job).model_copy(
            update={
                "payload": json.loads(job.row.args),
                "data": _parsed(job.row.data),
                "result": _parsed(job.result),
                "error": _problem(job.error),
                "progress": _parsed(job.progress),
                "history": tuple(attempt for attempt in epochs if attempt is not None),
            }
        )

    async def jobs(
        self,
        *,
        status: Status | None = None,
        queue: str | None = None,
        kind: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> tuple[JobView, ...]:
        await self._reading()
        wanted = (
            job
            for job in sorted(self._jobs.values(), key=lambda job: job.row.id, reverse=True)
            if (before is None or job.row.id < before)
            and status in (None, job.status)
            and queue in (None, job.row.queue)
            and kind in (None, job.row.kind)
        )
        return tuple(_view(job) for job in islice(wanted, limit))

    async def job_logs(
        self, job_id: str, *, after: int = 0, tail: int | None = None, limit: int = 1000
    ) -> tuple[LogLine, ...] | None:
        await self._reading()
        job = self._find(job_id)
        if job is None:
            return None
        if tail is not None:
            after, limit = max(after, job.lines - tail), tail
        first = max(after, job.lines - MAX_LOG_LINES) + 1
        return tuple(self._logs[job.seq, n] for n in range(first, min(job.lines, first + limit - 1) + 1))

    async def counts(self, *, ended: bool) -> dict[tuple[str, Lane, Status], int]:
        await self._reading()
        return dict(Counter((*job.place, job.status) for job in self._jobs.values() if (job.status in ENDED) == ended))

    async def next_due(self) -> int | None:
        await self._reading()
        return self._jobs.due[0][0] if self._jobs.due else None

    async def suspects(self) -> tuple[tuple[str, str], ...]:
        await self._reading()
        jobs = (job for job in self._jobs.values() if job.suspect and job.row.lane == "agent")
        return tuple((job.row.id, job.row.queue) for job in jobs if job.status not in ENDED)

    async def processes(self, boot: str) -> tuple[ProcessRow, ...]:
        await self._reading()
        active = (self._jobs[seq] for seq in self._jobs.active)
        return tuple(ProcessRow(job.row.id, *job.process) for job in active if job.process and job.boot != boot)

    async def workers(self) -> tuple[WorkerRow, ...]:
        await self._reading()
        return tuple(self._workers[name] for name in sorted(self._workers))

    async def queues(self) -> tuple[QueueRow, ...]:
        await self._reading()
        return tuple(self._queues[name] for name in sorted(self._queues))

    async def agents(self) -> tuple[AgentRow, ...]:
        await self._reading()
        return tuple(self._agents[name] for name in sorted(self._agents))

    async def state(self, agent: str) -> StateRow | None:
        await self._reading()
        return self._states.get(agent)

    async def conversations(self, agent: str) -> tuple[str, ...]:
        await self._reading()
        used = sorted(((at, name) for (of, name), at in self._used.items() if of == agent), reverse=True)
        return tuple(name for _, name in used)

    async def messages(self, agent: str, conversation: str, *, limit: int = 100) -> tuple[str, ...]:
        await self._reading()
        return self._messages.get((agent, conversation), ())[-limit:]

    async def events(
        self, *, after: int, types: tuple[str, ...] = (), subject: str | None = None, limit: int = 1000
    ) -> tuple[Event, ...]:
        await self._reading()
        first = max(after + 1, self._oldest())
        kept = (self._events[offset] for offset in range(first, self._last.get("event", 0) + 1))
        wanted = (event for event in kept if subject in (None, event.subject) and _is_of(event.type, types))
        return tuple(islice(wanted, limit))

    async def event_bounds(self) -> tuple[int, int]:
        await self._reading()
        return self._oldest(), self._last.get("event", 0)

    async def setting(self, name: str) -> str | None:
        await self._reading()
        return self._settings.get(name)

    async def _reading(self) -> None:
        await checkpoint()
        self._check_open()

    def _oldest(self) -> int:
        # Only the oldest ever go, so what is kept is one unbroken stretch up to the newest.
        return self._last.get("event", 0) - len(self._events) + 1

    _VERBS: ClassVar[dict[type[Change], Callable[["MemoryStore", Any], Any]]] = {
        InsertJobs: _insert,
        ClaimJobs: _claim,
        FinishJobs: _finish,
        RecordProcess: _record_process,
        SaveProgress: _save_progress,
        AppendLogs: _append_logs,
        CancelJobs: _cancel,
        RetryJobs: _retry,
        PromoteDue: _promote,
        ReleaseHeld: _release,
        RecoverJobs: _recover,
        PutWorkers: _put_workers,
        Heartbeat: _heartbeat,
        RemoveWorkers: _remove_workers,
        SetQueue: _set_queue,
        PutAgent: _put_agent,
        SaveState: _save_state,
        AppendMessages: _append_messages,
        AppendEvents: _append_events,
        PruneEvents: _prune_events,
        PutSetting: _put_setting,
    }


# -- rules without a store ---------------------------------------------------------------------------------------------


def _gate(execute_after: int, now: int) -> tuple[Status, str | None]:
    return ("delayed", "scheduled") if execute_after > now else ("pending", None)


def _verdict(job: _Job, finish: Finish) -> tuple[Status, str | None]:
    """Where an attempt's end leaves its job: a wish to cancel wins over all but success, a crash too many is poison."""
    if finish.status == "completed":
        return "completed", None
    if job.cancel_at is not None:
        return "cancelled", "user"
    if finish.crash and job.crashes + 1 >= MAX_CRASHES:
        return "failed", "poison"
    return finish.status, finish.reason


def _outcome(status: Status, reason: str | None, finish: Finish) -> str:
    """How the attempt is remembered."""
    if finish.crash:
        return "crashed"
    return {"pending": "requeued", "delayed": reason or "delayed", "paused": "held"}.get(status, status)


def _is_orphan(job: _Job, change: RecoverJobs) -> bool:
    if change.worker is None:
        return job.boot != change.boot
    return (job.boot, job.worker) == (change.boot, change.worker)


def _blame(job: _Job, *, daemon_died: bool) -> tuple[Status, str | None, bool, int]:
    """Return status, reason, suspect and crashes of a job whose owner died (the table in `RecoverJobs`)."""
    in_daemon = daemon_died and job.row.user_code and job.row.lane != "child"
    ran_alone = in_daemon and job.suspect and job.row.lane == "agent"
    crashes = job.crashes + ran_alone
    suspect = job.suspect or in_daemon
    if job.cancel_at is not None:
        return "cancelled", "user", suspect, crashes
    if ran_alone and crashes >= MAX_CRASHES:
        return "failed", "poison", suspect, crashes
    return "pending", None, suspect, crashes


def _is_of(type_: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or any(type_.startswith(want[:-1]) if want.endswith("*") else type_ == want for want in wanted)


def _claimed(job: _Job, worker: str, boot: str) -> Claimed:
    row = job.row
    return Claimed(
        seq=job.seq,
        id=row.id,
        epoch=job.epoch,
        worker=worker,
        boot=boot,
        kind=row.kind,
        queue=row.queue,
        lane=row.lane,
        args=row.args,
        attempt=job.attempts,
        max_attempts=row.max_attempts,
        crashes=job.crashes,
        suspect=job.suspect,
        timeout_ms=row.timeout_ms,
        retry=row.retry,
        conversation=row.conversation,
        created_at=job.created_at,
    )


def _view(job: _Job) -> JobView:
    row = job.row
    return JobView(
        id=row.id,
        name=row.kind,
        queue=row.queue,
        status=job.status,
        reason=job.reason,
        priority=row.priority,
        attempts=job.attempts,
        max_attempts=row.max_attempts,
        crashes=job.crashes,
        key=row.key,
        worker=job.worker,
        conversation=row.conversation,
        timeout_ms=row.timeout_ms,
        created_at=job.created_at,
        updated_at=job.updated_at,
        execute_after=job.execute_after,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _check_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"that is no JSON: {error}") from error


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _problem(text: str | None) -> Problem | None:
    return None if text is None else Problem.model_validate_json(text)
