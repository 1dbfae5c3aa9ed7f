"""One handler of an actor, run alone: what it answers, and what its commit holds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from pydantic import BaseModel

from actors.testkit.probe import Probe
from actors.testkit.virtual import hold_time
from runtime.clock import VirtualClock
from runtime.config import Loaded
from runtime.core.actor import Actor
from runtime.core.handlers import STREAM, table_of
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import RequestCancelled, UnderstudyError
from runtime.events import EventBus
from runtime.house import House
from runtime.secrets import Redactor
from runtime.stateful import StatefulActor
from runtime.store import port
from runtime.store.memory import MemoryStore
from schemas.base import Message
from schemas.config import Settings
from schemas.jobs import NewJob


@dataclass(frozen=True, slots=True)
class Effects:
    """What one message did.

    reply      what the handler returned; of a stream, all of its parts
    state      the state afterwards: as it was, where the handler failed; None where the actor did not start
    submitted  the jobs that were sent with the commit
    events     the events that were told with the commit: type (`agent.low`) and data
    changes    all of the commit, for what `also` added; empty where nothing was written
    error      what was raised, by the handler or by the commit; None where all went well
    """

    reply: Any
    state: Any
    submitted: tuple[NewJob, ...]
    events: tuple[tuple[str, dict[str, Any]], ...]
    changes: tuple[port.Change, ...]
    error: Exception | None

    def ok(self) -> "Effects":
        """Return these effects where nothing was raised; else raise it."""
        if self.error is not None:
            raise self.error
        return self


async def run_one(
    actor_class: type[StatefulActor],
    message: Message,
    state: BaseModel | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    state_version: int | None = None,
    actors: Mapping[str, Actor] | None = None,
    within: float = 30.0,
) -> Effects:
    """Start an actor on a store in memory, with *state* as saved, have it handle *message*, and stop it.

    *state* may be a dict of an older *state_version*, which goes through `UPGRADES` first. *actors* are others that the
    handler may talk to by name (`{"agent:writer": Probe({...})}`). Jobs of any kind may be submitted; they go nowhere.
    Nothing is raised for what the handler does: it is in `error`. A handler that took longer than *within* seconds
    failed with AskTimeout.
    """
    trial = _Trial(actor_class, dict(options or {}), dict(actors or {}))
    await trial.save(state, state_version)
    with hold_time():
        async with anyio.create_task_group() as tasks:
            await tasks.start(trial.system.run)
            reply = await trial.ask(message, within)
            trial.system.stop()
    return trial.effects(reply)


class _Commits(MemoryStore):
    """A store that notes what was committed."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[port.Change] = []

    async def commit(self, changes: Sequence[port.Change]) -> list[Any]:
        results = await super().commit(changes)
        self.kept += changes
        return results


class _Trial:
    """One actor, alone on its stage."""

    def __init__(self, actor_class: type[StatefulActor], options: Mapping[str, Any], others: dict[str, Actor]) -> None:
        self.actor_class, self.options = actor_class, options
        self.name = actor_class.__name__.lower()
        self.store = _Commits()
        self.clock = VirtualClock()
        self.sent: dict[str, NewJob] = {}
        self.errors: list[Exception] = []
        self.made: list[StatefulActor] = []
        folder = Path()
        self.house = House(
            boot="test",
            home=folder,
            store=self.store,
            bus=EventBus(),
            clock=self.clock,
            redactor=Redactor(),
            loaded=Loaded(Settings(), folder / "config.toml", folder, {}),
            prepare=self._prepare,
        )
        others = {"queue": Probe(), **others}
        cast = [ChildSpec(name, lambda actor=actor: actor) for name, actor in others.items()]  # type: ignore[misc]
        seat = ChildSpec(f"agent:{self.name}", self._make)
        agents = SupervisorSpec("agents", on_exhausted="quarantine", children=(seat,))
        self.system = ActorSystem(SupervisorSpec("root", children=(*cast, agents)), clock=self.clock)

    def _make(self) -> Actor:
        actor = self.actor_class().place(self.house, self.options)
        self.made.append(actor)
        start, failed = actor.on_start, actor.on_handler_error

        async def on_start() -> None:
            try:
                await start()
            except Exception as error:
                self.errors.append(error)
                raise

        async def on_handler_error(envelope: Any, error: Exception) -> None:
            self.errors.append(error)
            await failed(envelope, error)

        actor.on_start, actor.on_handler_error = on_start, on_handler_error  # type: ignore[method-assign]
        return actor

    def _prepare(self, job: NewJob, job_id: str, now: int) -> port.JobRow:
        self.sent[job_id] = job
        queue = job.queue or (f"agent:{job.args.get('agent')}" if job.kind == "agent.message" else "default")
        due = job.run_at or (now + job.delay_ms if job.delay_ms else 0)
        args = json.dumps(job.args, sort_keys=True)
        return port.JobRow(job_id, job.kind, queue, "loop", args, priority=job.priority, execute_after=due)

    async def save(self, state: BaseModel | Mapping[str, Any] | None, version: int | None) -> None:
        """Have *state* be there when the actor starts."""
        await self.store.open()
        if state is not None:
            text = state.model_dump_json() if isinstance(state, BaseModel) else json.dumps(dict(state))
            schema = self.actor_class.STATE_VERSION if version is None else version
            await self.store.commit([port.SaveState(self.name, text, schema, 0, "before", 1, self.clock.now())])
        self.store.kept.clear()

    async def ask(self, message: Message, within: float) -> Any:
        """Return the reply; what was raised is in `errors`."""
        ref = self.system.ref(f"agent:{self.name}")
        table = table_of(self.actor_class, Actor)
        route = table.routes.get(type(message)) or table.route(type(message))
        try:
            if route is not None and route[0] == STREAM:
                async with ref.stream(message, timeout=within) as parts:  # type: ignore[arg-type]  # any message will do
                    return tuple([part async for part in parts])
            return await ref.ask(message, timeout=within)  # type: ignore[arg-type]  # likewise
        except UnderstudyError as error:
            self.errors.append(error)
            return None

    def effects(self, reply: Any) -> Effects:
        """Gather what was committed and what came back."""
        kept = tuple(self.store.kept)
        jobs = [row for change in kept if isinstance(change, port.InsertJobs) for row in change.jobs]
        events = [event for change in kept if isinstance(change, port.AppendEvents) for event in change.events]
        return Effects(
            reply=reply,
            state=getattr(self.made[0], "state", None),
            submitted=tuple(self.sent[job.id] for job in jobs),
            events=tuple((kind, json.loads(data)) for kind, _, data in events),
            changes=kept,
            error=self._error(),
        )

    def _error(self) -> Exception | None:
        """Return what went wrong first: the handler's own error, and not what its asker made of it; but where it was
        cut off, why.
        """
        own = [error for error in self.errors if not isinstance(error, RequestCancelled)]
        return next(iter(own or self.errors), None)
