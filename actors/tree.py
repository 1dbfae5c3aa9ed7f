"""The supervision tree as data: who stands under whom, and how each is restarted."""

import os
from collections.abc import Callable
from functools import partial

from actors.agent import Agent
from actors.company import Company
from actors.hosting import HostedAgent
from actors.keeper import Keeper
from actors.kinds import Kinds
from actors.mcp import mcp_specs
from actors.models import LocalModel, Models
from actors.queue import Queue
from actors.schedules import Schedules
from actors.system import System
from actors.toolroom import Toolroom
from actors.worker import Worker
from runtime.backends.process import ProcessBackend
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
        toolroom=Toolroom(settings, parts.loaded.folder, parts.home, parts.store, parts.clock),
        spec_of_worker=worker_spec,
    )


def tree(house: Company, stop: Callable[[bool], None], last: tuple[ChildSpec, ...], *, safe: bool) -> SupervisorSpec:
    """Return the whole tree. What a part needs stands before it: it starts later, is stopped earlier, and goes down
    with it.

    *last* are the daemon's own children (the control socket); in safe mode nobody of the user's is started.
    """
    agents = () if safe else tuple(agent_spec(house, name) for name in house.loaded.settings.agents)
    return SupervisorSpec(
        "root",
        strategy="rest_for_one",
        children=(
            ChildSpec("store", lambda: Keeper(house), mailbox=10_000, start_timeout=120.0),
            ChildSpec("queue", lambda: Queue(house), mailbox=10_000, start_timeout=60.0),
            SupervisorSpec("workers", children=() if safe else workers(house)),
            SupervisorSpec("models", children=() if safe else local_models(house)),
            SupervisorSpec("mcp", children=() if safe else mcp_specs(house), on_exhausted="quarantine"),
            SupervisorSpec("agents", children=agents, on_exhausted="quarantine"),
            ChildSpec("schedules", lambda: Schedules(house)),
            ChildSpec("system", lambda: System(house, stop, agent_spec, safe=safe)),
            *last,
        ),
    )


def workers(house: Company) -> tuple[ChildSpec, ...]:
    """Return all pools: several in-loop workers a core, since they mostly wait, one a core for child processes, and
    those that the configuration keeps for some queues.
    """
    settings, cores = house.loaded.settings, os.cpu_count() or 1
    sizes = {
        "loop": settings.runtime.pool or LOOP_WORKERS_PER_CORE * cores,
        "child": settings.runtime.child_pool or cores,
    } | {name: pool.size for name, pool in settings.pools.items()}
    return tuple(worker_spec(house, pool, number) for pool, size in sizes.items() for number in range(1, size + 1))


def worker_spec(house: Company, pool: str, number: int) -> ChildSpec:
    """Return worker *number* of *pool*."""
    name = f"worker:{pool}-{number}"
    kept = house.loaded.settings.pools.get(pool)
    lane: Lane = kept.lane if kept is not None else "loop" if pool == "loop" else "child"
    serves = kept.queues if kept is not None else ()
    drain = house.loaded.settings.runtime.drain / 1000
    return ChildSpec(name, lambda: Worker(house, name, lane, pool, serves), shutdown=drain)


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
        if settings.exec:
            backend = ProcessBackend(settings.exec, str(house.loaded.folder))
            return HostedAgent(settings, backend).place(house, settings.options)
        if settings.actor is None:
            return Agent(settings).place(house, settings.options)
        found = load_object(settings.actor, house.loaded.folder)
        if isinstance(found, type) and issubclass(found, StatefulActor):
            return found().place(house, settings.options)
        mind = found() if isinstance(found, type) else found
        if not callable(getattr(mind, "run", None)):
            raise LoadFailed(
                f"{settings.actor} is neither derived from runtime.stateful.StatefulActor nor a backend with `run`"
            )
        return HostedAgent(settings, mind).place(house, settings.options)

    drain = house.loaded.settings.runtime.drain / 1000
    return ChildSpec(f"agent:{name}", make, shutdown=drain, mailbox=settings.mailbox)
