"""What an attempt writes while it runs, behind its fence, and how its end is remembered."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from runtime.store.port import AppendLogs, RecordProcess, SaveProgress
from runtime.store.sqlite.transaction import Transaction, columns, compact
from schemas.jobs import MAX_LOG_LINES, Fence

# The one way to own an attempt, in the statement that writes.
FENCED: Final = "seq = ? AND epoch = ? AND worker = ? AND boot = ? AND status = 'active'"

LET_GO: Final = "boot = NULL, lease_until = NULL"
"""What an attempt's end takes from its job's row; `worker` stays, to tell who ran it."""


def fence_of(fence: Fence) -> tuple[int, int, str, str]:
    """Return what `FENCED` is asked with."""
    return fence.seq, fence.epoch, fence.worker, fence.boot


def still_owned(tx: Transaction, fence: Fence) -> bool:
    """Tell whether the attempt may still write."""
    return bool(tx.sql.execute(f"SELECT 1 FROM jobs WHERE {FENCED}", fence_of(fence)).fetchall())


# The job's own row tells all of an attempt that runs or that completed its job (epoch, attempts, worker, claimed_at,
# finished_at), so the commonest end of all costs nothing here; its process alone needs a row while it runs.
BEGIN: Final = f"""
  INSERT INTO job_attempts (seq, epoch, attempt, worker, boot, started_at, pgid, started)
  SELECT seq, epoch, attempts, worker, boot, coalesce(claimed_at, started_at), ?, ? FROM jobs WHERE {FENCED}
  ON CONFLICT (seq, epoch) DO UPDATE SET pgid = excluded.pgid, started = excluded.started"""


def record_process(tx: Transaction, change: RecordProcess) -> bool:
    return tx.sql.execute(BEGIN, (change.pgid, change.started, *fence_of(change.fence))).rowcount > 0


class Attempt(NamedTuple):
    """An attempt that ended in any other way than by completing its job. `error` is JSON text."""

    seq: int
    epoch: int
    attempt: int
    worker: str
    boot: str
    started_at: int
    outcome: str
    error: str | None = None


KEEP_ENDED: Final = f"""
  INSERT INTO job_attempts (seq, epoch, attempt, worker, boot, started_at, outcome, error, ended_at)
  SELECT {columns(8)}, ?1 FROM json_each(?2) WHERE true
  ON CONFLICT (seq, epoch) DO UPDATE SET ended_at = ?1, outcome = excluded.outcome, error = excluded.error"""


def keep_attempts(tx: Transaction, attempts: Iterable[Attempt], now: int) -> None:
    """Remember how attempts ended."""
    rows = list(attempts)
    if rows:
        tx.sql.execute(KEEP_ENDED, (now, compact(rows)))


def save_progress(tx: Transaction, change: SaveProgress) -> bool:
    return (
        tx.sql.execute(
            f"UPDATE job_data SET progress = ? WHERE seq = (SELECT seq FROM jobs WHERE {FENCED})",
            (change.progress, *fence_of(change.fence)),
        ).rowcount
        > 0
    )


KEEP_LINES: Final = f"""
  INSERT INTO job_logs (seq, n, epoch, at, level, text)
  SELECT ?1, ?3 + key, ?2, {columns(3)} FROM json_each(?4)"""


def append_logs(tx: Transaction, change: AppendLogs) -> bool:
    if not still_owned(tx, change.fence):
        return False
    seq = change.fence.seq
    last = tx.sql.execute("SELECT coalesce(max(n), 0) FROM job_logs WHERE seq = ?", (seq,)).fetchall()[0][0]
    lines = change.lines[-MAX_LOG_LINES:]
    first = last + 1 + len(change.lines) - len(lines)
    tx.sql.execute(KEEP_LINES, (seq, change.fence.epoch, first, compact(lines)))
    tx.sql.execute("DELETE FROM job_logs WHERE seq = ? AND n <= ?", (seq, last + len(change.lines) - MAX_LOG_LINES))
    return True
