"""Leases at their exact times, clocks that jump, and what no rule allows: found, put right, counted."""

from typing import Any

import anyio
import pytest

from runtime.errors import problem
from runtime.store.memory.store import tallied
from schemas.jobs import (
    JobEnded,
    JobHeard,
    JobLogged,
    JobProcess,
    JobProgress,
    Outcome,
    PauseJob,
    SignalJob,
    Status,
)

FAULT = problem("job.failed", "it broke")
HOUR = 3_600_000
SHELL: dict[str, Any] = {"args": {"argv": ["true"]}}
LOST = Outcome(ok=False, refund=True, error=problem("job.lease_lost"), error_class="lost")


async def well(s: Any) -> bool:
    """Tell whether memory is right and nothing had to be put right."""
    await s.caught_up()
    return bool(await s.counts() == await s.true_counts() and s.house.repairs == {})


async def in_a_process(s: Any, name: str = "child", **fields: Any) -> Any:
    """Return a hand whose one job runs in a process of its own."""
    hand = await s.hand(name, lane="child")
    await s.submit("shell", **SHELL, **fields)
    job = await hand.takes(1)
    assert await s.ask(JobProcess(lease=job.lease, pgid=4_000_000, started=1))
    return hand


async def beat(s: Any, job: Any, seconds: float) -> None:
    """Have the process of an attempt heard of every three seconds."""
    for _ in range(round(seconds / 3)):
        await anyio.sleep(3)
        await s.system.ref("queue").tell(JobHeard(job.lease))


# -- lost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("config", "lease", "beats"), [("", 30, 10), ('[runtime]\nlease = "6s"\n', 6, 2)])
@pytest.mark.parametrize("after", [0, 7, 65])
async def test_a_lease_runs_out_neither_before_its_time_nor_two_beats_after_it(
    stage: Any, config: str, lease: int, beats: int, after: int
) -> None:
    async with stage(config) as s:
        hand = await in_a_process(s)
        for _ in range(after):
            await anyio.sleep(1)
            await s.system.ref("queue").tell(JobHeard(hand.taken[0].lease))
        silent_since = s.house.clock.now()
        await s.until(hand.has[0], "pending")
        assert lease * 1000 <= s.house.clock.now() - silent_since + 1000  # heard in the second before at the latest
        assert s.house.clock.now() - silent_since <= (lease + 2 * beats) * 1000


async def test_what_a_lost_attempt_says_changes_nothing(stage: Any) -> None:
    async with stage() as s:
        hand = await in_a_process(s)
        old = hand.taken[0]
        await s.until(old.id, "pending")
        queue = s.system.ref("queue")
        await queue.tell(JobHeard(old.lease))
        await queue.tell(JobProgress(lease=old.lease, progress=0.9))
        await queue.tell(JobLogged(lease=old.lease, lines=((1, "info", "from the grave"),)))
        assert await s.ask(JobProcess(lease=old.lease, pgid=4_000_001, started=2)) is False
        other = await s.hand("other", lane="child")
        again = await other.takes(1)
        assert (again.id, again.epoch, again.attempt) == (old.id, 2, 2)
        before = await s.job(old.id)
        for outcome in (Outcome(ok=True, result="late"), Outcome(ok=False, error=FAULT), LOST):
            await hand.ends(old, outcome)
        await anyio.sleep(1)
        assert await s.job(old.id) == before
        assert await s.disk.job_logs(old.id) == ()
        await other.ends(again, result="second")
        view = await s.job(old.id)
        assert (view.result, [one.outcome for one in view.history]) == ("second", ["lost", "completed"])
        assert await well(s)


async def test_the_last_attempt_that_is_lost_exhausts_its_job(stage: Any) -> None:
    async with stage() as s:
        hand = await in_a_process(s, max_attempts=1)
        view = await s.until(hand.has[0])
        assert (view.status, view.reason, view.attempts) == ("failed", "exhausted", 1)
        assert view.error is not None
        assert await well(s)


