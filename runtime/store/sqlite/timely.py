"""What time does to jobs, and what is put right: due, past a deadline, beyond a lease, orphaned, stuck."""

import json
from collections.abc import Iterable, Sequence
from typing import Final

from runtime.errors import problem
from runtime.store.port import (
    AGING_MS,
    MAX_CRASHES,
    ExpireJobs,
    ExpireLeases,
    Lost,
    PromoteDue,
    Recovered,
    RecoverJobs,
    ReleaseHeld,
    RepairJobs,
)
from runtime.store.sqlite.edges import free_keys, read, settle_ended
from runtime.store.sqlite.moving import AMONG, Facts, end, facts, go_on, seqs, tell_moves, wake
from runtime.store.sqlite.transaction import Transaction, compact
from schemas.jobs import ENDED, Lane, Lease

# -- due ---------------------------------------------------------------------------------------------------------------

DUE: Final = """
  seq IN (SELECT seq FROM jobs WHERE status = 'delayed' AND execute_after <= :now
          ORDER BY execute_after, seq LIMIT :limit)"""
PROMOTE: Final = f"""
  UPDATE jobs SET status = 'pending', reason = NULL, updated_at = :now,
    rank = CASE lane WHEN 'agent' THEN 0 ELSE execute_after + priority * {AGING_MS} END WHERE {AMONG}"""
WAITED: Final = """
  seq IN (SELECT seq FROM jobs WHERE wait_until IS NOT NULL AND wait_until <= :now AND status = 'waiting'
          ORDER BY wait_until, seq LIMIT :limit)"""


def promote_due(tx: Transaction, change: PromoteDue) -> tuple[tuple[str, Lane, int], ...]:
    due = facts(tx, DUE, now=change.now, limit=change.limit)
    if due:
        tx.sql.execute(PROMOTE, {"now": change.now, "seqs": seqs(due)})
        tell_moves(tx, due, "pending")
    waited = facts(tx, WAITED, now=change.now, limit=change.limit - len(due)) if len(due) < change.limit else []
    wake(tx, waited, change.now)
    return tally([*due, *waited])


# What else is held waits for a person: a step that may have happened, above all.
UNKNOWN: Final = """
  status = 'paused' AND reason = 'hold' AND kind IN (SELECT value FROM json_each(:kinds))
  AND (SELECT CASE WHEN json_valid(error) THEN error ->> 'code' END FROM job_data WHERE job_data.seq = jobs.seq)
    = 'job.unknown_kind'"""


def release_held(tx: Transaction, change: ReleaseHeld) -> tuple[tuple[str, Lane, int], ...]:
    held = facts(tx, UNKNOWN, kinds=compact(change.kinds))
    go_on(tx, held, change.now)
    return tally(held)


def tally(jobs: Iterable[Facts]) -> tuple[tuple[str, Lane, int], ...]:
    """Count jobs by queue and lane."""
    counts: dict[tuple[str, Lane], int] = {}
    for job in jobs:
        counts[job.queue, job.lane] = counts.get((job.queue, job.lane), 0) + 1
    return tuple((queue, lane, count) for (queue, lane), count in counts.items())


# What a person holds is not ended by its deadline: nobody may decide over it but a person.
OVERDUE: Final = """
  seq IN (SELECT seq FROM jobs WHERE deadline_at IS NOT NULL AND finished_at IS NULL AND deadline_at <= :now
            AND status NOT IN ('active', 'paused')
          ORDER BY deadline_at, seq LIMIT :limit)"""


def expire_jobs(tx: Transaction, change: ExpireJobs) -> int:
    overdue = facts(tx, OVERDUE, now=change.now, limit=change.limit)
    end(tx, overdue, "failed", "deadline", change.now)
    settle_ended(tx, [(job.seq, "failed", job.limit_key, job.parent) for job in overdue], change.now)
    return len(overdue)


# -- taken back --------------------------------------------------------------------------------------------------------

