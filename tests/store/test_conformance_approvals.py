"""Every store: approvals. A person is asked once, answers once, and what was allowed is used once."""

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime.errors import ApprovalInvalid, LeaseLost, StoreError
from runtime.store.memory import running
from runtime.store.port import (
    AnswerApproval,
    ApprovalRow,
    DeleteEnded,
    GrantRow,
    PutSetting,
    RecoverJobs,
    RevokeGrant,
)
from runtime.store.sqlite import steps
from tests.store.agents_desk import HOUR


async def a_run(desk: Any) -> Any:
    """Start a turn of the agent."""
    return await desk.start(desk.talk())


async def again(desk: Any, claimed: Any) -> Any:
    """Have the run go on as another attempt."""
    await desk.one(RecoverJobs(boot=desk.boot, now=desk.now, worker="w1"))
    (once_more,) = await desk.claim_talk()
    assert once_more.id == claimed.id
    return once_more


def bare(told: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(kind, data) for kind, _, data in told]


# -- asked -------------------------------------------------------------------------------------------------------------


async def test_a_question_is_kept_as_it_was_asked_and_told(desk: Any) -> None:
    claimed = await a_run(desk)
    newest = await desk.newest()
    row = await desk.ask(claimed, "tool/1.1")
    assert row == ApprovalRow(
        id=row.id,
        agent="ada",
        job=claimed.id,
        conversation="main",
        step="tool/1.1",
        tool="shell",
        arguments='{"a":1}',
        digest="d1",
        why="it asks each time",
        status="pending",
        asked_at=desk.now,
        expires_at=desk.now + HOUR,
    )
    assert await desk.approval(row) == row
    about = {"agent": "ada", "tool": "shell", "run": claimed.id}
    assert await desk.told(after=newest) == [("approval.asked", row.id, about)]


