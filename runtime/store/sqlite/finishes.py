"""How attempts end: those that completed by the short way, all others after their jobs were read."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from runtime.errors import LeaseLost, problem
from runtime.store.port import MAX_CRASHES, Finish, Finished, FinishJobs
from runtime.store.sqlite.attempts import LET_GO, Attempt, keep_attempts
from runtime.store.sqlite.edges import Ended, free_keys, settle_ended
from runtime.store.sqlite.transaction import Bulk, EventRow, Transaction, compact
from schemas.jobs import ENDED, MAX_SNOOZES, Claimed, Fence, Lane, Status

Results = list[Finished | None]


def finish_jobs(tx: Transaction, change: FinishJobs) -> Results:
    finishes = change.finishes
    short = [finish for finish in finishes if is_short(finish)]
    if len(short) < len(finishes) and len({finish.fence.seq for finish in finishes}) < len(finishes):
        return decide_all(tx, finishes, change)  # a job is named twice, and its first end counts
    done = complete(tx, short, change.now)
    if len(done) == len(finishes):
        return list(done.values())
    others = decide_all(tx, [finish for finish in finishes if finish.fence.seq not in done], change)
    read = iter(others)
    return [done.get(finish.fence.seq) or next(read) for finish in finishes]


class Owned(NamedTuple):
    """What deciding about an attempt takes of its job's row."""

    seq: int
    epoch: int
    worker: str
    boot: str
    id: str
    queue: str
    lane: Lane
    kind: str
    attempts: int
    crashes: int
    snoozes: int
    cancel_at: int | None
    pause_at: int | None
    execute_after: int
    deadline_at: int | None
    claimed_at: int | None
    limit_key: str | None
    parent: int | None


# -- the short way -----------------------------------------------------------------------------------------------------

COMPLETE: Final = Bulk(
    3,
    f"UPDATE jobs SET status = 'completed', finished_at = ?1, updated_at = ?1, suspect = 0, pause_at = NULL, {LET_GO}"
    " FROM",
    "AS done WHERE seq = column1 AND epoch = column2 AND worker = column3 AND boot = ?2 AND status = 'active'",
    shared=2,
)
KEEP_DATA: Final = Bulk(3, "UPDATE job_data SET result = column2, error = column3 FROM", "AS done WHERE seq = column1")


def is_short(finish: Finish) -> bool:
    """Tell whether all that ending it takes is at hand: nothing can stop a job from completing but a lost fence."""
    return finish.status == "completed" and type(finish.fence) is Claimed and not finish.crash and not finish.refund


def complete(tx: Transaction, finishes: Sequence[Finish], now: int) -> dict[int, Finished]:
    """Complete the jobs of *finishes* in one fenced statement; where one of the fences was lost, none of them.

    Whether one was lost is told by the number of rows, so nothing needs to be read first.
    """
    rows: list[Any] = []
    data: list[Any] = []
    jobs: list[Claimed] = []
    results: dict[int, Finished] = {}
    for finish in finishes:
        job: Claimed = finish.fence  # type: ignore[assignment]  # see is_short
        rows += (job.seq, job.epoch, job.worker)
        if finish.result is not None or finish.error is not None or job.epoch > 1:
            data += (job.seq, finish.result, finish.error)
        results[job.seq] = Finished(job.id, job.queue, job.lane, "completed", None, 0)
        jobs.append(job)
    boots = {job.boot for job in jobs}
    if len(results) < len(finishes) or len(boots) != 1:
        return {}
    tx.sql.execute("SAVEPOINT short")
    found = COMPLETE.run(tx.sql, rows, now, *boots)
    if found < len(finishes):
        tx.sql.execute("ROLLBACK TO short")
    tx.sql.execute("RELEASE short")
    if found < len(finishes):
        return {}
    KEEP_DATA.run(tx.sql, data)
    settle_short(tx, jobs, now)
    return results


def settle_short(tx: Transaction, jobs: Sequence[Claimed], now: int) -> None:
    """Do and tell what follows from the completion of *jobs*."""
    moves: dict[tuple[str, Lane], int] = {}
    for job in jobs:
        moves[job.queue, job.lane] = moves.get((job.queue, job.lane), 0) + 1
    for (queue, lane), count in moves.items():
        tx.moved(queue, lane, "active", "completed", count)
    tx.events += [(now, "job.completed", job.id, {"queue": job.queue, "kind": job.kind}) for job in jobs]
    settle(tx, [(job, "completed") for job in jobs], now)


