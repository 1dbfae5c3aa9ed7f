"""Why a job stands where it does: a pure decision from what the store and the house know, in words for a person."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from actors.limits import rate_of
from actors.rates import Bucket
from runtime.store.port import ChildResult, QueueRow, WhyFacts
from schemas.errors import Problem
from schemas.jobs import ENDED, JobView, Reason, WhyView

NAMED: Final = 5
"""Jobs that a sentence names before it says how many more there are."""

COUNTED: Final = 1_000
"""Jobs ahead that the store counts at most."""

ENDS: Final = {"completed": "completed", "failed": "failed", "cancelled": "was cancelled"}
"""How a job ended, as a part of a sentence."""

DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Pool:
    """The workers that may run a job, of the one pool that serves its queue."""

    name: str
    size: int
    busy: int = 0
    draining: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """The agent whose queue a job is on. state: of its cell, None where no such agent is defined; held: turns it runs;
    talk: an older job of the same conversation that runs.
    """

    name: str
    state: str | None
    reason: str | None = None
    held: int = 0
    slots: int = 1
    talk: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that decides whether a job moves.

    queue       its queue's row as it counts, with the configuration
    active      how many jobs of its queue run
    bucket      what is left of its queue's rate
    pool, agent who may run it: one of the two
    at_work     how many jobs run in all pools, and *cap* how many may
    suspect     a job that runs alone before this one may
    parts       the jobs that are a part of it
    """

    now: int
    facts: WhyFacts
    queue: QueueRow
    active: int = 0
    bucket: Bucket | None = None
    pool: Pool | None = None
    agent: Seat | None = None
    at_work: int = 0
    cap: int | None = None
    suspect: str | None = None
    parts: tuple[ChildResult, ...] = ()
    kind_known: bool = True
    draining: bool = False
    store_trouble: str | None = None

    @property
    def job(self) -> JobView:
        return self.facts.job


class Standing(NamedTuple):
    """A job that another one hangs on, and how it stands."""

    id: str
    status: str


def explain(scene: Scene) -> WhyView:
    """Return every reason that keeps a job where it is, the one that decides first."""
    job = scene.job
    found = list(EXPLAIN[job.status](scene))
    if job.status in ("waiting", "delayed"):
        found += [later(reason) for reason in gates(scene)]
    if job.status not in ENDED and job.deadline_at is not None:
        found.append(deadline(job.deadline_at, scene.now))
    summary = f"{job.status}: {found[0].text}"
    return WhyView(id=job.id, status=job.status, reason=job.reason, summary=summary, reasons=tuple(found))


def reason(code: str, text: str, hint: str = "", **data: Any) -> Reason:
    return Reason(code=code, text=text, hint=hint, data=data)


def later(found: Reason) -> Reason:
    """Return what will hold a job back once it has what it waits for now."""
    return found.model_copy(update={"text": f"after that, {found.text}", "data": found.data | {"later": True}})


def deadline(at: int, now: int) -> Reason:
    text = f"it fails unless it is done by {moment(at, now)}"
    return reason("deadline", text, deadline_at=at)


# -- waiting for other jobs, a signal, a place -------------------------------------------------------------------------


def waiting(scene: Scene) -> Iterator[Reason]:
    match scene.job.reason:
        case "deps":
            yield from dependencies(scene.job)
        case "limit":
            yield limited(scene.facts)
        case "signal":
            yield signal(scene.job, scene.now)
        case _:
            yield children(scene)


def dependencies(job: JobView) -> Iterator[Reason]:
    """Edges that broke come first: they hold the job until a person decides."""
    broken = [Standing(edge.job, edge.status or "gone") for edge in job.depends_on if edge.state == "broken"]
    waits = [Standing(edge.job, edge.status or "gone") for edge in job.depends_on if edge.state == "open"]
    if broken:
        first = broken[0].id
        hint = f"`understudy jobs retry {first}` runs that one again; `understudy jobs resume {job.id}` goes on without"
        text = f"it depends on {jobs(broken)}, and is held until a person decides"
        yield reason("deps.broken", text, hint, jobs=data_of(broken))
    if waits:
        text = f"it is blocked by {jobs(waits)}"
        yield reason("deps.open", text, f"understudy why {waits[0].id}", jobs=data_of(waits))
    if not broken and not waits:
        yield reason("deps.settled", "all jobs it depends on have ended: it goes on in a moment")


