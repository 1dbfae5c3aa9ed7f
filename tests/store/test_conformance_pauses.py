"""Every store: jobs that a person holds and lets go on."""

from typing import Any

import pytest

from runtime.store.port import ExpireLeases, PromoteDue, RecoverJobs, ReleaseHeld


async def a_pending(desk: Any) -> str:
    return await desk.add()


async def a_delayed(desk: Any) -> str:
    return await desk.add(execute_after=desk.now + 1000)


async def an_unknown_kind(desk: Any) -> str:
    claimed = await desk.start()
    await desk.finish(claimed, "paused", "hold", refund=True)
    return claimed.id


async def a_waiting(desk: Any) -> str:
    claimed = await desk.start()
    await desk.finish(claimed, "waiting", "signal", refund=True, waits="go", wait_until=desk.now + 5)
    return claimed.id


async def a_dependant(desk: Any) -> str:
    parent = await desk.add(queue="other")
    (child,) = await desk.insert(desk.child(parent))
    return child.id


MADE = [
    (a_pending, "pending"),
    (a_delayed, "delayed"),
    (an_unknown_kind, "pending"),
    (a_waiting, "pending"),
    (a_dependant, "waiting"),
]


@pytest.mark.parametrize(("make", "after"), MADE, ids=lambda value: getattr(value, "__name__", value))
async def test_a_job_that_has_not_started_is_held_and_goes_on_where_it_would_stand(
    desk: Any, make: Any, after: str
) -> None:
    job_id = await make(desk)
    newest = await desk.newest()
    desk.now += 1
    (paused,) = await desk.pause(job_id)
    assert (paused.outcome, paused.status) == ("paused", "paused")
    view = await desk.view(job_id)
    assert (view.status, view.reason, view.updated_at) == ("paused", "user", desk.now)
    assert (view.waits_for, view.wait_until) == (None, None)
    assert await desk.claim("w1", "w2") == ()
    assert await desk.one(PromoteDue(now=desk.now + 10_000)) == ()
    (resumed,) = await desk.resume(job_id)
    assert (resumed.outcome, resumed.status) == ("resumed", after)
    assert (await desk.status(job_id))[0] == after
    assert await desk.told(after=newest) == [
        ("job.held", job_id, {"reason": "user"}),
        ("job.resumed", job_id, {"status": after}),
    ]


async def test_a_delayed_job_whose_time_has_passed_meanwhile_is_pending(desk: Any) -> None:
    job_id = await desk.add(execute_after=desk.now + 10)
    await desk.pause(job_id)
    desk.now += 10
    assert (await desk.resume(job_id))[0].status == "pending"


async def test_a_resumed_job_is_ranked_from_its_return(desk: Any) -> None:
    first = await desk.add()
    await desk.pause(first)
    desk.now += 5
    second = await desk.add()
    desk.now += 5
    await desk.resume(first)
    assert [job.id for job in await desk.claim("w1", "w2")] == [second, first]


async def test_what_a_person_holds_is_not_released_with_its_kind(desk: Any) -> None:
    job_id = await an_unknown_kind(desk)
    await desk.pause(job_id)
    assert await desk.one(ReleaseHeld(("resize",), now=desk.now)) == ()
    assert await desk.status(job_id) == ("paused", "user")


async def test_a_person_may_let_a_job_go_on_whose_kind_is_unknown(desk: Any) -> None:
    job_id = await an_unknown_kind(desk)
    assert (await desk.resume(job_id))[0].status == "pending"


async def test_there_may_be_nothing_to_do(desk: Any) -> None:
    held, free, running = await desk.add(), await desk.add(queue="b"), await desk.start(queue="c")
    await desk.pause(held)
    before = await desk.dump()
    assert [(one.outcome, one.status) for one in await desk.pause(held)] == [("unchanged", "paused")]
    assert [(one and (one.outcome, one.status)) for one in await desk.resume(free, "nobody", running.id)] == [
        ("unchanged", "pending"),
        None,
        ("unchanged", "active"),
    ]
    assert await desk.pause("nobody") == [None]
    assert await desk.dump() == before


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent"), ("cancelled", "user")])
async def test_an_ended_job_is_neither_held_nor_let_go(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, status, reason)
    before = await desk.dump()
    for results in (await desk.pause(claimed.id), await desk.resume(claimed.id)):
        assert [(one.outcome, one.status) for one in results] == [("too_late", status)]
    assert await desk.dump() == before