@pytest.mark.parametrize(("wish", "stands"), [("cancel", ("cancelled", "user")), ("pause", ("paused", "user"))])
async def test_a_wish_is_granted_when_the_attempt_it_was_for_is_lost(stage: Any, wish: str, stands: Any) -> None:
    async with stage() as s:
        hand = await in_a_process(s)
        job = hand.has[0]
        await (s.cancel(job) if wish == "cancel" else s.ask(PauseJob(id=job)))
        assert (await s.job(job)).status == "active"
        await anyio.sleep(60)
        assert await s.stands(job) == stands
        await hand.ends(hand.taken[0], LOST)
        await anyio.sleep(60)
        assert hand.has == [job]
        assert await well(s)


async def test_a_lost_attempt_gives_its_place_to_the_next_of_its_key_and_queue(stage: Any) -> None:
    async with stage() as s:
        hand = await in_a_process(s, limit_key="gpu", max_attempts=1)
        other = await s.hand("other", lane="child")
        second = (await s.submit("shell", **SHELL, limit_key="gpu")).id
        await s.caught_up()
        assert await s.stands(second) == ("waiting", "limit")
        await s.until(hand.has[0])
        await s.caught_up()
        assert other.has == [second]
        assert await well(s)


async def test_only_who_is_silent_is_lost(stage: Any) -> None:
    async with stage() as s:
        alive, silent = await in_a_process(s, "alive"), await in_a_process(s, "silent")
        loop = await s.hand("loop")
        await s.submit()
        await beat(s, alive.taken[0], 600)
        assert [await s.stands(one.has[0]) for one in (alive, loop)] == [("active", None)] * 2
        assert (await s.job(silent.has[0])).status == "pending"  # both child hands are still busy
        assert await well(s)


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-30, -3, 3, 30])
@pytest.mark.parametrize("after", [1, 9.9, 10, 25])
async def test_a_jump_at_any_moment_loses_no_lease(stage: Any, hours: int, after: float) -> None:
    async with stage() as s:
        child, loop = await in_a_process(s), await s.hand("loop")
        await s.submit()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat, s, child.taken[0], 300)
            await anyio.sleep(after)
            s.house.clock.step(hours * HOUR)
        assert [await s.stands(one.has[0]) for one in (child, loop)] == [("active", None)] * 2
        assert [(await s.job(one.has[0])).attempts for one in (child, loop)] == [1, 1]
        assert await well(s)


async def test_who_was_just_not_heard_of_when_the_clock_jumped_is_not_lost_over_it(stage: Any) -> None:
    """A beat without a word is nothing yet: the lease is three beats long, and the jump must not eat it."""
    async with stage() as s:
        hand = await in_a_process(s)
        lease = hand.taken[0].lease
        for _ in range(20):
            await anyio.sleep(19)
            await s.system.ref("queue").tell(JobHeard(lease))
            await anyio.sleep(1)
            s.house.clock.step(HOUR)
        assert await s.stands(lease.id) == ("active", None)
        assert (await s.job(lease.id)).attempts == 1
        assert await well(s)


async def test_a_jump_forwards_promotes_all_that_is_due_and_starts_each_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        due = await s.submit_many(*({"delay_ms": 60_000 * (n + 1)} for n in range(120)))
        late = (await s.submit(queue="other", delay_ms=HOUR * 50)).id
        await anyio.sleep(30)
        s.house.clock.step(3 * HOUR)
        await anyio.sleep(11)
        assert (await s.true_counts())["default"] == {"active": 1, "pending": 119}
        for count in range(1, 121):
            await hand.ends(await hand.takes(count))
        assert hand.has == due
        assert (await s.job(late)).status == "delayed"
        assert await well(s)


