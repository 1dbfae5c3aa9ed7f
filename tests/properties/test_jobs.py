"""Random histories of jobs: the stores agree on every answer, and what must never happen does not."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import LeaseLost, VersionConflict
from runtime.store.memory import MemoryStore
from runtime.store.port import (
    AppendLogs,
    CancelJobs,
    Claimed,
    ClaimJobs,
    Finish,
    FinishJobs,
    Heartbeat,
    InsertJobs,
    JobRow,
    PromoteDue,
    PruneEvents,
    RecordProcess,
    RecoverJobs,
    ReleaseHeld,
    RetryJobs,
    SaveProgress,
    SaveState,
    SetQueue,
    Store,
)
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import ENDED, MOVES, JobView

PLACES = [("q", "loop"), ("q", "child"), ("agent:a", "agent")]
WORKERS = ("w1", "w2", "w3")
KINDS = ("a", "b")
PROBLEM = json.dumps({"code": "job.failed", "title": "It failed", "status": 500, "detail": "no"})
ENDS = [
    ("completed", None),
    ("completed", None),
    ("failed", "exhausted"),
    ("delayed", "retry"),
    ("pending", None),
    ("pending", None),
    ("pending", None),
    ("paused", "hold"),
    ("waiting", "signal"),
]
REFUSED = SaveState("nobody", "{}", 1, expected=9, boot="b", incarnation=1, now=1)
"""A change that always raises, to have the others of its commit taken back."""

# Which job or claim an operation is about, counted from the last one, modulo how many there are. Below `STALE` it is
# one it is meant for (owned, to be retried); from there on any, or a lost claim to a job that another attempt owns now.
STALE = 9
which = st.integers(0, 12)
job = st.fixed_dictionaries(
    {
        "place": st.sampled_from(PLACES),
        "kind": st.sampled_from(KINDS),
        "priority": st.sampled_from([100, 100, 99, 0]),
        "delay": st.sampled_from([0, 0, 0, -3, 40]),
        "key": st.sampled_from([None, None, None, "k1", "k2"]),
        "args": st.sampled_from(['{"n": 1}', '{"n": 2}']),
        "conversation": st.sampled_from([None, "x", "y"]),
        "user_code": st.booleans(),
    }
)
end = st.fixed_dictionaries(
    {
        "which": which,
        "end": st.sampled_from(ENDS),
        "delay": st.sampled_from([None, 5, 60]),
        "refund": st.booleans(),
        "crash": st.booleans(),
        "words": st.sampled_from([(None, None), ("1", None), (None, PROBLEM)]),
    }
)
OPERATIONS: dict[str, st.SearchStrategy[tuple[Any, ...]]] = {
    "insert": st.tuples(st.lists(job, min_size=1, max_size=4)),
    "claim": st.tuples(st.sampled_from(PLACES), st.integers(1, 3)),
    "finish": st.tuples(st.lists(end, min_size=1, max_size=3), st.sampled_from([False, False, False, True])),
    "write": st.tuples(which, st.sampled_from(["process", "progress", "logs"])),
    "cancel": st.tuples(st.lists(which, min_size=1, max_size=2)),
    "retry": st.tuples(st.lists(which, min_size=1, max_size=3)),
    "promote": st.tuples(st.sampled_from([1, 1000])),
    "release": st.tuples(st.sampled_from(KINDS)),
    "daemon dies": st.tuples(),
    "worker dies": st.tuples(st.sampled_from(WORKERS)),
    "pause": st.tuples(st.sampled_from(PLACES), st.sampled_from([True, False, False, False])),
    "prune": st.tuples(st.sampled_from([0, 3])),
    "beat": st.tuples(),
    "wait": st.tuples(st.sampled_from([1, 50])),
}
OFTEN = ["insert"] * 3 + ["claim"] * 9 + ["finish"] * 8 + ["cancel", "retry", "promote", "write"] * 2
operation = st.sampled_from([*OFTEN, *OPERATIONS]).flatmap(lambda name: st.tuples(st.just(name), OPERATIONS[name]))
step = st.tuples(operation, st.sampled_from([False] * 7 + [True]))
history = st.lists(step, min_size=20, max_size=60)


class Player:
    """Plays a history to every store at once and holds them to the same answers."""

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores
        self.now = 1_000
        self.boot = 1
        self.ids: list[str] = []
        self.claims: list[Claimed] = []
        self.seen: dict[str, JobView] = {}
        self.completions: Counter[str] = Counter()
        self.cursor = 0

    async def play(self, operation: tuple[str, tuple[Any, ...]], taken_back: bool) -> None:
        """Do one operation; with *taken_back* in a commit that fails in the end."""
        name, rest = operation
        if name == "wait":
            self.now += rest[0]
            return
        if name == "daemon dies" and not taken_back:
            self.boot += 1
        change = getattr(self, "_" + name.replace(" ", "_"))(*rest)
        before = await self._picture(self.stores[0]) if taken_back else None
        answers = [await self._commit(store, change, taken_back) for store in self.stores]
        assert all(answer == answers[0] for answer in answers), (change, answers)
        if taken_back or answers[0] == "lease lost":
            assert before in (None, await self._picture(self.stores[0]))
            return
        self._check_answer(change, answers[0])
        await self._check()

    async def _commit(self, store: Store, change: Any, taken_back: bool) -> Any:
        try:
            answer = (await store.commit([change, REFUSED] if taken_back else [change]))[0]
        except LeaseLost:
            return "lease lost"
        except VersionConflict:
            assert taken_back
            return "taken back"
        if isinstance(change, (PromoteDue, ReleaseHeld)):
            return sorted(answer)
        return list(answer) if isinstance(answer, tuple) else answer

    # -- operations as changes -----------------------------------------------------------------------------------------

    def _insert(self, jobs: list[dict[str, Any]]) -> InsertJobs:
        rows = []
        for given_job in jobs:
            fields = dict(given_job)
            (queue, lane), delay = fields.pop("place"), fields.pop("delay")
            self.ids.append(f"job-{len(self.ids):04d}")
            rows.append(JobRow(id=self.ids[-1], queue=queue, lane=lane, execute_after=self.now + delay, **fields))
        return InsertJobs(tuple(rows), now=self.now)

    def _claim(self, place: tuple[str, Any], count: int) -> ClaimJobs:
        return ClaimJobs(*place, WORKERS[:count], f"boot-{self.boot}", now=self.now, lease_until=self.now + 30)

    def _finish(self, ends: list[dict[str, Any]], strict: bool) -> FinishJobs:
        finishes = tuple(self._finish_one(**given_end) for given_end in ends)
        return FinishJobs(finishes, now=self.now, strict=strict)

    def _finish_one(
        self, which: int, end: tuple[Any, Any], delay: int | None, refund: bool, crash: bool, words: tuple[Any, Any]
    ) -> Finish:
        status, reason = end
        due = None if delay is None else self.now + delay
        crash = crash and status != "completed"
        return Finish(self._fence(which), status, reason, *words, execute_after=due, refund=refund, crash=crash)

    def _write(self, which: int, what: str) -> RecordProcess | SaveProgress | AppendLogs:
        fence = self._fence(which)
        if what == "process":
            return RecordProcess(fence, pgid=10 + which, started=self.now)
        if what == "progress":
            return SaveProgress(fence, str(which), now=self.now)
        return AppendLogs(fence, ((self.now, "info", f"line {which}"), (self.now, "error", "and one more")))

    def _cancel(self, which: list[int]) -> CancelJobs:
        return CancelJobs(tuple(self._id(one, "active", "delayed") for one in which), now=self.now)

    def _retry(self, which: list[int]) -> RetryJobs:
        return RetryJobs(tuple(self._id(one, "failed", "cancelled") for one in which), now=self.now)

    def _promote(self, limit: int) -> PromoteDue:
        return PromoteDue(now=self.now, limit=limit)

    def _release(self, kind: str) -> ReleaseHeld:
        return ReleaseHeld((kind,), now=self.now)

    def _daemon_dies(self) -> RecoverJobs:
        return RecoverJobs(boot=f"boot-{self.boot}", now=self.now)

    def _worker_dies(self, worker: str) -> RecoverJobs:
        return RecoverJobs(boot=f"boot-{self.boot}", now=self.now, worker=worker)

    def _pause(self, place: tuple[str, Any], paused: bool) -> SetQueue:
        return SetQueue(place[0], paused=paused, now=self.now)

    def _prune(self, keep: int) -> PruneEvents:
        return PruneEvents(keep=keep)

    def _beat(self) -> Heartbeat:
        return Heartbeat((("w1", "busy"),), f"boot-{self.boot}", now=self.now, lease_until=self.now + 30)

    def _fence(self, which: int) -> Claimed:
        active = [claimed for claimed in self.claims if self.seen[claimed.id].status == "active"]
        claims = [claimed for claimed in active if self._owns(claimed) == (which < STALE)] or self.claims
        if not claims:
            return Claimed(99, "x", 1, "w1", "b", "a", "q", "loop", "{}", 1, 1, 0, False, None, None, None, 0)
        return claims[-1 - which % len(claims)]

    def _id(self, which: int, *statuses: str) -> str:
        meant = [job_id for job_id, view in self.seen.items() if which < STALE and view.status in statuses]
        ids = meant or self.ids
        return ids[-1 - which % len(ids)] if ids else "nobody"

    # -- what must hold of each answer and after each step -------------------------------------------------------------

    def _check_answer(self, change: Any, answer: Any) -> None:
        if isinstance(change, ClaimJobs):
            for claimed in answer:
                assert claimed.epoch == 1 + max((old.epoch for old in self.claims if old.id == claimed.id), default=0)
            self.claims += answer
        elif isinstance(change, FinishJobs):
            owned = [self._owns(finish.fence) for finish in change.finishes]
            first = [
                finish.fence not in [f.fence for f in change.finishes[:n]] for n, finish in enumerate(change.finishes)
            ]
            assert [done is not None for done in answer] == [a and b for a, b in zip(owned, first, strict=True)]
        elif isinstance(change, (RecordProcess, SaveProgress, AppendLogs)):
            assert answer is self._owns(change.fence)

    def _owns(self, fence: Claimed) -> bool:
        """Whether *fence* was the newest claim of a job that was active before this step."""
        newest = [claimed for claimed in self.claims if claimed.id == fence.id][-1:]
        return newest == [fence] and self.seen[fence.id].status == "active"

    async def _check(self) -> None:
        store = self.stores[0]
        jobs = {job_id: view for job_id in self.ids if (view := await store.job(job_id)) is not None}
        for job_id, view in jobs.items():
            self._check_move(self.seen.get(job_id), view)
        self.seen = jobs
        self._check_conversations()
        for event in await store.events(after=self.cursor, limit=10_000):
            assert event.offset is not None
            assert event.offset > self.cursor
            self.cursor = event.offset
            self.completions[event.subject] += event.type == "job.completed"
        for job_id, count in self.completions.items():
            assert count == (jobs[job_id].status == "completed")

    def _check_move(self, old: JobView | None, new: JobView) -> None:
        assert [attempt.epoch for attempt in new.history] == list(range(1, len(new.history) + 1))
        assert sum(attempt.outcome == "completed" for attempt in new.history) == (new.status == "completed")
        assert (new.finished_at is not None) == (new.status in ENDED)
        assert (new.worker is not None) == (new.status == "active")
        assert sum(attempt.ended_at is None for attempt in new.history) == (new.status == "active")
        if old is not None:
            assert len(new.history) >= len(old.history)
            assert new.status == old.status or new.status in MOVES[old.status]
            assert old.status != "completed" or new == old

    def _check_conversations(self) -> None:
        """No two jobs of a conversation on an agent's queue are active at once."""
        active = [view for view in self.seen.values() if view.status == "active" and view.queue.startswith("agent:")]
        talks = Counter((view.queue, view.conversation) for view in active if view.conversation is not None)
        assert all(count == 1 for count in talks.values()), talks

    async def compare(self) -> None:
        """Hold every store to the same final picture."""
        pictures = [await self._picture(store) for store in self.stores]
        for picture in pictures[1:]:
            for what, value in pictures[0].items():
                assert picture[what] == value, what

    async def _picture(self, store: Store) -> dict[str, Any]:
        return {
            "jobs": [await store.job(job_id) for job_id in self.ids],
            "list": await store.jobs(limit=1000),
            "logs": [await store.job_logs(job_id) for job_id in self.ids],
            "events": await store.events(after=0, limit=10_000),
            "bounds": await store.event_bounds(),
            "living": await store.counts(ended=False),
            "ended": await store.counts(ended=True),
            "due": await store.next_due(),
            "suspects": await store.suspects(),
            "processes": sorted((row.job, row.pgid, row.started) for row in await store.processes("no boot")),
            "queues": await store.queues(),
        }


async def play(stores: list[Store], steps: list[Any]) -> None:
    """Play *steps* to *stores*, and compare them in the end."""
    player = Player(stores)
    for store in stores:
        await store.open()
    try:
        for operation, taken_back in steps:
            await player.play(operation, taken_back)
        await player.compare()
    finally:
        for store in stores:
            await store.close()


def run(function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    anyio.run(partial(function, *arguments))


QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.mark.timeout(400)  # only a failing history takes long: it is made small
@settings(QUICK, max_examples=150)
@given(history)
def test_no_history_breaks_the_rules_of_jobs(steps: list[Any]) -> None:
    run(play, [MemoryStore()], steps)


@pytest.mark.timeout(400)  # only a failing history takes long: it is made small
@settings(QUICK, max_examples=60)
@given(history)
def test_the_store_in_a_file_does_what_the_reference_does(steps: list[Any]) -> None:
    with TemporaryDirectory() as folder:
        file = SqliteStore(Path(folder) / "understudy.db", durability="relaxed")
        run(play, [MemoryStore(), file], steps)
