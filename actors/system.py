"""The system actor: answers what people ask about jobs, workers and agents, reloads, and stops the daemon."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import anyio

from actors.approvals import Approvals
from actors.company import Company
from actors.kinds import AGENT_MESSAGE
from actors.limits import bucket_of, effective, view_of
from actors.people import People
from actors.providers import Providers
from actors.queue import Tick
from actors.runs import Runs
from actors.schedules import Look
from actors.seats import pool_of
from actors.why import Pool, Scene, Seat, explain
from runtime import config
from runtime.core.actor import handles
from runtime.core.spec import ChildSpec
from runtime.errors import ConfigError, JobNotFound, LoadFailed
from runtime.loader import is_stale, load_object, set_aside
from runtime.store.port import QueueRow, WhyFacts, WorkerRow
from schemas.agents import WorkerStatus
from schemas.base import Ack
from schemas.config import AgentSettings, Settings
from schemas.jobs import (
    GetJob,
    GetJobLogs,
    GraphView,
    JobFilter,
    JobView,
    Lane,
    ListJobs,
    ListQueues,
    ListWorkers,
    LogLine,
    QueueView,
    ShowGraph,
    WhyJob,
    WhyView,
    WorkerView,
)
from schemas.system import Reload, Reloaded, Shutdown


class System(People, Approvals, Runs, Providers):
    """Speaks for the daemon as a whole. It mostly reads, so a slow question never holds up a job. In *safe* mode it
    starts no agent.
    """

    def __init__(
        self,
        house: Company,
        stop: Callable[[bool], None],
        agent_spec: Callable[[Company, str], ChildSpec],
        *,
        safe: bool = False,
    ) -> None:
        self.house = house
        self.agent_spec = agent_spec
        self.stop = stop
        self.personas = {}
        self.safe = safe

    async def on_start(self) -> None:
        await self.welcome()

    # -- jobs and workers --------------------------------------------------------------------------------------------

    @handles
    async def job(self, message: GetJob) -> JobView:
        view = await self.house.store.job(message.id)
        if view is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return view

    @handles
    async def jobs(self, message: ListJobs) -> tuple[JobView, ...]:
        where = JobFilter(**{name: getattr(message, name) for name in JobFilter.model_fields})
        return await self.house.store.jobs(where, before=message.before, limit=message.limit, errors=message.errors)

    @handles
    async def graph(self, message: ShowGraph) -> GraphView:
        view = await self.house.store.graph(message.id, message.limit)
        if view is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return view

    @handles
    async def job_logs(self, message: GetJobLogs) -> tuple[LogLine, ...]:
        lines = await self.house.store.job_logs(message.id, after=message.after, tail=message.tail, limit=message.limit)
        if lines is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return lines

    @handles
    async def queues(self, message: ListQueues) -> tuple[QueueView, ...]:
        settings = self.house.loaded.settings
        kept = {row.name: row for row in await self.house.store.queues()}
        names = sorted({*self.house.counts, *kept, *settings.queues, "default"})
        return tuple(
            view_of(effective(name, settings, kept.get(name)), self.house.counts.get(name, {})) for name in names
        )

    @handles
    async def workers(self, message: ListWorkers) -> tuple[WorkerView, ...]:
        running = await self.house.store.jobs(JobFilter(status="active"), limit=1000)
        active = {job.worker: job.id for job in running}
        return tuple(self._worker(row, active.get(row.id)) for row in await self.house.store.workers())

    def _worker(self, row: WorkerRow, job: str | None) -> WorkerView:
        more = json.loads(row.capabilities)
        return WorkerView(
            id=row.id,
            agent=row.agent,
            lane=row.lane,
            status=self._status(row),
            draining=bool(more.get("draining")),
            serves=tuple(more.get("serves", ())),
            pool=more.get("pool", ""),
            job=job,
            created_at=row.created_at,
            last_heartbeat_at=row.last_heartbeat_at,
        )

    def _status(self, row: WorkerRow) -> WorkerStatus:
        """Return how a worker is now; the table has how it was at its last heartbeat."""
        if row.boot != self.house.boot:
            return "offline"
        if self.ctx.system.has(row.id) and self.ctx.system.cell(row.id).state == "quarantined":
            return "error"
        held = self.house.workers.get(row.id)
        return "offline" if held is None else "busy" if held else "idle"

    # -- why a job does not move -------------------------------------------------------------------------------------

    @handles
    async def why(self, message: WhyJob) -> WhyView:
        facts = await self.house.store.why(message.id)
        if facts is None:
            raise JobNotFound(f"there is no job {message.id}", job=message.id)
        return explain(await self._scene(facts))

    async def _scene(self, facts: WhyFacts) -> Scene:
        """Gather what a job's standing hangs on, beside what its own row says."""
        house, job = self.house, facts.job
        store, now, settings = house.store, house.clock.now(), house.loaded.settings
        kept = {row.name: row for row in await store.queues()}
        row: QueueRow = effective(job.queue, settings, kept.get(job.queue))
        waits = job.status == "pending"
        agent = await self._agent_of(job) if waits and job.queue.startswith("agent:") else None
        return Scene(
            now=now,
            facts=facts,
            queue=row,
            active=house.counts.get(job.queue, {}).get("active", 0),
            bucket=bucket_of(row, now),
            pool=await self._pool_of(job) if waits and agent is None else None,
            agent=agent,
            at_work=sum(held for name, held in house.workers.items() if not name.startswith("agent:")),
            cap=settings.runtime.max_active,
            suspect=await self._suspect_before(job) if waits else None,
            parts=await store.children(job.id) if job.reason == "children" else (),
            kind_known=job.name == AGENT_MESSAGE or house.kinds.get(job.name) is not None,
            draining=house.draining,
            store_trouble=house.store_trouble,
        )

    async def _pool_of(self, job: JobView) -> Pool:
        """Return the workers that would run *job*; those of its lane, as its kind has it now."""
        kind = self.house.kinds.get(job.name)
        lane: Lane = "loop" if kind is None else kind.lane
        name = pool_of(job.queue, lane, self.house.loaded.settings.pools)
        workers = [worker for worker in await self.workers(ListWorkers()) if worker.pool == name]
        there = [worker for worker in workers if worker.status in ("idle", "busy")]
        free = [worker for worker in there if not worker.draining]
        busy = sum(worker.status == "busy" for worker in free)
        return Pool(name, len(there), busy, len(there) - len(free))

    async def _agent_of(self, job: JobView) -> Seat:
        """Return the agent whose queue *job* is on."""
        name = job.queue.removeprefix("agent:")
        settings = self.house.loaded.settings.agents.get(name)
        if settings is None:
            return Seat(name, None)
        running = await self.house.store.jobs(JobFilter(queue=job.queue, status="active"), limit=1000)
        talk = next((other.id for other in running if other.conversation == job.conversation), None)
        cell = self._cell(name)
        slots = settings.concurrency if settings.actor is None else max(1, len(running))
        return Seat(name, cell.state, cell.reason, len(running), slots, talk)

    async def _suspect_before(self, job: JobView) -> str | None:
        """Return the job that may have brought the daemon down, where *job* has to wait until it has run alone."""
        kind = self.house.kinds.get(job.name)
        settings = self.house.loaded.settings.agents.get(job.queue.removeprefix("agent:"))
        if not (kind is not None and kind.lane == "loop") and (settings is None or settings.actor is None):
            return None
        for suspect, _ in await self.house.store.suspects():
            found = None if suspect == job.id else await self.house.store.job(suspect)
            if found is not None and found.status in ("pending", "active"):  # one that rests holds up nobody
                return suspect
        return None

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
        new = self.with_personas(config.load(old.path))
        changes, anew = config.diff(old.settings, new.settings), is_stale()
        used = self._code_in_use(old.settings, new.settings) if anew else ()
        bring_back = set_aside() if anew else None
        try:
            for name, settings in new.settings.agents.items():
                if settings.actor is not None and (anew or settings != old.settings.agents.get(name)):
                    load_object(settings.actor, new.folder)
            for reference in used:
                load_object(reference, new.folder)
        except BaseException:
            if bring_back is not None:
                bring_back()
            raise
        return await self._apply(new, changes, anew=anew)

    def _code_in_use(self, old: Settings, new: Settings) -> list[str]:
        """Return the functions that work now and are still wanted: one broken since must not be put in force."""
        used: set[str] = set()
        for name, kind in new.kinds.items():
            if kind.in_loop and old.kinds.get(name) == kind:
                with suppress(LoadFailed):
                    load_object(kind.run, self.house.loaded.folder)
                    used.add(kind.run)
        for name in old.agents.keys() & new.agents.keys():
            missing = self.house.toolroom.toolbox(old.agents[name]).missing
            kept = set(old.agents[name].tools) & set(new.agents[name].tools)
            used |= {tool for tool in kept if ":" in tool and "/" not in tool and tool not in missing}
        return sorted(used)

    async def _apply(self, new: config.Loaded, changes: config.Changes, *, anew: bool = False) -> Reloaded:
        by_provider = {
            name
            for name, settings in new.settings.agents.items()
            if name not in changes.added and settings.llm is not None and settings.llm.provider in changes.providers
        }
        wanted = {*changes.changed, *by_provider, *self._quarantined(new.settings.agents)}
        if anew:  # whoever is made of the old classes knows neither the new ones nor their messages
            wanted |= {name for name, settings in new.settings.agents.items() if settings.actor is not None}
            wanted -= {*changes.added}
        restarted = sorted(name for name in wanted if self.ctx.system.has(f"agent:{name}"))  # in safe mode nobody is
        self.house.loaded = new
        self.house.kinds.use(new.settings)
        self.house.toolroom.use(new.settings)
        await self.house.models.use(new.settings, changes.providers)
        await self.ctx.actor("queue").tell(Tick(what="kinds"))  # jobs of a kind that is known now may go on
        await self.ctx.actor("schedules").tell(Look())
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
            read_anew=anew,
            missing_tools=tuple(self._missing_tools(new.settings.agents)),
        )

    def _missing_tools(self, agents: dict[str, AgentSettings]) -> Iterator[str]:
        """Tell of functions only: the tools of a server come when it is up."""
        for name, settings in agents.items():
            for tool, why in self.house.toolroom.toolbox(settings).missing.items():
                if "/" not in tool:
                    yield f"{name} has to do without {why}"

    def _quarantined(self, agents: dict[str, AgentSettings]) -> list[str]:
        """A person who reloads has mended something: parked agents get another try."""
        return [name for name in agents if self._cell(name).state == "quarantined"]


def capabilities(row: WorkerRow) -> dict[str, Any]:
    """Return what the table says of what a worker serves."""
    kept = json.loads(row.capabilities)
    return {
        "pool": kept.get("pool", ""),
        "serves": tuple(kept.get("serves", ())),
        "draining": kept.get("draining", False),
    }
