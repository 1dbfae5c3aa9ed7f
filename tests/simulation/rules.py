"""What must hold in every history, checked at each event as it is written; the trace of a history is their hash."""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.events import Event

LEAVES_ACTIVE: Final = frozenset(
    {
        *("job.completed", "job.failed", "job.cancelled", "job.delayed", "job.requeued", "job.held", "job.waiting"),
        *("job.recovered", "job.lost"),
    }
)
ENDS: Final = frozenset({"job.completed", "job.failed", "job.cancelled"})
AFTER_THE_END: Final = frozenset({"job.retried"})
RECENT: Final = 40


class Broken(AssertionError):
    """A rule does not hold; the text says which, and the last events follow."""


@dataclass
class Job:
    """A job as its events tell of it."""

    active: bool = False
    ended: str | None = None
    ended_at: int = 0
    epoch: int = 0
    starts: int = 0
    completions: int = 0


@dataclass
class Limits:
    """What a job shares with others, as it was submitted."""

    queue: str
    key: str | None = None
    key_max: int = 1


@dataclass
class Rules:
    """Reads every event in the order of their offsets.

    queues      how many jobs of a queue may be active
    overall     how many may be active in all
    rates       how many jobs of a queue may start within so many milliseconds
    limits      of each job that has a key, by id
    passed      milliseconds that have passed, as a bucket sees them: a clock set forward counts
    """

    queues: dict[str, int] = field(default_factory=dict)
    overall: int | None = None
    rates: dict[str, tuple[int, int]] = field(default_factory=dict)
    limits: dict[str, Limits] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=lambda: defaultdict(Job))
    ticks: set[tuple[str, int]] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    passed: Callable[[], float] = float

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()
        self._last = 0
        self._recent: list[Event] = []
        self._in_queue: dict[str, set[str]] = defaultdict(set)
        self._of_key: dict[str, set[str]] = defaultdict(set)
        self._active: set[str] = set()
        self._started_at: dict[str, deque[float]] = defaultdict(deque)

    @property
    def trace(self) -> str:
        """The hash of everything that happened."""
        return self._hash.hexdigest()

    def hear(self, events: Sequence[Event]) -> None:
        """Check *events*. Raises Broken."""
        for event in events:
            self._note(event)
            if event.offset != self._last + 1:
                self.broken(f"event {event.offset} follows {self._last}")
            self._last += 1
            if event.type.startswith("job."):
                self._job(event)
            elif event.type.startswith("schedule."):
                self._schedule(event)

    def broken(self, what: str) -> None:
        """Raise Broken with what happened before it."""
        told = "\n".join(f"  {e.offset} {e.at} {e.type} {e.subject} {e.data}" for e in self._recent)
        raise Broken(f"{what}\nthe last events:\n{told}")

    def _note(self, event: Event) -> None:
        text = json.dumps([event.offset, event.at, event.type, event.subject, event.data], sort_keys=True, default=str)
        self._hash.update(text.encode())
        self.counts[event.type] += 1
        self._recent.append(event)
        del self._recent[:-RECENT]

    def _job(self, event: Event) -> None:
        job, name = self.jobs[event.subject], event.subject
        if job.ended is not None and event.type not in AFTER_THE_END:
            self.broken(f"{event.type} of job {name}, which has ended as {job.ended}")
        if event.type == "job.started":
            self._started(job, name, event.data)
        elif event.type in LEAVES_ACTIVE:
            self._leaves(job, name, event.data["queue"])
        if event.type in ENDS:
            job.ended, job.ended_at = event.type, event.at
            job.completions += event.type == "job.completed"
            if job.completions > 1:
                self.broken(f"job {name} was completed twice")
        elif event.type == "job.retried":
            if job.ended in (None, "job.completed"):
                self.broken(f"job {name} was retried though it is {job.ended or 'alive'}")
            job.ended = None

    def _started(self, job: Job, name: str, data: dict[str, Any]) -> None:
        if job.active:
            self.broken(f"job {name} was started while it runs")
        if data["epoch"] <= job.epoch:
            self.broken(f"the epoch of job {name} went from {job.epoch} to {data['epoch']}")
        job.active, job.epoch = True, data["epoch"]
        job.starts += 1
        queue, limits = data["queue"], self.limits.get(name)
        self._paced(queue)
        self._active.add(name)
        self._in_queue[queue].add(name)
        if len(self._in_queue[queue]) > self.queues.get(queue, 10**9):
            self.broken(f"{len(self._in_queue[queue])} jobs of queue {queue} are active")
        if self.overall is not None and len(self._active) > self.overall:
            self.broken(f"{len(self._active)} jobs are active in all")
        if limits is not None and limits.key is not None:
            self._of_key[limits.key].add(name)
            if len(self._of_key[limits.key]) > limits.key_max:
                self.broken(f"{len(self._of_key[limits.key])} jobs of key {limits.key} are active")

    def _paced(self, queue: str) -> None:
        """Check the rate of a queue: a full bucket and what came in since, within any stretch of time."""
        if queue not in self.rates:
            return
        allowed, per_ms = self.rates[queue]
        times, now = self._started_at[queue], self.passed()
        times.append(now)
        while times[0] < now - per_ms:
            times.popleft()
        if len(times) > 2 * allowed + 1:  # what the bucket held at the beginning, and what it was filled with
            self.broken(f"{len(times)} jobs of queue {queue} were started within {per_ms} ms")

    def _leaves(self, job: Job, name: str, queue: str) -> None:
        job.active = False
        self._active.discard(name)
        self._in_queue[queue].discard(name)
        limits = self.limits.get(name)
        if limits is not None and limits.key is not None:
            self._of_key[limits.key].discard(name)

    def _schedule(self, event: Event) -> None:
        if event.type in ("schedule.fired", "schedule.skipped"):
            tick = (event.subject, event.data["fire_at"])
            if tick in self.ticks:
                self.broken(f"the tick {tick} was dealt with twice")
            self.ticks.add(tick)
