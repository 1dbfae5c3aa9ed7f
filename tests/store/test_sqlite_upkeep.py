"""The store in a file: pages are given back, the log is folded in, and events that share a row are told apart."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.store.port import (
    AppendEvents,
    CancelJobs,
    DeleteEnded,
    InsertJobs,
    JobRow,
    PruneEvents,
    PutSetting,
)
from runtime.store.sqlite import views
from runtime.store.sqlite.store import SqliteStore

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


async def one(store: SqliteStore, change: Any) -> Any:
    (result,) = await store.commit([change])
    return result


# -- tidying up --------------------------------------------------------------------------------------------------------


async def filled_and_emptied(store: SqliteStore, jobs: int = 60) -> None:
    """Leave some hundred free pages behind."""
    args = json.dumps("x" * 20_000)
    rows = tuple(JobRow(f"{n:05d}", "k", "q", "loop", args) for n in range(jobs))
    await one(store, InsertJobs(rows, now=NOW))
    await one(store, CancelJobs(tuple(row.id for row in rows), now=NOW))
    assert await one(store, DeleteEnded("cancelled", None, before=NOW + 1, keep=None)) == jobs


async def test_free_pages_are_given_back_in_slices(sqlite: SqliteStore) -> None:
    await filled_and_emptied(sqlite)
    first = await sqlite.tidy(50)
    assert first.freed == 50  # and not one, which is what one step of the statement frees
    assert first.free > 50
    second = await sqlite.tidy(100_000)
    assert (second.freed, second.free) == (first.free, 0)
    assert (await sqlite.tidy(50)).freed == 0


async def test_the_file_is_smaller_afterwards(sqlite: SqliteStore) -> None:
    await filled_and_emptied(sqlite)
    await sqlite.tidy(1)
    before = sqlite.path.stat().st_size
    await sqlite.tidy(100_000)
    assert sqlite.path.stat().st_size < before / 2


async def test_the_log_is_folded_in_although_somebody_reads(sqlite: SqliteStore) -> None:
    await filled_and_emptied(sqlite)

    def begin(sql: Any) -> None:
        sql.execute("BEGIN")
        sql.execute("SELECT count(*) FROM jobs").fetchall()

    await sqlite._readers[0].run(begin)
    tidied = await sqlite.tidy(10)
    assert tidied.wal_bytes == sqlite.path.with_name("understudy.db-wal").stat().st_size > 0
    await sqlite._readers[0].run(lambda sql: sql.execute("ROLLBACK"))
    await one(sqlite, PutSetting("after", "1"))


async def test_what_is_deleted_leaves_nothing_behind_in_any_table(sqlite: SqliteStore) -> None:
    await filled_and_emptied(sqlite, jobs=5)
    tables = ("jobs", "job_data", "job_attempts", "job_deps", "job_tags", "job_steps", "job_signals", "job_logs")
    counts = {
        table: await sqlite._main.run(lambda sql, name=table: sql.execute(f"SELECT count(*) FROM {name}").fetchone()[0])
        for table in tables
    }
    assert counts == dict.fromkeys(tables, 0)


# -- events, many of which share a row ---------------------------------------------------------------------------------


async def tell(store: SqliteStore, *names: str) -> None:
    """Keep events in one transaction, so that they are one row; the subject of each is its type in capitals."""
    events = tuple((name, name.upper(), json.dumps({"n": n})) for n, name in enumerate(names))
    await one(store, AppendEvents(events, now=NOW))


async def rows(store: SqliteStore) -> int:
    count: int = await store._main.run(lambda sql: sql.execute("SELECT count(*) FROM events").fetchone()[0])
    return count


async def found(store: SqliteStore, **which: Any) -> list[int | None]:
    return [event.offset for event in await store.events(**({"after": 0} | which))]


async def test_a_cursor_may_point_into_the_middle_of_a_row(sqlite: SqliteStore) -> None:
    for names in ("abc", "d", "efg"):
        await tell(sqlite, *names)
    assert await rows(sqlite) == 3
    for after in range(9):
        assert await found(sqlite, after=after) == list(range(after + 1, 8))
        assert await found(sqlite, after=after, limit=2) == list(range(after + 1, 8))[:2]


async def test_words_are_looked_for_in_the_right_place_of_an_event(sqlite: SqliteStore) -> None:
    odd = 'quo"te\\ü*'
    await one(
        sqlite,
        AppendEvents(
            (
                ("a.x", "b.x", '{"job": "c.x"}'),
                ("b.x", "a.x", "{}"),
                ("c.xy", odd, "{}"),
                ("c.x", "c", '{"type": "b.x"}'),
            ),
            now=NOW,
        ),
    )
    assert await found(sqlite, types=("b.x",)) == [2]
    assert await found(sqlite, types=("c.x",)) == [4]
    assert await found(sqlite, types=("c.x*",)) == [3, 4]
    assert await found(sqlite, types=("a.*", "c.xy")) == [1, 3]
    assert await found(sqlite, subject="b.x") == [1]
    assert await found(sqlite, subject=odd) == [3]
    assert await found(sqlite, subject="c.x") == []
    assert await found(sqlite, types=("c.*",), subject="c") == [4]
    assert await found(sqlite, types=("[bc].x", "?.x")) == []


async def test_a_row_is_forgotten_by_halves(sqlite: SqliteStore) -> None:
    for names in ("abc", "def"):
        await tell(sqlite, *names)
    assert await one(sqlite, PruneEvents(keep=4)) == 2
    assert await sqlite.event_bounds() == (3, 6)
    assert await found(sqlite) == [3, 4, 5, 6]
    assert await found(sqlite, after=3) == [4, 5, 6]
    assert await one(sqlite, PruneEvents(keep=3)) == 1
    assert await one(sqlite, PruneEvents(keep=1)) == 2
    assert [(event.offset, event.subject) for event in await sqlite.events(after=0)] == [(6, "F")]
    assert await sqlite.event_bounds() == (6, 6)


async def test_the_next_offset_is_known_although_no_event_is_left(sqlite: SqliteStore, tmp_path: Path) -> None:
    await tell(sqlite, *"abc")
    assert await one(sqlite, PruneEvents(keep=0)) == 3
    assert await one(sqlite, PruneEvents(keep=0)) == 0
    assert (await found(sqlite), await sqlite.event_bounds()) == ([], (4, 3))
    await sqlite.close()
    again = SqliteStore(tmp_path / "understudy.db")
    await again.open()
    await tell(again, "d")
    assert (await found(again), await again.event_bounds()) == ([4], (4, 4))
    assert await one(again, PruneEvents(keep=0)) == 1
    await again.close()


# -- lists -------------------------------------------------------------------------------------------------------------


async def test_a_list_sorts_ids_and_not_whole_jobs(sqlite: SqliteStore) -> None:
    source, values = await sqlite._main.run(lambda sql: views.found_by(sql, views.JobFilter(queue="q")))
    query = f"EXPLAIN QUERY PLAN {views.LISTED.format(source=source)}"
    plan = await sqlite._main.run(lambda sql: [step[-1] for step in sql.execute(query, (*values, 3)).fetchall()])
    assert plan[0] == "SEARCH jobs USING INTEGER PRIMARY KEY (rowid=?)", plan
