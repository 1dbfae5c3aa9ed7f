"""Every store: signals, and jobs that wait for them or for their parts."""

from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.memory import running
from runtime.store.port import PromoteDue, SendSignal, SignalSent, SignalTaken, StepBegun, TakeSignal
from runtime.store.sqlite import steps


async def take(desk: Any, fence: Any, name: str, step: str | None = None) -> str | None:
    taken = await desk.one(TakeSignal(fence, name, step or name, now=desk.now))
    assert isinstance(taken, SignalTaken)
    return taken.payload


async def waits(desk: Any, name: str = "go", until: int | None = None, **fields: Any) -> str:
    """Have a new job wait for a signal; return its id."""
    claimed = await desk.start(**fields)
    await desk.finish(claimed, "waiting", "signal", refund=True, waits=name, wait_until=until)
    return claimed.id


async def test_a_signal_is_kept_until_it_is_taken(desk: Any) -> None:
    claimed = await desk.start()
    newest = await desk.newest()
    assert await desk.signal(claimed.id, "go", {"n": 1}) == SignalSent("active", kept=True)
    assert await desk.told(after=newest) == [("job.signalled", claimed.id, {"signal": "go"})]
    assert await take(desk, claimed, "other") is None
    assert await take(desk, claimed, "go") == '{"n": 1}'
    assert await take(desk, claimed, "go", "second") is None


async def test_the_oldest_of_a_name_is_taken_first(desk: Any) -> None:
    claimed = await desk.start()
    for n, name in enumerate(("a", "b", "a", "b")):
        await desk.signal(claimed.id, name, n)
    assert [await take(desk, claimed, "b", step) for step in ("1", "2", "3")] == ["1", "3", None]
    assert [await take(desk, claimed, "a", step) for step in ("4", "5")] == ["0", "2"]


async def test_who_asks_again_for_the_same_step_gets_the_same(desk: Any) -> None:
    claimed = await desk.start()
    await desk.signal(claimed.id, "go", 1)
    await desk.signal(claimed.id, "go", 2)
    assert [await take(desk, claimed, "go", "wait") for _ in range(2)] == ["1", "1"]
    await desk.finish(claimed, "pending")
    (again,) = await desk.claim()
    assert await take(desk, again, "go", "wait") == "1"
    assert await take(desk, again, "go", "wait-2") == "2"
    step, _ = (await desk.view(claimed.id)).steps
    assert (step.name, step.state, step.output, step.epoch) == ("wait", "done", 1, claimed.epoch)
    assert (step.started_at, step.ended_at) == (desk.now, desk.now)
    assert await desk.begin(again, "wait") == StepBegun("done", "1")


async def test_a_signal_that_is_not_there_leaves_no_step(desk: Any) -> None:
    claimed = await desk.start()
    before = await desk.dump()
    assert await take(desk, claimed, "go") is None
    assert await desk.dump() == before


async def test_a_signal_wakes_the_job_that_waits_for_it(desk: Any) -> None:
    job_id = await waits(desk)
    view = await desk.view(job_id)
    assert (view.status, view.reason, view.waits_for, view.attempts) == ("waiting", "signal", "go", 0)
    assert await desk.signal(job_id, "other") == SignalSent("waiting", kept=True)
    assert await desk.signal(job_id, "go") == SignalSent("pending", kept=True)
    view = await desk.view(job_id)
    assert (view.status, view.reason, view.waits_for, view.wait_until) == ("pending", None, None, None)


async def test_what_a_wait_releases_keeps_its_rank(desk: Any) -> None:
    job_id = await waits(desk)
    desk.now += 5
    later = await desk.add()
    await desk.signal(job_id, "go")
    assert [job.id for job in await desk.claim("w1", "w2")] == [job_id, later]


async def test_a_signal_that_was_there_before_is_not_waited_for(desk: Any) -> None:
    claimed = await desk.start()
    await desk.signal(claimed.id, "go")
    newest = await desk.newest()
    finished = await desk.finish(claimed, "waiting", "signal", refund=True, waits="go")
    assert (finished.status, finished.reason) == ("pending", None)
    assert await desk.told(after=newest) == [("job.requeued", claimed.id, {})]


async def test_a_signal_that_was_taken_is_waited_for_anew(desk: Any) -> None:
    claimed = await desk.start()
    await desk.signal(claimed.id, "go")
    await take(desk, claimed, "go")
    assert (await desk.finish(claimed, "waiting", "signal", waits="go")).status == "waiting"


async def test_a_wait_that_ends_makes_its_job_pending(desk: Any) -> None:
    job_id = await waits(desk, until=desk.now + 100)
    assert (await desk.view(job_id)).wait_until == desk.now + 100
    assert await desk.store.next_due() == desk.now + 100
    assert await desk.one(PromoteDue(now=desk.now + 99)) == ()
    newest = await desk.newest()
    desk.now += 100
    assert await desk.one(PromoteDue(now=desk.now)) == (("default", "loop", 1),)
    view = await desk.view(job_id)
    assert (view.status, view.waits_for, view.wait_until) == ("pending", None, None)
    assert await desk.told(after=newest) == []
    assert await desk.store.next_due() is None


