"""Both event loops with a clock that jumps, and a stage: the house furnished in memory, with the chosen cast on it."""

import asyncio  # a clock for asyncio that jumps as trio's does
import selectors
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio.testing

from actors import tree
from actors.company import Company
from actors.keeper import Keeper
from actors.queue import Queue
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.daemon import Parts
from runtime.errors import JobNotFound, StoreError, StoreFull
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store.memory import MemoryStore
from runtime.store.port import Change, ClaimJobs
from schemas.agents import Say
from schemas.base import Request
from schemas.jobs import (
    ENDED,
    CancelJob,
    Cancelled,
    Claimed,
    JobEnded,
    JobView,
    Lane,
    NewJob,
    Outcome,
    RetryJob,
    RunJob,
    SubmitJob,
    SubmitJobs,
    Submitted,
    WorkerReady,
)

BOOTS = ("boot-1", "boot-2", "boot-3")
"""Each boot an hour after the one before, with ids of its own."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock stands still while anything can run, and jumps to the next timer when nothing can."""

    def __init__(self) -> None:
        self.at = 1000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.at

    def jump(self) -> None:
        self.at = max(self.at, self._scheduled[0].when())


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._loop.jump()
        return ready


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualLoop}


class Disk(MemoryStore):
    """A store whose commits are kept for the test, and that fails as it is told to.

    refuses   every commit, until it is None again
    spoils    says of a change why no commit with it can be written; None where it can
    unheard   the next commit with a change of this type is written, and nobody hears of it
    takes     seconds that a commit takes
    claimed   what each claim has found
    """

    def __init__(self) -> None:
        super().__init__()
        self.refuses: StoreError | None = None
        self.spoils: Callable[[Change], Exception | None] = lambda change: None
        self.unheard: type | None = None
        self.takes = 0.0
        self.commits: list[tuple[Change, ...]] = []
        self.refused = 0
        self.claimed: list[tuple[Claimed, ...]] = []

    async def commit(self, changes: Any) -> list[Any]:
        if self.takes:
            await anyio.sleep(self.takes)
        for error in filter(None, map(self.spoils, changes)):
            raise error
        if self.refuses is not None:
            self.refused += 1
            raise self.refuses
        if self.unheard is not None and any(isinstance(change, self.unheard) for change in changes):
            self.unheard = None
            self.fail_next(StoreError("the outcome is unknown"), applied=True)
        self.commits.append(tuple(changes))
        results = await super().commit(changes)
        self.claimed += [found for one, found in zip(changes, results, strict=True) if isinstance(one, ClaimJobs)]
        return results

    def written(self, kind: type) -> list[Any]:
        """Return the changes of one kind that were committed, in order."""
        return [change for changes in self.commits for change in changes if isinstance(change, kind)]


class Hand(Actor):
    """A worker played by the test: it takes jobs and says nothing until the test does."""

    def __init__(self, seat: dict[str, Any], taken: list[Claimed]) -> None:
        self.seat, self.taken = seat, taken
        self.news = anyio.Event()

    async def on_start(self) -> None:
        ready = WorkerReady(worker=self.ctx.name, **self.seat)
        await self.ctx.actor("queue").tell(ready)

    @handles
    def run(self, message: RunJob) -> None:
        self.taken.append(message.job)
        self.news.set()
        self.news = anyio.Event()


