"""What the store in a file does about agents costs the same however much there is of everything else."""

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.port import (
    AbsorbJobs,
    AppendMessages,
    BeginStep,
    ClaimJobs,
    EndStep,
    ForkConversation,
    InsertJobs,
    JobRow,
    PutSetting,
    SendSignal,
    TakeSignal,
)
from runtime.store.sqlite import absorb, approvals, steps, talks, transaction
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


async def start(store: SqliteStore, queue: str = "agent:ada") -> Claimed:
    """Insert a run and claim it; nothing else may be pending in its queue."""
    row = JobRow(f"run-{queue}", "agent.message", queue, "agent", "{}", conversation="main")
    await store.commit([InsertJobs((row,), now=NOW)])
    ((claimed,),) = await store.commit([ClaimJobs(queue, "agent", ("w1",), "boot-1", NOW, NOW + 1)])
    return claimed


async def machine_steps(store: SqliteStore, act: Any) -> int:
    """Return how many steps of its machine SQLite takes for what *act* does: the cost, on whatever computer."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connections = (store._main, *store._readers)
    for connection in connections:
        await connection.run(lambda sql: sql.set_progress_handler(tick, 1))
    await act()
    for connection in connections:
        await connection.run(lambda sql: sql.set_progress_handler(None, 0))
    return count


async def plan(store: SqliteStore, statement: str, values: Any) -> str:
    def explain(sql: sqlite3.Connection) -> list[Any]:
        return sql.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()

    return "\n".join(step[-1] for step in await store._main.run(explain))


# -- steps -------------------------------------------------------------------------------------------------------------


async def test_a_step_costs_the_same_however_many_there_are(sqlite: SqliteStore) -> None:
    claimed = await start(sqlite)

    async def step(n: int) -> None:
        await sqlite.commit([BeginStep(claimed, f"s{n:05d}", now=NOW), EndStep(claimed, f"s{n:05d}", now=NOW)])

    for n in range(3):
        await step(n)
    few = await machine_steps(sqlite, lambda: step(3))
    await sqlite.commit([BeginStep(claimed, f"s{n:05d}", now=NOW) for n in range(4, 2000)])
    many = await machine_steps(sqlite, lambda: step(2001))
    assert many <= few * 1.2


async def begin(store: SqliteStore, claimed: Claimed, names: str) -> list[str]:
    """Begin steps one after another; return the verdicts."""
    begun = [(await store.commit([BeginStep(claimed, name, now=NOW)]))[0] for name in names]
    return [one.verdict for one in begun]


async def test_whatever_records_a_step_is_counted(sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", 5)
    claimed = await start(sqlite)
    assert await begin(sqlite, claimed, "a") == ["run"]
    await sqlite.commit([SendSignal(claimed.id, "go", "1", NOW), TakeSignal(claimed, "go", "b", NOW)])
    said = JobRow("said", "agent.message", "agent:ada", "agent", "{}", conversation="main", tags=("steer",))
    taking = AbsorbJobs(claimed, "c", "agent:ada", "main", "steer", "{}", NOW)
    await sqlite.commit([InsertJobs((said,), now=NOW), taking])
    assert await begin(sqlite, claimed, "defga") == ["run", "run", "full", "full", "run"]


async def test_steps_that_were_taken_back_are_not_counted(sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", 3)
    claimed = await start(sqlite)
    assert await begin(sqlite, claimed, "a") == ["run"]
    for n in range(9):
        with pytest.raises(StoreError):
            await sqlite.commit([BeginStep(claimed, f"undone {n}", now=NOW), PutSetting("x", "{no")])
    assert await begin(sqlite, claimed, "bcd") == ["run", "run", "full"]


async def test_the_steps_of_many_jobs_are_remembered_and_not_of_all(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "KNOWN_JOBS", 3)
    monkeypatch.setattr(steps, "MAX_STEPS", 2)
    runs = [await start(sqlite, f"agent:a{n}") for n in range(7)]
    for name, verdict in (("a", "run"), ("b", "run"), ("c", "full")):
        begun = await sqlite.commit([BeginStep(run, name, now=NOW) for run in runs])
        assert [one.verdict for one in begun] == [verdict] * 7
    known = sqlite._writer._transaction.steps  # type: ignore[union-attr]  # the store is open
    assert len(known) <= 3


# -- plans -------------------------------------------------------------------------------------------------------------


async def test_what_was_said_is_found_by_the_order_of_its_conversation(sqlite: SqliteStore) -> None:
    said = {"queue": "q", "conversation": "c", "tag": "t"}
    found = await plan(sqlite, f"SELECT seq FROM jobs WHERE {absorb.SAID}", said)
    assert "SEARCH jobs USING INDEX jobs_order (queue=? AND conversation=?)" in found
    assert "SCAN" not in found, found


async def test_what_may_be_over_is_looked_for_among_the_pending_ones(sqlite: SqliteStore) -> None:
    found = await plan(sqlite, approvals.FOUND + approvals.OVER.format("true"), (1,))
    assert re.search(r"SCAN ask USING INDEX approvals_pending", found), found
    assert "SEARCH jobs USING INTEGER PRIMARY KEY" in found
    assert "TEMP B-TREE" not in found, found


async def test_pending_approvals_are_listed_by_their_index(sqlite: SqliteStore) -> None:
    asked: list[str] = []
    await sqlite._readers[0].run(lambda sql: sql.set_trace_callback(asked.append))
    await sqlite._readers[1].run(lambda sql: sql.set_trace_callback(asked.append))
    await sqlite.approvals(status="pending", agent="ada")
    await sqlite.approvals(job="run", limit=3)
    pending, of_job = [await plan(sqlite, text, ()) for text in asked]
    assert "INDEX approvals_pending" in pending
    assert "INDEX sqlite_autoindex_approvals_2 (seq=?)" in of_job, of_job
    assert "TEMP B-TREE" not in pending, pending


async def test_a_question_asked_again_is_found_by_its_step(sqlite: SqliteStore) -> None:
    found = await plan(sqlite, approvals.FOUND + "ask.seq = ? AND ask.step = ?", (1, "a"))
    assert "SEARCH ask USING INDEX sqlite_autoindex_approvals_2 (seq=? AND step=?)" in found


async def test_the_places_of_a_conversation_are_found_without_walking_through_it(sqlite: SqliteStore) -> None:
    found = await plan(sqlite, talks.STRETCHES, ("ada", "main"))
    assert not re.search(r"SCAN (?!line\b|\d)", found), found
    assert "SEARCH messages USING COVERING INDEX messages_place (conversation=?)" in found


async def test_the_end_of_a_long_conversation_is_read_at_the_cost_of_a_short_one(sqlite: SqliteStore) -> None:
    def said(count: int, name: str) -> AppendMessages:
        return AppendMessages("ada", name, ('"x"',) * count, None, NOW)

    await sqlite.commit([said(20, "short"), said(5_000, "long")])
    await sqlite.commit([ForkConversation("ada", name, f"{name} fork", NOW) for name in ("short", "long")])
    await sqlite.commit([said(1, "short fork"), said(1, "long fork")])
    costs = []
    for name, count in (("short", 20), ("long", 5_000)):

        async def act(name: str = name, count: int = count) -> None:
            assert len(await sqlite.journal("ada", name, after=count - 10)) == 10
            assert len(await sqlite.journal("ada", f"{name} fork", after=count - 10)) == 11
            assert await sqlite.commit([ForkConversation("ada", f"{name} fork", f"{name} 2", NOW, count // 2)]) == [
                count // 2
            ]
            await sqlite.commit([said(1, f"{name} 2")])

        costs.append(await machine_steps(sqlite, act))
    assert costs[1] <= costs[0] * 1.2


async def test_the_approvals_of_a_job_that_is_forgotten_are_found_by_it(sqlite: SqliteStore) -> None:
    found = await plan(sqlite, "DELETE FROM approvals WHERE seq = ?", (1,))  # as the foreign key does it
    assert re.search(r"SEARCH approvals USING (COVERING )?INDEX sqlite_autoindex_approvals_2 \(seq=\?\)", found), found
