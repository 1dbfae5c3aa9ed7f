"""Every store: who gets which job, in what order, and who must wait."""

from typing import Any

import pytest

from runtime.store.port import AGING_MS, CancelJobs, Finish, FinishJobs, PromoteDue, ReleaseHeld, RetryJobs


async def test_a_claim_hands_over_all_that_a_worker_needs(desk: Any) -> None:
    row = desk.row(args={"n": 1}, max_attempts=7, timeout_ms=50, user_code=True)
    await desk.insert(row)
    desk.now += 10
    (claimed,) = await desk.claim("w1")
    assert (claimed.id, claimed.kind, claimed.queue, claimed.lane) == (row.id, "resize", "default", "loop")
    assert (claimed.epoch, claimed.attempt, claimed.crashes, claimed.suspect) == (1, 1, 0, False)
    assert (claimed.worker, claimed.boot, claimed.args, claimed.retry) == ("w1", "boot-1", row.args, None)
    assert (claimed.max_attempts, claimed.timeout_ms, claimed.conversation) == (7, 50, None)
    assert claimed.created_at == desk.now - 10
    view = await desk.view(row.id)
    assert (view.status, view.worker, view.attempts, view.started_at) == ("active", "w1", 1, desk.now)
    assert await desk.told() == [
        ("job.enqueued", row.id, {"status": "pending"}),
        ("job.started", row.id, {"worker": "w1", "attempt": 1, "epoch": 1}),
    ]


async def test_the_retry_policy_travels_as_the_text_it_was(desk: Any) -> None:
    claimed = await desk.start(retry='{"base_ms": 5}')
    assert claimed.retry == '{"base_ms": 5}'


async def test_a_job_is_claimed_once(desk: Any) -> None:
    await desk.add()
    assert len(await desk.claim("w1")) == 1
    assert await desk.claim("w2") == ()


async def test_several_workers_get_one_job_each_the_best_first(desk: Any) -> None:
    third = await desk.add(priority=102)
    first = await desk.add(priority=100)
    second = await desk.add(priority=101)
    claimed = await desk.claim("w1", "w2", "w3", "w4")
    assert [(job.id, job.worker) for job in claimed] == [(first, "w1"), (second, "w2"), (third, "w3")]


async def test_workers_left_over_get_nothing_and_jobs_left_over_wait(desk: Any) -> None:
    ids = [await desk.add() for _ in range(3)]
    assert [job.id for job in await desk.claim("w1", "w2")] == ids[:2]
    assert [job.id for job in await desk.claim("w1", "w2")] == ids[2:]


async def test_no_worker_no_claim(desk: Any) -> None:
    await desk.add()
    assert await desk.one(desk.claims()) == ()


async def test_one_worker_may_hold_several_jobs(desk: Any) -> None:
    ids = [await desk.add() for _ in range(2)]
    assert [(job.id, job.worker) for job in await desk.claim("w1", "w1")] == [(ids[0], "w1"), (ids[1], "w1")]


async def test_equal_jobs_are_claimed_in_the_order_they_came(desk: Any) -> None:
    ids = [await desk.add() for _ in range(5)]
    assert [job.id for job in await desk.claim(*"abcde")] == ids


async def test_only_the_named_queue_and_lane_are_claimed_from(desk: Any) -> None:
    here = await desk.add(queue="a", lane="loop")
    child = await desk.add(queue="a", lane="child")
    other = await desk.add(queue="b", lane="loop")
    assert [job.id for job in await desk.claim("w1", "w2", queue="a")] == [here]
    assert [job.id for job in await desk.claim("w1", "w2", queue="a", lane="child")] == [child]
    assert [job.id for job in await desk.claim("w1", "w2", queue="b")] == [other]


@pytest.mark.parametrize(("late_by", "overtakes"), [(AGING_MS - 1, True), (AGING_MS, False), (AGING_MS + 1, False)])
async def test_a_level_of_priority_overtakes_by_less_than_its_worth_in_time(
    desk: Any, late_by: int, overtakes: bool
) -> None:
    plain = await desk.add(priority=100)
    desk.now += late_by
    urgent = await desk.add(priority=99)
    assert [job.id for job in await desk.claim("w1", "w2")] == ([urgent, plain] if overtakes else [plain, urgent])


async def test_a_paused_queue_yields_nothing_until_it_goes_on(desk: Any) -> None:
    job_id = await desk.add()
    await desk.queue("default", "paused")
    assert await desk.claim() == ()
    assert await desk.status(job_id) == ("pending", None)
    await desk.queue("default", "running")
    assert [job.id for job in await desk.claim()] == [job_id]


async def test_a_paused_queue_does_not_stop_another_nor_what_runs(desk: Any) -> None:
    claimed = await desk.start()
    other = await desk.add(queue="other")
    await desk.queue("default", "paused")
    assert (await desk.finish(claimed, "completed")).status == "completed"
    assert [job.id for job in await desk.claim(queue="other")] == [other]


async def test_finish_and_next_claim_are_one_transaction(desk: Any) -> None:
    claimed = await desk.start()
    following = await desk.add()
    ending = FinishJobs((Finish(claimed, "completed"),), now=desk.now)
    (finished,), (next_one,) = await desk.store.commit([ending, desk.claims("w1")])
    assert (finished.id, next_one.id) == (claimed.id, following)


async def test_every_claim_raises_the_epoch(desk: Any) -> None:
    await desk.add()
    epochs = []
    for _ in range(3):
        (claimed,) = await desk.claim()
        epochs.append((claimed.epoch, claimed.attempt))
        await desk.finish(claimed, "pending", refund=True)
    assert epochs == [(1, 1), (2, 1), (3, 1)]


