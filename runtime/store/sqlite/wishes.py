"""How people's wishes are applied: cancel, pause, resume, retry. What is named in one change is taken together."""

from collections.abc import Sequence
from typing import Final

from runtime.store.port import (
    AGING_MS,
    CancelJobs,
    CancelResult,
    PauseJobs,
    PauseResult,
    ResumeJobs,
    Retried,
    RetryJobs,
)
from runtime.store.sqlite.edges import free_keys, read, settle_ended
from runtime.store.sqlite.moving import AMONG, Facts, end, facts, facts_of, go_on, put, seqs, tell_moves
from runtime.store.sqlite.transaction import Transaction
from schemas.jobs import ENDED, Lease, Status

# -- cancel ------------------------------------------------------------------------------------------------------------

WISH: Final = f"UPDATE jobs SET cancel_at = coalesce(cancel_at, :now), updated_at = :now WHERE {AMONG}"


def cancel_jobs(tx: Transaction, change: CancelJobs) -> list[CancelResult | None]:
    found = facts_of(tx, change.ids)
    living = [job for job in unique(found, change.ids) if job.status not in ENDED]
    active = [job for job in living if job.status == "active"]
    waiting = [job for job in living if job.status != "active"]
    if living:
        tx.sql.execute(WISH, {"now": change.now, "seqs": seqs(living)})
    end(tx, waiting, "cancelled", "user", change.now)
    tx.tell([("job.cancel_requested", job.id, job.about) for job in active], change.now)
    settle_ended(tx, [(job.seq, "cancelled", job.limit_key, job.parent) for job in waiting], change.now)
    leases = leases_of(tx, active)
    results: list[CancelResult | None] = []
    for job_id in change.ids:
        job = found.get(job_id)
        results.append(None if job is None else cancelled(job, leases))
        if job is not None and job.status not in (*ENDED, "active"):
            found[job_id] = job._replace(status="cancelled")  # named twice: the second comes too late
    return results


def unique(found: dict[str, Facts], ids: Sequence[str]) -> list[Facts]:
    """Return the jobs of *ids* that there are, once each, in the order in which they are named."""
    return [found[job_id] for job_id in dict.fromkeys(ids) if job_id in found]


def cancelled(job: Facts, leases: dict[int, Lease]) -> CancelResult:
    place = (job.status, job.queue, job.lane)
    if job.status in ENDED:
        return CancelResult("too_late", job.status, *place)
    if job.status == "active":
        return CancelResult("requested", job.status, *place, leases[job.seq])
    return CancelResult("cancelled", "cancelled", *place)


def leases_of(tx: Transaction, jobs: Sequence[Facts]) -> dict[int, Lease]:
    """Return the leases of active jobs, by seq."""
    query = """SELECT json_group_array(json_array(seq, id, epoch, worker, boot)) FROM jobs
               WHERE seq IN (SELECT value FROM json_each(?)) AND status = 'active'"""
    return {row[0]: Lease(*row) for row in read(tx, query, [job.seq for job in jobs])}


# -- pause and resume --------------------------------------------------------------------------------------------------

WISH_PAUSE: Final = f"UPDATE jobs SET pause_at = coalesce(pause_at, :now), updated_at = :now WHERE {AMONG}"
FORGET_PAUSE: Final = f"UPDATE jobs SET pause_at = NULL, updated_at = :now WHERE {AMONG}"


def pause_jobs(tx: Transaction, change: PauseJobs) -> list[PauseResult | None]:
    found = facts_of(tx, change.ids)
    living = [job for job in unique(found, change.ids) if job.status not in ENDED]
    active = [job for job in living if job.status == "active"]
    held = [job for job in living if job.status != "active" and (job.status, job.reason) != ("paused", "user")]
    if active:
        tx.sql.execute(WISH_PAUSE, {"now": change.now, "seqs": seqs(active)})
    tx.tell([("job.pause_requested", job.id, job.about) for job in active], change.now)
    put(tx, held, "paused", "user", change.now)
    tx.tell([("job.held", job.id, {**job.about, "reason": "user"}) for job in held], change.now)
    free_keys(tx, (job.limit_key for job in held if job.limit_key and job.status == "pending"), change.now)
    outcomes = {job.id: PauseResult("requested", "active") for job in active}
    outcomes |= {job.id: PauseResult("paused", "paused") for job in held}
    return [outcomes.get(job_id) or left_alone(found.get(job_id)) for job_id in change.ids]


