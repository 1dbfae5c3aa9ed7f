"""Every store: limit keys, which let so many of their jobs run at once, and the tokens of a rate."""

from typing import Any

import pytest

from runtime.store.port import AGING_MS, ExpireLeases, Finish, FinishJobs, RecoverJobs, RepairJobs


async def add(desk: Any, count: int = 1, key: str = "host", most: int = 1, **fields: Any) -> list[str]:
    return [await desk.add(limit_key=key, limit_max=most, **fields) for _ in range(count)]


async def statuses(desk: Any, ids: list[str]) -> list[str]:
    return [(await desk.status(job_id))[0] for job_id in ids]


async def test_jobs_of_a_full_key_step_aside_and_the_next_ones_run(desk: Any) -> None:
    first, second, third = await add(desk, 3)
    free = await desk.add()
    newest = await desk.newest()
    claimed = await desk.claim("w1", "w2")
    assert [job.id for job in claimed] == [first, free]
    assert claimed[0].limit_key == "host"
    for parked in (second, third):
        view = await desk.view(parked)
        assert (view.status, view.reason, view.attempts, view.history) == ("waiting", "limit", 0, ())
    assert [kind for kind, _, _ in await desk.told(after=newest)] == ["job.started", "job.started"]


async def test_a_job_that_stepped_aside_was_no_attempt(desk: Any) -> None:
    first, second = await add(desk, 2)
    (claimed,) = await desk.claim("w1", "w2")
    await desk.finish(claimed, "completed")
    (again,) = await desk.claim("w1", "w2")
    assert (claimed.id, again.id, again.epoch, again.attempt) == (first, second, 1, 1)


async def test_as_many_run_as_the_key_allows_over_all_queues_and_lanes(desk: Any) -> None:
    ids = await add(desk, 2, most=3) + await add(desk, 2, most=3, queue="b") + await add(desk, 2, most=3, lane="child")
    running = [*await desk.claim("w1", "w2", "w3"), *await desk.claim("w1", "w2", "w3", queue="b")]
    running += await desk.claim("w1", "w2", "w3", lane="child")
    assert [job.id for job in running] == ids[:3]
    assert await statuses(desk, ids[3:]) == ["waiting"] * 3


async def test_each_job_counts_by_its_own_limit(desk: Any) -> None:
    (strict,) = await add(desk, most=1)
    (loose,) = await add(desk, most=2)
    (other_strict,) = await add(desk, most=1)
    assert [job.id for job in await desk.claim("w1", "w2", "w3")] == [strict, loose]
    assert await desk.status(other_strict) == ("waiting", "limit")


async def test_the_rest_of_a_full_queue_is_left_where_it_is(desk: Any) -> None:
    first, second = await add(desk, 2)
    assert [job.id for job in await desk.claim("w1")] == [first]
    assert await desk.status(second) == ("pending", None)  # no worker was left to look at it for


ENDS = [
    ("completed", None),
    ("failed", "permanent"),
    ("delayed", "retry"),
    ("pending", None),
    ("paused", "hold"),
    ("waiting", "signal"),
]


@pytest.mark.parametrize(("status", "reason"), ENDS)
async def test_whatever_ends_an_attempt_gives_its_place_to_the_next(desk: Any, status: Any, reason: Any) -> None:
    first, second, third = await add(desk, 3)
    (claimed,) = await desk.claim("w1", "w2", "w3")
    newest = await desk.newest()
    await desk.finish(claimed, status, reason, execute_after=desk.now + 9, waits="x" if reason == "signal" else None)
    assert await statuses(desk, [second, third]) == ["pending", "waiting"]
    assert len(await desk.told(after=newest)) == 1
    assert claimed.id == first


@pytest.mark.parametrize("how", ["daemon", "worker", "lease"])
async def test_what_is_taken_back_gives_its_place_to_the_next(desk: Any, how: str) -> None:
    await desk.queue("elsewhere", "running")
    (first,) = await add(desk, queue="elsewhere")
    (second,) = await add(desk)
    await desk.claim(queue="elsewhere")
    await desk.claim()
    assert await desk.status(second) == ("waiting", "limit")
    if how == "lease":
        desk.now += 30_001
        await desk.one(ExpireLeases(desk.boot, now=desk.now))
    else:
        boot, worker = ("boot-2", None) if how == "daemon" else (desk.boot, "w1")
        await desk.one(RecoverJobs(boot=boot, now=desk.now, worker=worker))
    assert await statuses(desk, [first, second]) == ["pending", "pending"]


@pytest.mark.parametrize("how", ["cancel", "pause"])
async def test_a_job_that_came_and_left_before_it_was_claimed_gives_its_place_on(desk: Any, how: str) -> None:
    first, second, third = await add(desk, 3)
    (claimed,) = await desk.claim("w1", "w2", "w3")
    await desk.finish(claimed, "completed")
    assert await statuses(desk, [first, second, third]) == ["completed", "pending", "waiting"]
    await (desk.cancel(second) if how == "cancel" else desk.pause(second))
    assert await desk.status(third) == ("pending", None)


