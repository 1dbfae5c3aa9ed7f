"""Code in the loop that is run again and again, and does what it has done only once: with the queue and a store."""

from typing import Any

import pytest

from schemas.jobs import PauseJob, ResumeJob, RetryJob, SignalJob

JOBS = """
    import anyio
    from runtime.outcomes import AsyncJobContext, Fail, Retry, SignalTimeout

    ran = []

    def body(name):
        ran.append(name)
        return len(ran)

    async def steps(ctx, fails=0):
        one = await ctx.step("one", body, "one")
        two = await ctx.step("two", body, "two")
        if ctx.attempt <= fails:
            raise ValueError("after the steps")
        return [one, two, len(ran)]

    async def twice(ctx):
        await ctx.step("one", body, "one")
        await ctx.step("one", body, "one")

    async def sleeps(seconds, ctx):
        ran.append(ctx.epoch)
        await ctx.sleep(seconds)
        return {"runs": len(ran), "attempt": ctx.attempt, "epoch": ctx.epoch}

    async def asks(ctx, timeout=None):
        ran.append(1)
        try:
            answer = await ctx.wait_signal("go", timeout=timeout)
        except SignalTimeout:
            answer = "nobody came"
        if ctx.attempt == 1 and timeout == 7:
            raise Retry(1)
        return {"answer": answer, "runs": len(ran)}

    async def asks_thrice(ctx):
        return [await ctx.wait_signal("go") for _ in range(3)]

    async def shares_out(parts, ctx, kind="echo", timeout=None):
        ran.append(1)
        ids = [await ctx.submit(kind, {"n": n}, name=f"part {n}") for n in range(parts)]
        found = await ctx.wait_children(timeout=timeout)
        return {
            "same": [one.id for one in found] == ids,
            "stand": [one.status for one in found],
            "results": [one.result for one in found],
            "runs": len(ran),
        }

    async def fails(n):
        raise Fail("no")

    async def told(ctx: AsyncJobContext):
        return [[one.kind, one.ok, one.result] for one in await ctx.parents()]

    async def long_steps(ctx):
        for n in range(3):
            await ctx.step(f"s{n}", body, n)
            await anyio.sleep(10)
        return list(ran)

    async def unsure(policy, ctx):
        async def pay():
            ran.append("pay")
            if len(ran) == 1:
                await anyio.sleep(1000)
            return len(ran)

        return await ctx.step("pay", pay, on_ambiguous=policy)
"""
NAMES = (*("steps", "twice", "sleeps", "asks", "asks_thrice", "shares_out", "fails", "told", "long_steps", "unsure"),)
CONFIG = "[runtime]\npool = 2\nchild_pool = 1\ndrain = '0s'\n" + "\n".join(
    f"[kinds.{name}]\nrun = 'work:{name}'\nin_loop = true\nretry = {{ jitter = 0.0 }}" for name in NAMES
)


@pytest.fixture
def work(whole: Any) -> Any:
    """The whole tree with the kinds above."""
    return lambda **more: whole(more.pop("config", CONFIG), work_py=JOBS, **more)


async def ended(s: Any, job: str) -> Any:
    view = await s.until(job)
    await s.caught_up()
    assert await s.counts() == await s.true_counts()
    return view


async def does(s: Any, kind: str, /, args: Any = None, **fields: Any) -> Any:
    return await ended(s, (await s.submit(kind, args=args or {}, **fields)).id)


async def waiting(s: Any, job: str, *stands: Any) -> None:
    """Wait until *job* waits, and for nothing else than it should."""
    view = await s.until(job, "waiting", "delayed", "paused", "completed", "failed", "cancelled")
    assert (view.status, view.reason) == stands


async def tell(s: Any, request: Any) -> Any:
    return await s.system.ref("queue").ask(request)


# -- steps -------------------------------------------------------------------------------------------------------------


async def test_what_is_on_record_is_not_done_again(work: Any) -> None:
    async with work() as s:
        view = await does(s, "steps", {"fails": 2})
        assert (view.status, view.result, view.attempts) == ("completed", [1, 2, 2], 3)
        assert [(step.name, step.state, step.epoch, step.output) for step in view.steps] == [
            ("one", "done", 1, 1),
            ("two", "done", 1, 2),
        ]


async def test_two_steps_of_one_name_fail_the_job_for_good(work: Any) -> None:
    async with work() as s:
        view = await does(s, "twice")
        assert (view.status, view.reason, view.attempts) == ("failed", "permanent", 1)
        assert view.error.code == "job.step_repeated"


async def test_a_job_that_is_to_pause_stops_at_its_next_step_and_goes_on_from_there(work: Any) -> None:
    async with work() as s:
        job = (await s.submit("long_steps")).id
        await s.until(job, "active")
        assert (await tell(s, PauseJob(id=job))).outcome == "requested"
        await waiting(s, job, "paused", "user")
        steps = (await s.job(job)).steps
        assert [step.name for step in steps] in ([], ["s0"])
        assert (await tell(s, ResumeJob(id=job))).outcome == "resumed"
        view = await ended(s, job)
        assert (view.status, view.result, view.attempts) == ("completed", [0, 1, 2], 1)


