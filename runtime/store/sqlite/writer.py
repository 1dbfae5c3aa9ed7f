"""The one writer: commits that wait at the same time are one transaction, so that one sync serves them all."""

import asyncio  # aiosqlite lives on asyncio; a bare future a commit is what group commit costs
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from runtime import log
from runtime.errors import StoreMismatch
from runtime.store import port
from runtime.store.sqlite import inserts
from runtime.store.sqlite.ahead import Ahead
from runtime.store.sqlite.changes import APPLY
from runtime.store.sqlite.connection import Connection, translate
from runtime.store.sqlite.transaction import Told, Transaction

Commit: TypeAlias = Sequence[port.Change]
Outcome: TypeAlias = list[Any] | Exception
Waiting: TypeAlias = tuple[Commit, "asyncio.Future[list[Any]]"]
Applied: TypeAlias = tuple[list[Outcome], Told, list[port.Move]]

T = TypeVar("T")

logger = log.get(__name__)

MAX_GATHERED: Final = 256
CHECK_FILE_EVERY: Final = 1.0


class Writer:
    """Gathers commits and hands them to the connection's thread, one transaction at a time."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._waiting: list[Waiting] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._transaction: Transaction | None = None
        self._identity: tuple[int, int] | None = None
        self._ahead = Ahead(path)
        self._checked = 0.0
        self.listeners: list[port.EventListener] = []
        self.watchers: list[port.MoveListener] = []

    def start(self, transaction: Transaction) -> None:
        """Begin to take commits."""
        found = self._path.stat()
        self._transaction, self._identity = transaction, (found.st_dev, found.st_ino)

    async def drain(self) -> None:
        """Wait until everything handed in is written, and let go of the file; nothing may be handed in after this."""
        await self._idle.wait()
        self._ahead.close()

    async def commit(self, changes: Commit) -> list[Any]:
        """Return the results of *changes* when they are on the disk; see the port for cancellation."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((changes, done))
        if self._idle.is_set():
            self._idle.clear()
            loop.call_soon(self._begin)  # and not at once: who else commits in this round of the loop comes with it
        return await done

    def _begin(self) -> None:
        """Hand what waits to the connection's thread, as one transaction."""
        batch, self._waiting = self._waiting[:MAX_GATHERED], self._waiting[MAX_GATHERED:]
        try:
            self._check_file()
            work = partial(self._apply, commits=[changes for changes, _ in batch])
            self._connection.hand(work, partial(self._settle, batch))
        except Exception as error:  # noqa: BLE001  # whatever it was, those who wait are told, and the next may try
            asyncio.get_running_loop().call_soon(self._settle, batch, error)

    def _settle(self, batch: list[Waiting], found: Applied | BaseException) -> None:
        """Tell those who wait what came of the transaction, and begin the next one."""
        events: Told | None = None
        if isinstance(found, BaseException):
            outcomes: list[Any] = [found] * len(batch)
        else:
            outcomes, events, moves = found
            if moves:
                self._tell(self.watchers, moves)  # before anybody goes on: who asks for counts then finds them right
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if done.done():
                continue
            if isinstance(outcome, BaseException):
                done.set_exception(outcome)
            else:
                done.set_result(outcome)
        if self._waiting:
            self._begin()
        else:
            self._idle.set()
        if events:
            self._tell(self.listeners, events)

    def _tell(self, listeners: Iterable[Callable[[T], None]], news: T) -> None:
        """Tell what is on the disk now; a listener that fails harms neither the others nor the next commit."""
        for listener in listeners:
            try:
                listener(news)
            except Exception:
                logger.exception("store_listener_failed")

    def _apply(self, sql: sqlite3.Connection, commits: list[Commit]) -> Applied:
        """Apply *commits* as one transaction, on the connection's thread."""
        tx = self._transaction
        assert tx is not None
        tx.begin()
        start = tx.mark()
        try:
            sql.execute("BEGIN IMMEDIATE")
            if len(commits) == 1:
                outcomes: list[Outcome] = [[APPLY[type(change)](tx, change) for change in commits[0]]]
            else:
                outcomes = self._apply_each(tx, commits)
            tx.keep_events()
            sql.execute("COMMIT")
            self._ahead.keep()
        except BaseException as error:
            tx.back_to(start)
            if sql.in_transaction:
                sql.execute("ROLLBACK")
            if isinstance(error, Exception) and not isinstance(error, sqlite3.Error):
                return [error] * len(commits), tx.told(), []
            raise
        return outcomes, tx.told(), tx.tally()

    def _apply_each(self, tx: Transaction, commits: list[Commit]) -> list[Outcome]:
        """Apply several commits in their order; those that follow one another and only add plain jobs as one."""
        outcomes: list[Outcome] = []
        for plain, group in groupby(commits, inserts.only_adds):
            some = list(group)
            together = self._add_together(tx, some) if plain and len(some) > 1 else None
            outcomes += together or [self._apply_one(tx, commit) for commit in some]
        return outcomes

    def _add_together(self, tx: Transaction, commits: list[Commit]) -> list[Outcome] | None:
        """Add the jobs of several commits as if they were of one; None where they have to be added one by one."""
        mark = tx.mark()
        tx.sql.execute("SAVEPOINT callers")
        try:
            outcomes = inserts.add_together(tx, commits)
        except Exception:
            if not tx.sql.in_transaction:
                raise  # see _apply_one
            tx.sql.execute("ROLLBACK TO callers")
            tx.sql.execute("RELEASE callers")
            tx.back_to(mark)
            return None  # one of them is at fault (an id that is there already); which one is found out one by one
        tx.sql.execute("RELEASE callers")
        return [*outcomes]

    def _apply_one(self, tx: Transaction, commit: Commit) -> Outcome:
        """Apply one of several commits behind a savepoint, so that its failure is its own."""
        mark = tx.mark()
        tx.sql.execute("SAVEPOINT caller")
        try:
            results = [APPLY[type(change)](tx, change) for change in commit]
        except Exception as error:
            if not tx.sql.in_transaction:
                raise  # SQLite itself has rolled everything back (a full disk): nobody's commit happened
            tx.sql.execute("ROLLBACK TO caller")
            tx.sql.execute("RELEASE caller")
            tx.back_to(mark)
            return translate(error, self._path) if isinstance(error, sqlite3.Error) else error
        tx.sql.execute("RELEASE caller")
        return results

    def _check_file(self) -> None:
        """Refuse to write into a file that is no longer at its path: in WAL mode SQLite would go on without a word."""
        now = asyncio.get_running_loop().time()
        if now - self._checked < CHECK_FILE_EVERY:
            return
        try:
            found = os.stat(self._path)  # noqa: PTH116  # a microsecond, once a second
        except OSError as error:
            raise StoreMismatch(
                f"{self._path.name} is gone from its place; nothing is acknowledged any more"
            ) from error
        if (found.st_dev, found.st_ino) != self._identity:
            raise StoreMismatch(f"{self._path.name} was replaced by another file; nothing is acknowledged any more")
        self._checked = now
