"""A company at work on a store, which notes what was acknowledged to it, and the checker of what is found then."""

import asyncio
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from runtime.errors import StoreError, VersionConflict
from runtime.store.port import (
    BeginStep,
    CancelJobs,
    ClaimJobs,
    Edge,
    EndStep,
    Finish,
    FinishJobs,
    FireSchedule,
    InsertJobs,
    JobRow,
    PromoteDue,
    RecoverJobs,
    SaveState,
    ScheduleRow,
    SendSignal,
    TakeSignal,
)
from runtime.store.sqlite.connection import Durability
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import ENDED, Claimed, JobView
from tests.faults.crash_images import Image
from tests.faults.disk_log import DiskLog, Note

DATABASE: Final = "understudy.db"
START: Final = 1_700_000_000_000
LATER: Final = START + 1_000_000_000
WORKERS: Final = 4
LONG: Final = 60_000
SCHEDULE: Final = ScheduleRow("often", "* * * * *", "UTC", "{}", "skip", "allow", "config", False, START, START)


# -- what was acknowledged ---------------------------------------------------------------------------------------------


class Inserted(NamedTuple):
    """A job was accepted."""

    job: str


class Begun(NamedTuple):
    """An attempt was handed out."""

    job: str
    epoch: int


class Ended(NamedTuple):
    """A job is over."""

    job: str
    status: str


class StepDone(NamedTuple):
    """A step is on record and must never run again."""

    job: str
    step: str
    output: str


class Signalled(NamedTuple):
    """A signal was accepted."""

    job: str


class Saved(NamedTuple):
    """An agent's state was kept."""

    version: int


class Ticked(NamedTuple):
    """A tick of a schedule was dealt with."""

    fire_at: int


# -- the work ----------------------------------------------------------------------------------------------------------


