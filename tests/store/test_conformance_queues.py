"""Every store: what is kept of queues, and that a paused one yields nothing."""

from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.port import PromoteDue, PutQueue, QueueRow


async def test_a_queue_is_kept_as_it_is_given(desk: Any) -> None:
    await desk.add(queue="plain")
    assert await desk.store.queues() == ()
    whole = QueueRow(
        "b",
        "draining",
        by="a person",
        since=7,
        max_active=3,
        rate='{"requests":5}',
        blocked_until=99,
        requests_left=1.5,
        tokens_left=0.25,
        filled_at=8,
        set_by_hand=("state", "max_active"),
    )
    for row in (QueueRow("b"), QueueRow("a", "paused"), whole):
        await desk.one(PutQueue(row, now=desk.now))
    assert await desk.store.queues() == (QueueRow("a", "paused"), whole)


async def test_a_paused_queue_yields_nothing_and_moves_nothing(desk: Any) -> None:
    running = await desk.start(limit_key="k")
    job_id = await desk.add(limit_key="k")
    await desk.queue("default", "paused")
    before = await desk.dump()
    assert await desk.claim("w1", "w2") == ()
    assert await desk.dump() == before
    assert await desk.status(job_id) == ("pending", None)
    assert running.limit_key == "k"


@pytest.mark.parametrize("state", ["running", "draining"])
async def test_what_is_in_any_other_queue_runs(desk: Any, state: str) -> None:
    job_id = await desk.add()
    await desk.queue("default", "paused")
    await desk.queue("default", state)
    assert [job.id for job in await desk.claim()] == [job_id]


async def test_limits_and_blocks_of_a_queue_are_not_the_stores_business(desk: Any) -> None:
    job_id = await desk.add()
    await desk.queue("default", "running", max_active=0, blocked_until=desk.now + 99)
    assert [job.id for job in await desk.claim()] == [job_id]


async def test_jobs_come_due_in_a_paused_queue(desk: Any) -> None:
    job_id = await desk.add(execute_after=desk.now + 1)
    await desk.queue("default", "paused")
    desk.now += 1
    await desk.one(PromoteDue(now=desk.now))
    assert await desk.status(job_id) == ("pending", None)


async def test_a_rate_is_json(desk: Any) -> None:
    with pytest.raises(StoreError):
        await desk.one(PutQueue(QueueRow("q", rate="{no"), now=desk.now))
    assert await desk.store.queues() == ()


async def test_a_state_of_the_bucket_survives_the_daemon(desk: Any) -> None:
    row = QueueRow("q", requests_left=0.5, tokens_left=1e9, filled_at=desk.now, blocked_until=desk.now + 5)
    await desk.one(PutQueue(row, now=desk.now))
    await desk.reopen()
    assert await desk.store.queues() == (row,)
