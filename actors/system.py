"""The system actor: answers what people ask about jobs, workers and agents, reloads, and stops the daemon."""

import json
from collections.abc import Callable
from typing import Any

import anyio

from actors.company import Company
from actors.queue import Tick
from runtime import config
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec
from runtime.core.view import CellView
from runtime.errors import AgentNotFound, ConfigError, JobNotFound
from runtime.loader import load_object
from runtime.store.port import StateRow, WorkerRow
from schemas.agents import AgentDetail, AgentView, GetAgent, GetConversation, ListAgents, WorkerStatus
from schemas.base import Ack
from schemas.chat import ChatMessage
from schemas.config import AgentSettings
from schemas.jobs import (
    GetJob,
    GetJobLogs,
    JobView,
    ListJobs,
    ListQueues,
    ListWorkers,
    LogLine,
    QueueView,
    WorkerView,
)
from schemas.system import Reload, Reloaded, Shutdown


class System(Actor):
    """Speaks for the daemon as a whole. It only reads, but for `reload`, so a slow question never holds up a job."""

    def __init__(
        self, house: Company, stop: Callable[[bool], None], agent_spec: Callable[[Company, str], ChildSpec]
    ) -> None:
        self.house = house
        self.agent_spec = agent_spec
        self.stop = stop

    # -- jobs and workers --------------------------------------------------------------------------------------------

    @handles
    async def job(self, message: GetJob) -> JobView:
        view = await self.house.store.job(message.id)
        if view is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return view

    @handles
    async def jobs(self, message: ListJobs) -> tuple[JobView, ...]:
        return await self.house.store.jobs(
            status=message.status, queue=message.queue, kind=message.kind, before=message.before, limit=message.limit
        )

    @handles
    async def job_logs(self, message: GetJobLogs) -> tuple[LogLine, ...]:
        lines = await self.house.store.job_logs(message.id, after=message.after, tail=message.tail, limit=message.limit)
        if lines is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return lines

    @handles
    async def queues(self, message: ListQueues) -> tuple[QueueView, ...]:
        paused = {row.name for row in await self.house.store.queues() if row.paused}
        names = sorted({*self.house.counts, *paused, "default"})
        return tuple(
            QueueView(
                name=name,
                paused=name in paused,
                counts={status: count for status, count in self.house.counts.get(name, {}).items() if count},
            )
            for name in names
        )

    @handles
    async def workers(self, message: ListWorkers) -> tuple[WorkerView, ...]:
        active = {job.worker: job.id for job in await self.house.store.jobs(status="active", limit=1000)}
        return tuple(
            WorkerView(
                id=row.id,
                agent=row.agent,
                lane=row.lane,
                status=self._status(row),
                job=active.get(row.id),
                created_at=row.created_at,
                last_heartbeat_at=row.last_heartbeat_at,
            )
            for row in await self.house.store.workers()
        )

    def _status(self, row: WorkerRow) -> WorkerStatus:
        """Return how a worker is now; the table has how it was at its last heartbeat."""
        if row.boot != self.house.boot:
            return "offline"
        if self.ctx.system.has(row.id) and self.ctx.system.cell(row.id).state == "quarantined":
            return "error"
        held = self.house.workers.get(row.id)
        return "offline" if held is None else "busy" if held else "idle"

    # -- agents ------------------------------------------------------------------------------------------------------

    @handles
    async def agents(self, message: ListAgents) -> tuple[AgentView, ...]:
        rows = {row.agent: row for row in await self.house.store.workers() if row.agent is not None}
        agents = self.house.loaded.settings.agents
        return tuple(
            AgentView(**self._brief(name, settings, rows.get(name))) for name, settings in sorted(agents.items())
        )

    @handles
    async def agent(self, message: GetAgent) -> AgentDetail:
        settings = self._settings(message.name)
        store = self.house.store
        rows = {row.agent: row for row in await store.workers() if row.agent is not None}
        state: StateRow | None = await store.state(message.name)
        cell = self._cell(message.name)
        return AgentDetail(
            **self._brief(message.name, settings, rows.get(message.name)),
            origin=self.house.loaded.origin(f"agents.{message.name}"),
            goal=settings.goal,
            backstory=settings.backstory,
            temperature=settings.llm.temperature if settings.llm else None,
            tools=settings.tools,
            saved=json.loads(state.state) if state else {},
            state_version=state.version if state else 0,
            incarnation=cell.incarnation,
            conversations=await store.conversations(message.name),
            last_error=cell.last_error,
        )

    def _brief(self, name: str, settings: AgentSettings, row: WorkerRow | None) -> dict[str, Any]:
        cell = self._cell(name)
        held = self.house.workers.get(f"agent:{name}")
        quiet = "error" if cell.state == "quarantined" else "offline"
        return {
            "name": name,
            "status": quiet if held is None else "busy" if held else "idle",
            "state": cell.state,
            "role": settings.role,
            "provider": settings.llm.provider if settings.llm else "",
            "model": settings.llm.model if settings.llm else "",
            "actor": settings.actor,
            "restarts": cell.restarts,
            "mailbox": cell.mailbox,
            "pending": self.house.counts.get(f"agent:{name}", {}).get("pending", 0),
            "last_heartbeat_at": row.last_heartbeat_at if row else None,
            "reason": cell.reason,
        }

    def _settings(self, name: str) -> AgentSettings:
        agents = self.house.loaded.settings.agents
        if name not in agents:
            raise AgentNotFound(
                f"there is no agent {name!r}; there are: {', '.join(sorted(agents))}", known=sorted(agents)
            )
        return agents[name]

    @handles
    async def conversation(self, message: GetConversation) -> tuple[ChatMessage, ...]:
        self._settings(message.name)
        kept = await self.house.store.messages(message.name, message.conversation, limit=message.limit)
        return tuple(ChatMessage.model_validate_json(body) for body in kept)

    # -- the whole ---------------------------------------------------------------------------------------------------

    @handles
    def shutdown(self, message: Shutdown) -> Ack:
        self.stop(message.now)
        return Ack()

    @handles
    async def reload(self, message: Reload) -> None:
        """Read the configuration again. A mistake in it is the asker's to mend, and no reason to park this actor."""
        asked = self.reply_later()
        try:
            with anyio.CancelScope(shield=True):  # whoever asked may leave; half a change may not stay
                asked.resolve(await self._reload())
        except ConfigError as mistake:
            asked.fail(mistake)

    async def _reload(self) -> Reloaded:
        """Check everything first; only when all of it holds is anything touched."""
        old = self.house.loaded
        new = config.load(old.path)
        for name, settings in new.settings.agents.items():
            if settings.actor is not None and settings != old.settings.agents.get(name):
                load_object(settings.actor, new.folder)
        return await self._apply(new, config.diff(old.settings, new.settings))

    async def _apply(self, new: config.Loaded, changes: config.Changes) -> Reloaded:
        by_provider = {
            name
            for name, settings in new.settings.agents.items()
            if name not in changes.added and settings.llm is not None and settings.llm.provider in changes.providers
        }
        wanted = {*changes.changed, *by_provider, *self._quarantined(new.settings.agents)}
        restarted = sorted(name for name in wanted if self.ctx.system.has(f"agent:{name}"))  # in safe mode nobody is
        self.house.loaded = new
        self.house.kinds.use(new.settings)
        await self.house.models.use(new.settings, changes.providers)
        await self.ctx.actor("queue").tell(Tick(what="kinds"))  # jobs of a kind that is known now may go on
        for name in changes.removed:
            if self.ctx.system.has(f"agent:{name}"):
                await self.ctx.system.stop_child(f"agent:{name}")
        for name in restarted:
            await self.ctx.system.restart_child(f"agent:{name}", self.agent_spec(self.house, name).factory)
        for name in changes.added:
            await self.ctx.system.start_child("agents", self.agent_spec(self.house, name))
        unchanged = sorted(set(new.settings.agents) - set(restarted) - set(changes.added))
        return Reloaded(
            added=changes.added,
            removed=changes.removed,
            restarted=tuple(restarted),
            unchanged=tuple(unchanged),
            needs_restart=changes.needs_restart,
        )

    def _quarantined(self, agents: dict[str, AgentSettings]) -> list[str]:
        """A person who reloads has mended something: parked agents get another try."""
        return [name for name in agents if self._cell(name).state == "quarantined"]

    def _cell(self, agent: str) -> CellView:
        """Return the cell of *agent*; in safe mode there is none, which looks like one that has stopped."""
        name = f"agent:{agent}"
        system = self.ctx.system
        return system.cell(name) if system.has(name) else CellView(name, "stopped", 0, 0, 0, 0, None, None)
