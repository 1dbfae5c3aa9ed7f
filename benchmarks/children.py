"""Jobs in processes of their own: one that is new for each job, and one that is kept for the next."""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

import actors.tree
from benchmarks.durable import until
from benchmarks.row import Row
from runtime import config
from runtime.clock import SystemClock
from runtime.core.system import ActorSystem
from runtime.daemon import Parts, calm_collector
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import NewJob, SubmitJob

CONFIG = """
[runtime]
pool = 1
child_pool = {children}

[kinds.new]
run = "work:nothing"

[kinds.kept]
run = "work:nothing"
jobs_per_process = 100000
"""
WARM = 40
"""Jobs after which each worker has its process."""
WORK = "def nothing():\n    return None\n"


@asynccontextmanager
async def stage(folder: Path, children: int) -> AsyncIterator[tuple[ActorSystem, Any]]:
    """The daemon's parts without their socket, with so many workers for child processes."""
    path = folder / "config.toml"
    path.write_text(CONFIG.format(children=children), encoding="utf-8")
    path.chmod(0o600)
    (folder / "work.py").write_text(WORK, encoding="utf-8")
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


def completed(house: Any) -> int:
    """Return how many jobs have completed; none may have failed."""
    counts = house.counts.get("default", {})
    assert not counts.get("failed"), "a job failed"
    return int(counts.get("completed", 0))


async def delay(kind: str, rounds: int) -> float:
    """Return the median milliseconds from a submit to the end of the job on an idle daemon."""
    taken = []
    with tempfile.TemporaryDirectory() as name:
        async with stage(Path(name), 1) as (system, house):
            with house.bus.subscribe(("job.completed",)) as news:
                for _ in range(rounds):
                    started = time.perf_counter()
                    await system.ref("queue").ask(SubmitJob(job=NewJob(kind=kind)))
                    await news.wait()
                    taken.append(time.perf_counter() - started)
                    news.take()
    return statistics.median(taken) * 1000


async def throughput(total: int, children: int) -> float:
    """Return how many jobs a second kept processes do."""
    with tempfile.TemporaryDirectory() as name:
        async with stage(Path(name), children) as (system, house):
            queue = system.ref("queue")
            for _ in range(WARM):
                await queue.ask(SubmitJob(job=NewJob(kind="kept")))
            await until(lambda: completed(house) >= WARM)
            started = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(total):
                    tasks.start_soon(queue.ask, SubmitJob(job=NewJob(kind="kept")))
            await until(lambda: completed(house) >= WARM + total)
            return total / (time.perf_counter() - started)


def bare_start(rounds: int) -> float:
    """Return the median milliseconds in which Python starts, imports anyio and ends."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import anyio"], check=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def measure(quick: bool) -> list[Row]:
    """Measure new processes beside a bare one, and kept ones against fixed bars."""
    scale = 1 if quick else 5
    new, bare = asyncio.run(delay("new", 4 * scale)), bare_start(4 * scale)
    kept = asyncio.run(delay("kept", 100 * scale))
    many = asyncio.run(throughput(400 * scale, 4))
    name = "children: a job in a new process, p50 (limit: Python that imports anyio)"
    return [
        Row(name, new, bare, 2.0, "ms", higher_is_better=False),
        Row("children: a job in a kept process, p50 (limit: 2 ms)", kept, 2.0, 1.0, "ms", higher_is_better=False),
        Row("children: jobs in kept processes", many, 1500.0, 1.0),
    ]


if __name__ == "__main__":
    for row in measure(quick=True):
        print(row)
