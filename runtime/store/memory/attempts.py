"""Jobs come in, are claimed, run and end: what an attempt may write, and what its end means."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from runtime.errors import LeaseLost, StoreError, problem
from runtime.store.memory.base import check_json, gate
from runtime.store.memory.running import Running
from runtime.store.memory.tables import EdgeRow, Job
from runtime.store.port import (
    MAX_CRASHES,
    ClaimJobs,
    Edge,
    Finish,
    Finished,
    FinishJobs,
    Inserted,
    InsertJobs,
    JobRow,
    rank_of,
)
from schemas.jobs import (
    ENDED,
    MAX_SNOOZES,
    AttemptView,
    Claimed,
    EdgeState,
    Lane,
    OnFailure,
    Status,
)

TOO_MANY_SNOOZES: Final = problem(
    "job.failed", f"the job put itself off more than {MAX_SNOOZES:,} times; it would never end"
).model_dump_json()


def renamed(row: JobRow, older: Mapping[str, str]) -> JobRow:
    """Return *row* hanging on the older jobs in place of those that were not added again."""
    if not older or not (row.depends_on or row.parent):
        return row
    edges = tuple(Edge(older.get(edge.parent, edge.parent), edge.on_failure) for edge in row.depends_on)
    return replace(row, depends_on=edges, parent=row.parent and older.get(row.parent, row.parent))


class Attempts(Running):
    """The life of a job."""

    # -- in ----------------------------------------------------------------------------------------------------------

    def insert(self, change: InsertJobs) -> list[Inserted]:
        if change.fence is not None and self._held(change.fence) is None:
            raise LeaseLost(f"another attempt owns job {change.fence.id} now", job=change.fence.id)
        mark = len(self._journal), len(self._jobs.moves)
        results: list[Inserted] = []
        older: dict[str, str] = {}  # what is there already, by the id it would have had: the batch hangs on the older
        for row in change.jobs:
            results.append(self._insert_one(renamed(row, older), change.now))
            if results[-1].existing:
                older[row.id] = results[-1].id
        if change.whole and any(result.conflict or result.unknown for result in results):
            self._back_to(*mark)
        return results

    def _back_to(self, journal: int, moves: int) -> None:
        """Take back what was written since a mark."""
        while len(self._journal) > journal:
            self._journal.pop()()
        del self._jobs.moves[moves:]

    def _insert_one(self, row: JobRow, now: int) -> Inserted:
        refused = self._refusal(row)
        if refused is not None:
            return refused
        if row.id in self._jobs.by_id:
            raise StoreError(f"there is a job {row.id} already", job=row.id)
        check_json(row.args)
        seq = self._next("job")
        edges: dict[int, EdgeRow] = {}
        for edge in row.depends_on:
            parent = self._jobs[self._jobs.by_id[edge.parent]]
            edges.setdefault(parent.seq, EdgeRow(parent.seq, seq, edge.on_failure, settled(parent, edge.on_failure)))
        status, reason = begins(row, list(edges.values()), now)
        eligible = max(now, row.execute_after)
        job = Job(
            seq,
            row,
            status,
            reason,
            eligible,
            rank_of(row.lane, eligible, row.priority),
            created_at=now,
            updated_at=now,
            parent=None if row.parent is None else self._jobs.by_id[row.parent],
            deadline_at=row.deadline_at,
            finished_at=now if status in ENDED else None,
        )
        self._jobs.add(job)
        for parent_seq, made in edges.items():
            self._edges.put((parent_seq, seq), made)
        self._tell(job, now, "enqueued", status=status)
        if job.ended:
            self._tell_end(job, now)
        return Inserted(row.id, status)

    def _refusal(self, row: JobRow) -> Inserted | None:
        """Why a job is not added, if so: it is there already, or hangs on a job that is not."""
        known = None if row.key is None else self._jobs.by_key.get((row.kind, row.key))
        if known is not None:
            older = self._jobs[known]
            same = older.row.args == row.args
            return Inserted(older.row.id, older.status, existing=same, conflict=not same)
        held = None if row.unique is None else self._jobs.by_unique.get((row.kind, row.unique))
        if held is not None:
            return Inserted(self._jobs[held].row.id, self._jobs[held].status, existing=True)
        needed = [edge.parent for edge in row.depends_on] + ([] if row.parent is None else [row.parent])
        unknown = next((name for name in needed if name not in self._jobs.by_id), None)
        return None if unknown is None else Inserted(row.id, "pending", unknown=unknown)

    # -- claimed -----------------------------------------------------------------------------------------------------

    def claim(self, change: ClaimJobs) -> tuple[Claimed, ...]:
        queue = self._queues.get(change.queue)
        if queue is not None and queue.state == "paused":
            return ()
        chosen: list[Job] = []
        full: list[Job] = []
        keys: dict[str, int] = {}
        tokens, may_exceed = change.tokens, change.full
        # Listed before the first is claimed: a conversation yields one job at most, so none of these blocks another.
        for job in self._claimable(change.queue, change.lane):
            if len(chosen) == len(change.workers):
                break
            key = job.row.limit_key
            if key is not None:
                active = keys.setdefault(key, len(self._jobs.key_active.get(key, ())))
                if active >= job.row.limit_max:
                    full.append(job)
                    continue
            if tokens is not None:
                if job.row.tokens > tokens and not may_exceed:
                    break
                may_exceed = False
                tokens -= job.row.tokens
            if key is not None:
                keys[key] += 1
            chosen.append(job)
        for job in full:
            self._jobs.move(job, "waiting", "limit", change.now)
        return tuple(self._claim_one(job, worker, change) for job, worker in zip(chosen, change.workers, strict=False))

    def _claimable(self, queue: str, lane: Lane) -> Iterator[Job]:
        for _, seq in self._jobs.ready[queue, lane]:
            job = self._jobs[seq]
            if lane != "agent" or job.row.conversation is None or self._may_speak(job, job.row.conversation):
                yield job

    def _may_speak(self, job: Job, conversation: str) -> bool:
        # An older job that a person took back is the head again while a younger one may still be active.
        talk = self._jobs.talks[job.row.queue, conversation]
        return talk[0] == job.seq and all(self._jobs[seq].status != "active" for seq in talk)

    def _claim_one(self, job: Job, worker: str, change: ClaimJobs) -> Claimed:
        job = self._jobs.move(
            job,
            "active",
            None,
            change.now,
            worker=worker,
            boot=change.boot,
            lease_until=change.lease_until,
            claimed_at=change.now,
            epoch=job.epoch + 1,
            attempts=job.attempts + 1,
            started_at=job.started_at or change.now,
        )
        attempt = AttemptView(epoch=job.epoch, attempt=job.attempts, worker=worker, started_at=change.now)
        self._attempts.put((job.seq, job.epoch), attempt)
        self._tell(job, change.now, "started", worker=worker, attempt=job.attempts, epoch=job.epoch)
        return claimed(job, worker, change.boot)

    # -- ended -------------------------------------------------------------------------------------------------------

    def finish(self, change: FinishJobs) -> list[Finished | None]:
        results: list[Finished | None] = []
        ended: list[Job] = []
        freed: list[str | None] = []
        for finish in change.finishes:
            job = self._held(finish.fence)
            if job is None:
                if change.strict:
                    raise LeaseLost(
                        f"attempt {finish.fence.epoch} no longer owns job {finish.fence.id}", job=finish.fence.id
                    )
                results.append(None)
                continue
            job = self._finish_one(job, finish, change.now)
            (ended.append(job) if job.ended else freed.append(job.row.limit_key))
            results.append(Finished(job.row.id, *job.place, job.status, job.reason, job.execute_after))
        self._settle_ended(ended, change.now)
        self._free_keys(freed, change.now)
        return results

    def _finish_one(self, job: Job, finish: Finish, now: int) -> Job:
        status, reason, error = verdict(job, finish)
        if status == "waiting" and self._is_there(job, finish):
            status, reason = "pending", None
        asked = finish.execute_after
        due = asked if finish.status == "delayed" and asked is not None else job.execute_after
        # What completed is told by its job alone: its attempt has no error of its own.
        kept = None if status == "completed" else error
        self._end_attempt(job, now, outcome_word(status, reason, finish), kept)
        more: dict[str, Any] = {
            "execute_after": due,
            "attempts": job.attempts - finish.refund,
            "crashes": job.crashes + finish.crash,
            "snoozes": job.snoozes + (reason == "snooze" and finish.asked),
            "result": finish.result,
            "error": error,
            # It is cleared of suspicion only by an attempt that came to its own end.
            "suspect": job.suspect and (finish.crash or finish.refund),
        }
        if status == "waiting":
            more |= {"waits": finish.waits, "wait_until": finish.wait_until}
        job = self._jobs.move(job, status, reason, now, **more)
        self._tell_end(job, now)
        return job

    def _is_there(self, job: Job, finish: Finish) -> bool:
        """Whether what a job is to wait for is there already."""
        if finish.reason == "signal":
            return finish.waits is not None and self._oldest_signal(job, finish.waits) is not None
        return finish.reason == "children" and not self._jobs.living_parts.get(job.seq)


# -- rules without a store ---------------------------------------------------------------------------------------------


def settled(parent: Job, on_failure: OnFailure) -> EdgeState:
    """How an edge stands to *parent*."""
    if not parent.ended:
        return "open"
    if parent.status == "completed":
        return "satisfied"
    return "ignored" if on_failure == "run" else "broken"


def begins(row: JobRow, edges: list[EdgeRow], now: int) -> tuple[Status, str | None]:
    """Where a new job begins: its edges come first, then time."""
    if any(edge.state == "broken" and edge.on_failure == "cancel" for edge in edges):
        return "cancelled", "dependency"
    if any(edge.state in ("open", "broken") for edge in edges):
        return "waiting", "deps"
    return gate(row.execute_after, now)


def verdict(job: Job, finish: Finish) -> tuple[Status, str | None, str | None]:
    """Where an attempt's end leaves its job, and with which error: a wish to cancel wins over all but success, a crash
    too many is poison, and what would wait again gives way to a wish to pause.
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


def outcome_word(status: Status, reason: str | None, finish: Finish) -> str:
    """How the attempt is remembered."""
    if finish.crash and status != "completed":
        return "crashed"
    return {"pending": "requeued", "delayed": reason or "delayed", "paused": "held"}.get(status, status)


def claimed(job: Job, worker: str, boot: str) -> Claimed:
    row = job.row
    return Claimed(
        seq=job.seq,
        id=row.id,
        epoch=job.epoch,
        worker=worker,
        boot=boot,
        kind=row.kind,
        queue=row.queue,
        lane=row.lane,
        args=row.args,
        attempt=job.attempts,
        max_attempts=row.max_attempts,
        crashes=job.crashes,
        suspect=job.suspect,
        timeout_ms=row.timeout_ms,
        retry=row.retry,
        conversation=row.conversation,
        created_at=job.created_at,
        snoozes=job.snoozes,
        deadline_at=job.deadline_at,
        heartbeat_ms=row.heartbeat_ms,
        limit_key=row.limit_key,
        parent=job.parent,
        tokens=row.tokens,
    )