async def cut_off_in_a_step(s: Any, policy: str) -> str:
    job: str = (await s.submit("unsure", args={"policy": policy})).id
    with s.house.bus.subscribe(subject=job):
        await s.until(job, "active")
    while not (await s.job(job)).steps:
        await s.caught_up()
    return job


@pytest.mark.parametrize(
    ("policy", "stands"),
    [("retry", ("completed", None)), ("fail", ("failed", "permanent")), ("hold", ("paused", "hold"))],
)
async def test_a_step_that_was_cut_off_is_dealt_with_as_it_says(work: Any, policy: str, stands: Any) -> None:
    async with work() as s:
        job, disk = await cut_off_in_a_step(s, policy), s.disk
    async with work(boot="boot-2", disk=disk) as s:
        view = await s.until(job, "completed", "failed", "paused")
        assert (view.status, view.reason) == stands
        if policy == "retry":
            assert view.result == 2
            return
        assert (view.error.code, view.error.data["step"]) == ("job.step_ambiguous", "pay")
        assert view.steps[0].state == "started"
        await tell(s, ResumeJob(id=job) if policy == "hold" else RetryJob(id=job))
        again = await ended(s, job)
        assert (again.status, again.result) == ("completed", 2)


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_sleep_takes_no_worker_and_no_attempt(work: Any) -> None:
    async with work(config=CONFIG.replace("pool = 2", "pool = 1", 1)) as s:
        began = s.house.clock.now()
        job = (await s.submit("sleeps", args={"seconds": 1800})).id
        await waiting(s, job, "delayed", "snooze")
        assert (await does(s, "echo", {"a": 1})).status == "completed"
        view = await ended(s, job)
        assert view.result == {"runs": 2, "attempt": 1, "epoch": 2}
        assert s.house.clock.now() - began == 1_800_000


async def test_a_sleep_goes_on_over_a_new_start(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        job, disk = (await s.submit("sleeps", args={"seconds": 5400})).id, s.disk
        await waiting(s, job, "delayed", "snooze")
    async with work(boot="boot-2", disk=disk) as s:  # an hour later
        await ended(s, job)
        assert s.house.clock.now() - began == 5_400_000


async def test_a_signal_wakes_the_job_that_waits_for_it(work: Any) -> None:
    async with work() as s:
        job = (await s.submit("asks")).id
        await waiting(s, job, "waiting", "signal")
        assert (await s.job(job)).waits_for == "go"
        await tell(s, SignalJob(id=job, name="other", payload=1))
        assert await s.stands(job) == ("waiting", "signal")
        await tell(s, SignalJob(id=job, name="go", payload={"by": "grace"}))
        assert (await ended(s, job)).result == {"answer": {"by": "grace"}, "runs": 2}


async def test_a_signal_that_was_there_first_is_not_waited_for(work: Any) -> None:
    async with work() as s:
        job = (await s.submit("asks", delay_ms=1000)).id
        await tell(s, SignalJob(id=job, name="go", payload="early"))
        assert (await ended(s, job)).result == {"answer": "early", "runs": 1}


async def test_each_signal_is_taken_once_and_in_order(work: Any) -> None:
    async with work() as s:
        job = (await s.submit("asks_thrice")).id
        for n in range(3):
            await tell(s, SignalJob(id=job, name="go", payload=n))
        assert (await ended(s, job)).result == [0, 1, 2]


async def test_a_wait_for_a_signal_has_an_end_and_it_is_the_same_for_each_attempt(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        job = (await s.submit("asks", args={"timeout": 7})).id
        await waiting(s, job, "waiting", "signal")
        await s.until(job, "delayed")  # the wait is over, and the attempt failed after it
        assert s.house.clock.now() - began == 7_000
        await tell(s, SignalJob(id=job, name="go", payload="late"))
        view = await ended(s, job)
        assert (view.result["answer"], view.attempts) == ("nobody came", 2)


# -- parts -------------------------------------------------------------------------------------------------------------


async def test_a_job_is_shared_out_and_goes_on_when_its_last_part_has_ended(work: Any) -> None:
    async with work(config=CONFIG.replace("pool = 2", "pool = 1", 1)) as s:
        view = await does(s, "shares_out", {"parts": 3})
        assert view.result == {
            "same": True,
            "stand": ["completed"] * 3,
            "results": [{"n": 0}, {"n": 1}, {"n": 2}],
            "runs": 2,
        }
        assert view.attempts == 1


async def test_a_part_that_fails_is_told_as_it_stands(work: Any) -> None:
    async with work() as s:
        assert (await does(s, "shares_out", {"parts": 2, "kind": "fails"})).result["stand"] == ["failed"] * 2


async def test_what_a_job_depended_on_is_at_hand(work: Any) -> None:
    async with work() as s:
        first = (await s.submit("echo", args={"a": 1})).id
        view = await does(s, "told", depends_on=({"job": first},))
        assert view.result == [["echo", True, {"a": 1}]]
