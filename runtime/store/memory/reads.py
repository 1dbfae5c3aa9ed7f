"""What is read."""

import json
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from anyio.lowlevel import checkpoint

from runtime.errors import StoreError
from runtime.store.memory.base import Base, parsed, problem_of
from runtime.store.memory.tables import Job
from runtime.store.port import (
    AgentRow,
    ChildResult,
    FireRow,
    ParentResult,
    ProcessRow,
    QueueRow,
    ScheduleRow,
    StateRow,
    Tidied,
    WhyFacts,
    WorkerRow,
)
from schemas.events import Event
from schemas.jobs import (
    ENDED,
    MAX_LOG_LINES,
    AttemptView,
    EdgeView,
    GraphEdge,
    GraphNode,
    GraphView,
    JobFilter,
    JobView,
    Lane,
    LogLine,
    Status,
    StepView,
)

COUNT_AHEAD: Final = 1_000


class Reads(Base):
    """Each read yields to the loop once and then answers from what is committed."""

    _open = False

    async def _reading(self) -> None:
        await checkpoint()
        self._check_open()

    def _check_open(self) -> None:
        if not self._open:
            raise StoreError("the store is not open")

    async def tidy(self, pages: int) -> Tidied:
        await self._reading()
        return Tidied()

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def job(self, job_id: str) -> JobView | None:
        await self._reading()
        job = self._find(job_id)
        return None if job is None else self._whole(job)

    def _whole(self, job: Job) -> JobView:
        steps = sorted(self._step_views(job), key=lambda step: (step.started_at, step.name))
        return self._view(job).model_copy(
            update={
                "payload": json.loads(job.row.args),
                "data": parsed(job.row.data),
                "result": parsed(job.result),
                "error": problem_of(job.error),
                "progress": parsed(job.progress),
                "history": self._history(job),
                "depends_on": tuple(sorted(self._edge_views(job), key=lambda edge: edge.job)),
                "steps": tuple(steps),
            }
        )

    def _history(self, job: Job) -> tuple[AttemptView, ...]:
        return tuple(attempt for _, attempt in sorted(self._attempts.of(job.seq)))

    def _step_views(self, job: Job) -> Iterator[StepView]:
        for name, step in self._steps.of(job.seq):
            yield StepView(
                name=name,
                state=step.state,
                epoch=step.epoch,
                started_at=step.started_at,
                ended_at=step.ended_at,
                output=parsed(step.output),
                error=step.error,
                cost=step.cost,
            )

    def _edge_views(self, job: Job) -> Iterator[EdgeView]:
        for edge in self._edges.of_child(job.seq):
            parent = self._jobs[edge.parent]
            yield EdgeView(job=parent.row.id, on_failure=edge.on_failure, state=edge.state, status=parent.status)

    def _view(self, job: Job) -> JobView:
        row = job.row
        whole = None if job.parent is None else self._jobs.get(job.parent)
        return JobView(
            id=row.id,
            name=row.kind,
            queue=row.queue,
            status=job.status,
            reason=job.reason,
            priority=row.priority,
            attempts=job.attempts,
            max_attempts=row.max_attempts,
            crashes=job.crashes,
            key=row.key,
            unique=row.unique,
            tags=tuple(sorted(set(row.tags))),
            parent=None if whole is None else whole.row.id,
            limit_key=row.limit_key,
            limit_max=row.limit_max,
            tokens=row.tokens,
            worker=job.worker,
            conversation=row.conversation,
            timeout_ms=row.timeout_ms,
            heartbeat_ms=row.heartbeat_ms,
            snoozes=job.snoozes,
            waits_for=job.waits,
            wait_until=job.wait_until,
            deadline_at=job.deadline_at,
            cancel_requested=job.cancel_at is not None,
            pause_requested=job.pause_at is not None,
            created_at=job.created_at,
            updated_at=job.updated_at,
            execute_after=job.execute_after,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )

    async def jobs(
        self, where: JobFilter | None = None, *, before: str | None = None, limit: int = 50, errors: bool = False
    ) -> tuple[JobView, ...]:
        await self._reading()
        wanted = where or JobFilter()
        newest = sorted(self._jobs.values(), key=lambda job: job.row.id, reverse=True)
        found = (job for job in newest if (before is None or job.row.id < before) and self._fits(job, wanted))
        views = []
        for job in islice(found, limit):
            view = self._view(job)
            if errors:
                view = view.model_copy(update={"error": problem_of(job.error), "history": self._history(job)})
            views.append(view)
        return tuple(views)

    def _fits(self, job: Job, where: JobFilter) -> bool:
        row = job.row
        return (
            where.status in (None, job.status)
            and where.reason in (None, job.reason)
            and where.queue in (None, row.queue)
            and where.kind in (None, row.kind)
            and (where.tag is None or where.tag in row.tags)
            and (where.parent is None or job.parent == self._jobs.by_id.get(where.parent, -1))
            and where.limit_key in (None, row.limit_key)
        )

    async def job_logs(
        self, job_id: str, *, after: int = 0, tail: int | None = None, limit: int = 1000
    ) -> tuple[LogLine, ...] | None:
        await self._reading()
        job = self._find(job_id)
        if job is None:
            return None
        if tail is not None:
            after, limit = max(after, job.lines - tail), tail
        first = max(after, job.lines - MAX_LOG_LINES) + 1
        return tuple(self._logs[job.seq, n] for n in range(first, min(job.lines, first + limit - 1) + 1))

    async def counts(self, *, ended: bool) -> dict[tuple[str, Lane, Status], int]:
        await self._reading()
        return dict(Counter((*job.place, job.status) for job in self._jobs.values() if (job.status in ENDED) == ended))

    async def next_due(self) -> int | None:
        await self._reading()
        firsts = [entries[0][0] for entries in (self._jobs.due, self._jobs.waits, self._jobs.deadlines) if entries]
        return min(firsts, default=None)

    async def suspects(self) -> tuple[tuple[str, str], ...]:
        await self._reading()
        jobs = (job for job in self._jobs.values() if job.suspect and job.row.lane == "agent")
        return tuple((job.row.id, job.row.queue) for job in jobs if not job.ended)

    async def processes(self, boot: str) -> tuple[ProcessRow, ...]:
        await self._reading()
        active = (self._jobs[seq] for seq in self._jobs.active)
        return tuple(ProcessRow(job.row.id, *job.process) for job in active if job.process and job.boot != boot)

    # -- how jobs hang together --------------------------------------------------------------------------------------

    async def parents(self, job_id: str) -> tuple[ParentResult, ...]:
        await self._reading()
        job = self._find(job_id)
        found = []
        for edge in () if job is None else self._edges.of_child(job.seq):
            one = self._jobs[edge.parent]
            found.append(ParentResult(one.row.id, one.row.kind, one.status, edge.state, one.result, one.error))
        return tuple(sorted(found, key=lambda parent: parent.id))

    async def children(self, job_id: str) -> tuple[ChildResult, ...]:
        await self._reading()
        job = self._find(job_id)
        parts = () if job is None else (self._jobs[seq] for seq in self._jobs.parts.get(job.seq, ()))
        found = (ChildResult(one.row.id, one.row.kind, one.status, one.result, one.error) for one in parts)
        return tuple(sorted(found, key=lambda child: child.id))

    async def graph(self, job_id: str, limit: int) -> GraphView | None:
        await self._reading()
        job = self._find(job_id)
        if job is None:
            return None
        near = {job.seq: None}
        look = deque(near)
        while look and len(near) <= limit:
            for seq in self._neighbours(self._jobs[look.popleft()]):
                if seq not in near:
                    near[seq] = None
                    look.append(seq)
        shown = {seq: self._jobs[seq] for seq in islice(near, limit)}
        return GraphView(
            nodes=tuple(
                GraphNode(id=one.row.id, kind=one.row.kind, status=one.status, reason=one.reason)
                for one in shown.values()
            ),
            edges=tuple(self._graph_edges(shown)),
            cut=len(near) > limit,
        )

    def _neighbours(self, job: Job) -> Iterator[int]:
        yield from (edge.child for edge in self._edges.of_parent(job.seq))
        yield from (edge.parent for edge in self._edges.of_child(job.seq))
        yield from self._jobs.parts.get(job.seq, ())
        if job.parent is not None and job.parent in self._jobs:
            yield job.parent

    def _graph_edges(self, shown: dict[int, Job]) -> Iterator[GraphEdge]:
        for parent in sorted(shown):
            for edge in sorted(self._edges.of_parent(parent), key=lambda edge: edge.child):
                if edge.child in shown:
                    yield GraphEdge(
                        parent=shown[parent].row.id,
                        child=shown[edge.child].row.id,
                        on_failure=edge.on_failure,
                        state=edge.state,
                    )
        for seq in sorted(shown):
            whole = shown[seq].parent
            if whole in shown:
                yield GraphEdge(parent=shown[whole].row.id, child=shown[seq].row.id, relation="part")

    async def why(self, job_id: str) -> WhyFacts | None:
        await self._reading()
        job = self._find(job_id)
        if job is None:
            return None
        ahead = 0
        if job.status == "pending":
            ahead = min(COUNT_AHEAD, self._jobs.ready[job.place].index((job.rank, job.seq)))
        active = () if job.row.limit_key is None else self._jobs.key_active.get(job.row.limit_key, ())
        return WhyFacts(self._whole(job), ahead, tuple(sorted(self._jobs[seq].row.id for seq in active)))

    # -- the rest ----------------------------------------------------------------------------------------------------

    async def workers(self) -> tuple[WorkerRow, ...]:
        await self._reading()
        return tuple(self._workers[name] for name in sorted(self._workers))

    async def queues(self) -> tuple[QueueRow, ...]:
        await self._reading()
        return tuple(self._queues[name] for name in sorted(self._queues))

    async def schedules(self) -> tuple[ScheduleRow, ...]:
        await self._reading()
        return tuple(self._schedules[name] for name in sorted(self._schedules))

    async def still_runs(self, name: str) -> bool:
        await self._reading()
        jobs = self._found([fire.job for fire in self._fires.get(name, ()) if fire.job is not None])
        return any(not job.ended for job in jobs)

    async def fires(self, name: str, *, limit: int = 50) -> tuple[FireRow, ...]:
        await self._reading()
        return tuple(reversed(self._fires.get(name, ())))[:limit]

    async def agents(self) -> tuple[AgentRow, ...]:
        await self._reading()
        return tuple(self._agents[name] for name in sorted(self._agents))

    async def state(self, agent: str) -> StateRow | None:
        await self._reading()
        return self._states.get(agent)

    async def conversations(self, agent: str) -> tuple[str, ...]:
        await self._reading()
        used = sorted(((at, name) for (of, name), at in self._used.items() if of == agent), reverse=True)
        return tuple(name for _, name in used)

    async def messages(self, agent: str, conversation: str, *, limit: int = 100) -> tuple[str, ...]:
        await self._reading()
        return tuple(row.body for row in self._messages.get((agent, conversation), ())[-limit:])

    async def events(
        self, *, after: int, types: tuple[str, ...] = (), subject: str | None = None, limit: int = 1000
    ) -> tuple[Event, ...]:
        await self._reading()
        first = max(after + 1, self._oldest())
        kept = (self._events[offset] for offset in range(first, self._last.get("event", 0) + 1))
        wanted = (event for event in kept if subject in (None, event.subject) and is_of(event.type, types))
        return tuple(islice(wanted, limit))

    async def event_bounds(self) -> tuple[int, int]:
        await self._reading()
        return self._oldest(), self._last.get("event", 0)

    def _oldest(self) -> int:
        # Only the oldest ever go, so what is kept is one unbroken stretch up to the newest.
        return self._last.get("event", 0) - len(self._events) + 1

    async def setting(self, name: str) -> str | None:
        await self._reading()
        return self._settings.get(name)


def is_of(type_: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or any(type_.startswith(want[:-1]) if want.endswith("*") else type_ == want for want in wanted)
