"""How jobs that ended are forgotten: the oldest first, a few at a time, and never one that something still hangs on."""

import heapq
import sqlite3
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeAlias

from runtime.store.port import DeleteEnded
from runtime.store.sqlite.moving import AMONG
from runtime.store.sqlite.transaction import Transaction, compact
from schemas.jobs import KEEP_TAG, Lane, Status

Row: TypeAlias = tuple[int, Lane, int, str, bool]
"""A job that ended: (finished_at, lane, seq, queue, whether it has to stay)."""

# In the order of the index jobs_ended, so that nothing is sorted and only as many rows are looked at as are wanted.
OLDEST: Final = f"""
  SELECT finished_at, lane, seq, queue,
    EXISTS (SELECT 1 FROM job_tags WHERE tag = '{KEEP_TAG}' AND job_tags.seq = jobs.seq)
    OR EXISTS (SELECT 1 FROM job_deps CROSS JOIN jobs AS child ON child.seq = job_deps.child
      WHERE job_deps.parent = jobs.seq AND (state IN ('open', 'broken') OR child.finished_at IS NULL))
    OR EXISTS (SELECT 1 FROM jobs AS part WHERE part.parent = jobs.seq AND part.finished_at IS NULL)
    OR EXISTS (SELECT 1 FROM jobs AS whole WHERE whole.seq = jobs.parent AND whole.finished_at IS NULL)
  FROM jobs WHERE status = ? AND queue = ? AND finished_at IS NOT NULL ORDER BY finished_at, lane, seq"""
COUNT: Final = "SELECT count(*) FROM jobs WHERE status = ? AND queue = ? AND finished_at IS NOT NULL"
# From one name to the next: DISTINCT would walk over every job.
QUEUES: Final = """
  WITH RECURSIVE names (name) AS (
    SELECT min(queue) FROM jobs WHERE status = ?1 AND finished_at IS NOT NULL
    UNION ALL
    SELECT (SELECT min(queue) FROM jobs WHERE status = ?1 AND finished_at IS NOT NULL AND queue > name)
    FROM names WHERE name IS NOT NULL)
  SELECT name FROM names WHERE name IS NOT NULL"""


def delete_ended(tx: Transaction, change: DeleteEnded) -> int:
    queues = [change.queue] if change.queue is not None else queues_of(tx.sql, change.status, change.without)
    spare = 0
    if change.keep is not None:
        spare = sum(tx.sql.execute(COUNT, (change.status, queue)).fetchone()[0] for queue in queues) - change.keep
    gone = list(islice(to_forget(tx.sql, change, queues, spare), change.limit))
    if gone:
        tx.sql.execute(f"DELETE FROM jobs WHERE {AMONG}", {"seqs": compact([seq for _, _, seq, _, _ in gone])})
    for _, lane, _, queue, _ in gone:
        tx.moved(queue, lane, change.status, None)
    return len(gone)


def queues_of(sql: sqlite3.Connection, status: Status, without: tuple[str, ...]) -> list[str]:
    """Return the queues that have jobs of an ended status, but those in *without*."""
    return [name for (name,) in sql.execute(QUEUES, (status,)).fetchall() if name not in without]


def to_forget(sql: sqlite3.Connection, change: DeleteEnded, queues: list[str], spare: int) -> Iterator[Row]:
    """Yield what is to go, oldest first: what is too old, and of the oldest as many as there are too many."""
    oldest: Iterator[Row] = heapq.merge(*(sql.execute(OLDEST, (change.status, queue)) for queue in queues))
    for place, row in enumerate(oldest):
        if row[0] >= change.before and place >= spare:
            return
        if not row[4]:
            yield row
