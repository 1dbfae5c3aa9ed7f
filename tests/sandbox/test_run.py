"""Whole attempts in child processes: commands and the user's own functions."""

import os
import signal
from pathlib import Path

import anyio
import pytest

from runtime.errors import KeyConflict, LeaseLost, RequestInvalid, StoreFull
from runtime.sandbox import process
from runtime.sandbox.kept import Kept
from runtime.sandbox.output import LINES_AT_ONCE, TAIL_LIMIT
from runtime.sandbox.parent import Command, CommandUnusable, Exit
from runtime.sandbox.run import run_command, run_python


async def command(heard, *argv, timeout=None, grace=5.0, **more):
    return await run_command(Command(argv), heard, timeout=timeout, grace=grace, **more)


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

    async def started(pgid, started, kept):
        told.append((process.start_time(pgid) == started, marker.exists()))
        return True

    heard.started = started
    await command(heard, "touch", str(marker))
    assert told == [(True, False)]
    assert marker.exists()


async def test_with_the_lease_lost_nothing_runs(heard, marker):
    heard.goes = False
    with pytest.raises(LeaseLost):
        await command(heard, "touch", str(marker))
    assert not marker.exists()


async def test_an_error_while_it_is_written_down_runs_nothing(heard, marker):
    async def started(pgid, started, kept):
        raise OSError("disk")

    heard.started = started
    with pytest.raises(OSError, match="disk"):
        await command(heard, "touch", str(marker))
    assert not marker.exists()


async def test_a_program_that_is_not_there_is_unusable(heard):
    with pytest.raises(CommandUnusable, match="no such program: 'nope'"):
        await command(heard, "nope")


async def test_a_command_over_its_time_is_asked_and_then_killed(heard):
    argv = ("sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
    ended, _, _ = await command(heard, *argv, timeout=0.2, grace=0.2)
    assert (ended.signal, ended.killed_by_us, ended.reason) == (9, True, "timeout")
    assert not process.alive(heard.groups[0][0])


async def test_cancelling_gives_the_command_its_grace(heard, marker):
    script = f"trap 'echo clean > {marker}; exit 0' TERM; echo ready; while :; do sleep 0.02; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(command, heard, "sh", "-c", script)
        await heard.ready.wait()
        tasks.cancel_scope.cancel()
    assert marker.read_text() == "clean\n"


async def test_cancelling_kills_one_that_does_not_listen(heard):
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                await command(heard, "sh", "-c", script, grace=0.2)

            tasks.start_soon(run)
            await heard.ready.wait()
            scope.cancel()
    assert not process.alive(heard.groups[0][0])


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
    return [ctx.job_id, ctx.attempt, ctx.epoch, ctx.idempotency_key, ctx.step_key("a")]

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
def stepwise(ctx, n):
    return [ctx.step("one", add, n, b=1), ctx.step("two", add, n)]
async def stepwise_async(ctx, n):
    one = await ctx.step("one", slowly, n)
    async with asyncio.TaskGroup() as tasks:
        more = [tasks.create_task(ctx.step(f"s{k}", add, k)) for k in range(5)]
    return [one, *(one.result() for one in more)]
def in_threads(ctx):
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool:
        return sorted(pool.map(lambda k: ctx.step(f"s{k}", add, k), range(40)))
def waits(ctx):
    ctx.wait_signal("go", timeout=5)
async def waits_async(ctx):
    await ctx.wait_signal("go", timeout=5)
def swallows(ctx):
    try:
        ctx.wait_signal("go", timeout=5)
    except BaseException:
        pass
    return "I go on"
async def swallows_in_a_group(ctx):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ctx.wait_signal("go", timeout=5))
        tasks.create_task(asyncio.sleep(1000))
def spends(ctx):
    ctx.tokens(12)
    ctx.tokens(7)
    ctx.heartbeat()
def family(ctx):
    child = ctx.submit("echo", {"a": 1}, name="c")
    return [child, [one.result for one in ctx.wait_children()], [one.error for one in ctx.parents()]]
def refused(ctx):
    from runtime.errors import KeyConflict
    try:
        ctx.submit("echo", name="c")
    except KeyConflict as error:
        return [error.code, str(error), error.data]
def loses(ctx, path):
    try:
        ctx.step("one", add, 1)
    except BaseException as error:
        try:
            open(path, "w").write(type(error).__name__)
        except SystemExit as told:  # it came in the middle of writing
            open(path, "w").write(type(told).__name__)
        raise
