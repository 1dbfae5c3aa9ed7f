"""What people ask of the queue, and what they may rely on: whole or nothing, answers that are true, moves to the
millisecond.
"""

from itertools import pairwise
from typing import Any

import anyio
import pytest

from runtime.errors import (
    BatchInvalid,
    JobCycle,
    JobNotFound,
    KeyConflict,
    PayloadTooLarge,
    RequestInvalid,
    SignalRefused,
    UnknownKind,
    UnknownParent,
    problem,
)
from runtime.store import port
from schemas.jobs import (
    MAX_PAYLOAD,
    MAX_SIGNALS,
    Action,
    ActOnJobs,
    JobFilter,
    NewJob,
    OnFailure,
    Outcome,
    PauseJob,
    ResumeJob,
    RetryJob,
    SignalJob,
    SubmitJobs,
)

FAULT = problem("job.failed", "it broke")
BROKEN = Outcome(ok=False, error=FAULT, error_class="permanent")
TIMED_OUT = Outcome(ok=False, error=problem("job.timeout"), error_class="timeout")


async def well(s: Any) -> bool:
    """Tell whether memory is right and nothing had to be put right."""
    await s.caught_up()
    return bool(await s.counts() == await s.true_counts() and s.house.repairs == {})


async def nothing_in(s: Any, jobs: int = 0) -> None:
    """Assert that there are so many jobs and no trace of more."""
    assert await well(s)
    assert sum(count for of in (await s.true_counts()).values() for count in of.values()) == jobs
    assert len(await s.disk.jobs(limit=1000)) == jobs


def on(*jobs: str, policy: OnFailure = "cancel") -> dict[str, Any]:
    return {"depends_on": tuple({"job": job, "on_failure": policy} for job in jobs)}


# -- many at once ------------------------------------------------------------------------------------------------------


async def test_a_conflict_inside_keeps_all_out(stage: Any) -> None:
    async with stage() as s:
        older = await s.submit(key="k", args={"n": 1})
        with pytest.raises(KeyConflict) as caught:
            await s.submit_many({"ref": "a"}, {"key": "k", "args": {"n": 2}}, on("#a"))
        assert caught.value.data["job"] == older.id
        await nothing_in(s, jobs=1)


