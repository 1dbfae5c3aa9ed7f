"""Agents that were defined at run time, and what agents remember."""

import sqlite3
from typing import Final

from runtime.store.port import NoteRow, PersonaRow, PutNote, PutPersona, RemovePersona
from runtime.store.rules import best
from runtime.store.sqlite.transaction import Transaction

KEEP_PERSONA: Final = """
  INSERT INTO personas (name, settings, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)
  ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, updated_at = excluded.updated_at"""


def put_persona(tx: Transaction, change: PutPersona) -> None:
    tx.sql.execute(KEEP_PERSONA, (change.name, change.settings, change.now))


def remove_persona(tx: Transaction, change: RemovePersona) -> bool:
    return tx.sql.execute("DELETE FROM personas WHERE name = ?", (change.name,)).rowcount > 0


def personas(sql: sqlite3.Connection) -> tuple[PersonaRow, ...]:
    rows = sql.execute("SELECT name, settings, created_at, updated_at FROM personas ORDER BY name").fetchall()
    return tuple(PersonaRow(*row) for row in rows)


# -- notes -------------------------------------------------------------------------------------------------------------

OLDEST: Final = """
  DELETE FROM notes WHERE agent = ?1
    AND id NOT IN (SELECT id FROM notes WHERE agent = ?1 ORDER BY id DESC LIMIT max(?2, 0))"""


def put_note(tx: Transaction, change: PutNote) -> bool:
    if change.text is None:
        forgotten = tx.sql.execute("DELETE FROM notes WHERE agent = ? AND key = ?", (change.agent, change.key))
        return forgotten.rowcount > 0
    tx.sql.execute(
        "INSERT OR REPLACE INTO notes (agent, key, text, at) VALUES (?, ?, ?, ?)",
        (change.agent, change.key, change.text, change.now),
    )
    (count,) = tx.sql.execute("SELECT count(*) FROM notes WHERE agent = ?", (change.agent,)).fetchone()
    if count > change.keep:
        tx.sql.execute(OLDEST, (change.agent, change.keep))
    return True


def notes(sql: sqlite3.Connection, agent: str, words: tuple[str, ...], limit: int) -> tuple[NoteRow, ...]:
    rows = sql.execute("SELECT key, text, at FROM notes WHERE agent = ? ORDER BY id DESC", (agent,)).fetchall()
    return best((NoteRow(*row) for row in rows), words, limit)