def cleans_with_a_step(ctx, path):
    try:
        print("ready", flush=True)
        time.sleep(1000)
    finally:
        open(path, "w").write(str(ctx.step("last", add, 1)))
async def cleans_with_a_step_async(ctx, path):
    try:
        print("ready", flush=True)
        await asyncio.sleep(1000)
    finally:
        open(path, "w").write(str(await ctx.step("last", add, 1)))
def busy(seconds):
    print("ready", flush=True)
    time.sleep(seconds)
def freezes():
    import signal
    print("ready", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    finally:
        print("clean", flush=True)
def forges():
    os.write(3, b'{"ask": [1, "nonsense", {}]}\\n{"tokens": -1}\\n{"suspend": 3}\\n{"ask": 1}\\n')
NOT_A_FUNCTION = 3
"""


@pytest.fixture(params=["new process", "kept process"])
async def python(request, tmp_path, heard):
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "broken.py").write_text("1 +\n")

    async def nobody(what, fields):
        raise AssertionError(f"asked {what}")

    async with anyio.create_task_group() as tasks:

        async def run(name, *, timeout=30.0, grace=5.0, on_ask=nobody, order=None, **args):
            reference = name if ":" in name else f"jobs:{name}"
            payload = {"run": reference, "folder": str(tmp_path), "args": args, "job": "j1", "attempt": 2, "epoch": 3}
            payload |= order or {}
            if request.param == "new process":
                return await run_python(payload, heard, on_ask, timeout=timeout, grace=grace)
            kept = Kept(str(tmp_path))
            tasks.start_soon(kept.live)
            return await kept.run(payload | {"keep": True}, heard, on_ask, timeout=timeout, grace=grace)

        run.kept = request.param == "kept process"
        yield run
        tasks.cancel_scope.cancel()


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
    assert answer.result == ["j1", 2, 3, "j1", "j1/a"]
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
    assert (answer.answered, answer.result) == (True, None)
    assert answer.exit.code == 1 or python.kept  # one that is kept lives on


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


async def test_with_the_lease_lost_no_function_is_loaded(python, heard, marker, tmp_path):
    (tmp_path / "jobs.py").write_text(f"open({str(marker)!r}, 'w')\n")
    heard.goes = False
    with pytest.raises(LeaseLost):
        await python("add")
    assert not marker.exists()


# -- what a function asks ----------------------------------------------------------------------------------------------


class Desk:
    """Answers as a job's record does; `asked` is what was asked."""

    def __init__(self, **answers):
        self.asked = []
        self.answers = {"begin": ["run", None], "end": None, "take": None, "due": ["run", 5_000, 0]} | answers

    async def __call__(self, what, fields):
        self.asked.append((what, fields))
        await anyio.lowlevel.checkpoint()
        found = self.answers[what]
        if isinstance(found, Exception):
            raise found
        return found


async def test_a_function_has_steps(python):
    answer = await python("stepwise", n=2, on_ask=(desk := Desk()))
    assert answer.result == [3, 2]
    assert desk.asked == [
        ("begin", {"name": "one", "retry": True}),
        ("end", {"name": "one", "output": "3", "error": None, "cost": None}),
        ("begin", {"name": "two", "retry": True}),
        ("end", {"name": "two", "output": "2", "error": None, "cost": None}),
    ]


async def test_what_is_on_record_is_not_run_again(python):
    desk = Desk(begin=["done", '{"kept": true}'])
    assert (await python("stepwise", n=2, on_ask=desk)).result == [{"kept": True}] * 2
    assert {what for what, _ in desk.asked} == {"begin"}


async def test_an_async_function_has_steps_side_by_side(python):
    answer = await python("stepwise_async", n=2, on_ask=(desk := Desk()))
    assert answer.result == [{"n": 2}, 0, 1, 2, 3, 4]
    assert len(desk.asked) == 12


async def test_threads_of_a_function_may_ask_side_by_side(python):
    assert (await python("in_threads", on_ask=Desk())).result == list(range(40))


@pytest.mark.parametrize("name", ["waits", "waits_async", "swallows", "swallows_in_a_group"])
async def test_a_function_that_waits_is_suspended_whatever_it_makes_of_it(python, name):
    answer = await python(name, on_ask=Desk())
    assert (answer.answered, answer.suspend, answer.error) == (True, {"waits": "go", "wait_until": 5_000}, None)
    assert answer.exit.code == 0


async def test_a_function_tells_what_it_used_and_that_it_lives(python, heard):
    await python("spends")
    assert (heard.used, heard.lives) == (7, 1)


async def test_a_function_is_told_of_its_children_and_parents(python):
    parts, parents = [["c", "echo", "completed", 3, None]], [["p", "echo", "failed", None, {"code": "x"}]]
    answer = await python("family", on_ask=Desk(submit="id-c", children=parts, parents=parents))
    assert answer.result == ["id-c", [3], [{"code": "x"}]]


async def test_an_error_of_ours_that_the_daemon_met_is_raised_over_there(python):
    answer = await python("refused", on_ask=Desk(submit=KeyConflict("other arguments", key="k")))
    assert answer.result == ["job.key_conflict", "other arguments", {"key": "k"}]


async def test_an_error_of_ours_that_is_let_pass_is_told_as_what_it_is(python):
    answer = await python("stepwise", n=1, on_ask=Desk(begin=StoreFull("no room")))
    assert answer.error is not None
    assert (answer.error["code"], answer.error["class"], answer.error["message"]) == (
        "store.full",
        "transient",
        "no room",
    )


async def test_with_the_lease_lost_a_function_is_told_and_ends(python, marker):
    with pytest.raises(LeaseLost):
        await python("loses", path=str(marker), on_ask=Desk(begin=LeaseLost()))
    assert marker.read_text() in ("LeaseLost", "ToldToEnd")  # whichever comes first


@pytest.mark.parametrize("name", ["cleans_with_a_step", "cleans_with_a_step_async"])
async def test_what_a_function_asks_while_it_is_ended_is_answered(python, marker, heard, name):
    desk = Desk()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await python(name, path=str(marker), on_ask=desk)

        tasks.start_soon(run)
        await heard.ready.wait()
        tasks.cancel_scope.cancel()
    assert marker.read_text() == "1"
    assert [what for what, _ in desk.asked] == ["begin", "end"]


async def test_an_error_in_the_answering_ends_the_attempt(python):
    with pytest.raises(ZeroDivisionError):
        await python("stepwise", n=1, on_ask=Desk(begin=ZeroDivisionError()))


async def test_what_nobody_can_mean_is_logged_or_refused(python, heard):
    answer = await python("forges", on_ask=Desk(nonsense=RequestInvalid("no")))
    assert answer.answered
    assert [text[:20] for level, text in heard.lines if level == "warning"] == ["unreadable report: {"] * 3


# -- signs of life -----------------------------------------------------------------------------------------------------


async def test_a_process_is_heard_of_though_its_code_is_silent(python, heard, until):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: python("busy", seconds=1000, order={"lease_ms": 90}, grace=0.1))
        await heard.ready.wait()
        await until(lambda: len(heard.beats) >= 3)
        tasks.cancel_scope.cancel()
    assert heard.lives == 0


