"""Numbered migrations, applied at start: each in one transaction, never twice, never on a newer database."""

import hashlib
import re
import sqlite3
from importlib.resources import files
from typing import Final, NamedTuple

from runtime.errors import StoreError, StoreMismatch, StoreNewer

APPLICATION_ID: Final = 0x55535459  # "USTY": tells our file from any other SQLite database


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """The step's fingerprint: one that was changed after it was applied is found out."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def known_migrations() -> tuple[Migration, ...]:
    """Return the steps that come with this version, in order."""
    found = []
    for entry in files("runtime.store.sqlite").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name)
        if match:
            found.append(Migration(int(match[1]), match[2], entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def migrate(connection: sqlite3.Connection, now: int, steps: tuple[Migration, ...] | None = None) -> int:
    """Bring the database to the newest schema; return its version.

    Raises StoreNewer where a newer program wrote it, StoreMismatch where it is somebody else's or an applied step was
    changed.
    """
    steps = known_migrations() if steps is None else steps
    version = check_ours(connection, steps)
    for step in steps:
        if step.number > version:
            apply(connection, step, now)
    return steps[-1].number


def check_ours(connection: sqlite3.Connection, steps: tuple[Migration, ...] | None = None) -> int:
    """Return the schema's version, 0 for an empty file. Reads only."""
    steps = known_migrations() if steps is None else steps
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise StoreMismatch("the file is a SQLite database of another program; it was not touched")
    if version > steps[-1].number:
        raise StoreNewer(
            f"the database has schema {version}, this program knows {steps[-1].number}; it was not touched",
            found=version,
        )
    if version:
        check_history(connection, steps, version)
    return version


def check_history(connection: sqlite3.Connection, steps: tuple[Migration, ...], version: int) -> None:
    applied = dict(connection.execute("SELECT number, digest FROM migrations").fetchall())
    for step in steps:
        if step.number <= version and applied.get(step.number) != step.digest:
            raise StoreMismatch(
                f"schema step {step.number} ({step.name}) of the database is not the one this program has"
            )


def apply(connection: sqlite3.Connection, step: Migration, now: int) -> None:
    """Apply one step in one transaction."""
    history = """CREATE TABLE IF NOT EXISTS migrations (
      number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT;"""
    record = (
        f"INSERT INTO migrations VALUES ({step.number:d}, '{step.name}', '{step.digest}', {now:d});"  # all ours
        f"PRAGMA user_version = {step.number:d}; PRAGMA application_id = {APPLICATION_ID:d};"
    )
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {history} {step.sql}; {record} COMMIT;")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and (error.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_ERROR:
            raise StoreError(f"schema step {step.number} ({step.name}) failed: {error}") from error
        raise
