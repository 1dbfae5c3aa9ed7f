"""Every store: what people ask of jobs. Cancelling, retrying by hand, releasing what was held, pausing queues."""

from typing import Any

import pytest

from runtime.errors import problem
from runtime.store.port import CancelJobs, ReleaseHeld, RetryJobs
from schemas.jobs import Lease


async def cancel(desk: Any, *ids: str) -> list[Any]:
    return list(await desk.one(CancelJobs(ids, now=desk.now)))


async def retry(desk: Any, *ids: str) -> list[Any]:
    return list(await desk.one(RetryJobs(ids, now=desk.now)))


async def a_pending(desk: Any) -> str:
    return await desk.add()


async def a_delayed(desk: Any) -> str:
    return await desk.add(execute_after=desk.now + 1000)


async def a_held(desk: Any) -> str:
    claimed = await desk.start()
    await desk.finish(claimed, "paused", "hold", refund=True)
    return claimed.id


async def a_waiting(desk: Any) -> str:
    claimed = await desk.start()
    await desk.finish(claimed, "waiting", "signal", refund=True)
    return claimed.id


@pytest.mark.parametrize("make", [a_pending, a_delayed, a_held, a_waiting], ids=lambda make: make.__name__)
async def test_a_job_that_does_not_run_is_cancelled_now(desk: Any, make: Any) -> None:
    job_id = await make(desk)
    before = (await desk.status(job_id))[0]
    newest = await desk.newest()
    desk.now += 1
    (result,) = await cancel(desk, job_id)
    assert (result.outcome, result.status, result.before, result.fence) == ("cancelled", "cancelled", before, None)
    assert (result.queue, result.lane) == ("default", "loop")
    view = await desk.view(job_id)
    assert (view.status, view.reason, view.finished_at) == ("cancelled", "user", desk.now)
    assert await desk.told(after=newest) == [("job.cancelled", job_id, {"reason": "user"})]
    assert await desk.claim() == ()


async def test_of_an_active_job_the_wish_is_kept_and_its_attempt_named(desk: Any) -> None:
    claimed = await desk.start()
    newest = await desk.newest()
    (result,) = await cancel(desk, claimed.id)
    assert (result.outcome, result.status, result.before) == ("requested", "active", "active")
    assert result.fence == Lease(seq=claimed.seq, id=claimed.id, epoch=1, worker="w1", boot="boot-1")
    assert await desk.status(claimed.id) == ("active", None)
    assert await desk.told(after=newest) == [("job.cancel_requested", claimed.id, {})]


async def test_a_second_wish_finds_the_first(desk: Any) -> None:
    claimed = await desk.start()
    assert [(await cancel(desk, claimed.id))[0].outcome for _ in range(2)] == ["requested", "requested"]
    assert (await desk.finish(claimed, "pending")).status == "cancelled"
    (late,) = await cancel(desk, claimed.id)
    assert (late.outcome, late.status, late.before) == ("too_late", "cancelled", "cancelled")


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent")])
async def test_cancelling_what_has_ended_is_too_late_and_no_event(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, status, reason)
    before = await desk.everything()
    (result,) = await cancel(desk, claimed.id)
    assert (result.outcome, result.status, result.before, result.fence) == ("too_late", status, status, None)
    assert await desk.everything() == before


async def test_cancels_answer_in_their_order_with_none_for_unknown_jobs(desk: Any) -> None:
    first, second = await desk.add(), await desk.add()
    results = await cancel(desk, second, "nobody", first, second)
    assert [result and result.outcome for result in results] == ["cancelled", None, "cancelled", "too_late"]


# -- retry by hand -----------------------------------------------------------------------------------------------------


async def test_a_failed_job_is_retried_with_a_new_budget_and_a_higher_epoch(desk: Any, problem: str) -> None:
    await desk.add()
    for _ in range(3):
        (claimed,) = await desk.claim()
        await desk.finish(claimed, "pending", crash=True, error=problem)
    desk.now += 10
    newest = await desk.newest()
    (retried,) = await retry(desk, claimed.id)
    assert (retried.queue, retried.lane) == ("default", "loop")
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.attempts, view.crashes) == ("pending", None, 0, 0)
    assert (view.error, view.result, view.finished_at, view.execute_after) == (None, None, None, desk.now)
    assert await desk.told(after=newest) == [("job.retried", claimed.id, {})]
    (again,) = await desk.claim()
    assert (again.id, again.epoch, again.attempt, again.crashes) == (claimed.id, 4, 1, 0)
    assert [one.epoch for one in (await desk.view(claimed.id)).history] == [1, 2, 3, 4]


