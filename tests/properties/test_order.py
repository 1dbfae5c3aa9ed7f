"""Nothing starves: a job is overtaken only by what becomes eligible less than its advantage is worth later."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.store.memory import MemoryStore
from runtime.store.port import AGING_MS, ClaimJobs, InsertJobs, JobRow, PromoteDue, Store
from runtime.store.sqlite.store import SqliteStore

gap = st.sampled_from([0, 1, AGING_MS - 1, AGING_MS, AGING_MS + 1, 3 * AGING_MS])
arrival = st.tuples(st.just("job"), st.sampled_from([97, 99, 100, 100, 101]), gap)
passing = st.tuples(st.just("time"), gap)
claim = st.tuples(st.just("claim"), st.integers(1, 3))
history = st.lists(st.one_of(arrival, arrival, passing, claim), min_size=5, max_size=40)


class Life(NamedTuple):
    """When a job is eligible, its priority, and its place among all that came."""

    eligible: int
    priority: int
    number: int


async def watch_over(store: Store, steps: list[Any]) -> None:
    """Play arrivals and claims; hold every claim to the bound, against all that were eligible and left waiting."""
    await store.open()
    now, added, lives = 0, 0, dict[str, Life]()
    try:
        for kind, *rest in steps:
            if kind == "time":
                now += rest[0]
            elif kind == "job":
                priority, delay = rest
                added += 1
                job_id = f"job-{added:04d}"
                row = JobRow(job_id, "k", "q", "loop", "{}", priority=priority, execute_after=now + delay)
                await store.commit([InsertJobs((row,), now=now)])
                lives[job_id] = Life(now + delay, priority, added)
            else:
                workers = tuple(f"w{n}" for n in range(rest[0]))
                woken, claims = PromoteDue(now), ClaimJobs("q", "loop", workers, "b", now, now + 1)
                _, claimed = await store.commit([woken, claims])
                ranked = [lives.pop(job.id) for job in claimed]
                waiting = [life for life in lives.values() if life.eligible <= now]
                hold_to_the_bound(ranked, waiting)
                assert len(claimed) == min(len(workers), len(claimed) + len(waiting))
    finally:
        await store.close()


def hold_to_the_bound(started: list[Life], waiting: list[Life]) -> None:
    """What starts overtakes what is eligible earlier and waits on; where both are equal, the one that came first goes
    first.
    """
    for n, first in enumerate(started):
        for other in (*started[n + 1 :], *waiting):
            later = first.eligible - other.eligible
            worth = (other.priority - first.priority) * AGING_MS
            assert later < worth or (later == worth and first.number < other.number), (first, other)


@pytest.mark.parametrize("which", ["memory", "sqlite"])
@pytest.mark.timeout(200)  # only a failing history takes long: it is made small
def test_nobody_is_overtaken_for_longer_than_the_bound(which: str) -> None:
    @settings(deadline=None, max_examples=80 if which == "memory" else 25, suppress_health_check=list(HealthCheck))
    @given(history)
    def hold(steps: list[Any]) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "understudy.db"
            store = MemoryStore() if which == "memory" else SqliteStore(path, durability="relaxed")
            anyio.run(partial(watch_over, store, steps))

    hold()
