"""A database of an older schema is opened by today's program, and nothing that was in it is lost."""

import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.store.port import AppendEvents, AppendMessages, ForkConversation, InsertJobs, JobRow, MessageRow, RetryJobs
from runtime.store.sqlite.migrate import known_migrations, migrate
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import ENDED, REASONS, Status

PLACES: list[tuple[Status, str | None]] = [(status, reason) for status in REASONS for reason in REASONS[status]]
PLACES += [("pending", None), ("active", None), ("completed", None)]
PROBLEM = json.dumps({"code": "job.failed", "title": "It failed", "status": 500, "detail": "no"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "understudy.db"


def first_schema(path: Path) -> sqlite3.Connection:
    """A database as the first version made it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA auto_vacuum = 2")
    connection.execute("PRAGMA journal_mode = wal").fetchall()
    migrate(connection, 1, known_migrations()[:1])
    return connection


def add_job(sql: sqlite3.Connection, seq: int, status: Status, reason: str | None) -> None:
    """A job of the first schema that has had two attempts, of which the second is its last or runs."""
    job = {
        "seq": seq,
        "id": f"job-{seq:02d}",
        "kind": "k",
        "queue": "q",
        "lane": "loop",
        "status": status,
        "reason": reason,
        "priority": seq,
        "rank": 1000 + seq,
        "execute_after": 500 + seq,
        "attempts": 2,
        "max_attempts": 3,
        "crashes": 1,
        "epoch": 2,
        "key": f"key-{seq}",
        "conversation": None,
        "timeout_ms": 9,
        "created_at": 10,
        "updated_at": 40,
        "started_at": 20,
        "finished_at": 40 if status in ENDED else None,
        "worker": "w2" if status == "active" else None,
        "boot": "b" if status == "active" else None,
    }
    put(sql, "jobs", job)
    put(sql, "job_data", {"seq": seq, "args": f'{{"n":{seq}}}', "data": '{"d":1}', "result": "7", "error": PROBLEM})
    first = {"seq": seq, "epoch": 1, "attempt": 1, "worker": "w1", "boot": "a", "started_at": 20, "ended_at": 25}
    put(sql, "job_attempts", first | {"outcome": "retry", "error": PROBLEM})
    last = {"seq": seq, "epoch": 2, "attempt": 2, "worker": "w2", "boot": "b", "started_at": 30}
    put(sql, "job_attempts", last | ({} if status == "active" else {"ended_at": 40, "outcome": status}))
    put(sql, "job_logs", {"seq": seq, "n": 1, "epoch": 2, "at": 31, "level": "info", "text": f"line {seq}"})
    put(sql, "events", {"at": 10, "type": "job.enqueued", "subject": job["id"], "data": '{"queue":"q","kind":"k"}'})


def put(sql: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    sql.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


@pytest.fixture
def old(path: Path) -> None:
    """A database of the first schema with jobs at every place, and a queue, a worker and events."""
    sql = first_schema(path)
    for seq, (status, reason) in enumerate(PLACES, 1):
        add_job(sql, seq, status, reason)
    put(sql, "queues", {"name": "held", "paused": 1, "updated_at": 5})
    put(sql, "queues", {"name": "free", "paused": 0, "updated_at": 6})
    worker = {"id": "w2", "agent": None, "lane": "loop", "status": "busy", "boot": "b", "pid": 1}
    put(sql, "workers", worker | {"created_at": 1, "last_heartbeat_at": 30})
    for n, name in enumerate(("main", "side", "empty"), 1):
        put(sql, "conversations", {"id": n, "agent": "ada", "name": name, "created_at": n, "updated_at": n})
    for n, (talk, parent) in enumerate([(1, None), (2, None), (1, 1), (1, 3), (2, 2)], 1):
        put(sql, "messages", {"id": n, "conversation": talk, "parent": parent, "body": str(n), "created_at": 10 + n})
        sql.execute("UPDATE conversations SET head = ? WHERE id = ?", (n, talk))
    put(sql, "events", {"at": 50, "type": "agent.started", "subject": "ada", "data": '{"text":"grüße \\"1\\""}'})
    sql.execute('DELETE FROM events WHERE "offset" = 1')
    sql.close()


@pytest.fixture
async def store(path: Path, old: None) -> AsyncIterator[SqliteStore]:
    """The old database, opened by today's program."""
    opened = SqliteStore(path)
    await opened.open()
    yield opened
    await opened.close()


async def test_every_job_stands_where_it_stood(store: SqliteStore) -> None:
    for seq, place in enumerate(PLACES, 1):
        view = await store.job(f"job-{seq:02d}")
        assert view is not None
        assert (view.status, view.reason) == place
        assert (view.priority, view.attempts, view.crashes, view.key) == (seq, 2, 1, f"key-{seq}")
        assert (view.payload, view.data, view.result) == ({"n": seq}, {"d": 1}, 7)
        assert view.error is not None
        assert (view.created_at, view.started_at, view.execute_after) == (10, 20, 500 + seq)
        assert view.finished_at == (40 if place[0] in ENDED else None)
        assert view.worker == "w2"
        assert (view.snoozes, view.tokens, view.limit_max, view.tags, view.depends_on) == (0, 0, 1, (), ())
        lines = await store.job_logs(view.id)
        assert lines is not None
        assert [line.text for line in lines] == [f"line {seq}"]


async def test_every_attempt_is_still_told_once(store: SqliteStore) -> None:
    for seq, (status, _) in enumerate(PLACES, 1):
        view = await store.job(f"job-{seq:02d}")
        assert view is not None
        first, last = view.history
        assert (first.epoch, first.attempt, first.worker, first.outcome) == (1, 1, "w1", "retry")
        assert (first.started_at, first.ended_at) == (20, 25)
        assert first.error is not None
        assert (last.epoch, last.attempt, last.worker, last.started_at) == (2, 2, "w2", 30)
        assert (last.ended_at, last.outcome) == ((None, None) if status == "active" else (40, status))


async def test_every_event_keeps_its_offset(store: SqliteStore) -> None:
    events = await store.events(after=0, limit=100)
    count = len(PLACES) + 1
    assert [event.offset for event in events] == list(range(2, count + 1))
    assert await store.event_bounds() == (2, count)
    assert [event.subject for event in events[:-1]] == [f"job-{seq:02d}" for seq in range(2, count)]
    assert (events[-1].type, events[-1].at, events[-1].data) == ("agent.started", 50, {"text": 'grüße "1"'})
    await store.commit([AppendEvents((("a", "b", "{}"),), now=60)])
    assert (await store.event_bounds())[1] == count + 1


async def test_a_paused_queue_is_still_paused_by_hand(store: SqliteStore) -> None:
    rows = {row.name: row for row in await store.queues()}
    assert (rows["held"].state, rows["held"].since, rows["held"].set_by_hand) == ("paused", 5, ("state",))
    assert (rows["free"].state, rows["free"].set_by_hand) == ("running", ())


async def test_workers_are_still_there(store: SqliteStore) -> None:
    (worker,) = await store.workers()
    assert (worker.id, worker.last_heartbeat_at, worker.host, worker.capabilities) == ("w2", 30, "", "{}")


async def test_every_message_has_its_place(store: SqliteStore) -> None:
    journals = {name: await store.journal("ada", name) for name in ("main", "side", "empty")}
    assert journals == {
        "main": (MessageRow(1, 11, None, "1"), MessageRow(2, 13, None, "3"), MessageRow(3, 14, None, "4")),
        "side": (MessageRow(1, 12, None, "2"), MessageRow(2, 15, None, "5")),
        "empty": (),
    }
    assert await store.commit([ForkConversation("ada", "main", "empty", 20, keep=2)]) == [2]
    for name in ("main", "side", "empty"):
        await store.commit([AppendMessages("ada", name, ("9",), None, 30)])
    assert await store.messages("ada", "empty") == ("1", "3", "9")
    assert [(row.n, row.body) for row in await store.journal("ada", "main", after=3)] == [(4, "9")]
    assert await store.messages("ada", "side") == ("2", "5", "9")


async def test_the_old_jobs_go_on_and_new_ones_follow(store: SqliteStore) -> None:
    failed = PLACES.index(("failed", "exhausted")) + 1
    (retried,) = (await store.commit([RetryJobs((f"job-{failed:02d}",), now=100)]))[0]
    assert retried.before == "failed"
    row = JobRow(id="new", kind="k", queue="q", lane="loop", args="{}", key="key-1")
    ((known,),) = await store.commit([InsertJobs((row,), now=100)])
    assert (known.id, known.conflict) == ("job-01", True)


async def test_the_file_is_whole_and_the_old_tables_are_gone(store: SqliteStore, path: Path) -> None:
    def look(sql: sqlite3.Connection) -> tuple[Any, ...]:
        tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        integrity = sql.execute("PRAGMA integrity_check").fetchall()
        return tables, integrity, sql.execute("PRAGMA foreign_key_check").fetchall()

    tables, integrity, strays = await store._main.run(look)
    assert not {name for name in tables if name.endswith("_1")}
    assert (integrity, strays) == ([("ok",)], [])


async def test_offsets_go_on_where_all_events_were_pruned(path: Path) -> None:
    sql = first_schema(path)
    put(sql, "events", {'"offset"': 41, "at": 1, "type": "a", "subject": "b", "data": "{}"})
    sql.execute("DELETE FROM events")
    sql.close()
    store = SqliteStore(path)
    await store.open()
    try:
        await store.commit([AppendEvents((("a", "b", "{}"),), now=60)])
        assert (await store.event_bounds())[1] == 42
    finally:
        await store.close()
