"""Every store: what is said to a run that is under way is taken into it, once, and nothing else is."""

import json
from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.port import Edge, PutSetting, RecoverJobs
from tests.store.agents_desk import AGENT


async def a_run(desk: Any, conversation: str = "main") -> Any:
    """Start a turn of the agent in a conversation."""
    return await desk.start(desk.talk(conversation))


async def steer(desk: Any, text: str, conversation: str | None = "main", **fields: Any) -> str:
    """Say something to steer the run; return the message's id."""
    row = desk.talk(conversation, **({"tags": ("steer",), "args": {"text": text}} | fields))
    await desk.insert(row)
    return row.id


async def again(desk: Any, claimed: Any) -> Any:
    """Have the run go on as another attempt."""
    await desk.one(RecoverJobs(boot=desk.boot, now=desk.now, worker="w1"))
    (once_more,) = await desk.claim_talk()
    assert once_more.id == claimed.id
    return once_more


async def test_what_was_said_is_taken_in_oldest_first_and_ends(desk: Any) -> None:
    claimed = await a_run(desk)
    first, second = await steer(desk, "ü", priority=900), await steer(desk, "b", priority=1)
    newest = await desk.newest()
    desk.now += 5
    assert await desk.absorb(claimed) == [[first, {"text": "ü"}], [second, {"text": "b"}]]
    for job_id in (first, second):
        view = await desk.view(job_id)
        assert (view.status, view.reason, view.finished_at) == ("cancelled", "superseded", desk.now)
        assert (view.error.code, view.error.detail) == ("job.cancelled", "another run has taken it in")
        assert (view.attempts, view.history, view.cancel_requested) == (0, (), False)
    told = [("job.cancelled", job_id, {"reason": "superseded"}) for job_id in (first, second)]
    assert await desk.told(after=newest) == told
    assert await desk.claim_talk("w2") == ()


async def test_it_is_on_record_as_a_step_of_the_run(desk: Any) -> None:
    claimed = await a_run(desk)
    said = await steer(desk, "a")
    desk.now += 5
    taken = await desk.absorb(claimed, "steer/3")
    (step,) = (await desk.view(claimed.id)).steps
    assert (step.name, step.state, step.epoch, step.output) == ("steer/3", "done", 1, [[said, {"text": "a"}]])
    assert (step.started_at, step.ended_at) == (desk.now, desk.now)
    assert taken == step.output


async def test_the_same_step_takes_in_the_same_and_no_more(desk: Any) -> None:
    claimed = await a_run(desk)
    first = await steer(desk, "a")
    text = await desk.one(desk.absorbing(claimed))
    second = await steer(desk, "b")
    once_more = await again(desk, claimed)
    before = await desk.dump()
    desk.now += 1
    assert await desk.one(desk.absorbing(once_more)) == text
    assert json.loads(text) == [[first, {"text": "a"}]]
    assert await desk.dump() == before
    assert await desk.absorb(once_more, "steer/2") == [[second, {"text": "b"}]]


async def test_where_nothing_was_said_nothing_is_recorded(desk: Any) -> None:
    claimed = await a_run(desk)
    before = await desk.dump()
    assert await desk.one(desk.absorbing(claimed)) == "[]"
    assert await desk.dump() == before
    said = await steer(desk, "a")
    assert await desk.absorb(claimed) == [[said, {"text": "a"}]]


async def test_what_is_for_others_is_left_alone(desk: Any) -> None:
    claimed = await a_run(desk)
    await steer(desk, "another conversation", "side")
    await steer(desk, "no conversation", None)
    await steer(desk, "another agent", queue="agent:bob")
    await steer(desk, "a question of its own", tags=("steering", "keep"))
    await steer(desk, "later", execute_after=desk.now + 9)
    held = await steer(desk, "held")
    await desk.pause(held)
    before = await desk.dump()
    assert await desk.absorb(claimed) == []
    assert await desk.dump() == before
    mine = await steer(desk, "mine", tags=("a", "steer"))
    assert await desk.absorb(claimed) == [[mine, {"text": "mine"}]]
    standing = {view.status for view in await desk.store.jobs() if view.id not in (mine, claimed.id)}
    assert standing == {"pending", "delayed", "paused"}


