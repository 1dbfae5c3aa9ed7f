"""Plays a history to several stores at once, holds them to the same answers, and watches over the rules of jobs."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from runtime.errors import LeaseLost, VersionConflict
from runtime.store import port
from runtime.store.port import AGING_MS, Finish, JobRow, Move, Store
from schemas.events import Event
from schemas.jobs import ENDED, MOVES, Claimed, JobView
from tests.properties.histories import KEYS, REFUSED, STALE, WORKERS

WRITES = (port.RecordProcess, port.SaveProgress, port.AppendLogs, port.BeginStep, port.TakeSignal)
NOBODY = Claimed(99, "x", 1, "w1", "b", "a", "q", "loop", "{}", 1, 1, 0, False, None, None, None, 0)


class Ear:
    """What one store tells: its events, which are taken away, its moves as counts, and when to look again.

    alarm: when whoever listens will look again at what comes due, and ask then: the earliest time it was told since.
    """

    def __init__(self, store: Store) -> None:
        self.events: list[Event] = []
        self.counts: Counter[tuple[Any, ...]] = Counter()
        self.alarm: int | None = None
        store.listen(self.events.extend)
        store.watch(self._count)

    def _count(self, moves: Sequence[Move]) -> None:
        for queue, lane, before, after, jobs, due in moves:
            assert jobs > 0
            self.counts[queue, lane, before] -= jobs
            self.counts[queue, lane, after] += jobs
            if due is not None:
                self.alarm = due if self.alarm is None else min(self.alarm, due)

    @property
    def living_and_ended(self) -> dict[tuple[Any, ...], int]:
        """Counts by queue, lane and status."""
        return {place: count for place, count in self.counts.items() if count and place[2] is not None}

    def news(self) -> dict[str, list[Any]]:
        """Return what was told since the last time, by subject: the order of two jobs' events is no promise."""
        told = defaultdict(list)
        for event in self.events:
            told[event.subject].append((event.at, event.type, event.data))
        self.events.clear()
        return dict(told)