def settle(tx: Transaction, ended: Iterable[tuple[Claimed | Owned, Status]], now: int) -> None:
    """Release what waited for jobs that ended, where there can be any."""
    waited_for: list[Ended] = [
        (job.seq, status, job.limit_key, job.parent)
        for job, status in ended
        if tx.edges or job.limit_key is not None or job.parent is not None
    ]
    if waited_for:
        settle_ended(tx, waited_for, now)


# -- the long way ------------------------------------------------------------------------------------------------------


OWNED: Final = f"""
  SELECT json_group_array(json_array({", ".join(Owned._fields)}))
  FROM jobs WHERE seq IN (SELECT value FROM json_each(?)) AND status = 'active'"""


@dataclass(slots=True)
class Decided:
    """What becomes of an attempt and its job."""

    job: Owned
    finish: Finish
    status: Status
    reason: str | None
    error: str | None

    @property
    def due(self) -> int:
        """When the job is due."""
        asked = self.finish.execute_after
        return asked if self.finish.status == "delayed" and asked is not None else self.job.execute_after


def decide_all(tx: Transaction, finishes: Sequence[Finish], change: FinishJobs) -> Results:
    """End attempts after their jobs were read; the answer is None for those whose fence was lost."""
    owned = owned_rows(tx, [finish.fence for finish in finishes])
    ends: list[Decided | None] = []
    for finish in finishes:
        fence = finish.fence
        job = owned.get(fence.seq)
        if job is None or (job.epoch, job.worker, job.boot) != (fence.epoch, fence.worker, fence.boot):
            if change.strict:
                raise LeaseLost(f"another attempt owns job {fence.id} now", job=fence.id)
            ends.append(None)
            continue
        del owned[fence.seq]  # one attempt ends once, whatever the batch says
        ends.append(Decided(job, finish, *verdict(finish, job)))
    accepted = [end for end in ends if end is not None]
    if accepted:
        wake_at_once(tx, accepted)
        write(tx, accepted, change.now)
    return [
        None if end is None else Finished(end.job.id, end.job.queue, end.job.lane, end.status, end.reason, end.due)
        for end in ends
    ]


def owned_rows(tx: Transaction, fences: Sequence[Fence]) -> dict[int, Owned]:
    """Return the active jobs among *fences*, by seq."""
    found = tx.sql.execute(OWNED, (compact([fence.seq for fence in fences]),)).fetchall()[0][0]
    return {row[0]: Owned(*row) for row in json.loads(found)}


TOO_MANY_SNOOZES: Final = problem(
    "job.failed", f"the job put itself off more than {MAX_SNOOZES:,} times; it would never end"
).model_dump_json()


def verdict(finish: Finish, job: Owned) -> tuple[Status, str | None, str | None]:
    """Return where an attempt that ends as *finish* leaves its job, and with which error.

    What finished before it was stopped stays completed, whatever was wished; everything else gives way to a wish to
    cancel, and what would wait again to a wish to pause.
    """
    if finish.status == "completed":
        return "completed", None, finish.error
    if job.cancel_at is not None:
        return "cancelled", "user", finish.error
    if finish.crash and job.crashes + 1 >= MAX_CRASHES:
        return "failed", "poison", finish.error
    if finish.reason == "snooze" and finish.asked and job.snoozes >= MAX_SNOOZES:
        return "failed", "permanent", finish.error or TOO_MANY_SNOOZES
    if job.pause_at is not None and finish.status in ("pending", "delayed", "waiting"):
        return "paused", "user", finish.error
    return finish.status, finish.reason, finish.error


SIGNALS_THERE: Final = """
  SELECT json_group_array(wanted.value ->> 0) FROM json_each(?) AS wanted WHERE EXISTS (
    SELECT 1 FROM job_signals
    WHERE target = wanted.value ->> 0 AND name = wanted.value ->> 1 AND consumed_at IS NULL)"""
