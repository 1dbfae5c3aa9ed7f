"""Both event loops for every test of the kernel, a system that ends with its test, and actors to put into it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
import trio.testing

from runtime.clock import SystemClock
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.policies import Backoff, RestartLimit

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})
    return ("asyncio", {})


class Events(list[tuple[str, str, dict[str, Any]]]):
    """What the system told its listener."""

    def __init__(self) -> None:
        super().__init__()
        self.came = anyio.Event()

    def hear(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        self.append((kind, subject, data))
        came, self.came = self.came, anyio.Event()
        came.set()

    def of(self, kind: str, subject: str | None = None) -> list[dict[str, Any]]:
        return [data for at, whom, data in self if at == kind and subject in (None, whom)]

    def subjects(self, kind: str) -> list[str]:
        return [whom for at, whom, _ in self if at == kind]

    async def wait(self, kind: str, subject: str | None = None, count: int = 1) -> dict[str, Any]:
        """Return the data of the *count*th event of that kind as soon as there is one."""
        with anyio.fail_after(20):
            while len(found := self.of(kind, subject)) < count:
                await self.came.wait()
        return found[count - 1]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def running(events: Events) -> Running:
    """Start a system with the given children under a supervisor called `root`; it is stopped when the block ends."""

    @asynccontextmanager
    async def start(*children: ChildSpec | SupervisorSpec, **options: Any) -> AsyncIterator[ActorSystem]:
        options.setdefault("limit", quick_limit)
        root = SupervisorSpec(id="root", children=children, **options)
        system = ActorSystem(root, clock=SystemClock(), on_event=events.hear)
        async with anyio.create_task_group() as group:
            await group.start(system.run)
            try:
                yield system
            finally:
                system.stop()

    return start


def quick_limit() -> RestartLimit:
    return RestartLimit(allowed=3, backoff=Backoff(base=0.01, factor=2.0, max=0.05, jitter=0.0))
