"""Dictionaries whose writes can be taken back, and the jobs among them with the lists that answer what is asked."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, TypeVar

from runtime.errors import StoreError
from runtime.store.port import JobRow, Move
from schemas.jobs import ENDED, MOVES, REASONS, EdgeState, Lane, Lease, OnFailure, Status

K = TypeVar("K")
V = TypeVar("V")
N = TypeVar("N", bound=Hashable)

LETS_GO: Final[dict[str, Any]] = {"boot": None, "lease_until": None, "process": None, "pause_at": None}
"""What the end of an attempt takes from its job; the worker stays, to tell who ran it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands: what was asked for (`row`) and what became of it. `parent` is a seq."""

    seq: int
    row: JobRow
    status: Status
    reason: str | None
    execute_after: int
    rank: int
    created_at: int
    updated_at: int
    parent: int | None = None
    deadline_at: int | None = None
    epoch: int = 0
    attempts: int = 0
    crashes: int = 0
    snoozes: int = 0
    suspect: bool = False
    worker: str | None = None
    boot: str | None = None
    lease_until: int | None = None
    claimed_at: int | None = None
    process: tuple[int, int] | None = None
    cancel_at: int | None = None
    pause_at: int | None = None
    waits: str | None = None
    wait_until: int | None = None
    result: str | None = None
    error: str | None = None
    progress: str | None = None
    lines: int = 0
    started_at: int | None = None
    finished_at: int | None = None

    @property
    def place(self) -> tuple[str, Lane]:
        """The queue and lane it is claimed from."""
        return self.row.queue, self.row.lane

    @property
    def lease(self) -> Lease:
        """The right of the attempt that runs."""
        return Lease(self.seq, self.row.id, self.epoch, self.worker or "", self.boot or "")

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def look_at(self) -> int | None:
        """When somebody has to look at it again, where it stands now."""
        if self.status in (*ENDED, "active", "paused"):
            return None
        times = [self.deadline_at]
        if self.status == "delayed":
            times.append(self.execute_after)
        if self.status == "waiting":
            times.append(self.wait_until)
        return min((time for time in times if time is not None), default=None)


@dataclass(frozen=True, slots=True)
class EdgeRow:
    """An edge by the numbers of its jobs."""

    parent: int
    child: int
    on_failure: OnFailure
    state: EdgeState


@dataclass(frozen=True, slots=True)
class Step:
    """A step as it stands. `output` is JSON text."""

    state: Literal["started", "done", "failed"]
    epoch: int
    started_at: int
    ended_at: int | None = None
    output: str | None = None
    error: str | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that was kept. `payload` is JSON text."""

    name: str
    payload: str
    taken: bool = False


class Table(dict[K, V]):
    """A dictionary whose writes can be taken back: each notes how to undo itself in *journal*."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__()
        self._journal = journal

    def put(self, key: K, value: V | None) -> None:
        """Set *key*, or remove it where *value* is None."""
        self._journal.append(partial(self._set, key, self.get(key)))
        self._set(key, value)

    def _set(self, key: K, value: V | None) -> None:
        if value is None:
            self.pop(key, None)
        else:
            self[key] = value


class Parts(Table[tuple[int, N], V]):
    """What belongs to jobs, by (seq, name), with what each job has."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__(journal)
        self._names: defaultdict[int, dict[N, None]] = defaultdict(dict)

    def of(self, seq: int) -> Iterator[tuple[N, V]]:
        """Yield (name, value) of all that a job has."""
        for name in list(self._names.get(seq, ())):
            yield name, self[seq, name]

    def count(self, seq: int) -> int:
        """Return how much a job has."""
        return len(self._names.get(seq, ()))

    def forget(self, seq: int) -> None:
        """Remove all that a job has."""
        for name in list(self._names.get(seq, ())):
            self.put((seq, name), None)

    def _set(self, key: tuple[int, N], value: V | None) -> None:
        super()._set(key, value)
        seq, name = key
        if value is not None:
            self._names[seq][name] = None
        elif seq in self._names:
            self._names[seq].pop(name, None)
            if not self._names[seq]:
                del self._names[seq]


