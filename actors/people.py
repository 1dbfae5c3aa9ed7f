"""What people ask of agents: who is there, what they do and why, their conversations; and agents that come at run
time.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from actors.approvals import pending_of
from actors.budget import day_of, micros
from actors.calls import traits_key
from actors.company import Company
from actors.limits import effective
from actors.prompt import public
from runtime import config
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec
from runtime.core.view import CellView
from runtime.errors import (
    AgentExists,
    AgentFromConfig,
    AgentInvalid,
    AgentNotFound,
    ConversationNotFound,
    RequestInvalid,
)
from runtime.store import port
from schemas.agents import (
    AgentDetail,
    AgentView,
    AgentWhy,
    EditAgent,
    ExportConversation,
    ForkConversation,
    GetAgent,
    GetConversation,
    Kept,
    ListAgents,
    NewAgent,
    PauseAgent,
    RemoveAgent,
    RestartAgent,
    WhyAgent,
    WorkerStatus,
)
from schemas.base import Ack
from schemas.chat import ChatMessage
from schemas.config import BUILTIN_PROVIDERS, AgentSettings, Settings
from schemas.jobs import ChangeQueue, JobFilter, JobView, QueueState
from schemas.tools import BUILTIN_TOOLS

AT_RUN_TIME: Final = "the database"
"""Where an agent comes from that is in no file."""


class People(Actor):
    """The half of `system` that knows agents. Those of the configuration and those of the database stand side by
    side in `house.loaded`; where both have one of a name, the configuration's is the one.
    """

    house: Company
    agent_spec: Callable[[Company, str], ChildSpec]
    personas: dict[str, AgentSettings]
    safe: bool

    # -- who is there --------------------------------------------------------------------------------------------------

    @handles
    async def agents(self, message: ListAgents) -> tuple[AgentView, ...]:
        rows = {row.agent: row for row in await self.house.store.workers() if row.agent is not None}
        settings = self.house.loaded.settings.agents
        paused = await self._paused()
        return tuple(
            AgentView(**self._brief(name, settings[name], rows.get(name), paused)) for name in sorted(settings)
        )

    @handles
    async def one_agent(self, message: GetAgent) -> AgentDetail:
        name, store = message.name, self.house.store
        settings = self._settings(name)
        rows = {row.agent: row for row in await store.workers()}
        state, cell = await store.state(name), self._cell(name)
        box = self.house.toolroom.toolbox(settings)
        waiting = await pending_of(name, self.house)
        return AgentDetail(
            **self._brief(name, settings, rows.get(name), await self._paused()),
            origin=self._origin(name),
            goal=settings.goal,
            backstory=settings.backstory,
            temperature=settings.llm.temperature if settings.llm else None,
            tools=settings.tools,
            missing_tools=box.missing,
            permissions={tool.name: self._permission(settings, tool) for tool in box.tools.values()},
            workdir=str(self.house.toolroom.workdir(name, settings)),
            when_busy=settings.when_busy,
            spent_today=await self._spent_today(name),
            budget={key: value for key, value in settings.budget.model_dump().items() if value is not None},
            runs=tuple(job.id for job in await self._open_runs(name)),
            approvals=tuple(row.id for row in waiting),
            saved=json.loads(state.state) if state else {},
            state_version=state.version if state else 0,
            incarnation=cell.incarnation,
            conversations=await store.conversations(name),
            last_error=cell.last_error,
        )

    def _permission(self, settings: AgentSettings, tool: Any) -> str:
        return "ask" if tool.asks_always else settings.permissions.get(tool.name, tool.permission)

    async def _spent_today(self, name: str) -> dict[str, int]:
        today = day_of(self.house.clock.now())
        for row in await self.house.store.spent(name, since=today):
            if row.day == today:
                return {
                    "calls": row.calls,
                    "input_tokens": row.input_tokens,
                    "output_tokens": row.output_tokens,
                    "cost": row.cost,
                }
        return {"calls": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0}

    async def _open_runs(self, name: str) -> list[JobView]:
        found: list[JobView] = []
        for status in ("active", "waiting"):
            found += await self.house.store.jobs(JobFilter(queue=f"agent:{name}", status=status), limit=1000)
        return found

    def _origin(self, name: str) -> str:
        return AT_RUN_TIME if name in self.personas else self.house.loaded.origin(f"agents.{name}")

    async def _paused(self) -> dict[str, str]:
        """Return the agents that are paused, with who did it."""
        kept = {row.name: row for row in await self.house.store.queues()}
        settings = self.house.loaded.settings
        rows = {name: effective(f"agent:{name}", settings, kept.get(f"agent:{name}")) for name in settings.agents}
        return {name: row.by or "a person" for name, row in rows.items() if row.state == "paused"}

    def _brief(
        self, name: str, settings: AgentSettings, row: port.WorkerRow | None, paused: dict[str, str]
    ) -> dict[str, Any]:
        cell = self._cell(name)
        reason = cell.reason
        if reason is None and name in paused:
            reason = f"it is paused by {paused[name]}: what is said to it waits"
        held = self.house.workers.get(f"agent:{name}")
        quiet: WorkerStatus = "error" if cell.state == "quarantined" else "offline"
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
            "reason": reason,
        }

    def _settings(self, name: str) -> AgentSettings:
        agents = self.house.loaded.settings.agents
        if name not in agents:
            raise AgentNotFound(
                f"there is no agent {name!r}; there are: {', '.join(sorted(agents))}", known=sorted(agents)
            )
        return agents[name]

    def _cell(self, agent: str) -> CellView:
        """Return the cell of *agent*; in safe mode there is none, which looks like one that has stopped."""
        name = f"agent:{agent}"
        system = self.ctx.system
        return system.cell(name) if system.has(name) else CellView(name, "stopped", 0, 0, 0, 0, None, None)

    # -- what they said ------------------------------------------------------------------------------------------------

    @handles
    async def conversation(self, message: GetConversation) -> tuple[ChatMessage, ...]:
        self._settings(message.name)
        kept = await self.house.store.messages(message.name, message.conversation, limit=message.limit)
        return tuple(public(body) for body in kept)

    @handles
    async def export(self, message: ExportConversation) -> tuple[Kept, ...]:
        await self._talk(message.name, message.conversation)
        rows = await self.house.store.journal(
            message.name, message.conversation, after=message.after, limit=message.limit
        )
        return tuple(Kept(n=row.n, at=row.at, run=row.job, message=public(row.body)) for row in rows)

    @handles
    async def fork(self, message: ForkConversation) -> int:
        await self._talk(message.name, message.source)
        change = port.ForkConversation(
            message.name, message.source, message.conversation, self.house.clock.now(), message.keep
        )
        held = await self.house.store.setting(traits_key(message.name, message.source))
        brought = () if held is None else (port.PutSetting(traits_key(message.name, message.conversation), held),)
        count: int = (await self.house.store.commit((change, *brought)))[0]
        return count

    async def _talk(self, agent: str, conversation: str) -> None:
        self._settings(agent)
        known = await self.house.store.conversations(agent)
        if conversation not in known:
            raise ConversationNotFound(
                f"{agent} has no conversation {conversation!r}; there are: {', '.join(known) or 'none'}",
                known=list(known),
            )

    # -- at run time ---------------------------------------------------------------------------------------------------

    async def welcome(self) -> None:
        """Have the agents of the database stand beside those of the configuration, and start those that do not run."""
        self.personas = {}
        for row in await self.house.store.personas():
            try:
                self.personas[row.name] = settings_of(json.loads(row.settings), self.house.loaded.settings, row.name)
            except AgentInvalid as error:  # a provider that is gone, say: it comes back with the configuration
                await self.house.store.commit(
                    (
                        port.AppendEvents(
                            (("agent.unusable", f"agent:{row.name}", json.dumps({"detail": error.detail})),),
                            self.house.clock.now(),
                        ),
                    )
                )
        self.house.loaded = self.with_personas(self.house.loaded)
        self.house.kinds.use(self.house.loaded.settings)
        for name in self.personas if not self.safe else ():
            if not self.ctx.system.has(f"agent:{name}"):
                await self.ctx.system.start_child("agents", self.agent_spec(self.house, name))

    def with_personas(self, loaded: config.Loaded) -> config.Loaded:
        """Return a configuration with the agents of the database added."""
        both = {**self.personas, **{n: s for n, s in loaded.settings.agents.items() if self._is_in_file(loaded, n)}}
        return replace(loaded, settings=loaded.settings.model_copy(update={"agents": both}))

    def _is_in_file(self, loaded: config.Loaded, name: str) -> bool:
        return name not in self.personas or f"agents.{name}" in loaded.origins

    @handles
    async def new_agent(self, message: NewAgent) -> AgentView:
        if message.name in self.house.loaded.settings.agents:
            raise AgentExists(f"there is an agent {message.name!r} already", name=message.name)
        return await self._put(message.name, message.settings, fresh=True)

    @handles
    async def edit_agent(self, message: EditAgent) -> AgentView:
        self._own(message.name)
        known = next(row for row in await self.house.store.personas() if row.name == message.name)
        merged: dict[str, Any] = json.loads(known.settings)
        for key, value in message.settings.items():
            if value is None and key not in AgentSettings.model_fields:
                close = get_close_matches(key, AgentSettings.model_fields, 1)
                raise RequestInvalid(
                    f"an agent has no setting {key!r}{f'; did you mean {close[0]!r}?' if close else ''}"
                )
            if value is None:
                merged.pop(key, None)
            elif isinstance(value, dict) and isinstance(merged.get(key), dict):
                both = {**merged[key], **value}
                merged[key] = {inner: found for inner, found in both.items() if found is not None}
            else:
                merged[key] = value
        return await self._put(message.name, merged, fresh=False)

    async def _put(self, name: str, given: dict[str, Any], *, fresh: bool) -> AgentView:
        settings = settings_of(given, self.house.loaded.settings, name, new=True)
        change = port.PutPersona(name, json.dumps(given, sort_keys=True), self.house.clock.now())
        await self.house.store.commit((change,))
        self.personas[name] = settings
        self.house.loaded = self.with_personas(self.house.loaded)
        self.house.kinds.use(self.house.loaded.settings)
        spec = self.agent_spec(self.house, name)
        if self.ctx.system.has(f"agent:{name}"):
            await self.ctx.system.restart_child(f"agent:{name}", spec.factory)
        elif fresh:
            await self.ctx.system.start_child("agents", spec)
        return AgentView(**self._brief(name, settings, None, await self._paused()))

    @handles
    async def remove_agent(self, message: RemoveAgent) -> Ack:
        self._own(message.name)
        if self.ctx.system.has(f"agent:{message.name}"):
            await self.ctx.system.stop_child(f"agent:{message.name}")
        await self.house.store.commit((port.RemovePersona(message.name),))
        del self.personas[message.name]
        agents = {n: s for n, s in self.house.loaded.settings.agents.items() if n != message.name}
        settings = self.house.loaded.settings.model_copy(update={"agents": agents})
        self.house.loaded = replace(self.house.loaded, settings=settings)
        self.house.kinds.use(settings)
        return Ack()

    def _own(self, name: str) -> None:
        """Raises AgentNotFound, and AgentFromConfig where the agent is not one of the database."""
        self._settings(name)
        if name not in self.personas:
            where = self.house.loaded.origin(f"agents.{name}")
            raise AgentFromConfig(f"{name} is defined in {where}; change it there", name=name, origin=where)

    @handles
    async def pause_agent(self, message: PauseAgent) -> AgentView:
        settings = self._settings(message.name)
        state: QueueState = "paused" if message.paused else "running"
        await self.ctx.actor("queue").ask(ChangeQueue(name=f"agent:{message.name}", state=state))
        return AgentView(**self._brief(message.name, settings, None, await self._paused()))

    @handles
    async def restart_agent(self, message: RestartAgent) -> AgentView:
        settings = self._settings(message.name)
        spec = self.agent_spec(self.house, message.name)
        if self.ctx.system.has(f"agent:{message.name}"):
            await self.ctx.system.restart_child(f"agent:{message.name}", spec.factory)
        else:
            await self.ctx.system.start_child("agents", spec)
        return AgentView(**self._brief(message.name, settings, None, await self._paused()))

    # -- why -----------------------------------------------------------------------------------------------------------

    @handles
    async def why_agent(self, message: WhyAgent) -> AgentWhy:
        name, store = message.name, self.house.store
        settings, cell = self._settings(name), self._cell(name)
        brief = self._brief(name, settings, None, {})
        queue = {row.name: row for row in await store.queues()}.get(f"agent:{name}")
        told: list[tuple[str, str]] = []
        if cell.state == "quarantined":
            told.append((f"it is quarantined: {cell.reason}", "mend it, then: understudy reload"))
        elif cell.state == "stopped":
            told.append(("it is not started: the daemon is in safe mode", "understudy status"))
        elif cell.state == "backing_off":
            told.append((f"it crashed and starts again shortly: {cell.last_error}", "understudy logs"))
        if queue is not None and queue.state != "running":
            told.append((f"it is {queue.state} by {queue.by or 'a person'}", f"understudy agents resume {name}"))
        if queue is not None and (queue.blocked_until or 0) > self.house.clock.now():
            told.append(("its provider asked to wait", f"understudy why {name} again in a moment"))
        told += [
            (f"run {row.job} waits for a person: {row.tool}", f"understudy approvals show {row.id}")
            for row in await pending_of(name, self.house, 20)
        ]
        told += await self._why_runs(name)
        told += await self._why_means(name, settings)
        if pending := brief["pending"]:
            told.append((f"{pending} messages wait in its queue", f"understudy jobs ls --queue agent:{name}"))
        if not told:
            told.append(("it has nothing to do", f'understudy ask {name} "..."'))
        return AgentWhy(name=name, status=brief["status"], reasons=tuple(told))

    async def _why_runs(self, name: str) -> list[tuple[str, str]]:
        told = []
        for run in await self._open_runs(name):
            if run.status == "active":
                told.append((f"run {run.id} is at work ({run.conversation})", f"understudy runs show {run.id}"))
            elif run.reason == "children":
                told.append((f"run {run.id} waits for other agents or jobs", f"understudy jobs graph {run.id}"))
        delayed = await self.house.store.jobs(JobFilter(queue=f"agent:{name}", status="delayed"), limit=20)
        told += [(f"run {run.id} is tried again later ({run.reason})", f"understudy why {run.id}") for run in delayed]
        return told

    async def _why_means(self, name: str, settings: AgentSettings) -> list[tuple[str, str]]:
        """Tell what stands between an agent and its model: its budget, its provider, its tools."""
        told = []
        spent, limits = await self._spent_today(name), settings.budget
        tokens = spent["input_tokens"] + spent["output_tokens"]
        if limits.day_tokens is not None and tokens >= limits.day_tokens:
            told.append((f"its tokens of today are spent ({tokens})", f"raise day_tokens under [agents.{name}.budget]"))
        most = micros(limits.day_cost)
        if most is not None and spent["cost"] >= most:
            told.append(("its money of today is spent", f"raise day_cost under [agents.{name}.budget]"))
        if settings.llm is not None:
            view = self.house.models.view(settings.llm.provider)
            if view is not None and view.breaker != "closed":
                told.append(
                    (f"its provider fails: {view.last_error}", f"understudy providers test {settings.llm.provider}")
                )
        for tool, why in self.house.toolroom.toolbox(settings).missing.items():
            told.append((f"its tool {tool} is not there: {why}", f"understudy agents show {name}"))
        return told


def settings_of(given: dict[str, Any], settings: Settings, name: str, *, new: bool = False) -> AgentSettings:
    """Return the settings of an agent that is defined at run time. Raises AgentInvalid, which never quotes what was
    given. One that is not *new* may name tools that are no longer there: it does without them.
    """
    context: dict[str, Any] = {"providers": {*settings.providers, *BUILTIN_PROVIDERS}}
    if new:
        context["tools"] = BUILTIN_TOOLS
    try:
        return AgentSettings.model_validate_json(json.dumps(given), context=context)
    except ValidationError as error:
        faults = [
            {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]}
            for fault in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        places = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'all'}: {one['msg']}" for one in faults)
        raise AgentInvalid(f"the settings of {name} are not valid: {places}", errors=faults) from None