async def test_two_runs_take_in_what_is_theirs(desk: Any) -> None:
    main = await a_run(desk)
    side = await a_run(desk, "side")
    a, b = await steer(desk, "a"), await steer(desk, "b", "side")
    assert await desk.absorb(side, conversation="side") == [[b, {"text": "b"}]]
    assert await desk.absorb(main) == [[a, {"text": "a"}]]


async def test_whoever_lost_the_job_takes_nothing_in(desk: Any) -> None:
    claimed = await a_run(desk)
    said = await steer(desk, "a")
    once_more = await again(desk, claimed)
    before = await desk.dump()
    assert await desk.absorb(claimed) is None
    assert await desk.dump() == before
    assert await desk.absorb(once_more) == [[said, {"text": "a"}]]


async def test_what_waits_for_it_is_settled_as_for_any_that_is_cancelled(desk: Any) -> None:
    claimed = await a_run(desk)
    whole = await desk.start(queue="whole")
    said = await steer(desk, "a", limit_key="k", parent=whole.id)
    await desk.finish(whole, "waiting", "children")
    fallen, free = desk.child(said), desk.child(Edge(said, "run"))
    await desk.insert(fallen, free)
    busy = await desk.start(queue="busy", limit_key="k")
    parked = await desk.add(queue="busy", limit_key="k")
    assert await desk.claim(queue="busy") == ()
    await desk.finish(busy, "waiting", "signal", waits="x")
    assert await desk.status(parked) == ("pending", None)
    newest = await desk.newest()
    await desk.absorb(claimed)
    assert await desk.status(fallen.id) == ("cancelled", "dependency")
    assert await desk.status(free.id) == ("pending", None)
    assert await desk.status(whole.id) == ("pending", None)
    told = [(kind, subject) for kind, subject, _ in await desk.told(after=newest)]
    assert told == [("job.cancelled", said), ("job.cancelled", fallen.id), ("job.released", free.id)]


async def test_the_place_it_held_of_a_limit_goes_to_the_next(desk: Any) -> None:
    claimed = await a_run(desk)
    busy = await desk.start(queue="busy", limit_key="k")
    parked = await desk.add(queue="busy", limit_key="k")
    assert await desk.claim(queue="busy") == ()
    assert await desk.status(parked) == ("waiting", "limit")
    await desk.spoil(busy.id, limit_key=None)
    await steer(desk, "a", limit_key="k")
    await desk.absorb(claimed)
    assert await desk.status(parked) == ("pending", None)


async def test_the_moves_are_told(desk: Any) -> None:
    claimed = await a_run(desk)
    await steer(desk, "a")
    await steer(desk, "b")
    desk.heard.clear()
    await desk.absorb(claimed)
    assert [tuple(move[:5]) for move in desk.heard] == [(AGENT, "agent", "pending", "cancelled", 2)]


async def test_arguments_come_out_as_they_went_in(desk: Any) -> None:
    claimed = await a_run(desk)
    odd = {"text": '"\\ \n\u2028 \ud800', "n": 1.5, "none": None, "list": [[], {}]}
    said = await steer(desk, "", args=odd)
    assert await desk.absorb(claimed) == [[said, odd]]
    assert (await desk.view(claimed.id)).steps[0].output == [[said, odd]]


async def test_a_commit_that_fails_takes_nothing_in(desk: Any) -> None:
    claimed = await a_run(desk)
    await steer(desk, "a")
    before = await desk.dump()
    with pytest.raises(StoreError):
        await desk.store.commit([desk.absorbing(claimed), PutSetting("x", "{no")])
    assert await desk.dump() == before


async def test_what_was_taken_in_is_there_after_a_new_start(desk: Any) -> None:
    claimed = await a_run(desk)
    said = await steer(desk, "a")
    await desk.absorb(claimed)
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    assert await desk.absorb(claimed) == [[said, {"text": "a"}]]
    assert await desk.absorb(claimed, "steer/2") == []
