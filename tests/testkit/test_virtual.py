"""Virtual time, what is left behind, and the fixtures as a user's own test has them."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from actors.testkit import VirtualLoop, hold_time, leaks, run_virtually, virtual_backend
from actors.testkit.virtual import children

ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)


async def test_an_hour_takes_no_time() -> None:
    began, at = time.monotonic(), anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - at == pytest.approx(3600)
    assert time.monotonic() - began < 5


def test_a_function_is_run_in_virtual_time_and_its_result_returned() -> None:
    async def later(n: int) -> tuple[float, bool]:
        await anyio.sleep(n)
        return anyio.current_time(), isinstance(asyncio.get_running_loop(), VirtualLoop)

    assert run_virtually(later, 10) == (1010.0, True)
    assert virtual_backend()[0] == "asyncio"
    assert virtual_backend("trio")[0] == "trio"


def test_timers_stand_still_while_threads_of_either_kind_work() -> None:
    async def works() -> list[str]:
        done: list[str] = []

        async def timer() -> None:
            await anyio.sleep(0.01)
            done.append("timer")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(timer)
            await anyio.to_thread.run_sync(time.sleep, 0.15)
            done.append("AnyIO's")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(timer)
            await asyncio.to_thread(time.sleep, 0.15)
            done.append("asyncio's")
        return done

    assert run_virtually(works) == ["AnyIO's", "timer", "asyncio's", "timer"]


async def test_on_another_loop_nothing_is_held() -> None:
    if isinstance(loop := asyncio._get_running_loop(), VirtualLoop):
        with hold_time():
            assert len(loop.held) == 1
        assert loop.held == []
    else:
        with hold_time():
            await anyio.sleep(1)


def test_a_child_process_has_real_time() -> None:
    async def waits() -> int:
        with anyio.fail_after(0.2):  # one jump, which a child may hold up
            return (await anyio.run_process(["true"])).returncode

    assert run_virtually(waits) == 0


def test_who_was_there_before_holds_nothing_up() -> None:
    child = subprocess.Popen(["sleep", "30"])
    try:
        assert child.pid in children()
        began = time.monotonic()
        run_virtually(many_jumps)
        assert time.monotonic() - began < 10
    finally:
        child.kill()
        child.wait()
    assert child.pid not in children()


async def many_jumps() -> None:
    for _ in range(100):
        await anyio.sleep(10)


# -- left behind -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def nursery() -> AsyncIterator[Any]:
    async with anyio.create_task_group() as tasks:
        yield tasks
        tasks.cancel_scope.cancel()


async def test_what_is_put_away_is_no_leak() -> None:
    async with leaks():
        await anyio.to_thread.run_sync(time.sleep, 0.01)
        with Path(__file__).open() as file:
            file.read(1)
    with leaks():
        threading.Thread(target=time.sleep, args=(0.05,)).start()  # it ends within a second


async def test_a_task_that_is_left_is_told_by_its_name(nursery: Any) -> None:
    with pytest.raises(AssertionError, match=r"left behind: tasks: .*sleep"):
        async with leaks(within=0):
            nursery.start_soon(anyio.sleep_forever, name="sleeps for ever")
    async with leaks(within=0):
        nursery.start_soon(anyio.lowlevel.checkpoint)


def test_a_thread_a_file_and_a_child_that_are_left_are_told() -> None:
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, name="waits at the gate")
    child: subprocess.Popen[bytes] | None = None
    read, write = os.pipe()
    try:
        with pytest.raises(AssertionError) as raised, leaks(within=0):  # noqa: PT012  # it is about the block
            thread.start()
            copy = os.dup(read)
            child = subprocess.Popen(["sleep", "10"])
        for words in (
            "threads: waits at the gate",
            f"descriptors: {copy} (pipe:",
            f"child processes: process {child.pid}",
        ):
            assert words in str(raised.value)
        os.close(copy)
    finally:
        gate.set()
        thread.join()
        os.close(read)
        os.close(write)
        if child is not None:
            child.kill()
            child.wait()


async def test_an_error_goes_before_a_leak(nursery: Any) -> None:
    with pytest.raises(KeyError):  # noqa: PT012  # it is about the block
        async with leaks(within=0):
            nursery.start_soon(anyio.sleep_forever)
            raise KeyError("mine")
    with pytest.raises(KeyError), leaks():
        raise KeyError("mine")


# -- fixtures ----------------------------------------------------------------------------------------------------------

TEST = """
from pathlib import Path

import anyio
import pytest

from actors.testkit import ScriptedModel
import desk

pytest_plugins = ["actors.testkit.fixtures"]


async def test_a_stage(stage, tmp_path):
    model = ScriptedModel().calls("desk:knock").says("nobody")
    async with stage(Path("config.toml"), model) as s:
        assert (await s.answer(await s.say("desk", "knock"))).text == "nobody"
    assert desk.KNOCKED == [1]


async def test_time(virtual_time):
    await anyio.sleep(1e6)


async def test_failure(stage):
    async with stage(Path("config.toml")) as s:
        assert 1 == 2


def test_sync(stage, virtual_time):
    assert virtual_time[0] == "asyncio"


class TestMine:
    @pytest.fixture
    def anyio_backend(self, virtual_time):
        return virtual_time

    @pytest.mark.anyio
    async def test_marked(self, stage):
        async with stage() as s:
            await anyio.sleep(1e3)

    async def test_a_method(self, stage):
        async with stage("") as s:
            await anyio.sleep(10)
"""

DESK = """
KNOCKED = []

async def knock() -> str:
    KNOCKED.append(1)
    return "nobody"
"""

CONFIG = """
[agents.desk]
role = "d"
llm = { provider = "scripted", model = "m" }
tools = ["desk:knock"]
"""


def test_a_users_own_tests_run_without_marks(tmp_path: Path) -> None:
    for name, text in {"test_desk.py": TEST, "desk.py": DESK, "config.toml": CONFIG, "pytest.ini": "[pytest]"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    argv = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_desk.py"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_desk.py::test_failure - assert 1 == 2\n" in done.stdout
    assert "ExceptionGroup" not in done.stdout
