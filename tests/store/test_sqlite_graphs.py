"""The store in a file: graphs of jobs take few statements, whatever their size; and what only SQL can get wrong."""

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from runtime.store.port import (
    CancelJobs,
    ClaimJobs,
    Edge,
    Finish,
    FinishJobs,
    InsertJobs,
    JobRow,
    Move,
    RepairJobs,
    RetryJobs,
)
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import Claimed

NOW = 1_700_000_000_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "understudy.db")
    await store.open()
    yield store
    await store.close()


def row(job_id: str, *parents: str | Edge, **fields: Any) -> JobRow:
    edges = tuple(parent if isinstance(parent, Edge) else Edge(parent) for parent in parents)
    given = {"id": job_id, "kind": "k", "queue": "q", "lane": "loop", "args": "{}", "depends_on": edges}
    return JobRow(**(given | fields))


async def one(store: SqliteStore, change: Any) -> Any:
    (result,) = await store.commit([change])
    return result


async def claim(store: SqliteStore, count: int = 1) -> tuple[Claimed, ...]:
    workers = tuple(f"w{n}" for n in range(count))
    return await one(store, ClaimJobs("q", "loop", workers, boot="b", now=NOW, lease_until=NOW + 1))


async def finish(store: SqliteStore, claimed: Sequence[Claimed], status: Any, reason: str | None = None) -> None:
    await one(store, FinishJobs(tuple(Finish(job, status, reason) for job in claimed), now=NOW))


async def stands(store: SqliteStore) -> dict[str, str]:
    views = await store.jobs(limit=1000)
    return {view.id: view.status if view.reason is None else f"{view.status}/{view.reason}" for view in views}


def chain(length: int) -> tuple[JobRow, ...]:
    """One job after another: as deep as a graph can be."""
    return tuple(row(f"{n:05d}", *([f"{n - 1:05d}"] if n else [])) for n in range(length))


def fan(width: int) -> tuple[JobRow, ...]:
    """One job, then many at once, then one: as wide as a graph can be."""
    middle = [f"m{n:05d}" for n in range(width)]
    return (row("first"), *(row(name, "first") for name in middle), row("last", *middle))


async def statements(store: SqliteStore, change: Any) -> int:
    """Return how many statements SQLite runs for one commit; one that fires a trigger is told anew for each row."""
    seen: list[str] = []
    await store._main.run(lambda sql: sql.set_trace_callback(seen.append))
    await one(store, change)
    await store._main.run(lambda sql: sql.set_trace_callback(None))
    return len(list(groupby(seen)))


async def cost(store: SqliteStore, rows: tuple[JobRow, ...]) -> dict[str, int]:
    """Return the statements for everything that touches a whole graph, beginning with its first job."""
    counted = {"insert": await statements(store, InsertJobs(rows, now=NOW))}
    counted["cancel"] = await statements(store, CancelJobs((rows[0].id,), now=NOW))
    assert set((await stands(store)).values()) <= {"cancelled/user", "cancelled/dependency"}
    counted["retry"] = await statements(store, RetryJobs((rows[0].id,), now=NOW, dependants=True))
    (claimed,) = await claim(store)
    counted["fail"] = await statements(store, FinishJobs((Finish(claimed, "failed", "permanent"),), now=NOW))
    assert (await store.counts(ended=True)) == {
        ("q", "loop", "failed"): 1,
        ("q", "loop", "cancelled"): len(rows) - 1,
    }
    return counted


@pytest.mark.parametrize("shape", [chain, fan])
async def test_a_large_graph_takes_no_more_statements_than_a_small_one(tmp_path: Path, shape: Any) -> None:
    costs = []
    for size in (20, 400):
        (tmp_path / str(size)).mkdir()
        store = SqliteStore(tmp_path / str(size) / "understudy.db")
        await store.open()
        costs.append(await cost(store, shape(size)))
        await store.close()
    small, large = costs
    # Rows are written some hundreds a statement, and so are the events: that alone may grow.
    assert all(large[name] <= small[name] + 8 for name in small), costs


