"""Workers in the daemon's loop: every outcome of the user's code, what it is told, its time, its end by a wish or a
stop.
"""

from typing import Any

import anyio
import pytest

JOBS = """
    import asyncio
    import anyio
    from runtime.outcomes import Cancel, Fail, JobContext, Retry, Snooze
    from runtime.errors import LlmRateLimited

    seen = []

    def plain(n):
        return n + 1

    async def slow(seconds, ctx):
        try:
            await anyio.sleep(seconds)
        finally:
            seen.append(ctx.attempt)
        return {"slept": seconds}

    def told(ctx):
        return {"job": ctx.job_id, "attempt": ctx.attempt, "key": ctx.idempotency_key}

    def own_ctx(ctx):
        return ctx

    async def chatty(lines, ctx: JobContext):
        for n in range(lines):
            ctx.log(f"line {n}")
            ctx.progress({"done": n})
        return lines

    def speaks(what, **more):
        raise {"fail": Fail, "cancel": Cancel, "bug": ValueError}[what](more.get("text", "because"))

    def again(ctx, after=None):
        raise Retry(after, "not yet")

    def once_more(ctx):
        if not seen:
            seen.append(1)
            raise Snooze(20)
        return ctx.attempt

    def limited(ctx):
        if not seen:
            seen.append(1)
            raise LlmRateLimited("slow down", retry_after=45)
        return ctx.attempt

    async def inner_timeout():
        with anyio.fail_after(1):
            await anyio.sleep(2)

    async def stubborn(seconds):
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)
        return "done all the same"

    async def stray():
        raise asyncio.CancelledError

    def no_json():
        return {1, 2}

    def surrogate(ctx):
        ctx.log("half a pair: \\ud800")
        ctx.progress("\\udfff")

    def not_a_number(ctx):
        ctx.progress(float("nan"))
"""
NAMES = (
    *("plain", "slow", "told", "own_ctx", "chatty", "speaks", "again", "once_more", "limited", "inner_timeout"),
    *("stubborn", "stray", "no_json", "surrogate", "not_a_number"),
)
CONFIG = "[runtime]\npool = 2\nchild_pool = 1\ndrain = '4s'\n" + "\n".join(
    f"[kinds.{name}]\nrun = 'work:{name}'\nin_loop = true\nretry = {{ jitter = 0.0 }}" for name in NAMES
)


@pytest.fixture
def work(whole: Any) -> Any:
    """The whole tree with the kinds above."""
    return lambda **more: whole(more.pop("config", CONFIG), work_py=JOBS, **more)


async def ended(s: Any, kind: str, /, args: Any = None, **fields: Any) -> Any:
    view = await s.until((await s.submit(kind, args=args or {}, **fields)).id)
    await s.caught_up()
    assert await s.counts() == await s.true_counts()
    return view


async def test_a_function_gets_its_arguments_and_its_result_is_kept(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "plain", {"n": 1})
        assert (view.status, view.result) == ("completed", 2)


async def test_echo_says_what_it_was_told_and_sleep_sleeps(work: Any) -> None:
    async with work() as s:
        assert (await ended(s, "echo", {"a": [1]})).result == {"a": [1]}
        began = s.house.clock.now()
        assert (await ended(s, "sleep", {"seconds": 3.5})).result == {"slept": 3.5}
        assert s.house.clock.now() - began == 3_500


async def test_a_function_is_told_of_its_job(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "told")
        assert view.result == {"job": view.id, "attempt": 1, "key": view.id}


async def test_an_argument_named_ctx_is_the_submitters(work: Any) -> None:
    async with work() as s:
        assert (await ended(s, "own_ctx", {"ctx": "mine"})).result == "mine"


@pytest.mark.parametrize("args", [{}, {"n": 1, "m": 2}])
async def test_arguments_that_do_not_fit_the_function_fail_for_good(work: Any, args: Any) -> None:
    async with work() as s:
        view = await ended(s, "plain", args)
        assert (view.status, view.reason, view.attempts) == ("failed", "permanent", 1)
        assert "the arguments do not fit" in view.error.detail


@pytest.mark.parametrize(
    ("what", "status", "reason", "attempts"),
    [("fail", "failed", "permanent", 1), ("cancel", "cancelled", "user", 1), ("bug", "failed", "exhausted", 3)],
)
async def test_what_the_code_raises_is_what_becomes_of_its_job(
    work: Any, what: str, status: str, reason: str, attempts: int
) -> None:
    async with work() as s:
        view = await ended(s, "speaks", {"what": what})
        assert (view.status, view.reason, view.attempts) == (status, reason, attempts)
        assert view.error.detail == ("ValueError: because" if what == "bug" else "because")
        assert s.heard("actor.crashed") == []


async def test_an_error_is_shown_without_traceback_and_not_at_any_length(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "speaks", {"what": "fail", "text": "x" * 100_000})
        assert view.error.detail.startswith("xxx")
        assert len(view.error.detail) <= 2000


