"""Processes that are kept for the next job, with a real daemon: they end with it, however it ends."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.daemon

CONFIG = """
[kinds.where]
run = "where:where"
jobs_per_process = 100
"""
MODULE = """
import os, time
from pathlib import Path

def where(wait=None):
    pids = [os.getpid(), os.getppid()]
    if wait:
        Path(wait).write_text("here")
        time.sleep(600)
    return pids
"""


@pytest.fixture
def fresh(new_daemon: Callable[..., Any], base: str) -> Any:
    made = new_daemon(base.replace("child_pool = 2", "child_pool = 1") + CONFIG, modules={"where": MODULE})
    made.start()
    return made


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_change_of_the_code_counts_for_the_next_job(fresh: Any) -> None:
    before = fresh.run("where")["result"]
    assert fresh.run("where")["result"] == before

    fresh.write(where=MODULE.replace("return pids", "return 'changed'"))

    assert fresh.run("where")["result"] == "changed"


def test_a_process_that_was_killed_is_replaced(fresh: Any) -> None:
    pid, _ = fresh.run("where")["result"]
    os.kill(pid, signal.SIGKILL)
    assert fresh.run("where")["result"][0] != pid


def test_a_stop_ends_a_process_that_has_nothing_to_do(fresh: Any, wait_until: Any) -> None:
    pid, guard = fresh.run("where")["result"]
    fresh.stop()
    assert not alive(pid)
    assert not alive(guard)


def test_a_daemon_that_is_killed_takes_its_processes_along(fresh: Any, wait_until: Any) -> None:
    pid, guard = fresh.run("where")["result"]
    fresh.kill()
    wait_until("both are gone", lambda: not alive(pid) and not alive(guard))
    fresh.start()


def test_a_process_that_outlived_all_is_ended_before_its_job_starts_anew(
    fresh: Any, tmp_path: Path, wait_until: Any
) -> None:
    pid, guard = fresh.run("where")["result"]
    mark = tmp_path / "mark"
    job = fresh.submit("where", args={"wait": str(mark)})
    wait_until("it runs", mark.exists)
    os.kill(guard, signal.SIGSTOP)  # first, so that it cannot do its duty
    fresh.kill()
    os.kill(guard, signal.SIGKILL)
    assert alive(pid)
    mark.unlink()

    fresh.start()

    assert not alive(pid)
    wait_until("it runs anew", mark.exists)
    assert fresh.job(job)["crashes"] == 0