async def test_a_job_that_came_back_takes_its_old_place(desk: Any) -> None:
    first = await desk.add()
    desk.now += 5
    second = await desk.add()
    (claimed,) = await desk.claim()
    desk.now += 5
    await desk.finish(claimed, "pending", refund=True)
    assert [job.id for job in await desk.claim("w1", "w2")] == [first, second]


async def test_a_retried_attempt_ranks_from_when_it_is_due(desk: Any) -> None:
    claimed = await desk.start()
    desk.now += 5
    waiting = await desk.add()
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now + 10)
    desk.now += 10
    await desk.one(PromoteDue(now=desk.now))
    assert [job.id for job in await desk.claim("w1", "w2")] == [waiting, claimed.id]


# -- an agent's queue: first in, first out per conversation ------------------------------------------------------------


async def test_priority_does_not_count_on_an_agents_queue(desk: Any) -> None:
    rows = [desk.talk("a", priority=900), desk.talk("b", priority=0), desk.talk("c", priority=500)]
    await desk.insert(*rows)
    assert [job.id for job in await desk.claim_talk("w1", "w2", "w3")] == [row.id for row in rows]


async def test_a_conversation_gives_one_job_at_a_time(desk: Any) -> None:
    rows = [desk.talk("a"), desk.talk("a"), desk.talk("b")]
    await desk.insert(*rows)
    first, other = await desk.claim_talk("w1", "w2", "w3")
    assert [first.id, other.id] == [rows[0].id, rows[2].id]
    assert first.conversation == "a"
    assert await desk.claim_talk("w1") == ()
    await desk.finish(first, "completed")
    assert [job.id for job in await desk.claim_talk("w1")] == [rows[1].id]


async def test_the_head_blocks_its_conversation_while_it_waits_for_a_retry(desk: Any) -> None:
    head, following, other = desk.talk("a"), desk.talk("a"), desk.talk("b")
    claimed = await desk.start(head)
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now + 100)
    await desk.insert(following, other)
    assert [job.id for job in await desk.claim_talk("w1", "w2")] == [other.id]
    desk.now += 100
    await desk.one(PromoteDue(now=desk.now))
    assert [job.id for job in await desk.claim_talk("w1", "w2")] == [head.id]


async def test_a_scheduled_head_blocks_what_came_after_it(desk: Any) -> None:
    head, following = desk.talk(execute_after=desk.now + 100), desk.talk()
    await desk.insert(head, following)
    assert await desk.claim_talk() == ()
    await desk.one(CancelJobs((head.id,), now=desk.now))
    assert [job.id for job in await desk.claim_talk()] == [following.id]


async def test_a_held_head_blocks_until_it_is_released_and_has_ended(desk: Any) -> None:
    head, following = desk.talk(), desk.talk()
    claimed = await desk.start(head)
    await desk.hold(claimed)
    await desk.insert(following)
    assert await desk.claim_talk("w1", "w2") == ()
    await desk.one(ReleaseHeld((head.kind,), now=desk.now))
    (again,) = await desk.claim_talk("w1", "w2")
    assert again.id == head.id
    await desk.finish(again, "failed", "exhausted")
    assert [job.id for job in await desk.claim_talk("w1", "w2")] == [following.id]


async def test_jobs_without_a_conversation_block_nobody(desk: Any) -> None:
    rows = [desk.talk(None), desk.talk(None), desk.talk("a")]
    await desk.insert(*rows)
    assert [job.id for job in await desk.claim_talk("w1", "w2", "w3")] == [row.id for row in rows]


async def test_conversations_of_one_name_on_two_queues_are_two(desk: Any) -> None:
    await desk.insert(desk.talk("main", queue="agent:ada"), desk.talk("main", queue="agent:bob"))
    assert len(await desk.claim("w1", queue="agent:ada", lane="agent")) == 1
    assert len(await desk.claim("w1", queue="agent:bob", lane="agent")) == 1


async def test_a_conversation_orders_agents_queues_only(desk: Any) -> None:
    ids = [await desk.add(conversation="main") for _ in range(2)]
    assert [job.id for job in await desk.claim("w1", "w2")] == ids


async def test_a_retried_job_goes_before_the_younger_ones_of_its_conversation(desk: Any) -> None:
    head, following = desk.talk(), desk.talk()
    await desk.finish(await desk.start(head), "failed", "permanent")
    await desk.insert(following)
    await desk.one(RetryJobs((head.id,), now=desk.now))
    assert [job.id for job in await desk.claim_talk("w1", "w2")] == [head.id]


async def test_a_retried_job_waits_while_a_younger_one_of_its_conversation_runs(desk: Any) -> None:
    head, following = desk.talk(), desk.talk()
    await desk.finish(await desk.start(head), "failed", "permanent")
    running = await desk.start(following)
    await desk.one(RetryJobs((head.id,), now=desk.now))
    assert await desk.claim_talk("w1", "w2") == ()
    await desk.finish(running, "completed")
    assert [job.id for job in await desk.claim_talk("w1", "w2")] == [head.id]


async def test_a_long_conversation_is_claimed_in_its_order_to_the_end(desk: Any) -> None:
    rows = [desk.talk("ab"[n % 2]) for n in range(8)]
    await desk.insert(*rows)
    seen = []
    while claimed := await desk.claim_talk("w1", "w2", "w3"):
        for job in claimed:
            seen.append(job.id)
            await desk.finish(job, "completed")
    assert seen == [row.id for row in rows]
