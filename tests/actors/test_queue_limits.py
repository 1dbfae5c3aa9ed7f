"""Limits: how many of a queue, of a key and of all together run at once, how fast they start, and what a 429 means."""

from collections import Counter
from typing import Any

import anyio
import pytest

from runtime.errors import StoreError, problem
from runtime.store import port
from schemas.jobs import ChangeQueue, JobEnded, Outcome, Rate

FAULT = problem("job.failed", "it broke")
TOO_MANY = Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=30_000)


async def same_counts(s: Any) -> bool:
    return await s.counts() == await s.true_counts() and s.house.repairs == {}


async def hands(s: Any, count: int, **seat: Any) -> list[Any]:
    return [await s.hand(f"{seat.get('lane', 'loop')}-{n}", **seat) for n in range(count)]


def held(of: list[Any]) -> list[Any]:
    return [job for hand in of for job in hand.taken]


# -- at once -----------------------------------------------------------------------------------------------------------


async def test_all_together_run_no_more_than_they_may_and_agents_are_left_out(stage: Any) -> None:
    config = '[runtime]\nmax_active = 3\n[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n'
    async with stage(config) as s:
        of = [*await hands(s, 4), *await hands(s, 4, lane="child")]
        ada = await s.hand("agent:ada", lane="agent", queue="agent:ada", slots=2)
        for n in range(4):
            await s.submit(queue=f"q{n}")
            await s.submit("shell", args={"argv": ["true"]})
        await s.say("ada", "hi", "a")
        await s.caught_up()
        assert (len(held(of)), len(ada.taken)) == (3, 1)
        first = next(hand for hand in of if hand.taken)
        await first.ends(first.taken[0])
        assert len(held(of)) == 4
        assert await same_counts(s)


async def test_a_full_key_steps_aside_and_comes_back_when_there_is_room(stage: Any) -> None:
    async with stage() as s:
        of = await hands(s, 4)
        ids = await s.submit_many(*({"limit_key": "disk", "limit_max": 2} for _ in range(4)), {})
        await s.caught_up()
        assert {job.id for job in held(of)} == {*ids[:2], ids[4]}
        assert await s.stands(ids[2]) == ("waiting", "limit")
        first = next(hand for hand in of if hand.has == [ids[0]])
        await first.ends(first.taken[0])
        assert (await s.stands(ids[2]), await s.stands(ids[3])) == (("active", None), ("waiting", "limit"))
        assert await same_counts(s)


async def test_the_limit_of_a_key_comes_from_the_kind_unless_the_job_has_its_own(stage: Any) -> None:
    config = '[kinds.resize]\nrun = "jobs:resize"\nin_loop = true\nlimit_key = "gpu"\nlimit_max = 2\n'
    async with stage(config) as s:
        of = await hands(s, 6)
        for _ in range(4):
            await s.submit("resize")
        own = [(await s.submit("resize", limit_key="own")).id for _ in range(2)]
        await s.caught_up()
        assert Counter(job.limit_key for job in held(of)) == {"gpu": 2, "own": 1}
        assert await s.stands(own[1]) == ("waiting", "limit")


async def test_what_arrives_while_a_claim_yields_less_starts_at_once(stage: Any) -> None:
    """Another's commit may come between a claim and its answer: the queue is not done with then."""
    async with stage() as s:
        of = await hands(s, 3)
        commit = s.disk.commit
        rows = [port.JobRow("late", "echo", "default", "loop", "{}")]

        async def with_another(changes: Any) -> list[Any]:
            results: list[Any] = await commit(changes)
            if rows and any(isinstance(change, port.ClaimJobs) for change in changes):
                await commit([port.InsertJobs((rows.pop(),), s.house.clock.now())])
            return results

        s.disk.commit = with_another
        await s.submit_many(*({"limit_key": "disk", "limit_max": 1} for _ in range(2)))
        await s.caught_up()
        assert "late" in {job.id for job in held(of)}


async def test_queues_take_turns_and_none_takes_all_the_room(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({"queue": "a"} for _ in range(20)), *({"queue": "b"} for _ in range(20)))
        of: list[Any] = []
        s.system.suspend("queue")
        async with anyio.create_task_group() as tasks:

            async def hire(n: int) -> None:
                of.append(await s.hand(f"hand-{n}"))

            for n in range(8):
                tasks.start_soon(hire, n)
            await anyio.sleep(1)
            s.system.resume("queue")
        assert Counter(job.queue for job in held(of)) == {"a": 4, "b": 4}


