"""Every store: steps. What was done once is on record, and never done again."""

from typing import Any

import pytest

from runtime.errors import TooManySteps
from runtime.store.memory import running
from runtime.store.port import AppendEvents, BeginStep, EndStep, RecoverJobs, StepBegun
from runtime.store.sqlite import steps


async def again(desk: Any, claimed: Any) -> Any:
    """Have the job run again, as after the death of its worker."""
    await desk.one(RecoverJobs(boot=desk.boot, now=desk.now, worker="w1"))
    (once_more,) = await desk.claim(queue=claimed.queue)
    assert once_more.id == claimed.id
    return once_more


async def test_a_step_is_begun_and_ended_with_its_output(desk: Any) -> None:
    claimed = await desk.start()
    began = desk.now
    assert await desk.begin(claimed, "fetch") == StepBegun("run")
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.name, step.state, step.epoch, step.started_at, step.ended_at) == ("fetch", "started", 1, began, None)
    desk.now += 3
    assert await desk.done(claimed, "fetch", {"n": 1}, cost=0.25) is True
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.state, step.output, step.error, step.cost) == ("done", {"n": 1}, None, 0.25)
    assert (step.started_at, step.ended_at) == (began, desk.now)


async def test_only_a_step_that_is_done_is_told(desk: Any) -> None:
    claimed = await desk.start()
    newest = await desk.newest()
    await desk.begin(claimed, "one")
    await desk.begin(claimed, "two")
    assert await desk.told(after=newest) == []
    await desk.one(EndStep(claimed, "one", now=desk.now, error="no"))
    assert await desk.told(after=newest) == []
    await desk.done(claimed, "two", None)
    assert await desk.told(after=newest) == [("job.step", claimed.id, {"step": "two", "cost": None})]


async def test_a_step_that_is_done_is_never_run_again(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "fetch")
    await desk.done(claimed, "fetch", [1, "ü"])
    assert await desk.begin(claimed, "fetch") == StepBegun("done", '[1, "\\u00fc"]')
    once_more = await again(desk, claimed)
    desk.now += 1
    assert await desk.begin(once_more, "fetch", retry=False) == StepBegun("done", '[1, "\\u00fc"]')
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.epoch, step.ended_at) == (1, desk.now - 1)


async def test_a_done_step_without_an_output_is_done_all_the_same(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "fetch")
    assert await desk.one(EndStep(claimed, "fetch", now=desk.now)) is True
    assert await desk.begin(claimed, "fetch") == StepBegun("done", None)


async def test_a_step_that_another_attempt_left_open_is_ambiguous(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "pay")
    once_more = await again(desk, claimed)
    before = await desk.dump()
    assert await desk.begin(once_more, "pay", retry=False) == StepBegun("ambiguous")
    assert await desk.dump() == before
    desk.now += 5
    assert await desk.begin(once_more, "pay", retry=True) == StepBegun("run")
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.state, step.epoch, step.started_at) == ("started", 2, desk.now)


@pytest.mark.parametrize("retry", [True, False])
async def test_a_step_of_its_own_is_never_ambiguous(desk: Any, retry: bool) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "pay")
    assert await desk.begin(claimed, "pay", retry=retry) == StepBegun("run")


@pytest.mark.parametrize("later", [False, True])
async def test_a_step_that_failed_may_run_again(desk: Any, later: bool) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "fetch")
    assert await desk.one(EndStep(claimed, "fetch", now=desk.now, output="1", error="no luck", cost=1.0)) is True
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.state, step.output, step.error, step.cost) == ("failed", None, "no luck", 1.0)
    if later:
        claimed = await again(desk, claimed)
    assert await desk.begin(claimed, "fetch", retry=False) == StepBegun("run")
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.state, step.error, step.cost, step.ended_at) == ("started", None, None, None)


async def test_only_the_attempt_that_began_a_step_ends_it(desk: Any) -> None:
    claimed = await desk.start()
    assert await desk.done(claimed, "never begun") is False
    await desk.begin(claimed, "fetch")
    once_more = await again(desk, claimed)
    before = await desk.dump()
    assert await desk.done(once_more, "fetch", 1) is False
    assert await desk.dump() == before
    await desk.begin(once_more, "fetch")
    assert await desk.done(once_more, "fetch", 1) is True
    before = await desk.dump()
    assert await desk.done(once_more, "fetch", 2) is False
    assert await desk.dump() == before


async def test_a_wish_to_pause_is_heard_at_the_next_step_but_not_by_one_that_is_done(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "one")
    await desk.done(claimed, "one", 1)
    await desk.pause(claimed.id)
    before = await desk.dump()
    assert await desk.begin(claimed, "two") == StepBegun("pause")
    assert await desk.begin(claimed, "one") == StepBegun("done", "1")
    assert await desk.dump() == before
    await desk.resume(claimed.id)
    assert await desk.begin(claimed, "two") == StepBegun("run")


async def test_steps_are_of_their_job_alone_and_shown_in_their_order(desk: Any) -> None:
    claimed, other = await desk.start(queue="a"), await desk.start(queue="b")
    await desk.begin(claimed, "b")
    await desk.done(claimed, "b", 1)
    assert await desk.begin(other, "b") == StepBegun("run")
    await desk.begin(claimed, "a")
    desk.now += 1
    await desk.begin(claimed, "0")
    assert [step.name for step in (await desk.view(claimed.id)).steps] == ["a", "b", "0"]
    assert [step.name for step in (await desk.view(other.id)).steps] == ["b"]


async def test_steps_stay_done_over_a_retry_by_hand(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "fetch")
    await desk.done(claimed, "fetch", 1)
    await desk.finish(claimed, "failed", "permanent")
    await desk.retry(claimed.id)
    (once_more,) = await desk.claim()
    assert await desk.begin(once_more, "fetch") == StepBegun("done", "1")


async def test_a_job_has_so_many_steps_and_no_more(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running, steps):
        monkeypatch.setattr(module, "MAX_STEPS", 5)
    claimed = await desk.start()
    for n in range(5):
        assert await desk.begin(claimed, f"s{n}") == StepBegun("run")
    before = await desk.dump()
    assert await desk.begin(claimed, "one more") == StepBegun("full")
    assert await desk.dump() == before
    assert await desk.begin(claimed, "s0") == StepBegun("run")


async def test_a_step_that_is_ended_at_once_heeds_no_wish_to_pause(desk: Any) -> None:
    claimed = await desk.start()
    await desk.pause(claimed.id)
    begin = BeginStep(claimed, "sent", now=desk.now, at_once=True)
    event = AppendEvents((("test.sent", claimed.id, "{}"),), desk.now)
    _, begun, ended = await desk.store.commit([event, begin, EndStep(claimed, "sent", now=desk.now, output="1")])
    assert (begun, ended) == (StepBegun("run"), True)
    assert await desk.begin(claimed, "sent") == StepBegun("done", "1")
    assert await desk.begin(claimed, "next") == StepBegun("pause")


async def test_a_step_too_many_that_is_ended_at_once_undoes_what_came_before_it(
    desk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (running, steps):
        monkeypatch.setattr(module, "MAX_STEPS", 1)
    claimed = await desk.start()
    await desk.begin(claimed, "one")
    before = await desk.dump()
    event = AppendEvents((("test.sent", claimed.id, "{}"),), desk.now)
    end = EndStep(claimed, "two", now=desk.now, output="1")
    with pytest.raises(TooManySteps):
        await desk.store.commit([event, BeginStep(claimed, "two", now=desk.now, at_once=True), end])
    assert await desk.dump() == before
