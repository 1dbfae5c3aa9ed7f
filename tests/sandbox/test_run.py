"""Whole attempts in child processes: commands and the user's own functions."""

import anyio
import pytest

from runtime.errors import LeaseLost
from runtime.sandbox import process
from runtime.sandbox.output import LINES_AT_ONCE, TAIL_LIMIT
from runtime.sandbox.parent import Command, CommandUnusable, Exit
from runtime.sandbox.run import run_command, run_python


async def yes(pgid: int, started: int) -> bool:
    return True


async def no(pgid: int, started: int) -> bool:
    return False


async def command(heard, *argv, timeout=None, grace=5.0, on_started=yes):
    return await run_command(Command(argv), timeout=timeout, grace=grace, on_started=on_started, on_line=heard.line)


async def test_a_command_runs_to_its_end_and_is_heard_by_the_line(heard):
    ended, out, err = await command(heard, "sh", "-c", "echo one; echo two >&2; printf three; exit 3")
    assert ended == Exit(3, None, False, "exit")
    assert (out.text(), err.text()) == ("one\nthree", "two\n")
    assert sorted(heard.lines) == [("stderr", "two"), ("stdout", "one"), ("stdout", "three")]


async def test_a_flood_of_fifty_megabytes_is_read_to_its_end_in_bounded_memory(heard):
    ended, out, _ = await command(heard, "sh", "-c", "yes | head -c 50000000; echo last")
    assert ended.code == 0
    assert out.total == 50_000_005
    assert out.dropped == out.total - TAIL_LIMIT
    assert out.text().startswith("y\ny\n")
    assert out.text().endswith("y\nlast\n")
    assert LINES_AT_ONCE <= len(heard.lines) < 3 * LINES_AT_ONCE


async def test_who_started_is_told_before_anything_runs(heard, marker):
    told = []

    async def on_started(pgid, started):
        told.append((process.start_time(pgid) == started, marker.exists()))
        return True

    await command(heard, "touch", str(marker), on_started=on_started)
    assert told == [(True, False)]
    assert marker.exists()


async def test_with_the_lease_lost_nothing_runs(heard, marker):
    with pytest.raises(LeaseLost):
        await command(heard, "touch", str(marker), on_started=no)
    assert not marker.exists()


async def test_an_error_while_it_is_written_down_runs_nothing(heard, marker):
    async def on_started(pgid, started):
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await command(heard, "touch", str(marker), on_started=on_started)
    assert not marker.exists()


async def test_a_program_that_is_not_there_is_unusable(heard):
    with pytest.raises(CommandUnusable, match="no such program: 'nope'"):
        await command(heard, "nope")