async def test_a_retried_job_has_forgotten_that_it_should_be_cancelled(desk: Any) -> None:
    claimed = await desk.start()
    await cancel(desk, claimed.id)
    await desk.finish(claimed, "pending")
    await retry(desk, claimed.id)
    (again,) = await desk.claim()
    assert (await desk.finish(again, "pending")).status == "pending"


async def test_a_job_that_was_cancelled_while_it_waited_ranks_from_its_retry(desk: Any) -> None:
    far = await desk.add(execute_after=desk.now + 3_600_000)
    await cancel(desk, far)
    await retry(desk, far)
    desk.now += 1
    later = await desk.add()
    assert [job.id for job in await desk.claim("w1", "w2")] == [far, later]


async def test_only_failed_and_cancelled_jobs_are_retried(desk: Any) -> None:
    done = await desk.start()
    await desk.finish(done, "completed")
    running = await desk.start()
    held = await desk.start()
    await desk.finish(held, "paused", "hold")
    delayed = await desk.add(execute_after=desk.now + 5)
    pending = await desk.add()
    before = await desk.everything()
    answers = await retry(desk, done.id, running.id, held.id, delayed, pending, "nobody")
    assert answers == ["completed", "active", "paused", "delayed", "pending", None]
    assert await desk.everything() == before


async def test_a_retry_happens_once(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "failed", "permanent")
    first, second = await retry(desk, claimed.id, claimed.id)
    assert (first.queue, second) == ("default", "pending")


async def test_a_retry_is_refused_where_another_job_holds_its_word(desk: Any) -> None:
    older = await desk.add(unique="u")
    await desk.cancel(older)
    younger = await desk.add(unique="u")
    before = await desk.dump()
    assert await retry(desk, older) == ["cancelled"]
    assert await desk.dump() == before
    await desk.cancel(younger)
    first, second = await retry(desk, older, younger)
    assert (first.before, second) == ("cancelled", "cancelled")
    assert [await desk.status(job_id) for job_id in (older, younger)] == [("pending", None), ("cancelled", "user")]


async def test_a_dependant_whose_word_is_held_is_left_where_it_is(desk: Any) -> None:
    parent = desk.row()
    child = desk.child(parent.id, unique="u")
    await desk.insert(parent, child)
    (claimed,) = await desk.claim()
    await desk.finish(claimed, "failed", "permanent")
    await desk.add(kind="child", unique="u")
    (retried,) = list(await desk.one(RetryJobs((parent.id,), now=desk.now, dependants=True)))
    assert retried.also == 0
    assert await desk.status(child.id) == ("cancelled", "dependency")


async def test_a_cancelled_job_shows_the_wish_until_it_is_retried(desk: Any) -> None:
    waiting, running = await desk.add(queue="b"), await desk.start()
    await cancel(desk, waiting, running.id)
    assert [(await desk.view(job_id)).cancel_requested for job_id in (waiting, running.id)] == [True, True]
    await retry(desk, waiting)
    assert (await desk.view(waiting)).cancel_requested is False


# -- held jobs ---------------------------------------------------------------------------------------------------------


async def test_held_jobs_of_kinds_that_are_known_now_are_released(desk: Any) -> None:
    for kind in ("resize", "crop", "blur", "resize"):
        claimed = await desk.start(kind=kind, queue=kind)
        await desk.hold(claimed)
    newest = await desk.newest()
    woken = await desk.one(ReleaseHeld(("resize", "blur", "other"), now=desk.now))
    assert sorted(woken) == [("blur", "loop", 1), ("resize", "loop", 2)]
    views = await desk.store.jobs()
    assert {(view.name, view.status, view.reason) for view in views} == {
        ("resize", "pending", None),
        ("blur", "pending", None),
        ("crop", "paused", "hold"),
    }
    assert await desk.told(after=newest) == []


@pytest.mark.parametrize("error", [None, problem("job.step_ambiguous").model_dump_json()])
async def test_what_is_held_for_a_person_is_not_released(desk: Any, error: str | None) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "paused", "hold", refund=True, error=error)
    assert await desk.one(ReleaseHeld(("resize",), now=desk.now)) == ()
    assert await desk.status(claimed.id) == ("paused", "hold")


async def test_jobs_that_a_person_paused_are_not_released(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "paused", "user")
    assert await desk.one(ReleaseHeld(("resize",), now=desk.now)) == ()
    assert await desk.status(claimed.id) == ("paused", "user")


async def test_a_released_job_ranks_from_its_release(desk: Any) -> None:
    claimed = await desk.start()
    await desk.hold(claimed)
    desk.now += 5
    waiting = await desk.add()
    desk.now += 5
    await desk.one(ReleaseHeld(("resize",), now=desk.now))
    assert [job.id for job in await desk.claim("w1", "w2")] == [waiting, claimed.id]