class Edges(Table[tuple[int, int], EdgeRow]):
    """The edges by (parent, child), with those of each parent and of each child."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__(journal)
        self.down: defaultdict[int, list[int]] = defaultdict(list)
        self.up: defaultdict[int, list[int]] = defaultdict(list)

    def _set(self, key: tuple[int, int], value: EdgeRow | None) -> None:
        parent, child = key
        if value is None and key in self:
            self.down[parent].remove(child)
            self.up[child].remove(parent)
        elif value is not None and key not in self:
            self.down[parent].append(child)
            self.up[child].append(parent)
        super()._set(key, value)

    def of_parent(self, parent: int) -> list[EdgeRow]:
        return [self[parent, child] for child in self.down.get(parent, ())]

    def of_child(self, child: int) -> list[EdgeRow]:
        return [self[parent, child] for parent in self.up.get(child, ())]

    def settle(self, edge: EdgeRow, state: EdgeState) -> None:
        self.put((edge.parent, edge.child), replace(edge, state=state))


class Jobs(Table[int, Job]):
    """The jobs by seq, with the sorted lists that answer what the queue asks all day, and the moves of this commit."""

    def __init__(self, journal: list[Callable[[], None]]) -> None:
        super().__init__(journal)
        self.moves: list[Move] = []
        self.by_id: dict[str, int] = {}
        self.by_key: dict[tuple[str, str], int] = {}
        self.by_unique: dict[tuple[str, str], int] = {}
        self.ready: defaultdict[tuple[str, Lane], list[tuple[int, int]]] = defaultdict(list)
        self.due: list[tuple[int, int]] = []
        self.waits: list[tuple[int, int]] = []
        self.deadlines: list[tuple[int, int]] = []
        self.active: list[int] = []
        self.waiting: defaultdict[str, list[int]] = defaultdict(list)
        self.talks: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self.key_active: defaultdict[str, list[int]] = defaultdict(list)
        self.key_waiting: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self.parts: defaultdict[int, list[int]] = defaultdict(list)
        self.living_parts: defaultdict[int, list[int]] = defaultdict(list)
        self.over: defaultdict[tuple[Status, str], list[tuple[int, Lane, int]]] = defaultdict(list)

    def add(self, job: Job) -> None:
        """Add a new job."""
        self.put(job.seq, job)
        self.moves.append(Move(*job.place, None, job.status, 1, job.look_at))

    def remove(self, job: Job) -> None:
        """Forget a job that has ended."""
        self.put(job.seq, None)
        self.moves.append(Move(*job.place, job.status, None, 1))

    def move(self, job: Job, status: Status, reason: str | None, now: int, **more: Any) -> Job:
        """Give *job* another status; raises StoreError where `MOVES` has no such move or `REASONS` no such reason."""
        if status not in MOVES[job.status] or (status in REASONS and reason not in REASONS[status]):
            raise StoreError(f"job {job.row.id} may not go from {job.status} to {status}/{reason}", job=job.row.id)
        ended = now if status in ENDED else None
        moved = replace(job, status=status, reason=reason, updated_at=now, finished_at=ended)
        if job.status == "active":
            moved = replace(moved, **LETS_GO)
        if job.status == "waiting":
            moved = replace(moved, waits=None, wait_until=None)
        moved = replace(moved, **more)
        self.put(job.seq, moved)
        self.moves.append(Move(*job.place, job.status, status, 1, moved.look_at))
        return moved

    def change(self, job: Job, **more: Any) -> Job:
        """Change anything but where *job* stands."""
        changed = replace(job, **more)
        self.put(job.seq, changed)
        return changed

    def _set(self, key: int, value: Job | None) -> None:
        old = self.get(key)
        for where, entry in () if old is None else self._entries(old):
            del where[bisect_left(where, entry)]
        super()._set(key, value)
        for where, entry in () if value is None else self._entries(value):
            insort(where, entry)
        self._name(old, None)
        self._name(value, key)

    def _entries(self, job: Job) -> Iterator[tuple[list[Any], Any]]:
        """Where a job stands in the lists, and as what."""
        row, seq = job.row, job.seq
        if job.status == "pending":
            yield self.ready[job.place], (job.rank, seq)
        elif job.status == "delayed":
            yield self.due, (job.execute_after, seq)
        elif job.status == "active":
            yield self.active, seq
        elif job.status == "waiting":
            yield self.waiting[job.reason or ""], seq
            if job.wait_until is not None:
                yield self.waits, (job.wait_until, seq)
        if job.deadline_at is not None and job.status not in (*ENDED, "active", "paused"):
            yield self.deadlines, (job.deadline_at, seq)
        if row.limit_key is not None and job.status == "active":
            yield self.key_active[row.limit_key], seq
        if row.limit_key is not None and job.reason == "limit":
            yield self.key_waiting[row.limit_key], (job.rank, seq)
        if job.parent is not None:
            yield self.parts[job.parent], seq
            if not job.ended:
                yield self.living_parts[job.parent], seq
        if row.lane == "agent" and row.conversation is not None and not job.ended:
            yield self.talks[row.queue, row.conversation], seq
        if job.ended:
            yield self.over[job.status, row.queue], (job.finished_at or 0, row.lane, seq)

    def _name(self, job: Job | None, seq: int | None) -> None:
        if job is None:
            return
        names: list[tuple[dict[Any, int], Any]] = [(self.by_id, job.row.id)]
        if job.row.key is not None:
            names.append((self.by_key, (job.row.kind, job.row.key)))
        if job.row.unique is not None and not job.ended:
            names.append((self.by_unique, (job.row.kind, job.row.unique)))
        for table, name in names:
            if seq is None:
                table.pop(name, None)
            else:
                table[name] = seq
