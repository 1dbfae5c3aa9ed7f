"""What every change needs: the tables, the events it tells, and what the end of a job means to others."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from runtime.errors import StoreError
from runtime.store.memory.tables import Edges, Job, Jobs, Parts, Signal, Step, Table
from runtime.store.port import (
    AgentRow,
    ApprovalRow,
    Charge,
    FireRow,
    GrantRow,
    MessageRow,
    NoteRow,
    PersonaRow,
    QueueRow,
    ScheduleRow,
    StateRow,
    WorkerRow,
    rank_of,
)
from schemas.errors import Problem
from schemas.events import Event
from schemas.jobs import AttemptView, Fence, Lane, LogLine, Status


class Base:
    """The tables. What is written goes through `Table.put`, so that a commit which fails leaves nothing."""

    def __init__(self) -> None:
        self._journal: list[Callable[[], None]] = []
        self._jobs = Jobs(self._journal)
        self._edges = Edges(self._journal)
        self._attempts: Parts[int, AttemptView] = Parts(self._journal)
        self._logs: Parts[int, LogLine] = Parts(self._journal)
        self._steps: Parts[str, Step] = Parts(self._journal)
        self._signals: Parts[int, Signal] = Parts(self._journal)
        self._workers: Table[str, WorkerRow] = Table(self._journal)
        self._queues: Table[str, QueueRow] = Table(self._journal)
        self._schedules: Table[str, ScheduleRow] = Table(self._journal)
        self._fires: Table[str, tuple[FireRow, ...]] = Table(self._journal)
        self._agents: Table[str, AgentRow] = Table(self._journal)
        self._states: Table[str, StateRow] = Table(self._journal)
        self._messages: Table[tuple[str, str], tuple[MessageRow, ...]] = Table(self._journal)
        self._used: Table[tuple[str, str], tuple[int, int]] = Table(self._journal)
        self._approvals: Parts[str, ApprovalRow] = Parts(self._journal)
        self._grants: Table[tuple[str, str, str], GrantRow] = Table(self._journal)
        self._spending: Table[tuple[str, str], Charge] = Table(self._journal)
        self._personas: Table[str, PersonaRow] = Table(self._journal)
        self._notes: Table[tuple[str, str], tuple[int, NoteRow]] = Table(self._journal)
        self._events: Table[int, Event] = Table(self._journal)
        self._settings: Table[str, str] = Table(self._journal)
        self._last: Table[str, int] = Table(self._journal)
        self._committed = 0
        """The last event of the commits before this one."""

    def _next(self, what: str) -> int:
        number = self._last.get(what, 0) + 1
        self._last.put(what, number)
        return number

    def _find(self, job_id: str) -> Job | None:
        seq = self._jobs.by_id.get(job_id)
        return None if seq is None else self._jobs[seq]

    def _found(self, ids: Iterable[str]) -> list[Job]:
        """The jobs of *ids* that there are, once each, in that order."""
        jobs = (self._find(job_id) for job_id in dict.fromkeys(ids))
        return [job for job in jobs if job is not None]

    def _held(self, fence: Fence) -> Job | None:
        """The job, while *fence* is the attempt that owns it."""
        job = self._jobs.get(fence.seq)
        if job is None or job.status != "active":
            return None
        return job if (job.epoch, job.worker, job.boot) == (fence.epoch, fence.worker, fence.boot) else None

    # -- events ------------------------------------------------------------------------------------------------------

    def _emit(self, at: int, type: str, subject: str, data: dict[str, Any]) -> None:  # noqa: A002  # the event's word
        offset = self._next("event")
        self._events.put(offset, Event(offset=offset, at=at, type=type, subject=subject, data=data))

    def _tell(self, job: Job, at: int, what: str, **facts: Any) -> None:
        self._emit(at, f"job.{what}", job.row.id, {"queue": job.row.queue, "kind": job.row.kind, **facts})

    def _tell_end(self, job: Job, now: int) -> None:
        what = {"pending": "requeued", "paused": "held"}.get(job.status, job.status)
        facts: dict[str, Any] = {} if job.reason is None else {"reason": job.reason}
        if job.status == "delayed":
            facts["execute_after"] = job.execute_after
        self._tell(job, now, what, **facts)

    def _end_attempt(self, job: Job, now: int, outcome: str, error: str | None) -> None:
        key = (job.seq, job.epoch)
        ended = {"ended_at": now, "outcome": outcome, "error": problem_of(error)}
        self._attempts.put(key, self._attempts[key].model_copy(update=ended))

    # -- moves that several changes make -------------------------------------------------------------------------------

    def _go_on(self, job: Job, now: int) -> Job:
        """Let a job stand where nothing but time holds it: delayed until it is due, or pending, ranked from now."""
        rank = rank_of(job.row.lane, max(job.execute_after, now), job.row.priority)
        status, reason = gate(job.execute_after, now)
        return self._jobs.move(job, status, reason, now, rank=rank)

    def _wake(self, jobs: Iterable[Job], now: int) -> None:
        """Make jobs pending that keep their old place in the queue: they had their turn before."""
        for job in jobs:
            self._jobs.move(job, "pending", None, now)

    def _end(self, jobs: Iterable[Job], status: Status, reason: str, now: int, **more: Any) -> list[Job]:
        """End jobs that are not active, all alike."""
        ended = [self._jobs.move(job, status, reason, now, **more) for job in jobs]
        for job in ended:
            self._tell_end(job, now)
        return ended

    def _holds(self, job: Job) -> bool:
        """Whether an edge still holds a job."""
        return any(edge.state in ("open", "broken") for edge in self._edges.of_child(job.seq))

    # -- what an end releases ------------------------------------------------------------------------------------------

    def _settle_ended(self, jobs: Iterable[Job], now: int) -> None:
        """Give everybody what the end of jobs means to them: dependants, limit keys, parents that wait for parts."""
        ended = list(jobs)
        gone = self._settle_edges(ended, now)
        self._free_keys((job.row.limit_key for job in ended), now)
        parents = {job.parent for job in [*ended, *gone] if job.parent is not None}
        for seq in sorted(parents):
            parent = self._jobs.get(seq)
            waits = parent is not None and (parent.status, parent.reason) == ("waiting", "children")
            if parent is not None and waits and not self._jobs.living_parts.get(seq):
                self._wake([parent], now)

    def _settle_edges(self, ended: list[Job], now: int) -> list[Job]:
        """Settle the edges of jobs that ended; return the dependants that were cancelled over them."""
        doomed: dict[int, Job] = {}
        look = [job for job in ended if job.status != "completed"]
        while look:
            job = look.pop()
            for edge in self._edges.of_parent(job.seq):
                child = self._jobs[edge.child]
                if edge.state == "open" and edge.on_failure == "cancel" and child.seq not in doomed:
                    if child.status in ("waiting", "paused"):
                        doomed[child.seq] = child
                    look.append(child)
        gone = self._end([doomed[seq] for seq in sorted(doomed)], "cancelled", "dependency", now)
        free: set[int] = set()
        for job in [*ended, *gone]:
            for edge in self._edges.of_parent(job.seq):
                if edge.state == "open":
                    completed = job.status == "completed"
                    state = "satisfied" if completed else "ignored" if edge.on_failure == "run" else "broken"
                    self._edges.settle(edge, state)  # type: ignore[arg-type]  # one of the three
                    if state != "broken":
                        free.add(edge.child)
        released = []
        for seq in sorted(free):
            child = self._jobs[seq]
            if (child.status, child.reason) == ("waiting", "deps") and not self._holds(child):
                released.append(self._go_on(child, now))
        for child in released:
            self._tell(child, now, "released")
        return gone

    def _free_keys(self, keys: Iterable[str | None], now: int) -> int:
        """Let the next job of each key be claimed, one for each time the key is named, where it has room.

        The next one of every queue and lane comes: the best of all may stand in a queue that is paused, and must not
        hold up the others. Whoever is not claimed first steps aside again.
        """
        coming: list[Job] = []
        for key, places in Counter(key for key in keys if key is not None).items():
            active = len(self._jobs.key_active.get(key, ()))
            taken: Counter[tuple[str, Lane]] = Counter()
            full: set[tuple[str, Lane]] = set()
            for _, seq in self._jobs.key_waiting.get(key, ()):
                job = self._jobs[seq]
                if taken[job.place] == places or active + taken[job.place] >= job.row.limit_max:
                    full.add(job.place)  # whoever is first and has no room yet is not overtaken
                if job.place not in full:
                    taken[job.place] += 1
                    coming.append(job)
        self._wake(sorted(coming, key=lambda job: job.seq), now)
        return len(coming)


def gate(execute_after: int, now: int) -> tuple[Status, str | None]:
    return ("delayed", "scheduled") if execute_after > now else ("pending", None)


def check_json(text: str) -> Any:
    """Return what *text* says. Raises StoreError where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise StoreError(f"that is no JSON: {error}") from error


def parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def problem_of(text: str | None) -> Problem | None:
    return None if text is None else Problem.model_validate_json(text)
