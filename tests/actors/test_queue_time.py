"""What time brings: deadlines, leases, clocks that jump, machines that sleep; what is put right is counted."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from runtime.errors import AskTimeout, StoreError, problem
from runtime.store import port
from schemas.jobs import JobEnded, JobHeard, JobProcess, Outcome

FAULT = problem("job.failed", "it broke")
HOUR = 3_600_000
SHELL: dict[str, Any] = {"args": {"argv": ["true"]}}


async def same_counts(s: Any) -> bool:
    return await s.counts() == await s.true_counts() and s.house.repairs == {}


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_job_that_has_not_started_by_its_deadline_fails_then(stage: Any) -> None:
    async with stage() as s:
        began = s.house.clock.now()
        late = (await s.submit(deadline_ms=90_000)).id
        later = (await s.submit(delay_ms=200_000, deadline_ms=120_000)).id
        assert (await s.until(late)).reason == "deadline"
        assert s.house.clock.now() - began == 90_000
        assert (await s.until(later)).status == "failed"
        assert s.house.clock.now() - began == 120_000
        assert await same_counts(s)


async def test_a_job_that_fails_after_its_deadline_is_not_tried_again(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit(deadline_ms=5_000)).id
        running = await hand.takes(1)
        await anyio.sleep(6)
        assert (await s.job(job)).status == "active"
        await hand.ends(running, Outcome(ok=False, error=FAULT, error_class="timeout"))
        assert await s.stands(job) == ("failed", "deadline")
        assert await same_counts(s)


async def test_what_a_person_holds_is_not_ended_by_its_deadline(stage: Any) -> None:
    from schemas.jobs import PauseJob

    async with stage() as s:
        job = (await s.submit(deadline_ms=5_000)).id
        await s.ask(PauseJob(id=job))
        await anyio.sleep(600)
        assert await s.stands(job) == ("paused", "user")


async def test_thousands_that_come_due_at_once_all_come(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({"delay_ms": 60_000} for _ in range(2500)))
        await anyio.sleep(61)
        assert await s.counts() == await s.true_counts() == {"default": {"pending": 2500}}
        assert s.house.repairs == {}


# -- leases ------------------------------------------------------------------------------------------------------------


async def child(s: Any) -> tuple[Any, Any]:
    """Hand a job to a worker with a process of its own; return both."""
    hand = await s.hand("child", lane="child")
    await s.submit("shell", **SHELL)
    job = await hand.takes(1)
    assert await s.ask(JobProcess(job, 77, 5)) is True
    return hand, job


async def test_an_attempt_in_the_loop_keeps_its_lease_without_a_word(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        await hand.takes(1)
        await anyio.sleep(600)
        assert await s.stands(job) == ("active", None)
        assert not s.disk.written(port.ExpireLeases)


async def test_a_process_that_is_heard_of_keeps_its_lease(stage: Any) -> None:
    async with stage() as s:
        _, job = await child(s)
        for _ in range(100):
            await anyio.sleep(9)
            s.system.ref("queue").tell_nowait(JobHeard(job))
        assert await s.stands(job.id) == ("active", None)
        assert not s.disk.written(port.ExpireLeases)


async def test_a_silent_process_loses_its_job_and_is_ended(stage: Any) -> None:
    async with stage() as s:
        hand, job = await child(s)
        other = await s.hand("other", lane="child")
        began = s.house.clock.now()
        with s.house.board.running(job) as attempt:
            await anyio.sleep_forever()
        assert attempt.lost
        assert 30_000 <= s.house.clock.now() - began <= 60_000
        again = await other.takes(1)
        assert (again.id, again.epoch, again.attempt) == (job.id, job.epoch + 1, 2)
        await hand.ends(job, result="too late")  # nothing it says counts any more
        assert await s.stands(job.id) == ("active", None)
        assert s.house.workers["child"] == 0
        await other.ends(again, result="in time")
        assert (await s.job(job.id)).result == "in time"
        assert await same_counts(s)


async def test_a_worker_whose_attempt_lost_its_lease_is_given_nothing_until_it_has_ended(stage: Any) -> None:
    async with stage() as s:
        hand, job = await child(s)
        await s.submit("shell", **SHELL)
        await anyio.sleep(60)
        assert hand.has == [job.id]
        await hand.ends(job, Outcome(ok=False, refund=True, error_class="lost"))
        assert len(hand.has) == 2


async def test_what_a_stranger_says_of_a_process_is_not_kept(stage: Any) -> None:
    async with stage() as s:
        hand, job = await child(s)
        stale = replace(job, epoch=9)
        assert await s.ask(JobProcess(stale, 78, 5)) is False
        await hand.ends(job)
        before = len(s.disk.written(port.Heartbeat))
        await anyio.sleep(30)
        assert {beat.silent for beat in s.disk.written(port.Heartbeat)[before:]} == {()}


# -- clocks that jump --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [-5 * HOUR, 5 * HOUR])
async def test_no_attempt_is_lost_to_a_clock_that_jumps(stage: Any, by: int) -> None:
    async with stage() as s:
        _, job = await child(s)
        loop = await s.hand("loop")
        await s.submit()
        await loop.takes(1)
        await anyio.sleep(4)
        s.house.clock.step(by)
        for _ in range(60):
            await anyio.sleep(5)
            s.system.ref("queue").tell_nowait(JobHeard(job))
        assert await s.counts() == await s.true_counts() == {"default": {"active": 2}}
        assert s.house.repairs == {}


async def test_an_attempt_that_really_was_lost_is_found_after_the_jump(stage: Any) -> None:
    async with stage() as s:
        _, job = await child(s)
        s.house.clock.step(5 * HOUR)
        await anyio.sleep(61)
        assert await s.stands(job.id) == ("pending", None)


async def test_what_came_due_while_the_machine_slept_runs_within_a_beat(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit(delay_ms=4 * HOUR)).id
        late = (await s.submit(delay_ms=6 * HOUR, deadline_ms=HOUR)).id
        await anyio.sleep(31)
        s.house.clock.step(5 * HOUR)
        await anyio.sleep(9.5)
        assert hand.has == [job]
        assert await s.stands(late) == ("failed", "deadline")
        assert await same_counts(s)


async def test_what_is_due_waits_for_a_clock_that_was_set_back(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit(delay_ms=60_000)).id
        s.house.clock.step(-HOUR)
        await anyio.sleep(3600)
        assert hand.has == []
        await anyio.sleep(180)
        assert hand.has == [job]
        assert len(s.disk.written(port.ClaimJobs)) == 1


async def test_a_queue_is_not_blocked_for_longer_because_the_clock_was_set_back(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        told = Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=30_000)
        await hand.ends(await hand.takes(1), told)
        other = (await s.submit()).id
        s.house.clock.step(-HOUR)
        await anyio.sleep(61)
        assert other in hand.has
        (row,) = await s.disk.queues()
        assert row.blocked_until <= s.house.clock.now()


async def test_a_loop_that_was_held_up_takes_nobodys_lease(stage: Any) -> None:
    """A daemon that was frozen wakes with old leases and nothing heard: who lives shows only after it has listened."""
    async with stage() as s:
        _, job = await child(s)
        await anyio.sleep(11)
        s.disk.takes = 300.0  # for so long the queue hears nobody
        with pytest.raises(AskTimeout):
            await s.submit("shell", **SHELL)
        s.disk.takes = 0.0
        await anyio.sleep(272)
        for _ in range(10):
            await anyio.sleep(5)
            s.system.ref("queue").tell_nowait(JobHeard(job))
        assert await s.stands(job.id) == ("active", None)


# -- put right ---------------------------------------------------------------------------------------------------------


async def test_a_day_of_work_needs_no_repair(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        for count in range(1, 49):
            await s.submit_many({"ref": "a", "delay_ms": 1000}, {"depends_on": ({"job": "#a"},)})
            for turn in (2 * count - 1, 2 * count):
                await hand.ends(await hand.takes(turn))
            await anyio.sleep(1800)
        assert await same_counts(s)


async def test_what_the_store_repairs_is_counted(stage: Any) -> None:
    async with stage() as s:
        repaired = {"deps_released": 2, "limit_released": 1}
        commit = s.disk.commit

        async def with_repairs(changes: Any) -> list[Any]:
            results = await commit(changes)
            return [
                repaired if isinstance(change, port.RepairJobs) else result
                for change, result in zip(changes, results, strict=True)
            ]

        s.disk.commit = with_repairs
        await anyio.sleep(31)
        assert s.house.repairs == {"deps_released": 4, "limit_released": 2}


async def test_counts_that_went_wrong_are_found_put_right_and_counted(stage: Any) -> None:
    async with stage() as s:
        await s.submit()
        s.house.count("default", "active", 3)
        s.house.count("ghost", "delayed", 1)
        await anyio.sleep(16)
        assert await s.counts() == await s.true_counts() == {"default": {"pending": 1}}
        assert s.house.repairs == {"counts": 2}


async def test_what_is_pending_in_a_lane_is_put_right_too(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        rows = (port.JobRow("id-1", "echo", "default", "loop", "{}"),)
        s.house.on_moves = None  # nobody hears of it
        await s.disk.commit([port.InsertJobs(rows, s.house.clock.now())])
        await anyio.sleep(5)
        assert hand.has == []
        await anyio.sleep(11)
        assert hand.has == ["id-1"]


async def test_a_commit_that_nobody_heard_of_is_found_out_as_soon_as_the_store_answers(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        for _ in range(2):
            await s.submit()
        job, hears = await hand.takes(1), s.house.on_moves
        s.house.on_moves = None  # neither the answer nor the moves reach the queue
        s.disk.unheard = port.FinishJobs
        await s.system.ref("queue").tell(JobEnded(job, Outcome(ok=True)))
        await anyio.sleep(0.5)
        s.house.on_moves = hears
        await anyio.sleep(1.5)
        assert await s.counts() == await s.true_counts()
        assert len(hand.has) == 2
        assert s.house.repairs.keys() == {"counts"}


async def test_jobs_that_move_all_the_time_are_no_difference(stage: Any) -> None:
    async with stage() as s:

        async def move() -> None:
            for n in range(2000):
                row = port.JobRow(f"id-{n}", "echo", "default", "loop", "{}")
                await s.disk.commit([port.InsertJobs((row,), s.house.clock.now())])
                await anyio.sleep(0.01)

        s.disk.takes = 0.002
        await move()
        assert await same_counts(s)


async def test_what_is_due_and_cannot_be_moved_does_not_keep_the_daemon_busy(stage: Any) -> None:
    async with stage() as s:
        await s.submit(delay_ms=1000)
        commit = s.disk.commit

        async def moves_nothing(changes: Any) -> list[Any]:
            kept = [change for change in changes if not isinstance(change, port.PromoteDue)]
            results = iter(await commit(kept))
            return [() if isinstance(change, port.PromoteDue) else next(results) for change in changes]

        s.disk.commit = moves_nothing
        before = len(s.disk.commits)
        await anyio.sleep(60)
        assert len(s.disk.commits) - before < 150


async def test_a_store_that_cannot_be_read_is_asked_again_and_nothing_is_lost(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit(delay_ms=1000)).id
        found = s.disk.next_due

        async def blind() -> int | None:
            raise StoreError("nothing can be read")

        s.disk.next_due = blind
        await anyio.sleep(20)
        s.disk.next_due = found
        await anyio.sleep(20)
        assert hand.has == [job]
