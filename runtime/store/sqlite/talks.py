"""Conversations beyond their end: forks, which share what came before them, and all that was ever said in one."""

import sqlite3
from typing import Final, NamedTuple

from runtime.errors import ConversationExists
from runtime.store.port import ForkConversation, MessageRow
from runtime.store.sqlite.transaction import Transaction


class Stretch(NamedTuple):
    """Messages of a conversation that stand with one row of the table, by their places."""

    row: int
    first: int
    last: int


# From the head to where its row begins, from there to what that row was forked from, and so on.
STRETCHES: Final = """
  WITH RECURSIVE line (row, first, last) AS (
    SELECT message.conversation, (SELECT min(n) FROM messages WHERE conversation = message.conversation), message.n
    FROM conversations JOIN messages AS message ON message.id = head WHERE agent = ? AND name = ?
    UNION ALL
    SELECT older.conversation, (SELECT min(n) FROM messages WHERE conversation = older.conversation), older.n
    FROM line CROSS JOIN messages AS opening ON opening.conversation = line.row AND opening.n = line.first
      CROSS JOIN messages AS older ON older.id = opening.parent)
  SELECT row, first, last FROM line ORDER BY last"""


def stretches(sql: sqlite3.Connection, agent: str, name: str) -> list[Stretch]:
    """Return what a conversation is made of, oldest first."""
    return [Stretch(*row) for row in sql.execute(STRETCHES, (agent, name)).fetchall()]


def fork_conversation(tx: Transaction, change: ForkConversation) -> int | None:
    find = "SELECT head FROM conversations WHERE agent = ? AND name = ?"
    if tx.sql.execute(find, (change.agent, change.source)).fetchone() is None:
        return None
    there = tx.sql.execute(find, (change.agent, change.target)).fetchone()
    if there is not None and there[0] is not None:
        raise ConversationExists(f"{change.agent} has a conversation {change.target!r} already")
    parts = stretches(tx.sql, change.agent, change.source)
    count = parts[-1].last if parts else 0
    if change.keep is not None:
        count = min(count, max(change.keep, 0))
    tx.sql.execute(
        """INSERT INTO conversations (agent, name, head, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)
           ON CONFLICT (agent, name) DO UPDATE SET head = excluded.head, updated_at = excluded.updated_at""",
        (change.agent, change.target, message_at(tx.sql, parts, count), change.now),
    )
    return count


def message_at(sql: sqlite3.Connection, parts: list[Stretch], place: int) -> int | None:
    """Return the number of the message at a place; None for a place before the first."""
    for part in parts:
        if part.first <= place <= part.last:
            found: tuple[int] = sql.execute(
                "SELECT id FROM messages WHERE conversation = ? AND n = ?", (part.row, place)
            ).fetchone()
            return found[0]
    return None


def journal(sql: sqlite3.Connection, agent: str, name: str, after: int, limit: int) -> tuple[MessageRow, ...]:
    found: list[MessageRow] = []
    for part in stretches(sql, agent, name):
        if part.last > after and len(found) < limit:
            rows = sql.execute(
                """SELECT n, created_at, job, body FROM messages WHERE conversation = ? AND n > ? AND n <= ?
                   ORDER BY n LIMIT ?""",
                (part.row, after, part.last, limit - len(found)),
            ).fetchall()
            found += [MessageRow(*row) for row in rows]
    return tuple(found)
