"""Workers that run jobs in processes of their own: real processes, on a real clock."""

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from schemas.jobs import SignalJob

JOBS = """
    import os, signal, sys, time
    from runtime.outcomes import AsyncJobContext, JobContext, StepResult

    def note(path, word):
        with open(path, "a") as file:
            file.write(word + "\\n")
        return StepResult({"noted": word}, cost=0.5)

    def order(path, ctx: JobContext):
        receipt = ctx.step("charge", note, path, "charged")
        for n in range(2):
            ctx.submit("echo", {"n": n}, name=f"part {n}")
        parts = [one.result["n"] for one in ctx.wait_children()]
        ctx.sleep(1.0)
        approved = ctx.wait_signal("approved", timeout=3600)
        ctx.step("ship", note, path, "shipped")
        return [receipt, parts, approved, ctx.attempt]

    async def order_async(path, ctx: AsyncJobContext):
        receipt = await ctx.step("charge", note, path, "charged")
        for n in range(2):
            await ctx.submit("echo", {"n": n}, name=f"part {n}")
        parts = [one.result["n"] for one in await ctx.wait_children()]
        await ctx.sleep(1.0)
        approved = await ctx.wait_signal("approved", timeout=3600)
        await ctx.step("ship", note, path, "shipped")
        return [receipt, parts, approved, ctx.attempt]

    def repeats(ctx):
        ctx.step("one", len, "a")
        ctx.step("one", len, "a")

    def silent():
        time.sleep(60)

    def ticks(ctx):
        for _ in range(8):
            time.sleep(0.1)
            ctx.heartbeat()
        return "lived"

    def shout(text):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        return text.upper()

    def bug():
        raise ValueError("because")

    def kills_itself():
        os.kill(os.getpid(), signal.SIGKILL)

    def leaves():
        os._exit(7)

    def pid():
        return os.getpid()
"""
KINDS = ("shout", "bug", "kills_itself", "leaves", "order", "order_async", "repeats", "silent", "ticks", "pid")


def config(jobs_per_process: int, child_pool: int = 2) -> str:
    return f"[runtime]\npool = 1\nchild_pool = {child_pool}\ngrace = '1s'\n" + "\n".join(
        f"[kinds.{name}]\nrun = 'work:{name}'\njobs_per_process = {jobs_per_process}\n"
        "retry = { base = '1ms', jitter = 0.0 }"
        for name in KINDS
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[1, 50], ids=["new processes", "kept processes"])
def work(whole: Any, request: pytest.FixtureRequest) -> Any:
    return lambda: whole(config(request.param), work_py=JOBS)


async def ended(s: Any, kind: str, /, args: Any = None, **fields: Any) -> Any:
    view = await s.until((await s.submit(kind, args=args or {}, **fields)).id)
    await s.caught_up()
    assert await s.counts() == await s.true_counts()
    return view


async def test_a_command_is_run_and_what_it_wrote_is_kept(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "shell", {"argv": ["sh", "-c", "cat; echo oops >&2"], "stdin": "hello\n"})
        assert (view.status, view.result["exit_code"], view.result["stdout"]) == ("completed", 0, "hello\n")
        lines = {(line.level, line.text) for line in await s.disk.job_logs(view.id)}
        assert lines == {("stdout", "hello"), ("stderr", "oops")}


async def test_a_command_that_fails_is_tried_again_and_keeps_its_last_words(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "shell", {"argv": ["sh", "-c", "echo no; exit 3"]}, max_attempts=1)
        assert (view.status, view.reason) == ("failed", "exhausted")
        assert view.error.detail == "sh ended with exit code 3"
        assert view.error.data["stdout"] == "no\n"


async def test_a_command_that_is_not_there_fails(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "shell", {"argv": ["/nowhere/to/be/found"]}, max_attempts=1)
        assert view.status == "failed"
        assert "/nowhere" in view.error.detail


async def test_a_command_has_its_time_and_no_more(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "shell", {"argv": ["sleep", "60"]}, timeout_ms=200, max_attempts=1)
        assert (view.status, view.reason) == ("failed", "timeout")