async def test_an_unknown_parent_inside_keeps_all_out(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(UnknownParent, match="nobody"):
            await s.submit_many({}, {"ref": "a"}, on("#a", "nobody"), {"parent": "nobody"})
        await nothing_in(s)


async def test_what_the_door_refuses_inside_keeps_all_out_and_is_named_by_its_place(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(UnknownKind, match="job 2"):
            await s.submit_many({}, {}, {"kind": "nothing"}, {})
        with pytest.raises(RequestInvalid, match="job 1"):
            await s.submit_many({}, {"kind": "sleep", "args": {"seconds": "x"}})
        with pytest.raises(PayloadTooLarge, match="job 1"):
            await s.submit_many({}, {"args": {"text": "x" * MAX_PAYLOAD}})
        await nothing_in(s)
        assert s.disk.written(port.InsertJobs) == []


async def test_a_key_that_is_known_with_the_same_arguments_brings_the_older_job_and_the_rest_goes_in(
    stage: Any,
) -> None:
    async with stage() as s:
        older = await s.submit(key="k", args={"n": 1})
        made = tuple(NewJob(kind="echo", **one) for one in ({}, {"key": "k", "args": {"n": 1}}, {"unique": "u"}))
        first, second, third = await s.ask(SubmitJobs(jobs=made))
        assert (second.id, second.existing) == (older.id, True)
        assert (first.existing, third.existing) == (False, False)
        await nothing_in(s, jobs=3)


async def test_refs_become_edges_and_parts_and_children_come_before_or_after_as_one_likes(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        old = (await s.submit(delay_ms=1000)).id
        last, middle, first = await s.submit_many(
            on("#m") | {"ref": "l", "parent": "#f"}, {"ref": "m"} | on("#f", old), {"ref": "f"}
        )
        view = await s.job(last)
        assert ([edge.job for edge in view.depends_on], view.parent) == ([middle], first)
        assert {edge.job for edge in (await s.job(middle)).depends_on} == {first, old}
        for count in range(1, 5):
            await hand.ends(await hand.takes(count))
        assert hand.has == [first, old, middle, last]
        assert await well(s)


async def test_what_waits_for_nobody_keeps_the_order_in_which_it_came(stage: Any) -> None:
    async with stage() as s:
        jobs = await s.submit_many(*({"ref": f"r{n}"} for n in range(20)))
        hand = await s.hand()
        for count in range(1, 21):
            await hand.ends(await hand.takes(count))
        assert hand.has == jobs


@pytest.mark.parametrize(
    ("jobs", "path"),
    [
        (({"ref": "a"} | on("#a"),), {"a"}),
        (({"ref": "a"} | on("#b"), {"ref": "b"} | on("#a")), {"a", "b"}),
        (({"ref": "a"} | on("#c"), {}, {"ref": "b"} | on("#a"), {"ref": "c"} | on("#b"), on("#a")), {"a", "b", "c"}),
        (({"ref": "a", "parent": "#b"}, {"ref": "b"} | on("#a")), {"a", "b"}),
    ],
)
async def test_a_cycle_is_told_with_its_path_and_nothing_goes_in(stage: Any, jobs: Any, path: set[str]) -> None:
    async with stage() as s:
        with pytest.raises(JobCycle) as caught:
            await s.submit_many(*jobs)
        told = caught.value.data["path"]
        assert (set(told), told[0]) == (path, told[-1])
        # Each of the path waits for the one before it, as an arrow is read.
        needs = {job.get("ref"): {edge["job"][1:] for edge in job.get("depends_on", ())} for job in jobs}
        parts = {job.get("ref"): {job.get("parent", "#")[1:]} for job in jobs}
        steps = list(pairwise(told))
        assert all(b in needs[a] | parts[a] for a, b in steps) or all(a in needs[b] | parts[b] for a, b in steps)
        await nothing_in(s)


@pytest.mark.parametrize(
    "jobs", [({"ref": "a"}, {}, {"ref": "a"}), ({"ref": "a"}, on("#b")), ({"ref": "a"}, on("#a", "#a"))]
)
async def test_refs_that_are_twice_or_missing_are_refused(stage: Any, jobs: Any) -> None:
    async with stage() as s:
        with pytest.raises(BatchInvalid):
            await s.submit_many(*jobs)
        await nothing_in(s)


async def test_a_whole_batch_is_refused_alone_and_what_came_with_it_goes_in(stage: Any) -> None:
    async with stage() as s:
        told: list[Any] = []

        async def submit(*jobs: dict[str, Any]) -> None:
            try:
                told.append(await s.submit_many(*jobs))
            except UnknownParent as error:
                told.append(error.data["job"])

        s.system.suspend("queue")
        async with anyio.create_task_group() as tasks:
            batches: tuple[tuple[dict[str, Any], ...], ...] = (({}, {}), ({}, on("nobody")), ({},))
            for jobs in batches:
                tasks.start_soon(submit, *jobs)
            await anyio.sleep(1)
            s.system.resume("queue")
        assert "nobody" in told
        await nothing_in(s, jobs=3)
        assert len([1 for changes in s.disk.commits if any(isinstance(c, port.InsertJobs) for c in changes)]) == 1


async def test_many_layers_drain_one_after_the_other(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        jobs = await s.submit_many(*(({"ref": f"j{n}"} | (on(f"#j{n - 1}") if n else {})) for n in range(300)))
        for count in range(1, 301):
            await hand.ends(await hand.takes(count))
        assert hand.has == jobs
        assert await well(s)


# -- one job -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [on("nobody"), {"parent": "nobody"}])
async def test_a_parent_that_nobody_knows_is_named(stage: Any, fields: dict[str, Any]) -> None:
    async with stage() as s:
        with pytest.raises(UnknownParent) as caught:
            await s.submit(**fields)
        assert caught.value.data == {"job": "nobody"}
        await nothing_in(s)


async def test_a_unique_word_is_free_again_when_its_job_has_ended_and_a_key_is_not(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        first = await s.submit(unique="u", key="k")
        again = await s.submit(unique="u", args={"other": 1})
        assert (again.id, again.existing) == (first.id, True)
        await hand.takes(1)
        assert (await s.submit(unique="u")).status == "active"
        await hand.ends(hand.taken[0])
        assert not (await s.submit(unique="u")).existing
        known = await s.submit(key="k")
        assert (known.id, known.existing, known.status) == (first.id, True, "completed")
        with pytest.raises(KeyConflict):
            await s.submit(key="k", args={"other": 1})
        assert not (await s.submit("sleep", key="k", args={"seconds": 1})).existing  # it is unique per kind
        await nothing_in(s, jobs=3)


async def test_whatever_holds_a_job_back_it_fails_at_its_deadline_to_the_millisecond(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        began = s.house.clock.now()
        signalled = (await s.submit(deadline_ms=8_000)).id
        await hand.ends(await hand.takes(1), Outcome(ok=False, waits="go"))
        await s.system.stop_child("hand")
        pending = (await s.submit(deadline_ms=5_000)).id
        delayed = (await s.submit(deadline_ms=7_000, delay_ms=3_600_000)).id
        parent, child = await s.submit_many({"ref": "a", "delay_ms": 3_600_000}, on("#a") | {"deadline_ms": 6_000})
        for job, after in ((pending, 5_000), (child, 6_000), (delayed, 7_000), (signalled, 8_000)):
            view = await s.until(job)
            assert (view.status, view.reason, view.attempts) == ("failed", "deadline", 0)
            assert (view.finished_at or 0) - began == after
        assert (await s.job(parent)).status == "delayed"
        assert await well(s)


async def test_a_job_that_nobody_takes_fails_at_its_deadline_and_what_depends_on_it_hears_of_it(stage: Any) -> None:
    async with stage() as s:
        began = s.house.clock.now()
        late, over, anyway = await s.submit_many(
            {"ref": "a", "deadline_ms": 5_000}, on("#a"), on("#a", policy="run") | {"queue": "other"}
        )
        assert ((await s.until(late)).finished_at or 0) - began == 5_000
        assert await s.stands(late) == ("failed", "deadline")
        assert await s.stands(over) == ("cancelled", "dependency")
        hand = await s.hand()
        assert hand.has == [anyway]
        assert await well(s)


async def test_a_running_job_whose_deadline_passes_fails_though_it_has_attempts_left(whole: Any) -> None:
    async with whole("[runtime]\npool = 2\nchild_pool = 1\n") as s:
        job = (await s.submit("sleep", args={"seconds": 60}, deadline_ms=5_000, max_attempts=5)).id
        began = s.house.clock.now()
        view = await s.until(job)
        assert (view.status, view.reason, view.attempts) == ("failed", "deadline", 1)
        assert (view.finished_at or 0) - began == 5_000
        assert await well(s)


async def test_an_attempt_that_fails_after_the_deadline_is_not_tried_again_and_a_good_one_counts(stage: Any) -> None:
    async with stage() as s:
        of = [await s.hand(f"hand-{n}") for n in range(2)]
        for _ in range(2):
            await s.submit(deadline_ms=5_000)
        await s.caught_up()
        await anyio.sleep(6)
        await of[0].ends(of[0].taken[0], TIMED_OUT)
        await of[1].ends(of[1].taken[0], result="late, and done")
        assert await s.stands(of[0].has[0]) == ("failed", "deadline")
        assert await s.stands(of[1].has[0]) == ("completed", None)
        assert await well(s)


async def test_a_retry_that_would_come_after_the_deadline_ends_at_the_deadline(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        began = s.house.clock.now()
        job = (await s.submit(deadline_ms=5_000)).id
        failed = Outcome(ok=False, error=FAULT, error_class="transient", retry_after_ms=60_000)
        await hand.ends(await hand.takes(1), failed)
        view = await s.until(job)
        assert (view.reason, (view.finished_at or 0) - began, view.error) == ("deadline", 5_000, FAULT)


async def test_a_job_starts_at_the_time_it_was_given_and_one_in_the_past_at_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        began = s.house.clock.now()
        later, past = await s.submit_many({"run_at": began + 90_000}, {"run_at": began - 90_000})
        await s.caught_up()
        assert hand.has == [past]
        await hand.ends(hand.taken[0])
        assert (await hand.takes(2)).id == later
        assert s.house.clock.now() - began == 90_000


# -- retried -----------------------------------------------------------------------------------------------------------


async def test_a_retry_alone_leaves_what_was_cancelled_over_it_and_opens_what_is_held(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        parent, gone, held = await s.submit_many({"ref": "a"}, on("#a"), on("#a", policy="hold"))
        await hand.ends(await hand.takes(1), BROKEN)
        assert [await s.stands(job) for job in (gone, held)] == [("cancelled", "dependency"), ("waiting", "deps")]
        await s.retry(parent)
        await hand.ends(await hand.takes(2))
        assert (await hand.takes(3)).id == held
        assert await s.stands(gone) == ("cancelled", "dependency")
        assert await well(s)


async def test_a_retry_with_dependants_brings_all_back_to_the_last_in_their_order(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        jobs = await s.submit_many({"ref": "a"}, {"ref": "b"} | on("#a"), {"ref": "c"} | on("#b"), on("#c", "#a"))
        await hand.ends(await hand.takes(1), BROKEN)
        assert (await s.counts())["default"] == {"failed": 1, "cancelled": 3}
        await s.ask(RetryJob(id=jobs[0], dependants=True))
        await s.caught_up()
        assert (await s.counts())["default"] == {"active": 1, "waiting": 3}
        for count in range(2, 6):
            await hand.ends(await hand.takes(count))
        assert hand.has[1:] == jobs
        assert await well(s)


# -- held --------------------------------------------------------------------------------------------------------------


async def test_a_held_job_is_passed_over_and_goes_on_where_it_would_stand_now(stage: Any) -> None:
    async with stage() as s:
        first, second = await s.submit_many({"ref": "a"}, {})
        child = (await s.submit(**on(first))).id
        delayed = (await s.submit(delay_ms=60_000)).id
        for job in (first, child, delayed):
            assert (await s.ask(PauseJob(id=job))).outcome == "paused"
            assert (await s.ask(PauseJob(id=job))).outcome == "unchanged"
        hand = await s.hand()
        await hand.ends(await hand.takes(1))
        await anyio.sleep(120)
        assert hand.has == [second]
        assert (await s.ask(ResumeJob(id=delayed))).status == "pending"
        assert (await s.ask(ResumeJob(id=child))).status == "waiting"
        await hand.ends(await hand.takes(2))
        assert (await s.ask(ResumeJob(id=first))).outcome == "resumed"
        await hand.ends(await hand.takes(3))
        assert (await hand.takes(4)).id == child
        assert hand.has == [second, delayed, first, child]
        assert (await s.ask(ResumeJob(id=child))).outcome == "unchanged"
        assert await well(s)


async def test_a_running_job_may_be_let_go_on_before_it_has_stopped(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        await hand.takes(1)
        assert (await s.ask(PauseJob(id=job))).outcome == "requested"
        assert (await s.job(job)).pause_requested
        assert (await s.ask(ResumeJob(id=job))).outcome == "resumed"
        assert not (await s.job(job)).pause_requested
        await hand.ends(hand.taken[0], Outcome(ok=False, error=FAULT, error_class="transient"))
        assert await s.stands(job) == ("delayed", "retry")
        await hand.takes(2)


async def test_a_running_job_that_was_to_be_held_does_not_run_again_when_it_fails_and_is_done_when_it_is(
    stage: Any,
) -> None:
    async with stage() as s:
        of = [await s.hand(f"hand-{n}") for n in range(2)]
        await s.submit_many({}, {})
        await s.caught_up()
        for hand in of:
            await s.ask(PauseJob(id=hand.has[0]))
        await of[0].ends(of[0].taken[0], Outcome(ok=False, error=FAULT, error_class="transient"))
        await of[1].ends(of[1].taken[0], result=1)
        assert await s.stands(of[0].has[0]) == ("paused", "user")
        assert await s.stands(of[1].has[0]) == ("completed", None)
        await anyio.sleep(600)
        assert [len(hand.taken) for hand in of] == [1, 1]
        assert await well(s)


async def test_a_job_that_is_held_by_a_failed_parent_goes_on_without_it(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        _, held = await s.submit_many({"ref": "a"}, on("#a", policy="hold"))
        await hand.ends(await hand.takes(1), BROKEN)
        assert (await s.ask(ResumeJob(id=held))).outcome == "resumed"
        assert (await hand.takes(2)).id == held
        assert await well(s)


# -- signals -----------------------------------------------------------------------------------------------------------


async def test_a_signal_that_comes_first_is_kept_for_the_job_that_will_wait_for_it(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        running = await hand.takes(1)
        assert (await s.ask(SignalJob(id=job, name="go", payload={"n": 1}))).status == "active"
        await hand.ends(running, Outcome(ok=False, waits="go"))
        again = await hand.takes(2)
        (taken,) = await s.disk.commit([port.TakeSignal(again, "go", "signal go", s.house.clock.now())])
        assert (taken.payload, again.attempt) == ('{"n":1}', 1)
        assert await well(s)


async def test_signals_beyond_what_is_kept_are_refused_and_so_are_those_for_what_has_ended(stage: Any) -> None:
    async with stage() as s:
        job = (await s.submit(delay_ms=3_600_000)).id
        for _ in range(MAX_SIGNALS):
            await s.ask(SignalJob(id=job, name="go"))
        with pytest.raises(SignalRefused, match="1000"):
            await s.ask(SignalJob(id=job, name="go"))
        await s.cancel(job)
        with pytest.raises(SignalRefused) as caught:
            await s.ask(SignalJob(id=job, name="go"))
        assert caught.value.data == {"status": "cancelled"}
        with pytest.raises(JobNotFound):
            await s.ask(SignalJob(id="nobody", name="go"))


# -- many by a filter --------------------------------------------------------------------------------------------------

ACTIONS: tuple[tuple[Action, str, str], ...] = (
    ("cancel", "pending", "cancelled"),
    ("pause", "pending", "paused"),
    ("resume", "paused", "pending"),
    ("retry", "cancelled", "pending"),
)


async def prepared(s: Any, status: str, count: int) -> list[str]:
    """Submit jobs that stand at *status* now; no hand is there to take them."""
    jobs = await s.submit_many(*({"tags": ("mine",)} for _ in range(count)))
    ask = {"cancelled": s.cancel, "paused": lambda job: s.ask(PauseJob(id=job))}.get(status)
    if ask is not None:
        for job in jobs:
            await ask(job)
    return list(jobs)


@pytest.mark.parametrize(("action", "before", "after"), ACTIONS)
async def test_an_action_reaches_all_that_the_filter_finds_and_nothing_else(
    stage: Any, action: Action, before: str, after: str
) -> None:
    async with stage() as s:
        await prepared(s, before, 5)
        other = (await s.submit(queue="other")).id
        where = JobFilter(tag="mine")
        dry = await s.ask(ActOnJobs(action=action, where=where, dry_run=True))
        assert (dry.matched, dry.done, dry.left, dry.more) == (5, 0, {}, False)
        assert (await s.counts())["default"] == {before: 5}
        acted = await s.ask(ActOnJobs(action=action, where=where))
        assert (acted.matched, acted.done, acted.left, acted.more) == (5, 5, {}, False)
        assert (await s.counts())["default"] == {after: 5}
        assert await s.stands(other) == ("pending", None)
        assert await well(s)


@pytest.mark.parametrize(("action", "before", "after"), ACTIONS)
async def test_an_action_stops_at_its_limit_with_the_newest_and_says_that_there_is_more(
    stage: Any, action: Action, before: str, after: str
) -> None:
    async with stage() as s:
        jobs = await prepared(s, before, 5)
        for limit, matched, more in ((3, 3, True), (5, 5, False), (6, 5, False)):
            dry = await s.ask(ActOnJobs(action=action, where=JobFilter(tag="mine"), limit=limit, dry_run=True))
            assert (dry.matched, dry.more) == (matched, more)
        acted = await s.ask(ActOnJobs(action=action, where=JobFilter(tag="mine"), limit=3))
        assert (acted.matched, acted.done, acted.more) == (3, 3, True)
        assert [(await s.job(job)).status for job in jobs] == [before] * 2 + [after] * 3


@pytest.mark.parametrize("limit", [500, 501, 999, 1000, 1001])
async def test_no_chunk_ends_a_limit_too_early_or_too_late(stage: Any, limit: int) -> None:
    async with stage() as s:
        await s.submit_many(*({} for _ in range(1000)))
        acted = await s.ask(ActOnJobs(action="cancel", limit=limit))
        found = min(limit, 1000)
        assert (acted.matched, acted.done, acted.more) == (found, found, limit < 1000)
        assert (await s.true_counts())["default"].get("cancelled") == found


@pytest.mark.parametrize(
    ("action", "done", "left"),
    [
        ("cancel", 4, {"completed": 1, "failed": 1}),
        ("pause", 3, {"completed": 1, "failed": 1, "paused": 1}),
        ("resume", 1, {"completed": 1, "failed": 1, "active": 1, "pending": 1, "delayed": 1}),
        ("retry", 1, {"completed": 1, "active": 1, "pending": 1, "delayed": 1, "paused": 1}),
    ],
)
async def test_what_an_action_leaves_is_told_by_where_it_stands(
    stage: Any, action: Action, done: int, left: dict[str, int]
) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        await hand.ends(await hand.takes(1))
        await s.submit()
        await hand.ends(await hand.takes(2), BROKEN)
        await s.submit()
        await hand.takes(3)
        _, _, held = await s.submit_many({}, {"delay_ms": 3_600_000}, {})
        await s.ask(PauseJob(id=held))
        acted = await s.ask(ActOnJobs(action=action))
        assert (acted.matched, acted.done, acted.left) == (6, done, left)
        assert await well(s)


async def test_a_running_job_among_many_is_told_to_end(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        running = await hand.takes(1)
        with s.house.board.running(running.lease) as attempt:
            assert (await s.ask(ActOnJobs(action="cancel"))).done == 1
            await anyio.sleep_forever()
        assert attempt.cancelled


async def test_many_are_taken_back_with_their_dependants(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit_many({"ref": "a"}, {"ref": "b"} | on("#a"), on("#b"))
        await hand.ends(await hand.takes(1), BROKEN)
        where = JobFilter(status="failed")
        acted = await s.ask(ActOnJobs(action="retry", where=where, dependants=True))
        assert (acted.matched, acted.done) == (1, 1)
        for count in range(2, 5):
            await hand.ends(await hand.takes(count))
        assert (await s.counts())["default"]["completed"] == 3
        assert await well(s)