POISON_ERROR: Final = problem("job.poison", "the daemon died whenever this job ran alone").model_dump_json()
LOST_ERROR: Final = problem("job.crashed", "nothing was heard of its process for a whole lease").model_dump_json()
KEEP_ERROR: Final = f"UPDATE job_data SET error = :error WHERE {AMONG}"

# What an attempt leaves behind that did not come to its own end; written while the job's row still tells of it.
END_ATTEMPTS: Final = """
  INSERT INTO job_attempts (seq, epoch, attempt, worker, boot, started_at, ended_at, outcome, error)
  SELECT seq, epoch, attempts, worker, boot, coalesce(claimed_at, started_at), :now, 'lost', :error
  FROM jobs WHERE seq IN (SELECT value FROM json_each(:seqs))
  ON CONFLICT (seq, epoch) DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome,
    error = excluded.error"""
# The worker's name stays: who ran the last attempt.
LET_GO: Final = "boot = NULL, lease_until = NULL, pause_at = NULL"
OWNERS: Final = """
  SELECT json_group_array(json_array(seq, id, epoch, worker, boot)) FROM jobs
  WHERE seq IN (SELECT value FROM json_each(?))"""


def taken_back(tx: Transaction, before: Sequence[Facts]) -> list[Facts]:
    """Have it told where active jobs were moved that were taken back; return how they stand."""
    after = facts(tx, AMONG, seqs=seqs(before))
    for was, job in zip(before, after, strict=True):
        tell_moves(tx, [was], job.status)
    return after


def tell_ended(tx: Transaction, jobs: Sequence[Facts], now: int) -> None:
    """Have the ends of jobs told after what made them end, and release what waited for them and for their keys."""
    ended = [job for job in jobs if job.status in ENDED]
    tx.tell([(f"job.{job.status}", job.id, {**job.about, "reason": job.reason}) for job in ended], now)
    settle_ended(tx, [(job.seq, job.status, job.limit_key, job.parent) for job in ended], now)
    free_keys(tx, (job.limit_key for job in jobs if job.limit_key and job.status not in ENDED), now)


BEYOND: Final = "status = 'active' AND boot = :boot AND lease_until < :now"
TAKE_FROM_SILENT: Final = f"""
  UPDATE jobs SET
    status = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled' WHEN attempts >= max_attempts THEN 'failed'
                  WHEN pause_at IS NOT NULL THEN 'paused' ELSE 'pending' END,
    reason = CASE WHEN cancel_at IS NOT NULL THEN 'user' WHEN attempts >= max_attempts THEN 'exhausted'
                  WHEN pause_at IS NOT NULL THEN 'user' END,
    finished_at = CASE WHEN cancel_at IS NOT NULL OR attempts >= max_attempts THEN :now END,
    updated_at = :now, {LET_GO}
  WHERE {AMONG}"""


def expire_leases(tx: Transaction, change: ExpireLeases) -> tuple[Lost, ...]:
    silent = facts(tx, BEYOND, boot=change.boot, now=change.now)
    if not silent:
        return ()
    leases = {row[0]: Lease(*row) for row in read(tx, OWNERS, [job.seq for job in silent])}
    values = {"now": change.now, "seqs": seqs(silent)}
    tx.sql.execute(END_ATTEMPTS, values | {"error": LOST_ERROR})
    tx.sql.execute(TAKE_FROM_SILENT, values)
    jobs = taken_back(tx, silent)
    failed = [job for job in jobs if job.status == "failed"]
    tx.sql.execute(KEEP_ERROR, {"error": LOST_ERROR, "seqs": seqs(failed)})
    tx.tell([("job.lost", job.id, {**job.about, "status": job.status}) for job in jobs], change.now)
    tell_ended(tx, jobs, change.now)
    return tuple(Lost(leases[job.seq], job.status) for job in jobs)