async def test_code_that_wants_to_be_tried_again_says_when(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        view = await ended(s, "again", {"after": 30})
        assert (view.status, view.reason, view.attempts) == ("failed", "exhausted", 3)
        assert s.house.clock.now() - began == 60_000


async def test_a_snooze_and_a_rate_limit_cost_no_attempt(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        view = await ended(s, "once_more")
        assert (view.result, view.attempts, s.house.clock.now() - began) == (1, 1, 20_000)


async def test_a_rate_limit_that_the_code_meets_is_waited_out(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        view = await ended(s, "limited")
        assert (view.result, view.attempts, s.house.clock.now() - began) == (1, 1, 45_000)


async def test_an_attempt_has_its_time_and_no_more(work: Any) -> None:
    async with work() as s:
        began = s.house.clock.now()
        view = await ended(s, "slow", {"seconds": 100}, timeout_ms=1_500, max_attempts=2)
        assert (view.status, view.reason, view.attempts) == ("failed", "timeout", 2)
        assert view.error.detail == "the attempt took more than 1.5 s"
        assert s.house.clock.now() - began == 1_500 + 1_000 + 1_500


async def test_a_timeout_inside_the_code_is_the_codes_own_failure(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "inner_timeout", max_attempts=1)
        assert (view.status, view.reason) == ("failed", "exhausted")
        assert view.error.detail.startswith("TimeoutError")


async def test_work_that_was_done_before_its_time_was_up_counts(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "stubborn", {"seconds": 3}, timeout_ms=1_000, max_attempts=1)
        assert (view.status, view.result) == ("completed", "done all the same")


async def test_a_stray_cancellation_in_the_code_is_a_failure_like_any_other(work: Any, anyio_backend_name: str) -> None:
    async with work() as s:
        if anyio_backend_name == "trio":
            return  # trio has no such thing: whoever raises its Cancelled was cancelled
        view = await ended(s, "stray")
        assert (view.status, view.reason, view.attempts) == ("failed", "exhausted", 3)
        assert s.heard("actor.crashed") == []


@pytest.mark.parametrize("kind", ["no_json", "surrogate", "not_a_number"])
async def test_what_cannot_be_written_fails_its_own_job_only(work: Any, kind: str) -> None:
    async with work() as s:
        bad = await ended(s, kind, max_attempts=1)
        assert bad.status == "failed"
        good = await ended(s, "plain", {"n": 1})
        assert good.status == "completed"
        assert s.heard("actor.crashed") == []


async def test_code_that_cannot_be_loaded_fails_its_job_and_says_why(whole: Any) -> None:
    config = "[runtime]\npool = 1\n[kinds.gone]\nrun = 'nowhere:gone'\nin_loop = true\n"
    async with whole(config) as s:
        view = await ended(s, "gone")
        assert (view.status, view.reason) == ("failed", "permanent")
        assert "nowhere" in view.error.detail


async def test_lines_and_progress_of_a_flood_are_kept_and_hurt_nobody(work: Any) -> None:
    async with work() as s:
        view = await ended(s, "chatty", {"lines": 25_000})
        assert (view.status, view.result) == ("completed", 25_000)
        assert view.progress == {"done": 24_999}
        tail = await s.disk.job_logs(view.id, tail=3)
        assert [line.text for line in tail] == ["line 24997", "line 24998", "line 24999"]
        assert s.heard("actor.dead_letter") == []


# -- ends that come from outside ---------------------------------------------------------------------------------------


async def test_a_wish_to_cancel_ends_running_work_at_once(work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("slow", args={"seconds": 1000})
        await s.until(submitted.id, "active")
        began = s.house.clock.now()
        assert (await s.cancel(submitted.id)).outcome == "requested"
        view = await s.until(submitted.id)
        assert (view.status, view.reason) == ("cancelled", "user")
        assert s.house.clock.now() == began
        await s.caught_up()
        assert await s.counts() == await s.true_counts()


async def test_a_worker_is_free_again_after_a_wish(work: Any) -> None:
    async with work(config=CONFIG.replace("pool = 2", "pool = 1")) as s:
        submitted = await s.submit("slow", args={"seconds": 1000})
        await s.until(submitted.id, "active")
        await s.cancel(submitted.id)
        assert (await ended(s, "plain", {"n": 1})).status == "completed"


async def test_work_that_ignores_a_wish_and_completes_is_completed(work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("stubborn", args={"seconds": 5})
        await s.until(submitted.id, "active")
        await s.cancel(submitted.id)
        assert (await s.until(submitted.id)).status == "completed"


async def test_a_stop_lets_work_end_that_ends_within_the_drain(furnish: Any, work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("slow", args={"seconds": 3})
        await s.until(submitted.id, "active")
        disk = s.disk
    await disk.open()
    view = await disk.job(submitted.id)
    assert (view.status, view.result) == ("completed", {"slept": 3})


async def test_a_stop_cuts_off_longer_work_and_gives_its_attempt_back(work: Any) -> None:
    async with work() as s:
        submitted, clock = await s.submit("slow", args={"seconds": 200}), s.house.clock
        await s.until(submitted.id, "active")
        disk, began = s.disk, clock.now()
    assert clock.now() - began == 4_000
    await disk.open()
    view = await disk.job(submitted.id)
    assert (view.status, view.attempts) == ("pending", 0)
    assert [one.outcome for one in view.history] == ["requeued"]


async def test_what_was_cut_off_by_a_stop_runs_at_the_next_start(work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("slow", args={"seconds": 200})
        await s.until(submitted.id, "active")
        disk = s.disk
    async with work(boot="boot-2", disk=disk) as s:
        view = await s.until(submitted.id)
        assert (view.status, view.attempts, len(view.history)) == ("completed", 1, 2)


async def test_jobs_of_a_kind_that_is_gone_are_held(work: Any) -> None:
    async with work() as s:
        submitted = await s.submit("plain", args={"n": 1}, delay_ms=1000)
        s.house.kinds.use(s.house.loaded.settings.model_copy(update={"kinds": {}}))
        await anyio.sleep(2)
        await s.caught_up()
        assert await s.stands(submitted.id) == ("paused", "hold")
        assert (await s.job(submitted.id)).attempts == 0
