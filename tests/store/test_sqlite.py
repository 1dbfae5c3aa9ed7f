"""The store in a file: settings, schema, one sync for many commits, and what it does when disk or file fail it."""

import json
import re
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreMismatch, StoreNewer
from runtime.store.port import AppendEvents, InsertJobs, JobRow, PutSetting
from runtime.store.sqlite.migrate import APPLICATION_ID, known_migrations
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import ENDED, MOVES, REASONS


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "understudy.db"


@pytest.fixture
async def sqlite(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


def ask(path: Path, query: str) -> list[Any]:
    """Return what another program reads in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def change(path: Path, script: str) -> None:
    """Let another program write into the file."""
    connection = sqlite3.connect(path)
    try:
        connection.executescript(script)
    finally:
        connection.close()


async def made(path: Path, *changes: Any) -> None:
    """Make the file with *changes* in it, and close it in order."""
    store = SqliteStore(path)
    await store.open()
    await store.commit(changes or [PutSetting("made", "1")])
    await store.close()


def row(job_id: str, **fields: Any) -> JobRow:
    return JobRow(**({"id": job_id, "kind": "k", "queue": "q", "lane": "loop", "args": "{}"} | fields))


# -- settings of the connection ----------------------------------------------------------------------------------------


async def test_the_settings_are_read_back_as_promised(sqlite: SqliteStore) -> None:
    pragmas = sqlite.pragmas()
    assert pragmas["journal_mode"] == "wal"
    assert pragmas["synchronous"] == 2  # FULL
    assert pragmas["foreign_keys"] == 1
    assert pragmas["busy_timeout"] > 0
    assert pragmas["sqlite_version"] == sqlite3.sqlite_version


async def test_relaxed_durability_syncs_at_checkpoints_only(path: Path) -> None:
    store = SqliteStore(path, durability="relaxed")
    await store.open()
    try:
        assert store.pragmas()["synchronous"] == 1  # NORMAL
    finally:
        await store.close()


async def test_the_file_gives_free_pages_back(path: Path) -> None:
    await made(path)
    assert ask(path, "PRAGMA auto_vacuum") == [(2,)]


async def test_readers_cannot_write(sqlite: SqliteStore) -> None:
    for reader in sqlite._readers:
        with pytest.raises(StoreError):
            await reader.run(lambda sql: sql.execute("DELETE FROM jobs"))


async def test_only_its_owner_reads_the_file(sqlite: SqliteStore, path: Path) -> None:
    for name in (path, path.with_name("state.json")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600


# -- the schema --------------------------------------------------------------------------------------------------------


async def test_a_new_file_has_the_newest_schema_and_says_whose_it_is(path: Path) -> None:
    await made(path)
    newest = known_migrations()[-1].number
    assert ask(path, "PRAGMA user_version") == [(newest,)]
    assert ask(path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert [number for (number,) in ask(path, "SELECT number FROM migrations ORDER BY number")] == [
        step.number for step in known_migrations()
    ]


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [step.number for step in known_migrations()] == list(range(1, len(known_migrations()) + 1))


async def test_a_file_of_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    await made(path)
    newer = known_migrations()[-1].number + 1
    change(path, f"PRAGMA user_version = {newer}")
    before = path.read_bytes()
    with pytest.raises(StoreNewer):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_refused_and_not_touched(path: Path) -> None:
    change(path, "CREATE TABLE theirs (n); INSERT INTO theirs VALUES (1)")
    before = path.read_bytes()
    with pytest.raises(StoreMismatch):
        await SqliteStore(path).open()
    assert path.read_bytes() == before


async def test_a_migration_that_was_changed_after_it_was_applied_is_found_out(path: Path) -> None:
    await made(path)
    change(path, "UPDATE migrations SET digest = 'other' WHERE number = 1")
    with pytest.raises(StoreMismatch):
        await SqliteStore(path).open()


async def test_the_trigger_allows_the_moves_of_the_table_and_no_other(sqlite: SqliteStore) -> None:
    def refusal(sql: sqlite3.Connection, old: str, new: str) -> str | None:
        """Return why the database refuses the move; None where it takes it."""
        columns = "id, kind, queue, lane, priority, rank, execute_after, max_attempts, created_at, updated_at"
        sql.execute("BEGIN")
        try:
            sql.execute(
                f"INSERT INTO jobs ({columns}, status, reason, worker, boot, finished_at)"
                " VALUES ('x', 'k', 'q', 'loop', 1, 1, 1, 1, 1, 1, ?, ?, ?, ?, ?)",
                (old, *rest_of(old)),
            )
            sql.execute(
                "UPDATE jobs SET status = ?, reason = ?, worker = ?, boot = ?, finished_at = ? WHERE id = 'x'",
                (new, *rest_of(new)),
            )
        except sqlite3.IntegrityError as error:
            return str(error)
        finally:
            sql.execute("ROLLBACK")
        return None

    def rest_of(status: str) -> tuple[Any, ...]:
        owner = "w" if status == "active" else None
        return REASONS.get(status, (None,))[0], owner, owner, 1 if status in ENDED else None

    def refused(sql: sqlite3.Connection) -> dict[tuple[str, str], str | None]:
        return {(old, new): refusal(sql, old, new) for old in MOVES for new in MOVES if old != new}

    answers = await sqlite._main.run(refused)
    assert {pair for pair, answer in answers.items() if answer is None} == {
        (old, new) for old, allowed in MOVES.items() for new in allowed
    }
    assert {answer for answer in answers.values() if answer is not None} == {"illegal move of a job"}


async def test_the_epoch_never_falls_in_the_database_either(sqlite: SqliteStore) -> None:
    await sqlite.commit([InsertJobs((row("x"),), now=1)])
    await sqlite._main.run(lambda sql: sql.execute("UPDATE jobs SET epoch = 5"))
    with pytest.raises(StoreError):
        await sqlite._main.run(lambda sql: sql.execute("UPDATE jobs SET epoch = 4"))


QUESTIONS = {
    "jobs_claim": "status = 'pending' AND queue = 'q' AND lane = 'loop' ORDER BY rank, seq LIMIT 3",
    "jobs_due": "status = 'delayed' AND execute_after <= 9 ORDER BY execute_after LIMIT 3",
    "jobs_active": "status = 'active' AND boot = 'b' AND worker = 'w'",
    "jobs_key": "kind = 'k' AND key = 'x'",
}


@pytest.mark.parametrize("index", sorted(QUESTIONS))
async def test_what_the_queue_asks_all_day_is_answered_by_an_index(sqlite: SqliteStore, index: str) -> None:
    question = f"EXPLAIN QUERY PLAN SELECT seq FROM jobs WHERE {QUESTIONS[index]}"
    plan = await sqlite._main.run(lambda sql: sql.execute(question).fetchall())
    text = " / ".join(step[-1] for step in plan)
    assert re.search(rf"INDEX {index}\b", text), text
    assert "TEMP B-TREE" not in text


# -- one sync for many commits -----------------------------------------------------------------------------------------


async def test_commits_that_wait_together_share_a_transaction(sqlite: SqliteStore) -> None:
    seen: list[str] = []
    await sqlite._main.run(lambda sql: sql.set_trace_callback(lambda text: seen.append(text.split()[0])))
    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(sqlite.commit, [PutSetting(f"s{n}", "1")])
    await sqlite._main.run(lambda sql: sql.set_trace_callback(None))
    # The first goes at once; the others gather while it is written.
    assert 1 <= seen.count("COMMIT") <= 3
    assert seen.count("INSERT") == 100
    assert seen.count("SAVEPOINT") >= 98


async def test_an_acknowledged_commit_is_seen_by_another_connection(sqlite: SqliteStore, path: Path) -> None:
    await sqlite.commit([PutSetting("a", "1")])
    assert ask(path, "SELECT value FROM settings WHERE name = 'a'") == [("1",)]


# -- closing, opening, dying -------------------------------------------------------------------------------------------


async def test_everything_is_there_after_closing_and_opening(path: Path) -> None:
    await made(path, InsertJobs((row("x", key="k"),), now=1), AppendEvents((("a", "b", "{}"),), now=1))
    store = SqliteStore(path)
    await store.open()
    assert store.unclean is False
    assert await store.event_bounds() == (1, 2)
    ((inserted,),) = await store.commit([InsertJobs((row("y", key="k"),), now=2)])
    assert (inserted.id, inserted.existing) == ("x", True)
    await store.commit([AppendEvents((("c", "d", "{}"),), now=1), InsertJobs((row("z"),), now=3)])
    assert [event.offset for event in await store.events(after=0)] == [1, 2, 3, 4]
    await store.close()


async def test_a_closed_file_is_whole_without_its_log(path: Path) -> None:
    await made(path, InsertJobs(tuple(row(f"j{n}") for n in range(50)), now=1))
    assert not path.with_name(path.name + "-wal").exists()
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "PRAGMA foreign_key_check") == []
    assert ask(path, "SELECT count(*) FROM jobs") == [(50,)]


DIES = """
import os, sys, anyio
from pathlib import Path
from runtime.store.port import InsertJobs, JobRow
from runtime.store.sqlite.store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    for n in range(20):
        row = JobRow(id=f"j{n}", kind="k", queue="q", lane="loop", args="{}")
        await store.commit([InsertJobs((row,), now=1)])
        print(row.id, flush=True)
    os.kill(os.getpid(), 9)

anyio.run(main)
"""


async def test_what_was_acknowledged_survives_the_death_of_the_process(path: Path) -> None:
    dead = await anyio.run_process([sys.executable, "-c", DIES, str(path)], check=False, cwd=Path(__file__).parents[2])
    acknowledged = dead.stdout.decode().split()
    assert (dead.returncode, len(acknowledged)) == (-9, 20)
    store = SqliteStore(path)
    await store.open()
    assert store.unclean is True
    assert {view.id for view in await store.jobs()} == set(acknowledged)
    await store.close()
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


# -- the file is not what it should be ---------------------------------------------------------------------------------


async def test_a_file_that_is_gone_is_not_made_anew(path: Path) -> None:
    await made(path)
    path.unlink()
    with pytest.raises(StoreCorrupt):
        await SqliteStore(path).open()
    assert not path.exists()


async def test_an_emptied_file_is_found_out(path: Path) -> None:
    await made(path)
    path.write_bytes(b"")
    with pytest.raises(StoreMismatch):
        await SqliteStore(path).open()


async def test_an_older_copy_is_found_out(path: Path) -> None:
    await made(path, InsertJobs((row("a"),), now=1))
    copy = path.read_bytes()
    await made(path, InsertJobs((row("b"),), now=1))
    path.write_bytes(copy)
    with pytest.raises(StoreMismatch):
        await SqliteStore(path).open()


async def test_a_file_that_is_no_database_is_corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name may say " * 100)
    with pytest.raises(StoreCorrupt):
        await SqliteStore(path).open()


async def test_a_note_beside_the_file_that_cannot_be_read_is_a_mismatch(path: Path) -> None:
    await made(path)
    path.with_name("state.json").write_text("{")
    with pytest.raises(StoreMismatch):
        await SqliteStore(path).open()


async def test_the_note_beside_the_file_tells_a_clean_end(path: Path) -> None:
    await made(path, InsertJobs((row("a"), row("b")), now=1))
    noted = json.loads(path.with_name("state.json").read_text())
    assert (noted["clean"], noted["last_seq"]) == (True, 2)


# -- full and locked ---------------------------------------------------------------------------------------------------


async def limit_pages(store: SqliteStore, more: int) -> None:
    """Let the file grow by *more* pages only."""

    def limit(sql: sqlite3.Connection) -> None:
        pages = sql.execute("PRAGMA page_count").fetchone()[0]
        sql.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()

    await store._main.run(limit)


async def test_a_full_disk_refuses_and_keeps_nothing_by_half(sqlite: SqliteStore) -> None:
    await sqlite.commit([InsertJobs((row("before"),), now=1)])
    await limit_pages(sqlite, 2)
    big = json.dumps("x" * 200_000)
    with pytest.raises(StoreFull):
        await sqlite.commit([PutSetting("small", "1"), InsertJobs((row("big", args=big),), now=1)])
    assert await sqlite.setting("small") is None
    assert [view.id for view in await sqlite.jobs()] == ["before"]
    # Reads go on, and so do writes as soon as there is room.
    await limit_pages(sqlite, 1000)
    await sqlite.commit([PutSetting("small", "1"), InsertJobs((row("big", args=big),), now=1)])
    assert [view.id for view in await sqlite.jobs()] == ["big", "before"]
    assert [event.offset for event in await sqlite.events(after=0)] == [1, 2]


async def test_a_full_disk_acknowledges_nothing_falsely_to_many_callers(sqlite: SqliteStore) -> None:
    await limit_pages(sqlite, 40)
    text = json.dumps("x" * 20_000)
    kept: list[str] = []
    refused: list[str] = []

    async def insert(job_id: str) -> None:
        try:
            await sqlite.commit([InsertJobs((row(job_id, args=text),), now=1)])
        except StoreFull:
            refused.append(job_id)
        else:
            kept.append(job_id)

    async with anyio.create_task_group() as tasks:
        for n in range(60):
            tasks.start_soon(insert, f"j{n:02d}")
    assert refused
    assert sorted(view.id for view in await sqlite.jobs(limit=100)) == sorted(kept)
    await limit_pages(sqlite, 10_000)
    await sqlite.commit([InsertJobs((row("after"),), now=1)])
    assert await sqlite.job("after") is not None


async def test_a_lock_of_another_program_is_told_and_leaves_nothing_behind(sqlite: SqliteStore, path: Path) -> None:
    await sqlite._main.run(lambda sql: sql.execute("PRAGMA busy_timeout = 20").fetchall())
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy):
            await sqlite.commit([PutSetting("a", "1")])
        other.execute("ROLLBACK")
    finally:
        other.close()
    assert await sqlite.setting("a") is None
    await sqlite.commit([PutSetting("a", "2")])
    assert await sqlite.setting("a") == "2"


async def test_nothing_is_acknowledged_into_a_file_that_was_replaced(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    try:
        path.rename(tmp_path / "elsewhere.db")
        with pytest.raises(StoreMismatch):
            await store.commit([PutSetting("a", "1")])
    finally:
        await store.close()