async def test_a_jump_backwards_loses_nothing_and_doubles_nothing(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        jobs = await s.submit_many(*({"delay_ms": 1000 * n} for n in range(60)))
        for count in range(1, 61):
            job = await hand.takes(count)
            if count in (10, 30):
                s.house.clock.step(-HOUR // 4)
            failed = Outcome(ok=False, error=FAULT, error_class="transient")
            await hand.ends(job, failed if count == 20 else Outcome(ok=True))
        await hand.ends(await hand.takes(61))
        assert sorted(hand.has) == sorted([*jobs, hand.has[19]])
        assert await s.counts() == {"default": {"completed": 60}}
        assert await well(s)


async def test_a_rate_goes_on_after_a_jump_backwards_and_gives_no_more_after_one_forwards(stage: Any) -> None:
    async with stage('[queues.default]\nrate = { requests = 2, per = "20s" }') as s:
        hand = await s.hand()
        await s.submit_many(*({} for _ in range(9)))
        for count in (1, 2):
            await hand.ends(await hand.takes(count))
        s.house.clock.step(-HOUR)
        began = s.house.clock.monotonic()
        await hand.ends(await hand.takes(3))
        assert s.house.clock.monotonic() - began <= 75
        s.house.clock.step(HOUR)
        await anyio.sleep(0.1)
        await s.caught_up()
        await anyio.sleep(1)
        for count in range(4, 6):
            if len(hand.has) >= count:
                await hand.ends(hand.taken[count - 1])
        await anyio.sleep(1)
        assert len(hand.has) <= 3 + 2


# -- put right ---------------------------------------------------------------------------------------------------------


async def corrupt(s: Any, job: str, status: Status, reason: str, **more: Any) -> None:
    """Let a job of the memory store stand where no rule leads to; the queue hears of the move as of any other."""
    await s.caught_up()
    jobs = s.disk._jobs
    jobs.moves.clear()
    jobs.move(jobs[jobs.by_id[job]], status, reason, s.house.clock.now(), **more)
    s.house.moved(tallied(jobs.moves))
    jobs.moves.clear()
    s.disk._journal.clear()


@pytest.mark.parametrize(
    ("reason", "more", "repair"),
    [
        ("deps", {}, "deps_released"),
        ("limit", {}, "limit_released"),
        ("children", {}, "children_released"),
        ("signal", {"waits": "go"}, "signal_released"),
    ],
)
async def test_what_no_rule_allows_is_put_right_counted_and_runs(
    stage: Any, reason: str, more: dict[str, Any], repair: str
) -> None:
    async with stage() as s:
        job = (await s.submit(limit_key="gpu")).id
        await s.ask(SignalJob(id=job, name="go"))
        await corrupt(s, job, "waiting", reason, **more)
        hand = await s.hand()
        assert hand.has == []
        await anyio.sleep(16)
        assert hand.has == [job]
        assert s.house.repairs == {repair: 1}
        await anyio.sleep(60)
        assert s.house.repairs == {repair: 1}
        await s.caught_up()
        assert await s.counts() == await s.true_counts()


async def test_what_a_rule_allows_is_left_alone(stage: Any) -> None:
    """Everything that may wait does, for an hour, and nothing of it is touched."""
    async with stage() as s:
        of = [await s.hand(f"hand-{n}") for n in range(4)]
        child = await in_a_process(s)
        first, key, whole, _, _ = await s.submit_many(
            {"ref": "a", "limit_key": "gpu", "priority": 0},
            {"limit_key": "gpu", "priority": 1},
            {"ref": "w", "priority": 2},
            {"parent": "#w", "delay_ms": 2 * HOUR},
            {"depends_on": ({"job": "#a"},)},
        )
        signal = (await s.submit(priority=3)).id
        refused = (await s.submit(queue="llm", priority=4)).id
        await s.caught_up()
        ends = {
            whole: Outcome(ok=False, waits=""),
            signal: Outcome(ok=False, waits="go"),
            refused: Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=2 * HOUR),
        }
        for hand in of:
            if hand.has and hand.has[-1] in ends:
                await hand.ends(hand.taken[-1], ends[hand.has[-1]])
        await beat(s, child.taken[0], 3600)
        stands = [await s.stands(job) for job in (first, key, whole, signal, refused)]
        assert stands == [
            ("active", None),
            ("waiting", "limit"),
            ("waiting", "children"),
            ("waiting", "signal"),
            ("delayed", "rate_limit"),
        ]
        assert s.disk.commits
        assert await well(s)
        for hand in of:
            if hand.has[-1:] == [first]:
                await s.system.ref("queue").tell(JobEnded(hand.taken[-1], Outcome(ok=True)))
        await anyio.sleep(60)
        assert (await s.job(key)).status == "active"
        assert await well(s)
