"""The queue in trouble: workers that go, a store that refuses, suspects, a stop; nothing is lost and nothing runs
twice.
"""

from typing import Any

import anyio
import pytest

from actors.plan import Planner
from actors.tree import Queue
from runtime.core.spec import ChildSpec
from runtime.errors import ActorCrashed, ActorStopped, StoreError, StoreFull, problem
from runtime.store import port
from schemas.jobs import CancelJob, JobEnded, JobLogged, Outcome

ADA = '[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n'
FAULT = problem("job.failed", "it broke")
UNKNOWN = problem("job.unknown_kind")
FULL = StoreFull("no space left")
OF_USER = """
    [kinds.mine]
    run = "jobs:mine"
    in_loop = true
    retry = { jitter = 0.0 }
    [agents.one]
    actor = "agents:One"
    [agents.two]
    actor = "agents:Two"
    [agents.ada]
    llm = { provider = "scripted", model = "echo" }
"""


async def same_counts(s: Any) -> bool:
    return await s.counts() == await s.true_counts()


async def agent(s: Any, name: str = "ada", slots: int = 4, **seat: Any) -> Any:
    return await s.hand(f"agent:{name}", lane="agent", queue=f"agent:{name}", slots=slots, **seat)


# -- workers that go ---------------------------------------------------------------------------------------------------


async def test_what_a_worker_held_goes_back_when_it_is_gone(stage: Any) -> None:
    async with stage() as s:
        one = await s.hand("one")
        submitted = await s.submit()
        await one.takes(1)
        await s.system.stop_child("one")
        await s.caught_up()
        view = await s.job(submitted.id)
        assert (view.status, view.attempts) == ("pending", 0)
        assert s.house.workers == {}
        assert await same_counts(s)
        two = await s.hand("two")
        assert (await two.takes(1)).lease.epoch == 2