def limited(facts: WhyFacts) -> Reason:
    job, active = facts.job, facts.key_active
    facts_of: dict[str, Any] = {"key": job.limit_key, "active": list(active), "max": job.limit_max}
    if len(active) < job.limit_max:
        text = f"its key {job.limit_key} has room, {len(active)} of {job.limit_max}: it goes on in a moment"
        return reason("limit.room", text, **facts_of)
    text = f"its key {job.limit_key} is full, {len(active)} of {job.limit_max}: held by {some(active)}"
    return reason("limit.key", text, f"understudy why {active[0]}", **facts_of)


def signal(job: JobView, now: int) -> Reason:
    until = f"until {moment(job.wait_until, now)}" if job.wait_until is not None else "for as long as it takes"
    asked = (job.waits_for or "").removeprefix("approval/")
    if asked != job.waits_for:
        text = f"it waits for a person to allow a call of a tool, {until}"
        return reason("approval", text, f"understudy approvals show {asked}", approval=asked, until=job.wait_until)
    hint = f"understudy jobs signal {job.id} {job.waits_for}"
    text = f"it waits for the signal {job.waits_for}, {until}"
    return reason("signal", text, hint, signal=job.waits_for, until=job.wait_until)


def children(scene: Scene) -> Reason:
    job = scene.job
    living = [Standing(part.id, part.status) for part in scene.parts if part.status not in ENDED]
    if not living:
        return reason("children.ended", "all its parts have ended: it goes on in a moment")
    until = f", until {moment(job.wait_until, scene.now)}" if job.wait_until is not None else ""
    text = f"it waits for {len(living)} of its {len(scene.parts)} parts to end: {standings(living)}{until}"
    return reason("children", text, f"understudy why {living[0].id}", jobs=data_of(living), until=job.wait_until)


# -- waiting for a time ------------------------------------------------------------------------------------------------


def delayed(scene: Scene) -> Iterator[Reason]:
    job, now = scene.job, scene.now
    at = moment(job.execute_after, now)
    error = last_error(job)
    match job.reason:
        case "retry":
            because = f" ({said(error)})" if error is not None else ""
            text = f"attempt {job.attempts} of {job.max_attempts} failed{because}; the next one is at {at}"
            hint = f"understudy jobs show {job.id}"
        case "snooze":
            text, hint = f"its code asked to go on later: at {at}", ""
        case "rate_limit":
            because = f" ({said(error)})" if error is not None else ""
            text, hint = f"a provider asked for patience{because}: it goes on at {at}, and no attempt is lost", ""
        case _:
            text, hint = f"it was submitted to start later: at {at}", ""
    yield reason(f"delayed.{job.reason}", text, hint, execute_after=job.execute_after)


# -- held by a person, or for one --------------------------------------------------------------------------------------


def paused(scene: Scene) -> Iterator[Reason]:
    job = scene.job
    resume = f"understudy jobs resume {job.id}"
    begun = [step.name for step in job.steps if step.state == "started"]
    error = last_error(job)
    if job.reason == "user":
        yield reason("paused.user", f"a person paused it at {moment(job.updated_at, scene.now)}", resume)
    elif not scene.kind_known:
        hint = f"define it under [kinds.{job.name}] in config.toml, then: understudy reload"
        yield reason("paused.kind", f"nobody knows its kind {job.name}", hint, kind=job.name)
    elif begun and (error is None or error.code == "job.step_ambiguous"):
        text = f"its step {begun[0]} was begun and never ended, so nobody knows whether it took effect"
        yield reason("paused.step", text, f"find out, and let it run again: {resume}", step=begun[0])
    else:
        yield reason("paused.hold", f"it is held for a person{f': {said(error)}' if error else ''}", resume)


# -- ready to run ------------------------------------------------------------------------------------------------------


def pending(scene: Scene) -> Iterator[Reason]:
    found = [*gates(scene), *limits(scene), *hands(scene)]
    yield from found
    yield from position(scene, alone=not found)


