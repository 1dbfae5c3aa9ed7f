"""The front desk: health and status, asking and telling, and the streams of a chat, of a job and of events.

The queue is played by the test: it writes what it is asked to, and the test says how a job goes on.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from runtime.attempt import Board
from runtime.clock import VirtualClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.desk import Conversation, Desk, problem_of
from runtime.errors import (
    AgentNotFound,
    AskTimeout,
    Draining,
    EventsExpired,
    JobFailed,
    JobNotFound,
    NoSuchActor,
    problem,
)
from runtime.events import EventBus
from runtime.store import port
from runtime.store.memory import MemoryStore
from schemas.agents import Say
from schemas.base import Message, Request
from schemas.config import Settings
from schemas.events import Event, StreamPart
from schemas.jobs import CancelJob, Cancelled, JobView, NewJob, SubmitJob, SubmitJobs, Submitted

NOW = 1_700_000_000_000


class Twice(Request[int], type="desk_test.twice", public=True):
    n: int


class Note(Message, type="desk_test.note", public=True):
    text: str


class Keep(Request[str], type="desk_test.keep", public=True, durable=True):
    text: str


class Ada(Actor):
    def __init__(self) -> None:
        self.notes: list[str] = []

    @handles
    def twice(self, message: Twice) -> int:
        return message.n * 2

    @handles
    def note(self, message: Note) -> None:
        self.notes.append(message.text)


class Clerk(Actor):
    """Plays the queue."""

    def __init__(self, store: MemoryStore, seen: list[Any]) -> None:
        self.store, self.seen = store, seen

    @handles
    async def submit(self, message: SubmitJob) -> Submitted:
        self.seen.append(message)
        job = message.job
        row = port.JobRow(f"job-{len(self.seen)}", job.kind, "agent:ada", "agent", "{}", key=job.key)
        ((found,),) = await self.store.commit([port.InsertJobs((row,), NOW)])
        return Submitted(id=found.id, status=found.status, existing=found.existing)

    @handles
    async def cancel(self, message: CancelJob) -> Cancelled:
        self.seen.append(message)
        ((found,),) = await self.store.commit([port.CancelJobs((message.id,), NOW)])
        return Cancelled(id=message.id, outcome=found.outcome, status=found.status)


class Stage:
    """A desk with its house, and what a test does behind it."""

    def __init__(self, desk: Desk, system: ActorSystem, store: MemoryStore, seen: list[Any], ada: list[Ada]) -> None:
        self.desk, self.system, self.store, self.seen, self.actors = desk, system, store, seen, ada
        self.house: Any = desk.house
        self.lease: Any = None

    async def start(self) -> None:
        """Let the agent begin its first pending job."""
        claim = port.ClaimJobs("agent:ada", "agent", ("agent:ada",), "boot-1", NOW, NOW + 1)
        (((self.lease),),) = await self.store.commit([claim])

    async def end(self, status: Any = "completed", reason: str | None = None, **more: Any) -> None:
        await self.store.commit([port.FinishJobs((port.Finish(self.lease, status, reason, **more),), NOW)])

    def tell(self, kind: str, **data: Any) -> None:
        """Tell something live about the job that runs."""
        self.house.bus.publish([Event(at=NOW, type=kind, subject=self.lease.id, data=data)])

    def asked(self, kind: type) -> list[Any]:
        return [message for message in self.seen if isinstance(message, kind)]


@pytest.fixture
def stage() -> Callable[[], Any]:
    @asynccontextmanager
    async def run() -> AsyncIterator[Stage]:
        store, bus, seen, ada = MemoryStore(), EventBus(), [], []
        await store.open()
        store.listen(bus.publish)
        house: Any = SimpleNamespace(
            boot="boot-1",
            home="/home",
            store=store,
            bus=bus,
            clock=VirtualClock(start_ms=NOW),
            loaded=SimpleNamespace(settings=Settings(), path="/home/config.toml"),
            board=Board(),
            pid=42,
            started_at=NOW - 5_000,
            counts={},
            workers={},
            repairs={},
            store_trouble=None,
            draining=False,
            troubles=list,
        )

        def make() -> Ada:
            ada.append(Ada())
            return ada[-1]

        children = (ChildSpec("queue", lambda: Clerk(store, seen)), ChildSpec("agent:ada", make))
        system = ActorSystem(SupervisorSpec("root", children=children), clock=house.clock)
        watchdog: Any = SimpleNamespace(lag_ms=1.5, blocked=None)
        async with anyio.create_task_group() as tasks:
            await tasks.start(system.run)
            desk = Desk(house, system, watchdog)
            desk.ready = True
            try:
                yield Stage(desk, system, store, seen, ada)
            finally:
                system.stop()
        await store.close()

    return run


async def read(parts: Any, until: str) -> list[StreamPart]:
    """Read *parts* up to the first of a kind."""
    found: list[StreamPart] = []
    with anyio.fail_after(30):
        while not found or found[-1].kind != until:
            found.append(await anext(parts))
    return found


def kinds(parts: list[StreamPart]) -> list[str]:
    return [part.kind for part in parts]


# -- health and status -------------------------------------------------------------------------------------------------


async def test_a_daemon_that_does_its_work_is_ok(stage: Any) -> None:
    async with stage() as s:
        view = s.desk.health()
        assert (view.health, view.reasons, view.loop_lag_ms) == ("ok", (), 1.5)


async def test_health_says_what_is_wrong_and_the_gravest_first(stage: Any) -> None:
    async with stage() as s:
        s.house.store_trouble = "no space left"
        s.house.troubles = lambda: ["the MCP server maps is not up: it was stopped"]
        s.desk.watchdog.blocked = {"actor": "agent:sly", "message": "m", "seconds": 3.21, "stack": ""}
        s.system.quarantine("agent:ada", "it broke")
        with anyio.fail_after(5):
            while s.system.cell("agent:ada").state != "quarantined":
                await anyio.lowlevel.checkpoint()
        view = s.desk.health()
        assert view.health == "degraded"
        assert view.reasons == (
            "the store refuses writes: no space left",
            "the event loop is blocked for 3.2 s by agent:sly",
            "agent:ada is quarantined: it broke",
            "the MCP server maps is not up: it was stopped",
        )
        s.desk.safe_mode = "the last 3 starts failed"
        assert (s.desk.health().health, s.desk.health().reasons[0]) == ("safe_mode", "the last 3 starts failed")
        s.desk.ready = False
        assert s.desk.health().health == "starting"
        s.house.draining = True
        assert s.desk.health().health == "draining"


async def test_status_is_one_screen(stage: Any) -> None:
    async with stage() as s:
        s.house.counts |= {"default": {"pending": 2, "active": 0}}
        s.house.workers |= {"w1": 1, "w2": 0}
        s.house.repairs |= {"counts": 2}
        view = s.desk.status()
        assert (view.pid, view.boot, view.durability, view.uptime) == (42, "boot-1", "full", 5.0)
        assert view.agents == {"total": 1, "running": 1, "quarantined": 0}
        assert view.workers == {"total": 2, "busy": 1, "idle": 1}
        assert view.queues == {"default": {"pending": 2}}
        assert view.repairs == {"counts": 2}


async def test_hello_and_the_tree_name_who_is_there(stage: Any) -> None:
    async with stage() as s:
        assert s.desk.hello().pid == 42
        assert [child.name for child in s.desk.tree().children] == ["queue", "agent:ada"]


# -- asking and telling ------------------------------------------------------------------------------------------------


async def test_an_agent_is_found_by_its_own_name_too(stage: Any) -> None:
    async with stage() as s:
        assert s.desk.find("ada").name == s.desk.find("agent:ada").name == "agent:ada"
        with pytest.raises(NoSuchActor):
            s.desk.find("bob")


async def test_a_request_is_answered_and_a_message_is_delivered(stage: Any) -> None:
    async with stage() as s:
        assert await s.desk.ask("ada", Twice(n=4), timeout=5.0, key=None) == 8
        assert await s.desk.ask("ada", Note(text="one"), timeout=5.0, key=None) is None
        assert await s.desk.tell("ada", Note(text="two"), key=None) is None
        assert await s.desk.ask("ada", Twice(n=1), timeout=5.0, key=None) == 2
        assert s.actors[-1].notes == ["one", "two"]


async def test_a_durable_message_becomes_a_job_under_its_key(stage: Any) -> None:
    async with stage() as s:
        submitted = await s.desk.tell("ada", Keep(text="hi"), key="k")
        assert submitted.status == "pending"
        args = {"agent": "ada", "type": "desk_test.keep", "message": {"text": "hi"}}
        assert s.asked(SubmitJob) == [SubmitJob(job=NewJob(kind="agent.message", args=args, key="k"))]


async def test_whoever_asks_durably_gets_the_jobs_result(stage: Any) -> None:
    async with stage() as s, anyio.create_task_group() as tasks:
        found: list[Any] = []

        async def ask() -> None:
            found.append(await s.desk.ask("ada", Keep(text="hi"), timeout=30.0, key=None))

        tasks.start_soon(ask)
        await job_is_there(s)
        await s.start()
        await s.end(result='"kept"')
        with anyio.fail_after(5):
            while not found:
                await anyio.lowlevel.checkpoint()
        assert found == ["kept"]


async def job_is_there(s: Stage) -> None:
    with anyio.fail_after(5):
        while not await s.store.jobs():
            await anyio.lowlevel.checkpoint()


async def test_a_durable_message_that_failed_is_told_as_its_own_problem(stage: Any) -> None:
    async with stage() as s:
        errors: list[JobFailed] = []

        async def ask() -> None:
            try:
                await s.desk.ask("ada", Keep(text="hi"), timeout=30.0, key=None)
            except JobFailed as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await job_is_there(s)
            await s.start()
            await s.end("failed", "permanent", error=problem("job.failed", "it broke").model_dump_json())
        assert str(errors[0]) == "it broke"
        assert errors[0].data["problem"]["code"] == "job.failed"


async def test_a_durable_message_outlives_the_patience_of_its_asker(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(AskTimeout) as caught:
            await s.desk.ask("ada", Keep(text="hi"), timeout=0.05, key=None)
        assert caught.value.data["job"] == "job-1"
        assert (await s.store.job("job-1")).status == "pending"
        assert s.asked(CancelJob) == []


async def test_a_daemon_that_drains_takes_no_new_work_and_still_answers(stage: Any) -> None:
    async with stage() as s:
        s.house.draining = True
        for refused in (
            lambda: s.desk.tell("ada", Keep(text="hi"), key=None),
            lambda: s.desk.ask("queue", SubmitJob(job=NewJob(kind="echo")), timeout=5.0, key=None),
            lambda: s.desk.ask("queue", SubmitJobs(jobs=(NewJob(kind="echo"),)), timeout=5.0, key=None),
        ):
            with pytest.raises(Draining) as caught:
                await refused()
            assert caught.value.retryable
        assert await s.desk.ask("ada", Twice(n=4), timeout=5.0, key=None) == 8


# -- a chat ------------------------------------------------------------------------------------------------------------


async def test_a_chat_is_accepted_started_streamed_and_done(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            (accepted,) = await read(parts, "accepted")
            assert accepted.data == {"job": "job-1", "conversation": "main"}
            await s.start()
            s.tell("turn.started", attempt=1)
            s.tell("turn.reasoning", text="hm")
            s.tell("turn.token", text="Hel")
            s.tell("turn.token", text="lo")
            assert kinds(await read(parts, "token")) == ["started", "reasoning", "token"]
            await s.end(result='{"text": "Hello", "model": "m"}')
            rest = await read(parts, "done")
            assert [(part.kind, part.data.get("text")) for part in rest] == [("token", "lo"), ("done", "Hello")]
            assert rest[-1].data["job"] == "job-1"
            with pytest.raises(StopAsyncIteration):
                await anext(parts)
        assert s.asked(CancelJob) == []


async def test_text_that_was_not_streamed_comes_before_the_end(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            await read(parts, "accepted")
            await s.start()
            s.tell("turn.started", attempt=1)
            s.tell("turn.token", text="Hel")
            await s.end(result='{"text": "Hello"}')
            found = await read(parts, "done")
        assert [(part.kind, part.data.get("text")) for part in found[1:]] == [
            ("token", "Hel"),
            ("token", "lo"),
            ("done", "Hello"),
        ]


async def test_an_attempt_that_failed_is_told_and_the_next_begins_the_text_anew(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            await s.start()
            s.tell("turn.started", attempt=1)
            s.tell("turn.token", text="Wro")
            await s.end("delayed", "retry", execute_after=NOW)
            await s.store.commit([port.PromoteDue(NOW)])
            await s.start()
            s.tell("turn.started", attempt=2)
            s.tell("turn.token", text="Right")
            await s.end(result='{"text": "Right"}')
            found = await read(parts, "done")
        assert kinds(found) == ["accepted", "started", "token", "waiting", "restarted", "token", "done"]
        assert found[3].data["reason"] == "retry"


async def test_a_text_that_turned_out_otherwise_is_told_anew(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            await s.start()
            s.tell("turn.token", text="Something else")
            await s.end(result='{"text": "Hello"}')
            found = await read(parts, "done")
        assert kinds(found) == ["accepted", "token", "restarted", "token", "done"]


async def test_a_chat_that_failed_ends_with_one_error(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            await s.start()
            await s.end("failed", "permanent", error=problem("llm.auth", "the key is refused").model_dump_json())
            found = await read(parts, "error")
        assert found[-1].data["code"] == "llm.auth"
        assert kinds(found).count("error") == 1


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("failed", "deadline", "job.deadline"),
        ("cancelled", "dependency", "job.dependency"),
        ("cancelled", "user", "job.cancelled"),
        ("failed", "permanent", "job.failed"),
    ],
)
def test_a_job_that_ended_without_an_error_of_its_own_is_told_by_its_reason(
    status: Any, reason: str, code: str
) -> None:
    view = JobView(
        id="j",
        name="echo",
        queue="default",
        status=status,
        reason=reason,
        priority=100,
        attempts=0,
        max_attempts=3,
        created_at=NOW,
        updated_at=NOW,
        execute_after=NOW,
    )
    assert problem_of(view).code == code


async def test_hanging_up_calls_the_job_off(stage: Any) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
            await read(parts, "accepted")
        assert [message.id for message in s.asked(CancelJob)] == ["job-1"]
        assert (await s.store.job("job-1")).status == "cancelled"


async def test_a_caller_who_is_cut_off_calls_the_job_off_too(stage: Any) -> None:
    async with stage() as s:
        with anyio.move_on_after(0.05):
            async with s.desk.chat("ada", Say(text="hi"), key=None, detach=False) as parts:
                async for _ in parts:
                    pass
        assert (await s.store.job("job-1")).status == "cancelled"


@pytest.mark.parametrize("why", ["detached", "the daemon stops"])
async def test_a_job_survives_a_caller_who_detached_and_the_daemons_own_end(stage: Any, why: str) -> None:
    async with stage() as s:
        async with s.desk.chat("ada", Say(text="hi"), key=None, detach=why == "detached") as parts:
            await read(parts, "accepted")
            s.house.draining = why != "detached"
        assert (await s.store.job("job-1")).status == "pending"


async def test_nobody_chats_with_an_agent_that_is_not_there(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(AgentNotFound) as caught:
            async with s.desk.chat("bob", Say(text="hi"), key=None, detach=False):
                pytest.fail("it was not refused")
        assert caught.value.data["known"] == ["ada"]


def test_a_conversation_hears_only_what_its_caller_wants_to_know() -> None:
    turn = Conversation("j", "main")
    heard = [turn.hear(Event(at=1, type=t, subject="j")) for t in ("job.enqueued", "job.started", "job.completed")]
    assert heard == [None, None, None]


# -- following a job and events ----------------------------------------------------------------------------------------


async def test_a_job_is_followed_to_its_end(stage: Any) -> None:
    async with stage() as s:
        await s.desk.tell("ada", Keep(text="hi"), key=None)
        async with s.desk.watch("job-1") as parts:
            await s.start()
            s.tell("job.progress", progress=0.5)
            s.tell("job.log", level="info", text="a line")
            await s.end(result="1")
            found = await read(parts, "done")
        assert kinds(found) == ["started", "progress", "log", "done"]
        assert found[-1].data["job"]["result"] == 1


async def test_a_job_that_has_ended_is_told_at_once(stage: Any) -> None:
    async with stage() as s:
        await s.desk.tell("ada", Keep(text="hi"), key=None)
        await s.start()
        await s.end("failed", "permanent")
        async with s.desk.watch("job-1") as parts:
            (done,) = await read(parts, "done")
        assert done.data["job"]["status"] == "failed"


async def test_a_flood_does_not_hide_the_end_of_a_job(stage: Any) -> None:
    async with stage() as s:
        await s.desk.tell("ada", Keep(text="hi"), key=None)
        async with s.desk.watch("job-1") as parts:
            await s.start()
            await read(parts, "started")
            await s.end(result="1")
            for n in range(3000):
                s.tell("job.log", level="info", text=str(n))
            assert (await read(parts, "done"))[-1].kind == "done"


async def test_nobody_follows_a_job_that_is_not_there(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(JobNotFound):
            async with s.desk.watch("job-9"):
                pytest.fail("it was not refused")
        assert not s.house.bus.listens("job-9")


async def test_events_carry_their_cursor(stage: Any) -> None:
    async with stage() as s:
        await s.desk.tell("ada", Keep(text="hi"), key=None)
        async with s.desk.events(since=0, types=(), subject=None, follow=False) as parts:
            found = [part async for part in parts]
        assert [(part.kind, part.id, part.data["type"]) for part in found] == [("event", 1, "job.enqueued")]
        async with s.desk.events(since=1, types=("job.*",), subject="job-1", follow=True) as parts:
            await s.start()
            (live,) = await read(parts, "event")
        assert (live.id, live.data["type"]) == (2, "job.started")


async def test_a_cursor_that_is_too_old_is_refused_before_anything_is_told(stage: Any) -> None:
    async with stage() as s:
        for _ in range(5):
            await s.store.commit([port.AppendEvents((("a", "b", "{}"),), NOW)])
        await s.store.commit([port.PruneEvents(1)])
        with pytest.raises(EventsExpired):
            async with s.desk.events(since=1, types=(), subject=None, follow=False):
                pytest.fail("it was not refused")
