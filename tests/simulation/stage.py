"""What stands in for the machine: a disk that fails as it is told to, and processes that are played in the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio

from actors.kinds import Kind
from actors.reporter import Reporter
from actors.worker import BEATS_A_LEASE, Worker
from runtime.errors import StoreError, StoreFull, problem
from runtime.store.port import Change, Move
from schemas.events import Event
from schemas.jobs import Claimed, Outcome
from tests.simulation import acts

if TYPE_CHECKING:
    from tests.simulation.world import World

PGID: Final = 2**30
"""A process group that no machine has; nobody looks for it, for each daemon comes up on a machine started anew."""


class Disk:
    """The store as one daemon sees it: slow at times, refusing at times, and gone once the daemon is dead."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.dead = False
        self.listeners: list[Callable[[Sequence[Event]], None]] = []
        self.watchers: list[Callable[[Sequence[Move]], None]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.world.core, name)

        async def read(*args: Any, **fields: Any) -> Any:
            self._check()
            return await found(*args, **fields)

        return read

    def _check(self) -> None:
        if self.dead:
            raise StoreFull("this daemon is dead")
        if self.world.blind:
            raise StoreError("nothing can be read")

    def listen(self, listener: Callable[[Sequence[Event]], None]) -> None:
        self.listeners.append(listener)

    def watch(self, listener: Callable[[Sequence[Move]], None]) -> None:
        self.watchers.append(listener)

    async def open(self) -> None:
        self._check()
        await self.world.core.open()

    async def close(self) -> None:
        self.listeners.clear()
        self.watchers.clear()

    async def commit(self, changes: Sequence[Change]) -> list[Any]:
        world = self.world
        if world.chance.random() < 0.3:
            await anyio.sleep(world.chance.choice((0.001, 0.02, 0.2)))
        if self.dead:
            raise StoreFull("this daemon is dead")
        if world.refusal is not None:
            raise world.refusal("it refuses")
        results = await self._apply(changes)
        if world.deaf:
            world.deaf -= 1
            raise StoreError("it was written, and nobody heard of it")
        return results

    async def _apply(self, changes: Sequence[Change]) -> list[Any]:
        """Apply *changes*; for a negative control some are altered, or only said to have been done."""
        core, sabotage = self.world.core, self.world.sabotage
        if sabotage is None:
            return await core.commit(changes)
        altered = [sabotage(change) for change in changes]
        results = iter(await core.commit([change for change in altered if not isinstance(change, Lie)]))
        return [change.result if isinstance(change, Lie) else next(results) for change in altered]


@dataclass(frozen=True, slots=True)
class Lie:
    """A change that is not made, and what is answered as if it were."""

    result: Any


class Player(Worker):
    """A worker whose child processes are played in the loop: they beat on their leash, freeze, and die."""

    async def _in_child(self, kind: Kind, job: Claimed, reporter: Reporter) -> Outcome:
        lease = self.house.loaded.settings.runtime.lease / 1000

        async def beat() -> None:
            while True:
                if job.id not in acts.frozen:
                    reporter.beat()
                await anyio.sleep(lease / BEATS_A_LEASE)

        if not await reporter.started(PGID, 1):
            return Outcome(ok=False, refund=True)
        with anyio.CancelScope(deadline=anyio.current_time() + (self._seconds(job) or 10**9)) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(beat)
                try:
                    return await self._in_loop(kind, job, reporter)
                except acts.ProcessDied:
                    why = problem("job.crashed", "its process was killed by a signal")
                    return Outcome(ok=False, error=why, error_class="lost", crash=True)
                finally:
                    tasks.cancel_scope.cancel()
        assert scope.cancelled_caught
        return self._timed_out(job)