CHILDREN_LEFT: Final = """
  SELECT json_group_array(DISTINCT parent) FROM jobs
  WHERE parent IN (SELECT value FROM json_each(?1)) AND finished_at IS NULL
    AND seq NOT IN (SELECT value FROM json_each(?2))"""


def wake_at_once(tx: Transaction, ends: Sequence[Decided]) -> None:
    """Let those be pending that would wait for what is there already."""
    signals = {end.job.seq: end for end in ends if (end.status, end.reason) == ("waiting", "signal")}
    children = {end.job.seq: end for end in ends if (end.status, end.reason) == ("waiting", "children")}
    awake: set[int] = set()
    if signals:
        wanted = compact([(seq, end.finish.waits) for seq, end in signals.items()])
        awake.update(json.loads(tx.sql.execute(SIGNALS_THERE, (wanted,)).fetchall()[0][0]))
    if children:
        over = [end.job.seq for end in ends if end.status in ENDED]
        left = tx.sql.execute(CHILDREN_LEFT, (compact(list(children)), compact(over))).fetchall()[0][0]
        awake.update(children.keys() - set(json.loads(left)))
    for seq in awake:
        end = signals.get(seq) or children[seq]
        end.status, end.reason = "pending", None


MOVE: Final = Bulk(
    10,
    f"""UPDATE jobs SET status = column2, reason = column3, execute_after = column4, attempts = attempts - column5,
          crashes = crashes + column6, suspect = suspect AND (column5 OR column6), snoozes = snoozes + column7,
          waits = column8, wait_until = column9, finished_at = column10, pause_at = NULL, updated_at = ?1, {LET_GO}
        FROM""",
    "AS done WHERE seq = column1",
    shared=1,
)


def write(tx: Transaction, ends: Sequence[Decided], now: int) -> None:
    """Write what was decided, and do and tell what follows from it."""
    rows: list[Any] = []
    data: list[Any] = []
    for end in ends:
        finish, seq = end.finish, end.job.seq
        waits = (finish.waits, finish.wait_until) if end.status == "waiting" else (None, None)
        rows += (
            *(seq, end.status, end.reason, end.due, int(finish.refund), int(finish.crash)),
            *(int(end.reason == "snooze" and finish.asked), *waits, now if end.status in ENDED else None),
        )
        if finish.result is not None or end.error is not None or end.job.epoch > 1:
            data += (seq, finish.result, end.error)
        look = look_at(end)
        tx.moved(end.job.queue, end.job.lane, "active", end.status, 1, look)
    MOVE.run(tx.sql, rows, now)
    KEEP_DATA.run(tx.sql, data)
    keep_attempts(tx, [remembered(end) for end in ends if end.status != "completed"], now)
    tx.events += [told(end, now) for end in ends]
    settle(tx, [(end.job, end.status) for end in ends if end.status in ENDED], now)
    freed = [end.job.limit_key for end in ends if end.job.limit_key is not None and end.status not in ENDED]
    if freed:
        free_keys(tx, freed, now)


def look_at(end: Decided) -> int | None:
    """Return when somebody has to look at the job again."""
    if end.status in ENDED or end.status == "paused":
        return None
    times = [end.job.deadline_at]
    if end.status == "delayed":
        times.append(end.due)
    if end.status == "waiting":
        times.append(end.finish.wait_until)
    return min((time for time in times if time is not None), default=None)


def remembered(end: Decided) -> Attempt:
    """Return how an attempt is remembered."""
    job = end.job
    word = {"pending": "requeued", "delayed": end.reason or "delayed", "paused": "held"}.get(end.status, end.status)
    outcome = "crashed" if end.finish.crash else word
    began = job.claimed_at or 0
    return Attempt(job.seq, job.epoch, job.attempts, job.worker, job.boot, began, outcome, end.error)


def told(end: Decided, now: int) -> EventRow:
    """Return what is told of an attempt's end."""
    data: dict[str, Any] = {"queue": end.job.queue, "kind": end.job.kind}
    if end.reason is not None:
        data["reason"] = end.reason
    if end.status == "delayed":
        data["execute_after"] = end.due
    kind = {"pending": "job.requeued", "paused": "job.held"}.get(end.status, f"job.{end.status}")
    return now, kind, end.job.id, data