def gates(scene: Scene) -> Iterator[Reason]:
    """Tell what lets nothing of the daemon, or of the queue, start."""
    row, now = scene.queue, scene.now
    if scene.draining:
        yield reason("daemon.draining", "the daemon is stopping, and starts nothing more", "understudy up")
    if scene.store_trouble is not None:
        yield reason("store.refuses", f"the store refuses writes: {scene.store_trouble}", "understudy doctor")
    if row.state == "paused":
        since = f" since {moment(row.since, now)}" if row.since is not None else ""
        who = "the configuration" if row.by == "config" else row.by or "a person"
        text = f"its queue {row.name} is paused by {who}{since}"
        yield reason("queue.paused", text, f"understudy queues resume {row.name}", by=row.by, since=row.since)
    if row.blocked_until is not None and row.blocked_until > now:
        text = f"its queue {row.name} is blocked until {moment(row.blocked_until, now)}: a provider said 429"
        yield reason("queue.blocked", text, "it goes on by itself", until=row.blocked_until)


def limits(scene: Scene) -> Iterator[Reason]:
    """Tell which limit in number or in time is reached."""
    row = scene.queue
    bucket = scene.bucket
    if bucket is not None:
        yield from rated(scene, bucket)
    if row.max_active is not None and scene.active >= row.max_active:
        text = f"its queue {row.name} runs as many jobs as it may, {scene.active} of {row.max_active}"
        hint = f"understudy queues set {row.name} --max-active {row.max_active + 1}"
        yield reason("queue.max_active", text, hint, active=scene.active, max=row.max_active)
    if scene.pool is not None and scene.cap is not None and scene.at_work >= scene.cap:
        text = f"the daemon runs as many jobs as it may, {scene.at_work} of {scene.cap}"
        yield reason("runtime.max_active", text, "see max_active in [runtime]", active=scene.at_work, max=scene.cap)


def rated(scene: Scene, bucket: Bucket) -> Iterator[Reason]:
    rate, now, name = bucket.rate, scene.now, scene.queue.name
    per = length(rate.per_ms)
    if rate.requests is not None and bucket.requests < 1:
        until = now + int((1 - bucket.requests) * rate.per_ms / rate.requests) + 1
        text = f"its queue {name} is rate-limited to {rate.requests:,} starts in {per}: the next is at "
        yield reason("queue.rate", text + moment(until, now), "it goes on by itself", until=until)
    needed = min(max(1, scene.job.tokens), rate.tokens or 0)
    if rate.tokens is not None and bucket.tokens < needed:
        until = now + int((needed - bucket.tokens) * rate.per_ms / rate.tokens) + 1
        left = max(0, int(bucket.tokens))
        text = f"its queue {name} is rate-limited to {rate.tokens:,} tokens in {per}: {left:,} are left, it takes "
        text += f"{scene.job.tokens:,}, and there will be enough at {moment(until, now)}"
        yield reason("queue.tokens", text, "it goes on by itself", until=until, left=left, takes=scene.job.tokens)


def hands(scene: Scene) -> Iterator[Reason]:
    """Tell whether there is anybody who could run it."""
    if scene.suspect is not None:
        text = f"the daemon died while job {scene.suspect} ran, so that one runs alone first"
        yield reason("suspect", text, f"understudy why {scene.suspect}", job=scene.suspect)
    if scene.agent is not None:
        yield from agent(scene.agent, scene.job)
    if scene.pool is not None:
        yield from workers(scene.pool, scene.job.queue)


