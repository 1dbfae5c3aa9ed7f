"""The front desk: what the control socket's operations do inside the daemon."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final

import anyio

from runtime.core.ref import Ref
from runtime.core.system import ActorSystem
from runtime.errors import (
    AgentBusy,
    AgentNotFound,
    AskTimeout,
    Draining,
    JobFailed,
    JobNotFound,
    NoSuchActor,
    UnhandledMessage,
    problem,
)
from runtime.events import Subscription
from runtime.events import follow as replay
from runtime.house import House
from runtime.version import API, VERSION
from runtime.watchdog import Watchdog
from schemas.agents import STEER_TAG, Busy, KeepPartial, Say
from schemas.base import Ack, Message, Request
from schemas.errors import Problem
from schemas.events import Event, StreamPart
from schemas.jobs import ENDED, CancelJob, JobFilter, JobView, NewJob, SubmitJob, SubmitJobs, Submitted
from schemas.system import ActorView, Health, HealthView, Hello, Shutdown, StatusView

OVER: Final = frozenset(f"job.{status}" for status in ENDED)
"""The events with which a job ends."""

KEEPING: Final = 5.0
"""How many seconds an agent has to say that it will keep what its turn has done."""

INTERRUPTED: Final = ("delayed", "requeued", "recovered", "lost", "waiting", "held")
"""Events of a job after which somebody who waits for its answer has to be patient."""


class Desk:
    """Answers for one running daemon. The first four are called in the control thread and read what was published."""

    def __init__(self, house: House, system: ActorSystem, watchdog: Watchdog) -> None:
        self.house, self.system, self.watchdog = house, system, watchdog
        self.ready = False
        self.safe_mode: str | None = None

    # -- from any thread ---------------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(
            version=VERSION,
            api={"min": API, "max": API},
            pid=self.house.pid,
            started_at=self.house.started_at,
            features=("jobs", "agents", "events"),
        )

    def health(self) -> HealthView:
        health, reasons = self._judge()
        return HealthView(
            health=health, reasons=reasons, loop_lag_ms=self.watchdog.lag_ms, blocked=self.watchdog.blocked
        )

    def _judge(self) -> tuple[Health, tuple[str, ...]]:
        if self.house.draining:
            return "draining", ("the daemon is stopping",)
        if not self.ready:
            return "starting", ("the daemon is starting",)
        reasons = []
        if self.house.store_trouble is not None:
            reasons.append(f"the store refuses writes: {self.house.store_trouble}")
        if self.watchdog.blocked is not None:
            blocked = self.watchdog.blocked
            reasons.append(f"the event loop is blocked for {blocked['seconds']:.1f} s by {blocked['actor']}")
        reasons += [
            f"{cell.name} is quarantined: {cell.reason}" for cell in cells(self.tree()) if cell.state == "quarantined"
        ]
        reasons += self.house.troubles()
        if self.safe_mode is not None:
            return "safe_mode", (self.safe_mode, *reasons)
        return ("degraded" if reasons else "ok"), tuple(reasons)

    def status(self) -> StatusView:
        health, reasons = self._judge()
        house = self.house
        agents = [cell.state for cell in cells(self.tree()) if cell.name.startswith("agent:")]
        workers = list(house.workers.values())
        return StatusView(
            pid=house.pid,
            version=VERSION,
            uptime=max(0, house.clock.now() - house.started_at) / 1000,
            health=health,
            reasons=reasons,
            home=str(house.home),
            config=str(house.loaded.path),
            boot=house.boot,
            durability=house.loaded.settings.runtime.durability,
            agents={
                "total": len(agents),
                "running": agents.count("running"),
                "quarantined": agents.count("quarantined"),
            },
            workers={"total": len(workers), "busy": sum(map(bool, workers)), "idle": workers.count(0)},
            queues={
                name: {s: n for s, n in counts.copy().items() if n} for name, counts in house.counts.copy().items()
            },
            repairs=house.repairs.copy(),
            loop_lag_ms=self.watchdog.lag_ms,
            blocked=self.watchdog.blocked,
        )

    def tree(self) -> ActorView:
        return self.system.tree()

    # -- on the actors' loop -----------------------------------------------------------------------------------------

    def find(self, name: str) -> Ref:
        """Return the actor *name*, or the agent of that name. Raises NoSuchActor."""
        try:
            return self.system.ref(name)
        except NoSuchActor:
            if f"agent:{name}" in self.system.names():
                return self.system.ref(f"agent:{name}")
            raise

    async def ask(self, actor: str, message: Message, *, timeout: float, key: str | None) -> Any:
        if message.DURABLE:
            return await self._ask_durably(self.find(actor), message, timeout, key)
        if isinstance(message, Shutdown) and self.house.draining:  # who takes this may be gone by now
            self.system.stop(now=message.now)
            return Ack()
        self._check_open(message)
        if not isinstance(message, Request):
            await self.find(actor).tell(message)
            return None
        return await self.find(actor).ask(message, timeout=timeout)

    async def tell(self, actor: str, message: Message, *, key: str | None) -> Any:
        ref = self.find(actor)
        if message.DURABLE:
            return await self._submit(ref, message, key)
        self._check_open(message)
        await ref.tell(message)
        return None

    def _check_open(self, message: Message) -> None:
        if self.house.draining and isinstance(message, SubmitJob | SubmitJobs):
            raise Draining("the daemon is stopping and takes no new work", retry_after=5.0)

    async def _submit(self, ref: Ref, message: Message, key: str | None, tags: tuple[str, ...] = ()) -> Submitted:
        """Make a durable message the job that it is."""
        agent = ref.name.removeprefix("agent:")
        left_out = {"when_busy"} if isinstance(message, Say) else None  # for us, not for the agent
        args = {"agent": agent, "type": message.TYPE, "message": message.model_dump(mode="json", exclude=left_out)}
        job = NewJob(kind="agent.message", args=args, key=key)
        submit = SubmitJob(job=job.model_copy(update={"tags": tags}) if tags else job)
        self._check_open(submit)
        return await self.system.ref("queue").ask(submit)

    async def _ask_durably(self, ref: Ref, message: Message, timeout: float, key: str | None) -> Any:
        submitted = await self._submit(ref, message, key)
        with anyio.move_on_after(timeout):
            async with self.watch(submitted.id) as parts:
                async for part in parts:
                    if part.kind == "done":
                        return answer_of(part.data["job"], submitted.id)
        raise AskTimeout(
            f"job {submitted.id} goes on; wait for it with: understudy jobs wait {submitted.id}", job=submitted.id
        )

    @asynccontextmanager
    async def chat(
        self, agent: str, say: Say, *, key: str | None, detach: bool
    ) -> AsyncIterator[AsyncIterator[StreamPart]]:
        name = f"agent:{agent}"
        if name not in self.system.names():
            known = sorted(n.removeprefix("agent:") for n in self.system.names() if n.startswith("agent:"))
            raise AgentNotFound(f"there is no agent {agent!r}; there are: {', '.join(known)}", known=known)
        busy = await self._make_room(agent, say)
        submitted = await self._submit(self.system.ref(name), say, key, tags=(STEER_TAG,) if busy == "steer" else ())
        turn = Conversation(submitted.id, say.conversation)
        with self.house.bus.subscribe(subject=submitted.id) as subscription:
            parts = self._chat_parts(turn, subscription)
            try:
                yield parts
            finally:
                await parts.aclose()
                if not turn.ended and not detach and not self.house.draining:
                    with anyio.CancelScope(shield=True):
                        await self._cancel(turn.job, "the caller hung up")

    async def _make_room(self, agent: str, say: Say) -> Busy | None:
        """Do what is to be done about the turn that runs in the conversation; return the policy, None where none runs.

        Raises AgentBusy where words are refused meanwhile.
        """
        settings = self.house.loaded.settings.agents.get(agent)
        policy = say.when_busy or (settings.when_busy if settings is not None else "enqueue")
        if policy == "enqueue":
            return None
        running = [
            job
            for status in ("active", "waiting")
            for job in await self.house.store.jobs(JobFilter(queue=f"agent:{agent}", status=status), limit=1000)
            if job.conversation == say.conversation
        ]
        if not running:
            return None
        if policy == "reject":
            raise AgentBusy(f"{agent} is at work in this conversation on run {running[0].id}", run=running[0].id)
        if policy in ("interrupt", "rollback"):
            for job in running:
                await self._end_turn(agent, job.id, keep=policy == "interrupt")
        return policy

    async def _end_turn(self, agent: str, run: str, *, keep: bool) -> None:
        """Cancel a turn and wait until it has ended."""
        if keep:
            with suppress(UnhandledMessage, AskTimeout):  # an actor of the user's own, which has nothing to keep
                await self.system.ref(f"agent:{agent}").ask(KeepPartial(job=run), timeout=KEEPING)
        async with self.watch(run) as parts:
            await self._cancel(run, "other words came")
            async for part in parts:
                if part.kind == "done":
                    return

    async def _cancel(self, run: str, reason: str) -> None:
        """Cancel a run and what it has asked of others: nobody waits for it any more."""
        await self.system.ref("queue").ask(CancelJob(id=run, reason=reason))
        for part in await self.house.store.children(run):
            if part.status not in ENDED:
                await self._cancel(part.id, reason)

    async def _chat_parts(self, turn: "Conversation", subscription: Subscription) -> AsyncGenerator[StreamPart, None]:
        yield StreamPart(kind="accepted", data={"job": turn.job, "conversation": turn.conversation})
        async with aclosing(self._chat_news(turn, subscription)) as parts:
            async for part in parts:
                yield part
        while turn.into is not None:  # another turn has taken the words in: its answer is theirs
            turn.follow()
            with self.house.bus.subscribe(subject=turn.job) as news:
                async with aclosing(self._chat_news(turn, news)) as parts:
                    async for part in parts:
                        yield part

    async def _chat_news(self, turn: "Conversation", subscription: Subscription) -> AsyncGenerator[StreamPart, None]:
        async with aclosing(self._job_news(turn.job, subscription)) as news:
            async for view, events in news:
                for event in events:
                    part = turn.hear(event)
                    if part is not None:
                        yield part
                if view is not None:
                    for part in turn.end(view):
                        yield part

    @asynccontextmanager
    async def watch(self, job: str) -> AsyncIterator[AsyncIterator[StreamPart]]:
        with self.house.bus.subscribe(subject=job) as subscription:
            if await self.house.store.job(job) is None:
                raise JobNotFound(f"there is no job {job}", job=job)
            parts = self._watch_parts(job, subscription)
            try:
                yield parts
            finally:
                await parts.aclose()

    async def _watch_parts(self, job: str, subscription: Subscription) -> AsyncGenerator[StreamPart, None]:
        async with aclosing(self._job_news(job, subscription)) as news:
            async for view, events in news:
                for event in events:
                    if event.type.partition(".")[2] not in ENDED:
                        yield StreamPart(kind=event.type.partition(".")[2], data=event.data)
                if view is not None:
                    yield StreamPart(kind="done", data={"job": view.model_dump(mode="json")})

    async def _job_news(
        self, job: str, subscription: Subscription
    ) -> AsyncGenerator[tuple[JobView | None, list[Event]], None]:
        """Hand out what is told of *job* until it ends; with the last news comes the job itself."""
        look = True
        while True:
            events = subscription.take()
            look = look or subscription.lagged or any(event.type in OVER for event in events)
            subscription.lagged = False
            view = await self.house.store.job(job) if look else None
            look = False
            ended = view if view is not None and view.status in ENDED else None
            yield ended, events
            if ended is not None:
                return
            await subscription.wait()

    @asynccontextmanager
    async def events(
        self, *, since: int | None, types: tuple[str, ...], subject: str | None, follow: bool
    ) -> AsyncIterator[AsyncIterator[StreamPart]]:
        async with replay(
            self.house.store, self.house.bus, since=since, types=types, subject=subject, live=follow
        ) as events:
            parts = (
                StreamPart(kind="event", data=event.model_dump(mode="json"), id=event.offset) async for event in events
            )
            try:
                yield parts
            finally:
                await parts.aclose()


class Conversation:
    """What a person who asked has been told so far of one turn, over however many attempts it takes."""

    def __init__(self, job: str, conversation: str) -> None:
        self.job, self.conversation = job, conversation
        self.said = ""
        self.began = False
        self.ended = False
        self.into: str | None = None

    def follow(self) -> None:
        """Go on with the turn that has taken the words in."""
        assert self.into is not None
        self.job, self.into, self.said, self.began, self.ended = self.into, None, "", True, False

    def hear(self, event: Event) -> StreamPart | None:
        """Return what to tell the asker of an event of the job, if anything."""
        if event.type == "turn.token":
            self.said += event.data["text"]
            return StreamPart(kind="token", data=event.data)
        kind = event.type.partition(".")[2]
        if event.type == "turn.started":
            again, self.began, self.said = self.began, True, ""
            return StreamPart(kind="restarted" if again else "started", data=event.data)
        if event.type == "turn.tool":
            self.said = ""  # the answer is what is said after the last tool
        if event.type.startswith("turn.") or kind in INTERRUPTED:
            return StreamPart(kind="waiting" if kind in INTERRUPTED else kind, data=event.data)
        return None

    def end(self, view: JobView) -> list[StreamPart]:
        """Return the last parts: whatever of the text was not streamed, and how it ended."""
        self.ended = True
        if view.status == "cancelled" and view.error is not None and "into" in view.error.data:
            self.into = str(view.error.data["into"])
            return [StreamPart(kind="steered", data={"into": self.into})]
        if view.status != "completed":
            return [StreamPart(kind="error", data=problem_of(view).model_dump(mode="json"))]
        result = view.result if isinstance(view.result, dict) else {"text": str(view.result)}
        text = str(result.get("text", ""))
        parts = []
        if not text.startswith(self.said):
            parts.append(StreamPart(kind="restarted", data={}))
            self.said = ""
        if len(text) > len(self.said):
            parts.append(StreamPart(kind="token", data={"text": text[len(self.said) :]}))
        return [*parts, StreamPart(kind="done", data=result | {"job": self.job})]


def problem_of(view: JobView) -> Problem:
    """Return why a job did not complete."""
    if view.error is not None:
        return view.error
    code = {"deadline": "job.deadline", "dependency": "job.dependency"}.get(view.reason or "")
    if code is None:
        code = "job.cancelled" if view.status == "cancelled" else "job.failed"
    return problem(code, f"job {view.id} is {view.status}: {view.reason}")


def answer_of(job: dict[str, Any], job_id: str) -> Any:
    """Return a completed job's result. Raises JobFailed with its own problem otherwise."""
    if job["status"] == "completed":
        return job["result"]
    told = job["error"] or {}
    raise JobFailed(told.get("detail", f"job {job_id} is {job['status']}: {job['reason']}"), job=job_id, problem=told)


def cells(view: ActorView) -> list[ActorView]:
    """Return every actor below *view*."""
    return [cell for child in view.children for cell in ([child, *cells(child)] if child.children else [child])]
