"""Thousands of jobs under every limit, judged by the events alone; and cancels that race whatever a job does just then:
each job ends once, and as its canceller was told.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.clock import SystemClock
from runtime.store.port import AGING_MS
from runtime.store.sqlite.store import SqliteStore
from schemas.events import Event
from schemas.jobs import ENDED, CancelJob, Cancelled, Claimed, JobEnded, NewJob, Outcome, SubmitJobs

JOBS = 5_000
WORKERS = 8
GLOBAL = 7
NARROW = 3
REQUESTS, PER_MS = 30, 1_000
TOKENS, TOKENS_PER_MS = 400, 2_000
KEYS = {"disk": 1, "net": 3}
CONFIG = f"""
    [runtime]
    max_active = {GLOBAL}
    [queues.narrow]
    max_active = {NARROW}
    [queues.slow]
    rate = {{ requests = {REQUESTS}, per = "{PER_MS}ms" }}
    [queues.dear]
    rate = {{ tokens = {TOKENS}, per = "{TOKENS_PER_MS}ms" }}
"""


@dataclass
class Level:
    """How much may be started by a rate, as it is written down in one line: full at first, and never over full."""

    rim: float
    per_ms: int
    left: float = -1
    at: int = 0

    def take(self, at: int, size: float) -> float:
        """Take out and return what is left."""
        full = self.rim if self.left < 0 and not self.at else self.left + (at - self.at) * self.rim / self.per_ms
        self.left, self.at = min(self.rim, full) - size, at
        return self.left


@dataclass
class Line:
    """Who waits in a queue: (eligible, rank, id) of who may come later, (rank, id) of who is there."""

    later: list[tuple[int, int, str]] = field(default_factory=list)
    there: list[tuple[int, str]] = field(default_factory=list)
    newest: int = 0


@dataclass
class Judge:
    """Holds every start against every limit and the order, at the moment it is told."""

    jobs: dict[str, tuple[NewJob, int]]
    """By id: what was submitted, and when it is eligible."""
    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    active: set[str] = field(default_factory=set)
    lines: dict[str, "Line"] = field(default_factory=dict)
    most: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slow: Level = field(default_factory=lambda: Level(REQUESTS, PER_MS))
    dear: Level = field(default_factory=lambda: Level(TOKENS, TOKENS_PER_MS))
    overtaken: int = 0

    def hear(self, events: list[Event]) -> None:
        for event in events:
            if event.type == "job.started":
                self.start(event.subject, event.at)
            elif event.type == "job.completed":
                self.ended[event.subject] += 1
                self.active.discard(event.subject)
            elif event.type != "job.enqueued":
                self.faults.append(f"{event.type} of {event.subject}")

    def start(self, name: str, at: int) -> None:
        job, _ = self.jobs[name]
        self.started[name] += 1
        if name in self.active:
            self.faults.append(f"{name} started twice")
        self.active.add(name)
        self.check("all", len(self.active), GLOBAL)
        of = [self.jobs[one][0] for one in self.active]
        self.check("narrow", sum(one.queue == "narrow" for one in of), NARROW)
        for key, most in KEYS.items():
            self.check(key, sum(one.limit_key == key for one in of), most)
        if job.queue == "slow" and self.slow.take(at, 1) < -1e-6:
            self.faults.append(f"too fast at {at}")
        if job.queue == "dear" and self.dear.take(at, job.tokens) < -1e-6:
            self.faults.append(f"too many tokens at {at}")
        if job.limit_key is None:
            self.in_order(name, at)

    def check(self, what: str, now: int, most: int) -> None:
        self.most[what] = max(self.most[what], now)
        if now > most:
            self.faults.append(f"{now} of {what}")

    def in_order(self, name: str, at: int) -> None:
        """Of its queue nobody who was there before, without a key, has a lower rank than who starts."""
        job, eligible = self.jobs[name]
        queue = str(job.queue)
        line = self.lines.setdefault(queue, Line())
        while line.later and line.later[0][0] < at - 1:
            heappush(line.there, heappop(line.later)[1:])
        while line.there and self.started[line.there[0][1]]:
            heappop(line.there)
        if line.there and line.there[0][0] < eligible + job.priority * AGING_MS:
            self.faults.append(f"{name} before {line.there[0][1]}")
        self.overtaken += eligible < line.newest
        line.newest = max(line.newest, eligible)

    def submitted(self, name: str, job: NewJob, now: int) -> None:
        eligible = now + job.delay_ms
        self.jobs[name] = (job, eligible)
        if job.limit_key is None:
            line = self.lines.setdefault(str(job.queue), Line())
            heappush(line.later, (eligible, eligible + job.priority * AGING_MS, name))


def some_job(chance: random.Random) -> NewJob:
    key = chance.choice((None, None, None, "disk", "net"))
    return NewJob(
        kind="echo",
        queue=chance.choice(("default", "default", "narrow", "slow", "dear")),
        priority=chance.choice((0, 1, 2, 100)),
        delay_ms=chance.choice((0, 0, 0, 700, 5_000)),
        tokens=chance.choice((0, 1, 8, 30)),
        limit_key=key,
        limit_max=KEYS.get(key or "", 1),
    )


async def test_thousands_of_jobs_each_start_once_in_their_order_and_pass_no_limit(stage: Any) -> None:
    chance = random.Random(1)
    async with stage(CONFIG) as s, anyio.create_task_group() as tasks:
        judge = Judge({})
        s.disk.listen(judge.hear)
        queue = s.system.ref("queue")

        async def work(hand: Any, luck: random.Random) -> None:
            for n in range(1, JOBS + 1):
                job = await hand.takes(n)
                await anyio.sleep(luck.choice((0.001, 0.01, 0.04)))
                await queue.tell(JobEnded(job, Outcome(ok=True)))

        for n in range(WORKERS):
            tasks.start_soon(work, await s.hand(f"hand-{n}"), random.Random(n))
        submitted = 0
        while submitted < JOBS:
            some = tuple(some_job(chance) for _ in range(min(JOBS - submitted, chance.choice((1, 20, 300)))))
            now = s.house.clock.now()
            # Their ids are known before the first of them can start: it may start before the answer is here.
            made = s.house.clock.new_id
            ids: list[str] = []

            def keep(made: Any = made, ids: list[str] = ids, some: Any = some, now: int = now) -> str:
                ids.append(made())
                judge.submitted(ids[-1], some[len(ids) - 1], now)
                return ids[-1]

            s.house.clock.new_id = keep
            assert [one.id for one in await s.ask(SubmitJobs(jobs=some))] == ids
            s.house.clock.new_id = made
            submitted += len(some)
            await anyio.sleep(chance.choice((0, 0.05, 2)))
        with anyio.fail_after(3600):
            while judge.ended.total() < JOBS and not judge.faults:
                await anyio.sleep(1)
        tasks.cancel_scope.cancel()
    assert judge.faults == []
    assert set(judge.started.values()) == set(judge.ended.values()) == {1}
    assert len(judge.started) == JOBS
    assert judge.most == {"all": GLOBAL, "narrow": NARROW} | KEYS  # each limit was reached, so each was put to the test
    assert judge.overtaken > 100
    assert s.house.repairs == {}


# -- cancels that race -------------------------------------------------------------------------------------------------

TERMINAL = tuple(f"job.{status}" for status in ENDED)


class Ends(dict[str, list[str]]):
    """Which ends each job was told to have come to."""

    def __init__(self, s: Any) -> None:
        s.disk.listen(self.hear)

    def hear(self, events: list[Event]) -> None:
        for event in events:
            if event.type in TERMINAL:
                self.setdefault(event.subject, []).append(event.type)


async def judged(
    s: Any, ends: Ends, told: dict[str, list[Cancelled]], results: dict[str, str]
) -> Counter[tuple[str, str]]:
    """Hold what cancellers were told, and what workers reported, against what became of each job."""
    await s.caught_up()
    seen: Counter[tuple[str, str]] = Counter()
    for job, answers in told.items():
        view = await s.job(job)
        assert view.status in ("completed", "cancelled")
        assert ends[job] == [f"job.{view.status}"]
        for answer in answers:
            seen[answer.outcome, view.status] += 1
            if answer.outcome == "too_late":
                assert answer.status == view.status
            if answer.outcome == "cancelled":
                assert (answer.status, view.status, view.attempts) == ("cancelled", "cancelled", 0)
        if view.status == "completed":
            assert results.get(job, view.result) == view.result
            assert view.error is None
    assert ("cancelled", "completed") not in seen
    assert await s.counts() == await s.true_counts()
    assert s.house.repairs == {}
    return seen


@pytest.mark.parametrize("takes", [0.0, 0.003])
async def test_a_thousand_cancels_race_a_thousand_jobs_wherever_these_stand(stage: Any, takes: float) -> None:
    """Pending, delayed, waiting for a key or a parent, running, ending just now: twice asked, each ends once."""
    chance = random.Random(21)
    async with stage() as s:
        ends = Ends(s)
        hands = [await s.hand(f"hand-{n}") for n in range(60)]
        told: dict[str, list[Cancelled]] = {}
        results: dict[str, str] = {}
        queue = s.system.ref("queue")

        async def work(hand: Any, luck: random.Random) -> None:
            for n in range(1, 1001):
                job: Claimed = await hand.takes(n)
                await anyio.sleep(luck.choice((0, 0.005, 0.03, 0.06)))
                wished = s.house.board.running(job.lease).wished and luck.random() < 0.8
                outcome = Outcome(ok=False, error_class="cancelled") if wished else Outcome(ok=True, result=job.id)
                results[job.id] = job.id
                await queue.tell(JobEnded(job, outcome))

        async def cancel(job: str, after: float) -> None:
            await anyio.sleep(after)
            told.setdefault(job, []).append(await s.ask(CancelJob(id=job)))

        fields: list[dict[str, Any]] = []
        for n in range(1000):
            more = chance.choice(({}, {}, {"delay_ms": 400}, {"limit_key": f"k{n % 5}"}))
            parent = {"depends_on": ({"job": f"#r{n - 1}", "on_failure": "run"},)} if n % 4 == 3 else {}
            fields.append({"ref": f"r{n}", **more, **parent})
        jobs = await s.submit_many(*fields)
        async with anyio.create_task_group() as tasks:
            s.disk.takes = takes
            for n, hand in enumerate(hands):
                tasks.start_soon(work, hand, random.Random(n))
            async with anyio.create_task_group() as cancels:
                for job in jobs:
                    for _ in range(chance.choice((1, 2))):
                        cancels.start_soon(cancel, job, chance.random() * 0.8)
            for job in jobs:
                await s.until(job)
            tasks.cancel_scope.cancel()
        s.disk.takes = 0.0
        seen = await judged(s, ends, told, results)
        assert len(told) == 1000
        for one in (("too_late", "completed"), ("requested", "cancelled"), ("cancelled", "cancelled")):
            assert seen[one] > 5, seen


@pytest.fixture
def on_sqlite(whole: Any, tmp_path: Path) -> Any:
    @asynccontextmanager
    async def run(config: str, **more: Any) -> AsyncIterator[Any]:
        def change(house: Any) -> None:
            house.clock = SystemClock()

        disk = SqliteStore(tmp_path / "understudy.db", durability="relaxed")
        async with whole(config, disk=disk, change=change, **more) as s:
            yield s

    return run


WORK = """
    import anyio
    async def work(n):
        await anyio.sleep(n % 7 / 1000)
        return n
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # real files take real time
async def test_a_thousand_cancels_race_real_workers_on_a_real_file(on_sqlite: Any) -> None:
    config = '[runtime]\npool = 8\nchild_pool = 1\n[kinds.work]\nrun = "jobs:work"\nin_loop = true\n'
    chance = random.Random(22)
    async with on_sqlite(config, jobs_py=WORK) as s:
        ends = Ends(s)
        told: dict[str, list[Cancelled]] = {}

        async def cancel(job: str, after: float) -> None:
            await anyio.sleep(after)
            told[job] = [await s.ask(CancelJob(id=job))]

        async with anyio.create_task_group() as tasks:
            for part in range(10):
                made = tuple(NewJob(kind="work", args={"n": part * 100 + n}) for n in range(100))
                for one in await s.ask(SubmitJobs(jobs=made)):
                    tasks.start_soon(cancel, one.id, chance.random() * 0.1)
        with anyio.fail_after(30):
            for job in told:
                while (await s.job(job)).status not in ENDED:
                    await anyio.sleep(0.005)
        seen = await judged(s, ends, told, {})
        assert len(told) == 1000
        assert seen["too_late", "completed"] > 20, seen
        assert seen["cancelled", "cancelled"] > 20, seen
