"""The state-keeping actor: a draft, one commit, then the reply; saved states of yesterday; durable messages and their
blame.

The queue is played by the test, so that what the actor tells it can be looked at.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import anyio
import pytest

from runtime.attempt import Board
from runtime.clock import VirtualClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import ActorCrashed, ActorQuarantined, RequestInvalid, StoreFull, UnknownKind
from runtime.outcomes import Cancel, Fail, Retry, Snooze
from runtime.stateful import AgentState, StatefulActor
from runtime.store import port
from runtime.store.memory import MemoryStore
from schemas.agents import Say
from schemas.base import Message, Request
from schemas.jobs import Claimed, JobEnded, JobSettled, NewJob, RunJob, WorkerReady

NOW = 1_700_000_000_000
FULL = StoreFull("no space left")


class Add(Request[int], type="stateful_test.add", durable=True):
    n: int


class Do(Request[str], type="stateful_test.do", durable=True):
    what: str
    n: int = 0


class Look(Request[int], type="stateful_test.look"):
    """Tell the total."""


class Family(Message, type="stateful_test.family", durable=True):
    """What `Child` is derived from."""


class Child(Family, type="stateful_test.child", durable=True):
    pass


class Counter(StatefulActor):
    class State(AgentState):
        total: int = 0

    state: Any

    async def on_ready(self) -> None:
        self.state.general_notes = self.options.get("notes", self.state.general_notes)

    @handles
    def add(self, message: Add) -> int:
        self.state.total += message.n
        return self.state.total

    @handles
    def look(self, message: Look) -> int:
        return self.state.total

    @handles
    def family(self, message: Family) -> str:
        return "of the family"

    @handles
    def say(self, message: Say) -> str:
        self.state.total += len(message.text)
        return message.text.upper()

    @handles
    async def do(self, message: Do) -> Any:
        self.state.total += message.n
        match message.what:
            case "invalid":
                raise RequestInvalid("not like this")
            case "crash":
                raise ValueError("broken")
            case "retry":
                raise Retry(5.0)
            case "snooze":
                raise Snooze(7.0)
            case "fail":
                raise Fail("never")
            case "cancel":
                raise Cancel("not wanted")
            case "submit":
                return self.submit(NewJob(kind="echo", args={"n": message.n}))
            case "submit late":
                return self.submit(NewJob(kind="echo", delay_ms=500))
            case "submit wrong":
                return self.submit(NewJob(kind="nothing"))
            case "emit":
                self.emit("noted", n=message.n)
            case "wait":
                await self.options["gate"].hold()
            case "large":
                self.state.general_notes = "x" * 1024 * 1024
            case "large answer":
                return "x" * (1024 * 1024 + 1)
            case "wrong type":
                self.state.total = "many"
        return "done"


class Gate:
    """Holds a handler in its middle until the test lets it go on."""

    def __init__(self) -> None:
        self.reached, self.opened = anyio.Event(), anyio.Event()

    async def hold(self) -> None:
        self.reached.set()
        await self.opened.wait()


class Ear(Actor):
    """Plays the queue: it hears what workers tell."""

    def __init__(self, heard: list[Any]) -> None:
        self.heard = heard

    @handles
    def hear(self, message: WorkerReady | JobEnded | JobSettled) -> None:
        self.heard.append(message)


class House:
    """What an actor needs of a house."""

    def __init__(self, store: MemoryStore) -> None:
        self.store, self.clock, self.board, self.boot = store, VirtualClock(), Board(), "boot-1"

    def prepare(self, job: NewJob, job_id: str, now: int) -> port.JobRow:
        if job.kind == "nothing":
            raise UnknownKind("there is no such kind")
        return port.JobRow(
            job_id, job.kind, "default", "loop", json.dumps(job.args), execute_after=now + job.delay_ms, key=job.key
        )


class Stage:
    """A counter on its stage, and what a test does to it."""

    def __init__(self, house: House, system: ActorSystem, heard: list[Any], happened: list[Any], gate: Gate) -> None:
        self.house, self.system, self.heard, self.happened, self.gate = house, system, heard, happened, gate
        self.store = house.store

    async def ask(self, message: Request[Any]) -> Any:
        return await self.system.ref("agent:ada").ask(message)

    async def saved(self) -> Any:
        row = await self.store.state("ada")
        return None if row is None else (json.loads(row.state)["total"], row.version)

    async def job(self, message: Message, conversation: str = "main") -> Claimed:
        """Make *message* a job of the actor, claimed and handed over; return the attempt."""
        args = json.dumps({"agent": "ada", "type": message.TYPE, "message": message.model_dump()})
        job_id = self.house.clock.new_id()
        row = port.JobRow(job_id, "agent.message", "agent:ada", "agent", args, conversation=conversation)
        claim = port.ClaimJobs("agent:ada", "agent", ("agent:ada",), "boot-1", NOW, NOW + 1)
        ((_,), (claimed,)) = await self.store.commit([port.InsertJobs((row,), NOW), claim])
        await self.system.ref("agent:ada").tell(RunJob(claimed))
        found: Claimed = claimed
        return found

    async def hears(self, kind: type) -> Any:
        """Wait until the queue has heard a message of *kind*; return the first and forget it."""
        with anyio.fail_after(30):
            while True:
                for message in self.heard:
                    if isinstance(message, kind):
                        self.heard.remove(message)
                        return message
                await anyio.sleep(0.001)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [data for found, name, data in self.happened if found == kind and name == "agent:ada"]

    async def events(self, *types: str) -> list[tuple[str, Any]]:
        return [(event.type, event.data) for event in await self.store.events(after=0, types=types)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def stage(store: MemoryStore) -> Callable[..., Any]:
    @asynccontextmanager
    async def run(kind: type[StatefulActor] = Counter, **options: Any) -> AsyncIterator[Stage]:
        await store.open()
        house, heard, happened, gate = House(store), [], [], Gate()

        def make() -> Actor:
            return kind().place(house, {"gate": gate} | options)  # type: ignore[arg-type]  # all that the actor needs of a house

        children = (ChildSpec("queue", lambda: Ear(heard)), ChildSpec("agent:ada", make, shutdown=1.0))
        root = SupervisorSpec("root", children=children, on_exhausted="quarantine")
        system = ActorSystem(root, clock=house.clock, on_event=lambda *event: happened.append(event))
        async with anyio.create_task_group() as tasks:
            await tasks.start(system.run)
            try:
                yield Stage(house, system, heard, happened, gate)
            finally:
                system.stop()
        await store.close()

    return run


# -- one commit for a step ---------------------------------------------------------------------------------------------


async def test_the_reply_leaves_when_the_new_state_is_on_the_disk(stage: Any) -> None:
    async with stage() as s:
        assert await s.ask(Add(n=2)) == 2
        assert await s.saved() == (2, 1)
        assert await s.ask(Add(n=3)) == 5
        assert await s.saved() == (5, 2)


async def test_a_step_that_changes_nothing_writes_nothing(stage: Any, store: MemoryStore) -> None:
    async with stage() as s:
        assert await s.ask(Look()) == 0
        assert await s.saved() is None
        await s.ask(Add(n=1))
        await s.ask(Add(n=0))
        await s.ask(Look())
        assert await s.saved() == (1, 1)


async def test_a_refusal_drops_the_draft_and_the_actor_lives(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        with pytest.raises(RequestInvalid):
            await s.ask(Do(what="invalid", n=100))
        assert await s.ask(Look()) == 1
        assert await s.saved() == (1, 1)
        assert s.system.cell("agent:ada").incarnation == 1


async def test_a_refusal_drops_what_the_step_wanted_to_send_too(stage: Any) -> None:
    class Careless(Counter):
        @handles
        def do(self, message: Do) -> str:
            self.submit(NewJob(kind="echo"))
            self.emit("noted")
            raise RequestInvalid("after all not")

    async with stage(Careless) as s:
        with pytest.raises(RequestInvalid):
            await s.ask(Do(what=""))
        await s.ask(Add(n=1))
        assert await s.store.jobs() == ()
        assert await s.events("agent.*") == []


async def test_a_crash_reloads_the_state_as_it_was_last_committed(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        with pytest.raises(ActorCrashed):
            await s.ask(Do(what="crash", n=100))
        assert await s.ask(Look()) == 1
        assert s.system.cell("agent:ada").incarnation == 2


async def test_a_value_of_the_wrong_type_never_reaches_the_disk(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        with pytest.raises(ActorCrashed):
            await s.ask(Do(what="wrong type"))
        assert await s.saved() == (1, 1)


async def test_an_asker_who_leaves_takes_the_draft_along(stage: Any) -> None:
    async with stage() as s:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.ask, Do(what="wait", n=100))
            await s.gate.reached.wait()
            tasks.cancel_scope.cancel()
        assert await s.ask(Look()) == 0
        assert await s.saved() is None


async def test_a_state_that_is_too_large_is_refused_and_the_old_one_stays(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        with pytest.raises(RequestInvalid, match="at most"):
            await s.ask(Do(what="large"))
        assert await s.ask(Add(n=1)) == 2


async def test_a_store_that_is_full_refuses_the_step_and_nothing_is_lost_of_the_old_state(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        s.store.fail_next(FULL)
        with pytest.raises(StoreFull):
            await s.ask(Add(n=100))
        assert await s.ask(Look()) == 1
        assert await s.ask(Add(n=1)) == 2


async def test_a_state_that_somebody_else_saved_meanwhile_is_reloaded_and_not_overwritten(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        foreign = Counter.State(total=50).model_dump_json()
        await s.store.commit([port.SaveState("ada", foreign, 1, 1, "boot-1", 1, NOW)])
        with pytest.raises(Exception, match="version"):
            await s.ask(Add(n=1))
        assert await s.ask(Look()) == 50
        assert await s.ask(Add(n=1)) == 51


async def test_an_incarnation_that_was_replaced_can_write_nothing(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        newer = Counter.State(total=7).model_dump_json()
        await s.store.commit([port.SaveState("ada", newer, 1, 1, "boot-1", 5, NOW)])
        with pytest.raises(Exception, match=r"version|replaced"):
            await s.ask(Add(n=1))
        assert await s.saved() == (7, 2)


async def test_what_getting_ready_changed_is_written_with_the_first_message(stage: Any) -> None:
    async with stage(notes="ready") as s:
        assert await s.saved() is None
        await s.ask(Look())
        row = await s.store.state("ada")
        assert json.loads(row.state)["general_notes"] == "ready"


async def test_what_getting_ready_changed_outlives_a_refusal(stage: Any) -> None:
    async with stage(notes="ready") as s:
        with pytest.raises(RequestInvalid):
            await s.ask(Do(what="invalid"))
        await s.ask(Add(n=1))
        row = await s.store.state("ada")
        assert json.loads(row.state)["general_notes"] == "ready"


# -- what a step sends -------------------------------------------------------------------------------------------------


async def test_a_job_and_the_state_that_asked_for_it_are_one_commit(stage: Any) -> None:
    async with stage() as s:
        job = await s.ask(Do(what="submit", n=4))
        view = await s.store.job(job)
        assert (view.status, view.payload, await s.saved()) == ("pending", {"n": 4}, (4, 1))


async def test_whoever_watches_the_store_hears_of_a_job_that_a_step_sent(stage: Any) -> None:
    async with stage() as s:
        moves: list[port.Move] = []
        s.store.watch(moves.extend)
        job = await s.ask(Do(what="submit late"))
        due = (await s.store.job(job)).execute_after
        assert moves == [port.Move("default", "loop", None, "delayed", 1, due)]


async def test_a_job_that_the_door_refuses_refuses_the_step(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(UnknownKind):
            await s.ask(Do(what="submit wrong", n=5))
        assert await s.saved() is None


async def test_neither_job_nor_state_is_there_when_the_commit_failed(stage: Any) -> None:
    async with stage() as s:
        s.store.fail_next(FULL)
        with pytest.raises(StoreFull):
            await s.ask(Do(what="submit", n=4))
        assert await s.store.jobs() == ()
        await s.ask(Add(n=1))
        assert await s.store.jobs() == ()


async def test_an_event_is_told_with_the_commit(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Do(what="emit", n=3))
        assert await s.events("agent.*") == [("agent.noted", {"n": 3})]
        s.store.fail_next(FULL)
        with pytest.raises(StoreFull):
            await s.ask(Do(what="emit", n=4))
        assert len(await s.events("agent.*")) == 1


# -- saved states ------------------------------------------------------------------------------------------------------


def saved(state: dict[str, Any], version: int = 1) -> port.SaveState:
    return port.SaveState("ada", json.dumps(state), version, 0, "boot-0", 1, NOW)


async def test_a_state_outlives_the_daemon(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=4))
    async with stage() as s:
        assert await s.ask(Look()) == 4


async def test_a_state_of_yesterday_is_brought_up_to_date_step_by_step(stage: Any, store: MemoryStore) -> None:
    class Grown(Counter):
        STATE_VERSION = 3
        UPGRADES: ClassVar[dict[int, Any]] = {
            1: lambda old: {"total": old["count"]},
            2: lambda old: old | {"total": old["total"] * 10},
        }

    await store.open()
    await store.commit([saved({"count": 4})])
    async with stage(Grown) as s:
        assert await s.ask(Look()) == 40
        assert (await store.state("ada")).schema_version == 1  # nothing changed, so nothing was written
        await s.ask(Add(n=1))
        row = await store.state("ada")
        assert (json.loads(row.state)["total"], row.schema_version) == (41, 3)


@pytest.mark.parametrize(
    ("state", "version", "says"),
    [
        ({"total": "many"}, 1, "total"),
        ({"nothing": 1}, 1, "nothing"),
        ({"total": 1}, 9, "version 9"),
        ([], 1, "does not fit"),
    ],
    ids=["wrong type", "unknown field", "newer than the code", "no object"],
)
async def test_a_state_that_cannot_be_read_parks_the_actor_and_is_kept(
    stage: Any, store: MemoryStore, state: Any, version: int, says: str
) -> None:
    await store.open()
    await store.commit([saved(state, version)])
    async with stage() as s:
        cell = s.system.cell("agent:ada")
        assert cell.state == "quarantined"
        assert says in (cell.reason or "")
        with pytest.raises(ActorQuarantined):
            await s.ask(Look())
        assert json.loads((await store.state("ada")).state) == state


async def test_an_upgrade_that_is_missing_parks_the_actor(stage: Any, store: MemoryStore) -> None:
    class Grown(Counter):
        STATE_VERSION = 3
        UPGRADES: ClassVar[dict[int, Any]] = {1: lambda old: old}

    await store.open()
    await store.commit([saved({"total": 1})])
    async with stage(Grown) as s:
        assert "how state 2 becomes 3" in (s.system.cell("agent:ada").reason or "")


async def test_an_upgrade_that_raises_parks_the_actor_and_does_not_crash_it_for_ever(
    stage: Any, store: MemoryStore
) -> None:
    class Grown(Counter):
        STATE_VERSION = 2
        UPGRADES: ClassVar[dict[int, Any]] = {1: lambda old: {"total": old["not there"]}}

    await store.open()
    await store.commit([saved({"total": 1})])
    async with stage(Grown) as s:
        cell = s.system.cell("agent:ada")
        assert (cell.state, cell.restarts) == ("quarantined", 0)


# -- durable messages --------------------------------------------------------------------------------------------------


async def test_an_actor_says_that_it_takes_durable_messages_and_runs_the_users_code(stage: Any) -> None:
    async with stage() as s:
        ready = await s.hears(WorkerReady)
        assert (ready.worker, ready.lane, ready.queue) == ("agent:ada", "agent", "agent:ada")
        assert (ready.slots, ready.user_code, ready.incarnation) == (1, True, 1)


async def test_a_durable_message_and_the_state_it_changed_are_one_commit(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Add(n=5))
        assert await s.hears(JobSettled) == JobSettled(lease)
        view = await s.store.job(lease.id)
        assert (view.status, view.result, await s.saved()) == ("completed", 5, (5, 1))
        assert not [one for one in s.heard if isinstance(one, JobEnded)]


async def test_words_are_answered_in_the_shape_of_an_answer(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Say(text="hi", conversation="trip"), "trip")
        await s.hears(JobSettled)
        result = (await s.store.job(lease.id)).result
        assert (result["text"], result["conversation"]) == ("HI", "trip")


async def test_a_handler_of_a_base_class_takes_durable_messages_as_it_takes_others(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Child())
        await s.hears(JobSettled)
        assert (await s.store.job(lease.id)).result == "of the family"


async def test_a_commit_that_failed_writes_neither_state_nor_end_and_its_job_does_not_hang(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Do(what="wait", n=5))
        await s.gate.reached.wait()
        s.store.fail_next(FULL)
        s.gate.opened.set()
        ended = await s.hears(JobEnded)
        assert (ended.lease, ended.outcome.error_class) == (lease, "transient")
        assert (await s.store.job(lease.id)).status == "active"
        assert await s.saved() is None
        assert await s.ask(Look()) == 0


async def test_a_state_that_is_too_large_fails_its_message_for_good(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Do(what="large"))
        ended = await s.hears(JobEnded)
        assert (ended.lease, ended.outcome.error_class) == (lease, "permanent")
        assert await s.ask(Add(n=1)) == 1


async def test_an_answer_that_is_too_large_fails_its_message_for_good(stage: Any) -> None:
    async with stage() as s:
        await s.job(Do(what="large answer", n=9))
        ended = await s.hears(JobEnded)
        assert (ended.outcome.error_class, ended.outcome.error.code) == ("permanent", "job.result_too_large")
        assert await s.ask(Look()) == 0


async def test_a_lease_that_was_lost_takes_the_state_back(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Do(what="wait", n=5))
        await s.gate.reached.wait()
        await s.store.commit([port.FinishJobs((port.Finish(lease, "pending", refund=True),), NOW)])
        s.gate.opened.set()
        ended = await s.hears(JobEnded)
        assert ended.outcome.error_class == "lost"
        assert await s.saved() is None
        assert await s.ask(Look()) == 0
        assert s.told("actor.crashed") == []


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("retry", {"error_class": "transient", "retry_after_ms": 5000}),
        ("snooze", {"snooze": True, "retry_after_ms": 7000}),
        ("fail", {"error_class": "permanent"}),
        ("cancel", {"error_class": "cancelled"}),
        ("invalid", {"error_class": "permanent"}),
    ],
)
async def test_a_word_about_its_job_is_no_crash_of_the_actor(stage: Any, what: str, expected: dict[str, Any]) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        lease = await s.job(Do(what=what, n=100))
        ended = await s.hears(JobEnded)
        assert ended.lease == lease
        assert {name: getattr(ended.outcome, name) for name in expected} == expected
        assert await s.ask(Look()) == 1
        assert s.told("actor.crashed") == []


async def test_a_crash_over_a_durable_message_is_blamed_on_the_message(stage: Any) -> None:
    async with stage() as s:
        for _ in range(8):
            lease = await s.job(Do(what="crash", n=100))
            ended = await s.hears(JobEnded)
            assert (ended.lease, ended.outcome.error_class) == (lease, "bug")
            await s.store.commit([port.FinishJobs((port.Finish(lease, "failed", "exhausted"),), NOW)])
            if s.system.cell("agent:ada").state == "quarantined":
                break
        assert s.system.cell("agent:ada").state == "quarantined"  # eight different messages, so it is the actor


async def test_one_poisonous_message_never_parks_the_actor(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Do(what="crash"))
        row = await s.store.job(lease.id)
        for epoch in range(2, 12):
            ended = await s.hears(JobEnded)
            assert ended.lease.id == lease.id
            back = port.FinishJobs((port.Finish(ended.lease, "pending", refund=True),), NOW)
            claim = port.ClaimJobs("agent:ada", "agent", ("agent:ada",), "boot-1", NOW, NOW + 1)
            (_, (claimed,)) = await s.store.commit([back, claim])
            assert claimed.epoch == epoch
            await s.system.ref("agent:ada").tell(RunJob(claimed))
        await s.hears(JobEnded)
        assert s.system.cell("agent:ada").state == "running"
        assert await s.ask(Look()) == 0
        assert row is not None


async def test_a_message_that_nobody_handles_fails_and_the_actor_lives(stage: Any) -> None:
    class Other(Message, type="stateful_test.other", durable=True):
        pass

    async with stage() as s:
        await s.job(Other())
        ended = await s.hears(JobEnded)
        assert (ended.outcome.error_class, ended.outcome.error.code) == ("permanent", "message.unhandled")
        assert "job.run" not in ended.outcome.error.data["known"]
        assert await s.ask(Look()) == 0


async def test_a_wish_in_the_middle_of_a_handler_ends_it_and_drops_the_draft(stage: Any) -> None:
    async with stage() as s:
        await s.ask(Add(n=1))
        lease = await s.job(Do(what="wait", n=100))
        await s.gate.reached.wait()
        assert s.house.board.cancel(lease.id, lease.epoch)
        ended = await s.hears(JobEnded)
        assert (ended.lease, ended.outcome.error_class) == (lease, "cancelled")
        assert await s.ask(Look()) == 1
        assert await s.saved() == (1, 1)
        assert s.told("actor.crashed") == []


async def test_a_wish_that_was_there_first_keeps_the_handler_from_beginning(stage: Any) -> None:
    async with stage() as s:
        s.system.suspend("agent:ada")
        lease = await s.job(Add(n=100))
        assert not s.house.board.cancel(lease.id, lease.epoch)
        s.system.resume("agent:ada")
        ended = await s.hears(JobEnded)
        assert ended.outcome.error_class == "cancelled"
        assert await s.ask(Look()) == 0


async def test_a_stop_in_the_middle_of_a_handler_gives_the_attempt_back(stage: Any) -> None:
    async with stage() as s:
        lease = await s.job(Do(what="wait", n=100))
        await s.gate.reached.wait()
        await s.system.stop_child("agent:ada")
        ended = await s.hears(JobEnded)
        assert (ended.lease, ended.outcome.refund) == (lease, True)
        assert await s.saved() is None


async def test_a_message_for_an_incarnation_that_is_gone_is_left_alone(stage: Any) -> None:
    async with stage() as s:
        s.system.suspend("agent:ada")
        lease = await s.job(Add(n=1))
        stale = s.system.ref("agent:ada").cell.mailbox.queue.pop()[0]
        s.system.resume("agent:ada")
        await s.system.ref("agent:ada").tell(replace(stale, incarnation=7))
        assert await s.ask(Look()) == 0
        assert (await s.store.job(lease.id)).status == "active"
