"""How each change to jobs is applied: one function a change, run inside the writer's transaction."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from runtime.errors import LeaseLost, problem
from runtime.store.port import (
    AGING_MS,
    MAX_CRASHES,
    AppendLogs,
    CancelJobs,
    CancelResult,
    Claimed,
    ClaimJobs,
    Fence,
    Finish,
    Finished,
    FinishJobs,
    Inserted,
    InsertJobs,
    JobRow,
    PromoteDue,
    RecordProcess,
    Recovered,
    RecoverJobs,
    ReleaseHeld,
    Retried,
    RetryJobs,
    SaveProgress,
    rank_of,
)
from runtime.store.sqlite.transaction import Transaction, columns, compact
from schemas.jobs import ENDED, MAX_LOG_LINES, Lane, Lease, Status

# The one way to own an attempt, in the statement that writes.
FENCED: Final = "seq = ? AND epoch = ? AND worker = ? AND boot = ? AND status = 'active'"

# A static key, so that claiming never sorts: see runtime.store.port.AGING_MS. An agent's queue is first in, first out.
RANK: Final = f"CASE lane WHEN 'agent' THEN 0 ELSE max(execute_after, :now) + priority * {AGING_MS} END"

LET_GO: Final = "worker = NULL, boot = NULL, lease_until = NULL"


def fence_of(fence: Fence) -> tuple[int, int, str, str]:
    return fence.seq, fence.epoch, fence.worker, fence.boot


# -- enqueue ---------------------------------------------------------------------------------------------------------


def insert_jobs(tx: Transaction, change: InsertJobs) -> list[Inserted]:
    known = find_keys(tx, change.jobs)
    results: list[Inserted] = []
    fresh: list[JobRow] = []
    for job in change.jobs:
        older = known.get((job.kind, job.key)) if job.key is not None else None
        if older is None:
            status: Status = "delayed" if job.execute_after > change.now else "pending"
            results.append(Inserted(job.id, status))
            fresh.append(job)
            if job.key is not None:
                known[job.kind, job.key] = (job.id, status, job.args)
        else:
            same = older[2] == job.args
            results.append(Inserted(older[0], older[1], existing=same, conflict=not same))
    write_jobs(tx, fresh, change.now)
    return results


def find_keys(tx: Transaction, jobs: Iterable[JobRow]) -> dict[tuple[str, str | None], tuple[str, Status, str]]:
    """Return (id, status, args) of the jobs that hold the keys of *jobs*."""
    found: dict[tuple[str, str | None], tuple[str, Status, str]] = {}
    for job in jobs:
        if job.key is not None:
            row = tx.sql.execute(
                "SELECT id, status, args FROM jobs JOIN job_data USING (seq) WHERE kind = ? AND key = ?",
                (job.kind, job.key),
            ).fetchone()
            if row:
                found[job.kind, job.key] = row
    return found


# Batches go in as one JSON array and one statement: sqlite3 takes and gives back Python's lock at every row it steps
# over,
# so a statement a row would queue for that lock behind the event loop each time, and a statement a batch queues once.
INSERT_JOBS: Final = f"""
  INSERT INTO jobs (seq, id, kind, queue, lane, status, reason, priority, rank, execute_after, max_attempts,
                    user_code, timeout_ms, key, conversation, created_at, updated_at)
  SELECT {columns(15)}, ?1, ?1 FROM json_each(?2)"""
INSERT_DATA: Final = f"INSERT INTO job_data (seq, args, retry, data) SELECT {columns(4)} FROM json_each(?)"


def write_jobs(tx: Transaction, jobs: Sequence[JobRow], now: int) -> None:
    first = tx.take_seq(len(jobs))
    rows, data, events = [], [], []
    for seq, job in enumerate(jobs, first):
        due = max(job.execute_after, now)
        status, reason = ("delayed", "scheduled") if job.execute_after > now else ("pending", None)
        rank = rank_of(job.lane, due, job.priority)
        place = (seq, job.id, job.kind, job.queue, job.lane, status, reason, job.priority, rank, due)
        rows.append((*place, job.max_attempts, job.user_code, job.timeout_ms, job.key, job.conversation))
        data.append((seq, job.args, job.retry, job.data))
        events.append(("job.enqueued", job.id, {"queue": job.queue, "kind": job.kind, "status": status}))
    tx.sql.execute(INSERT_JOBS, (now, compact(rows)))
    tx.sql.execute(INSERT_DATA, (compact(data),))
    tx.tell(events, now)


# -- claim -----------------------------------------------------------------------------------------------------------

CLAIM_COLUMNS: Final = """
  seq, id, epoch + 1, kind, args, attempts + 1, max_attempts, crashes, suspect, timeout_ms, retry, conversation,
  created_at"""
NEXT: Final = f"""
  SELECT json_group_array(json_array({CLAIM_COLUMNS})) FROM (
    SELECT * FROM jobs WHERE status = 'pending' AND queue = ? AND lane = ?
    ORDER BY rank, seq LIMIT ?) JOIN job_data USING (seq)"""
NEXT_IN_ORDER: Final = f"""
  SELECT json_group_array(json_array({CLAIM_COLUMNS})) FROM (
    SELECT * FROM jobs WHERE status = 'pending' AND queue = ? AND lane = ? AND NOT EXISTS (
      SELECT 1 FROM jobs AS older
      WHERE older.queue = jobs.queue AND older.conversation = jobs.conversation
        AND older.finished_at IS NULL AND older.conversation IS NOT NULL
        AND (older.seq < jobs.seq OR older.status = 'active'))
    ORDER BY rank, seq LIMIT ?) JOIN job_data USING (seq)"""
TAKE: Final = """
  UPDATE jobs SET status = 'active', reason = NULL, attempts = attempts + 1, epoch = epoch + 1,
    worker = claim.value ->> 1, boot = ?, lease_until = ?, started_at = coalesce(started_at, ?), updated_at = ?
  FROM json_each(?) AS claim WHERE seq = claim.value ->> 0 AND status = 'pending'"""
OPEN_ATTEMPT: Final = f"""
  INSERT INTO job_attempts (seq, epoch, attempt, worker, boot, started_at) SELECT {columns(6)} FROM json_each(?)"""


def claim_jobs(tx: Transaction, change: ClaimJobs) -> tuple[Claimed, ...]:
    if tx.sql.execute("SELECT 1 FROM queues WHERE name = ? AND paused = 1", (change.queue,)).fetchall():
        return ()
    query = NEXT_IN_ORDER if change.lane == "agent" else NEXT
    found = tx.sql.execute(query, (change.queue, change.lane, len(change.workers))).fetchall()[0][0]
    claimed = []
    for worker, row in zip(change.workers, json.loads(found), strict=False):
        seq, job_id, epoch, kind, args, attempt, max_attempts, crashes, suspect, *rest = row
        claimed.append(
            Claimed(
                *(seq, job_id, epoch, worker, change.boot, kind, change.queue, change.lane),
                *(args, attempt, max_attempts, crashes, bool(suspect), *rest),
            )
        )
    if claimed:
        write_claims(tx, claimed, change)
    return tuple(claimed)


def write_claims(tx: Transaction, claimed: Sequence[Claimed], change: ClaimJobs) -> None:
    now = change.now
    taken = compact([(c.seq, c.worker) for c in claimed])
    tx.sql.execute(TAKE, (change.boot, change.lease_until, now, now, taken))
    attempts = compact([(c.seq, c.epoch, c.attempt, c.worker, c.boot, now) for c in claimed])
    tx.sql.execute(OPEN_ATTEMPT, (attempts,))
    tx.tell([("job.started", c.id, started_data(c)) for c in claimed], now)


def started_data(claimed: Claimed) -> dict[str, Any]:
    return {
        "queue": claimed.queue,
        "kind": claimed.kind,
        "worker": claimed.worker,
        "attempt": claimed.attempt,
        "epoch": claimed.epoch,
    }


# -- finish ----------------------------------------------------------------------------------------------------------


MOVE: Final = f"""
  UPDATE jobs SET status = done.value ->> 4, reason = done.value ->> 5, execute_after = done.value ->> 6,
    attempts = attempts - (done.value ->> 7), crashes = crashes + (done.value ->> 8), finished_at = done.value ->> 9,
    suspect = suspect AND ((done.value ->> 7) OR (done.value ->> 8)), updated_at = ?, {LET_GO}
  FROM json_each(?) AS done
  WHERE seq = done.value ->> 0 AND epoch = done.value ->> 1 AND worker = done.value ->> 2 AND boot = done.value ->> 3
    AND status = 'active'"""
CLOSE_ATTEMPT: Final = """
  UPDATE job_attempts SET ended_at = ?, outcome = done.value ->> 2, error = done.value ->> 3
  FROM json_each(?) AS done WHERE seq = done.value ->> 0 AND epoch = done.value ->> 1"""
KEEP_DATA: Final = """
  UPDATE job_data SET result = done.value ->> 1, error = done.value ->> 2
  FROM json_each(?) AS done WHERE seq = done.value ->> 0"""


def finish_jobs(tx: Transaction, change: FinishJobs) -> list[Finished | None]:
    owned = owned_rows(tx, [finish.fence for finish in change.finishes])
    results: list[Finished | None] = []
    moves, data, attempts, events = [], [], [], []
    for finish in change.finishes:
        row = owned.get(finish.fence.seq)
        if row is None or row[:3] != (finish.fence.epoch, finish.fence.worker, finish.fence.boot):
            if change.strict:
                raise LeaseLost(f"another attempt owns job {finish.fence.id} now", job=finish.fence.id)
            results.append(None)
            continue
        del owned[finish.fence.seq]  # one attempt ends once, whatever the batch says
        _, _, _, lane, queue, kind, crashes, cancel_at, execute_after = row
        status, reason = verdict(finish, crashes, cancelled=cancel_at is not None)
        due = finish.execute_after if status == "delayed" and finish.execute_after is not None else execute_after
        ended = change.now if status in ENDED else None
        fence = fence_of(finish.fence)
        moves.append((*fence, status, reason, due, int(finish.refund), int(finish.crash), ended))
        if finish.result is not None or finish.error is not None or finish.fence.epoch > 1:
            data.append((finish.fence.seq, finish.result, finish.error))
        attempts.append((*fence[:2], outcome_word(status, reason, finish), finish.error))
        events.append((event_type(status, reason), finish.fence.id, event_data(status, reason, queue, kind, due)))
        results.append(Finished(finish.fence.id, queue, lane, status, reason, due))
    if moves:
        tx.sql.execute(MOVE, (change.now, compact(moves)))
        tx.sql.execute(CLOSE_ATTEMPT, (change.now, compact(attempts)))
    if data:
        tx.sql.execute(KEEP_DATA, (compact(data),))
    tx.tell(events, change.now)
    return results


OWNED: Final = """
  SELECT json_group_array(json_array(
    seq, epoch, worker, boot, lane, queue, kind, crashes, cancel_at, execute_after))
  FROM jobs WHERE seq IN (SELECT value FROM json_each(?)) AND status = 'active'"""


def owned_rows(tx: Transaction, fences: Sequence[Fence]) -> dict[int, tuple[Any, ...]]:
    """Return what finishing needs to know of the active jobs among *fences*, by seq."""
    found = tx.sql.execute(OWNED, (compact([fence.seq for fence in fences]),)).fetchall()[0][0]
    return {row[0]: tuple(row[1:]) for row in json.loads(found)}


def verdict(finish: Finish, crashes: int, *, cancelled: bool) -> tuple[Status, str | None]:
    """Return where an attempt that ends as *finish* leaves its job.

    What finished before it was stopped stays completed, whatever was wished; everything else gives way to a wish to
    cancel.
    """
    if finish.status == "completed":
        return "completed", None
    if cancelled:
        return "cancelled", "user"
    if finish.crash and crashes + 1 >= MAX_CRASHES:
        return "failed", "poison"
    return finish.status, finish.reason


def outcome_word(status: Status, reason: str | None, finish: Finish) -> str:
    """Return how an attempt is remembered."""
    if finish.crash:
        return "crashed"
    return {"pending": "requeued", "delayed": reason or "delayed", "paused": "held"}.get(status, status)


def event_type(status: Status, reason: str | None) -> str:
    return {"pending": "job.requeued", "paused": "job.held"}.get(status, f"job.{status}")


def event_data(status: Status, reason: str | None, queue: str, kind: str, due: int) -> dict[str, Any]:
    data: dict[str, Any] = {"queue": queue, "kind": kind}
    if reason is not None:
        data["reason"] = reason
    if status == "delayed":
        data["execute_after"] = due
    return data


# -- during an attempt -----------------------------------------------------------------------------------------------


def still_owned(tx: Transaction, fence: Fence) -> bool:
    return bool(tx.sql.execute(f"SELECT 1 FROM jobs WHERE {FENCED}", fence_of(fence)).fetchall())


def record_process(tx: Transaction, change: RecordProcess) -> bool:
    if not still_owned(tx, change.fence):
        return False
    tx.sql.execute(
        "UPDATE job_attempts SET pgid = ?, started = ? WHERE seq = ? AND epoch = ?",
        (change.pgid, change.started, change.fence.seq, change.fence.epoch),
    )
    return True


def save_progress(tx: Transaction, change: SaveProgress) -> bool:
    if not still_owned(tx, change.fence):
        return False
    tx.sql.execute("UPDATE job_data SET progress = ? WHERE seq = ?", (change.progress, change.fence.seq))
    return True


def append_logs(tx: Transaction, change: AppendLogs) -> bool:
    if not still_owned(tx, change.fence):
        return False
    seq = change.fence.seq
    last = tx.sql.execute("SELECT coalesce(max(n), 0) FROM job_logs WHERE seq = ?", (seq,)).fetchone()[0]
    lines = change.lines[-MAX_LOG_LINES:]
    first = last + 1 + len(change.lines) - len(lines)
    tx.sql.executemany(
        "INSERT INTO job_logs (seq, n, epoch, at, level, text) VALUES (?, ?, ?, ?, ?, ?)",
        [(seq, n, change.fence.epoch, at, level, text) for n, (at, level, text) in enumerate(lines, first)],
    )
    tx.sql.execute("DELETE FROM job_logs WHERE seq = ? AND n <= ?", (seq, last + len(change.lines) - MAX_LOG_LINES))
    return True


# -- from outside ----------------------------------------------------------------------------------------------------


def cancel_jobs(tx: Transaction, change: CancelJobs) -> list[CancelResult | None]:
    return [cancel_job(tx, job_id, change.now) for job_id in change.ids]


def cancel_job(tx: Transaction, job_id: str, now: int) -> CancelResult | None:
    row = tx.sql.execute(
        "SELECT seq, status, queue, lane, kind, epoch, worker, boot FROM jobs WHERE id = ?", (job_id,)
    ).fetchone()
    if row is None:
        return None
    seq, status, queue, lane, kind, epoch, worker, boot = row
    if status in ENDED:
        return CancelResult("too_late", status, status, queue, lane)
    data = {"queue": queue, "kind": kind}
    if status == "active":
        tx.sql.execute(
            "UPDATE jobs SET cancel_at = coalesce(cancel_at, ?), updated_at = ? WHERE seq = ?", (now, now, seq)
        )
        tx.tell([("job.cancel_requested", job_id, data)], now)
        return CancelResult(
            "requested", status, status, queue, lane, Lease(seq=seq, id=job_id, epoch=epoch, worker=worker, boot=boot)
        )
    tx.sql.execute(
        "UPDATE jobs SET status = 'cancelled', reason = 'user', cancel_at = ?, finished_at = ?, updated_at = ?"
        " WHERE seq = ?",
        (now, now, now, seq),
    )
    tx.tell([("job.cancelled", job_id, data | {"reason": "user"})], now)
    return CancelResult("cancelled", "cancelled", status, queue, lane)


def retry_jobs(tx: Transaction, change: RetryJobs) -> list[Retried | Status | None]:
    return [retry_job(tx, job_id, change.now) for job_id in change.ids]


def retry_job(tx: Transaction, job_id: str, now: int) -> Retried | Status | None:
    row = tx.sql.execute("SELECT seq, status, queue, lane, kind FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return None
    seq, status, queue, lane, kind = row
    if status not in ("failed", "cancelled"):
        return status  # type: ignore[no-any-return]
    tx.sql.execute(
        "UPDATE jobs SET status = 'pending', reason = NULL, attempts = 0, crashes = 0, suspect = 0, cancel_at = NULL,"
        f" finished_at = NULL, execute_after = :now, updated_at = :now,"
        f" rank = CASE lane WHEN 'agent' THEN 0 ELSE :now + priority * {AGING_MS} END WHERE seq = :seq",
        {"now": now, "seq": seq},
    )
    tx.sql.execute("UPDATE job_data SET result = NULL, error = NULL, progress = NULL WHERE seq = ?", (seq,))
    tx.tell([("job.retried", job_id, {"queue": queue, "kind": kind})], now)
    return Retried(queue, lane, status)


# -- by time and by force --------------------------------------------------------------------------------------------


def promote_due(tx: Transaction, change: PromoteDue) -> tuple[tuple[str, Lane, int], ...]:
    return tally(
        tx.sql.execute(
            f"""UPDATE jobs SET status = 'pending', reason = NULL, updated_at = :now,
                  rank = CASE lane WHEN 'agent' THEN 0 ELSE execute_after + priority * {AGING_MS} END
                WHERE seq IN (SELECT seq FROM jobs WHERE status = 'delayed' AND execute_after <= :now
                              ORDER BY execute_after LIMIT :limit)
                RETURNING queue, lane""",
            {"now": change.now, "limit": change.limit},
        ).fetchall()
    )


def release_held(tx: Transaction, change: ReleaseHeld) -> tuple[tuple[str, Lane, int], ...]:
    return tally(
        tx.sql.execute(
            f"""UPDATE jobs SET status = 'pending', reason = NULL, updated_at = :now, rank = {RANK}
                WHERE status = 'paused' AND reason = 'hold' AND kind IN (SELECT value FROM json_each(:kinds))
                RETURNING queue, lane""",
            {"now": change.now, "kinds": json.dumps(change.kinds)},
        ).fetchall()
    )


def tally(rows: Iterable[tuple[str, Lane]]) -> tuple[tuple[str, Lane, int], ...]:
    """Count what was moved by queue and lane."""
    counts: dict[tuple[str, Lane], int] = {}
    for key in rows:
        counts[key] = counts.get(key, 0) + 1
    return tuple((queue, lane, count) for (queue, lane), count in counts.items())


POISON_ERROR: Final = problem("job.poison", "the daemon died whenever this job ran alone").model_dump_json()

# What the rules of blame say of a job whose owner died, worked out once and used for status, reason and end alike.
POISONED: Final = f":daemon AND user_code AND lane = 'agent' AND suspect AND crashes + 1 >= {MAX_CRASHES}"


def recover_jobs(tx: Transaction, change: RecoverJobs) -> tuple[Recovered, ...]:
    owner = "boot <> :boot" if change.worker is None else "boot = :boot AND worker = :worker"
    rows = tx.sql.execute(
        f"""UPDATE jobs SET
              status = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled'
                            WHEN {POISONED} THEN 'failed' ELSE 'pending' END,
              reason = CASE WHEN cancel_at IS NOT NULL THEN 'user' WHEN {POISONED} THEN 'poison' END,
              finished_at = CASE WHEN cancel_at IS NOT NULL OR ({POISONED}) THEN :now END,
              crashes = crashes + (:daemon AND user_code AND lane = 'agent' AND suspect),
              suspect = max(suspect, :daemon AND user_code AND lane <> 'child'),
              attempts = attempts - 1, updated_at = :now, {LET_GO}
            WHERE status = 'active' AND {owner}
            RETURNING seq, epoch, id, queue, lane, kind, status, suspect, reason""",
        {"boot": change.boot, "worker": change.worker, "now": change.now, "daemon": change.worker is None},
    ).fetchall()
    rows.sort()
    tx.sql.executemany(
        "UPDATE job_attempts SET ended_at = ?, outcome = 'lost' WHERE seq = ? AND epoch = ?",
        [(change.now, seq, epoch) for seq, epoch, *_ in rows],
    )
    recovered, events = [], []
    for _, _, job_id, queue, lane, kind, status, suspect, reason in rows:
        recovered.append(Recovered(job_id, queue, lane, status, bool(suspect)))
        data = {"queue": queue, "kind": kind, "status": status, "suspect": bool(suspect)}
        events.append(("job.recovered", job_id, data))
        if status in ENDED:
            events.append((f"job.{status}", job_id, {"queue": queue, "kind": kind, "reason": reason}))
    poisoned = [(POISON_ERROR, row[0]) for row in rows if row[6] == "failed"]
    tx.sql.executemany("UPDATE job_data SET error = ? WHERE seq = ?", poisoned)
    tx.tell(events, change.now)
    return tuple(recovered)