def left_alone(job: Facts | None) -> PauseResult | None:
    """Return the answer about a job that was not changed."""
    if job is None:
        return None
    return PauseResult("too_late" if job.status in ENDED else "unchanged", job.status)


# How the edges of jobs hold them: (seq, how many are open, how many are broken).
HOLDS: Final = """
  SELECT json_group_array(json_array(child, open, broken)) FROM (
    SELECT child, sum(state = 'open') AS open, sum(state = 'broken') AS broken FROM job_deps
    WHERE child IN (SELECT value FROM json_each(?)) AND state IN ('open', 'broken') GROUP BY child)"""
IGNORE: Final = """
  UPDATE job_deps SET state = 'ignored' WHERE child IN (SELECT value FROM json_each(?)) AND state = 'broken'"""


def resume_jobs(tx: Transaction, change: ResumeJobs) -> list[PauseResult | None]:
    found = facts_of(tx, change.ids)
    jobs = unique(found, change.ids)
    holds = {seq: opened for seq, opened, _ in read(tx, HOLDS, [job.seq for job in jobs])}
    paused = [job for job in jobs if job.status == "paused"]
    stuck = [job for job in jobs if (job.status, job.reason) == ("waiting", "deps") and holds.get(job.seq) == 0]
    active = facts(tx, f"{AMONG} AND status = 'active' AND pause_at IS NOT NULL", seqs=seqs(jobs))
    if stuck:
        tx.sql.execute(IGNORE, (seqs(stuck),))
    if active:
        tx.sql.execute(FORGET_PAUSE, {"now": change.now, "seqs": seqs(active)})
    put(tx, [job for job in paused if job.seq in holds], "waiting", "deps", change.now)
    go_on(tx, [job for job in paused if job.seq not in holds] + stuck, change.now)
    changed = {*paused, *stuck, *active}
    stand = facts_of(tx, [job.id for job in jobs if job in changed])
    told = [("job.resumed", job.id, {**job.about, "status": job.status}) for job in unique(stand, change.ids)]
    tx.tell(told, change.now)
    return [
        PauseResult("resumed", stand[job_id].status) if job_id in stand else left_alone(found.get(job_id))
        for job_id in change.ids
    ]


# -- retry -------------------------------------------------------------------------------------------------------------

# The words that jobs would hold again: (seq, kind, word, whether another job holds it now).
WORDS: Final = """
  SELECT json_group_array(json_array(seq, kind, unique_key, EXISTS (
    SELECT 1 FROM jobs AS other WHERE other.kind = jobs.kind AND other.unique_key = jobs.unique_key
      AND other.finished_at IS NULL)))
  FROM jobs WHERE seq IN (SELECT value FROM json_each(?)) AND unique_key IS NOT NULL"""
# Those that ended over a job, and over those in turn.
FALLEN: Final = """
  seq IN (
    WITH RECURSIVE fallen (seq) AS (
      SELECT :root
      UNION
      SELECT child FROM fallen CROSS JOIN job_deps ON job_deps.parent = fallen.seq
        CROSS JOIN jobs AS kin ON kin.seq = child
      WHERE state = 'broken' AND kin.status IN ('cancelled', 'failed') AND kin.reason = 'dependency')
    SELECT seq FROM fallen)"""
REOPEN: Final = """
  UPDATE job_deps SET state = 'open' WHERE parent IN (SELECT value FROM json_each(?)) AND state = 'broken'"""
