"""The daemon as a process: from nothing to ready, with a backlog, and what it weighs when idle."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import psutil

from benchmarks.row import Row
from runtime.clock import SystemClock
from runtime.control.wire import Wire, WireError
from runtime.store.port import InsertJobs, JobRow
from runtime.store.sqlite.store import SqliteStore

CONFIG = """
[agents.one]
llm = { provider = "scripted", model = "echo" }
[agents.two]
llm = { provider = "scripted", model = "echo" }
[agents.three]
llm = { provider = "scripted", model = "echo" }
"""
READY_BAR = 1.0
READY_WITH_BACKLOG_BAR = 2.0
MEGABYTES_BAR = 80.0
BACKLOG = 100_000


@contextmanager
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="us") as name:
        folder = Path(name)
        (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
        (folder / "config.toml").chmod(0o600)
        yield folder


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """Start the daemon; give its process and the seconds until it took work."""
    environ = os.environ | {"UNDERSTUDY_HOME": str(folder / "home")}
    argv = [sys.executable, "-P", "-m", "actors", "--quiet", "-c", str(folder / "config.toml")]
    started = time.perf_counter()
    process = subprocess.Popen(argv, env=environ)
    try:
        wire = Wire(folder / "home" / "control.sock")
        while not ready(wire):
            assert process.poll() is None, "the daemon ended while it started"
            time.sleep(0.005)
        yield process, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ready(wire: Wire) -> bool:
    try:
        return bool(wire.call("GET", "/readyz"))
    except WireError:
        return False


async def backlog(folder: Path, count: int) -> None:
    """Leave *count* jobs pending for an agent that nobody has, so that none is worked off meanwhile."""
    (folder / "home").mkdir(mode=0o700)
    store, clock = SqliteStore(folder / "home" / "understudy.db"), SystemClock()
    await store.open()
    args = json.dumps({"text": "later"})
    for _ in range(count // 10_000):
        rows = tuple(JobRow(clock.new_id(), "echo", "agent:nobody", "agent", args) for _ in range(10_000))
        await store.commit([InsertJobs(rows, clock.now())])
    await store.close()


def start_up(rounds: int) -> float:
    times = []
    for _ in range(rounds):
        with home() as folder, daemon(folder) as (_, seconds):
            times.append(seconds)
    return median(times)


def start_up_with_backlog(count: int) -> float:
    with home() as folder:
        anyio.run(backlog, folder, count)
        with daemon(folder) as (_, seconds):
            counted: Any = Wire(folder / "home" / "control.sock").call("GET", "/v1/status")["queues"]
            assert counted["agent:nobody"]["pending"] == count
            return seconds


def resident() -> float:
    with home() as folder, daemon(folder) as (process, _):
        return psutil.Process(process.pid).memory_info().rss / 1e6


def measure(quick: bool) -> list[Row]:
    """Measure against fixed bars: there is no bare daemon to compare with."""
    return [
        Row("daemon: ready from nothing", start_up(2 if quick else 7), READY_BAR, 1.0, "s", higher_is_better=False),
        Row(
            "daemon: ready with 100,000 pending jobs",
            start_up_with_backlog(BACKLOG),
            READY_WITH_BACKLOG_BAR,
            1.0,
            "s",
            higher_is_better=False,
        ),
        Row("daemon: resident, three agents", resident(), MEGABYTES_BAR, 1.0, "MB", higher_is_better=False),
    ]


if __name__ == "__main__":
    for row in measure(quick=True):
        print(row)
