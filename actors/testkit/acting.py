"""What a test does to a daemon in memory, and how it looks at what became of it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from actors.testkit.boot import DOWN, START, Boot, Plan, spec_of
from actors.testkit.model import ScriptedModel
from actors.testkit.probe import Probe
from runtime.llm.provider import Provider
from runtime.loader import load_object
from schemas.agents import Answered, GetConversation, Say
from schemas.base import Message, Request
from schemas.chat import ChatMessage
from schemas.events import Event
from schemas.jobs import ENDED, JobView, NewJob, SubmitJob
from schemas.runs import GetRun, RunDetail
from schemas.tools import AnswerApproval, ApprovalStatus, ApprovalView, ListApprovals

R = TypeVar("R")

WITHIN = 3600.0
"""Seconds of the event loop's time for which anything is waited for."""


class Stage:
    """A daemon in memory and what a test does to it. Made by `stage`; the names `house`, `system` and `disk` lead to
    its inside.

    models  what was given for each provider
    model   the one model of all, where one was given or none
    folder  where the configuration and the code are
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self.models: Mapping[str, Provider] = plan.models
        self.disk = plan.disk
        self.heard: list[tuple[str, str, dict[str, Any]]] = []
        self._plan = plan
        self._tasks: TaskGroup
        self._number = 1
        self._boot = Boot(plan, 1, START, self.heard)

    @property
    def model(self) -> ScriptedModel:
        """The scripted model of all providers, or the only one that was given."""
        found = {id(one): one for one in (self._plan.every, *self.models.values()) if isinstance(one, ScriptedModel)}
        if len(found) != 1:
            raise AssertionError(f"there are {len(found)} scripted models; take one from `models`")
        return next(iter(found.values()))

    @property
    def house(self) -> Any:
        """The inside of the daemon that runs now (`actors.company.Company`)."""
        return self._boot.house

    @property
    def system(self) -> Any:
        """Its actors (`runtime.core.system.ActorSystem`)."""
        return self._boot.system

    @property
    def now(self) -> int:
        """Its wall time, in milliseconds."""
        return self._boot.house.clock.now()

    # -- saying something ----------------------------------------------------------------------------------------------

    async def say(self, agent: str, text: str, conversation: str = "main", **job: Any) -> str:
        """Say something to an agent; return the id of the run. *job* are fields of `schemas.jobs.NewJob`."""
        return await self.send(agent, Say(text=text, conversation=conversation), **job)

    async def send(self, agent: str, message: Message, **job: Any) -> str:
        """Send an agent a durable message; return the id of its job."""
        args = {"agent": agent, "type": message.TYPE, "message": message.model_dump(mode="json", exclude_none=True)}
        return await self.submit("agent.message", args=args, **job)

    async def submit(self, kind: str, **job: Any) -> str:
        """Submit a job; return its id. Raises what submitting raises (UnknownKind, RequestInvalid, ...)."""
        return (await self.ask("queue", SubmitJob(job=NewJob(kind=kind, **job)))).id

    async def ask(self, actor: str, request: Request[R]) -> R:
        """Ask an actor by its name: `queue`, `system`, `agent:NAME`. Raises what `Ref.ask` raises."""
        found: R = await self.system.ref(actor).ask(request)
        return found

    # -- what became of it ---------------------------------------------------------------------------------------------

    async def answer(self, run: str) -> Answered:
        """Wait for the answer of a run. Raises AssertionError, with the timeline, where it ends without one, or stands
        still for a person (`approval` waits for that).
        """
        view = await self._until(run, lambda view: view.status in ENDED or asks_person(view))
        if view.status != "completed":
            raise AssertionError(await self._told(run))
        return Answered.model_validate(view.result)

    async def approval(self, run: str) -> ApprovalView:
        """Wait until a run stands still for a person; return what it asks. Raises AssertionError where it ends."""
        view = await self._until(run, lambda view: view.status in ENDED or asks_person(view))
        asked = [one for one in await self.approvals() if one.run == run]
        if view.status in ENDED or not asked:
            raise AssertionError(f"the run asks nobody: {await self._told(run)}")
        return asked[0]

    async def end(self, job: str, *, within: float = WITHIN) -> JobView:
        """Wait for the end of a run or another job, however it ends; an approval that nobody answers expires in its
        time. Raises AssertionError where it has not ended in *within* seconds.
        """
        return await self.until(job, *ENDED, within=within)

    async def until(self, job: str, *statuses: str, within: float = WITHIN) -> JobView:
        """Wait until a job has one of *statuses* (`waiting`, `completed`, ...). Raises AssertionError where it has none
        of them within so many seconds.
        """
        return await self._until(job, lambda view: view.status in statuses, within)

    async def _until(self, job: str, holds: Callable[[JobView], bool], within: float = WITHIN) -> JobView:
        view: JobView | None = None
        with anyio.move_on_after(within), self.house.bus.subscribe(subject=job) as news:
            while True:
                view = await self.disk.job(job)
                if view is None:
                    raise AssertionError(f"there is no job {job}")
                if holds(view):
                    return view
                news.take()
                await news.wait()
        assert view is not None
        raise AssertionError(f"nothing more came of job {job} within {within:g} s: it is {view.status}/{view.reason}")

    async def run(self, run: str) -> RunDetail:
        """Return a run with its timeline and what it spent."""
        return await self.ask("system", GetRun(id=run))

    async def conversation(self, agent: str, name: str = "main") -> tuple[ChatMessage, ...]:
        """Return what is kept of a conversation, oldest first. Raises ConversationNotFound."""
        return await self.ask("system", GetConversation(name=agent, conversation=name, limit=1000))

    async def state(self, agent: str) -> dict[str, Any]:
        """Return an agent's saved state; empty where there is none."""
        row = await self.disk.state(agent)
        found: dict[str, Any] = {} if row is None else json.loads(row.state)
        return found

    async def events(self, *types: str) -> tuple[Event, ...]:
        """Return what has happened, oldest first, of *types* (one may end in `*`; none means all)."""
        return await self.disk.events(after=0, types=types, limit=100_000)

    async def _told(self, run: str) -> str:
        """Return how a run stands, for a failure."""
        detail = await self.run(run)
        lines = [f"{entry.what} {entry.name} {entry.state}: {entry.text[:200]}" for entry in detail.timeline]
        why = detail.error.detail if detail.error is not None else detail.waits_for or detail.reason
        return "\n  ".join([f"run {run} is {detail.status}: {why}", *lines])

    # -- people --------------------------------------------------------------------------------------------------------

    async def approvals(self, status: ApprovalStatus | None = "pending") -> tuple[ApprovalView, ...]:
        """Return what people are asked, newest first; with None those that are answered, too."""
        return await self.ask("system", ListApprovals(status=status, limit=1000))

    async def allow(
        self,
        approval: str | ApprovalView,
        *,
        arguments: dict[str, Any] | None = None,
        always: bool = False,
        reason: str | None = None,
    ) -> ApprovalView:
        """Say yes, perhaps with other *arguments*, perhaps *always*. Raises ApprovalNotFound, ApprovalAnswered."""
        return await self._answered(approval, allow=True, arguments=arguments, always=always, reason=reason)

    async def deny(self, approval: str | ApprovalView, reason: str | None = None) -> ApprovalView:
        """Say no; the model reads the *reason*. Raises ApprovalNotFound, ApprovalAnswered."""
        return await self._answered(approval, allow=False, reason=reason)

    async def _answered(self, approval: str | ApprovalView, **answer: Any) -> ApprovalView:
        found = approval if isinstance(approval, str) else approval.id
        return await self.ask("system", AnswerApproval(id=found, by="the test", **answer))

    # -- the daemon ----------------------------------------------------------------------------------------------------

    async def up(self, tasks: TaskGroup, *, strict: bool) -> None:
        """Start the first daemon in *tasks*; `stage` does this. Raises AssertionError for what *strict* tells."""
        self._tasks = tasks
        await self._boot.start(tasks)
        troubles = self._boot.troubles() if strict else []
        if troubles:
            raise AssertionError("; ".join(troubles))

    async def down(self) -> None:
        """Stop the last daemon in order; `stage` does this."""
        await self._boot.stop()

    async def restart(self) -> None:
        """Stop the daemon in order and start another one on what it left. The test goes on with the same stage."""
        await self._boot.stop()
        await self._next()

    async def crash(self) -> None:
        """Have the daemon die as by `kill -9` and start another one on what it left: what had not reached the disk has
        never been. Models and modules keep what they remember; `finally` blocks of what was cut off do run.
        """
        await self._boot.die()
        await self._next()

    async def _next(self) -> None:
        self._number += 1
        self._boot = Boot(self._plan, self._number, self.now + DOWN, self.heard)
        await self._boot.start(self._tasks)

    async def probe(self, name: str, replies: Mapping[type[Any], Any] | None = None) -> Probe:
        """Put a `Probe` on the stage as the actor *name*; it is there after a restart, too."""
        probe = Probe(replies)
        self._plan.actors[name] = probe
        await self.system.start_child("cast", spec_of(name, probe))
        return probe

    def load(self, reference: str) -> Any:
        """Return what *reference* (`tools:CALLED`) names in the very module that the agents use. Raises LoadFailed."""
        return load_object(reference, self.folder)


def asks_person(view: JobView) -> bool:
    """Tell whether a run stands still until a person has answered."""
    return (view.status, view.reason) == ("waiting", "signal")
