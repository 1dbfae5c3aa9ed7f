"""What people ask for, what time does, and what is put right."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

from runtime.errors import problem
from runtime.store.memory.running import Running
from runtime.store.memory.tables import Job
from runtime.store.port import (
    MAX_CRASHES,
    CancelJobs,
    CancelResult,
    DeleteEnded,
    ExpireJobs,
    ExpireLeases,
    Lost,
    PauseJobs,
    PauseResult,
    PromoteDue,
    Recovered,
    RecoverJobs,
    ReleaseHeld,
    RepairJobs,
    ResumeJobs,
    Retried,
    RetryJobs,
    rank_of,
)
from schemas.jobs import KEEP_TAG, Lane, Status

POISON_ERROR: Final = problem("job.poison", "the daemon died whenever this job ran alone").model_dump_json()
LOST_ERROR: Final = problem("job.crashed", "nothing was heard of its process for a whole lease").model_dump_json()


class Wishes(Running):
    """Changes that come from outside an attempt."""

    # -- cancel, pause, resume ---------------------------------------------------------------------------------------

    def cancel(self, change: CancelJobs) -> list[CancelResult | None]:
        jobs = {job.row.id: job for job in self._found(change.ids)}
        results: list[CancelResult | None] = []
        ended: list[Job] = []
        requested: list[Job] = []
        for job_id in change.ids:
            job = jobs.get(job_id)
            if job is None:
                results.append(None)
            elif job.ended:
                results.append(CancelResult("too_late", job.status, job.status, *job.place))
            elif job.status == "active":
                results.append(CancelResult("requested", job.status, job.status, *job.place, fence=job.lease))
                if job not in requested:
                    requested.append(job)
            else:
                results.append(CancelResult("cancelled", "cancelled", job.status, *job.place))
                jobs[job_id] = self._jobs.move(job, "cancelled", "user", change.now, cancel_at=change.now)
                ended.append(jobs[job_id])
        for job in ended:
            self._tell_end(job, change.now)
        for job in requested:
            self._jobs.change(job, cancel_at=job.cancel_at or change.now, updated_at=change.now)
            self._tell(job, change.now, "cancel_requested")
        self._settle_ended(ended, change.now)
        return results

    def pause(self, change: PauseJobs) -> list[PauseResult | None]:
        told: dict[str, PauseResult] = {}
        jobs = self._found(change.ids)
        for job in jobs:
            if job.status == "active":
                self._jobs.change(job, pause_at=job.pause_at or change.now, updated_at=change.now)
                self._tell(job, change.now, "pause_requested")
                told[job.row.id] = PauseResult("requested", "active")
        freed: list[str | None] = []
        for job in jobs:
            if job.ended:
                told[job.row.id] = PauseResult("too_late", job.status)
            elif (job.status, job.reason) == ("paused", "user"):
                told[job.row.id] = PauseResult("unchanged", "paused")
            elif job.status != "active":
                held = self._hold(job, change.now)
                self._tell(held, change.now, "held", reason="user")
                told[job.row.id] = PauseResult("paused", "paused")
                freed += [job.row.limit_key] if job.status == "pending" else []
        self._free_keys(freed, change.now)
        return [told.get(job_id) for job_id in change.ids]

    def _hold(self, job: Job, now: int) -> Job:
        if job.status == "paused":  # held because its kind is unknown: now a person decides
            return self._jobs.change(job, reason="user", updated_at=now)
        return self._jobs.move(job, "paused", "user", now)

    def resume(self, change: ResumeJobs) -> list[PauseResult | None]:
        told: dict[str, PauseResult] = {}
        resumed: list[Job] = []
        for job in self._found(change.ids):
            after = self._resume_one(job, change.now)
            if after is None:
                told[job.row.id] = PauseResult("too_late" if job.ended else "unchanged", job.status)
            else:
                told[job.row.id] = PauseResult("resumed", after.status)
                resumed.append(after)
        for job in resumed:
            self._tell(job, change.now, "resumed", status=job.status)
        return [told.get(job_id) for job_id in change.ids]

    def _resume_one(self, job: Job, now: int) -> Job | None:
        """Let one job go on; None where there is nothing to do."""
        if job.status == "active" and job.pause_at is not None:
            return self._jobs.change(job, pause_at=None, updated_at=now)
        edges = [edge for edge in self._edges.of_child(job.seq) if edge.state in ("open", "broken")]
        if job.status == "paused":
            return self._jobs.move(job, "waiting", "deps", now) if edges else self._go_on(job, now)
        if (job.status, job.reason) == ("waiting", "deps") and edges and all(e.state == "broken" for e in edges):
            for edge in edges:
                self._edges.settle(edge, "ignored")
            return self._go_on(job, now)
        return None

    # -- retry -------------------------------------------------------------------------------------------------------

    def retry(self, change: RetryJobs) -> list[Retried | Status | None]:
        found = {job.row.id: job for job in self._found(change.ids)}
        roots = self._without_rivals([job for job in found.values() if job.status in ("failed", "cancelled")])
        also = self._fallen(roots) if change.dependants else {}
        self._take_back(roots, [job for jobs in also.values() for job in jobs], change.now)
        taken = {job.row.id: job for job in roots}
        results: list[Retried | Status | None] = []
        for job_id in change.ids:
            job = taken.pop(job_id, None)
            if job is not None:
                results.append(Retried(*job.place, job.status, len(also.get(job.seq, ()))))
            elif job_id in found:
                results.append(self._jobs[found[job_id].seq].status)  # named twice: where it stands by then
            else:
                results.append(None)
        return results

    def _without_rivals(self, jobs: Sequence[Job]) -> list[Job]:
        """Leave out those whose unique word another job holds, now or as one before them in *jobs*."""
        taken: set[tuple[str, str]] = set()
        kept = []
        for job in jobs:
            if job.row.unique is not None:
                word = (job.row.kind, job.row.unique)
                if word in self._jobs.by_unique or word in taken:
                    continue
                taken.add(word)
            kept.append(job)
        return kept

    def _fallen(self, roots: Sequence[Job]) -> dict[int, list[Job]]:
        """Return what ended over each of *roots*, by the seq of the root; each job is named once."""
        known = {job.seq for job in roots}
        found: dict[int, list[Job]] = {}
        for root in roots:
            reached: dict[int, Job] = {}
            look = [root.seq]
            while look:
                for edge in self._edges.of_parent(look.pop()):
                    child = self._jobs[edge.child]
                    over_it = child.status in ("cancelled", "failed") and child.reason == "dependency"
                    if edge.state == "broken" and over_it and child.seq not in reached:
                        reached[child.seq] = child
                        look.append(child.seq)
            found[root.seq] = [reached[seq] for seq in sorted(reached) if seq not in known]
            known.update(reached)
        kept = {job.seq for job in self._without_rivals([*roots, *(job for jobs in found.values() for job in jobs)])}
        return {seq: [job for job in jobs if job.seq in kept] for seq, jobs in found.items()}

    def _take_back(self, roots: Sequence[Job], also: Sequence[Job], now: int) -> None:
        """Make ended jobs pending again, or waiting where a parent of theirs holds them."""
        jobs = [*roots, *also]
        for job in jobs:
            for edge in self._edges.of_parent(job.seq):
                if edge.state == "broken":
                    self._edges.settle(edge, "open")
        for job in roots:
            for edge in self._edges.of_child(job.seq):
                if edge.state == "broken":
                    self._edges.settle(edge, "ignored")
        for job in jobs:
            fresh: dict[str, Any] = {"attempts": 0, "crashes": 0, "snoozes": 0, "suspect": False, "cancel_at": None}
            fresh |= {"pause_at": None, "result": None, "error": None, "progress": None, "execute_after": now}
            fresh["rank"] = rank_of(job.row.lane, now, job.row.priority)
            if job.deadline_at is not None and job.deadline_at <= now:
                fresh["deadline_at"] = None
            status, reason = ("waiting", "deps") if self._holds(job) else ("pending", None)
            self._jobs.move(job, status, reason, now, **fresh)  # type: ignore[arg-type]  # one of the two
        for job in jobs:
            self._tell(job, now, "retried")

    # -- time --------------------------------------------------------------------------------------------------------

    def promote(self, change: PromoteDue) -> tuple[tuple[str, Lane, int], ...]:
        due = [self._jobs[seq] for _, seq in islice(up_to(self._jobs.due, change.now), change.limit)]
        for job in due:
            rank = rank_of(job.row.lane, job.execute_after, job.row.priority)
            self._jobs.move(job, "pending", None, change.now, rank=rank)
        over = [self._jobs[seq] for _, seq in islice(up_to(self._jobs.waits, change.now), change.limit - len(due))]
        self._wake(over, change.now)
        return tally([*due, *over])

    def release_held(self, change: ReleaseHeld) -> tuple[tuple[str, Lane, int], ...]:
        held = [job for job in self._jobs.values() if (job.status, job.reason) == ("paused", "hold")]
        known = [job for job in held if job.row.kind in change.kinds and is_of_unknown_kind(job)]
        for job in known:
            self._go_on(job, change.now)
        return tally(known)

    def expire(self, change: ExpireJobs) -> int:
        late = [self._jobs[seq] for _, seq in islice(up_to(self._jobs.deadlines, change.now), change.limit)]
        late.sort(key=lambda job: job.seq)
        self._settle_ended(self._end(late, "failed", "deadline", change.now), change.now)
        return len(late)

    # -- taken back --------------------------------------------------------------------------------------------------

    def expire_leases(self, change: ExpireLeases) -> tuple[Lost, ...]:
        now = change.now
        active = [self._jobs[seq] for seq in self._jobs.active]
        silent = [job for job in active if job.boot == change.boot and (job.lease_until or 0) < now]
        moved = []
        for job in silent:
            self._end_attempt(job, now, "lost", LOST_ERROR)
            if job.cancel_at is not None:
                moved.append(self._jobs.move(job, "cancelled", "user", now))
            elif job.attempts >= job.row.max_attempts:
                moved.append(self._jobs.move(job, "failed", "exhausted", now, error=LOST_ERROR))
            elif job.pause_at is not None:
                moved.append(self._jobs.move(job, "paused", "user", now))
            else:
                moved.append(self._jobs.move(job, "pending", None, now))
        for job in moved:
            self._tell(job, now, "lost", status=job.status)
        self._over(moved, now)
        return tuple(Lost(was.lease, job.status) for was, job in zip(silent, moved, strict=True))

    def _over(self, jobs: Sequence[Job], now: int) -> None:
        """Tell the ends of jobs after what made them end, and release what waited for them."""
        ended = [job for job in jobs if job.ended]
        for job in ended:
            self._tell_end(job, now)
        self._settle_ended(ended, now)
        self._free_keys((job.row.limit_key for job in jobs if not job.ended), now)

    def recover(self, change: RecoverJobs) -> tuple[Recovered, ...]:
        orphans = [job for job in (self._jobs[seq] for seq in self._jobs.active) if is_orphan(job, change)]
        moved = []
        for job in orphans:
            status, reason, suspect, crashes = blame(job, daemon_died=change.worker is None)
            self._end_attempt(job, change.now, "lost", None)
            more: dict[str, Any] = {"suspect": suspect, "crashes": crashes, "attempts": job.attempts - 1}
            if status == "failed":
                more["error"] = POISON_ERROR
            moved.append(self._jobs.move(job, status, reason, change.now, **more))
        for job in moved:
            self._tell(job, change.now, "recovered", status=job.status, suspect=job.suspect)
        self._over(moved, change.now)
        return tuple(Recovered(job.row.id, *job.place, job.status, job.suspect) for job in moved)

    # -- put right ---------------------------------------------------------------------------------------------------

    def repair(self, change: RepairJobs) -> dict[str, int]:
        now = change.now
        loose = [job for job in self._waiting("deps") if not self._holds(job)]
        for job in loose:
            self._go_on(job, now)
        bereft = [job for job in self._waiting("children") if not self._jobs.living_parts.get(job.seq)]
        self._wake(bereft, now)
        signalled = [
            job
            for job in self._waiting("signal")
            if job.waits is not None and self._oldest_signal(job, job.waits) is not None
        ]
        self._wake(signalled, now)
        limited = self._release_stalled(now)
        made = {"deps_released": len(loose), "limit_released": limited}
        made |= {"children_released": len(bereft), "signal_released": len(signalled)}
        return {name: count for name, count in made.items() if count}

    def _waiting(self, reason: str) -> list[Job]:
        return [self._jobs[seq] for seq in self._jobs.waiting.get(reason, ())]

    def _release_stalled(self, now: int) -> int:
        """Release waiting jobs of keys of which none is pending in their place, as many as the key has room for."""
        stalled: dict[str, int] = {}
        pending = {(job.row.limit_key, *job.place) for job in self._jobs.values() if job.status == "pending"}
        for job in self._waiting("limit"):
            key = job.row.limit_key
            if key is not None and (key, *job.place) not in pending:
                stalled[key] = max(stalled.get(key, 0), job.row.limit_max)
        return self._free_keys((key for key, most in stalled.items() for _ in range(most)), now)

    # -- forgotten ---------------------------------------------------------------------------------------------------

    def delete(self, change: DeleteEnded) -> int:
        names = {queue for status, queue in self._jobs.over if status == change.status}
        queues = [change.queue] if change.queue is not None else sorted(names - set(change.without))
        oldest = sorted(entry for queue in queues for entry in self._jobs.over.get((change.status, queue), ()))
        spare = 0 if change.keep is None else len(oldest) - change.keep
        going: list[Job] = []
        for place, (finished_at, _, seq) in enumerate(oldest):
            if len(going) == change.limit or (finished_at >= change.before and place >= spare):
                break
            if not self._has_to_stay(self._jobs[seq]):
                going.append(self._jobs[seq])
        for job in going:
            self._forget(job)
        return len(going)

    def _has_to_stay(self, job: Job) -> bool:
        whole = None if job.parent is None else self._jobs.get(job.parent)
        return (
            KEEP_TAG in job.row.tags
            or any(
                edge.state in ("open", "broken") or not self._jobs[edge.child].ended
                for edge in self._edges.of_parent(job.seq)
            )
            or bool(self._jobs.living_parts.get(job.seq))
            or (whole is not None and not whole.ended)
        )

    def _forget(self, job: Job) -> None:
        for edge in [*self._edges.of_parent(job.seq), *self._edges.of_child(job.seq)]:
            self._edges.put((edge.parent, edge.child), None)
        for parts in (self._attempts, self._steps, self._signals, self._logs, self._approvals):
            parts.forget(job.seq)
        self._jobs.remove(job)


# -- rules without a store ---------------------------------------------------------------------------------------------


def up_to(entries: list[tuple[int, int]], now: int) -> list[tuple[int, int]]:
    """Return the entries of a sorted list that are due."""
    found = []
    for entry in entries:
        if entry[0] > now:
            break
        found.append(entry)
    return found


def tally(jobs: Iterable[Job]) -> tuple[tuple[str, Lane, int], ...]:
    """Count jobs by queue and lane."""
    counts = Counter(job.place for job in jobs)
    return tuple((queue, lane, count) for (queue, lane), count in counts.items())


def is_orphan(job: Job, change: RecoverJobs) -> bool:
    if change.worker is None:
        return job.boot != change.boot
    return (job.boot, job.worker) == (change.boot, change.worker)


def blame(job: Job, *, daemon_died: bool) -> tuple[Status, str | None, bool, int]:
    """Return status, reason, suspect and crashes of a job whose owner died (the table in `RecoverJobs`)."""
    in_daemon = daemon_died and job.row.user_code and job.row.lane != "child"
    ran_alone = in_daemon and job.suspect and job.row.lane == "agent"
    crashes = job.crashes + ran_alone
    suspect = job.suspect or in_daemon
    if job.cancel_at is not None:
        return "cancelled", "user", suspect, crashes
    if ran_alone and crashes >= MAX_CRASHES:
        return "failed", "poison", suspect, crashes
    if job.pause_at is not None:
        return "paused", "user", suspect, crashes
    return "pending", None, suspect, crashes


def is_of_unknown_kind(job: Job) -> bool:
    """Tell whether a job is held because nobody knew its kind; what else is held waits for a person."""
    try:
        error = json.loads(job.error or "null")
    except ValueError:
        return False
    return isinstance(error, dict) and error.get("code") == "job.unknown_kind"
