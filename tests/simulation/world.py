"""The world of one history: a store that outlives every daemon, the daemons one after another, and what must be true in
the end.
"""

import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import anyio
from anyio.abc import TaskStatus

import actors.queue
from actors import keeper, tree
from actors.company import Company
from runtime.clock import VirtualClock
from runtime.config import load
from runtime.core.system import ActorSystem
from runtime.cron import Cron
from runtime.daemon import Parts
from runtime.errors import ActorError, RestartLimitReached, StoreError, UnderstudyError
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store.memory import MemoryStore
from runtime.store.port import Change, Move
from schemas.events import Event
from schemas.jobs import JobFilter, NewJob, Submitted
from schemas.schedules import ListSchedules, PauseSchedule
from tests.simulation import acts
from tests.simulation.hands import Hands
from tests.simulation.rules import Broken, Rules
from tests.simulation.scripts import MAX_ACTIVE, RATE, Day
from tests.simulation.stage import Disk, Lie, Player

HOUR: Final = 3600.0
DRAIN: Final = 48 * HOUR
"""Virtual seconds in which everything must have ended once nothing goes wrong any more."""
SWEEP_EVERY: Final = 1200.0
"""Seconds; the keeper's own minute would be a third of all that happens."""


class World:
    """One history from its seed."""

    def __init__(
        self, seed: int, hours: float = 24.0, sabotage: Callable[[Change], Change | Lie] | None = None
    ) -> None:
        self.day = Day(seed)
        self.hours = hours
        self.sabotage = sabotage
        self.chance = self.day.rng
        self.core = MemoryStore()
        self.core.listen(self._on_events)
        self.core.watch(self._on_moves)
        self.clock = VirtualClock(seed, self.day.start_ms)
        self.rules = Rules(
            queues=dict(MAX_ACTIVE), overall=self.day.overall, rates={"c": RATE}, passed=lambda: self._passed
        )
        self.set_forward = 0
        self.disk = Disk(self)
        self.refusal: type[StoreError] | None = None
        self.deaf = 0
        self.blind = False
        self.acknowledged: dict[str, NewJob] = {}
        self.sure: set[str] = set()
        self.refused: Counter[str] = Counter()
        self.did: Counter[str] = Counter()
        self.boots = 0
        self.exhausted = 0
        self.repairs: Counter[str] = Counter()
        self.fault: Broken | None = None
        self.scope: anyio.CancelScope | None = None
        self.troubled = False
        """Whether the store failed in this boot, so that its daemon may give up and may have to put things right."""

    def _on_events(self, events: Sequence[Event]) -> None:
        try:
            self.rules.hear(events)
        except Broken as fault:  # it is no fault of whoever wrote the events: the history ends here
            self._end(fault)
        for event in events:
            if event.type == "job.retried":
                acts.theatre.begins_anew(event.subject)
        for listener in list(self.disk.listeners):
            listener(events)

    @property
    def _passed(self) -> float:
        return anyio.current_time() * 1000 + self.set_forward

    def _end(self, fault: Broken) -> None:
        self.fault = self.fault or fault
        self.disk.dead = True
        if self.scope is not None:
            self.scope.cancel()

    def _on_moves(self, moves: Sequence[Move]) -> None:
        for watcher in list(self.disk.watchers):
            watcher(moves)

    # -- daemons -------------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Play the whole history; return its trace. Raises Broken."""
        acts.theatre = acts.Theatre()
        acts.frozen.clear()
        with self._machine(), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.toml"
            path.write_text(self.day.config)
            path.chmod(0o600)
            end = anyio.current_time() + self.hours * HOUR
            while anyio.current_time() < end:
                await self._boot(path, lambda house, system: self._live(house, system, end))
                await anyio.sleep(self.chance.choice((1, 5, 60, 1800)))
            self._calm()
            await self._boot(path, self._drain)
        await self._judge()
        return self.rules.trace

    @contextmanager
    def _machine(self) -> Iterator[None]:
        """Have processes played in the loop, and each daemon come up on a machine that was started anew."""
        with (
            patch.object(tree, "Worker", Player),
            patch.object(actors.queue, "host_boot", lambda: f"machine {self.boots}"),
            patch.object(keeper, "SWEEP_EVERY", SWEEP_EVERY),
        ):
            yield

    async def _boot(self, path: Path, live: Callable[[Company, ActorSystem], Awaitable[str]]) -> None:
        self.boots += 1
        self.troubled = self.refusal is not None or self.blind or self.deaf > 0
        self.disk = disk = Disk(self)
        house = tree.company(
            Parts(
                boot=f"boot-{self.boots}",
                home=path.parent,
                store=disk,
                bus=EventBus(),
                clock=self.clock,
                redactor=Redactor(),
                loaded=load(path, {}),
                started_at=0,
            )
        )
        system = ActorSystem(
            tree.tree(house, lambda now: None, (), safe=False), clock=self.clock, on_event=self._happened
        )
        try:
            async with anyio.create_task_group() as tasks:
                self.scope = tasks.cancel_scope
                await tasks.start(self._perform, system)
                how = await live(house, system)
                house.draining = True
                disk.dead = how == "crash"
                if how == "crash":
                    tasks.cancel_scope.cancel()
                else:
                    system.stop()
        except* RestartLimitReached as group:
            if not self.troubled:
                self._end(Broken(f"the daemon gave up though the store was well: {group.exceptions[0]!r}"))
            self.exhausted += 1
        disk.dead = True
        if self.fault is not None:
            raise self.fault
        self._count_repairs(house)

    async def _perform(self, system: ActorSystem, *, task_status: TaskStatus[None]) -> None:
        await system.run(task_status=task_status)

    def _happened(self, kind: str, name: str, data: dict[str, Any]) -> None:
        if kind == "actor.crashed" and not self.troubled and not self.disk.dead:
            self._end(Broken(f"{name} crashed though the store was well: {data}"))

    def _count_repairs(self, house: Company) -> None:
        self.repairs.update(house.repairs)
        if house.repairs and not self.troubled:
            raise Broken(f"repairs were made though the store was well: {house.repairs}")

    # -- what somebody does --------------------------------------------------------------------------------------------

    async def _live(self, house: Company, system: ActorSystem, end: float) -> str:
        """Do things until the daemon is to end; return how."""
        hands = Hands(self, system)
        actions = hands.actions()
        names, weights = list(actions), [weight for weight, _ in actions.values()]
        while anyio.current_time() < end:
            await anyio.sleep(min(self.chance.expovariate(1 / self.day.gap), max(0.0, end - anyio.current_time())))
            if self.chance.random() < 0.025:
                return self.chance.choice(("crash", "crash", "stop"))
            name = self.chance.choices(names, weights)[0]
            self.did[name] += 1
            try:
                await actions[name][1]()
            except UnderstudyError as error:
                self.refused[error.code] += 1
                self._check_refusal(error)
            self._look()
            await self._look_at_keys()
        return "stop"

    async def _look_at_keys(self) -> None:
        """Check the limits of keys by what the store shows; some jobs were added and nobody heard of it."""
        active: Counter[str] = Counter()
        for job in await self.core.jobs(JobFilter(status="active"), limit=1000):
            if job.limit_key is not None:
                active[job.limit_key] += 1
                if active[job.limit_key] > job.limit_max:
                    self.rules.broken(f"{active[job.limit_key]} jobs of key {job.limit_key} are active")

    def _check_refusal(self, error: UnderstudyError) -> None:
        if isinstance(error, StoreError | ActorError) and not self.troubled:
            self.rules.broken(f"a request was refused though the store was well: {error!r}")

    def _look(self) -> None:
        if acts.theatre.faults:
            self.rules.broken("; ".join(acts.theatre.faults))

    def accept(self, jobs: Sequence[NewJob], submitted: Sequence[Submitted], *, sure: bool = False) -> None:
        """Note what was acknowledged; from here on it may not get lost."""
        for job, told in zip(jobs, submitted, strict=True):
            if not told.existing:
                self.acknowledged[told.id] = job
            if sure:
                self.sure.add(told.id)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        self.refusal, self.deaf, self.blind = None, 0, False

    async def _drain(self, house: Company, system: ActorSystem) -> str:
        """Let everything come to its end."""
        hands = Hands(self, system)
        views = await system.ref("schedules").ask(ListSchedules())
        for row in await self.core.schedules():
            first = Cron.parse(row.cron, row.tz).after(row.high_mark)
            if not row.paused and first is not None and first <= self.clock.now():
                self.rules.broken(f"{row.name} should have dealt with its tick {first}")
        for view in views:
            await system.ref("schedules").ask(PauseSchedule(name=view.name))
        until = anyio.current_time() + DRAIN
        while left := await self.core.counts(ended=False):
            if anyio.current_time() > until:
                jobs = [job for job in await self.core.jobs(limit=1000) if job.finished_at is None]
                self.rules.broken(f"not everything ended: {left}: {jobs[:5]}")
            await hands.let_go_on()
            await anyio.sleep(600)
        await anyio.sleep(120)
        self._look()
        await self._compare_counts(house)
        await self._compare_ticks()
        return "stop"

    async def _compare_counts(self, house: Company) -> None:
        true: Counter[tuple[str, str]] = Counter()
        for (name, _, status), count in (await self.core.counts(ended=True)).items():
            true[name, status] += count
        kept = {(name, status): n for name, of in house.counts.items() for status, n in of.items() if n}
        if kept != {key: n for key, n in true.items() if n}:
            self.rules.broken(f"the counts are {kept} and should be {dict(true)}")

    async def _compare_ticks(self) -> None:
        """A tick has one job; of a schedule that makes up for everything each tick since its beginning is on record."""
        jobs = [job.data for job in await self.core.jobs(limit=100_000) if job.data is not None]
        ticks = Counter((data["schedule"], data["fire_at"]) for data in jobs if "fire_at" in data)
        if doubled := [tick for tick, count in ticks.items() if count > 1]:
            self.rules.broken(f"ticks with more than one job: {doubled}")
        for row in await self.core.schedules():
            if self.day.catchups.get(row.name) == "all":
                fires = await self.core.fires(row.name, limit=1000)
                due = set(Cron.parse(row.cron, row.tz).latest(row.created_at, row.high_mark, 1000))
                if lost := due - {fire.fire_at for fire in fires}:
                    self.rules.broken(f"{row.name} never fired {sorted(lost)}")

    async def _judge(self) -> None:
        """Look at what is left: nothing that was acknowledged is lost, and what could not but complete did."""
        for job, asked in self.acknowledged.items():
            known = self.rules.jobs.get(job)
            if known is None or known.ended is None:
                raise Broken(f"job {job} was acknowledged and never ended: {asked}")
            view = await self.core.job(job)
            if view is not None and f"job.{view.status}" != known.ended:
                raise Broken(f"job {job} is {view.status}, and its events say {known.ended}")
            if view is not None and view.status == "completed" and view.result != {"epoch": known.epoch}:
                raise Broken(f"job {job} has the result {view.result} of another attempt than {known.epoch}")
            if job in self.sure and known.completions != 1:
                raise Broken(f"job {job} should have completed: {known}")
