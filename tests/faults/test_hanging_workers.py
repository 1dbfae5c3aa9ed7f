"""Workers that hang past their lease and wake up again: what they then write changes nothing, for the job is another's.

With the fence taken out, which is the negative control, the same workers are found to write into attempts of others.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from runtime.store import port
from runtime.store.sqlite.changes import APPLY
from runtime.store.sqlite.store import SqliteStore
from runtime.store.sqlite.transaction import Transaction
from schemas.jobs import ENDED, Claimed
from tests.faults.company import opened

LEASE: Final = 50
WORKERS: Final = 8
BOOT: Final = "boot"
PATIENCE: Final = 200_000


@dataclass(frozen=True)
class Entry:
    """An attempt was given out (`claim`), or a write of it was taken by the store, in the order of the commits."""

    job: str
    epoch: int
    what: str


def wrongs(entries: list[Entry]) -> list[str]:
    """Return every write that was taken from an attempt after a later one was given out, and every second end."""
    latest: dict[str, int] = {}
    found = []
    for entry in entries:
        if entry.what == "claim":
            if entry.epoch <= latest.get(entry.job, 0):
                found.append(f"{entry.job}: epoch {entry.epoch} was given out twice")
            latest[entry.job] = entry.epoch
        elif entry.epoch != latest[entry.job]:
            found.append(f"{entry.job}: {entry.what} of attempt {entry.epoch} was taken in attempt {latest[entry.job]}")
    ends = Counter(entry.job for entry in entries if entry.what == "completion")
    return found + [f"{job}: completed {count} times" for job, count in ends.items() if count > 1]


def test_the_checker_finds_what_is_wrong() -> None:
    good = [Entry("a", 1, "claim"), Entry("a", 1, "log"), Entry("a", 2, "claim"), Entry("a", 2, "completion")]

    assert wrongs(good) == []
    assert wrongs([*good, Entry("a", 1, "log")]) == ["a: log of attempt 1 was taken in attempt 2"]
    assert wrongs([*good, Entry("a", 2, "completion")]) == ["a: completed 2 times"]
    assert wrongs([*good, Entry("a", 2, "claim")]) == ["a: epoch 2 was given out twice"]


class Works:
    """A store with workers that hang. Time is a number here that goes on with every deed, so nothing waits."""

    def __init__(self, store: SqliteStore, jobs: int, seed: int) -> None:
        self.store, self.jobs = store, jobs
        self.chance = random.Random(seed)
        self.now = 1_700_000_000_000
        self.entries: list[Entry] = []
        self.refused = 0
        self.over = False

    async def run(self) -> None:
        """Return when all jobs have ended and every worker has woken up and found that out."""
        rows = tuple(
            port.JobRow(f"job-{n:04}", "work", "default", "loop", "{}", max_attempts=1000) for n in range(self.jobs)
        )
        await self.store.commit([port.InsertJobs(rows, self.now)])
        async with asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(f"w{number}"))
            tasks.create_task(self._expire())

    async def _expire(self) -> None:
        for _ in range(PATIENCE):
            self.now += self.chance.randrange(LEASE)
            await self.store.commit([port.ExpireLeases(BOOT, self.now)])
            if all(job.status in ENDED for job in await self.store.jobs(limit=self.jobs)):
                self.over = True
                return
        raise AssertionError("some jobs never ended")

    async def _work(self, worker: str) -> None:
        turns = 0
        while not self.over:
            turns += 1
            claim = port.ClaimJobs("default", "loop", (worker,), BOOT, self.now, self.now + LEASE)
            (claimed,) = await self.store.commit([claim])
            for job in claimed:
                self.entries.append(Entry(job.id, job.epoch, "claim"))
                await self._attempt(job)
            self.now += 1

    async def _attempt(self, job: Claimed) -> None:
        for change in self._writes(job):
            await self._hang()
            self.now += 1
            (answer,) = await self.store.commit([change])
            if isinstance(answer, list):
                (answer,) = answer
            if not answer:
                self.refused += 1
            elif not isinstance(change, port.BeginStep) or answer.verdict == "run":
                self.entries.append(Entry(job.id, job.epoch, WORDS[type(change)]))

    def _writes(self, job: Claimed) -> Iterator[port.Change]:
        """Yield what an attempt writes; one that hung does not know that it has lost its job, and goes on."""
        yield port.BeginStep(job, "pay", self.now)
        yield port.EndStep(job, "pay", self.now, f'"{job.epoch}"')
        yield port.SaveProgress(job, "{}", self.now)
        yield port.AppendLogs(job, ((self.now, "info", f"attempt {job.epoch}"),))
        yield port.FinishJobs((port.Finish(job, "completed", result=str(job.epoch)),), self.now)

    async def _hang(self) -> None:
        """Mostly go on; sometimes sleep while the others live through many leases."""
        if self.chance.random() < 0.1:
            for _ in range(self.chance.randrange(1, 60)):
                await asyncio.sleep(0)
            await self.store.setting("a read, so that other threads have their turn")


WORDS: Final = {
    port.BeginStep: "step",
    port.EndStep: "output",
    port.SaveProgress: "progress",
    port.AppendLogs: "log",
    port.FinishJobs: "completion",
}


async def storm(home: Path, jobs: int, seed: int) -> tuple[list[str], int]:
    """Return what is wrong, and how many writes were refused."""
    async with opened(home, "relaxed") as store:
        works = Works(store, jobs, seed)
        await works.run()
        found = wrongs(works.entries)
        latest = {entry.job: entry.epoch for entry in works.entries}
        for job in await store.jobs(limit=jobs):
            view = await store.job(job.id)
            assert view is not None
            if view.result != latest[job.id]:
                found.append(f"{job.id}: has the result of attempt {view.result}, the last was {latest[job.id]}")
    return found, works.refused


def test_what_a_hanging_worker_writes_late_is_refused(quick_folder: Path) -> None:
    seed = random.randrange(1_000_000)

    found, refused = asyncio.run(storm(quick_folder, 150, seed))

    assert found == [], f"seed {seed}"
    assert refused > 20, "nobody hung"


def test_without_the_fence_the_same_workers_are_found_out(quick_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: whatever an attempt writes is taken for a write of whoever owns the job now."""
    for change in WORDS:
        monkeypatch.setitem(APPLY, change, unfenced(APPLY[change]))

    found, _ = asyncio.run(storm(quick_folder, 150, 1))

    assert len(found) > 5


def unfenced(apply: Callable[[Transaction, Any], Any]) -> Callable[[Transaction, Any], Any]:
    """Let a change through whoever says it."""

    def owner(tx: Transaction, fence: Claimed) -> Claimed:
        row = tx.sql.execute("SELECT epoch, worker FROM jobs WHERE seq = ?", (fence.seq,)).fetchone()
        return replace(fence, epoch=row[0], worker=row[1] or fence.worker)

    def wrapper(tx: Transaction, change: Any) -> Any:
        if isinstance(change, port.FinishJobs):
            finishes = tuple(replace(finish, fence=owner(tx, finish.fence)) for finish in change.finishes)  # type: ignore[arg-type]
            return apply(tx, replace(change, finishes=finishes))
        return apply(tx, replace(change, fence=owner(tx, change.fence)))

    return wrapper


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_hanging_workers(quick_folder: Path) -> None:
    for seed in range(50):
        (quick_folder / str(seed)).mkdir()
        found, _ = asyncio.run(storm(quick_folder / str(seed), 500, seed))
        assert found == [], f"seed {seed}"