async def test_a_step_asks_once_whoever_asks_again(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    once_more = await again(desk, claimed)
    before = await desk.dump()
    desk.now += 5
    assert await desk.ask(once_more, arguments='{"a":2}', digest="d2") == row
    assert await desk.dump() == before
    _, answered = await desk.answer(row, allow=False, reason="no")
    assert await desk.ask(once_more) == answered


async def test_other_steps_and_other_runs_ask_for_themselves(desk: Any) -> None:
    claimed, other = await a_run(desk), await desk.start(queue="other")
    rows = [await desk.ask(claimed, "a"), await desk.ask(claimed, "b"), await desk.ask(other, "a")]
    assert len({row.id for row in rows}) == 3
    assert [row.job for row in rows] == [claimed.id, claimed.id, other.id]


async def test_a_question_has_an_id_of_its_own_and_arguments_that_are_json(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed, "a")
    before = await desk.dump()
    for wrong in ({"id": row.id}, {"arguments": "{no"}):
        with pytest.raises(StoreError):
            await desk.ask(claimed, "b", **wrong)
    assert await desk.dump() == before


async def test_whoever_lost_the_job_asks_nobody(desk: Any) -> None:
    claimed = await a_run(desk)
    await again(desk, claimed)
    before = await desk.dump()
    assert await desk.ask(claimed) is None
    assert await desk.dump() == before


# -- answered ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allow", [True, False])
async def test_an_answer_is_kept_told_and_wakes_the_run(desk: Any, allow: bool) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    signal = f"approval/{row.id}"
    await desk.finish(claimed, "waiting", "signal", waits=signal, wait_until=row.expires_at, refund=True)
    newest = await desk.newest()
    desk.now += 10
    mine, answered = await desk.answer(row, allow, reason="well")
    word = "allowed" if allow else "denied"
    assert mine is True
    assert answered == replace(row, status=word, answered_at=desk.now, answered_by="me", reason="well")
    assert await desk.approval(row) == answered
    assert await desk.status(claimed.id) == ("pending", None)
    about = {"agent": "ada", "tool": "shell", "run": claimed.id, "by": "me"}
    told = [(f"approval.{word}", row.id, about), ("job.signalled", claimed.id, {"signal": signal})]
    assert await desk.told(after=newest) == told
    (once_more,) = await desk.claim_talk()
    assert (once_more.id, once_more.epoch) == (claimed.id, claimed.epoch + 1)


async def test_a_run_that_is_told_before_it_waits_does_not_wait(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    await desk.answer(row)
    finished = await desk.finish(claimed, "waiting", "signal", waits=f"approval/{row.id}", wait_until=row.expires_at)
    assert finished.status == "pending"


async def test_a_run_that_waits_for_something_else_goes_on_waiting(desk: Any) -> None:
    claimed = await a_run(desk)
    row, other = await desk.ask(claimed, "a"), await desk.ask(claimed, "b")
    await desk.finish(claimed, "waiting", "signal", waits=f"approval/{other.id}")
    assert (await desk.answer(row))[0] is True
    assert await desk.status(claimed.id) == ("waiting", "signal")


async def test_an_answer_arrives_however_many_signals_wait(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (running, steps):
        monkeypatch.setattr(module, "MAX_SIGNALS", 2)
    claimed = await a_run(desk)
    for _ in range(2):
        assert (await desk.signal(claimed.id, "noise")).kept
    row = await desk.ask(claimed)
    await desk.finish(claimed, "waiting", "signal", waits=f"approval/{row.id}")
    assert (await desk.answer(row))[0] is True
    assert await desk.status(claimed.id) == ("pending", None)


@pytest.mark.parametrize("first", [True, False])
async def test_the_first_answer_counts(desk: Any, first: bool) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    _, answered = await desk.answer(row, first)
    before = await desk.dump()
    desk.now += 1
    assert await desk.answer(row, not first, by="somebody", always=True, arguments="{}", digest="d") == (
        False,
        answered,
    )
    assert await desk.dump() == before


async def test_nobody_answers_a_question_that_is_not_there(desk: Any) -> None:
    before = await desk.dump()
    assert await desk.one(AnswerApproval("nothing", True, now=desk.now, by="me")) is None
    assert await desk.dump() == before


async def test_a_question_can_be_answered_until_it_expires_and_not_at_that_moment(desk: Any) -> None:
    claimed = await a_run(desk)
    early, late = await desk.ask(claimed, "a"), await desk.ask(claimed, "b")
    desk.now = early.expires_at - 1
    assert (await desk.answer(early))[0] is True
    desk.now = late.expires_at
    newest = await desk.newest()
    assert await desk.answer(late, always=True) == (False, replace(late, status="expired"))
    assert await desk.approval(late) == replace(late, status="expired")
    about = {"agent": "ada", "tool": "shell", "run": claimed.id, "status": "expired"}
    assert await desk.told(after=newest) == [("approval.expired", late.id, about)]
    assert await desk.store.grants() == ()
    assert await desk.answer(late) == (False, replace(late, status="expired"))


async def test_a_question_whose_run_has_ended_is_void(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    await desk.finish(claimed, "completed")
    assert await desk.answer(row, always=True) == (False, replace(row, status="void"))
    assert await desk.store.grants() == ()


# -- edited, and for good ----------------------------------------------------------------------------------------------


async def test_a_person_puts_other_arguments_in_place(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    _, answered = await desk.answer(row, arguments='{"a":2}', digest="d2")
    assert answered == replace(
        row, status="allowed", answered_at=desk.now, answered_by="me", edited='{"a":2}', edited_digest="d2"
    )
    before = await desk.dump()
    with pytest.raises(ApprovalInvalid, match="other arguments"):
        await desk.use(claimed, answered, digest="d1")
    assert await desk.dump() == before
    await desk.use(claimed, answered, digest="d2")
    assert (await desk.approval(row)).status == "used"


@pytest.mark.parametrize("wrong", [{"arguments": "{no", "digest": "d2"}, {"arguments": "{}", "digest": None}])
async def test_arguments_that_cannot_be_bound_are_refused(desk: Any, wrong: dict[str, Any]) -> None:
    row = await desk.ask(await a_run(desk))
    before = await desk.dump()
    with pytest.raises(StoreError):
        await desk.answer(row, **wrong)
    assert await desk.dump() == before


async def test_what_is_denied_is_neither_edited_nor_granted(desk: Any) -> None:
    row = await desk.ask(await a_run(desk))
    _, answered = await desk.answer(row, allow=False, arguments='{"a":2}', digest="d2", always=True)
    assert (answered.status, answered.edited, answered.edited_digest, answered.always) == ("denied", None, None, False)
    assert await desk.store.grants() == ()


async def test_always_grants_the_very_call_that_was_allowed(desk: Any) -> None:
    claimed = await a_run(desk)
    plain, edited = await desk.ask(claimed, "a"), await desk.ask(claimed, "b", agent="bob", tool="fetch")
    _, answered = await desk.answer(plain, always=True)
    assert answered.always is True
    desk.now += 1
    await desk.answer(edited, always=True, arguments='{"a":2}', digest="d2", by="you")
    mine = GrantRow("ada", "shell", "d1", '{"a":1}', "me", desk.now - 1)
    yours = GrantRow("bob", "fetch", "d2", '{"a":2}', "you", desk.now)
    assert await desk.store.grants() == (mine, yours)
    assert await desk.store.grants("ada") == (mine,)
    assert await desk.store.grants("bob") == (yours,)
    assert await desk.store.grants("eve") == ()


async def test_grants_are_told_by_agent_tool_and_time_and_given_again(desk: Any) -> None:
    claimed = await a_run(desk)
    calls = [("bob", "b", "1"), ("ada", "b", "2"), ("ada", "b", "1"), ("ada", "a", "3"), ("ada", "b", "2")]
    for n, (agent, tool, digest) in enumerate(calls):
        desk.now += 1
        await desk.answer(await desk.ask(claimed, f"s{n}", agent=agent, tool=tool, digest=digest), always=True)
    told = [(row.agent, row.tool, row.digest) for row in await desk.store.grants()]
    assert told == [("ada", "a", "3"), ("ada", "b", "1"), ("ada", "b", "2"), ("bob", "b", "1")]
    assert (await desk.store.grants())[2].at == desk.now


async def test_a_grant_is_taken_back_once(desk: Any) -> None:
    claimed = await a_run(desk)
    await desk.answer(await desk.ask(claimed), always=True)
    for other in (RevokeGrant("bob", "shell", "d1"), RevokeGrant("ada", "x", "d1"), RevokeGrant("ada", "shell", "d")):
        assert await desk.one(other) is False
    assert len(await desk.store.grants()) == 1
    assert await desk.one(RevokeGrant("ada", "shell", "d1")) is True
    assert await desk.one(RevokeGrant("ada", "shell", "d1")) is False
    assert await desk.store.grants() == ()


# -- used --------------------------------------------------------------------------------------------------------------


async def test_what_was_allowed_is_used_and_told_once(desk: Any) -> None:
    claimed = await a_run(desk)
    _, row = await desk.answer(await desk.ask(claimed))
    newest = await desk.newest()
    await desk.use(claimed, row)
    assert await desk.approval(row) == replace(row, status="used")
    about = {"agent": "ada", "tool": "shell", "run": claimed.id}
    assert await desk.told(after=newest) == [("approval.used", row.id, about)]


async def test_the_same_call_may_use_it_again_at_any_time(desk: Any) -> None:
    claimed = await a_run(desk)
    _, row = await desk.answer(await desk.ask(claimed))
    await desk.use(claimed, row)
    once_more = await again(desk, claimed)
    before = await desk.dump()
    desk.now = row.expires_at + 1
    await desk.use(once_more, row)
    assert await desk.dump() == before
    with pytest.raises(ApprovalInvalid, match="other arguments"):
        await desk.use(once_more, row, digest="d2")


async def test_another_call_may_not_use_it(desk: Any) -> None:
    claimed, other = await a_run(desk), await desk.start(queue="other")
    _, row = await desk.answer(await desk.ask(claimed))
    for status in ("allowed", "used"):
        assert (await desk.approval(row)).status == status
        before = await desk.dump()
        for use in (desk.using(other, row), desk.using(claimed, row, step="ask/2")):
            with pytest.raises(ApprovalInvalid, match="another call"):
                await desk.one(use)
        with pytest.raises(ApprovalInvalid, match="another tool"):
            await desk.use(claimed, row, tool="other")
        assert await desk.dump() == before
        await desk.use(claimed, row)


@pytest.mark.parametrize("answer", [None, False, "late", "void"])
async def test_what_was_not_allowed_is_not_used(desk: Any, answer: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    if answer is False:
        await desk.answer(row, allow=False)
    elif answer == "late":
        desk.now = row.expires_at
        await desk.answer(row)
    elif answer == "void":
        await desk.finish(claimed, "failed", "permanent")
        await desk.expire()
        await desk.retry(claimed.id)
        (claimed,) = await desk.claim_talk()
    before = await desk.dump()
    with pytest.raises(ApprovalInvalid, match=r"it is (pending|denied|expired|void)"):
        await desk.use(claimed, row)
    assert await desk.dump() == before


async def test_what_was_allowed_expires_all_the_same(desk: Any) -> None:
    claimed = await a_run(desk)
    _, row = await desk.answer(await desk.ask(claimed))
    _, other = await desk.answer(await desk.ask(claimed, "other"))
    desk.now = row.expires_at - 1
    await desk.use(claimed, row)
    desk.now = row.expires_at
    with pytest.raises(ApprovalInvalid, match="expired"):
        await desk.use(claimed, other)
    with pytest.raises(ApprovalInvalid, match="none of this id"):
        await desk.use(claimed, replace(row, id="nothing"))


async def test_a_use_that_is_refused_takes_the_whole_commit_back(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    before = await desk.dump()
    with pytest.raises(ApprovalInvalid):
        await desk.store.commit([PutSetting("before", "1"), desk.using(claimed, row), PutSetting("after", "1")])
    assert await desk.dump() == before


async def test_whoever_lost_the_job_uses_nothing_and_has_its_commit_taken_back(desk: Any) -> None:
    claimed = await a_run(desk)
    _, row = await desk.answer(await desk.ask(claimed))
    await again(desk, claimed)
    before = await desk.dump()
    with pytest.raises(LeaseLost):
        await desk.store.commit([PutSetting("before", "1"), desk.using(claimed, row)])
    assert await desk.dump() == before


# -- over --------------------------------------------------------------------------------------------------------------


async def test_what_nobody_can_answer_any_more_says_so(desk: Any) -> None:
    claimed, ended = await a_run(desk), await desk.start(queue="other")
    late, open_, void = await desk.ask(claimed, "a"), None, await desk.ask(ended, expires_at=desk.now + 9 * HOUR)
    _, allowed = await desk.answer(await desk.ask(claimed, "b"))
    desk.now += 1
    open_ = await desk.ask(claimed, "c")
    await desk.finish(ended, "failed", "permanent")
    newest = await desk.newest()
    desk.now = late.expires_at
    assert await desk.expire() == (late.id, void.id)
    rows = [await desk.approval(row) for row in (late, void, allowed, open_)]
    assert rows == [replace(late, status="expired"), replace(void, status="void"), allowed, open_]
    about = {"agent": "ada", "tool": "shell"}
    assert await desk.told(after=newest) == [
        ("approval.expired", late.id, {**about, "run": claimed.id, "status": "expired"}),
        ("approval.expired", void.id, {**about, "run": ended.id, "status": "void"}),
    ]
    before = await desk.dump()
    assert await desk.expire() == ()
    assert await desk.dump() == before


async def test_a_run_that_waits_for_an_answer_goes_on_when_the_question_expires(desk: Any) -> None:
    claimed = await a_run(desk)
    row = await desk.ask(claimed)
    await desk.finish(claimed, "waiting", "signal", waits=f"approval/{row.id}", wait_until=row.expires_at)
    assert await desk.store.next_due() == row.expires_at
    desk.now = row.expires_at
    assert await desk.expire() == (row.id,)
    assert await desk.status(claimed.id) == ("waiting", "signal"), "its own time wakes it"


# -- read --------------------------------------------------------------------------------------------------------------


async def test_approvals_are_told_newest_first_and_by_what_is_asked_of_them(desk: Any) -> None:
    claimed, other = await a_run(desk), await desk.start(queue="other")
    rows = []
    for n, (fence, agent) in enumerate([(claimed, "ada"), (other, "bob"), (claimed, "bob"), (other, "ada")]):
        desk.now += 1
        rows.append(await desk.ask(fence, f"s{n}", agent=agent))
    _, allowed = await desk.answer(rows[0])
    a, b, c, d = allowed, *rows[1:]
    read = desk.store.approvals
    assert await read() == (d, c, b, a)
    assert await read(limit=2) == (d, c)
    assert await read(status="pending") == (d, c, b)
    assert await read(status="pending", limit=1) == (d,)
    assert await read(status="allowed") == (a,)
    assert await read(status="denied") == ()
    assert await read(agent="bob") == (c, b)
    assert await read(job=claimed.id) == (c, a)
    assert await read(job=claimed.id, agent="ada", status="allowed") == (a,)
    assert await read(job=claimed.id, agent="bob", status="pending") == (c,)
    assert await read(job="nothing") == ()
    assert await desk.store.approval("nothing") is None


async def test_approvals_go_with_their_job(desk: Any) -> None:
    claimed, other = await a_run(desk), await desk.start(queue="other")
    row, kept = await desk.ask(claimed), await desk.ask(other)
    await desk.finish(claimed, "completed")
    assert await desk.one(DeleteEnded("completed", None, before=desk.now + 1, keep=None)) == 1
    assert await desk.store.approvals() == (kept,)
    assert await desk.store.approval(row.id) is None


async def test_approvals_and_grants_are_there_after_a_new_start(desk: Any) -> None:
    claimed = await a_run(desk)
    await desk.ask(claimed, "a")
    await desk.answer(await desk.ask(claimed, "b"), always=True, arguments=json.dumps({"ü": 1}), digest="d2")
    await desk.finish(claimed, "waiting", "signal", waits="approval/x", refund=True)
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    rows = await desk.store.approvals()
    assert [row.status for row in rows] == ["allowed", "pending"]
    assert rows[0].always is True
    assert await desk.status(claimed.id) == ("waiting", "signal")
    assert (await desk.answer(rows[1]))[0] is True
