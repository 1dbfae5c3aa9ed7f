"""The daemon is killed about every second while jobs come in: nothing acknowledged is lost, nothing is done twice."""

import os
import random
import time
from typing import Any

import pytest

from runtime.control.wire import WireError
from tests.faults.storm import MISSED, Storm
from tests.faults.storm_history import wrongs

pytestmark = pytest.mark.daemon


@pytest.mark.timeout(180)
def test_a_storm_of_kills_loses_nothing_and_does_nothing_twice(tracing: Any) -> None:
    seed = random.randrange(1_000_000)
    storm = Storm(tracing, jobs=90, kills=5, seed=seed)

    storm.rage()
    assert tracing.stop() == 0

    history = storm.history()
    assert wrongs(history) == [], f"seed {seed}"
    assert any(event.type == "job.recovered" for event in history.events), "no kill hit a running job"
    assert len(history.ticks) >= MISSED


HASTY = """
import sys

if "actors" in sys.orig_argv:
    import asyncio

    from runtime.store.port import InsertJobs, Inserted
    from runtime.store.sqlite.store import SqliteStore

    commit = SqliteStore.commit

    async def hasty(store, changes):
        if not (changes and all(isinstance(change, InsertJobs) and change.fence is None for change in changes)):
            return await commit(store, changes)
        later = lambda: asyncio.ensure_future(commit(store, changes))
        asyncio.get_running_loop().call_later(1.0, later)
        return [[Inserted(row.id, "pending") for row in change.jobs] for change in changes]

    SqliteStore.commit = hasty
"""


@pytest.mark.timeout(180)
def test_a_storm_finds_out_a_daemon_that_acknowledges_too_early(tracing: Any) -> None:
    """The negative control: jobs are acknowledged a second before they are written, so that every kill loses some.

    A fence that was taken out cannot be found by kills: what a killed daemon ran dies with it, and its successor ends
    what did not before it starts anything. `test_hanging_workers` has the control for that.
    """
    tracing.write(sitecustomize=HASTY)
    tracing.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(tracing.folder), os.environ.get("PYTHONPATH"))))
    storm = Storm(tracing, jobs=60, kills=5, seed=1)
    storm.repeated, storm.variety = 0.0, 5  # else the writers themselves would notice at once

    with pytest.raises((AssertionError, WireError)):
        storm.rage()

    tracing.stop()
    assert any("acknowledged, but it is lost" in wrong for wrong in wrongs(storm.history()))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_two_hundred_kills(tracing: Any) -> None:
    seed = random.randrange(1_000_000)
    storm = Storm(tracing, jobs=2_700, kills=200, seed=seed)

    storm.rage()
    assert tracing.stop() == 0

    assert wrongs(storm.history()) == [], f"seed {seed}"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_storms_until_the_time_is_over(tracing: Any, pytestconfig: pytest.Config) -> None:
    until = time.monotonic() + 60 * pytestconfig.getoption("--soak-minutes")
    seed = random.randrange(1_000_000)
    while time.monotonic() < until:
        storm = Storm(tracing, jobs=540, kills=40, seed=seed)
        storm.rage()
        assert tracing.stop() == 0
        assert wrongs(storm.history()) == [], f"seed {seed}"
        for path in (*tracing.home.iterdir(), storm.trace):
            path.unlink()
        seed += 1
