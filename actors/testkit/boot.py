"""One daemon in memory: the whole tree but for the control socket, from its start to its end."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup, TaskStatus

from actors import tree
from actors.company import Company
from actors.testkit.props import GivenTools, PlayedModels, without_servers
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.core.actor import Actor
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.daemon import Parts
from runtime.errors import ActorError, StoreError
from runtime.events import EventBus
from runtime.llm.provider import Provider
from runtime.secrets import Redactor
from runtime.store.memory import MemoryStore
from runtime.tools.tool import Tool
from schemas.system import Happened

START: Final = 1_700_000_000_000
"""Wall time of the first start, in milliseconds."""
DOWN: Final = 1_000
"""Milliseconds from the end of one daemon to the start of the next."""


class Disk(MemoryStore):
    """What outlives a daemon. Of one that is `gone` nothing more arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = False

    async def commit(self, changes: Any) -> list[Any]:
        if self.gone:
            raise StoreError("this daemon is dead; nothing more of it reaches the disk")
        return await super().commit(changes)


@dataclass(slots=True)
class Plan:
    """What each daemon of a stage is made of."""

    config: Path
    home: Path
    models: Mapping[str, Provider]
    every: Provider | None
    tools: Mapping[str, Tool]
    servers: bool
    actors: dict[str, Actor] = field(default_factory=dict)
    disk: Disk = field(default_factory=Disk)


class Boot:
    """One daemon. *number* counts them; *now* is the wall time of its start."""

    def __init__(self, plan: Plan, number: int, now: int, heard: list[tuple[str, str, dict[str, Any]]]) -> None:
        self.plan, self.heard = plan, heard
        self.house = self._furnished(number, now)
        whole = tree.tree(self.house, lambda now: self.system.stop(now=now), (), safe=False)
        cast = SupervisorSpec("cast", children=tuple(spec_of(name, actor) for name, actor in plan.actors.items()))
        root = SupervisorSpec(whole.id, strategy=whole.strategy, children=(*whole.children, cast))
        self.system = ActorSystem(root, clock=self.house.clock, on_event=self._happened)
        self._over = anyio.Event()

    def _furnished(self, number: int, now: int) -> Company:
        plan = self.plan
        loaded = load(plan.config, {})
        if not plan.servers:
            loaded = type(loaded)(without_servers(loaded.settings), loaded.path, loaded.folder, loaded.origins)
        house = tree.company(
            Parts(
                boot=f"boot-{number}",
                home=plan.home,
                store=plan.disk,
                bus=EventBus(),
                clock=VirtualClock(seed=number, start_ms=now),
                redactor=Redactor(),
                loaded=loaded,
                started_at=now,
            )
        )
        house.models = PlayedModels(house, plan.models, plan.every)
        house.toolroom = GivenTools(house, plan.tools)
        return house

    def _happened(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        self.heard.append((kind, subject, data))
        if not self.plan.disk.gone and (kind, subject) != ("actor.dead_letter", "store"):
            with suppress(ActorError):
                facts = {key: value for key, value in data.items() if key != "traceback"}
                self.system.ref("store").tell_nowait(Happened(kind=kind, subject=subject, data=facts))

    async def start(self, tasks: TaskGroup) -> None:
        """Return when the whole tree is up."""
        self.plan.disk.gone = False
        await tasks.start(self._run)

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            await self.system.run(task_status=task_status)
        finally:
            self._over.set()

    async def stop(self) -> None:
        """Stop in order, as for `understudy down`. Raises AssertionError where something did not end in time."""
        self.house.draining = True
        self.system.stop()
        await self._over.wait()
        await self.house.models.close()
        if self.system.unstopped:
            raise AssertionError(f"the daemon stopped, but not in time: {', '.join(self.system.unstopped)}")

    async def die(self) -> None:
        """End at once, and have nothing more reach the disk, as after `kill -9`. Unlike there `finally` blocks run."""
        self.plan.disk.gone = True
        self.house.draining = True
        self.system.stop(now=True)
        await self._over.wait()

    def troubles(self) -> list[str]:
        """Return in words what of the user's is not as it should be: agents that did not start, tools that are not
        there.
        """
        found = []
        for name, settings in self.house.loaded.settings.agents.items():
            cell = self.system.cell(f"agent:{name}")
            if cell.state != "running":
                found.append(f"the agent {name} is {cell.state}: {cell.reason or cell.last_error}")
            missing = self.house.toolroom.toolbox(settings).missing
            found += [f"the agent {name} has no tool {tool}: {why}" for tool, why in missing.items()]
        return found


def spec_of(name: str, actor: Actor) -> ChildSpec:
    """Return a child that is the same object at each start."""
    make: Callable[[], Actor] = lambda: actor  # noqa: E731  # a factory, as everywhere
    return ChildSpec(name, make)
