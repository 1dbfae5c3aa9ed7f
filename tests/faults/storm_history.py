"""What is known after a storm of kills, and the checker that finds every promise it breaks."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

AWAY = (
    "job.completed", "job.failed", "job.cancelled", "job.delayed", "job.requeued", "job.recovered", "job.waiting",
    "job.held", "job.lost",
)  # fmt: skip
"""The events with which an attempt is over."""


@dataclass(frozen=True)
class Line:
    """What a job itself wrote: its key, its process, when in milliseconds, and `start`, `end`, `body:STEP` from within
    a step, or `kept:STEP` after the step was recorded. The order of the lines is the order in which they were written.
    """

    key: str
    phase: str
    pid: int
    at: int


@dataclass(frozen=True)
class Told:
    """An event of a job."""

    offset: int
    type: str
    job: str
    at: int


@dataclass(frozen=True)
class History:
    """All that is known of a storm: what was acknowledged, what the database says, what the jobs wrote.

    acknowledged: the job of each key. traced: keys whose job writes lines.
    after: the keys that a key depends on. limits: how many of a limit key may be active; limited: the limit key of a
    job. parts: how many parts a key has; parents: the parent of a job. ticks: (schedule, time) of each job that a
    schedule has made.
    """

    acknowledged: dict[str, str]
    status: dict[str, str]
    events: list[Told]
    lines: list[Line]
    traced: frozenset[str] = frozenset()
    after: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    limited: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    ticks: list[tuple[str, int]] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)
    integrity: str = "ok"


def wrongs(history: History) -> list[str]:
    """Return every promise that *history* breaks."""
    found = [f"a process of a dead daemon lived beside its successor: {pid}" for pid in history.survivors]
    if history.integrity != "ok":
        found.append(f"the database is damaged: {history.integrity}")
    if len(set(history.acknowledged.values())) < len(history.acknowledged):
        found.append("two keys have one job")
    by_job: dict[str, list[Told]] = defaultdict(list)
    for event in history.events:
        by_job[event.job].append(event)
    by_key: dict[str, list[Line]] = defaultdict(list)
    for line in history.lines:
        by_key[line.key].append(line)
    for key, job in history.acknowledged.items():
        if history.status.get(job) != "completed":
            found.append(f"{key}: acknowledged, but it is {history.status.get(job, 'lost')}")
        if key in history.traced and not any(line.phase == "end" for line in by_key[key]):
            found.append(f"{key}: completed without having run to its end")
    names = {job: key for key, job in history.acknowledged.items()}
    for job, events in by_job.items():
        found += [f"{names.get(job, job)}: {wrong}" for wrong in wrong_events(events)]
    for key, lines in by_key.items():
        events = by_job.get(history.acknowledged.get(key, ""), [])
        found += [f"{key}: {wrong}" for wrong in (*wrong_lines(lines, events), *wrong_steps(lines))]
    return [*found, *wrong_order(history, by_job), *wrong_limits(history), *wrong_parts(history), *wrong_ticks(history)]


def wrong_events(events: list[Told]) -> Iterator[str]:
    """A job is completed once, and never begun after that."""
    completed = [event.offset for event in events if event.type == "job.completed"]
    if len(completed) > 1:
        yield f"completed {len(completed)} times"
    if any(event.type == "job.started" and event.offset > completed[0] for event in events if completed):
        yield "started again after it was completed"


def wrong_lines(lines: list[Line], events: list[Told]) -> Iterator[str]:
    """No run begins after the job was completed, and none while an earlier one still writes."""
    ended_at = min((event.at for event in events if event.type == "job.completed"), default=None)
    latest: Line | None = None
    for line in lines:
        if line.phase == "start" and ended_at is not None and line.at > ended_at:
            yield "ran again after it was completed"
        if line.phase != "start" and latest is not None and latest.pid != line.pid:
            yield "two runs of it overlapped"
        if line.phase == "start":
            latest = line


def wrong_steps(lines: list[Line]) -> Iterator[str]:
    """The body of a step that is on record never runs again."""
    kept: set[str] = set()
    for line in lines:
        what, _, step = line.phase.partition(":")
        if what == "body" and step in kept:
            yield f"step {step} ran again after it was recorded"
        if what == "kept":
            kept.add(step)


def wrong_order(history: History, by_job: dict[str, list[Told]]) -> Iterator[str]:
    """No dependant begins before all its parents have ended."""
    for key, parents in history.after.items():
        began = [event.offset for event in by_job[history.acknowledged[key]] if event.type == "job.started"]
        for parent in parents:
            ended = [e.offset for e in by_job[history.acknowledged[parent]] if e.type == "job.completed"]
            if began and (not ended or began[0] < ended[0]):
                yield f"{key}: began before {parent} had ended"


def wrong_limits(history: History) -> Iterator[str]:
    """Of a limit key there are never more active jobs than it allows."""
    active: dict[str, set[str]] = defaultdict(set)
    for event in history.events:
        limit = history.limited.get(event.job)
        if limit is None:
            continue
        if event.type == "job.started":
            active[limit].add(event.job)
            if len(active[limit]) > history.limits[limit]:
                yield f"{len(active[limit])} jobs of {limit} were active at once"
        elif event.type in AWAY:
            active[limit].discard(event.job)


def wrong_parts(history: History) -> Iterator[str]:
    """Each part of a job was added once, however often its code ran, and has completed."""
    count = Counter(history.parents.values())
    for key, parts in history.parts.items():
        if count[history.acknowledged[key]] != parts:
            yield f"{key}: has {count[history.acknowledged[key]]} parts, not {parts}"
    for job in history.parents:
        if history.status.get(job) != "completed":
            yield f"part {job} is {history.status.get(job, 'lost')}"


def wrong_ticks(history: History) -> Iterator[str]:
    """A tick of a schedule makes one job at most."""
    for (name, at), count in Counter(history.ticks).items():
        if count > 1:
            yield f"{name}: the tick of {at} made {count} jobs"