async def test_a_batch_of_ends_takes_no_more_statements_than_one(sqlite: SqliteStore) -> None:
    await one(sqlite, InsertJobs(tuple(row(f"p{n:03d}") for n in range(60)), now=NOW))
    await one(sqlite, InsertJobs(tuple(row(f"c{n:03d}", f"p{n:03d}") for n in range(60)), now=NOW))
    single = await claim(sqlite)
    alone = await statements(sqlite, FinishJobs((Finish(single[0], "completed"),), now=NOW))
    await one(sqlite, CancelJobs(("c000",), now=NOW))
    many = await claim(sqlite, 50)
    together = await statements(sqlite, FinishJobs(tuple(Finish(job, "completed") for job in many), now=NOW))
    assert together <= alone + 3
    assert Counter((await stands(sqlite)).values())["pending"] == 50 + 9


async def test_the_moves_that_are_told_add_up_to_what_is_there(sqlite: SqliteStore) -> None:
    counted: Counter[Any] = Counter()

    def count(moves: Sequence[Move]) -> None:
        for move in moves:
            for status, sign in ((move.before, -1), (move.after, 1)):
                if status is not None:
                    counted[move.queue, move.lane, status] += sign * move.jobs

    sqlite.watch(count)
    await one(sqlite, InsertJobs((*fan(30), row("k1", limit_key="x"), row("k2", limit_key="x")), now=NOW))
    for _ in range(3):
        await finish(sqlite, await claim(sqlite, 7), "completed")
    (failing, *others) = await claim(sqlite, 4)
    await finish(sqlite, [failing], "failed", "permanent")
    await finish(sqlite, others, "delayed", "retry")
    await one(sqlite, RetryJobs((failing.id,), now=NOW, dependants=True))
    there = await sqlite.counts(ended=False) | await sqlite.counts(ended=True)
    assert {place: jobs for place, jobs in counted.items() if jobs} == there


async def test_a_job_that_hangs_on_two_that_failed_ends_once(sqlite: SqliteStore) -> None:
    await one(sqlite, InsertJobs((row("a"), row("b"), row("c", "a", "b"), row("d", "c", "a")), now=NOW))
    await finish(sqlite, await claim(sqlite, 2), "failed", "permanent")
    ends = await sqlite.events(after=0, types=("job.cancelled",))
    assert [event.subject for event in ends] == ["c", "d"]
    edges = (await sqlite.job("d")).depends_on  # type: ignore[union-attr]  # it is there
    assert {edge.state for edge in edges} == {"broken"}


async def test_what_a_fault_of_ours_left_waiting_is_found_and_counted(sqlite: SqliteStore, tmp_path: Path) -> None:
    rows = (row("a"), row("b", "a"), row("x1", limit_key="x"), row("x2", limit_key="x"), row("p"), row("s"))
    await one(sqlite, InsertJobs(rows, now=NOW))
    assert await one(sqlite, RepairJobs(NOW)) == {}

    def spoil(sql: sqlite3.Connection) -> None:
        sql.execute("UPDATE job_deps SET state = 'satisfied'")
        sql.execute("UPDATE jobs SET status = 'waiting', reason = 'limit' WHERE id IN ('x1', 'x2')")
        sql.execute("UPDATE jobs SET status = 'waiting', reason = 'children' WHERE id = 'p'")
        sql.execute("UPDATE jobs SET status = 'waiting', reason = 'signal', waits = 'go' WHERE id = 's'")
        sql.execute(
            "INSERT INTO job_signals (target, name, n, payload, at) SELECT seq, 'go', 1, '{}', 1 FROM jobs"
            " WHERE id = 's'"
        )

    await sqlite._main.run(spoil)
    repairs = await one(sqlite, RepairJobs(NOW))
    assert repairs == {"deps_released": 1, "limit_released": 1, "children_released": 1, "signal_released": 1}
    assert await stands(sqlite) == dict.fromkeys(("a", "b", "p", "s", "x1"), "pending") | {"x2": "waiting/limit"}
    assert await one(sqlite, RepairJobs(NOW)) == {}
