"""The queue: takes jobs in, hands them to workers that have room, and records how they end, many to one commit."""

import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.to_thread

from actors.company import Company
from actors.settle import settle
from runtime import log
from runtime.attempt import MAX_ERROR_TEXT
from runtime.core.actor import Actor, Promise, Terminated, handles
from runtime.core.deadlines import Timer
from runtime.errors import ActorError, JobNotFound, KeyConflict, MailboxFull, NotRetryable, StoreError, problem
from runtime.sandbox.process import host_boot, kill_group
from runtime.store import port
from schemas.base import Message
from schemas.events import Event
from schemas.jobs import (
    ENDED,
    Assignment,
    CancelJob,
    Cancelled,
    JobAdded,
    JobEnded,
    JobLogged,
    JobProcess,
    JobProgress,
    JobSettled,
    Lane,
    Lease,
    Outcome,
    RetryJob,
    RunJob,
    Status,
    SubmitJob,
    Submitted,
    WorkerReady,
)

logger = log.get(__name__)

WRITE_SOFT_EVERY: Final = 0.1
RETRY_STORE_AFTER: Final = 1.0
NO_ROOM: Final = Outcome(ok=False, snooze=True, retry_after_ms=1000)


Ended = tuple[port.Claimed, Outcome]


class Tick(Message, type="queue.tick"):
    """Something is due: `what` says which."""

    what: str


class Left(Message, type="queue.left"):
    """A worker has gone, and everything it told before has been heard."""

    worker: str
    seat: int


class Seat:
    """A worker as the queue sees it: how many jobs it may hold and which it holds."""

    __slots__ = ("held", "incarnation", "lane", "leaving", "name", "number", "queue", "since", "slots", "user_code")

    def __init__(self, ready: WorkerReady, number: int, now: int) -> None:
        self.since = now
        self.number = number
        self.leaving = False
        self.name, self.lane, self.queue = ready.worker, ready.lane, ready.queue
        self.slots, self.user_code, self.incarnation = ready.slots, ready.user_code, ready.incarnation
        self.held: dict[str, port.Claimed] = {}

    @property
    def room(self) -> int:
        return 0 if self.leaving else self.slots - len(self.held)


