"""The power goes at any moment: what was acknowledged is there, nothing is damaged, and nothing is done twice.

A store does the work of a busy daemon while all its writes and syncs are logged; the log is replayed to crash images,
and each image is opened by the real store, as the next start of the daemon would. What the log shows of folders: the
database, its log file and `state.json` are new names at the first start, and SQLite syncs the folder when it first
syncs a new write-ahead log, which is before the first acknowledgement.
"""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.store.port import PutSchedule, RecoverJobs
from runtime.store.sqlite import sidecar
from runtime.store.sqlite.connection import Durability
from tests.faults.company import SCHEDULE, Company, opened, wrongs
from tests.faults.crash_images import after, images
from tests.faults.disk_log import DiskLog, Step, Sync, Unreachable, recorded


async def days_work(folder: Path, log: DiskLog, durability: Durability, seed: int, rounds: int) -> None:
    """A start, a stop in order, a start, a death within a commit, a start on what it left, and the power goes."""
    company = Company(log, seed)
    home = log.folder
    home.mkdir()
    async with opened(home, durability) as store:
        await store.commit([PutSchedule(SCHEDULE)])
        await company.work(store, "boot-1", rounds)
        await store.tidy(100)
        await company.work(store, "boot-1", rounds)
    async with opened(home, durability) as store:
        await store.commit([RecoverJobs("boot-2", company.now)])
        before = len(log.steps)
        await company.work(store, "boot-2", rounds)
        dead = last_unsynced(log, random.Random(seed).randrange(before, len(log.steps)))
        after(log.steps[:dead]).crash(dead, "none", random.Random(seed)).write(folder / "second")
        log.died(dead, folder / "second")
        company.forget()
    async with opened(folder / "second", durability) as store:
        await store.commit([RecoverJobs("boot-3", company.now)])
        await company.work(store, "boot-3", rounds)
        shutil.copytree(folder / "second", folder / "last")
        log.end()
    assert not company.refused


def last_unsynced(log: DiskLog, near: int) -> int:
    """Return the moment before the first sync after *near*: a commit is written then and not yet acknowledged."""
    syncs = (n for n in range(near, len(log.steps)) if isinstance(log.steps[n], Sync))
    return next(syncs, len(log.steps))


def logged(folder: Path, durability: Durability, seed: int, rounds: int) -> list[Step]:
    """Return the log of a day's work; skips where none can be had."""
    original = sidecar.write
    try:
        with recorded(folder / "first") as log, pytest.MonkeyPatch.context() as patch:

            def write(path: Path, content: sidecar.Sidecar) -> None:
                original(path, content)
                if path.parent == log.folder:
                    log.replaced(path)

            patch.setattr(sidecar, "write", write)
            asyncio.run(days_work(folder, log, durability, seed, rounds))
    except Unreachable as error:
        pytest.skip(f"no log of SQLite's writes can be had: {error}")
    return log.steps


def judged(folder: Path, log: Sequence[Step], durability: Durability, seed: int, count: int | None) -> Counter[str]:
    """Return how many images break which promise, and under `images` how many there were."""

    async def judge() -> Counter[str]:
        found: Counter[str] = Counter()
        for image in images(log, seed, count):
            found["images"] += 1
            told = await wrongs(image, folder, durability)
            found.update({text.partition(":")[0] for text in told})
            for text in told[: 3 if sum(found.values()) - found["images"] < 100 else 0]:
                print(f"seed {seed}, moment {image.moment}, lost {image.loss}: {text}")  # noqa: T201  # shown on failure
        return found

    return asyncio.run(judge())


def test_the_log_tells_all_that_was_written(quick_folder: Path) -> None:
    """Replayed to its end without a loss it gives the very files that are there."""
    log = logged(quick_folder, "full", 1, rounds=3)

    last = after(log).crash(len(log), "none", random.Random(1))

    there = {path.name: path.read_bytes() for path in (quick_folder / "last").iterdir()}
    assert {name: data for name, data in there.items() if not name.endswith("-shm")} == last.files


def test_no_acknowledged_change_is_lost_when_the_power_goes(quick_folder: Path) -> None:
    seed = random.randrange(1_000_000)
    log = logged(quick_folder, "full", seed, rounds=8)

    found = judged(quick_folder, log, "full", seed, 320)

    assert found == {"images": found["images"]}, f"seed {seed}"
    assert found["images"] >= 200


def test_the_same_test_finds_losses_where_acknowledged_means_less(quick_folder: Path) -> None:
    """The negative control: with `synchronous` lowered the last commits may go, but nothing else may happen."""
    seed = random.randrange(1_000_000)
    log = logged(quick_folder, "relaxed", seed, rounds=8)

    found = judged(quick_folder, log, "relaxed", seed, 120)

    assert found["lost"] > 10, f"seed {seed}"
    assert set(found) <= {"images", "lost"}, f"seed {seed}"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_image_of_a_longer_day(quick_folder: Path) -> None:
    seed = random.randrange(1_000_000)
    log = logged(quick_folder, "full", seed, rounds=25)

    found = judged(quick_folder, log, "full", seed, None)

    assert found == {"images": found["images"]}, f"seed {seed}"
