"""What is read of jobs: one whole, many in brief, their lines, and how many stand where."""

import json
import sqlite3
from typing import Any, Final

from schemas.errors import Problem
from schemas.jobs import AttemptView, EdgeView, JobFilter, JobView, Lane, LogLine, Status, StepView

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
    "unique": "unique_key",
    "parent": "(SELECT whole.id FROM jobs AS whole WHERE whole.seq = jobs.parent)",
    "limit_key": "limit_key",
    "limit_max": "limit_max",
    "tokens": "tokens",
    "worker": "worker",
    "conversation": "conversation",
    "timeout_ms": "timeout_ms",
    "heartbeat_ms": "heartbeat_ms",
    "snoozes": "snoozes",
    "waits_for": "waits",
    "wait_until": "wait_until",
    "deadline_at": "deadline_at",
    "cancel_requested": "cancel_at IS NOT NULL",
    "pause_requested": "pause_at IS NOT NULL",
    "created_at": "created_at",
    "updated_at": "updated_at",
    "execute_after": "execute_after",
    "started_at": "started_at",
    "finished_at": "finished_at",
    "tags": "(SELECT json_group_array(tag) FROM job_tags WHERE job_tags.seq = jobs.seq)",
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
    named = dict(zip(BRIEF, row, strict=True))
    named["tags"] = tuple(sorted(json.loads(named["tags"])))
    named["cancel_requested"] = bool(named["cancel_requested"])
    named["pause_requested"] = bool(named["pause_requested"])
    return JobView(**named, **more)


def parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def problem_of(text: str | None) -> Problem | None:
    return None if text is None else Problem.model_validate_json(text)


def seq_of(sql: sqlite3.Connection, job_id: str) -> int | None:
    """Return the number of a job; None where there is none of this id."""
    row = sql.execute("SELECT seq FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return row[0] if row else None


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
        depends_on=edges(sql, seq),
        steps=steps(sql, seq),
    )


# An attempt that runs, or that simply completed, is told by the row of its job; the others have rows of their own.
ATTEMPTS: Final = """
  SELECT epoch, attempts, worker, claimed_at, finished_at, CASE status WHEN 'completed' THEN status END, NULL
  FROM jobs WHERE seq = ?1 AND status IN ('active', 'completed') AND epoch > 0
  UNION ALL
  SELECT a.epoch, a.attempt, a.worker, a.started_at, a.ended_at, a.outcome, a.error
  FROM job_attempts AS a JOIN jobs USING (seq)
  WHERE seq = ?1 AND NOT (a.epoch = jobs.epoch AND jobs.status IN ('active', 'completed'))
  ORDER BY 1"""


def attempts(sql: sqlite3.Connection, seq: int) -> tuple[AttemptView, ...]:
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
        for epoch, attempt, worker, started, ended, outcome, error in sql.execute(ATTEMPTS, (seq,)).fetchall()
    )


def edges(sql: sqlite3.Connection, seq: int) -> tuple[EdgeView, ...]:
    rows = sql.execute(
        """SELECT id, on_failure, state, status FROM job_deps CROSS JOIN jobs ON jobs.seq = job_deps.parent
           WHERE child = ? ORDER BY id""",
        (seq,),
    ).fetchall()
    return tuple(
        EdgeView(job=parent, on_failure=on_failure, state=state, status=status)
        for parent, on_failure, state, status in rows
    )


def steps(sql: sqlite3.Connection, seq: int) -> tuple[StepView, ...]:
    rows = sql.execute(
        """SELECT name, state, epoch, started_at, ended_at, output, error, cost FROM job_steps WHERE seq = ?
           ORDER BY started_at, name""",
        (seq,),
    ).fetchall()
    return tuple(
        StepView(
            name=name,
            state=state,
            epoch=epoch,
            started_at=started,
            ended_at=ended,
            output=parsed(output),
            error=error,
            cost=cost,
        )
        for name, state, epoch, started, ended, output, error, cost in rows
    )


FEW: Final = 20_000
# The numbers first, so that what is sorted is narrow; then what is shown of them.
LISTED: Final = f"""
  SELECT seq, {COLUMNS} FROM jobs WHERE seq IN (SELECT seq FROM {{source}} ORDER BY id DESC LIMIT ?)
  ORDER BY +id DESC"""


