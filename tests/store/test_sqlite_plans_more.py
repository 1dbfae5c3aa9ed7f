"""The store in a file: every statement that runs often finds its rows by a key or an index, and sorts nothing."""

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.store.port import InsertJobs, JobRow
from runtime.store.sqlite import edges, graph, moving, queries, retention, steps, timely, views, wishes
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import JobFilter


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "understudy.db")
    await store.open()
    yield store
    await store.close()


def jobs_where(clause: str) -> str:
    """The statement that reads what deciding about jobs takes."""
    return f"SELECT {moving.FACTS} FROM jobs WHERE {clause}"


# Asked with every batch that ends, and so while thousands of others wait, run and have ended.
BY_KEY = {
    "an id": jobs_where("id IN (SELECT value FROM json_each(:ids))"),
    "numbers": jobs_where(moving.AMONG),
    "go on": moving.GO_ON,
    "wake": moving.WAKE,
    "put": moving.PUT,
    "end": moving.END,
    "find ids": edges.FIND_IDS,
    "find keys": edges.FIND_KEYS,
    "find unique words": edges.FIND_UNIQUES,
    "open edges": edges.OPEN_EDGES,
    "settle": edges.SETTLE,
    "released": jobs_where(edges.RELEASED),
    "doomed": jobs_where(edges.DOOMED),
    "next of a key": edges.NEXT_OF_KEY,
    "bereft parents": jobs_where(edges.BEREFT),
    "owned": steps.OWNED,
    "leases": timely.OWNERS,
    "ended attempts": timely.END_ATTEMPTS,
    "holds": wishes.HOLDS,
    "ignore": wishes.IGNORE,
    "fallen": jobs_where(wishes.FALLEN),
    "unique words": wishes.WORDS,
    "reopen": wishes.REOPEN,
    "take back": wishes.TAKE_BACK,
    "attempts": views.ATTEMPTS,
    "ahead": graph.AHEAD,
    "edges of a graph": graph.EDGES,
    "parts of a graph": graph.PARTS,
    "near": graph.NEAR,
    "oldest": retention.OLDEST,
    "spare": retention.COUNT,
    "queues": retention.QUEUES,
}
# Asked by the clock: each has an index of its own, and looks at no more than it was asked for.
BY_INDEX = {
    "jobs_due": jobs_where(timely.DUE),
    "jobs_wait_until": jobs_where(timely.WAITED),
    "jobs_deadline": jobs_where(timely.OVERDUE),
    "jobs_active": jobs_where(timely.BEYOND),
    "jobs_waiting": jobs_where(timely.LOOSE),
}
# What may be walked over: lists that were handed in, results of inner queries, and the queue of a recursive query.
NO_TABLE = r"json_each|wanted|near|doomed|fallen|names|places|lanes|event|\(subquery-\d+\)|CONSTANT ROW|near|SCAN \d"


async def plan_of(store: SqliteStore, statement: str) -> str:
    """Return the steps of the plan of *statement*."""
    named = dict.fromkeys(re.findall(r":(\w+)", statement), "[1]")
    numbers = [int(number) for number in re.findall(r"\?(\d)", statement)]
    values = named or ("[1]",) * max([*numbers, len(re.findall(r"\?(?!\d)", statement))])

    def explain(sql: sqlite3.Connection) -> list[Any]:
        return sql.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()

    return "\n".join(step[-1] for step in await store._main.run(explain))


def walked(plan: str) -> list[str]:
    """Return the tables a plan walks over from end to end."""
    return [step for step in plan.splitlines() if step.startswith("SCAN") and not re.search(NO_TABLE, step)]


@pytest.mark.parametrize("name", BY_KEY)
async def test_what_is_asked_with_every_batch_is_found_by_a_key(sqlite: SqliteStore, name: str) -> None:
    plan = await plan_of(sqlite, BY_KEY[name])
    assert "SEARCH" in plan
    assert not walked(plan), plan
    assert "INDEX jobs_waiting" not in plan, "that would look at every job that waits"
    assert "TEMP B-TREE" not in plan, plan


@pytest.mark.parametrize("index", BY_INDEX)
async def test_what_is_asked_by_the_clock_has_an_index(sqlite: SqliteStore, index: str) -> None:
    plan = await plan_of(sqlite, BY_INDEX[index])
    assert re.search(rf"SEARCH jobs USING (COVERING )?INDEX {index}\b", plan), plan
    assert not walked(plan), plan


async def test_the_next_time_to_look_is_at_the_head_of_three_indexes(sqlite: SqliteStore) -> None:
    plan = await plan_of(sqlite, views.NEXT_DUE)
    for index in ("jobs_due", "jobs_wait_until", "jobs_deadline"):
        assert f"INDEX {index}" in plan, plan
    assert "TEMP B-TREE" not in plan, plan


@pytest.mark.parametrize("filters", ["", " AND instr(body, :text) AND event.value ->> 2 = :text"])
async def test_events_are_read_from_the_cursor_on_and_no_further_than_asked(sqlite: SqliteStore, filters: str) -> None:
    plan = await plan_of(sqlite, queries.EVENTS.format(filters=filters))
    assert "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)" in plan
    assert "TEMP B-TREE" not in plan, plan


async def test_a_status_with_few_jobs_is_listed_by_its_index_and_one_with_many_by_age(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tuple(JobRow(f"{n:06d}", "k", "q", "loop", "{}") for n in range(30))
    await sqlite.commit([InsertJobs(rows, now=1)])
    plans = []
    for few in (31, 30):
        monkeypatch.setattr(views, "FEW", few)
        source, _ = await sqlite._main.run(lambda sql: views.found_by(sql, JobFilter(status="pending")))
        plans.append(await plan_of(sqlite, f"SELECT seq FROM {source} AND id < 'x' ORDER BY id DESC LIMIT 3"))
        views_found = await sqlite.jobs(JobFilter(status="pending"), before="000020", limit=3)
        assert [view.id for view in views_found] == ["000019", "000018", "000017"]
    assert "jobs_claim" in plans[0]
    assert plans[1].splitlines() == ["SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id<?)"]


@pytest.mark.parametrize("status", ["pending", "waiting", "delayed", "active", "paused", "failed", "completed"])
async def test_a_list_of_one_status_looks_at_no_other(sqlite: SqliteStore, status: Any) -> None:
    source, _ = await sqlite._main.run(lambda sql: views.found_by(sql, JobFilter(status=status)))
    plan = await plan_of(sqlite, f"SELECT seq FROM {source} AND id < 'x' ORDER BY id DESC LIMIT 3")
    assert re.search(rf"INDEX {views.COUNTED_ON.get(status, 'jobs_ended')}\b", plan), plan