class Player:
    """Plays a history. The first store is the reference."""

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores
        self.ears = [Ear(store) for store in stores]
        self.now = 1_000
        self.boot = 1
        self.ids: list[str] = []
        self.claims: list[Claimed] = []
        self.seen: dict[str, JobView] = {}
        self.eligible: dict[str, int] = {}
        self.completions: Counter[str] = Counter()
        self.lanes: dict[str, str] = {}

    async def open(self) -> None:
        """Have a schedule in every store, so that it can fire."""
        row = port.ScheduleRow("s", "* * * * *", "UTC", "{}", "skip", "allow", "config", False, 1, 0)
        for store in self.stores:
            await store.commit([port.PutSchedule(row)])

    async def play(self, operation: tuple[str, tuple[Any, ...]], taken_back: bool) -> None:
        """Do one operation; with *taken_back* in a commit that fails in the end."""
        name, rest = operation
        if name == "wait":
            self.now += rest[0]
            return
        if name == "daemon dies" and not taken_back:
            self.boot += 1
        change = getattr(self, "_" + name.replace(" ", "_"))(*rest)
        before = await self.picture(self.stores[0]) if taken_back else None
        answers = [await self._commit(store, change, taken_back) for store in self.stores]
        assert all(answer == answers[0] for answer in answers), (change, answers)
        if taken_back or answers[0] == "lease lost":
            assert before in (None, await self.picture(self.stores[0]))
            return
        self._check_answer(change, answers[0])
        await self._check(change)

    async def _commit(self, store: Store, change: Any, taken_back: bool) -> Any:
        try:
            answer = (await store.commit([change, REFUSED] if taken_back else [change]))[0]
        except LeaseLost:
            return "lease lost"
        except VersionConflict:
            assert taken_back
            return "taken back"
        if isinstance(change, port.PromoteDue | port.ReleaseHeld):
            return sorted(answer)
        if isinstance(change, port.FinishJobs):  # of a job that is not delayed the time means nothing
            return [done and (done.id, done.status, done.reason, done.status == "delayed" and done) for done in answer]
        return list(answer) if isinstance(answer, tuple) else answer

    # -- operations as changes -----------------------------------------------------------------------------------------

    def _insert(self, jobs: list[dict[str, Any]], whole: bool, fence: int | None) -> port.InsertJobs:
        rows = tuple(self._row(given) for given in jobs)
        return port.InsertJobs(rows, self.now, whole, None if fence is None else self._fence(fence))

    def _row(self, given: dict[str, Any]) -> JobRow:
        fields = dict(given)
        (queue, lane), delay, deadline = fields.pop("place"), fields.pop("delay"), fields.pop("deadline")
        parent, edges = fields.pop("parent"), fields.pop("edges")
        living = [job_id for job_id in self.ids if job_id in self.seen] or ["nobody"]
        names = {living[-1 - nth % len(living)]: policy for nth, policy in edges}
        self.ids.append(f"job-{len(self.ids):04d}")
        self.lanes[self.ids[-1]] = lane
        return JobRow(
            id=self.ids[-1],
            queue=queue,
            lane=lane,
            execute_after=self.now + delay,
            deadline_at=None if deadline is None else self.now + deadline,
            parent=None if parent is None else living[-1 - parent % len(living)],
            depends_on=tuple(port.Edge(name, policy) for name, policy in names.items()),
            limit_max=KEYS[fields["limit_key"]],
            **fields,
        )

    def _claim(self, place: tuple[str, Any], count: int, tokens: int | None, full: bool) -> port.ClaimJobs:
        until = self.now + 30
        return port.ClaimJobs(*place, WORKERS[:count], f"boot-{self.boot}", self.now, until, tokens, full)

    def _finish(self, ends: list[dict[str, Any]], strict: bool) -> port.FinishJobs:
        return port.FinishJobs(tuple(self._finish_one(**given) for given in ends), now=self.now, strict=strict)

    def _finish_one(self, which: int, end: tuple[Any, Any], words: tuple[Any, Any], **how: Any) -> Finish:
        status, reason = end
        counts = status != "completed"
        return Finish(
            self._fence(which),
            status,
            reason,
            *words,
            execute_after=None if how["delay"] is None else self.now + how["delay"],
            refund=how["refund"] and counts,
            crash=how["crash"] and counts,
            waits=how["word"] if reason == "signal" else None,
            wait_until=None if how["until"] is None else self.now + how["until"],
        )

    def _write(self, which: int, what: str) -> Any:
        fence = self._fence(which)
        if what == "process":
            return port.RecordProcess(fence, pgid=10 + which, started=self.now)
        if what == "progress":
            return port.SaveProgress(fence, str(which), now=self.now)
        return port.AppendLogs(fence, ((self.now, "info", f"line {which}"), (self.now, "error", "and one more")))

    def _begin(self, which: int, name: str, retry: bool) -> port.BeginStep:
        return port.BeginStep(self._fence(which), name, self.now, retry)

    def _end(self, which: int, name: str, error: str | None) -> port.EndStep:
        return port.EndStep(self._fence(which), name, self.now, str(which), error, 0.5)

    def _take(self, which: int, name: str, step: str) -> port.TakeSignal:
        return port.TakeSignal(self._fence(which), name, step, self.now)

    def _signal(self, which: int, name: str) -> port.SendSignal:
        return port.SendSignal(self._id(which, "waiting", "active"), name, str(self.now), self.now)

    def _cancel(self, which: list[int]) -> port.CancelJobs:
        return port.CancelJobs(tuple(self._id(one, "active", "delayed") for one in which), now=self.now)

    def _pause(self, which: list[int]) -> port.PauseJobs:
        return port.PauseJobs(tuple(self._id(one, "active", "pending", "waiting") for one in which), now=self.now)

    def _resume(self, which: list[int]) -> port.ResumeJobs:
        return port.ResumeJobs(tuple(self._id(one, "paused", "waiting") for one in which), now=self.now)

    def _retry(self, which: list[int], dependants: bool) -> port.RetryJobs:
        return port.RetryJobs(tuple(self._id(one, "failed", "cancelled") for one in which), self.now, dependants)

    def _promote(self, limit: int) -> port.PromoteDue:
        return port.PromoteDue(now=self.now, limit=limit)

    def _release(self, kind: str) -> port.ReleaseHeld:
        return port.ReleaseHeld((kind,), now=self.now)

    def _expire(self, limit: int) -> port.ExpireJobs:
        return port.ExpireJobs(now=self.now, limit=limit)

    def _expire_leases(self) -> port.ExpireLeases:
        return port.ExpireLeases(f"boot-{self.boot}", now=self.now)

    def _repair(self) -> port.RepairJobs:
        return port.RepairJobs(now=self.now)

    def _daemon_dies(self) -> port.RecoverJobs:
        return port.RecoverJobs(boot=f"boot-{self.boot}", now=self.now)

    def _worker_dies(self, worker: str) -> port.RecoverJobs:
        return port.RecoverJobs(boot=f"boot-{self.boot}", now=self.now, worker=worker)

    def _queue(self, place: tuple[str, Any], state: Any) -> port.PutQueue:
        return port.PutQueue(port.QueueRow(place[0], state), now=self.now)

    def _prune(self, keep: int) -> port.PruneEvents:
        return port.PruneEvents(keep=keep)

    def _beat(self, silent: int | None) -> port.Heartbeat:
        numbers = () if silent is None else (self._fence(silent).seq,)
        return port.Heartbeat((("w1", "busy"),), f"boot-{self.boot}", self.now, self.now + 30, numbers)

    def _delete(self, status: Any, queue: str | None, keep: int | None, before: int, limit: int) -> port.DeleteEnded:
        return port.DeleteEnded(status, queue, before, keep, limit)

    def _fire(self, tick: int, given: dict[str, Any], outcome: str) -> port.FireSchedule:
        job = None if outcome.startswith("skipped") else self._row(given)
        return port.FireSchedule("s", self.now + tick - 2, self.now + tick, self.now, job, outcome)

    def _fence(self, which: int) -> Claimed:
        active = [claimed for claimed in self.claims if self._status(claimed.id) == "active"]
        claims = [claimed for claimed in active if self._owns(claimed) == (which < STALE)] or self.claims
        return claims[-1 - which % len(claims)] if claims else NOBODY

    def _status(self, job_id: str) -> str | None:
        return self.seen[job_id].status if job_id in self.seen else None

    def _id(self, which: int, *statuses: str) -> str:
        meant = [job_id for job_id, view in self.seen.items() if which < STALE and view.status in statuses]
        ids = meant or self.ids
        return ids[-1 - which % len(ids)] if ids else "nobody"

    # -- what must hold of each answer and after each step -------------------------------------------------------------

    def _check_answer(self, change: Any, answer: Any) -> None:
        if isinstance(change, port.ClaimJobs):
            for claimed in answer:
                assert claimed.epoch == 1 + max((old.epoch for old in self.claims if old.id == claimed.id), default=0)
            self.claims += answer
        elif isinstance(change, port.FinishJobs):
            owned = [self._owns(finish.fence) for finish in change.finishes]
            first = [
                finish.fence not in [f.fence for f in change.finishes[:n]] for n, finish in enumerate(change.finishes)
            ]
            assert [done is not None for done in answer] == [a and b for a, b in zip(owned, first, strict=True)]
        elif isinstance(change, WRITES):
            assert (answer not in (None, False)) is self._owns(change.fence)
        elif isinstance(change, port.RepairJobs):
            assert answer == {}, "nothing that the rules allow is ever to be repaired"

    def _owns(self, fence: Claimed) -> bool:
        """Whether *fence* was the newest claim of a job that was active before this step."""
        newest = [claimed for claimed in self.claims if claimed.id == fence.id][-1:]
        return newest == [fence] and self._status(fence.id) == "active"

    async def _check(self, change: Any) -> None:
        store, ear = self.stores[0], self.ears[0]
        news = [ear.news() for ear in self.ears]
        assert all(told == news[0] for told in news), change
        jobs = {job_id: view for job_id in self.ids if (view := await store.job(job_id)) is not None}
        for job_id, view in jobs.items():
            self._check_move(self.seen.get(job_id), view)
            self._note_place(self.seen.get(job_id), view)
        before, self.seen = self.seen, jobs
        if isinstance(change, port.ClaimJobs):
            self._check_order(change, before)
        self._check_limits()
        assert ear.living_and_ended == await store.counts(ended=False) | await store.counts(ended=True)
        await self._check_alarms(asks=isinstance(change, port.PromoteDue | port.ExpireJobs))
        for told in news[0].values():
            assert sum(kind == "job.completed" for _, kind, _ in told) <= 1
        self.completions.update(
            job_id for job_id, told in news[0].items() for _, kind, _ in told if kind == "job.completed"
        )
        for job_id, count in self.completions.items():
            assert count == 1
            assert job_id not in jobs or jobs[job_id].status == "completed"

    def _check_move(self, old: JobView | None, new: JobView) -> None:
        epochs = [attempt.epoch for attempt in new.history]
        assert epochs == list(range(1, len(epochs) + 1))
        assert sum(attempt.outcome == "completed" for attempt in new.history) == (new.status == "completed")
        assert (new.finished_at is not None) == (new.status in ENDED)
        assert (new.worker is not None) == bool(new.history)
        assert sum(attempt.ended_at is None for attempt in new.history) == (new.status == "active")
        assert all(edge.state != "open" or edge.status not in ENDED for edge in new.depends_on)
        if (new.status, new.reason) == ("waiting", "deps"):
            assert any(edge.state in ("open", "broken") for edge in new.depends_on)
        if old is None:
            return
        assert len(new.history) >= len(old.history)
        assert new.status == old.status or new.status in MOVES[old.status]
        assert {step.name for step in old.steps if step.state == "done"} <= {
            step.name for step in new.steps if step.state == "done"
        }
        if old.status == "completed":
            links = {"depends_on": old.depends_on, "parent": old.parent}  # what it hung on may be forgotten
            assert new.model_copy(update=links) == old

    def _note_place(self, old: JobView | None, new: JobView) -> None:
        """Note since when a job is eligible, as a person would count it, where it has come to be pending."""
        if new.status != "pending" or (old is not None and old.status == "pending"):
            return
        if old is not None and old.status == "delayed":
            self.eligible[new.id] = new.execute_after
        elif old is None or old.status in ("paused", *ENDED) or old.reason == "deps":
            self.eligible[new.id] = self.now
        # From a run, a limit or a wait it comes back to the place it had.

    def _check_order(self, change: port.ClaimJobs, before: dict[str, JobView]) -> None:
        """Nobody is overtaken but by what became eligible less than the difference in priority is worth later."""
        if change.lane == "agent":
            return
        here = [view for view in self.seen.values() if view.queue == change.queue]
        started = [v for v in here if v.status == "active" and before[v.id].status == "pending"]
        passed = [v for v in here if v.status == "pending" and self.lanes[v.id] == change.lane]
        assert all(self.lanes[view.id] == change.lane for view in started)
        for first in started:
            for other in passed:
                later = self.eligible[first.id] - self.eligible[other.id]
                worth = (other.priority - first.priority) * AGING_MS
                assert later < worth or (later == worth and first.id < other.id), (first, other)

    def _check_limits(self) -> None:
        """No limit key is exceeded, and no two jobs of a conversation on an agent's queue are active at once."""
        active = [view for view in self.seen.values() if view.status == "active"]
        keys = Counter(view.limit_key for view in active if view.limit_key is not None)
        assert all(count <= KEYS[key] for key, count in keys.items()), keys
        talks = Counter((view.queue, view.conversation) for view in active if view.queue.startswith("agent:"))
        assert all(count == 1 for (_, name), count in talks.items() if name is not None), talks

    async def _check_alarms(self, *, asks: bool) -> None:
        """Nothing comes due before whoever listens looks again; who has looked *asks* when to look next."""
        for store, ear in zip(self.stores, self.ears, strict=True):
            due = await store.next_due()
            if asks:
                ear.alarm = due
            assert due is None or (ear.alarm is not None and ear.alarm <= due)

    async def compare(self) -> None:
        """Hold every store to the same picture, and its moves to its counts."""
        pictures = [await self.picture(store) for store in self.stores]
        for store, ear in zip(self.stores[1:], self.ears[1:], strict=True):
            assert ear.living_and_ended == await store.counts(ended=False) | await store.counts(ended=True)
        for picture in pictures[1:]:
            for what, value in pictures[0].items():
                assert picture[what] == value, first_difference(what, value, picture[what])

    async def picture(self, store: Store) -> dict[str, Any]:
        """Return all that can be read of a store."""
        graphs = [await store.graph(job_id, 1000) for job_id in self.ids]
        events = await store.events(after=0, limit=10_000)
        return {
            "jobs": [await store.job(job_id) for job_id in self.ids],
            "list": await store.jobs(limit=1000, errors=True),
            "logs": [await store.job_logs(job_id) for job_id in self.ids],
            "graphs": [graph and ({*graph.nodes}, {*graph.edges}, graph.cut) for graph in graphs],
            "parents": [await store.parents(job_id) for job_id in self.ids],
            "children": [await store.children(job_id) for job_id in self.ids],
            "why": [await store.why(job_id) for job_id in self.ids],
            "events": sorted((event.subject, event.at, event.type, str(event.data)) for event in events),
            "bounds": await store.event_bounds(),
            "living": await store.counts(ended=False),
            "ended": await store.counts(ended=True),
            "due": await store.next_due(),
            "suspects": await store.suspects(),
            "processes": sorted((row.job, row.pgid, row.started) for row in await store.processes("no boot")),
            "queues": await store.queues(),
            "schedules": await store.schedules(),
            "fires": await store.fires("s"),
        }


def first_difference(what: str, meant: Any, found: Any) -> Any:
    """Return what is first different in two values of a picture."""
    if isinstance(meant, list | tuple) and isinstance(found, list | tuple) and len(meant) == len(found):
        for one, other in zip(meant, found, strict=True):
            if one != other and isinstance(one, JobView) and isinstance(other, JobView):
                old, new = one.model_dump(), other.model_dump()
                return what, one.id, {name: (old[name], new[name]) for name in old if old[name] != new[name]}
            if one != other:
                return what, one, other
    return what, meant, found