async def test_what_a_worker_held_goes_back_when_it_is_restarted(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        await hand.takes(1)
        await s.restart("hand")
        again = await hand.takes(2)
        assert (again.lease.id, again.lease.epoch, again.attempt) == (submitted.id, 2, 1)
        await hand.ends(hand.taken[0], result="too late")
        assert (await s.job(submitted.id)).status == "active"
        await hand.ends(again, result="in time")
        assert (await s.job(submitted.id)).result == "in time"
        assert await same_counts(s)


async def test_how_a_workers_last_job_ended_is_not_lost_over_its_own_end(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        s.system.ref("queue").tell_nowait(JobEnded(lease=job.lease, outcome=Outcome(ok=True, result="done")))
        await s.system.stop_child("hand")
        await s.caught_up()
        assert (await s.job(submitted.id)).result == "done"
        assert await same_counts(s)


async def test_an_agents_end_takes_back_what_runs_and_not_what_had_ended(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s)
        first, second = await s.say("ada", "1", "a"), await s.say("ada", "2", "b")
        await ada.takes(2)
        ended = Outcome(ok=False, error=FAULT, error_class="permanent")
        s.system.ref("queue").tell_nowait(JobEnded(lease=ada.taken[0].lease, outcome=ended))
        await s.system.stop_child("agent:ada")
        await s.caught_up()
        assert await s.stands(first) == ("failed", "permanent")
        assert await s.stands(second) == ("pending", None)
        assert await same_counts(s)


@pytest.mark.parametrize("how", ["stopped", "quarantined"])
async def test_an_agent_that_goes_while_it_is_given_jobs_brings_nothing_down(stage: Any, how: str) -> None:
    async with stage(ADA) as s:
        await agent(s)
        await s.caught_up()
        s.disk.takes = 1.0
        async with anyio.create_task_group() as tasks:
            for talk in "abc":
                tasks.start_soon(s.say, "ada", "hi", talk)
            await anyio.sleep(1.5)  # they are on the disk, and their claims are on the way
            if how == "stopped":
                tasks.start_soon(s.system.stop_child, "agent:ada")
            else:
                s.system.quarantine("agent:ada", "a person said so")
        s.disk.takes = 0.0
        await s.caught_up()
        assert s.heard("actor.crashed") == []
        assert await s.counts() == await s.true_counts() == {"agent:ada": {"pending": 3}}


async def test_an_agent_whose_mailbox_is_full_gets_its_job_a_little_later(stage: Any) -> None:
    async with stage(ADA) as s:
        ada = await agent(s)
        s.system.suspend("agent:ada")
        mailbox = s.system.ref("agent:ada").cell.mailbox
        mailbox.limit = mailbox.room = 1
        first, second = await s.say("ada", "1", "a"), await s.say("ada", "2", "b")
        await s.caught_up()
        assert (await s.stands(first), await s.stands(second)) == (("active", None), ("delayed", "snooze"))
        s.system.resume("agent:ada")
        await ada.takes(2)
        assert ada.has == [first, second]
        assert ada.taken[1].attempt == 1
        assert await same_counts(s)


async def test_a_message_left_in_an_old_mailbox_is_not_run_by_the_next_incarnation(whole: Any) -> None:
    modules = """
        import anyio
        runs = []
        async def mine(ctx):
            runs.append((ctx.job_id, ctx.attempt))
            await anyio.sleep(10)
            return len(runs)
    """
    config = "[runtime]\npool = 1\nchild_pool = 1\n" + OF_USER[: OF_USER.index("    [agents.one]")]
    async with whole(config, jobs_py=modules) as s:
        s.system.suspend("worker:loop-1")
        submitted = await s.submit("mine")
        await s.until(submitted.id, "active")
        await s.restart("worker:loop-1")
        s.system.resume("worker:loop-1")
        view = await s.until(submitted.id)
        assert (view.status, view.result) == ("completed", 1)
        assert await same_counts(s)


async def test_an_agent_that_crashes_over_a_message_spends_the_messages_attempts(whole: Any) -> None:
    modules = """
        from runtime.stateful import StatefulActor, handles
        from schemas.agents import Say
        class One(StatefulActor):
            @handles
            def say(self, message: Say) -> str:
                raise ValueError("poison")
    """
    async with whole('[runtime]\npool = 1\n[agents.one]\nactor = "agents:One"\n', agents_py=modules) as s:
        job = await s.say("one", "boom")
        view = await s.until(job)
        assert (view.status, view.reason, view.attempts) == ("failed", "exhausted", 3)
        assert view.error is not None
        assert view.error.detail == "ValueError: poison"
        assert s.system.cell("agent:one").state == "running"
        assert await same_counts(s)


async def test_workers_are_listed_while_they_are_there(stage: Any) -> None:
    async with stage() as s:
        await s.hand("one")
        await s.hand("two", lane="child")
        rows = {row.id: row for row in await s.disk.workers()}
        assert (rows["one"].status, rows["one"].lane, rows["one"].boot) == ("idle", "loop", "boot-1")
        assert rows["two"].lane == "child"
        await anyio.sleep(11)
        beaten = {row.id: row.last_heartbeat_at for row in await s.disk.workers()}
        assert beaten["one"] - rows["one"].last_heartbeat_at == 10_000


# -- a restart of the queue, and of the daemon -------------------------------------------------------------------------


async def test_a_crash_of_the_queue_loses_no_job_and_no_worker(whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        monkeypatch.undo()
        raise ValueError("a bug")

    async with whole("[runtime]\npool = 2\nchild_pool = 1") as s:
        long = await s.submit("sleep", args={"seconds": 50})
        await s.until(long.id, "active")
        monkeypatch.setattr(Planner, "plan", broken)
        with pytest.raises(ActorCrashed):
            await s.submit()
        await anyio.sleep(31)  # running work has its time to end before the workers are started anew
        other = await s.submit("sleep", args={"seconds": 1})
        assert (await s.until(other.id)).status == "completed"
        assert (await s.until(long.id)).status == "completed"
        await s.caught_up()
        assert await same_counts(s)


async def test_a_new_boot_takes_back_what_the_dead_one_held(furnish: Any, perform: Any) -> None:
    house = furnish()
    async with perform(house) as s:
        hand = await s.hand()
        running, waits = await s.submit(), await s.submit()
        await hand.takes(1)
        disk = s.die()
    async with perform(furnish(boot="boot-2", disk=disk)) as s:
        hand = await s.hand()
        job = await hand.takes(1)
        assert (job.lease.boot, job.attempt) == ("boot-2", 1)
        await hand.ends(job)
        await hand.ends(await hand.takes(2))
        assert sorted(hand.has) == sorted([running.id, waits.id])
        assert await same_counts(s)


async def test_what_had_ended_before_the_start_is_counted_once(furnish: Any, perform: Any) -> None:
    async with perform(furnish()) as s:
        hand = await s.hand()
        for count in range(1, 4):
            await s.submit()
            await hand.ends(await hand.takes(count))
        await s.submit()
        disk = s.disk

    class Slow(type(disk)):  # type: ignore[misc]
        async def counts(self, *, ended: bool) -> Any:
            if ended:
                await anyio.sleep(1)
            return await super().counts(ended=ended)

    disk.__class__ = Slow
    async with perform(furnish(boot="boot-2", disk=disk)) as s:
        hand = await s.hand()
        await hand.ends(await hand.takes(1))
        await anyio.sleep(2)
        assert await s.counts() == await s.true_counts() == {"default": {"completed": 4}}


async def test_jobs_of_a_kind_that_came_back_are_released_at_the_start(furnish: Any, perform: Any) -> None:
    async with perform(furnish()) as s:
        hand = await s.hand()
        submitted = await s.submit()
        await hand.ends(await hand.takes(1), Outcome(ok=False, hold=True, error=UNKNOWN))
        assert await s.stands(submitted.id) == ("paused", "hold")
        disk = s.disk
    async with perform(furnish(boot="boot-2", disk=disk)) as s:
        hand = await s.hand()
        assert (await hand.takes(1)).attempt == 1


async def test_what_a_worker_told_in_the_last_moment_is_written_before_the_store_closes(
    furnish: Any, perform: Any
) -> None:
    async with perform(furnish()) as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        s.disk.takes = 0.5
        queue = s.system.ref("queue")
        await queue.tell(JobLogged(lease=job.lease, lines=((1, "info", "the last words"),)))
        await anyio.sleep(0.2)  # these words are on their way to the disk
        await queue.tell(JobEnded(lease=job.lease, outcome=Outcome(ok=True, result="done")))
        disk = s.disk
    await disk.open()
    assert (await disk.job(submitted.id)).result == "done"


async def test_nothing_more_is_started_once_the_daemon_drains(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        first, second = await s.submit(), await s.submit()
        s.house.draining = True
        await hand.ends(await hand.takes(1))
        assert (await s.job(first.id)).status == "completed"
        assert await s.stands(second.id) == ("pending", None)


async def test_whoever_waits_for_an_answer_gets_one_when_the_daemon_stops(stage: Any) -> None:
    async with stage() as s:
        s.disk.takes = 2.0
        errors: list[BaseException] = []

        async def ask() -> None:
            try:
                await s.submit()
            except ActorStopped as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
            await anyio.sleep(1)
            tasks.start_soon(ask)
            await anyio.sleep(0.1)
            s.system.stop()
        assert len(errors) <= 1


# -- a store that refuses ----------------------------------------------------------------------------------------------


async def test_submitters_are_refused_and_may_try_again(stage: Any) -> None:
    async with stage() as s:
        s.disk.refuses = FULL
        with pytest.raises(StoreFull) as caught:
            await s.submit()
        assert caught.value.retryable
        assert s.house.store_trouble == "no space left"
        s.disk.refuses = None
        submitted = await s.submit()
        assert s.house.store_trouble is None
        assert await s.counts() == await s.true_counts() == {"default": {"pending": 1}}
        hand = await s.hand()
        assert hand.has == [submitted.id]


async def test_whoever_wants_to_cancel_or_retry_is_refused_too(stage: Any) -> None:
    async with stage() as s:
        submitted = await s.submit()
        s.disk.refuses = FULL
        with pytest.raises(StoreFull):
            await s.cancel(submitted.id)
        with pytest.raises(StoreFull):
            await s.retry(submitted.id)


async def test_how_a_job_ended_is_kept_until_the_store_is_back(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted, behind = await s.submit(), await s.submit()
        job = await hand.takes(1)
        s.disk.refuses = FULL
        await hand.ends(job, result="kept")
        await anyio.sleep(300)
        assert await s.stands(submitted.id) == ("active", None)
        assert hand.has == [submitted.id]
        s.disk.refuses = None
        await s.until(submitted.id)
        assert (await s.job(submitted.id)).result == "kept"
        assert (await hand.takes(2)).lease.id == behind.id
        assert s.heard("actor.crashed") == []
        assert await same_counts(s)


async def test_a_refusing_store_is_asked_about_once_a_second_however_many_come(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        job = await hand.takes(1)
        s.disk.refuses = FULL
        for _ in range(40):
            with pytest.raises(StoreFull):
                await s.submit()
        await hand.ends(job)
        before = s.disk.refused
        await anyio.sleep(30)
        assert s.disk.refused - before <= 40


async def test_a_job_that_comes_due_while_the_store_refuses_starts_when_it_is_back(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit(delay_ms=5_000)
        await anyio.sleep(4)
        s.disk.refuses = FULL
        await anyio.sleep(3)
        s.disk.refuses = None
        await anyio.sleep(1.1)
        await s.caught_up()
        assert hand.has == [submitted.id]
        assert await same_counts(s)


async def test_a_worker_that_comes_while_the_store_refuses_is_listed_when_it_is_back(stage: Any) -> None:
    async with stage() as s:
        s.disk.refuses = FULL
        hand = await s.hand()
        s.disk.refuses = None
        await anyio.sleep(2)
        assert [row.id for row in await s.disk.workers()] == ["hand"]
        submitted = await s.submit()
        assert (await hand.takes(1)).lease.id == submitted.id


async def test_a_worker_that_goes_while_the_store_refuses_leaves_its_job_to_the_next(stage: Any) -> None:
    async with stage() as s:
        one = await s.hand("one")
        submitted = await s.submit()
        await one.takes(1)
        s.disk.refuses = FULL
        await s.system.stop_child("one")
        two = await s.hand("two")
        await anyio.sleep(5)
        assert two.has == []
        s.disk.refuses = None
        await two.takes(1)
        assert two.has == [submitted.id]
        assert await same_counts(s)


async def test_logs_are_kept_in_order_until_the_store_is_back(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        queue = s.system.ref("queue")
        for n in range(6):
            s.disk.refuses = FULL if n in (1, 2, 3) else None
            await queue.tell(JobLogged(lease=job.lease, lines=((n, "info", str(n)),)))
            await anyio.sleep(0.2)
        await anyio.sleep(1)
        await hand.ends(job)
        assert [line.text for line in await s.disk.job_logs(submitted.id)] == list("012345")


async def test_a_submission_that_was_written_after_all_runs(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        s.disk.unheard = port.InsertJobs
        with pytest.raises(StoreError):
            await s.submit(key="k")
        await hand.takes(1)
        await hand.ends(hand.taken[0])
        await anyio.sleep(60)
        assert await s.counts() == await s.true_counts() == {"default": {"completed": 1}}


async def test_an_end_that_was_written_after_all_is_counted_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        submitted = await s.submit()
        job = await hand.takes(1)
        s.disk.unheard = port.FinishJobs
        await hand.ends(job, result=1)
        await anyio.sleep(60)
        assert (await s.job(submitted.id)).status == "completed"
        assert await same_counts(s)
        again = await s.submit()
        assert (await hand.takes(2)).lease.id == again.id


@pytest.mark.parametrize("lane", ["loop", "agent"])
async def test_a_claim_that_was_written_after_all_does_not_lose_its_job(stage: Any, lane: str) -> None:
    async with stage(ADA) as s:
        hand = await agent(s) if lane == "agent" else await s.hand()
        held = await s.say("ada", "hi", "held") if lane == "agent" else None
        if held is not None:
            await hand.takes(1)
        s.disk.unheard = port.ClaimJobs
        with pytest.raises(StoreError):  # it is added and claimed in one commit
            await (s.say("ada", "hi", "other", key="k") if lane == "agent" else s.submit(key="k"))
        job = await s.say("ada", "hi", "other", key="k") if lane == "agent" else (await s.submit(key="k")).id
        if held is not None:
            await anyio.sleep(1)
            await hand.ends(hand.taken[0])
        await hand.takes(1 if held is None else 2)
        assert hand.has[-1] == job
        await hand.ends(hand.taken[-1], result=1)
        await anyio.sleep(60)
        assert (await s.job(job)).status == "completed"
        assert await same_counts(s)


# -- suspects ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def after_a_death(furnish: Any, perform: Any) -> Any:
    """Let a daemon die while agents of the user's ran what `says` names; then start the next one on its disk."""

    async def run(*says: tuple[str, str]) -> tuple[Any, list[str]]:
        async with perform(furnish(OF_USER)) as s:
            hands = {name: await agent(s, name, user_code=True) for name, _ in says}
            ids = [await s.say(name, "hi", talk) for name, talk in says]
            for hand in hands.values():
                await hand.takes(1)
            disk = s.die()
        return perform(furnish(OF_USER, boot="boot-2", disk=disk)), ids

    return run


async def test_suspects_run_one_at_a_time_and_alone(after_a_death: Any) -> None:
    again, (first, second) = await after_a_death(("one", "a"), ("two", "a"))
    async with again as s:
        one, two = await agent(s, "one", user_code=True), await agent(s, "two", user_code=True)
        loop, child = await s.hand("loop"), await s.hand("child", lane="child")
        plain = await s.submit("mine")
        shell = await s.submit("shell", args={"argv": ["true"]})
        ada = await agent(s)
        words = await s.say("ada", "hi")
        other = await s.say("one", "me too", "b")
        await s.caught_up()
        assert (one.has, two.has, loop.has) == ([first], [], [])
        assert one.taken[0].suspect
        assert (child.has, ada.has) == ([shell.id], [words])  # what cannot hurt the daemon goes on
        await one.ends(one.taken[0])
        assert (one.has, two.has, loop.has) == ([first], [second], [])
        await two.ends(two.taken[0])
        assert (one.has, loop.has) == ([first, other], [plain.id])
        assert await same_counts(s)


async def test_a_suspect_waits_until_nothing_else_of_the_users_runs(after_a_death: Any) -> None:
    again, (job,) = await after_a_death(("one", "a"))
    async with again as s:
        loop = await s.hand("loop")
        running = await s.submit("mine")
        await s.caught_up()
        assert loop.has == [running.id]  # the suspect's agent is not there yet, so nobody waits for it
        one = await agent(s, "one", user_code=True)
        await s.caught_up()
        assert one.has == []
        await loop.ends(loop.taken[0])
        assert one.has == [job]


@pytest.mark.parametrize("trouble", ["its agent never comes", "it is cancelled", "its agent goes"])
async def test_a_suspect_that_cannot_run_holds_up_nobody(after_a_death: Any, trouble: str) -> None:
    again, (job,) = await after_a_death(("one", "a"))
    async with again as s:
        if trouble == "it is cancelled":
            await s.cancel(job)
        if trouble == "its agent goes":
            one = await agent(s, "one", user_code=True)
            await one.takes(1)
            await s.system.stop_child("agent:one")
        loop, two = await s.hand("loop"), await agent(s, "two", user_code=True)
        plain, words = await s.submit("mine"), await s.say("two", "hi")
        await s.caught_up()
        assert (loop.has, two.has) == ([plain.id], [words])


async def test_a_suspect_that_waits_for_a_rate_limit_holds_up_nobody_and_then_runs_alone(after_a_death: Any) -> None:
    again, (job,) = await after_a_death(("one", "a"))
    async with again as s:
        one, loop = await agent(s, "one", user_code=True), await s.hand("loop")
        await one.takes(1)
        limited = Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=10_000)
        await one.ends(one.taken[0], limited)
        plain = await s.submit("mine")
        await s.caught_up()
        assert loop.has == [plain.id]
        await anyio.sleep(11)
        assert one.has == [job]  # due again, but the other one still runs
        await loop.ends(loop.taken[0])
        assert one.has == [job, job]
        assert one.taken[1].suspect
        await s.submit("mine")
        await s.caught_up()
        assert loop.has == [plain.id]
        await one.ends(one.taken[1])
        assert len(loop.has) == 2


async def test_a_suspect_that_failed_by_itself_is_no_suspect_any_more(after_a_death: Any) -> None:
    again, (job,) = await after_a_death(("one", "a"))
    async with again as s:
        one, loop = await agent(s, "one", user_code=True), await s.hand("loop")
        await one.takes(1)
        await one.ends(one.taken[0], Outcome(ok=False, error=FAULT, error_class="transient"))
        plain = await s.submit("mine")
        await one.takes(2)
        assert (one.has, loop.has) == ([job, job], [plain.id])
        assert not one.taken[1].suspect


# -- floods ------------------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_submitters_and_never_a_worker(furnish: Any, perform: Any) -> None:
    def small(house: Any) -> Any:
        from actors.keeper import Keeper
        from runtime.core.spec import SupervisorSpec

        yield ChildSpec("store", lambda: Keeper(house))
        yield ChildSpec("queue", lambda: Queue(house), mailbox=5)
        yield from [ChildSpec("w", lambda: __import__("actors.worker").worker.Worker(house, "w", "loop"))]
        yield SupervisorSpec("hands")

    async with perform(furnish(), small) as s:
        submitted = await s.submit("sleep", args={"seconds": 1})
        await s.until(submitted.id, "active")
        s.disk.takes = 5.0
        queue = s.system.ref("queue")
        async with anyio.create_task_group() as tasks:
            await anyio.sleep(0.5)

            async def nothing() -> None:
                with pytest.raises(Exception, match="no job"):
                    await queue.ask(CancelJob(id="nobody"), timeout=100)

            for _ in range(8):
                tasks.start_soon(nothing)
        s.disk.takes = 0.0
        view = await s.until(submitted.id)
        assert (view.status, view.attempts, len(view.history)) == ("completed", 1, 1)
        assert s.heard("actor.crashed") == []
