"""Where two rules of the queue meet: each of these could lose time, tokens, a job, or more."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from actors.alarms import Tick
from runtime.core.ref import Ref
from runtime.errors import MailboxFull, StoreFull, problem
from runtime.store import port
from schemas.jobs import (
    ActOnJobs,
    JobFilter,
    JobHeard,
    JobProcess,
    NewJob,
    Outcome,
    PauseJob,
    ResizePool,
    RetryPolicy,
    RunJob,
)
from schemas.schedules import TriggerSchedule
from tests.actors.test_queue_trouble import ADA, OF_USER, agent
from tests.actors.test_worker_durable import cut_off_in_a_step, work

__all__ = ["work"]

SHELL: dict[str, Any] = {"args": {"argv": ["true"]}}
BROKEN = Outcome(ok=False, error=problem("job.failed", "it broke"), error_class="permanent")
SELDOM = '[runtime]\nreconcile = "3600s"\n'
"""What is only put right by looking at everything again shows as an hour."""


@pytest.mark.parametrize("how", ["a known key", "a full limit"])
async def test_a_lane_that_gets_nothing_holds_up_no_other(stage: Any, how: str) -> None:
    async with stage(SELDOM) as s:
        loop, child = await s.hand("loop"), await s.hand("child", lane="child")
        await s.submit(key="k")
        await loop.ends(await loop.takes(1))
        await s.submit("shell", **SHELL, queue="other")
        await child.takes(1)
        await s.submit("shell", **SHELL)
        if how == "a known key":
            assert (await s.submit(key="k")).existing
        else:
            await s.submit(limit_key="x")
            await loop.takes(2)
            await s.hand("another")
            await s.submit(limit_key="x")
        await s.caught_up()

        await child.ends(child.taken[0])

        with anyio.fail_after(5):
            await child.takes(2)


async def test_a_queue_that_waits_longer_leaves_another_its_earlier_look(stage: Any) -> None:
    rates = '[queues.dear]\nrate = { tokens = 100, per = "10s" }\n[queues.slow]\nrate = { requests = 1, per = "60s" }\n'
    async with stage(SELDOM + rates) as s:
        hands = [await s.hand(f"h{n}") for n in range(4)]
        await s.submit(queue="dear", tokens=100)
        waits = await s.submit(queue="dear", tokens=50)
        await s.caught_up()
        for _ in range(2):
            await s.submit(queue="slow")
        for hand in hands:
            for job in hand.taken:
                await hand.ends(job)
        with anyio.fail_after(10):
            await s.until(waits.id, "active")


@pytest.mark.parametrize("seconds", [15, 40, 90])
async def test_processes_that_were_heard_of_keep_their_jobs_over_an_outage_of_the_disk(
    stage: Any, seconds: int
) -> None:
    async with stage() as s:
        hands = [await s.hand(f"c{n}", lane="child") for n in range(3)]
        for _ in hands:
            await s.submit("shell", **SHELL)

        async def lives(hand: Any, late: float) -> None:
            await anyio.sleep(late)
            while True:
                await s.system.ref("queue").tell(JobHeard(hand.taken[0].lease))
                await anyio.sleep(10)

        async with anyio.create_task_group() as tasks:
            for n, hand in enumerate(hands):
                job = await hand.takes(1)
                assert await s.ask(JobProcess(lease=job.lease, pgid=4_000_000, started=1))
                tasks.start_soon(lives, hand, 3 * n + 0.5)
            await anyio.sleep(31)
            s.disk.refuses = StoreFull("full")
            await anyio.sleep(seconds)
            s.disk.refuses = None
            await anyio.sleep(60)
            assert {await s.stands(hand.taken[0].id) for hand in hands} == {("active", None)}
            tasks.cancel_scope.cancel()


async def test_tokens_are_settled_once_however_often_the_end_is_written(stage: Any) -> None:
    async with stage('[queues.dear]\nrate = { tokens = 1000, per = "6000s" }\n') as s:
        one, other = await s.hand("one"), await s.hand("other")
        await s.submit(queue="dear", tokens=100)
        first = await one.takes(1)
        await s.submit(queue="dear", tokens=900)
        await other.takes(1)
        s.disk.refuses = StoreFull("full")
        await one.ends(first, Outcome(ok=True, tokens=0))
        await anyio.sleep(20)
        s.disk.refuses = None
        await anyio.sleep(3)

        await s.submit(queue="dear", tokens=900)

        await s.caught_up()
        assert len(one.taken) == 1, "a hundred were given back, not a hundred a second"


async def test_what_becomes_due_while_the_database_is_asked_is_not_forgotten(stage: Any) -> None:
    async with stage(SELDOM) as s:
        hand, real = await s.hand(), s.disk.next_due

        async def slow() -> int | None:
            found: int | None = await real()
            await anyio.sleep(0.01)
            return found

        s.disk.next_due = slow
        await s.submit(delay_ms=1000)
        await anyio.sleep(1.005)
        now = s.house.clock.now()
        row = s.house.prepare(NewJob(kind="echo", delay_ms=5000), s.house.clock.new_id(), now)
        await s.disk.commit([port.InsertJobs((row,), now)])
        await hand.ends(await hand.takes(1))
        with anyio.fail_after(10):
            await hand.takes(2)


@pytest.mark.parametrize("rests", ["paused", "past its deadline", "delayed"])
async def test_a_suspect_that_rests_keeps_nobody_waiting(furnish: Any, perform: Any, rests: str) -> None:
    async with perform(furnish(OF_USER)) as s:
        one = await agent(s, "one", user_code=True)
        more = {"deadline_ms": 20_000} if rests == "past its deadline" else {}
        job = await s.say("one", "hi", "a", **more)
        await one.takes(1)
        disk = s.die()
    async with perform(furnish(OF_USER, boot="boot-2", disk=disk)) as s:
        if rests == "paused":
            await s.ask(PauseJob(id=job))
        if rests == "past its deadline":
            await s.until(job)
        one, loop = await agent(s, "one", user_code=True), await s.hand("loop")
        if rests == "delayed":
            await one.ends(await one.takes(1), Outcome(ok=False, snooze=True, retry_after_ms=3_000_000))
        for n in range(5):
            await s.say("one", "hi", f"t{n}")
        await s.submit("mine")
        with anyio.fail_after(5):
            await loop.takes(1)


async def test_a_busy_worker_uses_up_no_snooze_of_a_job(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage(ADA) as s:
        await agent(s)
        tell = Ref.tell_nowait

        def full(self: Ref, message: Any, *more: Any) -> None:
            if self.name == "agent:ada" and isinstance(message, RunJob):
                raise MailboxFull("full")
            tell(self, message, *more)

        monkeypatch.setattr(Ref, "tell_nowait", full)
        job = await s.say("ada", "hi")
        await anyio.sleep(1200)
        view = await s.job(job)
        assert (view.status, view.reason, view.snoozes) == ("delayed", "snooze", 0)


async def test_many_that_are_tried_again_wait_for_their_parents_again(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.asked.CHUNK", 3)
    async with stage() as s:
        hand = await s.hand()
        parent = (await s.submit(tags=("t",))).id
        job = await hand.takes(1)
        for _ in range(5):
            await s.submit(queue="q", tags=("t",), delay_ms=1_000_000)
        child = (await s.submit(depends_on=({"job": parent},), tags=("t",))).id
        await hand.ends(job, BROKEN)
        await s.ask(ActOnJobs(action="cancel", where=JobFilter(tag="t")))
        assert await s.stands(child) == ("cancelled", "dependency")

        acted = await s.ask(ActOnJobs(action="retry", where=JobFilter(tag="t")))

        assert (acted.matched, acted.done, acted.more) == (7, 7, False)
        assert await s.stands(child) == ("waiting", "deps")


@pytest.mark.parametrize("how", ["reload", "restart"])
async def test_a_step_that_may_have_happened_waits_for_a_person_and_for_nobody_else(
    work: Callable[..., Any], how: str
) -> None:
    async with work() as s:
        job, disk = await cut_off_in_a_step(s, "hold"), s.disk
    async with work(boot="boot-2", disk=disk) as s:
        assert (await s.until(job, "paused")).error.code == "job.step_ambiguous"
        if how == "reload":
            await s.system.ref("queue").tell(Tick(what="kinds"))
            await anyio.sleep(5)
            assert await s.stands(job) == ("paused", "hold")
            return
    async with work(boot="boot-3", disk=disk) as s:
        await anyio.sleep(5)
        assert await s.stands(job) == ("paused", "hold")


@pytest.mark.parametrize("how", ["trigger", "retry"])
async def test_a_schedule_that_may_not_overlap_looks_at_all_its_jobs(whole: Any, how: str) -> None:
    config = (
        '[kinds.k]\nrun = "jobs:k"\nin_loop = true\nmax_attempts = 1\n'
        '[schedules.s]\ncron = "* * * * *"\nkind = "k"\noverlap = "skip"\n'
    )
    long = 1 if how == "trigger" else 3
    code = f"""
    import anyio
    runs = 0
    async def k():
        global runs
        runs += 1
        if runs == {long}:
            await anyio.sleep(1000)
        if runs == 1:
            raise ValueError("x")
    """
    async with whole(config, jobs_py=code) as s:
        await anyio.sleep(70)
        if how == "trigger":
            await s.system.ref("schedules").ask(TriggerSchedule(name="s"))
        else:
            await anyio.sleep(60)
            failed = await s.disk.jobs(JobFilter(status="failed"))
            await s.retry(failed[-1].id)
        before = len(await s.disk.jobs(JobFilter()))
        await anyio.sleep(240)
        assert len(await s.disk.jobs(JobFilter())) == before


async def test_a_message_of_an_agent_has_its_time_and_no_more(whole: Any) -> None:
    code = """
    import anyio
    from runtime.stateful import StatefulActor, handles
    from schemas.agents import Say
    class One(StatefulActor):
        @handles
        async def say(self, message: Say) -> str:
            await anyio.sleep(100)
            return "late"
    """
    async with whole('[agents.one]\nactor = "agents:One"\n', agents_py=code) as s:
        for fields, reason in (
            ({"deadline_ms": 5000}, "deadline"),
            ({"timeout_ms": 3000, "max_attempts": 1}, "timeout"),
        ):
            with anyio.fail_after(10):
                view = await s.until(await s.say("one", "hi", **fields))
            assert (view.status, view.reason) == ("failed", reason)
        assert not s.heard("actor.crashed")


async def test_a_queue_that_fell_takes_back_what_a_worker_that_is_gone_held(whole: Any) -> None:
    async with whole("[runtime]\npool = 2\nchild_pool = 1\n") as s:
        jobs = [(await s.submit("sleep", args={"seconds": 5})).id for _ in range(2)]
        await s.caught_up()
        assert await s.ask(ResizePool(name="loop", size=1)) == 2
        real, armed = s.disk.commit, [True]

        async def commit(changes: Any) -> Any:
            if armed and any(isinstance(change, port.FinishJobs) for change in changes):
                armed.clear()
                await anyio.sleep(0.5)  # the disk is slow; meanwhile the worker that is one too many goes
                raise RuntimeError("a fault of ours")
            return await real(changes)

        s.disk.commit = commit
        await anyio.sleep(300)
        assert {await s.stands(job) for job in jobs} == {("completed", None)}


async def test_tokens_beyond_all_sense_are_refused_where_they_are_told(whole: Any) -> None:
    config = (
        '[queues.dear]\nrate = { tokens = 9, per = "1s" }\n'
        '[kinds.k]\nrun = "jobs:k"\nin_loop = true\nmax_attempts = 1\n'
    )
    async with whole(config, jobs_py="async def k(ctx):\n    ctx.tokens(10**400)\n") as s:
        view = await s.until((await s.submit("k", queue="dear")).id)
        assert "tokens used are" in view.error.detail
        assert not s.heard("actor.crashed")


# -- what cannot be kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"key": "a\0b"},
        {"unique": "a\0b"},
        {"limit_key": "a\0b"},
        {"limit_key": "a\ud800"},
        {"timeout_ms": 2**63},
        {"heartbeat_ms": 2**63},
        {"retry": {"base_ms": 2**62}},
        {"retry": {"max_ms": 10**400}},
        {"retry": {"factor": float("inf")}},
    ],
    ids=ascii,
)
def test_what_no_database_can_hold_is_refused_at_the_door(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NewJob(kind="echo", **({"retry": RetryPolicy(**fields["retry"])} if "retry" in fields else fields))


ODD = """
    from runtime.errors import JobFailed
    from runtime.outcomes import Fail

    class Odd:
        pass

    async def message():
        raise ValueError("\\udcff")

    async def said():
        raise Fail("\\udcff", code="\\udcff")

    async def data():
        raise JobFailed("x", what=Odd(), more={(1, 2): "\\udcff"})

    async def level(ctx):
        ctx.log("x", "\\udcff")

    async def step(ctx):
        async def work():
            raise ValueError("\\udcff")

        await ctx.step("a", work)
"""


@pytest.mark.parametrize("kind", ["message", "said", "data", "level", "step"])
async def test_half_a_character_in_what_went_wrong_harms_nobody(whole: Any, kind: str) -> None:
    config = f'[kinds.{kind}]\nrun = "jobs:{kind}"\nin_loop = true\nmax_attempts = 1\n'
    async with whole(config, jobs_py=ODD) as s:
        view = await s.until((await s.submit(kind)).id)
        assert view.status == ("completed" if kind == "level" else "failed")
        if view.error is not None:
            view.error.model_dump_json()
        assert not s.heard("actor.crashed")
