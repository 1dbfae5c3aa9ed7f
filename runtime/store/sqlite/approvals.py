"""Questions to people: asked, answered, used once, expired; and what a person has allowed for good."""

import sqlite3
from typing import Any, Final

from runtime.errors import ApprovalInvalid, LeaseLost
from runtime.store.port import (
    AnswerApproval,
    ApprovalRow,
    AskApproval,
    ExpireApprovals,
    GrantRow,
    RevokeGrant,
    UseApproval,
)
from runtime.store.rules import why_not
from runtime.store.sqlite.moving import facts_of
from runtime.store.sqlite.steps import keep_signal, owned
from runtime.store.sqlite.transaction import Transaction

COLUMNS: Final = """ask.id, ask.agent, jobs.id, ask.conversation, ask.step, ask.tool, ask.arguments, ask.digest,
  ask.why, ask.status, ask.asked_at, ask.expires_at, ask.answered_at, ask.answered_by, ask.reason, ask.edited,
  ask.edited_digest, ask.always"""
FOUND: Final = f"SELECT {COLUMNS} FROM approvals AS ask CROSS JOIN jobs ON jobs.seq = ask.seq WHERE "


def found(sql: sqlite3.Connection, where: str, *values: Any) -> list[ApprovalRow]:
    """Return the approvals that *where* finds."""
    rows = sql.execute(FOUND + where, values).fetchall()
    return [ApprovalRow(*(*row, bool(always))) for *row, always in rows]


def approval(sql: sqlite3.Connection, approval_id: str) -> ApprovalRow | None:
    rows = found(sql, "ask.id = ?", approval_id)
    return rows[0] if rows else None


def tell(tx: Transaction, what: str, row: ApprovalRow, now: int, **facts: Any) -> None:
    about = {"agent": row.agent, "tool": row.tool, "run": row.job}
    tx.tell([(f"approval.{what}", row.id, about | facts)], now)


# -- asked -------------------------------------------------------------------------------------------------------------

ASK: Final = """
  INSERT INTO approvals (id, seq, step, agent, conversation, tool, arguments, digest, why, asked_at, expires_at)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def ask_approval(tx: Transaction, change: AskApproval) -> ApprovalRow | None:
    if owned(tx, change.fence) is None:
        return None
    seq, step = change.fence.seq, change.step
    known = found(tx.sql, "ask.seq = ? AND ask.step = ?", seq, step)
    if known:
        return known[0]
    call = (change.tool, change.arguments, change.digest, change.why)
    place = (change.id, seq, step, change.agent, change.conversation)
    tx.sql.execute(ASK, (*place, *call, change.now, change.expires_at))
    (row,) = found(tx.sql, "ask.id = ?", change.id)
    tell(tx, "asked", row, change.now)
    return row


# -- answered ----------------------------------------------------------------------------------------------------------

ANSWER: Final = """
  UPDATE approvals SET status = ?, answered_at = ?, answered_by = ?, reason = ?, edited = ?, edited_digest = ?,
    always = ? WHERE id = ?"""


def answer_approval(tx: Transaction, change: AnswerApproval) -> tuple[bool, ApprovalRow] | None:
    row = approval(tx.sql, change.id)
    if row is None:
        return None
    if row.status == "pending":
        over(tx, "ask.id = ?", change.now, change.id)
        row = approval(tx.sql, change.id) or row
    if row.status != "pending":
        return False, row
    status = "allowed" if change.allow else "denied"
    edited = (change.arguments, change.digest) if change.allow and change.arguments is not None else (None, None)
    always = change.always and change.allow
    who = (change.now, change.by, change.reason)
    tx.sql.execute(ANSWER, (status, *who, *edited, always, change.id))
    row = approval(tx.sql, change.id) or row
    if always:
        grant(tx, row, change)
    tell(tx, status, row, change.now, by=change.by)
    # However many signals it has: a run must not wait for an answer that was given.
    job = facts_of(tx, [row.job])[row.job]
    keep_signal(tx, job, f"approval/{row.id}", "true" if change.allow else "false", change.now)
    return True, row


def grant(tx: Transaction, row: ApprovalRow, change: AnswerApproval) -> None:
    """Let the agent make this very call from now on: the one that the person saw last."""
    arguments, digest = row.edited or row.arguments, row.edited_digest or row.digest
    tx.sql.execute(
        "INSERT OR REPLACE INTO grants (agent, tool, digest, arguments, by, at) VALUES (?, ?, ?, ?, ?, ?)",
        (row.agent, row.tool, digest, arguments, change.by, change.now),
    )


# -- used --------------------------------------------------------------------------------------------------------------


def use_approval(tx: Transaction, change: UseApproval) -> None:
    if owned(tx, change.fence) is None:
        raise LeaseLost(f"another attempt owns job {change.fence.id} now", job=change.fence.id)
    row = approval(tx.sql, change.id)
    wrong = why_not(row, change)
    if row is None or wrong is not None:
        raise ApprovalInvalid(f"approval {change.id} does not cover this call: {wrong}", id=change.id)
    if row.status == "allowed":
        tx.sql.execute("UPDATE approvals SET status = 'used' WHERE id = ?", (change.id,))
        tell(tx, "used", row, change.now)


# -- over --------------------------------------------------------------------------------------------------------------

OVER: Final = """
  ask.status = 'pending' AND (ask.expires_at <= ? OR jobs.finished_at IS NOT NULL) AND {} ORDER BY ask.id"""


def expire_approvals(tx: Transaction, change: ExpireApprovals) -> tuple[str, ...]:
    return over(tx, "true", change.now)


def over(tx: Transaction, where: str, now: int, *values: Any) -> tuple[str, ...]:
    """Have those of *where* say so that nobody can answer any more; return their ids."""
    rows = found(tx.sql, OVER.format(where), now, *values)
    for row in rows:
        status = "expired" if row.expires_at <= now else "void"
        tx.sql.execute("UPDATE approvals SET status = ? WHERE id = ?", (status, row.id))
        tell(tx, "expired", row, now, status=status)
    return tuple(row.id for row in rows)


# -- read --------------------------------------------------------------------------------------------------------------


def approvals(
    sql: sqlite3.Connection, status: str | None, agent: str | None, job: str | None, limit: int
) -> tuple[ApprovalRow, ...]:
    wanted = {
        "ask.status = ?": None if status == "pending" else status,
        "ask.agent = ?": agent,
        "ask.seq = (SELECT seq FROM jobs WHERE id = ?)": job,
    }
    given = {clause: value for clause, value in wanted.items() if value is not None}
    # The index of the pending ones serves a statement that names them.
    where = " AND ".join([*given, "ask.status = 'pending'" if status == "pending" else "true"])
    return tuple(found(sql, f"{where} ORDER BY ask.id DESC LIMIT ?", *given.values(), limit))


def grants(sql: sqlite3.Connection, agent: str | None) -> tuple[GrantRow, ...]:
    where, values = ("true", ()) if agent is None else ("agent = ?", (agent,))
    rows = sql.execute(
        f"SELECT agent, tool, digest, arguments, by, at FROM grants WHERE {where} ORDER BY agent, tool, at, digest",
        values,
    ).fetchall()
    return tuple(GrantRow(*row) for row in rows)


def revoke_grant(tx: Transaction, change: RevokeGrant) -> bool:
    gone = tx.sql.execute(
        "DELETE FROM grants WHERE agent = ? AND tool = ? AND digest = ?", (change.agent, change.tool, change.digest)
    )
    return gone.rowcount > 0
