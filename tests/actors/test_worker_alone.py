"""One worker with a queue and a store played by the test: what it tells, whatever becomes of the attempt."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from actors.company import Company
from actors.kinds import Kinds
from actors.worker import Worker
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import StoreFull
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store import port
from schemas.jobs import (
    Claimed,
    JobEnded,
    JobHeard,
    JobLogged,
    JobProcess,
    JobProgress,
    Outcome,
    RunJob,
    WorkerReady,
)

JOBS = """
    import anyio
    from runtime.errors import LeaseLost
    from runtime.outcomes import AsyncJobContext, JobContext, StepResult

    async def steps(ctx, n=1):
        return [await ctx.step(f"s{k}", lambda: k) for k in range(n)]

    async def spends(ctx):
        ctx.tokens(100)
        ctx.tokens(42)
        await ctx.step("one", lambda: StepResult(1, cost=0.5))

    async def waits(ctx):
        ctx.tokens(7)
        await ctx.wait_signal("go", timeout=60)

    async def waits_in_a_group(job: AsyncJobContext):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.wait_signal, "go", 60)
            tasks.start_soon(anyio.sleep_forever)

    async def waits_and_swallows(ctx):
        try:
            await ctx.wait_signal("go", timeout=60)
        except BaseException:
            pass
        return "I go on"

    async def waits_and_fails(ctx):
        try:
            await ctx.wait_signal("go", timeout=60)
        finally:
            raise ValueError("no")

    async def swallows_the_loss(ctx):
        ctx.tokens(1_000_000)
        try:
            await ctx.step("one", lambda: 1)
        except LeaseLost:
            pass
        ctx_gone = False
        try:
            ctx.log("still here")
        except LeaseLost:
            ctx_gone = True
        return ctx_gone

    async def quiet(seconds):
        await anyio.sleep(seconds)

    async def lively(how, times, ctx):
        for k in range(times):
            await anyio.sleep(0.9)
            match how:
                case "heartbeat": ctx.heartbeat()
                case "log": ctx.log("tick")
                case "progress": ctx.progress(k)
                case "step": await ctx.step(f"s{k}", lambda: k)
                case "tokens": ctx.tokens(k)

    async def pays(ctx):
        await ctx.step("one", lambda: 1)
        await anyio.sleep(1)

    async def chats(ctx):
        for k in range(1000):
            ctx.log(f"line {k}")
            ctx.progress(k)
        try:
            await anyio.sleep_forever()
        finally:
            ctx.log("a last word")
            ctx.progress("a last word")
"""
NAMES = (
    *("steps", "spends", "waits", "waits_in_a_group", "waits_and_swallows", "waits_and_fails"),
    *("swallows_the_loss", "quiet", "lively", "pays", "chats"),
)
CONFIG = "\n".join(f"[kinds.{name}]\nrun = 'work:{name}'\nin_loop = true" for name in NAMES)


class Desk(Actor):
    """The queue as the worker sees it: it hears, and keeps what it heard."""

    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard

    @handles
    def hear(self, message: WorkerReady | JobEnded | JobProgress | JobLogged | JobHeard) -> None:
        self.heard.append(message)

    @handles
    def process(self, message: JobProcess) -> bool:
        self.heard.append(message)
        return True


class Drawer:
    """The store as an attempt sees it: every step is new and every write kept, until `lost` or `refuses` says no."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.lost = False
        self.refuses: Exception | None = None
        self.takes = 0.0

    async def commit(self, changes: Any) -> list[Any]:
        await anyio.sleep(self.takes)
        if self.refuses is not None:
            raise self.refuses
        if self.lost:
            return [None for _ in changes]
        self.changes += changes
        answers = {port.BeginStep: port.StepBegun("run"), port.TakeSignal: port.SignalTaken(None)}
        return [answers.get(type(change), True) for change in changes]

    def written(self) -> list[tuple[str, str]]:
        return [(type(change).__name__, getattr(change, "name", "")) for change in self.changes]


