"""A process that is kept: what it takes along to the next job, what it must not, and when it ends."""

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import LeaseLost
from runtime.sandbox.kept import Kept
from runtime.sandbox.parent import CommandUnusable
from runtime.sandbox.run import Answer
from tests.sandbox.conftest import Heard

JOBS = """
import asyncio, atexit, os, pathlib, signal, subprocess, sys, threading, time

loaded = 0
over = threading.Event()
threading.Thread(target=over.wait, daemon=True, name="of the module").start()


def count(ctx):
    global loaded
    loaded += 1
    return loaded, ctx.job_id


async def count_async(ctx):
    return await ctx.step("once", count, ctx)


def says(text):
    print(text, end="")
    print(text, end="", file=sys.stderr)


def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def has_a_thread():
    threading.Thread(target=time.sleep, args=(0.05,)).start()


def leaves_a_child():
    return subprocess.Popen(["sleep", "1000"]).pid


def leaves_an_orphan():
    return int(subprocess.check_output(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]))


def buries_nobody():
    subprocess.Popen(["true"])
    time.sleep(0.05)


def leaves_a_folder():
    os.chdir("/")


def leaves_a_variable():
    os.environ["MINE"] = "yes"


def leaves_a_handler():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leaves_a_stream():
    sys.stdout = sys.stderr


def leaves_an_alarm():
    signal.setitimer(signal.ITIMER_REAL, 1000)


def leaves():
    sys.exit(3)


def runs_out_of_memory():
    raise MemoryError


def fails():
    raise ValueError("broken")


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def claims_to_be_ready():
    os.write(3, b'{"ready": 1}\\n')
    time.sleep(0.1)
    return "late"


def asks_by_hand():
    os.write(3, b'{"ask": [1, "begin", {"name": "x"}]}\\n')
    time.sleep(0.1)


def odd():
    os.write(3, b'{"progress": NaN}\\n')
    time.sleep(1000)


def waits(path):
    try:
        print("ready", flush=True)
        time.sleep(1000)
    finally:
        time.sleep(0.2)
        pathlib.Path(path).write_text("clean")


def at_the_end(path):
    atexit.register(pathlib.Path(path).write_text, "ended")
"""


class Place:
    """A kept process in a folder with jobs; it lives in a task until the test is over."""

    def __init__(self, tasks: Any, folder: Path, heard: Heard) -> None:
        self.tasks, self.folder, self.heard = tasks, folder, heard
        self.kept = self.new()

    def new(self, **more: Any) -> Kept:
        self.kept = Kept(str(self.folder), **more)
        self.tasks.start_soon(self.kept.live)
        return self.kept

    async def run(self, name: str, *, job: str = "j1", timeout: float = 30.0, grace: float = 5.0, **args: Any) -> Any:
        reference = name if ":" in name else f"jobs:{name}"
        payload = {"run": reference, "folder": str(self.folder), "job": job, "attempt": 1, "keep": True}
        answer = await self.kept.run(payload | {"args": args}, self.heard, self.on_ask, timeout=timeout, grace=grace)
        return answer.result if isinstance(answer, Answer) and answer.answered and answer.error is None else answer

    async def on_ask(self, what: str, fields: dict[str, Any]) -> Any:
        if what == "begin":
            return [fields["name"], False, None, None]
        return True

    async def gone(self) -> None:
        with anyio.fail_after(10):
            while self.kept._child is None or not self.kept._child.has_ended:
                await anyio.sleep(0.005)


@pytest.fixture
async def place(tmp_path: Path, heard: Heard) -> AsyncIterator[Place]:
    (tmp_path / "jobs.py").write_text(JOBS)
    async with anyio.create_task_group() as tasks:
        yield Place(tasks, tmp_path, heard)
        tasks.cancel_scope.cancel()


async def test_one_process_runs_one_function_after_another_and_loads_it_once(place: Place) -> None:
    assert [await place.run("count", job=f"j{n}") for n in range(3)] == [[1, "j0"], [2, "j1"], [3, "j2"]]
    assert len({pgid for pgid, _ in place.heard.groups}) == 1, "each attempt was told of the one process"
    assert (place.kept.served, place.kept.usable) == (3, True)


async def test_an_error_of_the_function_is_no_end_of_the_process(place: Place) -> None:
    failed = await place.run("fails")
    assert failed.error["message"] == "broken"
    assert await place.run("count") == [1, "j1"]


async def test_each_attempt_has_its_own_output_to_the_last_letter(place: Place) -> None:
    answers = []
    for text in ("one", "two", "three"):
        payload = {"run": "jobs:says", "folder": str(place.folder), "job": "j", "attempt": 1, "keep": True}
        answers.append(
            await place.kept.run(payload | {"args": {"text": text}}, place.heard, place.on_ask, timeout=30, grace=5)
        )
    assert [(answer.stdout.text(), answer.stderr.text()) for answer in answers if answer] == [
        ("one", "one"),
        ("two", "two"),
        ("three", "three"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "leaves_a_thread",
        "leaves_a_child",
        "leaves_an_orphan",
        "leaves_a_folder",
        "leaves_a_variable",
        "leaves_a_handler",
        "leaves_a_stream",
        "leaves_an_alarm",
        "leaves",
        "runs_out_of_memory",
    ],
)
async def test_a_function_that_leaves_something_behind_is_the_last_in_its_process(place: Place, name: str) -> None:
    left = await place.run(name)

    assert not place.kept.usable
    await place.gone()
    if isinstance(left, int):
        assert not Path(f"/proc/{left}").exists(), "what it left has gone with it"