async def test_a_process_that_is_stopped_is_not_heard_of_and_still_ends_properly(python, heard, until):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: python("freezes", order={"lease_ms": 60}))
        await heard.ready.wait()
        await until(lambda: Path(f"/proc/{heard.groups[0][0]}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        with anyio.move_on_after(0.1):  # what it had written before it stopped
            await until(lambda: False)
        before = len(heard.beats)
        with anyio.move_on_after(0.3):
            await until(lambda: len(heard.beats) > before)
        assert len(heard.beats) == before
        tasks.cancel_scope.cancel()
    assert ("stdout", "clean") in heard.lines  # woken, asked, and given its grace
    assert not process.alive(heard.groups[0][0])


async def test_a_command_is_heard_of_while_it_is_not_stopped(heard, until):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: command(heard, "sleep", "1000", beat=0.02))
        await until(lambda: len(heard.beats) >= 3)
        os.kill(heard.groups[0][0], signal.SIGSTOP)
        await until(lambda: Path(f"/proc/{heard.groups[0][0]}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        with anyio.move_on_after(0.1):  # what was on its way
            await until(lambda: False)
        before = len(heard.beats)
        with anyio.move_on_after(0.2):
            await until(lambda: len(heard.beats) > before)
        assert len(heard.beats) == before
        os.kill(heard.groups[0][0], signal.SIGCONT)
        await until(lambda: len(heard.beats) > before)
        tasks.cancel_scope.cancel()