class Seat:
    """The test's end: hand jobs to the worker, and see what it tells."""

    def __init__(self, house: Company, system: ActorSystem, heard: list[Any]) -> None:
        self.house, self.system, self.heard = house, system, heard
        self.drawer: Any = house.store

    async def hand(self, kind: str, args: str = "{}", **fields: Any) -> Claimed:
        given = {"attempt": 1, "max_attempts": 3, "crashes": 0, "suspect": False, "timeout_ms": None} | fields
        job = Claimed(
            seq=1,
            id="job-1",
            epoch=4,
            worker="w",
            boot="b",
            kind=kind,
            queue="default",
            lane="loop",
            args=args,
            retry=None,
            conversation=None,
            created_at=0,
            **given,
        )
        await self.system.ref("w").tell(RunJob(job))
        return job

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def ended(self, count: int = 1) -> Outcome:
        with anyio.fail_after(3600):
            while len(self.of(JobEnded)) < count:
                await anyio.sleep(0.001)
        return self.of(JobEnded)[-1].outcome

    async def does(self, kind: str, args: str = "{}", **fields: Any) -> Outcome:
        await self.hand(kind, args, **fields)
        return await self.ended()


Seated = Callable[..., AbstractAsyncContextManager[Seat]]


@pytest.fixture
def seat(tmp_path: Path) -> Seated:
    @asynccontextmanager
    async def run(mailbox: int = 10_000) -> AsyncIterator[Seat]:
        (tmp_path / "work.py").write_text("\n".join(line[4:] for line in JOBS.splitlines()))
        (tmp_path / "config.toml").write_text(CONFIG)
        loaded = load(tmp_path / "config.toml", {})
        kinds, heard = Kinds(loaded.settings), []  # type: ignore[var-annotated]
        house = Company(
            boot="b",
            home=tmp_path,
            store=Drawer(),  # type: ignore[arg-type]
            bus=EventBus(),
            clock=VirtualClock(),
            redactor=Redactor(),
            loaded=loaded,
            prepare=kinds.prepare,
            kinds=kinds,
            models=None,  # type: ignore[arg-type]
            toolroom=None,  # type: ignore[arg-type]
            spec_of_worker=None,  # type: ignore[arg-type]
        )
        specs = (
            ChildSpec("queue", lambda: Desk(heard), mailbox=mailbox),
            ChildSpec("w", lambda: Worker(house, "w", "loop"), shutdown=1.0),
        )
        system = ActorSystem(SupervisorSpec("root", children=specs), clock=house.clock)
        async with anyio.create_task_group() as tasks:
            await tasks.start(system.run)
            try:
                yield Seat(house, system, heard)
            finally:
                system.stop()

    return run


async def test_a_job_done_in_one_step_is_answered_with_its_own_text(seat: Seated) -> None:
    async with seat() as s:
        outcome = await s.does("echo", '{"a": [1]}')
        assert (outcome.ok, outcome.text, outcome.result) == (True, '{"a": [1]}', None)


async def test_where_the_queue_has_no_room_its_answer_waits(seat: Seated) -> None:
    async with seat(mailbox=1) as s:
        s.system.suspend("queue")
        await s.hand("echo")
        await s.hand("echo")
        await anyio.sleep(1)
        assert s.of(JobEnded) == []
        s.system.resume("queue")
        await s.ended(2)


async def test_a_job_for_an_earlier_incarnation_is_left_alone(seat: Seated) -> None:
    async with seat() as s:
        await s.hand("echo")
        await s.ended()
        await s.system.ref("w").tell(RunJob(s.of(JobEnded)[0].lease, incarnation=9))
        await s.hand("echo")
        await s.ended(2)
        await anyio.sleep(1)
        assert len(s.of(JobEnded)) == 2


# -- steps -------------------------------------------------------------------------------------------------------------


async def test_each_step_is_written_under_the_fence_of_its_attempt(seat: Seated) -> None:
    async with seat() as s:
        outcome = await s.does("steps", '{"n": 2}')
        assert (outcome.ok, outcome.result) == (True, [0, 1])
        assert s.drawer.written() == [("BeginStep", "s0"), ("EndStep", "s0"), ("BeginStep", "s1"), ("EndStep", "s1")]
        assert {(change.fence.seq, change.fence.epoch) for change in s.drawer.changes} == {(1, 4)}


async def test_what_was_used_and_what_it_cost_is_told(seat: Seated) -> None:
    async with seat() as s:
        assert (await s.does("spends")).tokens == 42
        assert s.drawer.changes[-1].cost == 0.5


async def test_a_store_that_refuses_fails_the_attempt_and_it_may_be_tried_again(seat: Seated) -> None:
    async with seat() as s:
        s.drawer.refuses = StoreFull("no room")
        outcome = await s.does("steps")
        assert outcome.error is not None
        assert (outcome.ok, outcome.error_class, outcome.error.code) == (False, "transient", "store.full")


