"""What the queue asks with every job: each statement finds its rows by a key, sorts nothing, and costs the same with a
million rows around."""

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.store.port import (
    AppendLogs,
    ClaimJobs,
    Finish,
    FinishJobs,
    InsertJobs,
    JobRow,
    RecordProcess,
    SaveProgress,
)
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import Claimed

NOW = 1_700_000_000_000
BOOT = "boot-1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "understudy.db")
    await store.open()
    yield store
    await store.close()


def rows(count: int, first: int = 0, **fields: object) -> InsertJobs:
    """Jobs to add; they have a limit key with room, a parent and tokens where *fields* say so."""
    given = {"kind": "k", "queue": "q", "lane": "loop", "args": "{}"} | fields
    return InsertJobs(tuple(JobRow(id=f"job-{first + n:06d}", **given) for n in range(count)), now=NOW)  # type: ignore[arg-type]


def claim(workers: int, **fields: object) -> ClaimJobs:
    given = {"queue": "q", "lane": "loop", "boot": BOOT, "now": NOW, "lease_until": NOW + 1} | fields
    return ClaimJobs(workers=tuple(f"w{n}" for n in range(workers)), **given)  # type: ignore[arg-type]


def completed(jobs: tuple[Claimed, ...]) -> FinishJobs:
    return FinishJobs(tuple(Finish(job, "completed", result="1") for job in jobs), now=NOW)


def retried(jobs: tuple[Claimed, ...]) -> FinishJobs:
    ends = tuple(Finish(job.lease, "delayed", "retry", error="{}", execute_after=NOW + 5) for job in jobs)
    return FinishJobs(ends, now=NOW)


async def life(store: SqliteStore) -> None:
    """Let jobs go all the ways of a normal life."""
    await store.commit(
        [rows(8), rows(2, 10, execute_after=NOW + 9), rows(4, 20, limit_key="key", tokens=3, args='"x"')]
    )
    (held,) = await store.commit([claim(6)])
    ended, held = await store.commit([completed(held), claim(6, tokens=100)])
    assert None not in ended
    await store.commit(
        [RecordProcess(held[0], 1, 1), SaveProgress(held[0], "1", NOW), AppendLogs(held[0], ((1, "i", "t"),))]
    )
    await store.commit([retried(held)])
    await store.commit([rows(2, 30, queue="agent:ada", lane="agent", conversation="main")])
    (held,) = await store.commit([claim(2, queue="agent:ada", lane="agent")])
    await store.commit([completed(held)])


async def statements(store: SqliteStore) -> set[str]:
    """Return every statement that a normal life runs, as it is prepared."""
    await life(store)  # the first run fills the caches of statements
    seen: set[str] = set()
    await store._main.run(lambda sql: sql.set_trace_callback(seen.add))
    await store.commit([rows(8, 100), rows(4, 120, limit_key="other")])
    (held,) = await store.commit([claim(12)])
    _, held = await store.commit([completed(held[:6]), claim(6)])
    await store.commit([retried(held)])
    await store._main.run(lambda sql: sql.set_trace_callback(None))
    return {text for text in seen if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", text)}


async def plan_of(store: SqliteStore, text: str) -> list[str]:
    """Return the steps of a statement's plan."""
    found = await store._main.run(lambda sql: sql.execute(f"EXPLAIN QUERY PLAN {text}").fetchall())
    return [step[-1] for step in found]


async def test_no_statement_of_a_jobs_life_scans_or_sorts(sqlite: SqliteStore) -> None:
    found = await statements(sqlite)
    assert len(found) >= 10
    for text in found:
        steps = await plan_of(sqlite, text)
        told = f"{' / '.join(steps)}\nin {text[:300]}"
        # What is walked is what was handed in (JSON, VALUES) or what a subquery has found; never a table.
        assert not [step for step in steps if re.match(r"SCAN (jobs|job_\w+|queues|events)\b", step)], told
        assert "TEMP B-TREE" not in told, told


async def test_claiming_walks_its_index_in_order(sqlite: SqliteStore) -> None:
    found = [text for text in await statements(sqlite) if "group_concat" in text]
    assert found
    for text in found:
        steps = await plan_of(sqlite, text)
        assert any(re.search(r"SEARCH jobs USING INDEX jobs_claim \(queue=\? AND lane=\?\)", step) for step in steps)


async def steps_of(store: SqliteStore, *changes: object) -> int:
    """Return how many steps of its machine SQLite takes for a commit: the cost, on whatever computer."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    await store._main.run(lambda sql: sql.set_progress_handler(tick, 1))
    await store.commit(changes)  # type: ignore[arg-type]
    await store._main.run(lambda sql: sql.set_progress_handler(None, 0))
    return count


async def turn_over(store: SqliteStore) -> int:
    """Claim ten jobs, and return what finishing them and claiming ten more takes."""
    (held,) = await store.commit([claim(10)])
    assert len(held) == 10
    return await steps_of(store, completed(held), claim(10))


async def test_a_turn_costs_the_same_with_much_around(sqlite: SqliteStore) -> None:
    await sqlite.commit([rows(40)])
    alone = await turn_over(sqlite)

    def crowd(sql: sqlite3.Connection) -> None:
        sql.execute(
            """INSERT INTO jobs (id, kind, queue, lane, status, reason, priority, rank, execute_after, max_attempts,
                 worker, created_at, updated_at, finished_at)
               WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 29999)
               SELECT 'crowd-' || n, 'k', 'q', 'loop',
                 CASE n % 3 WHEN 0 THEN 'completed' WHEN 1 THEN 'delayed' ELSE 'pending' END,
                 CASE n % 3 WHEN 1 THEN 'scheduled' END,
                 200, ?1 + 1200000 + n, CASE n % 3 WHEN 1 THEN ?1 + 1000000 ELSE ?1 - 1000 END, 3, 'w', ?1, ?1,
                 CASE n % 3 WHEN 0 THEN ?1 END
               FROM n""",
            (NOW,),
        )
        sql.execute("INSERT INTO job_data (seq, args) SELECT seq, '{}' FROM jobs WHERE id GLOB 'crowd-*'")

    await sqlite._main.run(crowd)
    sqlite._writer._transaction.next_seq = 1_000_000  # type: ignore[union-attr]  # the crowd took numbers
    await sqlite.commit([FinishJobs((), now=NOW)])
    crowded = await turn_over(sqlite)
    assert crowded <= alone * 1.05