def agent(seat: Seat, job: JobView) -> Iterator[Reason]:
    if seat.state is None:
        hint = f"define [agents.{seat.name}] in config.toml, then: understudy reload"
        yield reason("agent.unknown", f"there is no agent {seat.name} any more", hint)
    elif seat.state == "quarantined":
        why = f": {seat.reason}" if seat.reason else ""
        text = f"the agent {seat.name} is quarantined{why}"
        yield reason("agent.quarantined", text, "mend it, then: understudy reload")
    elif seat.state != "running":
        yield reason("agent.away", f"the agent {seat.name} is {seat.state}", f"understudy agents show {seat.name}")
    elif seat.talk is not None:
        text = f"an earlier message of its conversation {job.conversation} is being answered: job {seat.talk}"
        yield reason("agent.conversation", text, f"understudy why {seat.talk}", job=seat.talk)
    elif seat.held >= seat.slots:
        turns = "turn" if seat.slots == 1 else "turns"
        text = f"the agent {seat.name} is busy with {seat.held} of {seat.slots} {turns}"
        yield reason("agent.busy", text, f"understudy jobs ls --queue agent:{seat.name} --status active")


def workers(pool: Pool, queue: str) -> Iterator[Reason]:
    facts: dict[str, Any] = {"pool": pool.name, "size": pool.size, "busy": pool.busy, "draining": pool.draining}
    if pool.size == 0:
        text = f"no worker serves its queue {queue}: the pool {pool.name} is empty"
        yield reason("workers.none", text, f"understudy pools resize {pool.name} 1", **facts)
    elif pool.draining >= pool.size:
        text = f"all {pool.size} workers of the pool {pool.name} are draining"
        yield reason("workers.draining", text, "understudy workers resume ID", **facts)
    elif pool.busy + pool.draining >= pool.size:
        drained = f", or drain ({pool.draining})" if pool.draining else ""
        text = f"all {pool.size} workers of the pool {pool.name} are busy{drained}"
        hint = f"`understudy workers ls` shows with what; more: understudy pools resize {pool.name} {pool.size + 1}"
        yield reason("workers.busy", text, hint, **facts)


def position(scene: Scene, *, alone: bool) -> Iterator[Reason]:
    """Tell its place in the queue; *alone*: nothing else was found that holds it back."""
    ahead, name = scene.facts.ahead, scene.queue.name
    rate = rate_of(scene.queue)
    if alone and rate is not None and rate.requests is not None:
        # How full the bucket is, is written now and then; where nobody else is in the way, it is the rate.
        text = f"its queue {name} starts no more than {rate.requests:,} jobs in {length(rate.per_ms)}"
        yield reason("queue.rate", text, "it goes on by itself")
        alone = False
    if ahead == 0:
        moves = "starts in a moment" if alone else "starts as soon as it may"
        yield reason("queue.position", f"it is the first of its queue {name} and {moves}", ahead=ahead)
        return
    before = f"{ahead:,} or more jobs go" if ahead >= COUNTED else "1 job goes" if ahead == 1 else f"{ahead} jobs go"
    place = "" if ahead >= COUNTED else f", it is number {ahead + 1}"
    yield reason("queue.position", f"{before} before it in its queue {name}{place}", ahead=ahead)


# -- at work -----------------------------------------------------------------------------------------------------------


def active(scene: Scene) -> Iterator[Reason]:
    job, now = scene.job, scene.now
    since = job.history[-1].started_at if job.history else job.started_at
    if job.cancel_requested:
        text = "it was asked to end, and is being ended: its code has the grace, then its process is killed"
        yield reason("active.cancel", text)
    if job.pause_requested:
        text = "it was asked to pause, and stops at its next step"
        yield reason("active.pause", text, f"take it back: understudy jobs resume {job.id}")
    text = f"it runs on {job.worker} since {moment(since, now)}, attempt {job.attempts} of {job.max_attempts}"
    yield reason("active", text, f"understudy jobs logs {job.id} -f", worker=job.worker, since=since)
    if job.timeout_ms is not None and since is not None:
        ends = since + job.timeout_ms
        yield reason("active.timeout", f"this attempt is ended at {moment(ends, now)}", timeout_ms=job.timeout_ms)


# -- ended -------------------------------------------------------------------------------------------------------------


def completed(scene: Scene) -> Iterator[Reason]:
    job = scene.job
    text = f"it completed at {moment(job.finished_at, scene.now)}"
    yield reason("ended.completed", text, f"its result: understudy jobs wait {job.id}")


