"""Durable jobs beside a bare group commit: one writer thread over the same SQLite settings, and nothing else."""

import asyncio
import json
import queue
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

import actors.tree
from benchmarks.row import Row
from runtime import config
from runtime.clock import SystemClock
from runtime.core.system import ActorSystem
from runtime.daemon import Parts, calm_collector
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store.sqlite.connection import prepare, wanted_pragmas
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import NewJob, SubmitJob

ARGS = '{"text":"hi"}'


class Bare:
    """The limit: jobs in one narrow table, commits of the same moment gathered into one."""

    def __init__(self, path: Path) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.path = path
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        sql = sqlite3.connect(self.path, isolation_level=None)
        prepare(sql, wanted_pragmas("full", writer=True))
        sql.execute(
            "CREATE TABLE jobs (seq INTEGER PRIMARY KEY, id TEXT, kind TEXT, status TEXT, rank INTEGER, worker TEXT,"
            " args TEXT, result TEXT, finished_at INTEGER) STRICT"
        )
        sql.execute("CREATE INDEX claim ON jobs (rank, seq) WHERE status = 'pending'")
        while True:
            batch = [self.calls.get()]
            while not self.calls.empty():
                batch.append(self.calls.get())
            if batch[0] is None:
                sql.close()
                return
            sql.execute("BEGIN IMMEDIATE")
            results = [function(sql) for function, _ in batch if function is not None]
            sql.execute("COMMIT")
            loop = batch[0][1].get_loop()
            loop.call_soon_threadsafe(resolve, [done for _, done in batch], results)

    async def call(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        done = asyncio.get_running_loop().create_future()
        self.calls.put((function, done))
        return await done

    def close(self) -> None:
        self.calls.put(None)
        self.thread.join()


def resolve(waiting: list[asyncio.Future[Any]], results: list[Any]) -> None:
    for done, result in zip(waiting, results, strict=True):
        done.set_result(result)


def insert(count: int) -> Callable[[sqlite3.Connection], None]:
    rows = [(f"job-{n}", "echo", "pending", n, ARGS) for n in range(count)]

    def work(sql: sqlite3.Connection) -> None:
        sql.executemany("INSERT INTO jobs (id, kind, status, rank, args) VALUES (?, ?, ?, ?, ?)", rows)

    return work


CLAIM = (
    "UPDATE jobs SET status = 'active', worker = 'w' WHERE seq = (SELECT seq FROM jobs WHERE status = 'pending'"
    " ORDER BY rank, seq LIMIT 1) RETURNING seq, id, args"
)


def turn_over(finished: int | None) -> Callable[[sqlite3.Connection], int | None]:
    """Finish one job and claim the next; those of all workers that wait are one transaction."""

    def work(sql: sqlite3.Connection) -> int | None:
        if finished is not None:
            sql.execute("UPDATE jobs SET status = 'done', result = '1', finished_at = 1 WHERE seq = ?", (finished,))
        rows = sql.execute(CLAIM).fetchall()
        return rows[0][0] if rows else None

    return work


@asynccontextmanager
async def stage(folder: Path, workers: int) -> AsyncIterator[tuple[ActorSystem, Any]]:
    """The real thing without its socket: store, queue and a pool of in-loop workers."""
    path = folder / "config.toml"
    path.write_text(f"[runtime]\npool = {workers}\nchild_pool = 1\n", encoding="utf-8")
    path.chmod(0o600)
    clock = SystemClock()
    house = actors.tree.company(
        Parts(
            boot=clock.new_id(),
            home=folder,
            store=SqliteStore(folder / "understudy.db"),
            bus=EventBus(),
            clock=clock,
            redactor=Redactor(),
            loaded=config.load(path, {}),
            started_at=clock.now(),
        )
    )
    system = ActorSystem(actors.tree.tree(house, lambda _: None, (), safe=False), clock=clock)
    async with anyio.create_task_group() as tasks:
        await tasks.start(system.run)
        calm_collector()
        yield system, house
        system.stop()


async def in_parallel(producers: int, total: int, one: Callable[[], Awaitable[Any]]) -> float:
    """Run *one* *total* times from *producers* tasks; return how many a second."""

    async def produce() -> None:
        for _ in range(total // producers):
            await one()

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(producers):
            tasks.start_soon(produce)
    return (total // producers * producers) / (time.perf_counter() - started)


async def enqueue(producers: int, total: int) -> tuple[float, float]:
    """Return how many jobs a second are acknowledged: ours and the limit's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = Bare(folder / "bare.db")
        work = insert(1)
        limit = await in_parallel(producers, total, lambda: bare.call(work))
        bare.close()
        job = SubmitJob(job=NewJob(kind="echo", args={"text": "hi"}, delay_ms=3_600_000))
        async with stage(folder, 1) as (system, house):
            ref = system.ref("queue")
            ours = await in_parallel(producers, total, lambda: ref.ask(job))
            counted = house.counts["default"]["delayed"]
            assert counted == total // producers * producers, f"{counted} jobs are there, not {total}"
    return ours, limit


async def process(workers: int, total: int) -> tuple[float, float]:
    """Return no-op jobs a second from pending to completed: ours and the limit's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = Bare(folder / "bare.db")
        await bare.call(insert(total))
        held = 0

        async def work() -> None:
            nonlocal held
            active = await bare.call(turn_over(None))
            while active is not None:
                held += 1
                active = await bare.call(turn_over(active))

        started = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(work)
        limit = total / (time.perf_counter() - started)
        bare.close()
        assert held == total
        await fill(folder, total)
        async with stage(folder, workers) as (_, house):
            started = time.perf_counter()
            await until(lambda: house.counts["default"].get("completed", 0) >= total)
            ours = total / (time.perf_counter() - started)
            done = (await house.store.counts(ended=True))["default", "loop", "completed"]
            assert done == total, f"{done} of {total} jobs are completed"
    return ours, limit


async def fill(folder: Path, total: int) -> None:
    """Put pending jobs into a new database before anybody claims them."""
    from runtime.store.port import InsertJobs, JobRow

    store = SqliteStore(folder / "understudy.db")
    await store.open()
    clock = SystemClock()
    rows = tuple(JobRow(clock.new_id(), "echo", "default", "loop", ARGS) for _ in range(total))
    await store.commit([InsertJobs(rows, clock.now())])
    await store.close()


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await anyio.sleep(0.002)


async def idle_pick_up(rounds: int) -> tuple[float, float]:
    """Return the median milliseconds from a submit to the start of the work on an idle daemon: ours and the limit's."""
    ours, limit = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = Bare(folder / "bare.db")
        for _ in range(rounds):
            started = time.perf_counter()
            await bare.call(insert(1))
            active = await bare.call(turn_over(None))
            limit.append(time.perf_counter() - started)
            await bare.call(turn_over(active))
        bare.close()
        async with stage(folder, 2) as (system, house):
            with house.bus.subscribe(("job.started",)) as news:
                for _ in range(rounds):
                    started = time.perf_counter()
                    await system.ref("queue").ask(SubmitJob(job=NewJob(kind="echo", args=json.loads(ARGS))))
                    await news.wait()
                    ours.append(time.perf_counter() - started)
                    news.take()
                    await until(lambda: house.counts["default"].get("completed", 0) >= len(ours))
    return statistics.median(ours) * 1000, statistics.median(limit) * 1000


def measure(quick: bool) -> list[Row]:
    """Measure each bar of durable jobs beside the limit, in one run."""
    scale = 1 if quick else 5
    rows = []
    for producers, total, bar in ((1, 400, 0.7), (64, 6400, 0.55)):
        ours, limit = asyncio.run(enqueue(producers, total * scale))
        rows.append(Row(f"durable: enqueue, {producers} at once", ours, limit, bar))
    for workers, total, bar in ((1, 500, 0.6), (10, 4000, 0.5), (50, 10_000, 0.5)):
        ours, limit = asyncio.run(process(workers, total * scale))
        rows.append(Row(f"durable: no-op jobs, concurrency {workers}", ours, limit, bar))
    ours, limit = asyncio.run(idle_pick_up(50 * scale))
    rows.append(Row("durable: idle pick-up, p50", ours, limit, 1.4, "ms", higher_is_better=False))
    return rows


if __name__ == "__main__":
    for row in measure(quick=True):
        print(row)