async def test_what_one_queue_leaves_another_takes(stage: Any) -> None:
    async with stage("[queues.a]\nmax_active = 1\n[queues.c]\npaused = true") as s:
        of = await hands(s, 6)
        await s.submit_many(*({"queue": queue} for queue in "abc" for _ in range(8)))
        await s.caught_up()
        assert Counter(job.queue for job in held(of)) == {"a": 1, "b": 5}


# -- set by hand -------------------------------------------------------------------------------------------------------


async def test_what_a_person_sets_goes_before_the_configuration_and_is_kept(furnish: Any, perform: Any) -> None:
    config = "[queues.slow]\nmax_active = 1\npaused = true\n"
    async with perform(furnish(config)) as s:
        view = await s.ask(ChangeQueue(name="slow", max_active=3, by="ada"))
        assert (view.state, view.by, view.max_active) == ("paused", "config", 3)
        view = await s.ask(ChangeQueue(name="slow", state="running", by="ada"))
        assert (view.state, view.by, view.max_active) == ("running", "ada", 3)
        disk = s.disk
    async with perform(furnish(config, boot="boot-2", disk=disk)) as s:
        of = await hands(s, 5)
        for _ in range(5):
            await s.submit(queue="slow")
        await s.caught_up()
        assert len(held(of)) == 3
        view = await s.ask(ChangeQueue(name="slow", max_active=0))
        assert (view.max_active, view.state) == (None, "running")
        await s.caught_up()
        assert len(held(of)) == 5


async def test_changes_of_one_moment_are_all_kept(stage: Any) -> None:
    async with stage() as s:
        s.system.suspend("queue")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.ask, ChangeQueue(name="slow", max_active=2))
            tasks.start_soon(s.ask, ChangeQueue(name="slow", state="paused"))
            tasks.start_soon(s.ask, ChangeQueue(name="slow", rate=Rate(requests=5)))
            await anyio.sleep(1)
            s.system.resume("queue")
        (row,) = await s.disk.queues()
        assert (row.max_active, row.state, row.rate is not None) == (2, "paused", True)
        assert row.set_by_hand == ("max_active", "rate", "state")


async def test_a_limit_that_comes_with_free_workers_counts_for_them(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({} for _ in range(3)))
        of: list[Any] = []

        async def hire(n: int) -> None:
            of.append(await s.hand(f"hand-{n}"))

        s.system.suspend("queue")
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(hire, n)
            tasks.start_soon(s.ask, ChangeQueue(name="default", max_active=1))
            await anyio.sleep(1)
            s.system.resume("queue")
        assert len(held(of)) == 1


async def test_a_change_that_could_not_be_written_does_not_count(stage: Any) -> None:
    async with stage() as s:
        s.disk.refuses = StoreError("not now")
        with pytest.raises(StoreError):
            await s.ask(ChangeQueue(name="default", state="paused"))
        s.disk.refuses = None
        hand = await s.hand()
        await s.submit()
        await hand.takes(1)


