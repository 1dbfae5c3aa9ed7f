"""The queue with workers played by the test: taking in, handing out, ending, trying again, cancelling; times are
exact.
"""

import json
from dataclasses import replace
from typing import Any

import anyio
import pytest

from runtime.errors import JobNotFound, KeyConflict, NotRetryable, RequestInvalid, UnknownKind, problem
from runtime.store import port
from schemas.jobs import JobLogged, JobProcess, JobProgress, JobSettled, Outcome

FAULT = problem("job.failed", "it broke")
STEADY = """
    [kinds.resize]
    run = "jobs:resize"
    in_loop = true
    retry = { base = "2s", factor = 3.0, max = "10s", jitter = 0.0 }
    max_attempts = 4
"""
ADA = '[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n'


def failed(kind: Any = "transient", **fields: Any) -> Outcome:
    return Outcome(ok=False, error=FAULT, error_class=kind, **fields)


async def same_counts(s: Any) -> bool:
    return await s.counts() == await s.true_counts()


# -- taking in ---------------------------------------------------------------------------------------------------------


async def test_a_job_is_on_the_disk_when_its_submitter_hears_of_it(stage: Any) -> None:
    async with stage() as s:
        submitted = await s.submit(args={"n": 1}, data={"why": "test"})
        view = await s.job(submitted.id)
        assert (submitted.status, submitted.existing) == ("pending", False)
        assert (view.status, view.payload, view.data, view.name) == ("pending", {"n": 1}, {"why": "test"}, "echo")
        assert await same_counts(s)


