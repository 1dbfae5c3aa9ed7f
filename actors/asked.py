"""What people ask of the queue: jobs come in, are cancelled, tried again, held, signalled; queues and pools change."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, Final

import anyio

from actors.company import Company
from actors.plan import Planner
from actors.rows import Rows
from actors.seats import GENERAL, Seats
from runtime.core.actor import Actor, Promise, handles
from runtime.errors import (
    JobNotFound,
    KeyConflict,
    NoSuchActor,
    NotRetryable,
    PoolNotFound,
    SignalRefused,
    UnderstudyError,
    UnknownParent,
    WorkerNotFound,
)
from runtime.store import port
from schemas.jobs import (
    MAX_SIGNALS,
    Acted,
    ActOnJobs,
    CancelJob,
    Cancelled,
    ChangeQueue,
    DrainWorker,
    Held,
    PauseJob,
    ResizePool,
    ResumeJob,
    RetryJob,
    SignalJob,
    SubmitJob,
    SubmitJobs,
    Submitted,
    WorkerView,
)

CHUNK: Final = 500
"""Jobs that one commit of a bulk action touches: the writer is held for some milliseconds."""


@dataclass(slots=True)
class Wish:
    """A change that somebody asked for, and whom to answer with what."""

    change: port.Change
    promise: Promise | None
    answer: Callable[[Any], Any]
    done: anyio.Event | None = None
    result: Any = None
    error: UnderstudyError | None = None

    def heard(self, result: Any) -> None:
        """Answer with what became of it; what is refused is the asker's to know."""
        try:
            self.result = self.answer(result)
        except UnderstudyError as refused:
            self.failed(refused)
            return
        if self.promise is not None:
            self.promise.resolve(self.result)
        if self.done is not None:
            self.done.set()

    def failed(self, error: UnderstudyError) -> None:
        self.error = error
        if self.promise is not None:
            self.promise.fail(error)
        if self.done is not None:
            self.done.set()


@dataclass(slots=True)
class Notes:
    """What was asked since the last commit, and the sizes of pools that were asked for and are not yet theirs."""

    inserts: list[tuple[port.JobRow, Promise]] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    sizes: list[tuple[ResizePool, Promise]] = field(default_factory=list)


