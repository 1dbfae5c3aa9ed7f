"""The queue: takes jobs in, hands them to workers that have room, and records how they end, many to one commit."""

import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import anyio.to_thread

from actors.alarms import Alarms, Tick
from actors.asked import Asked, Notes, inserted
from actors.beats import Beats
from actors.company import Company
from actors.ends import NO_ROOM, Ends
from actors.entry import Entry, again, fail_all, given_up
from actors.plan import Planner, Share
from actors.rows import Rows
from actors.seats import Seats
from actors.tally import Tally
from actors.words import KEPT, Words
from runtime import log
from runtime.attempt import STOPPED
from runtime.core.actor import Promise, Terminated, handles
from runtime.core.deadlines import Timer
from runtime.errors import ActorError, MailboxFull, StoreError, StoreRejected, UnderstudyError
from runtime.sandbox.process import host_boot, kill_group
from runtime.store import port
from schemas.base import Message
from schemas.jobs import (
    ENDED,
    Claimed,
    Fence,
    JobEnded,
    JobFilter,
    JobHeard,
    JobLogged,
    JobProcess,
    JobProgress,
    JobSettled,
    RunJob,
    WorkerReady,
)

__all__ = ["Queue", "Tick"]

logger = log.get(__name__)

WRITE_WORDS_EVERY: Final = 0.1
RETRY_STORE_AFTER: Final = 1.0
ACTIVE: Final = JobFilter(status="active")
MOST_ACTIVE: Final = 100_000


class Left(Message, type="queue.left"):
    """A worker has gone, and everything it told before has been heard."""

    worker: str
    seat: int


