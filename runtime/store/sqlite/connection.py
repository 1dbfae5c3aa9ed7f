"""The one file that reaches below aiosqlite's public API: run a whole function on a connection's own thread.

aiosqlite hands each statement to the connection's thread alone, and a cancelled await leaves its transaction open for
whoever comes next. So a transaction here is one function that runs from BEGIN to COMMIT on that thread, where nothing
can split it. `Connection._execute` and `Connection._tx` are private; the version of aiosqlite is bounded in
pyproject.toml and a test holds this file to it.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import aiosqlite

from runtime.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull, StoreReadOnly, StoreRejected

T = TypeVar("T")

Durability = Literal["full", "relaxed"]

BUSY_TIMEOUT_MS: Final = 5_000
SYNCHRONOUS: Final[dict[Durability, int]] = {"full": 2, "relaxed": 1}
REFUSALS: Final = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.NotSupportedError,
)
NOT_A_DATABASE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def wanted_pragmas(durability: Durability, *, writer: bool) -> dict[str, int | str]:
    """Return the settings a connection must have; they are read back after they were set, since builds differ."""
    common: dict[str, int | str] = {"foreign_keys": 1, "busy_timeout": BUSY_TIMEOUT_MS, "temp_store": 2}
    if not writer:
        # Only the writer checkpoints: two checkpointing connections are what the WAL-reset bug of SQLite < 3.51.3
        # needs.
        return common | {"query_only": 1, "wal_autocheckpoint": 0}
    return common | {
        "auto_vacuum": 2,  # incremental; it must come before the first page is written, so before journal_mode too
        "journal_mode": "wal",
        "synchronous": SYNCHRONOUS[durability],
        "wal_autocheckpoint": 4000,  # 16 MiB: a checkpoint every few commits would cost more than the commits
        "journal_size_limit": 64 * 1024 * 1024,
        "cache_size": -65_536,
        "fullfsync": 1,  # without it a sync on macOS does not reach the platter; elsewhere it is without effect
        "checkpoint_fullfsync": 1,
    }


def prepare(connection: sqlite3.Connection, pragmas: dict[str, int | str]) -> dict[str, int | str]:
    """Set *pragmas* and return them as read back; raises StoreError where one did not take."""
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()
    actual = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    wrong = {name: actual[name] for name, value in pragmas.items() if actual[name] != value}
    if wrong:
        raise StoreError(f"this build of SQLite does not take the settings {wrong}", settings=wrong)
    return actual


class Connection:
    """One SQLite connection on a thread of its own."""

    def __init__(
        self, path: Path, pragmas: dict[str, int | str], look: Callable[[sqlite3.Connection], object] | None = None
    ) -> None:
        self._path = path
        self._wanted = pragmas
        self._look = look
        self._inner: aiosqlite.Connection | None = None
        self.pragmas: dict[str, int | str] = {}

    async def open(self) -> None:
        """Open the file, look at it before anything of it is changed, and set the pragmas. Raises StoreErrors."""
        with translated(self._path):
            self._inner = await aiosqlite.connect(self._path, isolation_level=None, cached_statements=256)
        try:
            if self._look is not None:
                await self.run(self._look)
            self.pragmas = await self.run(lambda connection: prepare(connection, self._wanted))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the file and end the thread; safe to call twice."""
        inner, self._inner = self._inner, None
        if inner is not None:
            await inner.close()

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Return *function* of the connection, run whole on its thread.

        Cancelling the await does not stop the function: what it wrote may be there.
        """
        inner = self._inner
        if inner is None:
            raise StoreError("the database is closed")
        with translated(self._path):
            return await inner._execute(function, inner._conn)  # type: ignore[no-untyped-call,no-any-return]  # noqa: SLF001  # see the file's docstring

    def hand(self, function: Callable[[sqlite3.Connection], T], settle: Callable[[T | BaseException], None]) -> None:
        """Have *function* of the connection run whole on its thread, and *settle* called on the loop with what it
        returned or raised. To `await run()` costs a task and two rounds of the loop more, a fifth of a small commit.

        Raises StoreError where the database is closed; *settle* is not called then.
        """
        inner = self._inner
        if inner is None:
            raise StoreError("the database is closed")
        inner._tx.put_nowait((Handed(settle, self._path), partial(function, inner._conn)))  # type: ignore[arg-type]  # noqa: SLF001  # see the file's docstring


class Handed:
    """As much of a future as aiosqlite needs: what came of a function goes to *settle* at once."""

    def __init__(self, settle: Callable[[Any], None], path: Path) -> None:
        self._settle = settle
        self._path = path
        self._loop = asyncio.get_running_loop()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of whoever handed it in."""
        return self._loop

    def done(self) -> bool:
        """Tell that nobody has taken it back: nobody can."""
        return False

    def set_result(self, result: object) -> None:
        """Pass on what the function returned."""
        self._settle(result)

    def set_exception(self, error: BaseException) -> None:
        """Pass on what it raised, as ours."""
        self._settle(translate(error, self._path) if isinstance(error, sqlite3.Error) else error)


class translated:  # noqa: N801  # reads as a verb: `with translated(path):`
    """Turn sqlite3's errors into ours at the border; names what to do by the class."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, sqlite3.Error):
            raise translate(error, self._path) from error


def translate(error: sqlite3.Error, path: Path) -> StoreError:
    """Return our error for one of sqlite3's."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    text = str(error)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and disk_is_full(path)):
        return StoreFull(f"there is no space left for {path.name}; nothing was written", retry_after=1.0)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreReadOnly(f"{path.name} cannot be written: {text}", retry_after=1.0)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"{path.name} is locked by another program", retry_after=1.0)
    if code in NOT_A_DATABASE:
        return StoreCorrupt(f"{path.name} is damaged: {text}")
    if isinstance(error, REFUSALS):
        return StoreRejected(f"{path.name} refuses what was to be written: {text}")
    return StoreError(f"{path.name}: {text}")


def disk_is_full(path: Path) -> bool:
    """Tell whether the disk of *path* has less than a megabyte for us: SQLite reports some full disks as I/O errors."""
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < 1_000_000