class Company:
    """Some writers at once, each of which notes in the log what the store has acknowledged to it."""

    def __init__(self, log: DiskLog, seed: int) -> None:
        self.log, self.chance = log, random.Random(seed)
        self.now, self.jobs, self.version, self.ticks = START, 0, 0, 0
        self.open: list[str] = []
        self.sleeping: list[str] = []
        self.refused: list[StoreError] = []

    def forget(self) -> None:
        """Believe only what is in the log: the rest was taken back with the death of the process."""
        known = [step.fact for step in self.log.steps if isinstance(step, Note)]
        over = {fact.job for fact in known if isinstance(fact, Ended)}
        self.open = [fact.job for fact in known if isinstance(fact, Inserted) and fact.job not in over]
        self.sleeping = [job for job in self.sleeping if job in self.open]
        self.version = max((fact.version for fact in known if isinstance(fact, Saved)), default=0)

    async def work(self, store: SqliteStore, boot: str, rounds: int) -> None:
        """Do so many rounds with each writer."""
        await asyncio.gather(*(self._write(store, boot, f"w{n}", rounds) for n in range(WORKERS)))

    async def _write(self, store: SqliteStore, boot: str, worker: str, rounds: int) -> None:
        deeds: list[Callable[[SqliteStore], Awaitable[None]]] = [
            self._insert, self._insert, self._cancel, self._save, self._tick, self._signal
        ]  # fmt: skip
        for _ in range(rounds):
            self.now += 1
            try:
                await self.chance.choice(deeds)(store)
                await self._run_one(store, boot, worker)
            except StoreError as error:
                self.refused.append(error)

    async def _insert(self, store: SqliteStore) -> None:
        rows = []
        for _ in range(self.chance.choice([1, 1, 1, 5])):
            self.jobs += 1
            edges = tuple(Edge(job, "run") for job in self.chance.sample(self.open, min(2, len(self.open))))
            limit = f"key-{self.chance.randrange(3)}" if self.chance.random() < 0.2 else None
            rows.append(
                JobRow(
                    id=f"job-{self.jobs:05}",
                    kind="trace",
                    queue="default",
                    lane="loop",
                    args=f'{{"text":"{"x" * self.chance.choice([1, 10, 100, 9000])}"}}',
                    key=f"key-{self.jobs}",
                    depends_on=edges if self.chance.random() < 0.3 else (),
                    limit_key=limit,
                    limit_max=2,
                )
            )
        (done,) = await store.commit([InsertJobs(tuple(rows), self.now)])
        for result in done:
            self.log.note(Inserted(result.id))
            self.open.append(result.id)

    async def _cancel(self, store: SqliteStore) -> None:
        if not self.open or self.chance.random() < 0.7:
            return
        job = self.chance.choice(self.open)
        ((result,),) = await store.commit([CancelJobs((job,), self.now)])
        if result.outcome == "cancelled":
            self._over(job, "cancelled")

    async def _save(self, store: SqliteStore) -> None:
        version = self.version + 1
        try:
            await store.commit([SaveState("counter", f'{{"total":{version}}}', 1, version - 1, "boot", 1, self.now)])
        except VersionConflict:
            return  # another writer was quicker
        self.version = max(self.version, version)
        self.log.note(Saved(version))

    async def _tick(self, store: SqliteStore) -> None:
        self.ticks += 1
        fire_at = START + self.ticks * 1000
        job = JobRow(id=f"tick-{self.ticks:05}", kind="trace", queue="default", lane="loop", args="{}")
        (done,) = await store.commit([FireSchedule("often", fire_at, fire_at + 1000, self.now, job)])
        assert done is not None
        self.log.note(Ticked(fire_at))
        self.log.note(Inserted(job.id))
        self.open.append(job.id)

    async def _signal(self, store: SqliteStore) -> None:
        if self.sleeping:
            job = self.sleeping.pop()
            (sent,) = await store.commit([SendSignal(job, "go", '"now"', self.now)])
            if sent is not None and sent.kept:
                self.log.note(Signalled(job))

    async def _run_one(self, store: SqliteStore, boot: str, worker: str) -> None:
        claim = ClaimJobs("default", "loop", (worker,), boot, self.now, self.now + LONG)
        ((*claimed,),) = await store.commit([claim])
        for job in claimed:
            self.log.note(Begun(job.id, job.epoch))
            if self.chance.random() < 0.05:
                continue  # it stays active until the crash
            if self.chance.random() < 0.4:
                await self._step(store, job)
            await self._finish(store, job)

    async def _step(self, store: SqliteStore, job: Claimed) -> None:
        (begun,) = await store.commit([BeginStep(job, "pay", self.now)])
        if begun is not None and begun.verdict == "run":
            output = f'"{job.id} at {job.epoch}"'
            (kept,) = await store.commit([EndStep(job, "pay", self.now, output)])
            if kept:
                self.log.note(StepDone(job.id, "pay", output))

    async def _finish(self, store: SqliteStore, job: Claimed) -> None:
        chance = self.chance.random()
        if chance < 0.1:
            finish = Finish(job, "delayed", "retry", execute_after=self.now + self.chance.choice([1, LONG]))
        elif chance < 0.2:
            finish = Finish(job, "waiting", "signal", waits="go", refund=True)
        elif chance < 0.3:
            finish = Finish(job, "failed", "permanent", error='{"code":"x","message":"no"}')
        else:
            finish = Finish(job, "completed", result='"done"')
        _, (done,) = await store.commit([PromoteDue(self.now), FinishJobs((finish,), self.now)])
        if done is not None and done.status == "waiting":
            self.sleeping.append(job.id)
        if done is not None and done.status in ENDED:
            self._over(job.id, done.status)

    def _over(self, job: str, status: str) -> None:
        self.log.note(Ended(job, status))
        if job in self.open:
            self.open.remove(job)


@asynccontextmanager
async def opened(home: Path, durability: Durability) -> AsyncIterator[SqliteStore]:
    """A store of the product on the database of a home, which folds its log in much more often than usual."""
    store = SqliteStore(home / DATABASE, durability=durability)
    await store.open()
    try:
        await store._main.run(lambda sql: sql.execute("PRAGMA wal_autocheckpoint = 60").fetchall())
        yield store
    finally:
        await store.close()


# -- the checker -------------------------------------------------------------------------------------------------------