def failed(scene: Scene) -> Iterator[Reason]:
    job = scene.job
    error = last_error(job)
    because = f": {said(error)}" if error is not None else ""
    again = f"understudy jobs retry {job.id}"
    mend = f"mend that, then: {again}"
    match job.reason:
        case "exhausted" | "timeout":
            text = f"it failed after {job.attempts} of {job.max_attempts} attempts{because}"
            hint = f"if that has passed, try it again: {again}"
        case "poison":
            text = f"it brought down its process, or the daemon, {job.crashes} times{because}"
            hint = f"mend its code first, then: {again}"
        case "deadline":
            at = f", {moment(job.deadline_at, scene.now)}" if job.deadline_at is not None else ""
            text = f"it was not done by its deadline{at}"
            hint = f"run it without a deadline: {again}"
        case "dependency":
            text, hint = hung_on(job, "failed")
        case _:
            text, hint = f"it failed for good{because}", f"another attempt alone would not help; {mend}"
    yield reason(f"ended.failed.{job.reason}", text, hint)


def cancelled(scene: Scene) -> Iterator[Reason]:
    job = scene.job
    again = f"run it after all: understudy jobs retry {job.id}"
    match job.reason:
        case "dependency":
            text, hint = hung_on(job, "was cancelled")
        case "superseded":
            text, hint = "a newer job took its place", again
        case "deadline":
            text, hint = "it did not start by its deadline", again
        case _:
            text, hint = f"it was cancelled at {moment(job.finished_at, scene.now)}", again
    yield reason(f"ended.cancelled.{job.reason}", text, hint)


def hung_on(job: JobView, ended: str) -> tuple[str, str]:
    """Return text and hint for a job that ended because of one that it depends on."""
    broken = [edge for edge in job.depends_on if edge.state == "broken"]
    if not broken:
        return f"it {ended} because a job it depends on did not complete", f"understudy jobs retry {job.id}"
    parent = Standing(broken[0].job, broken[0].status or "gone")
    text = f"it {ended} because it depends on {jobs([parent])}"
    return text, f"take both back: understudy jobs retry {parent.id} --with-dependants"


EXPLAIN: Final[dict[str, Callable[[Scene], Iterator[Reason]]]] = {
    "pending": pending,
    "waiting": waiting,
    "delayed": delayed,
    "active": active,
    "paused": paused,
    "completed": completed,
    "failed": failed,
    "cancelled": cancelled,
}


# -- words -------------------------------------------------------------------------------------------------------------


def last_error(job: JobView) -> Problem | None:
    """Return the error of a job, or of the last of its attempts that had one."""
    if job.error is not None:
        return job.error
    return next((attempt.error for attempt in reversed(job.history) if attempt.error is not None), None)


def said(error: Problem) -> str:
    """Return what went wrong, on one line that is not too long."""
    text = " ".join(error.detail.split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def jobs(found: Sequence[Standing]) -> str:
    """Return jobs as a part of a sentence."""
    if len(found) == 1:
        job, status = found[0]
        return f"job {job}, which {ENDS.get(status, f'is {status}')}"
    return f"{len(found):,} jobs: {standings(found)}"


def standings(found: Sequence[Standing]) -> str:
    return some([f"{one.id} ({one.status})" for one in found])


def some(words: Sequence[str]) -> str:
    """Return the first words of a list, and how many more there are."""
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def data_of(found: Sequence[Standing]) -> list[dict[str, str]]:
    return [one._asdict() for one in found]


def moment(at: int | None, now: int) -> str:
    """Return a time both ways, `14:13:17 UTC (in 12 s)`; with the date where it is a day or more away."""
    if at is None:
        return "an unknown time"
    form = "%H:%M:%S UTC" if abs(at - now) < DAY_MS else "%Y-%m-%d %H:%M:%S UTC"
    away = length(abs(at - now))
    told = f"in {away}" if at > now else f"{away} ago" if now - at >= 1000 else "just now"
    return f"{time.strftime(form, time.gmtime(at // 1000))} ({told})"


def length(ms: int) -> str:
    """Return a length of time in its largest unit: `250 ms`, `12 s`, `3 min`, `2 h`, `5 d`."""
    for size, unit in ((DAY_MS, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size:
            return f"{ms // size} {unit}"
    return f"{ms} ms"
