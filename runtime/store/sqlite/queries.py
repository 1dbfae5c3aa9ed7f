"""What is read: each function runs whole on a reader's thread and returns finished values."""

import json
import sqlite3
from typing import Any, Final

from runtime.store.port import AgentRow, ProcessRow, QueueRow, StateRow, WorkerRow
from schemas.errors import Problem
from schemas.events import Event
from schemas.jobs import AttemptView, JobView, Lane, LogLine, Status

# The columns of a job as it is listed, by the names that people see.
BRIEF: Final = {
    "id": "id",
    "name": "kind",
    "queue": "queue",
    "status": "status",
    "reason": "reason",
    "priority": "priority",
    "attempts": "attempts",
    "max_attempts": "max_attempts",
    "crashes": "crashes",
    "key": "key",
    "worker": "worker",
    "conversation": "conversation",
    "timeout_ms": "timeout_ms",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "execute_after": "execute_after",
    "started_at": "started_at",
    "finished_at": "finished_at",
}
COLUMNS: Final = ", ".join(BRIEF.values())

# Each living status is counted on its own partial index; a plain GROUP BY would walk the whole table.
COUNTED_ON: Final[dict[Status, str]] = {
    "pending": "jobs_claim",
    "delayed": "jobs_due",
    "active": "jobs_active",
    "waiting": "jobs_waiting",
    "paused": "jobs_paused",
}


def view(row: tuple[Any, ...], **more: Any) -> JobView:
    """Build a view from a row of `COLUMNS`."""
    return JobView(**dict(zip(BRIEF, row, strict=True)), **more)


def parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def problem_of(text: str | None) -> Problem | None:
    return None if text is None else Problem.model_validate_json(text)


def job(sql: sqlite3.Connection, job_id: str) -> JobView | None:
    row = sql.execute(f"SELECT seq, {COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return None
    seq, *brief = row
    args, data, result, error, progress = sql.execute(
        "SELECT args, data, result, error, progress FROM job_data WHERE seq = ?", (seq,)
    ).fetchone()
    return view(
        tuple(brief),
        payload=parsed(args),
        data=parsed(data),
        result=parsed(result),
        error=problem_of(error),
        progress=parsed(progress),
        history=attempts(sql, seq),
    )


def attempts(sql: sqlite3.Connection, seq: int) -> tuple[AttemptView, ...]:
    rows = sql.execute(
        """SELECT epoch, attempt, worker, started_at, ended_at, outcome, error
           FROM job_attempts WHERE seq = ? ORDER BY epoch""",
        (seq,),
    ).fetchall()
    return tuple(
        AttemptView(
            epoch=epoch,
            attempt=attempt,
            worker=worker,
            started_at=started,
            ended_at=ended,
            outcome=outcome,
            error=problem_of(error),
        )
        for epoch, attempt, worker, started, ended, outcome, error in rows
    )


def jobs(
    sql: sqlite3.Connection, status: Status | None, queue: str | None, kind: str | None, before: str | None, limit: int
) -> tuple[JobView, ...]:
    wanted = {"status = ?": status, "queue = ?": queue, "kind = ?": kind, "id < ?": before}
    given = {clause: value for clause, value in wanted.items() if value is not None}
    where = " AND ".join(given) or "1"
    rows = sql.execute(
        f"SELECT {COLUMNS} FROM jobs WHERE {where} ORDER BY id DESC LIMIT ?", (*given.values(), limit)
    ).fetchall()
    return tuple(view(row) for row in rows)


def job_logs(
    sql: sqlite3.Connection, job_id: str, after: int, tail: int | None, limit: int
) -> tuple[LogLine, ...] | None:
    found = sql.execute("SELECT seq FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if found is None:
        return None
    order, count = ("DESC", tail) if tail is not None else ("ASC", limit)
    rows = sql.execute(
        f"SELECT n, at, level, text FROM job_logs WHERE seq = ? AND n > ? ORDER BY n {order} LIMIT ?",
        (found[0], after, count),
    ).fetchall()
    return tuple(LogLine(n=n, at=at, level=level, text=text) for n, at, level, text in sorted(rows))


def counts(sql: sqlite3.Connection, ended: bool) -> dict[tuple[str, Lane, Status], int]:
    if ended:
        rows = sql.execute(
            """SELECT queue, lane, status, count(*) FROM jobs INDEXED BY jobs_ended
               WHERE finished_at IS NOT NULL GROUP BY status, queue, lane"""
        ).fetchall()
        return {(queue, lane, status): count for queue, lane, status, count in rows}
    found: dict[tuple[str, Lane, Status], int] = {}
    for status, index in COUNTED_ON.items():
        for queue, lane, count in sql.execute(
            f"SELECT queue, lane, count(*) FROM jobs INDEXED BY {index} WHERE status = '{status}' GROUP BY queue, lane"
        ).fetchall():
            found[queue, lane, status] = count
    return found


def next_due(sql: sqlite3.Connection) -> int | None:
    row = sql.execute(
        "SELECT execute_after FROM jobs WHERE status = 'delayed' ORDER BY execute_after LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def suspects(sql: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    return tuple(
        sql.execute(
            "SELECT id, queue FROM jobs WHERE suspect = 1 AND finished_at IS NULL AND lane = 'agent' ORDER BY seq"
        ).fetchall()
    )


def processes(sql: sqlite3.Connection, boot: str) -> tuple[ProcessRow, ...]:
    rows = sql.execute(
        """SELECT id, pgid, started FROM jobs JOIN job_attempts USING (seq, epoch)
           WHERE status = 'active' AND jobs.boot <> ? AND pgid IS NOT NULL""",
        (boot,),
    ).fetchall()
    return tuple(ProcessRow(*row) for row in rows)


def workers(sql: sqlite3.Connection) -> tuple[WorkerRow, ...]:
    rows = sql.execute(
        "SELECT id, agent, lane, status, boot, pid, created_at, last_heartbeat_at FROM workers ORDER BY id"
    ).fetchall()
    return tuple(WorkerRow(*row) for row in rows)


def queues(sql: sqlite3.Connection) -> tuple[QueueRow, ...]:
    rows = sql.execute("SELECT name, paused FROM queues ORDER BY name").fetchall()
    return tuple(QueueRow(name, bool(paused)) for name, paused in rows)


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


def events(
    sql: sqlite3.Connection, after: int, types: tuple[str, ...], subject: str | None, limit: int
) -> tuple[Event, ...]:
    clauses, values = ['"offset" > ?'], [after]
    if types:
        clauses.append("(" + " OR ".join("type GLOB ?" if t.endswith("*") else "type = ?" for t in types) + ")")
        values += types  # type: ignore[arg-type]  # parameters of one statement, of whatever type
    if subject is not None:
        clauses.append("subject = ?")
        values.append(subject)  # type: ignore[arg-type]
    rows = sql.execute(
        f'SELECT "offset", at, type, subject, data FROM events WHERE {" AND ".join(clauses)} ORDER BY "offset" LIMIT ?',
        (*values, limit),
    ).fetchall()
    return tuple(
        Event(offset=offset, at=at, type=kind, subject=about, data=json.loads(data))
        for offset, at, kind, about, data in rows
    )


def event_bounds(sql: sqlite3.Connection) -> tuple[int, int]:
    newest = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    oldest = sql.execute('SELECT min("offset") FROM events').fetchone()[0]
    last = newest[0] if newest else 0
    return (oldest if oldest is not None else last + 1), last


def setting(sql: sqlite3.Connection, name: str) -> str | None:
    row = sql.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
    return row[0] if row else None