async def test_a_held_job_is_cancelled_by_a_person(desk: Any) -> None:
    job_id = await desk.add()
    await desk.pause(job_id)
    assert (await desk.cancel(job_id))[0].before == "paused"
    assert await desk.status(job_id) == ("cancelled", "user")


# -- a wish about one that runs ----------------------------------------------------------------------------------------


async def test_of_an_active_job_the_wish_is_kept_until_it_is_taken_back(desk: Any) -> None:
    claimed = await desk.start()
    newest = await desk.newest()
    (result,) = await desk.pause(claimed.id)
    assert (result.outcome, result.status) == ("requested", "active")
    assert (await desk.view(claimed.id)).pause_requested is True
    (result,) = await desk.resume(claimed.id)
    assert (result.outcome, result.status) == ("resumed", "active")
    assert (await desk.view(claimed.id)).pause_requested is False
    assert await desk.told(after=newest) == [
        ("job.pause_requested", claimed.id, {}),
        ("job.resumed", claimed.id, {"status": "active"}),
    ]
    assert (await desk.finish(claimed, "pending")).status == "pending"


@pytest.mark.parametrize(
    ("status", "reason"), [("pending", None), ("delayed", "retry"), ("waiting", "signal"), ("waiting", "children")]
)
async def test_what_goes_back_to_wait_is_held_instead(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start()
    await desk.add(queue="other", parent=claimed.id)
    await desk.pause(claimed.id)
    waits = "go" if reason == "signal" else None
    finished = await desk.finish(claimed, status, reason, execute_after=desk.now + 9, waits=waits)
    assert (finished.status, finished.reason) == ("paused", "user")
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.pause_requested, view.waits_for) == ("paused", "user", False, None)
    assert (await desk.told())[-1] == ("job.held", claimed.id, {"reason": "user"})
    assert (await desk.resume(claimed.id))[0].status == ("delayed" if status == "delayed" else "pending")


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent"), ("paused", "hold")])
async def test_every_other_end_stays_what_it_is_and_the_wish_is_over(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start()
    await desk.pause(claimed.id)
    finished = await desk.finish(claimed, status, reason)
    assert (finished.status, finished.reason) == (status, reason)
    assert (await desk.view(claimed.id)).pause_requested is False


async def test_a_wish_to_cancel_comes_before_a_wish_to_pause(desk: Any) -> None:
    claimed = await desk.start()
    await desk.pause(claimed.id)
    await desk.cancel(claimed.id)
    assert (await desk.finish(claimed, "pending")).status == "cancelled"


@pytest.mark.parametrize("how", ["daemon", "worker", "lease"])
async def test_a_job_that_is_taken_back_is_held_where_that_was_wished(desk: Any, how: str) -> None:
    claimed = await desk.start()
    await desk.pause(claimed.id)
    if how == "lease":
        (lost,) = await desk.one(ExpireLeases(desk.boot, now=desk.now + 30_001))
        assert lost.status == "paused"
    else:
        boot, worker = ("boot-2", None) if how == "daemon" else (desk.boot, "w1")
        (recovered,) = await desk.one(RecoverJobs(boot=boot, now=desk.now, worker=worker))
        assert recovered.status == "paused"
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.pause_requested) == ("paused", "user", False)


async def test_wishes_answer_in_their_order(desk: Any) -> None:
    first, second = await desk.add(), await desk.add()
    running = await desk.start(queue="b")
    results = await desk.pause(second, "nobody", running.id, first)
    assert [one and one.outcome for one in results] == ["paused", None, "requested", "paused"]
    results = await desk.resume(first, "nobody", running.id, second)
    assert [one and one.outcome for one in results] == ["resumed", None, "resumed", "resumed"]
