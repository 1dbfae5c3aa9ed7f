"""Each write and each sync fails, once or from then on: what was not written is never acknowledged, the store goes on
where the disk does, and what is opened next is whole, whether the process dies then or the power goes.
"""

import asyncio
import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from runtime.store.port import PutSchedule
from tests.faults.company import SCHEDULE, Company, opened, wrongs
from tests.faults.crash_images import Loss, after
from tests.faults.disk_log import DiskLog, Unreachable, recorded

FULL: Final = 13
IO_ERROR: Final = 10 | 3 << 8
SYNC_ERROR: Final = 10 | 4 << 8
CALLS: Final = 400
"""About as many writes and syncs as the work makes."""


def failing(nth: int, code: int, *, for_good: bool) -> Callable[[str], int]:
    """Refuse the nth write, cut or sync, and with *for_good* all that come after it."""
    numbers = count(1)

    def refuse(deed: str) -> int:
        number = next(numbers)
        if number < nth or (number > nth and not for_good):
            return 0
        return SYNC_ERROR if deed == "sync" else code

    return refuse


async def work_on(folder: Path, log: DiskLog, refuse: Callable[[str], int], seed: int) -> int:
    """Work while the disk fails; return how many deeds were refused."""
    company = Company(log, seed)
    async with opened(folder, "full") as store:
        await store.commit([PutSchedule(SCHEDULE)])
        log.refuse = refuse
        await company.work(store, "boot-1", 8)
        log.end()
    return len(company.refused)


def judged(folder: Path, nth: int, code: int, for_good: bool, seed: int) -> list[str]:
    """Return what is wrong after the nth call failed."""
    home = folder / f"{nth}-{code}-{for_good}"
    home.mkdir()
    with recorded(home) as log:
        refused = asyncio.run(work_on(home, log, failing(nth, code, for_good=for_good), seed))
    disk = after(log.steps)
    losses: tuple[Loss, ...] = ("none", "all")
    found = []
    for loss in losses:
        found += asyncio.run(wrongs(disk.crash(len(log.steps), loss, random.Random(seed)), folder, "full"))
    if not for_good and refused > 8:
        found.append(f"one failed call refused {refused} deeds")
    return [f"call {nth}, {code}, for good {for_good}, lost {loss}: {text}" for text in found]


def swept(folder: Path, calls: list[int], seed: int) -> list[str]:
    found = []
    try:
        for nth in calls:
            for code in (FULL, IO_ERROR):
                for for_good in (False, True):
                    found += judged(folder, nth, code, for_good, seed)
    except Unreachable as error:
        pytest.skip(f"SQLite's calls cannot be made to fail: {error}")
    return found


def test_a_write_or_sync_that_fails_is_never_acknowledged(quick_folder: Path) -> None:
    seed = random.randrange(1_000_000)
    calls = sorted(random.Random(seed).sample(range(1, CALLS), 12))

    assert swept(quick_folder, calls, seed) == [], f"seed {seed}"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_every_write_and_sync_fails_in_turn(quick_folder: Path) -> None:
    seed = random.randrange(1_000_000)

    assert swept(quick_folder, list(range(1, CALLS)), seed) == [], f"seed {seed}"