async def test_a_wish_ends_a_command(work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("shell", args={"argv": ["sleep", "60"]})
        with s.house.bus.subscribe(subject=submitted.id):
            await s.until(submitted.id, "active")
        await s.cancel(submitted.id)
        view = await s.until(submitted.id)
        assert (view.status, view.reason) == ("cancelled", "user")


async def test_a_flood_of_output_neither_fails_its_job_nor_holds_up_the_queue(work: Any) -> None:
    async with work() as s:
        flood = await s.submit("shell", args={"argv": [sys.executable, "-c", "for n in range(60_000): print(n)"]})
        other = await ended(s, "echo", {"a": 1})
        assert other.status == "completed"
        view = await s.until(flood.id)
        assert view.status == "completed"
        assert len(await s.disk.job_logs(flood.id, limit=10_000)) >= 1000
        assert s.heard("actor.dead_letter") == []


async def test_a_function_runs_in_a_process_of_its_own(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "shout", {"text": "hello"})
        assert (view.status, view.result) == ("completed", "HELLO")
        assert {line.text for line in await s.disk.job_logs(view.id)} == {"to stdout", "to stderr"}


@pytest.mark.parametrize(("kind", "says"), [("bug", "ValueError: because"), ("leaves", "exit code 7")])
async def test_a_function_that_fails_spends_its_attempts(work: Any, kind: str, says: str) -> None:
    async with work() as s:
        view = await ended(s, kind, max_attempts=2)
        assert (view.status, view.reason, view.attempts, view.crashes) == ("failed", "exhausted", 2, 0)
        assert says in view.error.detail


async def test_a_function_that_kills_its_process_three_times_is_poison(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "kills_itself", max_attempts=9)
        assert (view.status, view.reason, view.crashes) == ("failed", "poison", 3)
        assert "signal 9" in view.error.detail


async def test_a_stop_ends_what_runs_and_gives_the_attempt_back(whole: Any) -> None:
    async with whole(config(1).replace("[runtime]", "[runtime]\ndrain = '0s'"), work_py=JOBS) as s:
        submitted = await s.submit("shell", args={"argv": ["sleep", "60"]})
        await s.until(submitted.id, "active")
        disk = s.disk
    await disk.open()
    view = await disk.job(submitted.id)
    assert (view.status, view.attempts) == ("pending", 0)


# -- durable code in a process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["order", "order_async"])
async def test_code_in_a_process_is_run_again_and_does_each_thing_once(work: Any, tmp_path: Path, kind: str) -> None:
    async with work() as s:
        job = (await s.submit(kind, args={"path": str(tmp_path / "notes")})).id
        with anyio.fail_after(30):
            while (await s.stands(job)) != ("waiting", "signal"):
                await anyio.sleep(0.02)
        await s.system.ref("queue").ask(SignalJob(id=job, name="approved", payload="grace"))
        view = await s.until(job)
        assert (view.status, view.attempts) == ("completed", 1)
        assert view.result == [{"noted": "charged"}, [0, 1], "grace", 1]
        assert (tmp_path / "notes").read_text() == "charged\nshipped\n"
        costs = {step.name: step.cost for step in view.steps if not step.name.startswith("~")}
        assert costs == {"charge": 0.5, "ship": 0.5}


async def test_an_error_of_ours_in_a_process_is_told_as_in_the_loop(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "repeats")
        assert (view.status, view.reason, view.error.code) == ("failed", "permanent", "job.step_repeated")


async def test_a_process_that_is_silent_for_too_long_is_ended(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "silent", heartbeat_ms=400, max_attempts=1)
        assert (view.status, view.reason) == ("failed", "timeout")
        assert "nothing was heard" in view.error.detail


async def test_a_process_that_shows_that_it_lives_goes_on(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "ticks", heartbeat_ms=60_000)
        assert view.result == "lived"


async def test_a_process_runs_as_many_jobs_as_its_kind_wants(whole: Any) -> None:
    async with whole(config(2, child_pool=1), work_py=JOBS) as s:
        pids = [(await ended(s, "pid")).result for _ in range(5)]
        assert (pids[0], pids[2]) == (pids[1], pids[3])
        assert len(set(pids)) == 3


async def test_a_kind_that_wants_its_own_process_gets_one_beside_a_kept_one(whole: Any) -> None:
    alone = "\n[kinds.alone]\nrun = 'work:pid'\n"
    async with whole(config(50, child_pool=1) + alone, work_py=JOBS) as s:
        pids = [(await ended(s, kind)).result for kind in ("pid", "alone", "alone", "pid")]
        assert pids[0] == pids[3]
        assert len(set(pids)) == 3


async def test_who_dies_in_a_used_process_is_not_blamed_before_it_died_in_one_of_its_own(whole: Any) -> None:
    async with whole(config(50, child_pool=1), work_py=JOBS) as s:
        await ended(s, "pid")
        view = await ended(s, "kills_itself", max_attempts=9)

        assert (view.status, view.reason, view.crashes, view.attempts) == ("failed", "poison", 3, 3)
        assert len(view.history) == 4, "the first one did not count"


async def test_a_kept_process_is_on_the_disk_while_it_may_run_something(whole: Any) -> None:
    async with whole(config(50, child_pool=1), work_py=JOBS) as s:
        pids = [(await ended(s, "pid")).result for _ in range(2)]
        kept = json.loads(await s.disk.setting("kept_processes"))
        assert [pgid for pgid, _ in kept] == [pids[0]] == [pids[1]]
        await ended(s, "leaves", max_attempts=1)
        new = (await ended(s, "pid")).result
        assert [pgid for pgid, _ in json.loads(await s.disk.setting("kept_processes"))] == [new]