class Queue(Asked):
    """The one actor that writes the life of jobs.

    Handlers only note what is wanted. When the mailbox is drained, everything noted becomes one commit, together with
    the next claims; then askers are answered and workers get their jobs. So one sync serves however many asked at
    once. How many jobs stand where it learns from the store (`moved`), whoever moved them.
    """

    def __init__(self, house: Company) -> None:
        self.house = house
        self.notes = Notes()
        self.seats = Seats()
        self.tally = Tally(house)
        self.planner = Planner(house, self.seats, self.tally, self._has_come_up)
        self.rows = Rows(house, self.planner, self._row_changed)
        self.beats = Beats(house, self.seats)
        self.words = Words(house.bus)
        self.ends = Ends(house, self.planner, self.rows, self._take_back)
        self.alarms = Alarms(house, lambda wait, message: self.ctx.after(wait, message))
        self.draining = False
        self.flushing = self.woken = False
        self.suspects_moved = True
        # noted since the last commit
        self.lost: list[str] = []
        self.removed: list[str] = []
        self.ticks: set[str] = set()
        self.in_doubt = False
        self.store_down = False
        self.another_try: Timer | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        store, house = self.house.store, self.house
        house.on_moves = self.moved
        now = house.clock.now()
        self.beats.begin()
        # Where this queue was restarted, its workers were with it, and nobody holds anything: not those who are known,
        # nor those whose row went before how their last job ended was written.
        known = {worker.id for worker in await store.workers() if worker.boot == house.boot}
        for worker in known | {job.worker for job in await store.jobs(ACTIVE, limit=MOST_ACTIVE) if job.worker}:
            await store.commit([port.RecoverJobs(house.boot, now, worker=worker)])
        await self._end_survivors()
        await store.commit([port.RecoverJobs(house.boot, now), port.ReleaseHeld(house.kinds.names(), now)])
        house.workers.clear()
        await self.tally.load()
        self.planner.suspects.update(await store.suspects())
        for row in await store.queues():
            self.rows.kept[row.name] = row
            self._row_changed(row)
        self.alarms.heard(await store.next_due())
        settings = house.loaded.settings
        self.ctx.after(settings.runtime.heartbeat / 1000, Tick(what="beat"))
        self.ctx.after(settings.runtime.reconcile / 1000, Tick(what="reconcile"))

    async def _end_survivors(self) -> None:
        """End what outlived an earlier daemon, before its jobs may start anew: never two at work on one."""
        store, here = self.house.store, json.dumps(host_boot())
        if await store.setting("host_boot") == here:  # else the machine was started anew, and nothing can have survived
            for left in await store.processes(self.house.boot):
                if await anyio.to_thread.run_sync(kill_group, left.pgid, left.started):
                    logger.warning("survivor_ended", job=left.job, pgid=left.pgid)
            for pgid, started in json.loads(await store.setting(KEPT) or "[]"):
                if await anyio.to_thread.run_sync(kill_group, pgid, started):
                    logger.warning("survivor_ended", pgid=pgid)
        await store.commit([port.PutSetting("host_boot", here), port.PutSetting(KEPT, "[]")])

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
        try:
            await self._flush()
        finally:
            if self.house.on_moves == self.moved:  # others go on committing, and must not reach a queue that is gone
                self.house.on_moves = None

    # -- what moved --------------------------------------------------------------------------------------------------

    def moved(self, moves: Sequence[port.Move]) -> None:
        """Keep the counts; the store calls this after each commit, ours or another's."""
        runnable, due = self.tally.take(moves)
        self.suspects_moved = True
        if self.planner.gated:
            self.planner.open_gate(*[move[0] for move in moves])
        self.alarms.heard(due)
        if runnable and not self.flushing:
            self.wake()

    def wake(self) -> None:
        if not self.woken:
            try:
                self.ctx.ref.tell_nowait(Tick(what="wake"))
            except ActorError:
                return  # full: the next commit looks at everything; gone: the queue that comes next reads it all
            self.woken = True

    def _row_changed(self, row: port.QueueRow) -> None:
        self.planner.row_changed(row)
        self.house.kinds.drain(row.name, row.by or "a person" if row.state == "draining" else None)

    # -- what workers tell -------------------------------------------------------------------------------------------

    @handles
    def ready(self, message: WorkerReady) -> None:
        worker = self.ctx.actor(message.worker)
        self._forget(message.worker)
        seat = self.seats.take(message, worker, self.house.clock.now())
        self.house.workers[seat.name] = 0
        if seat.queue is not None:
            self.planner.open_gate(seat.queue)
        self.ctx.watch(worker)
        if seat.name in self.seats.dismissed:  # it fell, and its supervisor has started it anew
            self.ctx.start(self.dismiss, seat.name, name=f"dismiss {seat.name}")
        self.ticks.add("workers")

    @handles
    def gone(self, message: Terminated) -> None:
        """A worker's end overtakes what it told before; how its last job ended must not be lost over it."""
        seat = self.seats.get(message.name)
        if seat is None:
            return
        self.seats.give_nothing_more(seat)
        if message.reason in ("crash", "quarantine", "zombie"):
            seat.status = "error"
        try:
            self.ctx.ref.tell_nowait(Left(worker=seat.name, seat=seat.number))
        except MailboxFull:
            self._forget(seat.name)

    @handles
    def left(self, message: Left) -> None:
        seat = self.seats.get(message.worker)
        if seat is not None and seat.number == message.seat:
            self._forget(message.worker)

    def _forget(self, worker: str) -> None:
        """Take a seat away; what it held goes back to the queue in the next commit."""
        seat = self.seats.remove(worker)
        if seat is None:
            return
        self.house.workers.pop(worker, None)
        self.seats.away[worker] = (seat, seat.status, self.house.clock.now())
        if seat.held:
            self.planner.doubtful.discard(worker)
            self.lost.append(worker)
            for claimed in seat.held.values():
                self.house.board.over(claimed.id, claimed.epoch)
                self.beats.over(claimed)
        self.ticks.add("workers")

    def gone_for_good(self, worker: str) -> None:
        if worker in self.seats.dismissed:
            self._forget(worker)
            self.seats.forget(worker)
            self.removed.append(worker)
            self.wake()

    def workers_changed(self) -> None:
        self.ticks.add("workers")

    @handles
    def ended(self, message: JobEnded) -> None:
        claimed = self._release(message.lease)
        if claimed is not None:
            self.ends.note(claimed, message.outcome)

    @handles
    def settled(self, message: JobSettled) -> None:
        claimed = self._release(message.lease)
        if claimed is not None:
            self.planner.suspects.pop(claimed.id, None)

    def _release(self, lease: Fence) -> Claimed | None:
        """Free the seat of an attempt that ended; None where it is no longer the one that counts."""
        seat = self.seats.get(lease.worker)
        claimed = None if seat is None else seat.held.get(lease.id)
        if seat is None or claimed is None or claimed.epoch != lease.epoch:
            return None
        self.seats.release(seat, claimed)
        self.house.board.over(lease.id, lease.epoch)
        self.house.workers[seat.name] = len(seat.held)
        if self.beats.begun:
            self.beats.over(claimed)
        planner = self.planner
        if planner.gated:
            planner.open_gate(claimed.queue)
        if planner.doubtful and seat.name in planner.doubtful:
            self._take_back(seat.name)
        if seat.leaving and not seat.held and seat.name in self.seats.dismissed:
            self.ctx.start(self.dismiss, seat.name, name=f"dismiss {seat.name}")
        return claimed

    def _holds(self, lease: Fence) -> bool:
        seat = self.seats.get(lease.worker)
        claimed = None if seat is None else seat.held.get(lease.id)
        return claimed is not None and claimed.epoch == lease.epoch

    @handles
    def process(self, message: JobProcess) -> None:
        holds = self._holds(message.lease)
        if holds:
            self.beats.started(message.lease)
        promise = self.reply_later()
        if holds and self.words.is_kept(message):
            promise.resolve(True)
        else:
            self.words.process(message, promise)

    @handles
    def heard(self, message: JobHeard) -> None:
        self.beats.heard(message.lease)

    @handles
    def progressed(self, message: JobProgress) -> None:
        self.words.progressed(message, self.house.clock.now())
        self._soon()

    @handles
    def logged(self, message: JobLogged) -> None:
        self.words.logged(message)
        self._soon()

    def _soon(self) -> None:
        """Have progress and logs written within a moment; many a moment cost one write."""
        if "words soon" not in self.ticks:
            self.ticks.add("words soon")
            self.ctx.after(WRITE_WORDS_EVERY, Tick(what="words"))

    # -- time --------------------------------------------------------------------------------------------------------

    @handles
    def tick(self, message: Tick) -> None:
        what = message.what
        if what == "wake":
            self.woken = False
            return
        if what == "kinds":
            self.planner.settings_changed()
        # A beat is what shows that the store takes writes again, where nothing else waits to be written.
        self.ticks.add("beat" if what == "store" else what)
        self.store_down = False  # whatever woke us, it is worth another try
        runtime = self.house.loaded.settings.runtime
        if what in ("look", "reconcile"):
            self.planner.gated.clear()
        if what == "beat":
            self.ctx.after(runtime.heartbeat / 1000, message)
        elif what == "reconcile":
            self.ctx.after(runtime.reconcile / 1000, message)

    # -- one commit for everything -----------------------------------------------------------------------------------

    async def after_batch(self) -> None:
        await self._flush()

    async def _flush(self) -> None:
        """Commit what was noted and claim for whoever has room, until there is nothing left to do."""
        if self.in_doubt or "reconcile" in self.ticks:
            await self._look(self._compare)
        while True:
            if self.planner.suspects and self.suspects_moved:
                await self._look(self._look_at_suspects)
            entries = self._gather()
            if not entries:
                break
            if not await self._write_all(entries):
                break
            if self.alarms.asks:
                await self._look(self.alarms.ask)
        at, self.planner.look_at = self.planner.look_at, None
        if at is not None:
            self.alarms.look_at(at)

    async def _write_all(self, entries: list[Entry]) -> bool:
        """Commit *entries*, and have everybody told. Return whether the store takes what is fit to be written."""
        try:
            results = await self._write([entry.change for entry in entries])
        except StoreRejected as error:
            refused = error
        except StoreError as error:
            self._store_failed(error, entries)
            return False
        else:
            self._store_works()
            for entry, result in zip(entries, results, strict=True):
                entry.heard(result)
            return True
        return await self._write_apart(refused, entries)

    async def _write(self, changes: list[port.Change]) -> list[Any]:
        """Commit. Raises StoreError; StoreRejected also for what the store could not even begin to write."""
        self.flushing = True
        try:
            return await self.house.store.commit(changes)
        except StoreError:
            raise
        except Exception as error:
            logger.exception("commit_failed")
            raise StoreRejected(f"it cannot be written: {type(error).__name__}: {error}") from error
        finally:
            self.flushing = False

    async def _write_apart(self, error: StoreRejected, entries: list[Entry]) -> bool:
        """Commit *entries* one by one, since the store refuses something in them: what is at fault must not hold up
        what is not. Return whether the store takes the others.
        """
        logger.error("commit_taken_apart", reason=error.detail, entries=len(entries))
        waiting = deque(entries)
        while waiting:
            entry = waiting.popleft()
            try:
                (result,) = await self._write([entry.change])
            except StoreError as refused:
                if entry.apart is None or not isinstance(refused, StoreRejected):
                    self._store_failed(refused, [entry, *waiting])
                    return False
                logger.error("change_refused", change=type(entry.change).__name__, reason=refused.detail)
                waiting.extendleft(reversed(entry.apart(refused)))
            else:
                entry.heard(result)
        self._store_works()
        return True

    async def _look_at_suspects(self) -> None:
        """Find out which suspects wait for their turn: while another rests, it is nobody's turn to be alone."""
        self.suspects_moved = False
        for job in list(self.planner.suspects):
            view = await self.house.store.job(job)
            self.planner.resting.discard(job)
            if view is None or view.status in ENDED:
                self.planner.suspects.pop(job, None)
            elif view.status not in ("pending", "active"):
                self.planner.resting.add(job)

    async def _look(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except StoreError as error:
            self._store_failed(error, [])

    async def _compare(self) -> None:
        """Compare memory with the database, which is right after a commit whose outcome nobody heard."""
        differs = await self.tally.compare()
        if differs:
            self._repaired({"counts": len(differs)}, differs=differs)
            await self.tally.load()
        self.in_doubt = False
        self.planner.gated.clear()
        await self.alarms.ask()

    def _repaired(self, found: dict[str, int], **more: Any) -> None:
        """Count what had to be put right: each is a fault of ours, or of a commit that nobody heard of."""
        for what, times in found.items():
            self.house.repairs[what] = self.house.repairs.get(what, 0) + times
        if found:
            logger.warning("repaired", **found, **more)

    def _gather(self) -> list[Entry]:
        now = self.house.clock.now()
        entries: list[Entry] = []
        if self.words or "words" in self.ticks:  # before how attempts ended: an ended one may write no more
            entries += self.words.entries(all_=bool(self.ends or "words" in self.ticks or self.draining))
            if "words" in self.ticks:  # else its alarm is still to come, and a second one would be set beside it
                self.ticks -= {"words", "words soon"}
        if self.ends:
            entries.append(self.ends.entry(now))
        if self.lost or self.removed:
            self._gather_lost(entries, now)
        claims = not (self.draining or self.house.draining or self.store_down)
        if self.notes.inserts or self.notes.wishes:
            if claims and self.notes.inserts:
                self.planner.expect([row for row, _ in self.notes.inserts], now)
            self._gather_asked(entries, now)
        if self.ticks:
            self._gather_time(entries, now)
        without = self.rows.wished() if claims else ()
        entries += self.rows.entries(now, levels=bool(entries))
        if claims:
            self._gather_claims(entries, now, without)
            self.planner.coming.clear()
        return entries

    def _gather_lost(self, entries: list[Entry], now: int) -> None:
        """After the ends: taking back all of a worker must not take what it had ended before."""
        lost, self.lost = self.lost, []
        for worker in lost:
            recover = port.RecoverJobs(self.house.boot, now, worker=worker)
            entries.append(Entry(recover, self._recovered, partial(again, self.lost, worker)))
        if self.removed:
            removed, self.removed = tuple(self.removed), []
            entries.append(Entry(port.RemoveWorkers(removed), failed=lambda _: self.removed.extend(removed)))

    def _gather_asked(self, entries: list[Entry], now: int) -> None:
        notes = self.notes
        if notes.inserts:
            inserts, notes.inserts = notes.inserts, []
            rows = tuple([row for row, _ in inserts])
            failed = partial(fail_all, [promise for _, promise in inserts])
            apart = partial(self._inserts_apart, inserts, now)
            entries.append(Entry(port.InsertJobs(rows, now), partial(self._inserted, inserts), failed, apart))
        if notes.wishes:
            wishes, notes.wishes = notes.wishes, []
            entries += [Entry(wish.change, wish.heard, wish.failed, given_up(wish.failed)) for wish in wishes]

    def _inserts_apart(self, inserts: list[tuple[port.JobRow, Promise]], now: int, _: StoreError) -> list[Entry]:
        return [
            Entry(port.InsertJobs((row,), now), partial(self._inserted, [one]), promise.fail, given_up(promise.fail))
            for one in inserts
            for row, promise in (one,)
        ]

    def _inserted(self, inserts: list[tuple[port.JobRow, Promise]], found: list[port.Inserted]) -> None:
        for (row, promise), result in zip(inserts, found, strict=True):
            try:
                promise.resolve(inserted(row, result))
            except UnderstudyError as refused:
                promise.fail(refused)

    # -- what time brings --------------------------------------------------------------------------------------------

    def _gather_time(self, entries: list[Entry], now: int) -> None:
        ticks = self.ticks
        if "beat" in ticks:  # first: after a jump of the clock leases are renewed before anything is looked at
            ticks.discard("beat")
            jumped = self.beats.jump(now)
            if jumped < 0:
                self.rows.clock_set_back(now, -jumped)
            if jumped:
                ticks |= {"due", "look"}
                self.planner.gated.clear()
            entries += self.beats.entries(now, jumped=bool(jumped))
        if "workers" in ticks:
            ticks.discard("workers")
            entries.append(self.beats.rows(now)._replace(failed=lambda _: ticks.add("workers")))
        if "reconcile" in ticks:
            ticks.discard("reconcile")
            ticks.add("due")
            entries.append(Entry(port.RepairJobs(now), self._repaired))
        if "due" in ticks:
            ticks.discard("due")
            entries += self.alarms.entries(now, lambda _: ticks.add("due"))
        if "kinds" in ticks:
            ticks.discard("kinds")
            change = port.ReleaseHeld(self.house.kinds.names(), now)
            entries.append(Entry(change, failed=lambda _: ticks.add("kinds")))
        ticks.discard("look")

    # -- claims ------------------------------------------------------------------------------------------------------

    def _gather_claims(self, entries: list[Entry], now: int, without: Sequence[str] | set[str]) -> None:
        shares = self.planner.plan(now, without)
        if not shares:
            return
        boot, lease_until = self.house.boot, now + self.house.loaded.settings.runtime.lease
        for share in shares:
            if share.rated:
                entries.append(self.rows.at_worst(share, now))
            change = port.ClaimJobs(
                share.queue, share.lane, share.workers, boot, now, lease_until, share.tokens, share.full
            )
            entries.append(Entry(change, partial(self._claimed, share), partial(self._doubt, share)))

    def _claimed(self, share: Share, claimed: tuple[Claimed, ...]) -> None:
        if share.rated:
            self.planner.buckets[share.queue].take(len(claimed), sum(job.tokens for job in claimed))
        if len(claimed) < len(share.workers):
            self.planner.came_short(share, self.house.clock.now())
        for job in claimed:
            self._hand_over(job)

    def _doubt(self, share: Share, error: StoreError) -> None:
        """A claim may have happened unheard; then it is taken back before its worker is given anything else."""
        if type(error) is StoreError:  # of its kinds, each says that nothing was written
            for worker in set(share.workers):
                self._take_back(worker)

    def _take_back(self, worker: str) -> None:
        """Have all that *worker* holds by the database go back, as soon as nothing of it really runs."""
        seat = self.seats.get(worker)
        if seat is not None and seat.held:
            self.planner.doubtful.add(worker)
        else:
            self.planner.doubtful.discard(worker)
            self.lost.append(worker)

    def _hand_over(self, job: Claimed) -> None:
        seat = self.seats.get(job.worker)
        if seat is None:  # it was found gone over another job of this claim, or dismissed while the claim was written
            self._take_back(job.worker)
            return
        self.seats.hold(seat, job)
        self.house.workers[seat.name] = len(seat.held)
        try:
            seat.ref.tell_nowait(RunJob(job, seat.incarnation))
        except MailboxFull:  # it is there and busy: only this message waits a little
            self._release(job)
            self.ends.note(job, NO_ROOM)
        except ActorError:  # it is on its way out, and may still end what it has: of that its own end will tell
            self.seats.give_nothing_more(seat)
            self._release(job)
            self.ends.note(job, STOPPED)

    def _has_come_up(self, agent: str) -> bool:
        """Tell whether an agent will be up without anybody's doing."""
        system = self.ctx.system
        return system.has(agent) and system.cell(agent).state not in ("quarantined", "stopped", "suspended")

    # -- results -----------------------------------------------------------------------------------------------------

    def _recovered(self, found: tuple[port.Recovered, ...]) -> None:
        for job in found:
            if job.status in ENDED:
                self.planner.suspects.pop(job.id, None)

    def _store_works(self) -> None:
        self.store_down = False
        self.house.store_trouble = None

    def _store_failed(self, error: StoreError, entries: list[Entry]) -> None:
        """Refuse who asked, keep what attempts reported, and try again in a second: degraded, not dead."""
        self.store_down = True
        self.in_doubt = self.in_doubt or type(error) is StoreError
        self.house.store_trouble = error.detail
        for entry in entries:
            entry.failed(error)
        if self.another_try is None or self.another_try.over:
            self.another_try = self.ctx.after(RETRY_STORE_AFTER, Tick(what="store"))
