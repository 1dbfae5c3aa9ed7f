"""The table of the lifecycle, and that cells keep to it."""

import random
from contextlib import suppress

import anyio
import pytest

from runtime.clock import SystemClock
from runtime.core.actor import LIFECYCLE, Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import ActorQuarantined, ActorStopped, MailboxFull, UnderstudyError
from runtime.policies import Backoff, RestartLimit
from schemas.agents import Lifecycle
from schemas.base import Message, Request, literals


class Work(Request[int], type="actor.work"):
    how: int


class Note(Message, type="actor.note", overflow="reject"):
    pass


def test_every_state_is_in_the_table_and_every_move_leads_to_one():
    states = set(literals(Lifecycle))
    assert set(LIFECYCLE) == states
    assert all(moves <= states for moves in LIFECYCLE.values())
    assert LIFECYCLE["stopped"] == {"starting"}, "only a person starts what has stopped"
    assert not any("new" in moves for moves in LIFECYCLE.values())


async def test_a_move_that_the_table_does_not_allow_is_a_fault_of_the_kernel():
    system = ActorSystem(SupervisorSpec("root", (ChildSpec("a", Actor),)), clock=SystemClock())
    with pytest.raises(AssertionError, match="a: new -> running"):
        system.ref("a").cell.move("running")


class Moody(Actor):
    """Answers, dawdles, crashes, leaves, or starts a task that crashes, as told."""

    @handles
    async def work(self, message: Work) -> int:
        match message.how % 6:
            case 0:
                await anyio.sleep(0.001)
            case 1:
                await anyio.sleep(0.02)
            case 2:
                raise ValueError("moody")
            case 3:
                self.ctx.stop_self()
            case 4:
                self.ctx.start(self._crash, name="crash")
                await anyio.sleep(0.005)
        return message.how

    async def _crash(self) -> None:
        await anyio.sleep(0.001)
        raise KeyError("task")

    @handles
    def note(self, message: Note) -> None:
        return None


@pytest.mark.parametrize("seed", range(8))
async def test_every_ask_ends_whatever_is_done_to_the_actors(seed):
    """Askers leave; actors crash, are suspended, restarted, parked and stopped. Nobody is left, no move is wrong."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"]

    def limit() -> RestartLimit:
        return RestartLimit(allowed=4, backoff=Backoff(base=0.001, max=0.01))

    inner = SupervisorSpec(
        "inner",
        tuple(ChildSpec(name, Moody, shutdown=0.05, mailbox=4) for name in names[2:]),
        strategy=chance.choice(["one_for_all", "rest_for_one"]),
        limit=limit,
    )
    children = (*(ChildSpec(name, Moody, shutdown=0.05, mailbox=4) for name in names[:2]), inner)
    root = SupervisorSpec("root", children, on_exhausted="quarantine", limit=limit)
    system = ActorSystem(root, clock=SystemClock())
    outcomes: list[object] = []

    async def ask(name: str, how: int) -> None:
        with anyio.move_on_after(chance.choice([0.0005, 0.01, 5.0])):
            try:
                outcomes.append(await system.ref(name).ask(Work(how=how), timeout=chance.choice([0.005, 1.0])))
            except UnderstudyError as error:
                outcomes.append(type(error).__name__)
            return
        outcomes.append("left")

    async def meddle() -> None:
        for _ in range(25):
            await anyio.sleep(chance.random() * 0.01)
            name = chance.choice(names)
            match chance.randrange(5):
                case 0:
                    system.suspend(name)
                case 1:
                    system.quarantine(name, "meddling")
                case 2:
                    await system.restart_child(name)
                case _:
                    system.resume(name)

    async with anyio.create_task_group() as group:
        await group.start(system.run)
        async with anyio.create_task_group() as askers:
            askers.start_soon(meddle)
            for _ in range(150):
                askers.start_soon(ask, chance.choice(names), chance.randrange(6))
                await anyio.sleep(chance.random() * 0.002)
                with suppress(MailboxFull, ActorQuarantined, ActorStopped):
                    system.ref(chance.choice(names)).tell_nowait(Note())
        system.stop()
    assert len(outcomes) == 150
    assert system.unstopped == []
    assert {system.cell(name).state for name in names} == {"stopped"}
    assert all(system.ref(name).cell.life is None for name in names)