def found_by(sql: sqlite3.Connection, where: JobFilter) -> tuple[str, list[str]]:
    """Return what comes after FROM to find the jobs of *where*, and its values.

    Where few stand at its status they are found by the index that is kept for it, and sorted; among many the walk from
    the newest to the oldest soon finds enough.
    """
    wanted = {
        "reason = ?": where.reason,
        "queue = ?": where.queue,
        "kind = ?": where.kind,
        "seq IN (SELECT seq FROM job_tags WHERE tag = ?)": where.tag,
        "parent = (SELECT whole.seq FROM jobs AS whole WHERE whole.id = ?)": where.parent,
        "limit_key = ?": where.limit_key,
    }
    given = {clause: value for clause, value in wanted.items() if value is not None}
    clauses, source = list(given), "jobs"
    if where.status is not None:
        index = COUNTED_ON.get(where.status, "jobs_ended")
        ended = " AND finished_at IS NOT NULL" if index == "jobs_ended" else ""
        standing = f"FROM jobs INDEXED BY {index} WHERE status = '{where.status}'{ended}"
        (count,) = sql.execute(f"SELECT count(*) FROM (SELECT 1 {standing} LIMIT {FEW})").fetchone()
        if count < FEW:
            source = f"jobs INDEXED BY {index}"
            clauses.append(f"status = '{where.status}'{ended}")
        else:
            clauses.append(f"+status = '{where.status}'")
    return f"{source} WHERE {' AND '.join(clauses) or '1'}", list(given.values())


def jobs(
    sql: sqlite3.Connection, where: JobFilter | None, before: str | None, limit: int, errors: bool
) -> tuple[JobView, ...]:
    source, values = found_by(sql, where or JobFilter())
    if before is not None:
        source, values = f"{source} AND id < ?", [*values, before]
    rows = sql.execute(LISTED.format(source=source), (*values, limit)).fetchall()
    if not errors:
        return tuple(view(tuple(brief)) for _, *brief in rows)
    return tuple(
        view(tuple(brief), error=problem_of(error_of(sql, seq)), history=attempts(sql, seq)) for seq, *brief in rows
    )


def error_of(sql: sqlite3.Connection, seq: int) -> str | None:
    row = sql.execute("SELECT error FROM job_data WHERE seq = ?", (seq,)).fetchone()
    return row[0] if row else None


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


LANES: Final[tuple[Lane, ...]] = ("loop", "child", "agent")
# The lanes side by side: to group by them as well would sort what the index has in another order.
ENDED_COUNTS: Final = f"""
  SELECT status, queue, {", ".join(f"count(*) FILTER (WHERE lane = '{lane}')" for lane in LANES)}
  FROM jobs INDEXED BY jobs_ended WHERE finished_at IS NOT NULL GROUP BY status, queue"""


def counts(sql: sqlite3.Connection, ended: bool) -> dict[tuple[str, Lane, Status], int]:
    found: dict[tuple[str, Lane, Status], int] = {}
    if ended:
        for status, queue, *numbers in sql.execute(ENDED_COUNTS).fetchall():
            found |= {(queue, lane, status): count for lane, count in zip(LANES, numbers, strict=True) if count}
        return found
    for status, index in COUNTED_ON.items():
        for queue, lane, count in sql.execute(
            f"SELECT queue, lane, count(*) FROM jobs INDEXED BY {index} WHERE status = '{status}' GROUP BY queue, lane"
        ).fetchall():
            found[queue, lane, status] = count
    return found


# The deadline of what runs is its worker's business; what a person holds is not ended by its deadline.
NEXT_DUE: Final = """
  SELECT min(at) FROM (
    SELECT * FROM (SELECT execute_after AS at FROM jobs WHERE status = 'delayed' ORDER BY execute_after LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT wait_until FROM jobs WHERE wait_until IS NOT NULL AND status = 'waiting'
                   ORDER BY wait_until LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT deadline_at FROM jobs WHERE deadline_at IS NOT NULL AND finished_at IS NULL
                   AND status NOT IN ('active', 'paused') ORDER BY deadline_at LIMIT 1))"""


def next_due(sql: sqlite3.Connection) -> int | None:
    at: int | None = sql.execute(NEXT_DUE).fetchone()[0]
    return at


def suspects(sql: sqlite3.Connection) -> tuple[tuple[str, str], ...]:
    return tuple(
        sql.execute(
            "SELECT id, queue FROM jobs WHERE suspect = 1 AND finished_at IS NULL AND lane = 'agent' ORDER BY seq"
        ).fetchall()
    )
