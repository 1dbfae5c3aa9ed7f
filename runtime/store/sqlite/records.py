"""How each change to anything but jobs is applied: workers, queues, agents, conversations, events, settings."""

import json
from typing import Final

from runtime.errors import StoreError, VersionConflict
from runtime.store.port import (
    AppendEvents,
    AppendMessages,
    Heartbeat,
    PruneEvents,
    PutAgent,
    PutQueue,
    PutSetting,
    PutWorkers,
    RemoveWorkers,
    SaveState,
)
from runtime.store.sqlite.transaction import Transaction, compact, last_offset

DAY_MS: Final = 86_400_000
WORKER_COLUMNS: Final = "id, agent, lane, status, boot, pid, created_at, last_heartbeat_at, host, capabilities"


def put_workers(tx: Transaction, change: PutWorkers) -> None:
    tx.sql.execute("UPDATE workers SET status = 'offline' WHERE boot <> ? AND status <> 'offline'", (change.boot,))
    tx.sql.execute("DELETE FROM workers WHERE status = 'offline' AND last_heartbeat_at < ?", (change.now - DAY_MS,))
    tx.sql.executemany(
        f"INSERT OR REPLACE INTO workers ({WORKER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (w.id, w.agent, w.lane, w.status, w.boot, w.pid, w.created_at, w.last_heartbeat_at, w.host, w.capabilities)
            for w in change.workers
        ],
    )


def heartbeat(tx: Transaction, change: Heartbeat) -> None:
    tx.sql.executemany(
        "UPDATE workers SET status = ?, last_heartbeat_at = ? WHERE id = ? AND boot = ?",
        [(status, change.now, worker, change.boot) for worker, status in change.beats],
    )
    tx.sql.execute(
        "UPDATE jobs SET lease_until = ? WHERE status = 'active' AND boot = ?"
        " AND seq NOT IN (SELECT value FROM json_each(?))",
        (change.lease_until, change.boot, compact(change.silent)),
    )


def remove_workers(tx: Transaction, change: RemoveWorkers) -> None:
    tx.sql.executemany("DELETE FROM workers WHERE id = ?", [(worker,) for worker in change.ids])


QUEUE_COLUMNS: Final = (
    "name, state, by, since, max_active, rate, blocked_until, requests_left, tokens_left, filled_at, set_by_hand"
)


def put_queue(tx: Transaction, change: PutQueue) -> None:
    row = change.row
    place = (row.name, row.state, row.by, row.since, row.max_active, row.rate, row.blocked_until)
    bucket = (row.requests_left, row.tokens_left, row.filled_at)
    tx.sql.execute(
        f"INSERT OR REPLACE INTO queues ({QUEUE_COLUMNS}, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*place, *bucket, compact(row.set_by_hand), change.now),
    )


def put_agent(tx: Transaction, change: PutAgent) -> None:
    tx.sql.execute(
        "INSERT OR REPLACE INTO agents (name, desired, observed, reason, updated_at) VALUES (?, ?, ?, ?, ?)",
        (change.name, change.desired, change.observed, change.reason, change.now),
    )


def save_state(tx: Transaction, change: SaveState) -> int:
    row = tx.sql.execute(
        "SELECT version, boot, incarnation FROM agent_states WHERE agent = ?", (change.agent,)
    ).fetchone()
    version = row[0] if row else 0
    if version != change.expected:
        raise VersionConflict(f"the state of {change.agent} is at version {version}, not {change.expected}")
    if row and row[1] == change.boot and row[2] > change.incarnation:
        raise VersionConflict(f"incarnation {change.incarnation} of {change.agent} was replaced by {row[2]}")
    tx.sql.execute(
        "INSERT OR REPLACE INTO agent_states (agent, state, schema_version, version, boot, incarnation, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            change.agent,
            change.state,
            change.schema_version,
            version + 1,
            change.boot,
            change.incarnation,
            change.now,
        ),
    )
    return version + 1


def append_messages(tx: Transaction, change: AppendMessages) -> None:
    tx.sql.execute(
        "INSERT OR IGNORE INTO conversations (agent, name, created_at, updated_at) VALUES (?, ?, ?, ?)",
        (change.agent, change.conversation, change.now, change.now),
    )
    conversation, head, count = tx.sql.execute(
        """SELECT conversations.id, head, coalesce(n, 0) FROM conversations LEFT JOIN messages ON messages.id = head
           WHERE agent = ? AND name = ?""",
        (change.agent, change.conversation),
    ).fetchone()
    for n, body in enumerate(change.messages, count + 1):
        head = tx.sql.execute(
            "INSERT INTO messages (conversation, parent, job, body, created_at, n) VALUES (?, ?, ?, ?, ?, ?)",
            (conversation, head, change.job, body, change.now, n),
        ).lastrowid
    tx.sql.execute("UPDATE conversations SET head = ?, updated_at = ? WHERE id = ?", (head, change.now, conversation))


def append_events(tx: Transaction, change: AppendEvents) -> None:
    try:
        events = [(kind, subject, json.loads(data)) for kind, subject, data in change.events]
    except ValueError as error:
        raise StoreError(f"the data of an event is no JSON: {error}") from error
    tx.tell(events, change.now)


def prune_events(tx: Transaction, change: PruneEvents) -> int:
    """Forget whole rows, and the beginning of the row that the line goes through.

    The newest row stays, empty if need be, for it tells the next offset. Events of this very transaction stay too.
    """
    last = last_offset(tx.sql) - change.keep
    rows: list[tuple[int, int, int]] = tx.sql.execute(
        "SELECT first, count, CASE body WHEN '[]' THEN 0 ELSE count END FROM events WHERE first <= ? ORDER BY first",
        (last,),
    ).fetchall()
    if not rows:
        return 0
    first, count, left = rows[-1]
    went = sum(row[2] for row in rows[:-1])
    tx.sql.execute("DELETE FROM events WHERE first < ?", (first,))
    if last < first + count - 1 or change.keep <= 0:
        return went + shorten(tx, first, count, left, last)
    tx.sql.execute("DELETE FROM events WHERE first = ?", (first,))
    return went + left


def shorten(tx: Transaction, first: int, count: int, left: int, last: int) -> int:
    """Forget the events of one row up to the offset *last*; return how many went."""
    keep = min(left, max(0, first + count - 1 - last))
    body = json.loads(tx.sql.execute("SELECT body FROM events WHERE first = ?", (first,)).fetchone()[0])
    kept = body[len(body) - keep :]
    start, number = (first + count - keep, keep) if keep else (first, count)
    tx.sql.execute(
        "UPDATE events SET first = ?, count = ?, body = ? WHERE first = ?", (start, number, compact(kept), first)
    )
    return left - keep


def put_setting(tx: Transaction, change: PutSetting) -> None:
    tx.sql.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (change.name, change.value))