async def test_a_command_over_its_time_is_asked_and_then_killed(heard, family):
    everyone = None

    async def on_started(pgid, started):
        nonlocal everyone
        everyone = family(pgid)
        return True

    argv = ("sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
    ended, _, _ = await command(heard, *argv, timeout=0.2, grace=0.2, on_started=on_started)
    assert (ended.signal, ended.killed_by_us, ended.reason) == (9, True, "timeout")
    assert everyone is not None
    assert everyone.alive() == []


async def test_cancelling_gives_the_command_its_grace(heard, marker):
    script = f"trap 'echo clean > {marker}; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(command, heard, "sh", "-c", script)
        await heard.ready.wait()
        tasks.cancel_scope.cancel()
    assert marker.read_text() == "clean\n"


async def test_cancelling_kills_one_that_does_not_listen(heard):
    groups = []

    async def on_started(pgid, started):
        groups.append(pgid)
        return True

    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await command(heard, "sh", "-c", script, grace=0.2, on_started=on_started)

            tasks.start_soon(run)
            await heard.ready.wait()
            scope.cancel()
    assert not process.alive(groups[0])


# -- the user's functions ----------------------------------------------------------------------------------------------

JOBS = """
import asyncio, os, sys, threading, time
from dataclasses import dataclass
from datetime import date
from runtime.outcomes import Cancel, Fail, JobContext, Retry, Snooze

def add(a: int, b: int = 0):
    return a + b

async def slowly(n):
    await asyncio.sleep(0)
    return {"n": n}

def known(ctx, n):
    ctx.progress({"done": n})
    ctx.log("half way", level="warning")
    return [ctx.job_id, ctx.attempt, ctx.idempotency_key]

def typed(job: JobContext, *, n: "int" = 1):
    return job.job_id

@dataclass
class Thing:
    at: date

def rich():
    return {"thing": Thing(date(2020, 1, 2)), "where": {1}}

def prints():
    print("hello"); print("oops", file=sys.stderr); return None

def reads():
    return sys.stdin.read()

def crash(): raise RuntimeError("broken")
def missing(): import no_such_module
def invalid():
    from pydantic import BaseModel
    class M(BaseModel):
        n: int
    M(n="canary")
def retry(): raise Retry(1.5)
def snooze(): raise Snooze(60, "later")
def fail(): raise Fail("bad picture", code="picture.bad")
def cancel(): raise Cancel("superseded")
def leave(): sys.exit(3)
def vanish(): os._exit(4)
def die(): os.kill(os.getpid(), 11)
def big(): return "x" * 2_000_000
def odd(): return object()
async def grouped():
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.to_thread(retry))
def lingers():
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return "done"
def cleans(path):
    try:
        print("ready", flush=True)
        time.sleep(1000)
    finally:
        open(path, "w").write("clean")
def floods(ctx):
    for n in range(30_000): ctx.log(str(n))
def babbles():
    os.write(ctx_fd(), b"not json\\n")
def ctx_fd(): return 3
NOT_A_FUNCTION = 3
"""


@pytest.fixture
def python(tmp_path, heard):
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "broken.py").write_text("1 +\n")

    async def run(name, *, timeout=30.0, grace=5.0, on_started=yes, **args):
        reference = name if ":" in name else f"jobs:{name}"
        return await run_python(
            {"run": reference, "folder": str(tmp_path), "args": args, "job": "j1", "attempt": 2, "key": "k1"},
            timeout=timeout,
            grace=grace,
            on_started=on_started,
            on_line=heard.line,
            on_progress=lambda value: heard.lines.append(("progress", value)),
            on_log=lambda level, text: heard.lines.append((level, text)),
        )

    return run


@pytest.mark.parametrize(
    ("name", "args", "result"),
    [
        ("add", {"a": 1, "b": 2}, 3),
        ("slowly", {"n": 7}, {"n": 7}),
        ("typed", {}, "j1"),
        ("rich", {}, {"thing": {"at": "2020-01-02"}, "where": [1]}),
        ("reads", {}, ""),
    ],
)
async def test_a_function_answers_with_its_result(python, name, args, result):
    answer = await python(name, **args)
    assert (answer.answered, answer.result, answer.error) == (True, result, None)
    assert answer.exit == Exit(0, None, False, "exit")


async def test_a_function_is_told_of_its_job_and_tells_how_far_it_is(python, heard):
    answer = await python("known", n=5)
    assert answer.result == ["j1", 2, "k1"]
    assert heard.lines == [("progress", {"done": 5}), ("warning", "half way")]


