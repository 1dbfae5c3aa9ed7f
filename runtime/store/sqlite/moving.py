"""Many jobs read and moved at once: one statement to learn how they stand, one to put them where they go on."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from runtime.store.port import AGING_MS
from runtime.store.sqlite.transaction import Transaction, compact
from schemas.jobs import Lane, Status


class Facts(NamedTuple):
    """What deciding about a job takes, as it stood when it was read. `parent` is a seq."""

    seq: int
    id: str
    kind: str
    queue: str
    lane: Lane
    status: Status
    reason: str | None
    execute_after: int
    deadline_at: int | None
    limit_key: str | None
    parent: int | None

    @property
    def about(self) -> dict[str, Any]:
        """What every event about a job says."""
        return {"queue": self.queue, "kind": self.kind}


FACTS: Final = "seq, id, kind, queue, lane, status, reason, execute_after, deadline_at, limit_key, parent"

# A static key, so that claiming never sorts: see `runtime.store.port.AGING_MS`.
RANK: Final = f"CASE lane WHEN 'agent' THEN 0 ELSE max(execute_after, :now) + priority * {AGING_MS} END"

# Rows travel as one JSON text: sqlite3 takes and gives back Python's lock at every row it steps over.
AMONG: Final = "seq IN (SELECT value FROM json_each(:seqs))"


def facts(tx: Transaction, where: str, **values: Any) -> list[Facts]:
    """Return the jobs that *where* finds, oldest first."""
    query = f"SELECT json_group_array(json_array({FACTS})) FROM jobs WHERE {where}"
    found = json.loads(tx.sql.execute(query, values).fetchall()[0][0])
    return [Facts(*row) for row in sorted(found)]


def facts_of(tx: Transaction, ids: Sequence[str]) -> dict[str, Facts]:
    """Return the jobs of *ids* that there are, by id."""
    found = facts(tx, "id IN (SELECT value FROM json_each(:ids))", ids=compact(ids))
    return {job.id: job for job in found}


def seqs(jobs: Iterable[Facts]) -> str:
    """Return the numbers of *jobs* as a statement takes them."""
    return compact([job.seq for job in jobs])


GO_ON: Final = f"""
  UPDATE jobs SET status = CASE WHEN execute_after > :now THEN 'delayed' ELSE 'pending' END,
    reason = CASE WHEN execute_after > :now THEN 'scheduled' END,
    rank = {RANK}, waits = NULL, wait_until = NULL, updated_at = :now WHERE {AMONG}"""
WAKE: Final = f"""
  UPDATE jobs SET status = 'pending', reason = NULL, waits = NULL, wait_until = NULL, updated_at = :now
  WHERE {AMONG}"""
PUT: Final = f"""
  UPDATE jobs SET status = :status, reason = :reason, waits = NULL, wait_until = NULL, updated_at = :now
  WHERE {AMONG}"""
END: Final = f"""
  UPDATE jobs SET status = :status, reason = :reason, waits = NULL, wait_until = NULL, finished_at = :now,
    updated_at = :now WHERE {AMONG}"""


def go_on(tx: Transaction, jobs: Sequence[Facts], now: int) -> None:
    """Let jobs stand where nothing but time holds them: delayed until they are due, or pending, ranked from now."""
    if jobs:
        tx.sql.execute(GO_ON, {"now": now, "seqs": seqs(jobs)})
        later = [job for job in jobs if job.execute_after > now]
        tell_moves(tx, later, "delayed")
        tell_moves(tx, [job for job in jobs if job.execute_after <= now], "pending")


def wake(tx: Transaction, jobs: Sequence[Facts], now: int) -> None:
    """Make jobs pending that keep their old place in the queue: they had their turn before."""
    if jobs:
        tx.sql.execute(WAKE, {"now": now, "seqs": seqs(jobs)})
        tell_moves(tx, jobs, "pending")


def put(tx: Transaction, jobs: Sequence[Facts], status: Status, reason: str, now: int) -> None:
    """Have jobs held or waiting for the same reason."""
    if jobs:
        tx.sql.execute(PUT, {"status": status, "reason": reason, "now": now, "seqs": seqs(jobs)})
        tell_moves(tx, jobs, status)


def end(tx: Transaction, jobs: Sequence[Facts], status: Status, reason: str, now: int) -> None:
    """End jobs that are not active, all alike, with an event each. What waits for them is not looked at."""
    if jobs:
        tx.sql.execute(END, {"status": status, "reason": reason, "now": now, "seqs": seqs(jobs)})
        tell_moves(tx, jobs, status)
        tx.events += [
            (now, f"job.{status}", job.id, {"queue": job.queue, "kind": job.kind, "reason": reason}) for job in jobs
        ]


Place: TypeAlias = tuple[str, Lane, Status]


def tell_moves(tx: Transaction, jobs: Iterable[Facts], after: Status) -> None:
    """Have it told that *jobs* went from where they stood to *after*; what did not move is left out."""
    tally: dict[Place, int] = {}
    due: dict[Place, int] = {}
    for job in jobs:
        if job.status == after:
            continue
        place = (job.queue, job.lane, job.status)
        tally[place] = tally.get(place, 0) + 1
        when = due_at(job, after)
        if when is not None:
            due[place] = min(when, due.get(place, when))
    for place, count in tally.items():
        queue, lane, before = place
        tx.moved(queue, lane, before, after, count, due.get(place))


def due_at(job: Facts, after: Status) -> int | None:
    """Return when somebody has to look at a job that stands as *after*: it is due then, or past its deadline."""
    if after == "delayed":
        return job.execute_after if job.deadline_at is None else min(job.execute_after, job.deadline_at)
    return job.deadline_at if after in ("pending", "waiting") else None