async def test_a_step_that_was_done_is_recorded_though_its_attempt_is_being_cancelled(seat: Seated) -> None:
    async with seat() as s:
        s.drawer.takes = 2.0
        job = await s.hand("pays")
        await anyio.sleep(3)  # in the middle of recording the end of the step
        assert s.house.board.cancel(job.id, job.epoch)
        assert (await s.ended()).error_class == "cancelled"
        assert s.drawer.written() == [("BeginStep", "one"), ("EndStep", "one")]


@pytest.mark.parametrize("kind", ["waits", "waits_in_a_group", "waits_and_swallows", "waits_and_fails"])
async def test_an_attempt_that_waits_is_given_back_whatever_its_code_makes_of_it(seat: Seated, kind: str) -> None:
    async with seat() as s:
        until = s.house.clock.now() + 60_000
        outcome = await s.does(kind)
        assert (outcome.ok, outcome.waits, outcome.wait_until) == (False, "go", until)
        assert (outcome.error, outcome.result, outcome.tokens) == (None, None, 7 if kind == "waits" else None)


# -- a lost lease ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["steps", "swallows_the_loss"])
async def test_a_write_that_finds_its_lease_lost_ends_the_attempt(seat: Seated, kind: str) -> None:
    async with seat() as s:
        s.drawer.lost = True
        outcome = await s.does(kind)
        assert (outcome.ok, outcome.error_class, outcome.refund, outcome.result) == (False, "lost", True, None)
        assert outcome.tokens is None


async def test_one_who_is_told_of_its_lost_lease_ends_at_once_and_says_nothing_more(seat: Seated) -> None:
    async with seat() as s:
        job = await s.hand("chats")
        await anyio.sleep(0.001)
        assert s.house.board.lose(job.id, job.epoch)
        outcome = await s.ended()
        assert (outcome.error_class, outcome.refund) == ("lost", True)
        assert "a last word" not in [text for message in s.of(JobLogged) for _, _, text in message.lines]
        assert "a last word" not in [message.progress for message in s.of(JobProgress)]
        told = len(s.heard)
        await anyio.sleep(10)
        assert len(s.heard) == told


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout_ms", "deadline_ms", "seconds", "says"),
    [
        (3_000, None, 3, "more than 3 s"),
        (3_000, 9_000, 3, "more than 3 s"),
        (None, 4_000, 4, "deadline"),
        (9_000, 4_000, 4, "deadline"),
        (9_000, -1, 0, "deadline"),
    ],
)
async def test_an_attempt_has_its_own_time_but_not_beyond_the_deadline_of_its_job(
    seat: Seated, timeout_ms: int | None, deadline_ms: int | None, seconds: float, says: str
) -> None:
    async with seat() as s:
        deadline = None if deadline_ms is None else s.house.clock.now() + deadline_ms
        began = anyio.current_time()
        outcome = await s.does("quiet", '{"seconds": 100}', timeout_ms=timeout_ms, deadline_at=deadline)
        assert outcome.error is not None
        assert (outcome.error_class, outcome.error.code) == ("timeout", "job.timeout")
        assert says in outcome.error.detail
        assert anyio.current_time() - began == pytest.approx(seconds, abs=0.01)


async def test_an_attempt_that_is_not_heard_of_is_ended(seat: Seated) -> None:
    async with seat() as s:
        began = anyio.current_time()
        outcome = await s.does("quiet", '{"seconds": 100}', heartbeat_ms=2_000)
        assert outcome.error is not None
        assert (outcome.error_class, outcome.error.detail) == ("timeout", "nothing was heard of the attempt for 2 s")
        assert anyio.current_time() - began == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("how", ["heartbeat", "log", "progress", "step", "tokens"])
async def test_every_sign_of_life_is_one(seat: Seated, how: str) -> None:
    async with seat() as s:
        outcome = await s.does("lively", f'{{"how": "{how}", "times": 5}}', heartbeat_ms=1_000)
        assert outcome.ok


async def test_one_that_falls_silent_after_a_while_is_ended_then(seat: Seated) -> None:
    async with seat() as s:
        began = anyio.current_time()
        outcome = await s.does("lively", '{"how": "none", "times": 5}', heartbeat_ms=1_000)
        assert outcome.error_class == "timeout"
        assert anyio.current_time() - began == pytest.approx(1, abs=0.01)