async def test_the_next_is_the_one_of_the_best_rank_and_it_keeps_its_rank(desk: Any) -> None:
    (running,) = await add(desk)
    (plain,) = await add(desk, priority=100)
    (urgent,) = await add(desk, priority=99)
    claimed, *_ = await desk.claim("w1", "w2", "w3")
    desk.now += 10
    later = await desk.add(priority=99)
    assert claimed.id == urgent
    await desk.finish(claimed, "completed")
    assert await statuses(desk, [running, plain]) == ["pending", "waiting"]
    assert [job.id for job in await desk.claim("w1", "w2")] == [later, running]


async def test_a_job_that_waited_long_for_its_key_is_not_overtaken_for_it(desk: Any) -> None:
    (first,), (second,) = await add(desk), await add(desk)
    (claimed,) = await desk.claim("w1", "w2")
    desk.now += AGING_MS
    urgent = await desk.add(priority=99)
    await desk.finish(claimed, "completed")
    assert [job.id for job in await desk.claim("w1", "w2")] == [second, urgent]
    assert claimed.id == first


async def test_places_that_are_freed_together_are_all_given_on(desk: Any) -> None:
    ids = await add(desk, 5, most=2)
    claimed = await desk.claim("w1", "w2", "w3", "w4", "w5")
    assert len(claimed) == 2
    ends = (Finish(claimed[0], "completed"), Finish(claimed[1], "failed", "permanent"))
    await desk.one(FinishJobs(ends, now=desk.now))
    assert await statuses(desk, ids) == ["completed", "failed", "pending", "pending", "waiting"]


async def test_the_next_of_every_queue_and_lane_comes_so_that_a_paused_one_holds_up_nobody(desk: Any) -> None:
    (running,) = await add(desk)
    paused = await add(desk, 2, queue="a")
    others = [*await add(desk, 2, queue="b"), *await add(desk, lane="child", queue="b")]
    (claimed,) = await desk.claim()
    for place in ({"queue": "a"}, {"queue": "b"}, {"queue": "b", "lane": "child"}):
        assert await desk.claim("w1", "w2", **place) == ()
    await desk.queue("a", "paused")
    await desk.finish(claimed, "completed")
    assert await statuses(desk, paused + others) == ["pending", "waiting", "pending", "waiting", "pending"]
    assert await desk.claim("w1", queue="a") == ()
    (first,) = await desk.claim("w1", "w2", queue="b")
    assert (claimed.id, first.id) == (running, others[0])
    assert await desk.claim("w1", queue="b", lane="child") == ()
    assert await statuses(desk, others[2:]) == ["waiting"]
    assert await desk.one(RepairJobs(now=desk.now)) == {}


async def test_keys_have_nothing_to_do_with_one_another(desk: Any) -> None:
    (a,), (b,) = await add(desk, key="a"), await add(desk, key="b")
    assert [job.id for job in await desk.claim("w1", "w2")] == [a, b]


async def test_a_waiting_job_of_a_key_may_be_cancelled_and_retried(desk: Any) -> None:
    first, second = await add(desk, 2)
    await desk.claim("w1", "w2")
    assert (await desk.cancel(second))[0].before == "waiting"
    await desk.retry(second)
    assert await desk.claim("w1") == ()
    assert await desk.status(second) == ("waiting", "limit")
    assert (await desk.status(first))[0] == "active"


# -- tokens ------------------------------------------------------------------------------------------------------------


async def claimed_with(desk: Any, tokens: int | None, *, full: bool = False) -> list[str]:
    claims = desk.claims("w1", "w2", "w3")
    claims = type(claims)(claims.queue, claims.lane, claims.workers, claims.boot, claims.now, 0, tokens, full)
    return [job.id for job in await desk.one(claims)]


@pytest.mark.parametrize(
    ("tokens", "full", "count"),
    [
        (None, False, 3),
        (9, False, 3),
        (8, False, 2),
        (5, False, 2),
        (4, False, 1),
        (2, False, 1),
        (1, False, 0),
        (1, True, 1),
        (4, True, 1),
        (5, True, 2),
    ],
)
async def test_claiming_stops_before_the_tokens_are_used_up(desk: Any, tokens: int, full: bool, count: int) -> None:
    ids = [await desk.add(tokens=cost) for cost in (2, 3, 4)]
    assert await claimed_with(desk, tokens, full=full) == ids[:count]
    assert await statuses(desk, ids[count:]) == ["pending"] * (3 - count)


async def test_nobody_overtakes_a_job_whose_tokens_are_not_there(desk: Any) -> None:
    dear, cheap = await desk.add(tokens=5), await desk.add(tokens=0)
    assert await claimed_with(desk, 4) == []
    assert await statuses(desk, [dear, cheap]) == ["pending", "pending"]
    assert await claimed_with(desk, 0, full=True) == [dear]  # what cost more than there was leaves nothing over
    assert await claimed_with(desk, 0) == [cheap]


async def test_a_job_of_a_full_key_reserves_no_tokens(desk: Any) -> None:
    (first,) = await add(desk, tokens=1)
    (parked,) = await add(desk, tokens=4)
    last = await desk.add(tokens=3)
    assert await claimed_with(desk, 4) == [first, last]
    assert await desk.status(parked) == ("waiting", "limit")


async def test_a_claim_tells_the_tokens_that_it_reserved(desk: Any) -> None:
    assert (await desk.start(tokens=7)).tokens == 7
