"""What holds jobs back, seen from the events alone: never more at once and never faster than was allowed, whatever
comes when, over a restart too; and pools, whose workers come and go without a job being hurt.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from runtime.errors import PoolNotFound, QueueDraining, WorkerNotFound, problem
from schemas.events import Event
from schemas.jobs import ChangeQueue, DrainWorker, JobEnded, Outcome, QueueState, Rate, ResizePool

FAULT = problem("job.failed", "it broke")
ADA = '[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n'


def too_many(after_ms: int) -> Outcome:
    return Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=after_ms)


class Log:
    """Every event of a store, in the order in which it was written."""

    def __init__(self, s: Any) -> None:
        self.events: list[Event] = []
        s.disk.listen(self.events.extend)

    def starts(self, queue: str | None = None) -> list[Event]:
        return [e for e in self.events if e.type == "job.started" and queue in (None, e.data["queue"])]

    def most_at_once(self, jobs: Sequence[str] | None = None, *, queue: str | None = None) -> int:
        """Return how many of *jobs* (default: all), or of a queue, were active at the same time at most."""
        active: set[str] = set()
        most = 0
        for event in self.events:
            if (jobs is not None and event.subject not in jobs) or queue not in (None, event.data["queue"]):
                continue
            if event.type == "job.started":
                assert event.subject not in active
                active.add(event.subject)
                most = max(most, len(active))
            elif event.type.removeprefix("job.") in ("completed", "failed", "cancelled", "delayed", "requeued", "held"):
                active.discard(event.subject)
        return most


async def busy(s: Any, count: int, seconds: float, tasks: Any, name: str = "hand", **seat: Any) -> list[Any]:
    """Hire hands that end each job well after *seconds*."""

    async def work(hand: Any) -> None:
        for n in range(1, 100_000):
            job = await hand.takes(n)
            await anyio.sleep(seconds)
            await s.system.ref("queue").tell(JobEnded(job, Outcome(ok=True)))

    hired = [await s.hand(f"{name}-{n}", **seat) for n in range(count)]
    for hand in hired:
        tasks.start_soon(work, hand)
    return hired


async def all_ended(s: Any, jobs: Sequence[str]) -> None:
    for job in jobs:
        assert (await s.until(job)).status == "completed"
    await s.caught_up()
    assert await s.counts() == await s.true_counts()
    assert s.house.repairs == {}


SHELL = {"kind": "shell", "args": {"argv": ["true"]}}

# -- at once -----------------------------------------------------------------------------------------------------------


async def test_a_queue_runs_no_more_than_its_max_in_both_lanes_together_and_as_many_as_that(stage: Any) -> None:
    async with stage("[queues.narrow]\nmax_active = 3") as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 4, 0.7, tasks)
        await busy(s, 4, 0.5, tasks, "child", lane="child")
        narrow = await s.submit_many(*({"queue": "narrow"} | (SHELL if n % 2 else {}) for n in range(24)))
        wide = await s.submit_many(*({} for _ in range(12)))
        await all_ended(s, [*narrow, *wide])
        assert log.most_at_once(queue="narrow") == 3
        assert log.most_at_once() > 3
        tasks.cancel_scope.cancel()


async def test_all_queues_together_run_no_more_than_the_runtime_says_and_as_many_as_that(stage: Any) -> None:
    async with stage("[runtime]\nmax_active = 4\n") as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 4, 0.7, tasks)
        await busy(s, 4, 0.5, tasks, "child", lane="child")
        jobs = await s.submit_many(*({"queue": f"q{n % 5}"} | (SHELL if n % 2 else {}) for n in range(40)))
        await all_ended(s, jobs)
        assert log.most_at_once() == 4
        tasks.cancel_scope.cancel()


async def test_a_key_is_kept_over_all_queues_and_lanes_and_holds_up_nobody_else(stage: Any) -> None:
    async with stage() as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 4, 1, tasks)
        await busy(s, 4, 1, tasks, "child", lane="child")
        keyed = {"limit_key": "gpu", "limit_max": 2}
        jobs = await s.submit_many(*(keyed | {"queue": f"q{n % 3}"} | (SHELL if n % 2 else {}) for n in range(20)))
        others = await s.submit_many(*({"queue": f"q{n % 3}"} for n in range(6)))
        began = s.house.clock.now()
        await all_ended(s, others)
        assert s.house.clock.now() - began <= 3_000
        await all_ended(s, jobs)
        assert log.most_at_once(jobs) == 2
        assert s.house.clock.now() - began == 10_000  # twenty of a second each, two at a time: never fewer either
        tasks.cancel_scope.cancel()


async def test_a_place_of_a_key_is_free_again_however_its_holder_ended(stage: Any) -> None:
    async with stage() as s:
        of = [await s.hand(f"hand-{n}") for n in range(2)]
        keyed = {"limit_key": "gpu", "max_attempts": 1}
        jobs = await s.submit_many(*({**keyed, "ref": f"j{n}"} for n in range(7)))
        await s.caught_up()
        ends = (
            Outcome(ok=False, error=FAULT, error_class="permanent"),
            Outcome(ok=False, snooze=True, retry_after_ms=3_600_000),
            Outcome(ok=False, waits="go"),
            Outcome(ok=False, hold=True, error=FAULT),
            Outcome(ok=False, error=FAULT, error_class="lost", crash=True),
            Outcome(ok=True),
        )
        for n, outcome in enumerate(ends):
            taken = [job for hand in of for job in hand.taken]
            assert [job.id for job in taken if job.id == jobs[n]] == [jobs[n]]
            assert len(taken) == n + 1
            hand = next(hand for hand in of if jobs[n] in hand.has)
            await hand.ends(hand.taken[-1], outcome)
        assert (await s.job(jobs[6])).status == "active"


# -- how fast ----------------------------------------------------------------------------------------------------------


def within(starts: Sequence[tuple[int, float]], rim: float, per_ms: int, beyond: float = 0) -> None:
    """Assert that in no stretch of time more was started than a full bucket and what flows in meanwhile."""
    for first in range(len(starts)):
        total = 0.0
        for at, size in starts[first:]:
            total += size
            assert total <= rim + (at - starts[first][0]) * rim / per_ms + beyond + 1e-6


@pytest.mark.parametrize("seed", range(4))
async def test_in_no_window_do_more_jobs_start_than_the_bucket_allows(stage: Any, seed: int) -> None:
    chance = random.Random(seed)
    async with stage('[queues.default]\nrate = { requests = 5, per = "3s" }') as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 6, 0.2, tasks)
        await busy(s, 2, 0.1, tasks, "child", lane="child")
        jobs: list[str] = []
        for _ in range(20):
            some = chance.randint(1, 4)
            jobs += await s.submit_many(*(SHELL if chance.random() < 0.3 else {} for _ in range(some)))
            await anyio.sleep(chance.choice((0, 0.1, 1.3, 4)))
        await all_ended(s, jobs)
        starts = [(event.at, 1.0) for event in log.starts()]
        assert len(starts) == len(jobs)
        within(starts, 5, 3_000)
        tasks.cancel_scope.cancel()


async def test_a_rate_is_used_up_to_what_it_allows(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 5, per = "5s" }') as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 6, 0.01, tasks)
        await all_ended(s, await s.submit_many(*({} for _ in range(25))))
        at = [event.at for event in log.starts()]
        assert 20_000 <= at[-1] - at[0] <= 20_000 + 20 * 10  # five at once, then one a second; a look costs a moment
        tasks.cancel_scope.cancel()


async def test_in_no_window_do_jobs_say_more_tokens_than_the_bucket_allows(stage: Any) -> None:
    chance = random.Random(5)
    async with stage('[queues.default]\nrate = { tokens = 100, per = "10s" }') as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 4, 0.1, tasks)
        sizes = [chance.randint(0, 60) for _ in range(30)]
        jobs = await s.submit_many(*({"tokens": size} for size in sizes))
        await all_ended(s, jobs)
        says = dict(zip(jobs, sizes, strict=True))
        within([(event.at, says[event.subject]) for event in log.starts()], 100, 10_000)
        tasks.cancel_scope.cancel()


async def test_a_job_larger_than_the_whole_bucket_starts_alone_and_is_paid_for_by_those_behind_it(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { tokens = 100, per = "10s" }') as s:
        of = [await s.hand(f"hand-{n}") for n in range(3)]
        log = Log(s)
        began = s.house.clock.now()
        large, small = await s.submit_many({"tokens": 300}, {"tokens": 10})
        await s.until(large, "active")
        assert await s.stands(small) == ("pending", None)
        await s.until(small, "active")
        at = {event.subject: event.at - began for event in log.starts()}
        assert at[large] == 0
        assert 21_000 <= at[small] <= 21_600  # 200 of debt, and 10 for itself
        assert sum(len(hand.taken) for hand in of) == 2


async def test_what_is_owed_is_owed_after_a_restart_too(furnish: Any, perform: Any) -> None:
    config = '[queues.default]\nrate = { tokens = 100, per = "1h" }'
    async with perform(furnish(config)) as s:
        hand = await s.hand()
        await s.submit(tokens=10)
        await hand.ends(await hand.takes(1), tokens=300)  # two hours of debt
        await anyio.sleep(2)
        await s.submit(delay_ms=1)  # what is left is kept with whatever is written next
        await s.caught_up()
        began, disk = s.house.clock.now(), s.die()
    async with perform(furnish(config, boot="boot-2", disk=disk)) as s:  # an hour after the first
        hand = await s.hand()
        await anyio.sleep(3000)
        assert hand.has == []
        await hand.takes(1)
        assert 7_100_000 <= s.house.clock.now() - began <= 7_700_000


async def test_a_rate_that_a_person_changes_counts_at_once(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 1, per = "1h" }') as s, anyio.create_task_group() as tasks:
        log = Log(s)
        await busy(s, 8, 1, tasks)
        jobs = await s.submit_many(*({} for _ in range(9)))
        await s.caught_up()
        assert len(log.starts()) == 1
        await s.ask(ChangeQueue(name="default", rate=Rate(requests=3, per_ms=60_000)))
        await s.caught_up()
        assert len(log.starts()) == 4
        await s.ask(ChangeQueue(name="default", rate=Rate()))
        await all_ended(s, jobs)
        tasks.cancel_scope.cancel()


# -- 429 ---------------------------------------------------------------------------------------------------------------


async def test_the_longest_block_counts_and_none_costs_an_attempt(stage: Any) -> None:
    async with stage() as s:
        of = [await s.hand(f"hand-{n}") for n in range(2)]
        began = s.house.clock.now()
        await s.submit_many(*({"queue": "llm", "max_attempts": 1} for _ in range(3)))
        await s.caught_up()
        await of[0].ends(of[0].taken[0], too_many(60_000))
        await of[1].ends(of[1].taken[0], too_many(5_000))
        await anyio.sleep(59)
        assert [len(hand.taken) for hand in of] == [1, 1]
        await of[0].takes(2)
        assert s.house.clock.now() - began == 60_000
        assert {job.attempt for hand in of for job in hand.taken} == {1}


async def test_a_blocked_agent_is_blocked_after_a_restart_too(furnish: Any, perform: Any) -> None:
    seat = {"lane": "agent", "queue": "agent:ada", "slots": 4}
    async with perform(furnish(ADA)) as s:
        ada = await s.hand("agent:ada", **seat)
        await s.say("ada", "hi", "a")
        began = s.house.clock.now()
        await ada.ends(await ada.takes(1), too_many(7_200_000))
        disk = s.die()
    async with perform(furnish(ADA, boot="boot-2", disk=disk)) as s:
        ada = await s.hand("agent:ada", **seat)
        await s.say("ada", "hi", "b")
        await anyio.sleep(600)
        assert (await ada.takes(2)).attempt == 1
        assert s.house.clock.now() - began == 7_200_000


# -- a person's word ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["", "[queues.slow]\npaused = true\n"])
@pytest.mark.parametrize("state", ["running", "paused", "draining"])
async def test_what_a_person_says_of_a_queue_is_true_after_a_restart(
    furnish: Any, perform: Any, config: str, state: QueueState
) -> None:
    async with perform(furnish(config)) as s:
        waits = (await s.submit(queue="slow")).id
        await s.ask(ChangeQueue(name="slow", state=state, by="ada"))
        disk = s.die()
    async with perform(furnish(config, boot="boot-2", disk=disk)) as s:
        hand = await s.hand()
        await anyio.sleep(60)
        assert hand.has == ([] if state == "paused" else [waits])
        if state == "draining":
            with pytest.raises(QueueDraining, match="ada"):
                await s.submit(queue="slow")
            await s.submit(queue="other")
            await s.ask(ChangeQueue(name="slow", state="running"))
        view = await s.ask(ChangeQueue(name="slow"))
        assert view.state == ("running" if state == "draining" else state)
        await s.submit(queue="slow")


async def test_a_retry_and_a_dependant_still_run_on_a_queue_that_drains(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        parent, child = await s.submit_many({"ref": "a"}, {"depends_on": ({"job": "#a"},)})
        await s.ask(ChangeQueue(name="default", state="draining"))
        with pytest.raises(QueueDraining):
            await s.submit_many({}, {"queue": "other"})
        await hand.ends(await hand.takes(1), Outcome(ok=False, error=FAULT, error_class="transient"))
        await hand.ends(await hand.takes(2))
        await hand.ends(await hand.takes(3))
        assert hand.has == [parent, parent, child]
        assert await s.counts() == {"default": {"completed": 2}}


# -- pools -------------------------------------------------------------------------------------------------------------

POOLS = """
    [runtime]
    pool = 2
    child_pool = 1
    [pools.fast]
    lane = "loop"
    size = 1
    queues = ["fast", "faster"]
