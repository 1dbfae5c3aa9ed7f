"""Every store: deadlines of whole jobs."""

from typing import Any

import pytest

from runtime.store.port import ExpireJobs, Finish, FinishJobs, PromoteDue


async def expire(desk: Any, limit: int = 1000) -> int:
    return await desk.one(ExpireJobs(now=desk.now, limit=limit))


async def a_pending(desk: Any, at: int) -> str:
    return await desk.add(deadline_at=at)


async def a_delayed(desk: Any, at: int) -> str:
    return await desk.add(deadline_at=at, execute_after=at + 5)


async def a_waiting(desk: Any, at: int) -> str:
    claimed = await desk.start(deadline_at=at)
    await desk.finish(claimed, "waiting", "signal", refund=True, waits="go")
    return claimed.id


async def a_dependant(desk: Any, at: int) -> str:
    parent = await desk.add(queue="other")
    (child,) = await desk.insert(desk.child(parent, deadline_at=at))
    return child.id


@pytest.mark.parametrize("make", [a_pending, a_delayed, a_waiting, a_dependant], ids=lambda make: make.__name__)
async def test_a_job_that_does_not_run_fails_when_its_deadline_comes(desk: Any, make: Any) -> None:
    at = desk.now + 100
    job_id = await make(desk, at)
    assert (await desk.view(job_id)).deadline_at == at
    assert await desk.store.next_due() == at
    assert any(move.due == at for move in desk.heard)
    desk.now = at - 1
    assert await expire(desk) == 0
    newest = await desk.newest()
    desk.now = at
    assert await expire(desk) == 1
    view = await desk.view(job_id)
    assert (view.status, view.reason, view.finished_at) == ("failed", "deadline", at)
    assert (view.waits_for, view.wait_until) == (None, None)
    assert await desk.told(after=newest) == [("job.failed", job_id, {"reason": "deadline"})]
    assert await desk.store.next_due() is None
    assert await expire(desk) == 0


async def test_what_runs_and_what_a_person_holds_is_left_alone(desk: Any) -> None:
    running = await desk.start(deadline_at=desk.now + 1)
    held = await desk.add(deadline_at=desk.now + 1)
    await desk.pause(held)
    assert running.deadline_at == desk.now + 1
    assert await desk.store.next_due() is None
    desk.now += 5
    assert await expire(desk) == 0
    await desk.resume(held)
    assert await desk.store.next_due() == desk.now - 4
    await desk.finish(running, "delayed", "retry", execute_after=desk.now + 99)
    assert await expire(desk) == 2


async def test_the_first_deadlines_come_first_up_to_the_limit(desk: Any) -> None:
    ids = [await desk.add(deadline_at=desk.now + at) for at in (3, 1, 2)]
    desk.now += 9
    assert await expire(desk, limit=2) == 2
    assert [(await desk.status(job_id))[0] for job_id in ids] == ["pending", "failed", "failed"]


async def test_a_deadline_releases_what_an_end_releases(desk: Any) -> None:
    whole = await desk.start(queue="whole")
    late = desk.row(deadline_at=desk.now + 1, parent=whole.id, limit_key="k")
    child = desk.child(late.id)
    await desk.insert(late, child, desk.row(limit_key="k"))
    first, second = late.id, (await desk.store.jobs(limit=1))[0].id
    (running,) = await desk.claim("w1", "w2")
    await desk.finish(running, "delayed", "retry", execute_after=desk.now + 50)
    await desk.finish(whole, "waiting", "children", refund=True)
    assert await desk.status(second) == ("pending", None)
    desk.now += 1
    assert await expire(desk) == 1
    assert await desk.status(first) == ("failed", "deadline")
    assert await desk.status(child.id) == ("cancelled", "dependency")
    assert await desk.status(whole.id) == ("pending", None)


async def test_a_retry_takes_a_deadline_away_that_has_passed_and_no_other(desk: Any) -> None:
    passed, coming = await desk.add(deadline_at=desk.now + 5), await desk.add(deadline_at=desk.now + 50)
    await desk.cancel(passed, coming)
    desk.now += 5
    await desk.retry(passed, coming)
    assert (await desk.view(passed)).deadline_at is None
    assert (await desk.view(coming)).deadline_at == desk.now + 45
    assert await desk.store.next_due() == desk.now + 45


async def test_the_next_due_time_is_the_first_of_all(desk: Any) -> None:
    await desk.add(execute_after=desk.now + 30, deadline_at=desk.now + 90)
    assert await desk.store.next_due() == desk.now + 30
    claimed = await desk.start()
    await desk.finish(claimed, "waiting", "signal", waits="x", wait_until=desk.now + 20)
    assert await desk.store.next_due() == desk.now + 20
    await desk.add(deadline_at=desk.now + 10)
    assert await desk.store.next_due() == desk.now + 10
    desk.now += 100
    await expire(desk)
    await desk.one(PromoteDue(now=desk.now))
    assert await desk.store.next_due() is None


async def test_an_attempt_may_end_by_the_deadline(desk: Any) -> None:
    claimed = await desk.start(deadline_at=desk.now + 1)
    (finished,) = await desk.one(FinishJobs((Finish(claimed, "failed", "deadline"),), now=desk.now + 1))
    assert (finished.status, finished.reason) == ("failed", "deadline")