async def test_a_wait_without_an_end_never_ends_by_itself(desk: Any) -> None:
    job_id = await waits(desk)
    assert await desk.one(PromoteDue(now=desk.now + 10**12)) == ()
    assert await desk.status(job_id) == ("waiting", "signal")


async def test_waits_that_are_over_share_the_limit_with_what_is_due(desk: Any) -> None:
    ids = [await waits(desk, until=desk.now + at, queue=f"q{at}") for at in (30, 20)]
    ids.append(await desk.add(execute_after=desk.now + 40))
    desk.now += 100
    assert sum(count for _, _, count in await desk.one(PromoteDue(now=desk.now, limit=2))) == 2
    assert [(await desk.status(job_id))[0] for job_id in ids] == ["waiting", "pending", "pending"]


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent"), ("cancelled", "user")])
async def test_an_ended_job_keeps_no_signal(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, status, reason)
    before = await desk.dump()
    assert await desk.signal(claimed.id, "go") == SignalSent(status, kept=False)
    assert await desk.dump() == before


async def test_a_signal_for_nobody_is_none(desk: Any) -> None:
    assert await desk.signal("nobody", "go") is None


async def test_a_job_that_does_not_run_keeps_its_signals_too(desk: Any) -> None:
    job_id = await desk.add(execute_after=desk.now + 1)
    assert await desk.signal(job_id, "go", 7) == SignalSent("delayed", kept=True)
    desk.now += 1
    await desk.one(PromoteDue(now=desk.now))
    (claimed,) = await desk.claim()
    assert await take(desk, claimed, "go") == "7"


async def test_a_job_holds_so_many_signals_that_nobody_took(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running, steps):
        monkeypatch.setattr(module, "MAX_SIGNALS", 5)
    claimed = await desk.start()
    for n in range(5):
        assert await desk.signal(claimed.id, f"s{n % 3}") == SignalSent("active", kept=True)
    assert await desk.signal(claimed.id, "one more") == SignalSent("active", kept=False)
    await take(desk, claimed, "s0")
    assert await desk.signal(claimed.id, "one more") == SignalSent("active", kept=True)


async def test_a_signal_is_json(desk: Any) -> None:
    claimed = await desk.start()
    before = await desk.dump()
    with pytest.raises(StoreError):
        await desk.one(SendSignal(claimed.id, "go", "{no", now=desk.now))
    assert await desk.dump() == before


# -- parts -------------------------------------------------------------------------------------------------------------


async def test_a_job_waits_for_its_parts_until_the_last_has_ended(desk: Any) -> None:
    claimed = await desk.start(queue="whole")
    parts = [await desk.add(parent=claimed.id) for _ in range(2)]
    finished = await desk.finish(claimed, "waiting", "children", refund=True, wait_until=desk.now + 9)
    assert (finished.status, finished.reason) == ("waiting", "children")
    assert await desk.store.next_due() == desk.now + 9
    first, second = await desk.claim("w1", "w2")
    assert (first.parent, [first.id, second.id]) == (claimed.seq, parts)
    await desk.finish(first, "completed")
    assert await desk.status(claimed.id) == ("waiting", "children")
    await desk.finish(second, "failed", "permanent")
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.wait_until) == ("pending", None, None)


async def test_a_job_without_living_parts_does_not_wait(desk: Any) -> None:
    claimed = await desk.start(queue="whole")
    await desk.cancel(await desk.add(parent=claimed.id))
    assert (await desk.finish(claimed, "waiting", "children", refund=True)).status == "pending"


@pytest.mark.parametrize("how", ["cancel", "dependency"])
async def test_a_part_may_end_in_any_way(desk: Any, how: str) -> None:
    claimed = await desk.start(queue="whole")
    outside = await desk.add()
    (part,) = await desk.insert(desk.child(outside, parent=claimed.id))
    await desk.finish(claimed, "waiting", "children", refund=True)
    await desk.cancel(part.id if how == "cancel" else outside)
    assert await desk.status(claimed.id) == ("pending", None)


async def test_a_wait_for_parts_ends_by_its_time(desk: Any) -> None:
    claimed = await desk.start(queue="whole")
    await desk.add(parent=claimed.id)
    await desk.finish(claimed, "waiting", "children", refund=True, wait_until=desk.now + 5)
    desk.now += 5
    assert await desk.one(PromoteDue(now=desk.now)) == (("whole", "loop", 1),)


async def test_an_ended_part_does_not_wake_a_whole_that_waits_for_something_else(desk: Any) -> None:
    claimed = await desk.start(queue="whole")
    part = await desk.add(parent=claimed.id)
    await desk.finish(claimed, "waiting", "signal", waits="go")
    await desk.cancel(part)
    assert await desk.status(claimed.id) == ("waiting", "signal")
