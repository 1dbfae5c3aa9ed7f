"""The supervision tree as data: who stands under whom, and how each is restarted."""

import os
from collections.abc import Callable
from functools import partial

from actors.agent import Agent
from actors.company import Company
from actors.keeper import Keeper
from actors.kinds import Kinds
from actors.models import LocalModel, Models
from actors.queue import Queue
from actors.system import System
from actors.worker import Worker
from runtime.core.actor import Actor
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.daemon import Parts
from runtime.errors import LoadFailed
from runtime.loader import load_object
from runtime.stateful import StatefulActor
from schemas.jobs import Lane

LOOP_WORKERS_PER_CORE = 4


def company(parts: Parts) -> Company:
    """Furnish the house: what the daemon brings, with the kinds of job and the models that the configuration names."""
    settings = parts.loaded.settings
    kinds = Kinds(settings)
    models = Models(settings, parts.loaded.folder, parts.redactor, parts.clock, dict(os.environ))
    return Company(
        boot=parts.boot,
        home=parts.home,
        store=parts.store,
        bus=parts.bus,
        clock=parts.clock,
        redactor=parts.redactor,
        loaded=parts.loaded,
        started_at=parts.started_at,
        prepare=partial(kinds.prepare, inside=True),
        kinds=kinds,
        models=models,
    )


def tree(house: Company, stop: Callable[[bool], None], last: tuple[ChildSpec, ...], *, safe: bool) -> SupervisorSpec:
    """Return the whole tree. What a part needs stands before it: it starts later, is stopped earlier, and goes down
    with it.

    *last* are the daemon's own children (the control socket); in safe mode nobody of the user's is started.
    """
    drain = house.loaded.settings.runtime.drain / 1000
    agents = () if safe else tuple(agent_spec(house, name) for name in house.loaded.settings.agents)
    return SupervisorSpec(
        "root",
        strategy="rest_for_one",
        children=(
            ChildSpec("store", lambda: Keeper(house), mailbox=10_000, start_timeout=120.0),
            ChildSpec("queue", lambda: Queue(house), mailbox=10_000, start_timeout=60.0),
            SupervisorSpec("workers", children=() if safe else workers(house, drain)),
            SupervisorSpec("models", children=() if safe else local_models(house)),
            SupervisorSpec("agents", children=agents, on_exhausted="quarantine"),
            ChildSpec("system", lambda: System(house, stop, agent_spec)),
            *last,
        ),
    )


def workers(house: Company, drain: float) -> tuple[ChildSpec, ...]:
    """Return the pool: several in-loop workers a core, since they mostly wait, and one a core for child processes."""
    runtime, cores = house.loaded.settings.runtime, os.cpu_count() or 1
    sizes: tuple[tuple[Lane, int], ...] = (
        ("loop", runtime.pool or LOOP_WORKERS_PER_CORE * cores),
        ("child", runtime.child_pool or cores),
    )
    return tuple(worker_spec(house, lane, number, drain) for lane, size in sizes for number in range(1, size + 1))


def worker_spec(house: Company, lane: Lane, number: int, drain: float) -> ChildSpec:
    name = f"worker:{lane}-{number}"
    return ChildSpec(name, lambda: Worker(house, name, lane), shutdown=drain)


def local_models(house: Company) -> tuple[ChildSpec, ...]:
    """Return one actor for each local model that some agent speaks with."""
    return tuple(
        ChildSpec(f"model:{name}", lambda seat=seat: LocalModel(seat, house.redactor))  # type: ignore[misc]
        for name, seat in house.models.local.items()
    )


def agent_spec(house: Company, name: str) -> ChildSpec:
    """Return the child that an agent's table defines. What is wrong with its class shows when it starts, and parks it
    alone.
    """
    settings = house.loaded.settings.agents[name]

    def make() -> Actor:
        if settings.actor is None:
            return Agent(settings).place(house, settings.options)
        found = load_object(settings.actor, house.loaded.folder)
        if not (isinstance(found, type) and issubclass(found, StatefulActor)):
            raise LoadFailed(f"{settings.actor} is no class derived from runtime.stateful.StatefulActor")
        return found().place(house, settings.options)

    drain = house.loaded.settings.runtime.drain / 1000
    return ChildSpec(f"agent:{name}", make, shutdown=drain, mailbox=settings.mailbox)