async def test_what_a_function_prints_is_its_output(python, heard):
    answer = await python("prints")
    assert (answer.stdout.text(), answer.stderr.text()) == ("hello\n", "oops\n")
    assert sorted(heard.lines) == [("stderr", "oops"), ("stdout", "hello")]


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("crash", {}, {"type": "RuntimeError", "message": "broken", "class": "bug", "retryable": True}),
        (
            "add",
            {"z": 1},
            {
                "type": "Unfit",
                "message": "the arguments do not fit jobs:add: missing a required argument: 'a'",
                "class": "permanent",
                "code": "job.failed",
                "retryable": False,
            },
        ),
        (
            "missing",
            {},
            {
                "type": "ModuleNotFoundError",
                "message": "No module named 'no_such_module'",
                "class": "permanent",
                "retryable": False,
            },
        ),
        (
            "retry",
            {},
            {
                "type": "Retry",
                "message": "asked to be tried again",
                "outcome": "retry",
                "class": "transient",
                "retry_after_ms": 1500,
                "retryable": True,
            },
        ),
        (
            "snooze",
            {},
            {
                "type": "Snooze",
                "message": "later",
                "outcome": "snooze",
                "class": "transient",
                "retry_after_ms": 60_000,
                "retryable": True,
            },
        ),
        (
            "fail",
            {},
            {
                "type": "Fail",
                "message": "bad picture",
                "outcome": "fail",
                "class": "permanent",
                "code": "picture.bad",
                "retryable": False,
            },
        ),
        (
            "cancel",
            {},
            {
                "type": "Cancel",
                "message": "superseded",
                "outcome": "cancel",
                "class": "cancelled",
                "retryable": False,
            },
        ),
        (
            "leave",
            {},
            {
                "type": "SystemExit",
                "message": "the function called sys.exit(3)",
                "class": "bug",
                "retryable": True,
            },
        ),
    ],
)
async def test_an_error_says_whose_doing_it_was(python, name, args, error):
    answer = await python(name, **args)
    assert answer.error == error
    assert (answer.answered, answer.result, answer.exit.code) == (True, None, 1)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("jobs:nothing", "LoadFailed", "config.load_failed"),
        ("nowhere:add", "LoadFailed", "config.load_failed"),
        ("broken:add", "LoadFailed", "config.load_failed"),
        ("jobs:NOT_A_FUNCTION", "Unfit", "job.failed"),
        ("big", "ResultUnfit", "job.result_too_large"),
        ("odd", "ResultUnfit", "job.result_too_large"),
        ("invalid", "ValidationError", None),
    ],
)
async def test_what_no_other_attempt_will_mend_is_permanent(python, name, kind, code):
    answer = await python(name)
    assert answer.error is not None
    assert (answer.error["type"], answer.error["class"], answer.error.get("code")) == (kind, "permanent", code)
    assert "canary" not in answer.error["message"]


async def test_a_traceback_goes_to_stderr_and_not_into_the_message(python):
    answer = await python("crash")
    assert 'raise RuntimeError("broken")' in answer.stderr.text()
    assert "Traceback" not in str(answer.error)


async def test_an_outcome_raised_in_a_group_of_tasks_is_still_one(python):
    answer = await python("grouped")
    assert answer.error is not None
    assert answer.error["outcome"] == "retry"


@pytest.mark.parametrize(("name", "code", "number"), [("vanish", 4, None), ("die", None, 11)])
async def test_one_that_says_nothing_is_told_by_its_exit(python, name, code, number):
    answer = await python(name)
    assert (answer.answered, answer.error) == (False, None)
    assert answer.exit == Exit(code, number, False, "exit")


async def test_an_answer_counts_though_the_process_does_not_end(python):
    answer = await python("lingers", grace=0.3)
    assert (answer.answered, answer.result) == (True, "done")


async def test_a_function_over_its_time_can_clean_up(python, marker):
    answer = await python("cleans", timeout=3, path=str(marker))
    assert not answer.answered
    assert (answer.exit.killed_by_us, answer.exit.reason) == (True, "timeout")
    assert marker.read_text() == "clean"


async def test_cancelling_lets_a_function_clean_up(python, marker, heard):
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await python("cleans", path=str(marker))

        tasks.start_soon(run)
        await heard.ready.wait()
        tasks.cancel_scope.cancel()
    assert marker.read_text() == "clean"


async def test_a_flood_of_log_lines_is_cut_and_does_not_harm_the_result(python, heard):
    answer = await python("floods")
    assert (answer.answered, answer.error) == (True, None)
    assert LINES_AT_ONCE <= len(heard.lines) < 30_000


async def test_what_is_no_report_is_logged(python, heard):
    answer = await python("babbles")
    assert answer.answered
    assert heard.lines == [("warning", "unreadable report: not json")]


async def test_with_the_lease_lost_no_function_is_loaded(python, marker, tmp_path):
    (tmp_path / "jobs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(LeaseLost):
        await python("add", on_started=no)
    assert not marker.exists()
