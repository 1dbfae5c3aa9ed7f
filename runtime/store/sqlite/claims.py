"""How jobs are claimed: the first of a queue by rank, but those whose limit key is full step aside."""

import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import from_json

from runtime.store.port import ClaimJobs
from runtime.store.sqlite.transaction import Bulk, Transaction, compact
from schemas.jobs import Claimed

# All columns but the arguments travel as one JSON text, since a row of its own would cost Python's lock each; the
# arguments, which may be wide, follow in one text of their own and are neither quoted nor parsed. JSON text never has
# the character that parts them.
PART: Final = "\x1e"
FOUND: Final = f"""
  SELECT json_group_array(json_array(
      seq, id, epoch + 1, kind, attempts + 1, max_attempts, crashes, suspect, timeout_ms, retry, conversation,
      created_at, snoozes, deadline_at, heartbeat_ms, limit_key, parent, tokens, limit_max)),
    group_concat(args, '{PART}')
  FROM (
    SELECT seq, id, epoch, kind, attempts, max_attempts, crashes, suspect, timeout_ms, conversation, created_at,
      snoozes, deadline_at, heartbeat_ms, limit_key, parent, tokens, limit_max
    FROM jobs
    WHERE status = 'pending' AND queue = ?1 AND lane = ?2 %s
      AND NOT EXISTS (SELECT 1 FROM queues WHERE name = ?1 AND state = 'paused')
    ORDER BY rank, seq LIMIT ?3)
  CROSS JOIN job_data USING (seq)"""
NEXT: Final = FOUND % ""
# An agent's queue: what is older in its conversation comes first, and one at a time.
NEXT_IN_ORDER: Final = (
    FOUND
    % """AND NOT EXISTS (
      SELECT 1 FROM jobs AS older
      WHERE older.queue = jobs.queue AND older.conversation = jobs.conversation
        AND older.finished_at IS NULL AND older.conversation IS NOT NULL
        AND (older.seq < jobs.seq OR older.status = 'active'))"""
)

TAKE: Final = Bulk(
    2,
    """UPDATE jobs SET status = 'active', reason = NULL, attempts = attempts + 1, epoch = epoch + 1, worker = column2,
         boot = ?1, lease_until = ?2, started_at = coalesce(started_at, ?3), claimed_at = ?3, updated_at = ?3 FROM""",
    "AS claim WHERE seq = column1 AND status = 'pending'",
    shared=3,
)
PARK: Final = """
  UPDATE jobs SET status = 'waiting', reason = 'limit', updated_at = ?
  WHERE seq IN (SELECT value FROM json_each(?)) AND status = 'pending'"""


def claim_jobs(tx: Transaction, change: ClaimJobs) -> tuple[Claimed, ...]:
    claimed: list[Claimed] = []
    seats = Seats(tx, change)
    while len(claimed) < len(change.workers):
        wanted = len(change.workers) - len(claimed)
        found = find(tx, change, wanted)
        taken, parked = seats.choose(found)
        if taken:
            take(tx, taken, change)
            claimed += taken
        if parked:
            park(tx, parked, change)
        if len(found) < wanted or len(taken) + len(parked) < len(found):
            break  # there are no more, or the tokens are used up
    tell(tx, claimed, change)
    return tuple(claimed)


Found = tuple[Claimed, int]
"""A job that could be claimed, with its `limit_max`. It has no worker yet."""


def find(tx: Transaction, change: ClaimJobs, wanted: int) -> list[Found]:
    """Return the first *wanted* pending jobs by rank."""
    query = NEXT_IN_ORDER if change.lane == "agent" else NEXT
    ((text, args),) = tx.sql.execute(query, (change.queue, change.lane, wanted)).fetchall()
    if args is None:
        return []
    boot, queue, lane = change.boot, change.queue, change.lane
    return [
        (
            Claimed(
                *(row[0], row[1], row[2], "", boot, row[3], queue, lane, arg, row[4], row[5], row[6], bool(row[7])),
                *row[8:18],
            ),
            row[18],
        )
        for row, arg in zip(from_json(text), args.split(PART), strict=True)
    ]


class Seats:
    """What is left for jobs to start on: workers, tokens, and the room of each limit key."""

    def __init__(self, tx: Transaction, change: ClaimJobs) -> None:
        self._tx = tx
        self._workers = iter(change.workers)
        self._tokens = change.tokens
        self._full = change.full
        self._active: dict[str, int] = {}

    def choose(self, found: Sequence[Found]) -> tuple[list[Claimed], list[int]]:
        """Return which of *found* start, each with its worker, and the numbers of those whose key is full."""
        keys = {job.limit_key for job, _ in found if job.limit_key is not None}
        if not keys and self._tokens is None:  # nothing is in anybody's way
            for job, _ in found:
                job.worker = next(self._workers)
            return [job for job, _ in found], []
        self._count_active(keys)
        taken: list[Claimed] = []
        parked: list[int] = []
        for job, most in found:
            if job.limit_key is not None and self._active.get(job.limit_key, 0) >= most:
                parked.append(job.seq)
                continue
            if not self._pay(job.tokens):
                break
            if job.limit_key is not None:
                self._active[job.limit_key] = self._active.get(job.limit_key, 0) + 1
            job.worker = next(self._workers)
            taken.append(job)
        return taken, parked

    def _pay(self, tokens: int) -> bool:
        if self._tokens is None:
            return True
        if tokens > self._tokens and not self._full:
            return False
        self._full = False  # only the first may take more than there is
        self._tokens -= tokens
        return True

    def _count_active(self, keys: set[str]) -> None:
        unknown = [key for key in keys if key not in self._active]
        if unknown:
            counted = json.loads(self._tx.sql.execute(ACTIVE_OF_KEYS, (compact(unknown),)).fetchall()[0][0])
            self._active.update(counted)


ACTIVE_OF_KEYS: Final = """
  SELECT json_group_object(value, (
    SELECT count(*) FROM jobs WHERE limit_key = value AND finished_at IS NULL AND status = 'active'))
  FROM json_each(?)"""


def take(tx: Transaction, jobs: Sequence[Claimed], change: ClaimJobs) -> None:
    rows: list[Any] = []
    for job in jobs:
        rows += (job.seq, job.worker)
    TAKE.run(tx.sql, rows, change.boot, change.lease_until, change.now)
    tx.moved(change.queue, change.lane, "pending", "active", len(jobs))


def park(tx: Transaction, seqs: Sequence[int], change: ClaimJobs) -> None:
    """Have jobs wait for their limit key, where no claim has to look at them again."""
    tx.sql.execute(PARK, (change.now, compact(seqs)))
    tx.moved(change.queue, change.lane, "pending", "waiting", len(seqs))


def tell(tx: Transaction, claimed: Sequence[Claimed], change: ClaimJobs) -> None:
    now, queue = change.now, change.queue
    tx.events += [
        (
            now,
            "job.started",
            job.id,
            {"queue": queue, "kind": job.kind, "worker": job.worker, "attempt": job.attempt, "epoch": job.epoch},
        )
        for job in claimed
    ]