"""
LONG = {"kind": "sleep", "args": {"seconds": 100}}


async def test_a_pool_serves_its_queues_and_no_other_and_nobody_else_serves_them(whole: Any) -> None:
    async with whole(POOLS) as s:
        log = Log(s)
        fast = await s.submit_many(*(LONG | {"queue": queue} for queue in ("fast", "faster", "fast")))
        other = await s.submit_many(*(LONG for _ in range(5)))
        await all_ended(s, [*fast, *other])
        by = {event.subject: event.data["worker"] for event in log.starts()}
        assert {by[job] for job in fast} == {"worker:fast-1"}
        assert {by[job] for job in other} == {"worker:loop-1", "worker:loop-2"}
        assert (log.most_at_once(fast), log.most_at_once(other)) == (1, 2)


async def workers_of(s: Any, pool: str) -> set[str]:
    await s.caught_up()
    return {row.id for row in await s.disk.workers() if row.id.startswith(f"worker:{pool}-")}


async def test_a_pool_that_grows_takes_more_jobs_at_once(whole: Any) -> None:
    async with whole(POOLS) as s:
        jobs = await s.submit_many(*(LONG | {"queue": "fast"} for _ in range(4)))
        await s.caught_up()
        assert (await s.counts())["fast"] == {"active": 1, "pending": 3}
        assert await s.ask(ResizePool(name="fast", size=3)) == 1
        await s.caught_up()
        assert (await s.counts())["fast"] == {"active": 3, "pending": 1}
        assert len(await workers_of(s, "fast")) == 3
        await all_ended(s, jobs)


async def test_a_pool_that_shrinks_lets_each_worker_end_its_job_first(whole: Any) -> None:
    async with whole("[runtime]\npool = 3\nchild_pool = 1\n") as s:
        log = Log(s)
        jobs = await s.submit_many(*(LONG for _ in range(5)))
        await s.caught_up()
        began = s.house.clock.now()
        assert await s.ask(ResizePool(name="loop", size=1)) == 3
        assert (await s.counts())["default"] == {"active": 3, "pending": 2}
        assert len(await workers_of(s, "loop")) == 3
        await all_ended(s, jobs)
        assert all([(await s.job(job)).attempts == 1 for job in jobs])
        assert s.house.clock.now() - began == 300_000  # three at once, then one after the other
        assert {event.data["worker"] for event in log.starts()[3:]} == {"worker:loop-1"}
        assert await workers_of(s, "loop") == {"worker:loop-1"}
        assert await s.ask(ResizePool(name="loop", size=2)) == 1
        assert len(await workers_of(s, "loop")) == 2


async def test_idle_workers_too_many_go_at_once_and_a_pool_may_be_empty(whole: Any) -> None:
    async with whole("[runtime]\npool = 3\nchild_pool = 1\n") as s:
        await s.caught_up()
        assert await s.ask(ResizePool(name="loop", size=0)) == 3
        assert await workers_of(s, "loop") == set()
        job = (await s.submit()).id
        await anyio.sleep(60)
        assert await s.stands(job) == ("pending", None)
        assert await s.ask(ResizePool(name="loop", size=1)) == 0
        assert (await s.until(job)).status == "completed"


async def test_sizes_that_are_asked_for_at_once_end_with_the_last(whole: Any) -> None:
    async with whole("[runtime]\npool = 2\nchild_pool = 1\n") as s:
        jobs = await s.submit_many(*(LONG for _ in range(2)))
        await s.caught_up()
        async with anyio.create_task_group() as tasks:
            for size in (0, 5, 1, 3):
                tasks.start_soon(s.ask, ResizePool(name="loop", size=size))
                await anyio.sleep(0)
        await all_ended(s, jobs)
        await anyio.sleep(1)
        assert len(await workers_of(s, "loop")) == 3


async def test_there_is_no_size_for_a_pool_that_is_not_there(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(PoolNotFound, match="loop"):
            await s.ask(ResizePool(name="nothing", size=2))


async def test_a_drained_worker_ends_its_job_and_takes_no_other_until_it_may(whole: Any) -> None:
    async with whole("[runtime]\npool = 2\nchild_pool = 1\n") as s:
        log = Log(s)
        jobs = await s.submit_many(*(LONG for _ in range(4)))
        await s.caught_up()
        view = await s.ask(DrainWorker(id="worker:loop-1"))
        assert (view.draining, view.status, view.job in jobs[:2]) == (True, "busy", True)
        await anyio.sleep(250)
        by = Counter(event.data["worker"] for event in log.starts())
        assert by == {"worker:loop-1": 1, "worker:loop-2": 3}
        await s.restart("worker:loop-1")  # a new incarnation is out of service too
        more = await s.submit_many(LONG, LONG)
        await anyio.sleep(1)
        assert Counter(event.data["worker"] for event in log.starts())["worker:loop-1"] == 1
        view = await s.ask(DrainWorker(id="worker:loop-1", drain=False))
        assert (view.draining, view.status) == (False, "idle")
        await s.caught_up()
        assert Counter(event.data["worker"] for event in log.starts())["worker:loop-1"] == 2
        await all_ended(s, [*jobs, *more])


async def test_only_a_worker_of_a_pool_is_drained(stage: Any) -> None:
    async with stage(ADA) as s:
        await s.hand("agent:ada", lane="agent", queue="agent:ada")
        for name in ("nobody", "agent:ada"):
            with pytest.raises(WorkerNotFound):
                await s.ask(DrainWorker(id=name))


async def test_a_paused_queue_keeps_no_place_of_a_key_from_the_others(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        keyed = {"limit_key": "gpu"}
        first, stuck, free = await s.submit_many({**keyed}, {**keyed, "queue": "held"}, {**keyed, "queue": "free"})
        job = await hand.takes(1)
        await s.hand("other")
        await s.caught_up()
        assert [await s.stands(one) for one in (stuck, free)] == [("waiting", "limit")] * 2
        await s.ask(ChangeQueue(name="held", state="paused"))
        await hand.ends(job)
        await anyio.sleep(60)
        assert (await s.job(first)).status == "completed"
        assert (await s.job(free)).status == "active"
