"""What is read of everything but jobs: workers, queues, schedules, agents, conversations, events, settings."""

import json
import sqlite3
from typing import Any, Final

from runtime.store.port import AgentRow, FireRow, ProcessRow, QueueRow, ScheduleRow, StateRow, WorkerRow
from runtime.store.sqlite.records import QUEUE_COLUMNS, WORKER_COLUMNS
from runtime.store.sqlite.schedules import SCHEDULE_COLUMNS
from runtime.store.sqlite.transaction import compact, last_offset
from schemas.events import Event


def processes(sql: sqlite3.Connection, boot: str) -> tuple[ProcessRow, ...]:
    rows = sql.execute(
        """SELECT id, pgid, started FROM jobs JOIN job_attempts USING (seq, epoch)
           WHERE status = 'active' AND jobs.boot <> ? AND pgid IS NOT NULL""",
        (boot,),
    ).fetchall()
    return tuple(ProcessRow(*row) for row in rows)


def workers(sql: sqlite3.Connection) -> tuple[WorkerRow, ...]:
    rows = sql.execute(f"SELECT {WORKER_COLUMNS} FROM workers ORDER BY id").fetchall()
    return tuple(WorkerRow(*row) for row in rows)


def queues(sql: sqlite3.Connection) -> tuple[QueueRow, ...]:
    rows = sql.execute(f"SELECT {QUEUE_COLUMNS} FROM queues ORDER BY name").fetchall()
    return tuple(QueueRow(*(*row, tuple(json.loads(by_hand)))) for *row, by_hand in rows)


def schedules(sql: sqlite3.Connection) -> tuple[ScheduleRow, ...]:
    rows = sql.execute(f"SELECT {SCHEDULE_COLUMNS}, paused, paused_by_hand FROM schedules ORDER BY name").fetchall()
    return tuple(
        ScheduleRow(
            **dict(zip(SCHEDULE_COLUMNS.split(", "), row, strict=True)),
            paused=bool(paused),
            paused_by_hand=bool(by_hand),
        )
        for *row, paused, by_hand in rows
    )


def still_runs(sql: sqlite3.Connection, name: str) -> bool:
    return bool(
        sql.execute(
            "SELECT 1 FROM schedule_fires AS fire CROSS JOIN jobs ON jobs.id = fire.job"
            " WHERE fire.name = ? AND jobs.finished_at IS NULL LIMIT 1",
            (name,),
        ).fetchall()
    )


def fires(sql: sqlite3.Connection, name: str, limit: int) -> tuple[FireRow, ...]:
    rows = sql.execute(
        "SELECT name, fire_at, job, outcome, at FROM schedule_fires WHERE name = ? ORDER BY fire_at DESC LIMIT ?",
        (name, limit),
    ).fetchall()
    return tuple(FireRow(*row) for row in rows)


def agents(sql: sqlite3.Connection) -> tuple[AgentRow, ...]:
    rows = sql.execute("SELECT name, desired, observed, reason, updated_at FROM agents ORDER BY name").fetchall()
    return tuple(AgentRow(*row) for row in rows)


def state(sql: sqlite3.Connection, agent: str) -> StateRow | None:
    row = sql.execute(
        """SELECT agent, state, schema_version, version, boot, incarnation, updated_at
           FROM agent_states WHERE agent = ?""",
        (agent,),
    ).fetchone()
    return StateRow(*row) if row else None


def conversations(sql: sqlite3.Connection, agent: str) -> tuple[str, ...]:
    rows = sql.execute(
        "SELECT name FROM conversations WHERE agent = ? ORDER BY updated_at DESC, id DESC", (agent,)
    ).fetchall()
    return tuple(row[0] for row in rows)


def messages(sql: sqlite3.Connection, agent: str, conversation: str, limit: int) -> tuple[str, ...]:
    """Walk from the head of the conversation back to its first message, at most *limit* steps."""
    rows = sql.execute(
        """WITH RECURSIVE line (id, parent, body, depth) AS (
             SELECT messages.id, messages.parent, body, 1 FROM messages
             JOIN conversations ON conversations.head = messages.id WHERE agent = ? AND name = ?
             UNION ALL
             SELECT messages.id, messages.parent, messages.body, depth + 1 FROM messages
             JOIN line ON messages.id = line.parent WHERE depth < ?)
           SELECT body FROM line ORDER BY depth DESC""",
        (agent, conversation, limit),
    ).fetchall()
    return tuple(row[0] for row in rows)


# A row holds the events of one transaction, so the cursor may point into the middle of one. Within a row they come in
# their order anyway; asking for it would sort everything before the first is seen. A word that is nowhere in a row's
# text is in none of its events, which spares taking most rows apart.
EVENTS: Final = """
  SELECT first + event.key, event.value FROM events CROSS JOIN json_each(body) AS event
  WHERE first >= coalesce((SELECT max(first) FROM events WHERE first <= :after + 1), 0) AND first + event.key > :after
    {filters} ORDER BY first LIMIT :limit"""


def events(
    sql: sqlite3.Connection, after: int, types: tuple[str, ...], subject: str | None, limit: int
) -> tuple[Event, ...]:
    values: dict[str, Any] = {"after": after, "limit": limit}
    filters = ""
    if subject is not None:
        values |= {"subject": subject, "subject_text": compact(subject)}
        filters += " AND instr(body, :subject_text) AND event.value ->> 2 = :subject"
    if types:
        words, texts = [], []
        for n, wanted in enumerate(types):
            family = wanted.endswith("*")
            word = wanted[:-1] if family else wanted
            values |= {f"type{n}": word, f"text{n}": compact(word)[: -1 if family else None]}
            texts.append(f"instr(body, :text{n})")
            found = f"substr(event.value ->> 1, 1, {len(word)})" if family else "event.value ->> 1"
            words.append(f"{found} = :type{n}")
        filters += f" AND ({' OR '.join(texts)}) AND ({' OR '.join(words)})"
    rows = sql.execute(EVENTS.format(filters=filters), values).fetchall()
    return tuple(event_of(offset, *json.loads(text)) for offset, text in rows)


def event_of(offset: int, at: int, kind: str, subject: str, data: dict[str, Any]) -> Event:
    return Event(offset=offset, at=at, type=kind, subject=subject, data=data)


def event_bounds(sql: sqlite3.Connection) -> tuple[int, int]:
    oldest = sql.execute(
        "SELECT CASE body WHEN '[]' THEN first + count ELSE first END FROM events ORDER BY first LIMIT 1"
    ).fetchone()
    return (oldest[0] if oldest else 1), last_offset(sql)


def setting(sql: sqlite3.Connection, name: str) -> str | None:
    row = sql.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None