class Queue(Actor):
    """The one actor that writes the life of jobs.

    Handlers only note what is wanted. When the mailbox is drained, everything noted becomes one commit, together with
    the next claims; then askers are answered and workers get their jobs. So one sync serves however many asked at
    once.
    """

    def __init__(self, house: Company) -> None:
        self.house = house
        self.seats: dict[str, Seat] = {}
        self.seated = 0
        self.idle: dict[Lane, deque[str]] = {"loop": deque(), "child": deque()}
        self.pending: dict[tuple[str, Lane], int] = {}
        self.active: dict[str, int] = {}
        self.gated: set[str] = set()
        self.suspects: dict[str, str] = {}
        self.doubtful: set[str] = set()
        self.differs: dict[tuple[str, str], int] = {}
        self.turn = 0
        self.draining = False
        # noted since the last commit
        self.inserts: list[tuple[port.JobRow, Promise]] = []
        self.ends: list[Ended] = []
        self.cancels: list[tuple[str, Promise]] = []
        self.retries: list[tuple[str, Promise]] = []
        self.processes: list[tuple[port.RecordProcess, Promise]] = []
        self.lost: list[str] = []
        self.logs: list[port.AppendLogs] = []
        self.progress: dict[int, port.SaveProgress] = {}
        self.ticks: set[str] = set()
        self.next_due: int | None = None
        self.store_down = False
        self.alarm: Timer | None = None
        self.another_try: Timer | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        store, house = self.house.store, self.house
        now = house.clock.now()
        for worker in await store.workers():
            if worker.boot == house.boot:  # this queue was restarted, its workers with it: nobody holds anything
                await store.commit([port.RecoverJobs(house.boot, now, worker=worker.id)])
        await self._end_survivors()
        await store.commit([port.RecoverJobs(house.boot, now), port.ReleaseHeld(house.kinds.names(), now)])
        house.workers.clear()
        await self._load_counts()  # ended ones too, while nobody works: what ends during a later look would count twice
        self.suspects = dict(await store.suspects())
        self.next_due = await store.next_due()
        settings = house.loaded.settings
        paused = tuple(port.SetQueue(name, q.paused, now) for name, q in settings.queues.items())
        if paused:
            await store.commit(paused)
        self._arm()
        self.ctx.after(settings.runtime.heartbeat / 1000, Tick(what="beat"))
        self.ctx.after(settings.runtime.reconcile / 1000, Tick(what="reconcile"))

    async def _end_survivors(self) -> None:
        """End what outlived an earlier daemon, before its jobs may start anew: never two at work on one."""
        store, here = self.house.store, json.dumps(host_boot())
        if await store.setting("host_boot") == here:  # else the machine was started anew, and nothing can have survived
            for left in await store.processes(self.house.boot):
                if await anyio.to_thread.run_sync(kill_group, left.pgid, left.started):
                    logger.warning("survivor_ended", job=left.job, pgid=left.pgid)
        else:
            await store.commit([port.PutSetting("host_boot", here)])

    async def _load_counts(self) -> None:
        found = await self.house.store.counts(ended=False) | await self.house.store.counts(ended=True)
        self.house.counts.clear()
        self.pending.clear()
        self.active.clear()
        for (queue, lane, status), count in found.items():
            self.house.count(queue, status, count)
            if status == "pending":
                self.pending[queue, lane] = count
            elif status == "active":
                self.active[queue] = self.active.get(queue, 0) + count

    async def on_stop(self, reason: str) -> None:
        self.draining = True
        if reason in ("stop", "shutdown"):  # how jobs ended in the last moment is not lost with the mailbox
            for message in self.ctx.last_told():
                match message:
                    case JobEnded():
                        self.ended(message)
                    case JobSettled():
                        self.settled(message)
                    case JobLogged():
                        self.logged(message)
        await self._flush()

    # -- what may be asked -------------------------------------------------------------------------------------------

    @handles
    def submit(self, message: SubmitJob) -> None:
        row = self.house.kinds.prepare(message.job, self.house.clock.new_id(), self.house.clock.now())
        self.inserts.append((row, self.reply_later()))

    @handles
    def cancel(self, message: CancelJob) -> None:
        self.cancels.append((message.id, self.reply_later()))

    @handles
    def retry(self, message: RetryJob) -> None:
        self.retries.append((message.id, self.reply_later()))

    # -- what workers tell -------------------------------------------------------------------------------------------

    @handles
    def ready(self, message: WorkerReady) -> None:
        worker = self.ctx.actor(message.worker)
        self._forget(message.worker)
        self.seated += 1
        seat = self.seats[message.worker] = Seat(message, self.seated, self.house.clock.now())
        self.house.workers[seat.name] = 0
        if seat.lane != "agent":
            self.idle[seat.lane].append(seat.name)
        if seat.queue is not None:
            self.gated.discard(seat.queue)
        self.ctx.watch(worker)
        self.ticks.add("workers")

    @handles
    def gone(self, message: Terminated) -> None:
        """A worker's end overtakes what it told before; how its last job ended must not be lost over it."""
        seat = self.seats.get(message.name)
        if seat is None:
            return
        self._give_nothing_more(seat)
        try:
            self.ctx.ref.tell_nowait(Left(worker=seat.name, seat=seat.number))
        except MailboxFull:
            self._forget(seat.name)

    def _give_nothing_more(self, seat: Seat) -> None:
        seat.leaving = True
        if seat.lane != "agent" and seat.name in self.idle[seat.lane]:
            self.idle[seat.lane].remove(seat.name)

    @handles
    def left(self, message: Left) -> None:
        seat = self.seats.get(message.worker)
        if seat is not None and seat.number == message.seat:
            self._forget(message.worker)

    def _forget(self, worker: str) -> None:
        """Take a seat away; what it held goes back to the queue in the next commit."""
        seat = self.seats.pop(worker, None)
        if seat is None:
            return
        self.house.workers.pop(worker, None)
        self._give_nothing_more(seat)
        if seat.held:
            self.doubtful.discard(worker)
            self.lost.append(worker)
            for claimed in seat.held.values():
                self.active[claimed.queue] -= 1
                self.house.board.over(claimed.id)
        self.ticks.add("workers")

    @handles
    def ended(self, message: JobEnded) -> None:
        claimed = self._release(message.lease)
        if claimed is not None:
            self.ends.append((claimed, message.outcome))

    @handles
    def settled(self, message: JobSettled) -> None:
        claimed = self._release(message.lease)
        if claimed is not None:
            self.suspects.pop(claimed.id, None)
            self._moved(claimed.queue, claimed.lane, "active", message.status)
            self._came_due(message.status, message.execute_after)

    @handles
    def added(self, message: JobAdded) -> None:
        self._moved(message.queue, message.lane, None, message.status)
        self._came_due(message.status, message.execute_after)

    def _release(self, lease: Lease) -> port.Claimed | None:
        """Free the seat of an attempt that ended; None where it is no longer the one that counts."""
        seat = self.seats.get(lease.worker)
        claimed = seat.held.get(lease.id) if seat is not None else None
        if seat is None or claimed is None or claimed.epoch != lease.epoch:
            return None
        del seat.held[lease.id]
        self.house.board.over(lease.id)
        self.house.workers[seat.name] = len(seat.held)
        self.active[claimed.queue] -= 1
        self.gated.discard(claimed.queue)
        if seat.lane != "agent" and not seat.leaving:
            self.idle[seat.lane].append(seat.name)
        if seat.name in self.doubtful:
            self._take_back(seat.name)
        return claimed

    @handles
    def process(self, message: JobProcess) -> None:
        self.processes.append((port.RecordProcess(message.lease, message.pgid, message.started), self.reply_later()))

    @handles
    def progressed(self, message: JobProgress) -> None:
        now = self.house.clock.now()
        self._tell(message.lease.id, "job.progress", {"progress": message.progress}, now)
        self.progress[message.lease.seq] = port.SaveProgress(message.lease, json.dumps(message.progress), now)
        self._soon()

    @handles
    def logged(self, message: JobLogged) -> None:
        for at, level, text in message.lines:
            self._tell(message.lease.id, "job.log", {"level": level, "text": text}, at)
        self.logs.append(port.AppendLogs(message.lease, message.lines))
        self._soon()

    def _tell(self, job: str, kind: str, data: dict[str, Any], now: int) -> None:
        if self.house.bus.listens(job):
            self.house.bus.publish([Event(at=now, type=kind, subject=job, data=data)])

    def _soon(self) -> None:
        """Have progress and logs written within a moment; many a moment cost one write."""
        if "soft" not in self.ticks:
            self.ticks.add("soft")
            self.ctx.after(WRITE_SOFT_EVERY, Tick(what="write"))

    # -- time --------------------------------------------------------------------------------------------------------

    @handles
    def tick(self, message: Tick) -> None:
        # A beat is what shows that the store takes writes again, where nothing else waits to be written.
        self.ticks.add("beat" if message.what == "store" else message.what)
        self.store_down = False  # whatever woke us, it is worth another try
        runtime = self.house.loaded.settings.runtime
        if message.what == "beat":
            self.ctx.after(runtime.heartbeat / 1000, message)
        elif message.what == "reconcile":
            self.gated.clear()
            self.ctx.after(runtime.reconcile / 1000, message)

    def _came_due(self, status: Status, at: int) -> None:
        if status == "delayed" and (self.next_due is None or at < self.next_due):
            self.next_due = at
            self._arm()

    def _arm(self) -> None:
        """Set the alarm for the next delayed job; a jump of the wall clock is put right by the reconciling tick."""
        if self.next_due is not None:
            wait = max(0, self.next_due - self.house.clock.now()) / 1000
            if self.alarm is not None:
                self.alarm.cancel()
            self.alarm = self.ctx.after(min(wait, 3600.0), Tick(what="due"))

    # -- one commit for everything -----------------------------------------------------------------------------------

    async def after_batch(self) -> None:
        await self._flush()

    async def _flush(self) -> None:
        """Commit what was noted and claim for whoever has room, until there is nothing left to do."""
        if "reconcile" in self.ticks:
            await self._look(self._reconcile)
        while True:
            changes, done = self._gather()
            if not changes:
                return
            try:
                results = await self.house.store.commit(changes)
            except StoreError as error:
                self._store_failed(error, done)
                return
            self.store_down = False
            self.house.store_trouble = None
            claimed = 0
            for (on_result, _), result in zip(done, results, strict=True):
                claimed += on_result(result) or 0
            if self.next_due is not None and self.next_due <= self.house.clock.now() and "due" not in self.ticks:
                await self._look(self._next_alarm)

    async def _look(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except StoreError as error:
            self._store_failed(error, [])

    async def _next_alarm(self) -> None:
        self.next_due = await self.house.store.next_due()
        self._arm()

    async def _reconcile(self) -> None:
        """Compare memory with the database: after a commit whose outcome nobody heard, the database is right.

        An agent's own commit may be heard of a moment later, so only what differs twice in the same way is put right.
        """
        kept = {(queue, status): n for queue, of in self.house.counts.items() for status, n in of.items()}
        differs = {key: -n for key, n in kept.items() if key[1] not in ENDED}
        for (queue, _, status), count in (await self.house.store.counts(ended=False)).items():
            differs[queue, status] = differs.get((queue, status), 0) + count
        differs = {key: by for key, by in differs.items() if by}
        if differs and differs == self.differs:
            logger.warning("counts_repaired", differs=[(*key, by) for key, by in differs.items()])
            await self._load_counts()
        self.differs = differs
        await self._next_alarm()

    def _gather(
        self,
    ) -> tuple[list[port.Change], list[tuple[Callable[[Any], int | None], Callable[[StoreError], None]]]]:
        """Return the changes to commit, and for each what to do with its result or with its failure."""
        now = self.house.clock.now()
        changes: list[port.Change] = []
        done: list[tuple[Callable[[Any], int | None], Callable[[StoreError], None]]] = []

        def add(
            change: port.Change, on_result: Callable[[Any], int | None], on_failure: Callable[[StoreError], None]
        ) -> None:
            changes.append(change)
            done.append((on_result, on_failure))

        self._gather_attempts(add, now)
        self._gather_asked(add, now)
        self._gather_time(add, now)
        if not (self.draining or self.house.draining or self.store_down):
            self._gather_claims(add, now)
        return changes, done

    def _gather_attempts(self, add: Callable[..., None], now: int) -> None:
        """What attempts wrote comes before how they ended: an ended attempt may write no more."""
        ends, logs, progress = self.ends, self.logs, self.progress
        if logs and (ends or "write" in self.ticks or self.draining):
            self.logs = []
            for line in logs:
                add(line, ignore, lambda _, line=line: self.logs.append(line))
        if progress and (ends or "write" in self.ticks or self.draining):
            self.progress = {}
            for change in progress.values():
                add(change, ignore, ignore)
        if "write" in self.ticks:
            self.ticks -= {"write", "soft"}
        if self.processes:
            processes, self.processes = self.processes, []
            for record, promise in processes:
                add(record, promise.resolve, promise.fail)
        if ends:
            self.ends = []
            finishes = tuple(self._settle(claimed, outcome, now) for claimed, outcome in ends)
            add(port.FinishJobs(finishes, now), self._finished, lambda _: self.ends.extend(ends))
        if self.lost:  # after the ends: taking back all of a worker must not take what it had ended before
            lost, self.lost = self.lost, []
            for worker in lost:
                recover = port.RecoverJobs(self.house.boot, now, worker=worker)
                add(recover, self._recovered, lambda _, worker=worker: self.lost.append(worker))

    def _settle(self, claimed: port.Claimed, outcome: Outcome, now: int) -> port.Finish:
        result = None
        if outcome.ok:
            try:
                result = port_json(outcome.result)
            except (TypeError, ValueError, RecursionError) as error:  # it must not take down others' commit
                outcome = no_json(error)
        finish = settle(claimed, outcome, result, now, self.house.clock.random())
        if not (finish.refund or finish.crash):  # it came to its own end, so it is under suspicion no more
            self.suspects.pop(claimed.id, None)
        return finish

    def _gather_asked(self, add: Callable[..., None], now: int) -> None:
        if self.inserts:
            inserts, self.inserts = self.inserts, []
            rows = tuple(row for row, _ in inserts)
            add(
                port.InsertJobs(rows, now),
                lambda found: self._inserted(inserts, found),
                fail_all(p for _, p in inserts),
            )
        if self.cancels:
            cancels, self.cancels = self.cancels, []
            change = port.CancelJobs(tuple(job for job, _ in cancels), now)
            add(change, lambda found: self._cancelled(cancels, found), fail_all(p for _, p in cancels))
        if self.retries:
            retries, self.retries = self.retries, []
            back = port.RetryJobs(tuple(job for job, _ in retries), now)
            add(back, lambda found: self._retried(retries, found), fail_all(p for _, p in retries))

    def _gather_time(self, add: Callable[..., None], now: int) -> None:
        if "due" in self.ticks or "reconcile" in self.ticks:
            self.ticks -= {"due", "reconcile"}
            if self.next_due is not None and self.next_due <= now:
                add(port.PromoteDue(now), self._promoted, lambda _: self.ticks.add("due"))
            else:
                self._arm()
        if "kinds" in self.ticks:
            self.ticks.discard("kinds")
            change = port.ReleaseHeld(self.house.kinds.names(), now)
            add(change, self._unheld, lambda _: self.ticks.add("kinds"))
        if self.ticks & {"beat", "workers"}:
            fresh = "workers" in self.ticks
            self.ticks -= {"beat", "workers"}
            if fresh:
                add(self._workers_change(now), ignore, lambda _: self.ticks.add("workers"))
            else:
                add(self._beat(now), ignore, ignore)

    def _workers_change(self, now: int) -> port.PutWorkers:
        rows = tuple(
            port.WorkerRow(
                id=seat.name,
                agent=seat.queue.removeprefix("agent:") if seat.queue else None,
                lane=seat.lane,
                status="busy" if seat.held else "idle",
                boot=self.house.boot,
                pid=self.house.pid,
                created_at=seat.since,
                last_heartbeat_at=now,
            )
            for seat in self.seats.values()
        )
        return port.PutWorkers(rows, self.house.boot, now)

    def _beat(self, now: int) -> port.Heartbeat:
        """In-loop workers beat from the loop: that this runs is the proof that they could."""
        beats = tuple((seat.name, "busy" if seat.held else "idle") for seat in self.seats.values())
        return port.Heartbeat(beats, self.house.boot, now, now + self.house.loaded.settings.runtime.lease)  # type: ignore[arg-type]

    # -- claims ------------------------------------------------------------------------------------------------------

    def _gather_claims(self, add: Callable[..., None], now: int) -> None:
        lease_until = now + self.house.loaded.settings.runtime.lease
        for queue, lane, workers in self._plan():
            change = port.ClaimJobs(queue, lane, workers, self.house.boot, now, lease_until)
            add(
                change,
                lambda claimed, change=change: self._claimed(change, claimed),
                lambda error, change=change: self._doubt(change, error),
            )

    def _plan(self) -> list[tuple[str, Lane, tuple[str, ...]]]:
        """Decide who may claim what: as many of each queue as there is room for, queues taking turns to be first."""
        waiting = [key for key, count in self.pending.items() if count > 0 and key[0] not in self.gated]
        if not waiting:
            return []
        cut = self.turn % len(waiting)
        plan: list[tuple[str, Lane, tuple[str, ...]]] = []
        room = {lane: len(idle) for lane, idle in self.idle.items()}
        planned: dict[str, int] = {}  # both lanes of a queue share its limit
        alone = self._next_suspect()
        for queue, lane in waiting[cut:] + waiting[:cut]:
            if lane == "agent":
                workers = self._agent_room(queue, alone)
            elif lane == "loop" and alone is not None:
                continue  # nothing else of the user's may run in the daemon beside a suspect, or the blame is a guess
            else:
                idle, limit = self.idle[lane], self._queue_room(queue) - planned.get(queue, 0)
                count = max(0, min(room[lane], self.pending[queue, lane], limit))
                start = len(idle) - room[lane]
                workers = tuple(idle[i] for i in range(start, start + count))
                room[lane] -= count
                planned[queue] = planned.get(queue, 0) + count
            if workers:
                plan.append((queue, lane, workers))
        self.turn += bool(plan)  # only what was handed out is a turn, else two looks a turn would favour one of two
        return plan

    def _queue_room(self, queue: str) -> int:
        settings = self.house.loaded.settings.queues.get(queue)
        if settings is None or settings.max_active is None:
            return 1_000_000
        return max(0, settings.max_active - self.active.get(queue, 0))

    def _next_suspect(self) -> str | None:
        """Return the queue whose suspect runs alone, now or next. One that cannot start at present holds up nobody."""
        for job, queue in self.suspects.items():
            seat = self.seats.get(queue)
            if seat is not None and job in seat.held:
                return queue
            waits = self.pending.get((queue, "agent"), 0) > 0 and queue not in self.gated
            if waits and self._is_expected(queue):
                return queue
        return None

    def _is_expected(self, agent: str) -> bool:
        """Tell whether an agent is up, or will be without anybody's doing."""
        if agent in self.seats:
            return True
        system = self.ctx.system
        return system.has(agent) and system.cell(agent).state not in ("quarantined", "stopped", "suspended")

    def _agent_room(self, queue: str, alone: str | None) -> tuple[str, ...]:
        seat = self.seats.get(queue)
        if seat is None or seat.name in self.doubtful:
            return ()
        room = min(seat.room, self.pending[queue, "agent"])
        if alone is not None and seat.user_code:
            room = min(room, 1) if queue == alone and not self._user_code_runs() else 0
        return (seat.name,) * max(0, room)

    def _user_code_runs(self) -> bool:
        """Tell whether anything of the user's runs inside the daemon."""
        return any(seat.held and self._runs_user_code(seat) for seat in self.seats.values())

    def _runs_user_code(self, seat: Seat) -> bool:
        if seat.lane != "loop":
            return seat.user_code
        kinds = self.house.kinds
        found = [kinds.get(job.kind) for job in seat.held.values() if not job.suspect]  # suspects run in a child
        return any(kind is None or kind.user_code for kind in found)

    def _claimed(self, change: port.ClaimJobs, claimed: tuple[port.Claimed, ...]) -> int:
        if len(claimed) < len(change.workers):
            # Paused, or every conversation waits for its head: not asked again until something of it moves.
            self.gated.add(change.queue)
        for job in claimed:
            self._moved(job.queue, job.lane, "pending", "active")
            self._hand_over(job)
        return len(claimed)

    def _doubt(self, change: port.ClaimJobs, error: StoreError) -> None:
        """A claim may have happened unheard; then it is taken back before its worker is given anything else."""
        if type(error) is StoreError:  # of its kinds, each says that nothing was written
            for worker in set(change.workers):
                self._take_back(worker)

    def _take_back(self, worker: str) -> None:
        """Have all that *worker* holds by the database go back, as soon as nothing of it really runs."""
        seat = self.seats.get(worker)
        if seat is not None and seat.held:
            self.doubtful.add(worker)
        else:
            self.doubtful.discard(worker)
            self.lost.append(worker)

    def _hand_over(self, job: port.Claimed) -> None:
        seat = self.seats.get(job.worker)
        if seat is None:
            return  # it was found gone over another job of this claim; all it held goes back, this job too
        seat.held[job.id] = job
        self.house.workers[seat.name] = len(seat.held)
        self.active[job.queue] = self.active.get(job.queue, 0) + 1
        if seat.lane != "agent":
            self.idle[seat.lane].remove(seat.name)
        lease = Lease(seq=job.seq, id=job.id, epoch=job.epoch, worker=job.worker, boot=job.boot)
        try:
            message = RunJob(assignment=assignment(job, lease), incarnation=seat.incarnation)
            self.ctx.actor(job.worker).tell_nowait(message)
        except MailboxFull:  # it is there and busy: only this message waits a little
            self._release(lease)
            self.ends.append((job, NO_ROOM))
        except ActorError:
            self._forget(job.worker)  # it has just gone; what it held, this job too, goes back

    # -- results -----------------------------------------------------------------------------------------------------

    def _inserted(self, inserts: list[tuple[port.JobRow, Promise]], found: list[port.Inserted]) -> None:
        for (row, promise), result in zip(inserts, found, strict=True):
            if result.conflict:
                promise.fail(
                    KeyConflict(f"the key {row.key!r} belongs to job {result.id} with other arguments", job=result.id)
                )
                continue
            if not result.existing:
                self._moved(row.queue, row.lane, None, result.status)
                self._came_due(result.status, row.execute_after)
            promise.resolve(Submitted(id=result.id, status=result.status, existing=result.existing))

    def _finished(self, found: list[port.Finished | None]) -> None:
        for result in found:
            if result is not None:
                self._moved(result.queue, result.lane, "active", result.status)
                self._came_due(result.status, result.execute_after)

    def _cancelled(self, cancels: list[tuple[str, Promise]], found: list[port.CancelResult | None]) -> None:
        for (job, promise), result in zip(cancels, found, strict=True):
            if result is None:
                promise.fail(JobNotFound(f"there is no job {job}", job=job))
                continue
            if result.outcome == "cancelled":
                self.suspects.pop(job, None)
                self._moved(result.queue, result.lane, result.before, "cancelled")
            elif result.fence is not None:
                self.house.board.cancel(job, result.fence.epoch)
            promise.resolve(Cancelled(id=job, outcome=result.outcome, status=result.status))

    def _retried(self, retries: list[tuple[str, Promise]], found: list[port.Retried | Status | None]) -> None:
        for (job, promise), result in zip(retries, found, strict=True):
            if isinstance(result, port.Retried):
                self._moved(result.queue, result.lane, result.before, "pending")
                promise.resolve(Submitted(id=job, status="pending"))
            elif result is None:
                promise.fail(JobNotFound(f"there is no job {job}", job=job))
            else:
                promise.fail(
                    NotRetryable(f"job {job} is {result}; only failed and cancelled jobs are retried", status=result)
                )

    def _recovered(self, found: tuple[port.Recovered, ...]) -> None:
        for job in found:
            self._moved(job.queue, job.lane, "active", job.status)
            if job.status in ENDED:
                self.suspects.pop(job.id, None)

    def _promoted(self, found: tuple[tuple[str, Lane, int], ...]) -> None:
        for queue, lane, count in found:
            self._moved(queue, lane, "delayed", "pending", count)

    def _unheld(self, found: tuple[tuple[str, Lane, int], ...]) -> None:
        for queue, lane, count in found:
            self._moved(queue, lane, "paused", "pending", count)

    def _moved(self, queue: str, lane: Lane, before: Status | None, after: Status, count: int = 1) -> None:
        """Keep the counts and open what waited for a move of this queue."""
        self.gated.discard(queue)
        if before is not None:
            self.house.count(queue, before, -count)
        self.house.count(queue, after, count)
        if before == "pending":
            self.pending[queue, lane] = self.pending.get((queue, lane), 0) - count
        if after == "pending":
            self.pending[queue, lane] = self.pending.get((queue, lane), 0) + count

    def _store_failed(self, error: StoreError, done: list[tuple[Any, Callable[[StoreError], None]]]) -> None:
        """Refuse who asked, keep what attempts reported, and try again in a second: degraded, not dead."""
        self.store_down = True
        self.house.store_trouble = error.detail
        for _, on_failure in done:
            on_failure(error)
        if self.another_try is None or self.another_try.over:
            self.another_try = self.ctx.after(RETRY_STORE_AFTER, Tick(what="store"))


def ignore(_: Any) -> None:
    """Nothing hangs on it."""


def fail_all(promises: Any) -> Callable[[StoreError], None]:
    """Return what tells all *promises* of a failure."""
    kept = list(promises)

    def fail(error: StoreError) -> None:
        for promise in kept:
            promise.fail(error)

    return fail


encode_result = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def port_json(value: Any) -> str | None:
    """Return a result as JSON text; None stays None. Raises TypeError, ValueError or RecursionError for no JSON."""
    if value is None:
        return None
    text = encode_result(value)
    text.encode()  # half a surrogate pair is no text that a store could keep
    return text


def no_json(error: Exception) -> Outcome:
    """Return the outcome of an attempt whose result cannot be kept; no other attempt will do better."""
    why = problem("job.failed", f"the result cannot be written as JSON: {error}"[:MAX_ERROR_TEXT])
    return Outcome(ok=False, error=why, error_class="permanent")


def assignment(job: port.Claimed, lease: Lease) -> Assignment:
    """Return what a worker needs of a claimed job."""
    return Assignment(
        lease=lease,
        kind=job.kind,
        queue=job.queue,
        lane=job.lane,
        args=json.loads(job.args),
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        crashes=job.crashes,
        suspect=job.suspect,
        timeout_ms=job.timeout_ms,
        conversation=job.conversation,
        created_at=job.created_at,
    )