@pytest.mark.parametrize("name", ["has_a_thread", "buries_nobody", "count_async"])
async def test_what_has_come_to_its_end_is_nothing_left_behind(place: Place, name: str) -> None:
    for _ in range(2):
        await place.run(name)
        assert place.kept.usable


async def test_code_that_has_changed_is_not_run_as_it_was(place: Place) -> None:
    assert await place.run("count") == [1, "j1"]
    (place.folder / "jobs.py").write_text(JOBS.replace("loaded += 1", "loaded += 10"))

    assert await place.run("count") is None, "it was not begun"
    assert not place.kept.usable
    place.new()
    assert await place.run("count") == [10, "j1"]


async def test_a_stale_process_that_does_not_end_is_ended(place: Place) -> None:
    stubborn = "import threading\nthreading.Thread(target=threading.Event().wait).start()\ndef one():\n    return 1\n"
    (place.folder / "stubborn.py").write_text(stubborn)
    assert await place.run("stubborn:one") == 1
    (place.folder / "stubborn.py").write_text(stubborn + "\n")

    assert await place.run("stubborn:one", grace=0.1) is None
    assert not place.kept.usable


async def test_a_process_that_dies_says_so_and_is_not_used_again(place: Place) -> None:
    await place.run("count")
    died = await place.run("dies")

    assert not died.answered
    assert (died.exit.signal, died.exit.killed_by_us, died.exit.reason) == (signal.SIGKILL, False, "exit")
    assert not place.kept.usable


async def test_one_that_died_while_nothing_ran_is_not_usable(place: Place) -> None:
    await place.run("count")
    os.kill(place.heard.groups[0][0], signal.SIGKILL)
    await place.gone()
    assert not place.kept.usable


async def test_a_word_that_only_looks_like_the_end_is_none(place: Place) -> None:
    assert await place.run("claims_to_be_ready") == "late"
    assert place.kept.usable


async def test_an_answer_that_nobody_waits_for_is_no_order(place: Place) -> None:
    await place.run("asks_by_hand")
    assert await place.run("count") == [1, "j1"]
    assert place.kept.usable


async def test_what_cannot_be_heard_ends_the_attempt_and_the_process(place: Place) -> None:
    def refuses(value: Any) -> None:
        json.dumps(value, allow_nan=False)

    place.heard.progress = refuses  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="Out of range float"):
        await place.run("odd", grace=0.1)
    assert not place.kept.usable
    await place.gone()


async def test_an_attempt_that_takes_too_long_is_asked_and_ends_its_process(place: Place, marker: Path) -> None:
    late = await place.run("waits", path=str(marker), timeout=0.3)

    assert (late.answered, late.exit.reason) == (False, "timeout")
    assert marker.read_text() == "clean"
    assert not place.kept.usable


async def test_a_cancelled_attempt_has_its_time_to_clean_up(place: Place, marker: Path) -> None:
    async with anyio.create_task_group() as tasks:

        async def cancel() -> None:
            await place.heard.ready.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(cancel)
        await place.run("waits", path=str(marker))
    assert marker.read_text() == "clean"
    await place.gone()


async def test_the_end_of_its_owner_waits_for_the_clean_up_of_what_runs(
    tmp_path: Path, heard: Heard, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.sandbox.kept.LEAVE_WITHIN", 0.0)
    (tmp_path / "jobs.py").write_text(JOBS)
    async with anyio.create_task_group() as tasks:
        place = Place(tasks, tmp_path, heard)
        tasks.start_soon(lambda: place.run("waits", path=str(marker)))
        await heard.ready.wait()
        tasks.cancel_scope.cancel()
    assert marker.read_text() == "clean"


async def test_one_without_a_job_ends_by_itself_and_does_what_it_had_to_do_at_its_end(
    place: Place, marker: Path
) -> None:
    place.new(idle_for=0.05)
    await place.run("at_the_end", path=str(marker))
    await place.gone()
    assert marker.read_text() == "ended"
    assert not place.kept.usable


async def test_an_attempt_that_may_not_begin_leaves_the_process_to_the_next(place: Place) -> None:
    await place.run("count")
    place.heard.goes = False
    with pytest.raises(LeaseLost):
        await place.run("count")
    place.heard.goes = True
    assert await place.run("count") == [2, "j1"]


async def test_one_that_cannot_be_started_says_why(place: Place) -> None:
    place.folder = place.folder / "nowhere"
    place.new()
    with pytest.raises(CommandUnusable, match="no such directory"):
        await place.run("count")
    assert not place.kept.usable