async def test_a_queue_that_is_paused_by_hand_stops_at_once_and_goes_on_when_told(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        for _ in range(2):
            await s.submit()
        await s.ask(ChangeQueue(name="default", state="paused", by="ada"))
        await hand.ends(await hand.takes(1))
        await anyio.sleep(60)
        assert len(hand.has) == 1
        await s.ask(ChangeQueue(name="default", state="running"))
        await s.caught_up()
        assert len(hand.has) == 2


async def test_a_reload_changes_what_no_person_has_set(whole: Any, tmp_path: Any) -> None:
    from schemas.system import Reload

    async with whole("[runtime]\npool = 4\n[queues.slow]\nmax_active = 1\n") as s:
        for _ in range(4):
            await s.submit("sleep", args={"seconds": 1000}, queue="slow")
        await s.caught_up()
        assert (await s.counts())["slow"]["active"] == 1
        (tmp_path / "config.toml").write_text("[runtime]\npool = 4\n[queues.slow]\nmax_active = 3\n")
        await s.system.ref("system").ask(Reload())
        await s.caught_up()
        assert (await s.counts())["slow"]["active"] == 3


# -- how fast ----------------------------------------------------------------------------------------------------------


async def starts(s: Any, hand: Any, count: int) -> list[int]:
    """Let *count* jobs start and end at once; return when each started, in milliseconds from the first."""
    at: list[int] = []
    for n in range(1, count + 1):
        job = await hand.takes(n)
        at.append(s.house.clock.now())
        await hand.ends(job)
    return [one - at[0] for one in at]


async def test_jobs_start_no_faster_than_their_rate(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 2, per = "1s" }') as s:
        hand = await s.hand()
        await s.submit_many(*({} for _ in range(6)))
        at = await starts(s, hand, 6)
        assert at[:2] == [0, 0]
        assert [round(one / 500) for one in at[2:]] == [1, 2, 3, 4]
        assert all(one >= 500 * n for n, one in enumerate(at[2:], 1))
        assert await same_counts(s)


async def test_jobs_start_within_the_tokens_that_they_say(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "10s" }') as s:
        of = await hands(s, 4)
        ids = await s.submit_many(*({"tokens": 40} for _ in range(4)))
        await s.caught_up()
        assert [job.id for job in held(of)] == ids[:2]
        began = s.house.clock.now()
        with anyio.fail_after(100):
            while len(held(of)) < 3:
                await anyio.sleep(0.01)
        assert 2_000 <= s.house.clock.now() - began <= 2_600
        assert await same_counts(s)


async def test_both_lanes_of_a_queue_share_its_tokens(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "1h" }') as s:
        of = [await s.hand("loop"), await s.hand("child", lane="child")]
        s.system.suspend("queue")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.submit_many, {"tokens": 80})
            tasks.start_soon(s.submit_many, {"tokens": 80, "kind": "shell", "args": {"argv": ["true"]}})
            await anyio.sleep(1)
            s.system.resume("queue")
        await s.caught_up()
        assert len(held(of)) == 1


async def test_what_a_job_did_not_use_is_there_for_the_next(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "1h" }') as s:
        hand = await s.hand()
        first, second = await s.submit_many({"tokens": 90}, {"tokens": 90})
        job = await hand.takes(1)
        await hand.ends(job, tokens=5)
        assert hand.has == [first, second]


async def test_what_a_job_used_beyond_its_word_is_made_up_for(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "100s" }') as s:
        hand = await s.hand()
        await s.submit_many({"tokens": 10}, {"tokens": 10})
        job = await hand.takes(1)
        began = s.house.clock.now()
        await hand.ends(job, tokens=150)
        await hand.takes(2)
        assert 60_000 <= s.house.clock.now() - began <= 66_000  # 50 of debt and 10 for itself


async def test_a_job_that_wants_more_than_all_starts_when_the_bucket_is_full(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "10s" }') as s:
        of = await hands(s, 2)
        small, large = await s.submit_many({"tokens": 50}, {"tokens": 500})
        await s.caught_up()
        assert [job.id for job in held(of)] == [small]
        began = s.house.clock.now()
        with anyio.fail_after(100):
            while len(held(of)) < 2:
                await anyio.sleep(0.01)
        assert 5_000 <= s.house.clock.now() - began <= 6_000
        assert (await s.job(large)).status == "active"


async def test_a_rate_that_holds_jobs_back_does_not_keep_the_daemon_busy(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 1, tokens = 10, per = "1h" }') as s:
        hand = await s.hand()
        await s.submit_many({"tokens": 10}, {"tokens": 10})
        await hand.takes(1)
        before = len(s.disk.commits)
        await anyio.sleep(600)
        assert len(s.disk.commits) - before < 200


@pytest.mark.parametrize("how", ["stop", "crash"])
async def test_a_rate_outlives_the_daemon(furnish: Any, perform: Any, how: str) -> None:
    config = '[queues.default]\nrate = { requests = 10, per = "10h" }'
    async with perform(furnish(config)) as s:
        of = await hands(s, 8)
        await s.submit_many(*({} for _ in range(8)))
        await s.caught_up()
        assert len(held(of)) == 8
        disk = s.die() if how == "crash" else s.disk
    async with perform(furnish(config, boot="boot-2", disk=disk)) as s:  # an hour later: one more
        of = await hands(s, 12)
        await s.submit_many(*({} for _ in range(12)))
        await s.caught_up()
        assert len(held(of)) <= 3


