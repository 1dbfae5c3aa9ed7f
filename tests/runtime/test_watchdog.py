"""The watchdog: it sees a loop that stands still from outside, names who holds it, and says when it is free again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import anyio
import pytest

from runtime import watchdog
from runtime.clock import SystemClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.daemon import who_is_at_work
from runtime.watchdog import Watchdog
from schemas.base import Request

PATIENCE = 20.0


class Block(Request[str], type="watchdog_test.block"):
    """Hold the loop until somebody lets go."""


class Blocker(Actor):
    def __init__(self, free: threading.Event) -> None:
        self.free = free

    @handles
    def block(self, message: Block) -> str:
        return "freed" if self.free.wait(PATIENCE) else "nobody noticed"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "CHECK_EVERY", 0.01)
    monkeypatch.setattr(watchdog, "BLOCKED_AFTER", 0.1)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the watchdog logs."""
    lines: list[tuple[str, dict[str, Any]]] = []

    class Logger:
        def error(self, event: str, **facts: Any) -> None:
            lines.append((event, facts))

        warning = error

    monkeypatch.setattr(watchdog, "logger", Logger())
    return lines


@pytest.fixture
def watch() -> Iterator[Callable[..., Watchdog]]:
    made: list[Watchdog] = []

    def start(suspect: Callable[[FrameType], Any] = lambda frame: None) -> Watchdog:
        made.append(Watchdog(suspect))
        made[-1].start(asyncio.get_running_loop())
        return made[-1]

    yield start
    for dog in made:
        dog.stop()


def wait_for(holds: Callable[[], Any]) -> Any:
    """Poll from a thread that is not the loop's."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.002)
    return None


async def test_a_lively_loop_is_left_alone(watch: Any, told: Any) -> None:
    dog = watch()
    assert await anyio.to_thread.run_sync(wait_for, lambda: dog.lag_ms > 0)
    assert (dog.blocked, told) == (None, [])
    assert dog.lag_ms < 100


async def test_a_blocked_loop_is_told_with_the_actor_the_message_and_the_stack(watch: Any, told: Any) -> None:
    dog, free, seen = watch(who_is_at_work), threading.Event(), []

    def notice() -> None:
        seen.append(wait_for(lambda: dog.blocked))
        free.set()

    witness = threading.Thread(target=notice)
    root = SupervisorSpec("root", children=(ChildSpec("agent:sly", lambda: Blocker(free)),))
    system = ActorSystem(root, clock=SystemClock())
    async with anyio.create_task_group() as tasks:
        await tasks.start(system.run)
        witness.start()
        assert await system.ref("agent:sly").ask(Block()) == "freed"
        system.stop()
    witness.join()
    (blocked,) = seen
    assert (blocked["actor"], blocked["message"]) == ("agent:sly", "watchdog_test.block")
    assert blocked["seconds"] >= 0.1
    assert "self.free.wait" in blocked["stack"]
    assert await anyio.to_thread.run_sync(wait_for, lambda: dog.blocked is None)
    assert [event for event, _ in told] == ["loop_blocked", "loop_freed"]


async def test_a_block_that_is_nobodys_handler_is_told_as_unknown(watch: Any, told: Any) -> None:
    dog, seen = watch(who_is_at_work), []
    free = threading.Event()

    def notice() -> None:
        seen.append(wait_for(lambda: dog.blocked))
        free.set()

    witness = threading.Thread(target=notice)
    witness.start()
    assert free.wait(PATIENCE)  # in the loop's own thread, outside any actor
    witness.join()
    assert (seen[0]["actor"], seen[0]["message"]) == ("unknown", None)


async def test_how_long_it_blocks_goes_on_counting(watch: Any, told: Any) -> None:
    dog, free, seen = watch(), threading.Event(), []

    def notice() -> None:
        seen.append(wait_for(lambda: told and dog.blocked and dog.blocked["seconds"] > 0.3))
        free.set()

    witness = threading.Thread(target=notice)
    witness.start()
    assert free.wait(PATIENCE)
    witness.join()
    assert seen == [True]
    assert [event for event, _ in told][:1] == ["loop_blocked"]


async def test_a_stop_ends_the_thread_even_while_the_loop_is_blocked(watch: Any, told: Any) -> None:
    dog = watch()
    before = threading.active_count()
    dog.stop()
    dog.stop()
    assert threading.active_count() == before - 1


def test_a_loop_that_has_ended_is_not_watched_any_more(told: Any) -> None:
    dog = Watchdog(lambda frame: None)

    async def short() -> None:
        dog.start(asyncio.get_running_loop())

    asyncio.run(short())
    assert wait_for(lambda: not dog._thread.is_alive())
    dog.stop()