async def test_what_the_door_refuses_reaches_no_disk(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(UnknownKind):
            await s.submit("nothing")
        with pytest.raises(RequestInvalid):
            await s.submit("sleep", args={"seconds": "x"})
        assert s.disk.written(port.InsertJobs) == []


async def test_jobs_that_come_together_are_one_commit(stage: Any) -> None:
    async with stage() as s, anyio.create_task_group() as tasks:
        s.disk.takes = 0.1
        for _ in range(50):
            tasks.start_soon(s.submit)
        await anyio.sleep(0.35)
        inserts = s.disk.written(port.InsertJobs)
        assert sum(len(change.jobs) for change in inserts) == 50
        assert len(inserts) <= 2


async def test_a_known_key_yields_the_older_job(stage: Any) -> None:
    async with stage() as s:
        first = await s.submit(args={"n": 1}, key="k")
        again = await s.submit(args={"n": 1}, key="k")
        assert (again.id, again.existing, again.status) == (first.id, True, "pending")
        assert await s.counts() == {"default": {"pending": 1}}


async def test_a_known_key_with_other_arguments_is_a_conflict(stage: Any) -> None:
    async with stage() as s:
        first = await s.submit(args={"n": 1}, key="k")
        with pytest.raises(KeyConflict) as caught:
            await s.submit(args={"n": 2}, key="k")
        assert caught.value.data["job"] == first.id
        assert await same_counts(s)


async def test_one_key_submitted_twice_at_once_is_one_job(stage: Any) -> None:
    async with stage() as s:
        found: list[Any] = []

        async def submit() -> None:
            found.append(await s.submit(key="k"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(submit)
            tasks.start_soon(submit)
        assert sorted(one.existing for one in found) == [False, True]
        assert await s.counts() == {"default": {"pending": 1}}


async def test_a_bad_submission_does_not_touch_the_others_of_its_batch(stage: Any) -> None:
    async with stage() as s:
        ids: list[str] = []

        async def good() -> None:
            ids.append((await s.submit()).id)

        async def bad() -> None:
            with pytest.raises(UnknownKind):
                await s.submit("nothing")

        async with anyio.create_task_group() as tasks:
            for one in (good, bad, good, bad, good):
                tasks.start_soon(one)
        assert len(set(ids)) == 3


# -- handing out -------------------------------------------------------------------------------------------------------


async def test_a_worker_is_told_all_it_needs(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit(args={"n": 1}, timeout_ms=900)
        job = await hand.takes(1)
        assert (job.lease.id, job.lease.epoch, job.lease.worker, job.lease.boot) == (submitted.id, 1, "hand", "boot-1")
        assert (job.kind, job.queue, job.lane, json.loads(job.args)) == ("echo", "default", "loop", {"n": 1})
        assert (job.attempt, job.max_attempts, job.timeout_ms, job.suspect) == (1, 3, 900, False)
        assert await s.counts() == await s.true_counts() == {"default": {"active": 1}}
        assert s.house.workers == {"hand": 1}


async def test_a_job_that_waited_is_taken_by_the_first_worker_that_comes(stage: Any) -> None:
    async with stage() as s:
        submitted = await s.submit()
        hand = await s.hand()
        assert (await hand.takes(1)).lease.id == submitted.id


async def test_a_worker_holds_as_many_jobs_as_it_has_room_for(stage: Any) -> None:
    async with stage() as s:
        one, two = await s.hand("one"), await s.hand("two")
        ids = [(await s.submit()).id for _ in range(3)]
        await s.caught_up()
        assert (len(one.has), len(two.has)) == (1, 1)
        await one.ends(one.taken[0])
        assert sorted(one.has + two.has) == sorted(ids)
        assert await same_counts(s)


async def test_a_lane_has_workers_of_its_own(stage: Any) -> None:
    async with stage() as s:
        child = await s.hand("child", lane="child")
        await s.submit()
        shell = await s.submit("shell", args={"argv": ["true"]})
        await s.caught_up()
        assert child.has == [shell.id]
        loop = await s.hand("loop")
        assert len(loop.has) == 1


async def test_the_urgent_go_first_and_equals_in_the_order_they_came(stage: Any) -> None:
    async with stage() as s:
        ids = {p: (await s.submit(priority=p)).id for p in (100, 300, 0, 200)}
        more = (await s.submit(priority=100)).id
        hand = await s.hand()
        for count in range(1, 6):
            await hand.ends(await hand.takes(count))
        assert hand.has == [ids[0], ids[100], more, ids[200], ids[300]]


async def test_finishing_and_the_next_claim_are_one_commit(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        for _ in range(2):
            await s.submit()
        await hand.ends(await hand.takes(1))
        kinds = [{type(change) for change in changes} for changes in s.disk.commits]
        assert any(kind >= {port.FinishJobs, port.ClaimJobs} for kind in kinds)


async def test_queues_take_turns_to_be_first(stage: Any) -> None:
    async with stage() as s:
        for _ in range(6):
            await s.submit(queue="a")
            await s.submit(queue="b")
        hand = await s.hand()
        for count in range(1, 7):
            await hand.ends(await hand.takes(count))
        assert {job.queue for job in hand.taken[:3]} == {"a", "b"}


async def test_an_idle_queue_writes_nothing_but_heartbeats(stage: Any) -> None:
    async with stage() as s:
        await s.hand()
        before = len(s.disk.commits)
        await anyio.sleep(60)
        changes = {type(change) for changes in s.disk.commits[before:] for change in changes}
        assert changes - {port.DeleteEnded} == {port.Heartbeat, port.RepairJobs}


# -- limits of a queue -------------------------------------------------------------------------------------------------


async def test_a_queue_runs_no_more_at_once_than_it_may(stage: Any) -> None:
    async with stage("[queues.default]\nmax_active = 2") as s:
        hands = [await s.hand(f"hand-{n}") for n in range(4)]
        for _ in range(5):
            await s.submit()
        await s.caught_up()
        assert (await s.counts())["default"] == {"active": 2, "pending": 3}
        busy = next(hand for hand in hands if hand.taken)
        await busy.ends(busy.taken[0])
        assert (await s.counts())["default"] == {"active": 2, "pending": 2, "completed": 1}
        assert await same_counts(s)


async def test_the_limit_of_a_queue_holds_over_its_lanes_together(stage: Any) -> None:
    async with stage("[queues.default]\nmax_active = 1") as s:
        await s.submit()
        await s.submit("shell", args={"argv": ["true"]})
        loop, child = await s.hand("loop"), await s.hand("child", lane="child")
        await s.caught_up()
        assert len(loop.has + child.has) == 1
        busy = loop if loop.has else child
        await busy.ends(busy.taken[0])
        assert len(loop.has + child.has) == 2


async def test_both_lanes_of_a_full_queue_may_not_claim_in_one_go(stage: Any) -> None:
    async with stage("[queues.default]\nmax_active = 1") as s:
        loop, child = await s.hand("loop"), await s.hand("child", lane="child")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.submit)
            tasks.start_soon(lambda: s.submit("shell", args={"argv": ["true"]}))
        await s.caught_up()
        assert len(loop.has + child.has) == 1


async def test_nothing_of_a_paused_queue_starts(stage: Any) -> None:
    async with stage("[queues.slow]\npaused = true") as s:
        hand = await s.hand()
        held, free = await s.submit(queue="slow"), await s.submit()
        await s.caught_up()
        assert hand.has == [free.id]
        await hand.ends(hand.taken[0])
        await anyio.sleep(120)
        assert await s.stands(held.id) == ("pending", None)


async def test_a_paused_queue_does_not_keep_the_daemon_busy(stage: Any) -> None:
    async with stage("[queues.slow]\npaused = true") as s:
        await s.hand()
        await s.submit(queue="slow")
        await s.caught_up()
        before = len(s.disk.written(port.ClaimJobs))
        await anyio.sleep(60)
        assert len(s.disk.written(port.ClaimJobs)) - before <= 60 // 15 + 1


# -- ending ------------------------------------------------------------------------------------------------------------


async def test_a_result_is_kept(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        await hand.ends(await hand.takes(1), result={"n": [1, "é"]})
        view = await s.job(submitted.id)
        assert (view.status, view.result, view.attempts) == ("completed", {"n": [1, "é"]}, 1)
        assert [one.outcome for one in view.history] == ["completed"]
        assert s.house.workers == {"hand": 0}
        assert await same_counts(s)


@pytest.mark.parametrize(
    "result",
    [object(), {1, 2}, b"bytes", float("nan"), {"deep": float("inf")}, "\ud800", {"k": "\udfff"}, {(1, 2): 3}],
    ids=["object", "set", "bytes", "nan", "inf", "surrogate", "deep-surrogate", "tuple-key"],
)
async def test_a_result_that_is_no_json_fails_its_job_and_nothing_else(stage: Any, result: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        bad = await s.submit()
        await hand.ends(await hand.takes(1), result=result)
        good = await s.submit()
        await hand.ends(await hand.takes(2), result="fine")
        assert await s.stands(bad.id) == ("failed", "permanent")
        assert (await s.job(good.id)).result == "fine"
        assert s.heard("actor.crashed") == []


async def test_a_failure_is_tried_again_when_its_wait_is_over_to_the_millisecond(stage: Any) -> None:
    async with stage(STEADY) as s:
        hand = await s.hand()
        submitted = await s.submit("resize")
        for attempt, wait in ((1, 2_000), (2, 6_000), (3, 10_000)):
            job = await hand.takes(attempt)
            assert (job.attempt, job.lease.epoch) == (attempt, attempt)
            now = s.house.clock.now()
            await hand.ends(job, failed())
            view = await s.job(submitted.id)
            assert (view.status, view.reason, view.execute_after) == ("delayed", "retry", now + wait)
            await anyio.sleep((wait - 1) / 1000)
            assert len(hand.taken) == attempt
            await anyio.sleep(0.001)
            await s.caught_up()
        await hand.ends(await hand.takes(4), failed())
        view = await s.job(submitted.id)
        assert (view.status, view.reason, view.attempts) == ("failed", "exhausted", 4)
        assert [one.outcome for one in view.history] == ["retry", "retry", "retry", "failed"]
        assert view.error is not None
        assert view.error.detail == "it broke"
        assert await same_counts(s)


async def test_a_rate_limit_waits_as_told_and_costs_no_attempt(stage: Any) -> None:
    async with stage(STEADY) as s:
        hand = await s.hand()
        submitted = await s.submit("resize")
        for count in (1, 2, 3):
            began = s.house.clock.now()
            await hand.ends(await hand.takes(count), failed("rate_limited", retry_after_ms=30_000))
            assert await s.stands(submitted.id) == ("delayed", "rate_limit")
            assert (await hand.takes(count + 1)).attempt == 1
            assert s.house.clock.now() - began == 30_000
        assert (await s.job(submitted.id)).attempts == 1


async def test_a_snooze_waits_as_told_and_costs_no_attempt(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        await hand.ends(await hand.takes(1), Outcome(ok=False, snooze=True, retry_after_ms=5_000))
        assert await s.stands(submitted.id) == ("delayed", "snooze")
        began = s.house.clock.now()
        assert (await hand.takes(2)).attempt == 1
        assert s.house.clock.now() - began == 5_000


async def test_an_end_is_told_by_who_holds_the_lease_and_nobody_else(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        for change in ({"epoch": 7}, {"worker": "other"}, {"id": "other"}):
            forged = replace(job, **change)
            await hand.ends(forged, result="forged")
        assert (await s.job(submitted.id)).status == "active"
        await hand.ends(job, result="true")
        await hand.ends(job, result="once more")
        assert (await s.job(submitted.id)).result == "true"
        assert await same_counts(s)


# -- time --------------------------------------------------------------------------------------------------------------


async def test_a_delayed_job_starts_when_it_is_due_to_the_millisecond(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        late, soon = await s.submit(delay_ms=7_000), await s.submit(delay_ms=2_500)
        assert (late.status, soon.status) == ("delayed", "delayed")
        began = s.house.clock.now()
        await hand.takes(1)
        assert (hand.has, s.house.clock.now() - began) == ([soon.id], 2_500)
        await hand.ends(hand.taken[0])
        await hand.takes(2)
        assert (hand.has[1], s.house.clock.now() - began) == (late.id, 7_000)
        assert await same_counts(s)


async def test_many_that_come_due_at_once_all_start(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand(slots=1)
        await s.disk.commit(
            [
                port.InsertJobs(
                    tuple(
                        port.JobRow(f"id-{n:04d}", "echo", "default", "loop", "{}", execute_after=2_000_000_000_000)
                        for n in range(3)
                    ),
                    s.house.clock.now(),
                )
            ]
        )
        ids = [(await s.submit(delay_ms=1000)).id for _ in range(5)]
        for count in range(1, 6):
            await hand.ends(await hand.takes(count))
        assert hand.has == ids


async def test_a_due_job_that_the_alarm_missed_is_found_at_the_reconciliation(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        row = port.JobRow("id-1", "echo", "default", "loop", "{}", execute_after=s.house.clock.now() + 1000)
        await s.disk.commit([port.InsertJobs((row,), s.house.clock.now())])  # behind the queue's back
        await anyio.sleep(31)
        assert hand.has == ["id-1"]


async def test_alarms_do_not_pile_up_while_a_job_waits_for_long(stage: Any) -> None:
    async with stage() as s:
        await s.submit(delay_ms=20 * 86_400_000)
        await anyio.sleep(3599)
        assert len(s.system.deadlines) < 130  # of which the ended ones are swept out by and by


async def test_progress_and_logs_are_written_within_a_moment_and_many_cost_one_write(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        queue = s.system.ref("queue")
        for n in range(100):
            await queue.tell(JobProgress(lease=job.lease, progress=n))
            await queue.tell(JobLogged(lease=job.lease, lines=((n, "info", f"line {n}"),)))
        await anyio.sleep(0.11)
        await s.caught_up()
        assert (await s.job(submitted.id)).progress == 99
        assert [line.text for line in await s.disk.job_logs(submitted.id)] == [f"line {n}" for n in range(100)]
        assert len(s.disk.written(port.SaveProgress)) <= 2


async def test_what_a_job_wrote_last_is_kept_though_it_ended_at_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        await s.system.ref("queue").tell(JobLogged(lease=job.lease, lines=((1, "info", "the end"),)))
        await s.system.ref("queue").tell(JobProgress(lease=job.lease, progress=1.0))
        await hand.ends(job)
        view = await s.job(submitted.id)
        assert (view.status, view.progress) == ("completed", 1.0)
        assert [line.text for line in await s.disk.job_logs(submitted.id)] == ["the end"]


async def test_whoever_follows_a_job_hears_progress_and_logs_at_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        with s.house.bus.subscribe(subject=submitted.id) as heard:
            await s.system.ref("queue").tell(JobProgress(lease=job.lease, progress=1))
            await s.system.ref("queue").tell(JobLogged(lease=job.lease, lines=((5, "info", "hi"),)))
            await s.caught_up()
            told = [(event.type, event.offset, event.data) for event in heard.take()]
        assert told == [
            ("job.progress", None, {"progress": 1}),
            ("job.log", None, {"level": "info", "text": "hi"}),
        ]


async def test_a_process_is_on_the_disk_before_its_work_begins(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand(lane="child")
        await s.submit("shell", args={"argv": ["true"]})
        job = await hand.takes(1)
        queue = s.system.ref("queue")
        assert await queue.ask(JobProcess(lease=job.lease, pgid=77, started=5)) is True
        assert await s.disk.processes("another boot") == (port.ProcessRow(job.lease.id, 77, 5),)
        stale = replace(job.lease, epoch=9)
        assert await queue.ask(JobProcess(lease=stale, pgid=78, started=5)) is False


# -- cancelling and retrying -------------------------------------------------------------------------------------------


async def test_a_pending_job_is_cancelled_and_never_starts(stage: Any) -> None:
    async with stage() as s:
        submitted = await s.submit()
        cancelled = await s.cancel(submitted.id)
        assert (cancelled.outcome, cancelled.status) == ("cancelled", "cancelled")
        hand = await s.hand()
        assert hand.has == []
        assert await s.counts() == await s.true_counts() == {"default": {"cancelled": 1}}


async def test_a_delayed_job_is_cancelled(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit(delay_ms=1000)
        assert (await s.cancel(submitted.id)).outcome == "cancelled"
        await anyio.sleep(20)
        assert hand.has == []
        assert await same_counts(s)


async def test_an_active_job_is_wished_dead_and_ends_as_cancelled(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        with s.house.board.running(job.lease) as attempt:
            assert (await s.cancel(submitted.id)).outcome == "requested"
            await anyio.sleep_forever()
        assert attempt.cancelled
        assert (await s.job(submitted.id)).status == "active"
        await hand.ends(job, failed("cancelled"))
        assert await s.stands(submitted.id) == ("cancelled", "user")
        assert await same_counts(s)


async def test_a_wish_does_not_undo_what_was_done_first(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        await s.cancel(submitted.id)
        await hand.ends(job, result=1)
        assert (await s.job(submitted.id)).status == "completed"


async def test_a_wish_keeps_a_failed_attempt_from_being_tried_again(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        await s.cancel(submitted.id)
        await hand.ends(job, failed())
        assert await s.stands(submitted.id) == ("cancelled", "user")
        assert await same_counts(s)


async def test_a_wish_that_comes_before_the_worker_has_begun_reaches_it_when_it_does(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        assert (await s.cancel(submitted.id)).outcome == "requested"
        with anyio.move_on_after(60) as patience, s.house.board.running(job.lease) as attempt:
            await anyio.sleep_forever()
        assert attempt.cancelled
        assert not patience.cancelled_caught


async def test_a_wish_for_one_attempt_does_not_reach_the_next(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        await s.cancel(submitted.id)
        await hand.ends(job, failed())
        await s.retry(submitted.id)
        again = await hand.takes(2)
        with s.house.board.running(again.lease) as attempt:
            await anyio.sleep(1)
        assert not attempt.wished


async def test_a_job_that_has_ended_cannot_be_cancelled(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        await hand.ends(await hand.takes(1))
        cancelled = await s.cancel(submitted.id)
        assert (cancelled.outcome, cancelled.status) == ("too_late", "completed")


async def test_nobody_can_cancel_or_retry_what_is_not_there(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(JobNotFound):
            await s.cancel("nobody")
        with pytest.raises(JobNotFound):
            await s.retry("nobody")


async def test_a_failed_job_is_retried_with_a_new_budget_and_the_same_id(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit(max_attempts=1)
        await hand.ends(await hand.takes(1), failed())
        assert await s.stands(submitted.id) == ("failed", "exhausted")
        assert (await s.retry(submitted.id)).status == "pending"
        again = await hand.takes(2)
        assert (again.lease.id, again.attempt, again.lease.epoch) == (submitted.id, 1, 2)
        assert await same_counts(s)


@pytest.mark.parametrize("state", ["pending", "delayed", "active", "completed"])
async def test_only_failed_and_cancelled_jobs_are_retried(stage: Any, state: str) -> None:
    async with stage() as s:
        submitted = await s.submit(delay_ms=60_000 if state == "delayed" else 0)
        if state in ("active", "completed"):
            hand = await s.hand()
            job = await hand.takes(1)
            if state == "completed":
                await hand.ends(job)
        with pytest.raises(NotRetryable) as caught:
            await s.retry(submitted.id)
        assert caught.value.data["status"] == state
        assert await same_counts(s)


# -- agents' queues ----------------------------------------------------------------------------------------------------


async def agent(s: Any, slots: int = 4, **seat: Any) -> Any:
    return await s.hand("agent:ada", lane="agent", queue="agent:ada", slots=slots, **seat)


async def test_an_agent_takes_messages_of_different_conversations_at_once(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s, slots=2)
        ids = [await s.say("ada", "hi", talk) for talk in ("a", "b", "c")]
        await s.caught_up()
        assert ada.has == ids[:2]
        await ada.ends(ada.taken[0])
        assert ada.has == ids
        assert await same_counts(s)


async def test_a_conversation_is_answered_one_message_after_the_other(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s)
        ids = [await s.say("ada", str(n)) for n in range(3)]
        for count in (1, 2, 3):
            await s.caught_up()
            assert ada.has == ids[:count]
            await ada.ends(ada.taken[-1])
        assert await same_counts(s)


async def test_a_failing_head_holds_up_its_own_conversation_only(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s)
        head, behind, other = await s.say("ada", "1"), await s.say("ada", "2"), await s.say("ada", "3", "other")
        await ada.takes(2)
        assert ada.has == [head, other]
        for attempt in (1, 2):
            await ada.ends(ada.taken[-1 if attempt == 2 else 0], failed())
            assert await s.stands(head) == ("delayed", "retry")
            assert behind not in ada.has
            await ada.takes(2 + attempt)
            assert ada.has[-1] == head
        await ada.ends(ada.taken[-1], failed())
        assert await s.stands(head) == ("failed", "exhausted")
        assert ada.has[-1] == behind
        assert await same_counts(s)


async def test_the_next_message_starts_when_the_head_is_cancelled(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s)
        head, behind = await s.say("ada", "1"), await s.say("ada", "2")
        await ada.ends(await ada.takes(1), failed())
        await s.cancel(head)
        await s.caught_up()
        assert ada.has == [head, behind]


async def test_messages_wait_for_an_agent_that_is_not_there_and_others_run(stage: Any) -> None:
    async with stage(ADA) as s:
        hand = await s.hand()
        waits = await s.say("ada", "hi")
        other = await s.submit()
        await s.caught_up()
        assert hand.has == [other.id]
        ada = await agent(s)
        assert ada.has == [waits]


async def test_what_an_agent_ended_in_its_own_commit_frees_its_room(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s, slots=1)
        first, second = await s.say("ada", "1"), await s.say("ada", "2")
        job = await ada.takes(1)
        now = s.house.clock.now()
        await s.disk.commit([port.FinishJobs((port.Finish(job.lease, "completed", result=json.dumps("x")),), now)])
        await s.system.ref("queue").tell(JobSettled(job.lease))
        assert (await ada.takes(2)).lease.id == second
        assert (await s.job(first)).status == "completed"
        assert await same_counts(s)


async def test_a_job_that_an_agent_added_in_its_own_commit_is_found(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        now = s.house.clock.now()
        rows = (
            port.JobRow("id-1", "echo", "default", "loop", "{}", execute_after=now),
            port.JobRow("id-2", "echo", "default", "loop", "{}", execute_after=now + 3000),
        )
        await s.disk.commit([port.InsertJobs(rows, now)])
        await hand.ends(await hand.takes(1))
        await hand.takes(2)
        assert (hand.has, s.house.clock.now() - now) == (["id-1", "id-2"], 3000)
        assert await same_counts(s)