async def wrongs(image: Image, folder: Path, durability: Durability) -> list[str]:
    """Return every promise that is broken where the daemon is started on an image."""
    home = folder / "image"
    shutil.rmtree(home, ignore_errors=True)
    image.write(home)
    store = SqliteStore(home / DATABASE, durability=durability)
    try:
        await store.open()
    except StoreError as error:
        return [f"refused: {error}"]
    try:
        found = await lost(store, image.known)
        found += await run_on(store, image.known)
        found += await done_twice(store)
    finally:
        await store.close()
    with closing(sqlite3.connect(home / DATABASE)) as sql:
        verdict = [row[0] for row in sql.execute("PRAGMA integrity_check").fetchall()]
        verdict += [f"foreign key {row}" for row in sql.execute("PRAGMA foreign_key_check").fetchall()]
    return found + [f"damaged: {text}" for text in verdict if text != "ok"]


async def all_jobs(store: SqliteStore) -> dict[str, JobView]:
    return {job.id: job for job in await store.jobs(limit=1_000_000)}


async def lost(store: SqliteStore, known: Sequence[Any]) -> list[str]:
    """Return what was acknowledged and is not there."""
    jobs = await all_jobs(store)
    found = []
    for fact in known:
        match fact:
            case Inserted(job) if job not in jobs:
                found.append(f"lost: {job} was accepted")
            case Ended(job, status) if job in jobs and jobs[job].status != status:
                found.append(f"lost: {job} was {status}, it is {jobs[job].status}")
    version = max((fact.version for fact in known if isinstance(fact, Saved)), default=0)
    state = await store.state("counter")
    if version > (state.version if state else 0):
        found.append(f"lost: version {version} of the state")
    for fire_at in sorted({fact.fire_at for fact in known if isinstance(fact, Ticked)})[-3:]:
        (again,) = await store.commit([FireSchedule("often", fire_at, None, LATER, row_of_tick(fire_at))])
        if again is not None:
            found.append(f"lost: the tick of {fire_at} fired twice")
    return found


def row_of_tick(fire_at: int) -> JobRow:
    return JobRow(id=f"again-{fire_at}", kind="trace", queue="default", lane="loop", args="{}")


async def run_on(store: SqliteStore, known: Sequence[Any]) -> list[str]:
    """Run all that has not ended, as the next daemon would; return what went wrong on the way."""
    over = {fact.job for fact in known if isinstance(fact, Ended)}
    epochs = {fact.job: fact.epoch for fact in known if isinstance(fact, Begun)}
    steps = {fact.job: fact.output for fact in known if isinstance(fact, StepDone)}
    signals = {fact.job for fact in known if isinstance(fact, Signalled)}
    found = []
    await store.commit([RecoverJobs("after", LATER), PromoteDue(LATER)])
    async for job in claimed_of(store):
        if job.id in over:
            found.append(f"lost: {job.id} had ended and was run again")
        if job.epoch <= epochs.get(job.id, 0):
            found.append(f"lost: epoch {job.epoch} of {job.id} was given out twice")
        step, signal = await store.commit([BeginStep(job, "pay", LATER), TakeSignal(job, "go", "go", LATER)])
        if job.id in steps and (step.verdict, step.output) != ("done", steps[job.id]):
            found.append(f"lost: the step of {job.id} would run again")
        if job.id in signals and signal.payload is None:
            found.append(f"lost: the signal of {job.id}")
        await store.commit([FinishJobs((Finish(job, "completed", result="1"),), LATER)])
    for job_id, view in (await all_jobs(store)).items():
        if view.reason == "signal" and job_id in signals:
            found.append(f"lost: the signal of {job_id}, which still waits")
        elif view.status not in ENDED and view.reason not in ("deps", "signal"):
            found.append(f"stuck: {job_id} is {view.status}/{view.reason}")
    return found


async def claimed_of(store: SqliteStore) -> Any:
    while True:
        claim = ClaimJobs("default", "loop", tuple(f"a{n}" for n in range(20)), "after", LATER, LATER + LONG)
        (claimed,) = await store.commit([claim])
        if not claimed:
            return
        for job in claimed:
            yield job


async def done_twice(store: SqliteStore) -> list[str]:
    events = await store.events(after=0, types=("job.completed",), limit=1_000_000)
    often = Counter(event.subject for event in events)
    return [f"twice: {job} completed {count} times" for job, count in often.items() if count > 1]