async def test_a_claim_of_a_queue_with_a_rate_keeps_what_is_left_at_worst(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 5, tokens = 100, per = "1h" }') as s:
        hand = await s.hand()
        await s.submit_many({"tokens": 10})
        job = await hand.takes(1)
        (row,) = await s.disk.queues()
        assert (row.requests_left, row.tokens_left) == (4, 0)
        await anyio.sleep(2)
        await hand.ends(job, tokens=20)
        (row,) = await s.disk.queues()
        assert 79 < row.tokens_left < 81


# -- 429 ---------------------------------------------------------------------------------------------------------------


async def test_a_provider_that_says_429_stops_its_whole_queue_and_no_other(stage: Any) -> None:
    async with stage() as s:
        of = await hands(s, 2)
        busy, behind, other = await s.submit_many({"queue": "llm"}, {"queue": "llm", "delay_ms": 1}, {"delay_ms": 2})
        await of[0].takes(1)
        began = s.house.clock.now()
        await of[0].ends(of[0].taken[0], TOO_MANY)
        await anyio.sleep(1)
        assert await s.stands(busy) == ("delayed", "rate_limit")
        assert (await s.job(other)).status == "active"
        assert (await s.job(behind)).status in ("pending", "active")
        await anyio.sleep(28)
        assert (await s.job(busy)).status == "delayed"
        (row,) = await s.disk.queues()
        assert row.blocked_until is not None
        assert row.blocked_until - began == 30_000


async def test_nothing_of_a_blocked_queue_starts_before_its_time(furnish: Any, perform: Any) -> None:
    async with perform(furnish()) as s:
        hand = await s.hand()
        first = (await s.submit(queue="llm")).id
        began = s.house.clock.now()
        await hand.ends(await hand.takes(1), Outcome(**{**vars_of(TOO_MANY), "retry_after_ms": 7_200_000}))
        second = (await s.submit(queue="llm")).id
        await anyio.sleep(60)
        assert hand.has == [first]
        disk = s.disk
    async with perform(furnish(boot="boot-2", disk=disk)) as s:  # an hour later
        hand = await s.hand()
        third = (await s.submit(queue="llm")).id
        await anyio.sleep(600)
        assert hand.has == []
        await hand.takes(1)
        assert s.house.clock.now() - began == 7_200_000
        await hand.ends(hand.taken[0])
        await hand.ends(await hand.takes(2))
        await hand.takes(3)
        assert sorted(hand.has) == sorted([first, second, third])


def vars_of(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in outcome.__slots__}


async def test_a_429_without_a_time_waits_as_long_as_the_policy_says_at_first(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        began = s.house.clock.now()
        for count in (1, 2, 3):
            job = await hand.takes(count)
            assert s.house.clock.now() - began == 1000 * (count - 1)
            await hand.ends(job, Outcome(ok=False, error=FAULT, error_class="rate_limited"))
        assert job.attempt == 1


async def test_an_agents_queue_is_blocked_too(stage: Any) -> None:
    async with stage('[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n') as s:
        ada = await s.hand("agent:ada", lane="agent", queue="agent:ada", slots=4)
        await s.say("ada", "hi", "a")
        began = s.house.clock.now()
        await ada.ends(await ada.takes(1), TOO_MANY)
        other = await s.say("ada", "hi", "b")
        await s.caught_up()
        assert await s.stands(other) == ("pending", None)
        await ada.takes(3)
        assert s.house.clock.now() - began == 30_000
        assert await same_counts(s)


async def test_a_block_that_could_not_be_written_counts_and_is_written_later(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit(queue="llm")
        job = await hand.takes(1)
        s.disk.refuses = StoreError("not now")
        await s.system.ref("queue").tell(JobEnded(job, TOO_MANY))
        await anyio.sleep(5)
        assert await s.disk.queues() == ()
        s.disk.refuses = None
        await anyio.sleep(5)
        (row,) = await s.disk.queues()
        assert row.blocked_until is not None
