"""Room that is made for the write-ahead log: it is there before it is needed, and to SQLite it is nothing."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.store.port import PutSetting
from runtime.store.sqlite import ahead
from runtime.store.sqlite.ahead import Ahead
from runtime.store.sqlite.store import SqliteStore

TEXT = '"' + "x" * 20_000 + '"'


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


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


async def test_the_log_grows_in_steps_and_not_with_every_commit(sqlite: SqliteStore, path: Path) -> None:
    lengths = []
    for n in range(90):
        await sqlite.commit([PutSetting(f"s{n}", TEXT)])
        lengths.append(log_of(path).stat().st_size)
    grown = [later for later, earlier in zip(lengths[21:], lengths[20:], strict=False) if later > earlier]
    assert len(grown) <= 8


async def test_a_small_log_is_left_alone(sqlite: SqliteStore, path: Path) -> None:
    before = log_of(path).stat().st_size
    await sqlite.commit([PutSetting("a", "1")])
    assert log_of(path).stat().st_size < before + 10 * 4120


async def test_the_log_is_never_made_longer_than_sqlite_lets_it_grow(sqlite: SqliteStore, path: Path) -> None:
    for n in range(60):
        await sqlite.commit([PutSetting(f"s{n}-{m}", TEXT) for m in range(20)])
    assert log_of(path).stat().st_size <= ahead.LONGEST + ahead.STEP


async def test_what_was_committed_into_the_room_is_read_after_a_crash(
    sqlite: SqliteStore, path: Path, tmp_path: Path
) -> None:
    for n in range(40):
        await sqlite.commit([PutSetting(f"s{n}", TEXT)])
    zeros = log_of(path).read_bytes()[-4096:]
    assert zeros == bytes(4096)
    copy = tmp_path / "copy.db"  # what a crash leaves: the file and its log as they are now
    for name, other in ((path, copy), (log_of(path), log_of(copy))):
        other.write_bytes(name.read_bytes())
    found = sqlite3.connect(copy)
    try:
        assert found.execute("SELECT count(*) FROM settings WHERE name GLOB 's*'").fetchone() == (40,)
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        found.close()


def test_nothing_is_taken_on_a_disk_with_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.db"
    log_of(path).write_bytes(bytes(ahead.SMALLEST))
    monkeypatch.setattr(ahead, "SPARE", 1 << 62)
    room = Ahead(path)
    room.keep()
    room.close()
    assert log_of(path).stat().st_size == ahead.SMALLEST


def test_a_log_that_cannot_be_opened_is_no_error(tmp_path: Path) -> None:
    room = Ahead(tmp_path / "gone.db")
    room.keep()
    room.keep()
    room.close()
    assert not list(tmp_path.iterdir())
