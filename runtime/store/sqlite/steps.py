"""How steps and signals of an attempt are recorded: what was done once is never done again."""

from typing import Final

from runtime.errors import TooManySteps
from runtime.store.port import BeginStep, EndStep, SendSignal, SignalSent, SignalTaken, StepBegun, TakeSignal
from runtime.store.sqlite.moving import Facts, facts_of, wake
from runtime.store.sqlite.spending import passed, spend
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
    if job[2] is not None and not change.at_once:
        return StepBegun("pause")
    if known is not None and known[0] == "started" and known[1] != epoch and not change.retry:
        return StepBegun("ambiguous")
    if known is None and full(tx, seq):
        if change.at_once:
            raise TooManySteps
        return StepBegun("full")
    limit = None if change.charge is None else passed(tx, change.charge)
    if limit is not None:
        return StepBegun("budget", limit)
    if change.charge is not None:
        spend(tx, change.charge)
    tx.sql.execute(
        "INSERT OR REPLACE INTO job_steps (seq, name, epoch, state, started_at) VALUES (?, ?, ?, 'started', ?)",
        (seq, change.name, epoch, change.now),
    )
    tx.step_added(seq)
    return StepBegun("run")


def full(tx: Transaction, seq: int) -> bool:
    """Tell whether a job has all the steps it may have.

    They are counted when its first step is begun; after that only where what may have been added since could matter.
    """
    most = tx.steps.get(seq, MAX_STEPS)
    if most >= MAX_STEPS:
        most = tx.steps_counted(
            seq, tx.sql.execute("SELECT count(*) FROM job_steps WHERE seq = ?", (seq,)).fetchone()[0]
        )
    return most >= MAX_STEPS


def done_step(tx: Transaction, seq: int, name: str) -> tuple[str | None] | None:
    """Return the output of a step that is done, alone in a tuple; None where it is not."""
    row: tuple[str | None] | None = tx.sql.execute(
        "SELECT output FROM job_steps WHERE seq = ? AND name = ? AND state = 'done'", (seq, name)
    ).fetchone()
    return row


def keep_step(tx: Transaction, fence: Fence, name: str, output: str, now: int) -> None:
    """Record a step that was begun and done in one go."""
    tx.sql.execute(
        """INSERT OR REPLACE INTO job_steps (seq, name, epoch, state, output, started_at, ended_at)
           VALUES (?, ?, ?, 'done', ?, ?, ?)""",
        (fence.seq, name, fence.epoch, output, now, now),
    )
    tx.step_added(fence.seq)


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
    if ended and change.charge is not None:
        spend(tx, change.charge)
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
    return keep_signal(tx, job, change.name, change.payload, change.now)


def keep_signal(tx: Transaction, job: Facts, name: str, payload: str, now: int) -> SignalSent:
    """Keep a signal for a job that has not ended, and wake it where it waits for this one."""
    tx.sql.execute(
        """INSERT INTO job_signals (target, name, n, payload, at)
           SELECT ?1, ?2, coalesce(max(n), 0) + 1, ?3, ?4 FROM job_signals WHERE target = ?1 AND name = ?2""",
        (job.seq, name, payload, now),
    )
    tx.tell([("job.signalled", job.id, {**job.about, "signal": name})], now)
    if job.status != "waiting" or job.reason != "signal":
        return SignalSent(job.status, kept=True)
    (waits,) = tx.sql.execute("SELECT waits FROM jobs WHERE seq = ?", (job.seq,)).fetchone()
    if waits != name:
        return SignalSent(job.status, kept=True)
    wake(tx, [job], now)
    return SignalSent("pending", kept=True)


def take_signal(tx: Transaction, change: TakeSignal) -> SignalTaken | None:
    if owned(tx, change.fence) is None:
        return None
    seq, now = change.fence.seq, change.now
    known = done_step(tx, seq, change.step)
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
    keep_step(tx, change.fence, change.step, oldest[1], now)
    return SignalTaken(oldest[1])
