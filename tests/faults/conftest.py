"""What the faults share: jobs that leave a trace on the disk, a store filled beforehand, and a small disk."""

import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.store.port import InsertJobs, JobRow
from runtime.store.sqlite.store import SqliteStore

TRACE = '''
import os
import time


def trace(path, key, seconds):
    """Write down the start and the end, each on the disk before going on."""
    note(path, key, "start")
    time.sleep(seconds)
    note(path, key, "end")
    return key


def stepped(path, key, ctx):
    """Three steps; each says when its body runs, and when it was recorded."""
    note(path, key, "start")
    for name in ("one", "two", "three"):
        ctx.step(name, body, path, key, name)
        note(path, key, "kept:" + name)
    note(path, key, "end")


def body(path, key, name):
    note(path, key, "body:" + name)
    time.sleep(0.03)
    return name


def family(path, key, ctx):
    """Two parts, waited for."""
    note(path, key, "start")
    for part in ("x", "y"):
        ctx.submit("trace", {"path": path, "key": key + part, "seconds": 0.05}, name=part)
    assert [part.result for part in ctx.wait_children()] == [key + "x", key + "y"]
    note(path, key, "end")


def patient(path, key, ctx):
    """Wait for a signal."""
    note(path, key, "start")
    said = ctx.wait_signal("go")
    note(path, key, "end")
    return said


def note(path, key, phase):
    line = f"{key} {phase} {os.getpid()} {time.time_ns() // 1_000_000}\\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.fsync(file)
    os.close(file)
'''

KIND = """
[kinds.trace]
run = "tracing:trace"

[kinds.stepped]
run = "tracing:stepped"

[kinds.family]
run = "tracing:family"

[kinds.patient]
run = "tracing:patient"

[schedules.often]
cron = "* * * * *"
kind = "echo"
queue = "ticks"
catchup = "all"
overlap = "allow"
"""

COUNTER = """
from runtime.stateful import AgentState, StatefulActor, handles
from schemas.base import Request


class Add(Request[int], type="demo.add", public=True):
    n: int = 1
    note: str = ""


class Save(Request[int], type="demo.save", public=True, durable=True):
    n: int = 1
    note: str = ""


class Counter(StatefulActor):
    class State(AgentState):
        total: int = 0

    @handles
    def add(self, message: Add) -> int:
        self.state.total += message.n
        self.state.general_notes = message.note
        return self.state.total

    @handles
    def save(self, message: Save) -> int:
        self.state.total += message.n
        self.state.general_notes = message.note
        return self.state.total
"""

AGENT = """
[agents.counter]
role = "a counter"
actor = "counting:Counter"
"""


@pytest.fixture
def tracing(new_daemon: Callable[..., Any], base: str) -> Iterator[Any]:
    """A daemon, not yet started, whose jobs leave traces."""
    made = new_daemon(base + KIND + AGENT, modules={"tracing": TRACE, "counting": COUNTER})
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: nothing here depends on a real disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="us-", dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def fill() -> Callable[[Path, int], None]:
    """Put that many pending jobs into a new database."""

    async def insert(path: Path, count: int) -> None:
        store = SqliteStore(path, durability="relaxed")
        await store.open()
        for first in range(0, count, 5000):
            rows = tuple(row(first + n) for n in range(min(5000, count - first)))
            await store.commit([InsertJobs(rows, time.time_ns() // 1_000_000)])
        await store.close()

    return lambda path, count: anyio.run(insert, path, count)


def row(n: int) -> JobRow:
    return JobRow(id=str(uuid.uuid4()), kind="echo", queue="default", lane="loop", args=f'{{"n":{n}}}')
