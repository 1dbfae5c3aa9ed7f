"""How steps and signals of an attempt are recorded: what was done once is never done again."""

from typing import Final

from runtime.store.port import BeginStep, EndStep, SendSignal, SignalSent, SignalTaken, StepBegun, TakeSignal
from runtime.store.sqlite.moving import facts_of, wake
from runtime.store.sqlite.transaction import Transaction
from schemas.jobs import ENDED, MAX_SIGNALS, MAX_STEPS, Fence

# The one way to own an attempt.
OWNED: Final = """
  SELECT kind, queue, pause_at FROM jobs
  WHERE seq = ? AND epoch = ? AND worker = ? AND boot = ? AND status = 'active'"""


def owned(tx: Transaction, fence: Fence) -> tuple[str, str, int | None] | None:
    """Return (kind, queue, pause_at) of a job while *fence* is the attempt that owns it."""
    row: tuple[str, str, int | None] | None = tx.sql.execute(
        OWNED, (fence.seq, fence.epoch, fence.worker, fence.boot)
    ).fetchone()
    return row


def begin_step(tx: Transaction, change: BeginStep) -> StepBegun | None:
    job = owned(tx, change.fence)
    if job is None:
        return None
    seq, epoch = change.fence.seq, change.fence.epoch
    known = tx.sql.execute(
        "SELECT state, epoch, output FROM job_steps WHERE seq = ? AND name = ?", (seq, change.name)
    ).fetchone()
    if known is not None and known[0] == "done":
        return StepBegun("done", known[2])
    if job[2] is not None:
        return StepBegun("pause")
    if known is not None and known[0] == "started" and known[1] != epoch and not change.retry:
        return StepBegun("ambiguous")
    if known is None and count_steps(tx, seq) >= MAX_STEPS:
        return StepBegun("full")
    tx.sql.execute(
        "INSERT OR REPLACE INTO job_steps (seq, name, epoch, state, started_at) VALUES (?, ?, ?, 'started', ?)",
        (seq, change.name, epoch, change.now),
    )
    return StepBegun("run")


def count_steps(tx: Transaction, seq: int) -> int:
    count: int = tx.sql.execute("SELECT count(*) FROM job_steps WHERE seq = ?", (seq,)).fetchone()[0]
    return count


def end_step(tx: Transaction, change: EndStep) -> bool:
    job = owned(tx, change.fence)
    if job is None:
        return False
    state = "done" if change.error is None else "failed"
    output = change.output if change.error is None else None
    ended = tx.sql.execute(
        """UPDATE job_steps SET state = ?, output = ?, error = ?, cost = ?, ended_at = ?
           WHERE seq = ? AND name = ? AND epoch = ? AND state = 'started'""",
        (state, output, change.error, change.cost, change.now, change.fence.seq, change.name, change.fence.epoch),
    ).rowcount
    if ended and state == "done":
        kind, queue, _ = job
        data = {"queue": queue, "kind": kind, "step": change.name, "cost": change.cost}
        tx.tell([("job.step", change.fence.id, data)], change.now)
    return bool(ended)


# -- signals -----------------------------------------------------------------------------------------------------------


def send_signal(tx: Transaction, change: SendSignal) -> SignalSent | None:
    job = facts_of(tx, [change.job]).get(change.job)
    if job is None:
        return None
    held = tx.sql.execute(
        "SELECT count(*) FROM job_signals WHERE target = ? AND consumed_at IS NULL", (job.seq,)
    ).fetchone()[0]
    if job.status in ENDED or held >= MAX_SIGNALS:
        return SignalSent(job.status, kept=False)
    tx.sql.execute(
        """INSERT INTO job_signals (target, name, n, payload, at)
           SELECT ?1, ?2, coalesce(max(n), 0) + 1, ?3, ?4 FROM job_signals WHERE target = ?1 AND name = ?2""",
        (job.seq, change.name, change.payload, change.now),
    )
    tx.tell([("job.signalled", job.id, {**job.about, "signal": change.name})], change.now)
    if job.status != "waiting" or job.reason != "signal":
        return SignalSent(job.status, kept=True)
    (waits,) = tx.sql.execute("SELECT waits FROM jobs WHERE seq = ?", (job.seq,)).fetchone()
    if waits != change.name:
        return SignalSent(job.status, kept=True)
    wake(tx, [job], change.now)
    return SignalSent("pending", kept=True)


def take_signal(tx: Transaction, change: TakeSignal) -> SignalTaken | None:
    if owned(tx, change.fence) is None:
        return None
    seq, epoch, now = change.fence.seq, change.fence.epoch, change.now
    known = tx.sql.execute(
        "SELECT output FROM job_steps WHERE seq = ? AND name = ? AND state = 'done'", (seq, change.step)
    ).fetchone()
    if known is not None:
        return SignalTaken(known[0])
    oldest = tx.sql.execute(
        """SELECT n, payload FROM job_signals WHERE target = ? AND name = ? AND consumed_at IS NULL
           ORDER BY n LIMIT 1""",
        (seq, change.name),
    ).fetchone()
    if oldest is None:
        return SignalTaken(None)
    tx.sql.execute(
        "UPDATE job_signals SET consumed_at = ? WHERE target = ? AND name = ? AND n = ?",
        (now, seq, change.name, oldest[0]),
    )
    tx.sql.execute(
        """INSERT OR REPLACE INTO job_steps (seq, name, epoch, state, output, started_at, ended_at)
           VALUES (?, ?, ?, 'done', ?, ?, ?)""",
        (seq, change.step, epoch, oldest[1], now, now),
    )
    return SignalTaken(oldest[1])