class Stage:
    """A running system and what a test does to it."""

    def __init__(self, house: Company, system: ActorSystem, events: list[tuple[str, str, dict[str, Any]]]) -> None:
        self.house, self.system, self.happened = house, system, events
        self.disk: Any = house.store
        self.taken: dict[str, list[Claimed]] = {}

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def ask(self, message: Request[Any]) -> Any:
        """Ask the queue."""
        return await self.system.ref("queue").ask(message)

    async def submit_many(self, *jobs: dict[str, Any]) -> list[str]:
        """Submit a batch of echoes, or of other kinds; return the ids."""
        made = tuple(NewJob(**({"kind": "echo"} | job)) for job in jobs)
        return [one.id for one in await self.ask(SubmitJobs(jobs=made))]

    async def submit(self, kind: str = "echo", /, **fields: Any) -> Submitted:
        return await self.system.ref("queue").ask(SubmitJob(job=NewJob(kind=kind, **fields)))

    async def say(self, agent: str, text: str, conversation: str = "main", **fields: Any) -> str:
        """Submit words for an agent; return the job's id."""
        message = {"text": text, "conversation": conversation}
        args = {"agent": agent, "type": Say.TYPE, "message": message}
        return (await self.submit("agent.message", args=args, **fields)).id

    async def cancel(self, job: str) -> Cancelled:
        return await self.system.ref("queue").ask(CancelJob(id=job))

    async def retry(self, job: str) -> Submitted:
        return await self.system.ref("queue").ask(RetryJob(id=job))

    async def job(self, job: str) -> JobView:
        view = await self.house.store.job(job)
        assert view is not None
        return view

    async def stands(self, job: str) -> tuple[str, str | None]:
        view = await self.job(job)
        return view.status, view.reason

    async def until(self, job: str, *statuses: str) -> JobView:
        """Wait until *job* has one of *statuses* (default: has ended)."""
        with anyio.fail_after(3600), self.house.bus.subscribe(subject=job) as news:
            while (view := await self.job(job)).status not in (statuses or ENDED):
                news.take()
                await news.wait()
            return view

    async def caught_up(self) -> None:
        """Wait until the queue has handled and written all it was told so far, and handed out what it can."""
        for _ in range(2):
            with pytest.raises((JobNotFound, StoreError)):
                await self.cancel("nobody")

    async def counts(self) -> dict[str, dict[str, int]]:
        """What the house says of the queues, without zeros."""
        return {q: kept for q, all_ in self.house.counts.items() if (kept := {s: n for s, n in all_.items() if n})}

    async def true_counts(self) -> dict[str, dict[str, int]]:
        """The same from the store."""
        found: dict[str, dict[str, int]] = {}
        for ended in (False, True):
            for (queue, _, status), count in (await self.house.store.counts(ended=ended)).items():
                of = found.setdefault(queue, {})
                of[status] = of.get(status, 0) + count
        return found

    # -- a worker played by the test -----------------------------------------------------------------------------------

    async def hand(self, name: str = "hand", lane: Lane = "loop", **seat: Any) -> "Hired":
        taken = self.taken.setdefault(name, [])
        made: list[Hand] = []

        def make() -> Hand:
            made.append(Hand({"lane": lane} | seat, taken))
            return made[-1]

        await self.system.start_child("hands", ChildSpec(name, make))
        await self.caught_up()
        return Hired(self, name, taken, made)

    def die(self) -> Any:
        """Be killed: nothing more reaches the disk, which is returned. What comes after this is not seen any more."""
        self.disk.refuses = StoreFull("this process is gone")
        return self.disk

    async def restart(self, name: str) -> None:
        await self.system.restart_child(name)
        await self.caught_up()

    def heard(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """What happened to actors, of one kind: (name, data)."""
        return [(name, data) for found, name, data in self.happened if found == kind]


class Hired:
    """The test's end of a `Hand`."""

    def __init__(self, stage: Stage, name: str, taken: list[Claimed], made: list[Hand]) -> None:
        self.stage, self.name, self.taken, self._made = stage, name, taken, made

    @property
    def has(self) -> list[str]:
        """The ids of all jobs it was handed so far."""
        return [job.id for job in self.taken]

    async def takes(self, count: int) -> Claimed:
        """Wait until it was handed *count* jobs in all; return the last."""
        with anyio.fail_after(3600):
            while len(self.taken) < count:
                await self._made[-1].news.wait()
        return self.taken[-1]

    async def ends(self, job: Claimed, outcome: Outcome | None = None, **fields: Any) -> None:
        """Say how an attempt ended; by default well."""
        told = outcome or Outcome(**({"ok": True} | fields))
        await self.stage.system.ref("queue").tell(JobEnded(job, told))
        await self.stage.caught_up()


Staged = Callable[..., AbstractAsyncContextManager[Stage]]
Cast = Callable[[Company], Iterable[ChildSpec | SupervisorSpec]]


def queue_only(house: Company) -> tuple[ChildSpec | SupervisorSpec, ...]:
    return (
        ChildSpec("store", lambda: Keeper(house), mailbox=10_000),
        ChildSpec("queue", lambda: Queue(house), mailbox=10_000),
        SupervisorSpec("hands", on_exhausted="quarantine"),
    )


@pytest.fixture
def furnish(tmp_path: Path) -> Callable[..., Company]:
    """Furnish a house from the text of a configuration and of modules beside it, on an empty disk or a given one."""

    def make(config: str = "", *, boot: str = "boot-1", disk: MemoryStore | None = None, **modules: str) -> Company:
        for name, text in modules.items():
            (tmp_path / name.replace("_toml", ".toml").replace("_py", ".py")).write_text(textwrap.dedent(text))
        if isinstance(disk, Disk):
            disk.refuses = None
        path = tmp_path / "config.toml"
        path.write_text(textwrap.dedent(config))
        return tree.company(
            Parts(
                boot=boot,
                home=tmp_path,
                store=Disk() if disk is None else disk,
                bus=EventBus(),
                clock=VirtualClock(seed=BOOTS.index(boot), start_ms=1_700_000_000_000 + 3_600_000 * BOOTS.index(boot)),
                redactor=Redactor(),
                loaded=load(path, {}),
                started_at=0,
            )
        )

    return make


@pytest.fixture
def perform() -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """Run a cast in a house that is furnished already; it is stopped at the end of the block."""

    @asynccontextmanager
    async def run(house: Company, cast: Cast = queue_only) -> AsyncIterator[Stage]:
        events: list[tuple[str, str, dict[str, Any]]] = []
        root = SupervisorSpec("root", strategy="rest_for_one", children=tuple(cast(house)))
        system = ActorSystem(root, clock=house.clock, on_event=lambda *event: events.append(event))
        async with anyio.create_task_group() as tasks:
            await tasks.start(system.run)
            try:
                yield Stage(house, system, events)
            finally:
                house.draining = True
                system.stop()
        assert system.unstopped == []

    return run


@pytest.fixture
def stage(furnish: Callable[..., Company], perform: Any) -> Staged:
    """Keeper and queue of a house in memory; workers are played by the test (`hand`)."""

    @asynccontextmanager
    async def run(config: str = "", **more: Any) -> AsyncIterator[Stage]:
        async with perform(furnish(config, **more)) as found:
            yield found

    return run


@pytest.fixture
def whole(furnish: Callable[..., Company], perform: Any) -> Staged:
    """The whole tree as the daemon runs it, but for the control socket; with a place for hands."""

    @asynccontextmanager
    async def run(
        config: str = "", *, safe: bool = False, change: Callable[[Company], None] | None = None, **more: Any
    ) -> AsyncIterator[Stage]:
        house = furnish(config, **more)
        if change is not None:
            change(house)
        stopped: list[bool] = []

        def cast(house: Company) -> tuple[ChildSpec | SupervisorSpec, ...]:
            return (*tree.tree(house, stopped.append, (), safe=safe).children, SupervisorSpec("hands"))

        async with perform(house, cast) as found:
            found.stopped = stopped
            yield found

    return run