TAKE_BACK: Final = f"""
  UPDATE jobs SET status = :status, reason = :reason, attempts = 0, crashes = 0, snoozes = 0, suspect = 0,
    cancel_at = NULL, pause_at = NULL, finished_at = NULL, execute_after = :now, updated_at = :now,
    rank = CASE lane WHEN 'agent' THEN 0 ELSE :now + priority * {AGING_MS} END,
    deadline_at = CASE WHEN deadline_at > :now THEN deadline_at END
  WHERE {AMONG}"""
FORGET_END: Final = f"UPDATE job_data SET result = NULL, error = NULL, progress = NULL WHERE {AMONG}"


def retry_jobs(tx: Transaction, change: RetryJobs) -> list[Retried | Status | None]:
    found = facts_of(tx, change.ids)
    ended = [job for job in unique(found, change.ids) if job.status in ("failed", "cancelled")]
    roots = without_rivals(tx, ended)
    also: dict[int, list[Facts]] = {}
    if change.dependants and tx.edges:
        also = dependants(tx, roots)
    held = take_back(tx, roots, [job for jobs in also.values() for job in jobs], change.now)
    results: list[Retried | Status | None] = []
    taken = {job.id: job for job in roots}
    for job_id in change.ids:
        job = taken.pop(job_id, None)
        if job is not None:
            results.append(Retried(job.queue, job.lane, job.status, len(also.get(job.seq, ()))))
            # Named twice: the second is told where it stands by then.
            found[job_id] = job._replace(status="waiting" if job.seq in held else "pending")
        else:
            results.append(found[job_id].status if job_id in found else None)
    return results


def without_rivals(tx: Transaction, jobs: Sequence[Facts]) -> list[Facts]:
    """Leave out those whose unique word another job holds, now or as one before them in *jobs*."""
    words = {seq: (kind, word, bool(held)) for seq, kind, word, held in read(tx, WORDS, [job.seq for job in jobs])}
    taken: set[tuple[str, str]] = set()
    kept = []
    for job in jobs:
        kind, word, held = words.get(job.seq, ("", "", False))
        if held or (kind, word) in taken:
            continue
        if job.seq in words:
            taken.add((kind, word))
        kept.append(job)
    return kept


def dependants(tx: Transaction, roots: Sequence[Facts]) -> dict[int, list[Facts]]:
    """Return what ended over each of *roots*, by the seq of the root; each job is named once."""
    known = {job.seq for job in roots}
    found: dict[int, list[Facts]] = {}
    for root in roots:
        fallen = [job for job in facts(tx, FALLEN, root=root.seq) if job.seq not in known]
        known.update(job.seq for job in fallen)
        found[root.seq] = fallen
    kept = {job.seq for job in without_rivals(tx, [*roots, *(job for jobs in found.values() for job in jobs)])}
    return {seq: [job for job in jobs if job.seq in kept] for seq, jobs in found.items()}


def take_back(tx: Transaction, roots: Sequence[Facts], also: Sequence[Facts], now: int) -> set[int]:
    """Make ended jobs pending again, or waiting where a parent of theirs has not ended or goes on to hold them; return
    those.
    """
    jobs = [*roots, *also]
    if not jobs:
        return set()
    if tx.edges:
        tx.sql.execute(REOPEN, (seqs(jobs),))
        tx.sql.execute(IGNORE, (seqs(roots),))
    held = {row[0] for row in read(tx, HOLDS, [job.seq for job in jobs])} if tx.edges else set()
    for status, reason, some in (
        ("pending", None, [job for job in jobs if job.seq not in held]),
        ("waiting", "deps", [job for job in jobs if job.seq in held]),
    ):
        tx.sql.execute(TAKE_BACK, {"status": status, "reason": reason, "now": now, "seqs": seqs(some)})
        tell_moves(tx, [fresh(job, now) for job in some], status)  # type: ignore[arg-type]  # one of the two above
    tx.sql.execute(FORGET_END, {"seqs": seqs(jobs)})
    tx.tell([("job.retried", job.id, job.about) for job in jobs], now)
    return held


def fresh(job: Facts, now: int) -> Facts:
    """Return *job* without a deadline that has passed."""
    return job if job.deadline_at is None or job.deadline_at > now else job._replace(deadline_at=None)
