"""A process that is frozen past its lease and wakes when another attempt has ended: it changes nothing by a byte."""

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.sandbox import process
from runtime.store.sqlite.store import SqliteStore

JOBS = """
    import json, os, signal, time
    from pathlib import Path

    def one():
        return 1

    def works(folder, ctx):
        ctx.log(f"attempt {ctx.epoch}")
        ctx.progress({"by": ctx.epoch})
        ctx.step("one", one)
        if ctx.epoch > 1:
            ctx.step("two", one)
            return "second"
        try:
            Path(folder, "pid.new").write_text(str(os.getpid()))
            os.rename(Path(folder, "pid.new"), Path(folder, "pid"))
            os.kill(os.getpid(), signal.SIGSTOP)
            while True:  # not one long sleep: a signal that comes just before it begins would not end it
                time.sleep(0.05)
        except SystemExit:
            pass  # told to end, and it does not care
        raised = {}
        for name, say in {
            "progress": lambda: ctx.progress({"by": "a zombie"}),
            "log": lambda: ctx.log("from a zombie"),
            "tokens": lambda: ctx.tokens(1_000_000),
            "two": lambda: ctx.step("two", one),
            "three": lambda: ctx.step("three", one),
            "sleep": lambda: ctx.sleep(60),
            "signal": lambda: ctx.wait_signal("go"),
            "child": lambda: ctx.submit("echo", {"zombie": True}, name="child"),
        }.items():
            try:
                say()
            except BaseException as error:
                raised[name] = type(error).__name__
        Path(folder, "said.new").write_text(json.dumps(raised))
        os.rename(Path(folder, "said.new"), Path(folder, "said"))
        return "first"
"""
CONFIG = """
    [runtime]
    pool = 1
    child_pool = 2
    grace = '20s'
    lease = '1s'
    [kinds.works]
    run = "work:works"
    retry = { base = '1ms', jitter = 0.0 }
"""
TABLES = ("jobs", "job_data", "job_steps", "job_logs", "job_attempts", "job_deps", "job_signals")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def kept(path: Path, job: str) -> dict[str, list[Any]]:
    """Return every row of every table of jobs, and every event about *job*."""
    connection = sqlite3.connect(path)
    try:
        rows = {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}
        bodies = [json.loads(body) for (body,) in connection.execute("SELECT body FROM events")]
        return rows | {"events": [event for body in bodies for event in body if event[2] == job]}
    finally:
        connection.close()


async def there(path: Path) -> str:
    with anyio.fail_after(20):
        while not path.exists():
            await anyio.sleep(0.01)
    return path.read_text()


async def test_one_that_slept_past_its_lease_changes_nothing_by_a_byte(whole: Any, tmp_path: Path) -> None:
    disk = SqliteStore(tmp_path / "understudy.db")
    async with whole(CONFIG, disk=disk, work_py=JOBS) as s:
        job = (await s.submit("works", args={"folder": str(tmp_path)})).id
        frozen = int(await there(tmp_path / "pid"))
        found = process.look(frozen)
        assert found is not None
        os.kill(found.parent, signal.SIGSTOP)  # its guard would wake it, to ask it to end
        view = await s.until(job)
        assert (view.status, view.result, view.attempts) == ("completed", "second", 2)
        assert [(one.epoch, one.outcome) for one in view.history] == [(1, "lost"), (2, "completed")]
        assert not (tmp_path / "said").exists()
        await s.caught_up()
        before = kept(disk.path, job)

        for pid in (found.parent, frozen):
            os.kill(pid, signal.SIGCONT)
        raised = json.loads(await there(tmp_path / "said"))
        with anyio.fail_after(20):
            while s.house.workers.get("worker:child-1") or s.house.workers.get("worker:child-2"):
                await anyio.sleep(0.01)
        await s.caught_up()
        assert kept(disk.path, job) == before
        assert set(raised.values()) == {"LeaseLost"}
        assert {"two", "three", "sleep", "signal", "child"} <= raised.keys()


async def test_one_that_is_silent_but_alive_keeps_its_lease(whole: Any, tmp_path: Path) -> None:
    disk = SqliteStore(tmp_path / "understudy.db")
    async with whole(CONFIG, disk=disk, work_py=JOBS) as s:
        job = (await s.submit("shell", args={"argv": ["sleep", "3"]})).id
        view = await s.until(job)
        assert (view.status, view.attempts) == ("completed", 1)