class Asked(Actor):
    """The half of the queue that people see. Handlers only note what is wanted; the commit is the other half's."""

    house: Company
    notes: Notes
    seats: Seats
    planner: Planner
    rows: Rows

    def wake(self) -> None:
        """Have what was noted outside a handler committed."""
        raise NotImplementedError

    def _wish(self, change: port.Change, answer: Callable[[Any], Any]) -> None:
        self.notes.wishes.append(Wish(change, self.reply_later(), answer))

    async def _done(self, change: port.Change, answer: Callable[[Any], Any] = lambda result: result) -> Any:
        """Have *change* committed with whatever else is noted; for tasks beside the handlers."""
        wish = Wish(change, None, answer, anyio.Event())
        self.notes.wishes.append(wish)
        self.wake()
        assert wish.done is not None
        await wish.done.wait()
        if wish.error is not None:
            raise wish.error
        return wish.result

    # -- in ----------------------------------------------------------------------------------------------------------

    @handles
    def submit(self, message: SubmitJob) -> None:
        house = self.house
        row = house.kinds.prepare(message.job, house.clock.new_id(), house.clock.now())
        self.notes.inserts.append((row, self.reply_later()))

    @handles
    def submit_many(self, message: SubmitJobs) -> None:
        house = self.house
        rows, order = house.kinds.prepare_batch(message.jobs, house.clock.new_id, house.clock.now())
        self._wish(port.InsertJobs(rows, house.clock.now(), whole=True), partial(self._all_in, rows, order))

    def _all_in(
        self, rows: tuple[port.JobRow, ...], order: tuple[int, ...], found: list[port.Inserted]
    ) -> tuple[Submitted, ...]:
        answers = tuple(map(inserted, rows, found))
        return tuple(answer for _, answer in sorted(zip(order, answers, strict=True), key=itemgetter(0)))

    # -- one job -----------------------------------------------------------------------------------------------------

    @handles
    def cancel(self, message: CancelJob) -> None:
        self._wish(port.CancelJobs((message.id,), self.house.clock.now()), partial(self._cancelled, message.id))

    def _cancelled(self, job: str, found: list[port.CancelResult | None]) -> Cancelled:
        result = there(job, found[0])
        if result.outcome == "cancelled":
            self.planner.suspects.pop(job, None)
        elif result.fence is not None:
            self.house.board.cancel(job, result.fence.epoch)
        return Cancelled(id=job, outcome=result.outcome, status=result.status)

    @handles
    def retry(self, message: RetryJob) -> None:
        change = port.RetryJobs((message.id,), self.house.clock.now(), message.dependants)
        self._wish(change, partial(self._retried, message.id))

    def _retried(self, job: str, found: list[port.Retried | str | None]) -> Submitted:
        result = there(job, found[0])
        if not isinstance(result, port.Retried):
            why = "another job holds its unique word now" if result in ("failed", "cancelled") else f"it is {result}"
            raise NotRetryable(f"job {job} cannot be retried: {why}; only failed and cancelled jobs can", status=result)
        return Submitted(id=job, status="pending")

    @handles
    def pause(self, message: PauseJob) -> None:
        self._wish(port.PauseJobs((message.id,), self.house.clock.now()), partial(self._held, message.id))

    @handles
    def resume(self, message: ResumeJob) -> None:
        self._wish(port.ResumeJobs((message.id,), self.house.clock.now()), partial(self._held, message.id))

    def _held(self, job: str, found: list[port.PauseResult | None]) -> Held:
        result = there(job, found[0])
        return Held(id=job, outcome=result.outcome, status=result.status)

    @handles
    def signal(self, message: SignalJob) -> None:
        payload = self.house.kinds.payload(message.payload)
        change = port.SendSignal(message.id, message.name, payload, self.house.clock.now())
        self._wish(change, partial(self._signalled, message.id))

    def _signalled(self, job: str, found: port.SignalSent | None) -> Submitted:
        result = there(job, found)
        if not result.kept:
            why = f"{MAX_SIGNALS} signals of it wait already"
            if result.status in ("completed", "failed", "cancelled"):
                why = f"it is {result.status}"
            raise SignalRefused(f"job {job} takes no signal: {why}", status=result.status)
        return Submitted(id=job, status=result.status)

    # -- many jobs ---------------------------------------------------------------------------------------------------

    @handles
    def act(self, message: ActOnJobs) -> None:
        self.ctx.start(self._act, message, self.reply_later(), name=f"{message.action} many")

    async def _act(self, message: ActOnJobs, promise: Promise) -> None:
        try:
            promise.resolve(await self._act_on_all(message))
        except UnderstudyError as error:
            promise.fail(error)

    async def _act_on_all(self, message: ActOnJobs) -> Acted:
        """Go through what the filter finds, newest first, a chunk a commit; ids only fall, so none comes twice. What is
        tried again is gathered and done the oldest first: else who depends on another would find it failed.
        """
        matched, before, later = 0, None, list[tuple[str, ...]]()
        result = Acted(matched=0, done=0)
        while True:
            found = await self.house.store.jobs(message.where, before=before, limit=CHUNK + 1)
            ids = tuple(job.id for job in found[: min(CHUNK, message.limit - matched)])
            more = len(found) > len(ids)
            matched += len(ids)
            if message.action == "retry":
                later.append(ids[::-1])
            else:
                result = await self._act_on(message, ids, result)
            if not more or not ids or matched >= message.limit:
                break
            before = ids[-1]
        for ids in reversed(later):
            result = await self._act_on(message, ids, result)
        return result.model_copy(update={"matched": matched, "more": more})

    async def _act_on(self, message: ActOnJobs, ids: tuple[str, ...], so_far: Acted) -> Acted:
        done, left = so_far.done, dict(so_far.left)
        if ids and not message.dry_run:
            for status in await self._done(*self._action(message, ids)):
                if status is None:
                    done += 1
                else:
                    left[status] = left.get(status, 0) + 1
        return so_far.model_copy(update={"done": done, "left": left})

    def _action(
        self, message: ActOnJobs, ids: tuple[str, ...]
    ) -> tuple[port.Change, Callable[[list[Any]], list[str | None]]]:
        """Return the change for *ids*, and what tells of each result the status that was in the way, or None."""
        now = self.house.clock.now()
        match message.action:
            case "cancel":
                return port.CancelJobs(ids, now), partial(self._many_cancelled, ids)
            case "retry":
                return port.RetryJobs(ids, now, message.dependants), lambda found: [
                    None if isinstance(one, port.Retried) else one or "gone" for one in found
                ]
            case "pause":
                return port.PauseJobs(ids, now), many_held
            case "resume":
                return port.ResumeJobs(ids, now), many_held

    def _many_cancelled(self, ids: tuple[str, ...], found: list[port.CancelResult | None]) -> list[str | None]:
        told: list[str | None] = []
        for job, one in zip(ids, found, strict=True):
            if one is not None:
                self._cancelled(job, [one])
            told.append("gone" if one is None else one.status if one.outcome == "too_late" else None)
        return told

    # -- queues, pools, workers --------------------------------------------------------------------------------------

    @handles
    def change_queue(self, message: ChangeQueue) -> None:
        self.rows.wish(message, self.reply_later())

    @handles
    def resize(self, message: ResizePool) -> None:
        pools = self.house.loaded.settings.pools
        if message.name not in (*GENERAL, *pools):
            known = [*GENERAL, *sorted(pools)]
            raise PoolNotFound(f"there is no pool {message.name!r}; there are: {', '.join(known)}", known=known)
        self.notes.sizes.append((message, self.reply_later()))
        if len(self.notes.sizes) == 1:
            self.ctx.start(self._resize, name="resize pools")

    async def _resize(self) -> None:
        """Give pools their sizes, one after another in the order in which they were asked for."""
        sizes = self.notes.sizes
        while sizes:
            message, promise = sizes[0]
            try:
                promise.resolve(await self._resized(message))
            except UnderstudyError as error:
                promise.fail(error)
            del sizes[0]

    async def _resized(self, message: ResizePool) -> int:
        """Start the workers that are missing, and dismiss those too many, the highest numbers first; return how many
        there were.
        """
        pool = message.name
        there_are = sorted(
            (int(name.rpartition("-")[2]), name)
            for name in self.ctx.system.names()
            if name.startswith(f"worker:{pool}-") and name.rpartition("-")[0] == f"worker:{pool}"
        )
        staying = [name for _, name in there_are if name not in self.seats.dismissed]
        for name in staying[message.size :]:
            seat = self.seats.get(name)
            self.seats.dismissed.add(name)
            if seat is not None:
                self.seats.give_nothing_more(seat)
            if seat is None or not seat.held:
                await self.dismiss(name)
        number = there_are[-1][0] if there_are else 0
        for more in range(1, message.size - len(staying) + 1):
            await self.ctx.system.start_child("workers", self.house.spec_of_worker(self.house, pool, number + more))
        self.workers_changed()
        return len(staying)

    async def dismiss(self, name: str) -> None:
        """Stop a worker for good."""
        with suppress(NoSuchActor):
            await self.ctx.system.stop_child(name)
        self.gone_for_good(name)

    def gone_for_good(self, worker: str) -> None:
        """Forget a worker."""
        raise NotImplementedError

    @handles
    def drain(self, message: DrainWorker) -> WorkerView:
        seat = self.seats.get(message.id)
        if seat is None or seat.lane == "agent":
            known = sorted(seat.name for seat in self.seats if seat.lane != "agent")
            raise WorkerNotFound(f"there is no worker {message.id!r} of a pool", known=known)
        if message.drain:
            self.seats.drained.add(seat.name)
            self.seats.give_nothing_more(seat)
        elif seat.name not in self.seats.dismissed:
            self.seats.drained.discard(seat.name)
            self.seats.give_again(seat)
        self.workers_changed()
        return WorkerView(
            id=seat.name,
            agent=None,
            lane=seat.lane,
            status="busy" if seat.held else "idle",
            draining=seat.leaving,
            serves=seat.serves,
            pool=seat.pool,
            job=next(iter(seat.held), None),
            created_at=seat.since,
            last_heartbeat_at=self.house.clock.now(),
        )

    def workers_changed(self) -> None:
        """Have the table of workers written."""
        raise NotImplementedError


def there(job: str, result: Any) -> Any:
    """Return *result*. Raises JobNotFound where there is none."""
    if result is None:
        raise JobNotFound(f"there is no job {job}", job=job)
    return result


def inserted(row: port.JobRow, result: port.Inserted) -> Submitted:
    """Return what a submitter is told. Raises KeyConflict, UnknownParent."""
    if result.conflict:
        raise KeyConflict(f"the key {row.key!r} belongs to job {result.id} with other arguments", job=result.id)
    if result.unknown is not None:
        raise UnknownParent(f"there is no job {result.unknown} to depend on or to be a part of", job=result.unknown)
    return Submitted(id=result.id, status=result.status, existing=result.existing)


def many_held(found: list[port.PauseResult | None]) -> list[str | None]:
    """Tell of each where it stood in the way of a pause or a resume, or None."""
    done = ("paused", "resumed", "requested")
    return ["gone" if one is None else None if one.outcome in done else one.status for one in found]
