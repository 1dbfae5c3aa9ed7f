"""How jobs are added: those that hang on nothing by the short way, the others after their edges were looked at."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

from runtime.errors import LeaseLost
from runtime.store.port import Change, Inserted, InsertJobs, JobRow, rank_of
from runtime.store.sqlite import edges
from runtime.store.sqlite.attempts import still_owned
from runtime.store.sqlite.transaction import Bulk, Transaction
from schemas.jobs import ENDED, Lane, Status


def insert_jobs(tx: Transaction, change: InsertJobs) -> list[Inserted]:
    if change.fence is not None and not still_owned(tx, change.fence):
        raise LeaseLost(f"another attempt owns job {change.fence.id} now", job=change.fence.id)
    if is_plain(change):
        return insert_plain(tx, [(job, change.now) for job in change.jobs])
    results, newcomers = edges.admit(tx, change)
    write(tx, [(job.seq, job.row, job.status, job.reason, job.parent, change.now) for job in newcomers])
    edges.insert_edges(tx, newcomers)
    return results


def is_plain(change: InsertJobs) -> bool:
    """Tell whether nothing in the store has a say in whether and where its jobs are added."""
    for job in change.jobs:
        if job.depends_on or job.tags or job.key is not None or job.unique is not None or job.parent is not None:
            return False
    return change.fence is None


def only_adds(commit: Sequence[Change]) -> bool:
    """Tell whether a commit does nothing but add plain jobs."""
    return len(commit) == 1 and type(commit[0]) is InsertJobs and is_plain(commit[0])


def add_together(tx: Transaction, commits: Sequence[Sequence[Change]]) -> list[list[Any]]:
    """Add the jobs of commits that only add as one; return the results of each."""
    changes: list[InsertJobs] = [commit[0] for commit in commits]  # type: ignore[misc]  # see only_adds
    added = iter(insert_plain(tx, [(job, change.now) for change in changes for job in change.jobs]))
    return [[list(islice(added, len(change.jobs)))] for change in changes]


def insert_plain(tx: Transaction, jobs: Sequence[tuple[JobRow, int]]) -> list[Inserted]:
    """Add plain jobs, (job, now) each."""
    placed: list[Placed] = [
        (seq, job, "delayed", "scheduled", None, now)
        if job.execute_after > now
        else (seq, job, "pending", None, None, now)
        for seq, (job, now) in enumerate(jobs, tx.take_seq(len(jobs)))
    ]
    write(tx, placed)
    return [Inserted(job.id, status) for _, job, status, _, _, _ in placed]


# -- written -----------------------------------------------------------------------------------------------------------

BRIEF: Final = (
    *("seq", "id", "kind", "queue", "lane", "status", "reason", "priority", "rank", "execute_after"),
    *("max_attempts", "user_code", "timeout_ms", "created_at", "updated_at"),
)
RARE: Final = (
    *("key", "conversation", "unique_key", "deadline_at", "heartbeat_ms", "parent", "limit_key", "limit_max"),
    *("tokens", "finished_at"),
)
NOTHING_RARE: Final = (None, None, None, None, None, None, None, 1, 0, None)
"""The rare columns of a job that has none of them; their defaults in the database say the same."""


def inserting(table: str, names: Sequence[str]) -> Bulk:
    """Return the statement that adds rows with the columns *names*, of which the first is never NULL."""
    return Bulk(len(names), f"INSERT INTO {table} ({', '.join(names)}) SELECT * FROM", "WHERE column1 IS NOT NULL")


INSERT_BRIEF: Final = inserting("jobs", BRIEF)
INSERT_WHOLE: Final = inserting("jobs", BRIEF + RARE)
INSERT_ARGS: Final = inserting("job_data", ("seq", "args"))
INSERT_DATA: Final = inserting("job_data", ("seq", "args", "retry", "data"))


Placed: TypeAlias = tuple[int, JobRow, Status, str | None, int | None, int]
"""A new job: (seq, what was asked for, status, reason, seq of its parent, now)."""


def write(tx: Transaction, jobs: Iterable[Placed]) -> None:
    """Write the rows of new jobs and tell of them."""
    brief: list[Any] = []
    whole: list[Any] = []
    args: list[Any] = []
    data: list[Any] = []
    moves: dict[tuple[str, Lane, Status], tuple[int, int | None]] = {}
    for seq, job, status, reason, parent, now in jobs:
        due = max(job.execute_after, now)
        row = (
            *(seq, job.id, job.kind, job.queue, job.lane, status, reason, job.priority),
            *(rank_of(job.lane, due, job.priority), due, job.max_attempts, job.user_code, job.timeout_ms, now, now),
        )
        rare = (
            *(job.key, job.conversation, job.unique, job.deadline_at, job.heartbeat_ms, parent),
            *(job.limit_key, job.limit_max, job.tokens, now if status in ENDED else None),
        )
        if rare == NOTHING_RARE:
            brief += row
        else:
            whole += row + rare
        if job.retry is None and job.data is None:
            args += (seq, job.args)
        else:
            data += (seq, job.args, job.retry, job.data)
        tell(tx, job, status, reason, now)
        place = (job.queue, job.lane, status)
        count, first = moves.get(place, (0, None))
        look = due_at(job, status, due)
        moves[place] = count + 1, look if first is None else first if look is None else min(first, look)
    INSERT_BRIEF.run(tx.sql, brief)
    INSERT_WHOLE.run(tx.sql, whole)
    INSERT_ARGS.run(tx.sql, args)
    INSERT_DATA.run(tx.sql, data)
    for (queue, lane, status), (count, look) in moves.items():
        tx.moved(queue, lane, None, status, count, look)


def tell(tx: Transaction, job: JobRow, status: Status, reason: str | None, now: int) -> None:
    """Tell of a new job."""
    tx.events.append((now, "job.enqueued", job.id, {"queue": job.queue, "kind": job.kind, "status": status}))
    if status in ENDED:
        about = {"queue": job.queue, "kind": job.kind, "reason": reason}
        tx.events.append((now, f"job.{status}", job.id, about))


def due_at(job: JobRow, status: Status, due: int) -> int | None:
    """Return when somebody has to look at a new job again."""
    if status in ENDED:
        return None
    if status != "delayed":
        return job.deadline_at
    return due if job.deadline_at is None else min(due, job.deadline_at)