# What the rules of blame say of a job whose owner died, worked out once and used for status, reason and end alike.
POISONED: Final = f":daemon AND user_code AND lane = 'agent' AND suspect AND crashes + 1 >= {MAX_CRASHES}"
TAKE_FROM_DEAD: Final = f"""
  UPDATE jobs SET
    status = CASE WHEN cancel_at IS NOT NULL THEN 'cancelled' WHEN {POISONED} THEN 'failed'
                  WHEN pause_at IS NOT NULL THEN 'paused' ELSE 'pending' END,
    reason = CASE WHEN cancel_at IS NOT NULL THEN 'user' WHEN {POISONED} THEN 'poison'
                  WHEN pause_at IS NOT NULL THEN 'user' END,
    finished_at = CASE WHEN cancel_at IS NOT NULL OR ({POISONED}) THEN :now END,
    crashes = crashes + (:daemon AND user_code AND lane = 'agent' AND suspect),
    suspect = max(suspect, :daemon AND user_code AND lane <> 'child'),
    attempts = attempts - 1, updated_at = :now, {LET_GO}
  WHERE {AMONG}"""


def recover_jobs(tx: Transaction, change: RecoverJobs) -> tuple[Recovered, ...]:
    owner = "boot <> :boot" if change.worker is None else "boot = :boot AND worker = :worker"
    orphans = facts(tx, f"status = 'active' AND {owner}", boot=change.boot, worker=change.worker)
    if not orphans:
        return ()
    values = {"now": change.now, "seqs": seqs(orphans)}
    tx.sql.execute(END_ATTEMPTS, values | {"error": None})
    tx.sql.execute(TAKE_FROM_DEAD, values | {"daemon": change.worker is None})
    jobs = taken_back(tx, orphans)
    poisoned = [job for job in jobs if job.status == "failed"]
    tx.sql.execute(KEEP_ERROR, {"error": POISON_ERROR, "seqs": seqs(poisoned)})
    suspects = {job.seq for job in facts(tx, f"{AMONG} AND suspect = 1", seqs=seqs(jobs))}
    recovered = [Recovered(job.id, job.queue, job.lane, job.status, job.seq in suspects) for job in jobs]
    tx.tell(
        [
            ("job.recovered", job.id, {**job.about, "status": job.status, "suspect": job.seq in suspects})
            for job in jobs
        ],
        change.now,
    )
    tell_ended(tx, jobs, change.now)
    return tuple(recovered)


# -- put right ---------------------------------------------------------------------------------------------------------

# Each is what no rule allows to be; nobody but a fault of ours can make it.
LOOSE: Final = """
  status = 'waiting' AND reason = 'deps'
  AND NOT EXISTS (SELECT 1 FROM job_deps WHERE child = jobs.seq AND state IN ('open', 'broken'))"""
BEREFT: Final = """
  status = 'waiting' AND reason = 'children'
  AND NOT EXISTS (SELECT 1 FROM jobs AS part WHERE part.parent = jobs.seq AND part.finished_at IS NULL)"""
SIGNALLED: Final = """
  status = 'waiting' AND reason = 'signal'
  AND EXISTS (SELECT 1 FROM job_signals WHERE target = jobs.seq AND name = jobs.waits AND consumed_at IS NULL)"""
STALLED: Final = """
  SELECT json_group_array(json_array(key, most)) FROM (
    SELECT limit_key AS key, max(limit_max) AS most FROM jobs WHERE status = 'waiting' AND reason = 'limit'
      AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.limit_key = jobs.limit_key
        AND other.status = 'pending' AND other.finished_at IS NULL
        AND other.queue = jobs.queue AND other.lane = jobs.lane)
    GROUP BY limit_key)"""


def repair_jobs(tx: Transaction, change: RepairJobs) -> dict[str, int]:
    loose = facts(tx, LOOSE)
    go_on(tx, loose, change.now)
    woken = {"children_released": facts(tx, BEREFT), "signal_released": facts(tx, SIGNALLED)}
    for jobs in woken.values():
        wake(tx, jobs, change.now)
    stalled = json.loads(tx.sql.execute(STALLED).fetchall()[0][0])
    made = {"deps_released": len(loose), "limit_released": free_keys(tx, dict(stalled), change.now)}
    made |= {name: len(jobs) for name, jobs in woken.items()}
    return {name: count for name, count in made.items() if count}
