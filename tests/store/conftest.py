"""Every store, opened, and a desk that says in one line what a test does to it."""

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from runtime import errors
from runtime.errors import StoreError
from runtime.store.memory import MemoryStore
from runtime.store.memory.tables import Table
from runtime.store.port import (
    BeginStep,
    CancelJobs,
    ClaimJobs,
    Edge,
    EndStep,
    Finish,
    Finished,
    FinishJobs,
    Inserted,
    InsertJobs,
    JobRow,
    Move,
    PauseJobs,
    PauseResult,
    PutQueue,
    QueueRow,
    ResumeJobs,
    RetryJobs,
    SendSignal,
    SignalSent,
    StepBegun,
    Store,
)
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import Claimed, JobFilter, JobView, Lane, Status
from tests.store.agents_desk import AGENT, AgentDesk, about_agents

START = 1_700_000_000_000
PROBLEM = {"code": "job.failed", "title": "It failed", "status": 500, "detail": "no"}


class Desk(AgentDesk):
    """What a test does to a store. Time stands still unless a test moves `now`; job ids rise."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.now = START
        self.boot = "boot-1"
        self._ids = count(1)
        self.tally: Counter[tuple[str, Lane, Status]] = Counter()
        self.heard: list[Move] = []
        store.watch(self._count)

    def _count(self, moves: Sequence[Move]) -> None:
        """Keep counts from moves alone, as the queue does."""
        self.heard += moves
        for queue, lane, before, after, jobs, _ in moves:
            if before is not None:
                self.tally[queue, lane, before] -= jobs
            if after is not None:
                self.tally[queue, lane, after] += jobs

    def row(self, **fields: Any) -> JobRow:
        """A job to insert; `args` and `data` may be given as Python values."""
        given = {"kind": "resize", "queue": "default", "lane": "loop", "args": {}} | fields
        texts = {name: json.dumps(given[name], sort_keys=True) for name in ("args", "data") if name in given}
        return JobRow(**({"id": f"job-{next(self._ids):04d}"} | given | texts))

    def child(self, *parents: str | Edge, **fields: Any) -> JobRow:
        """A job that depends on others, by their ids; the policy is `cancel` unless an edge says another."""
        edges = tuple(parent if isinstance(parent, Edge) else Edge(parent) for parent in parents)
        return self.row(**({"kind": "child"} | fields), depends_on=edges)

    def talk(self, conversation: str | None = "main", **fields: Any) -> JobRow:
        """A job on an agent's queue."""
        return self.row(**({"queue": AGENT, "lane": "agent", "kind": "agent.say"} | fields), conversation=conversation)

    async def insert(self, *rows: JobRow) -> tuple[Inserted, ...]:
        return await self.one(InsertJobs(rows, now=self.now))

    async def add(self, **fields: Any) -> str:
        """Insert one job and return its id."""
        (inserted,) = await self.insert(self.row(**fields))
        return inserted.id

    def claims(self, *workers: str, queue: str = "default", lane: Any = "loop") -> ClaimJobs:
        return ClaimJobs(queue, lane, workers, boot=self.boot, now=self.now, lease_until=self.now + 30_000)

    async def claim(self, *workers: str, **where: Any) -> tuple[Claimed, ...]:
        return await self.one(self.claims(*(workers or ("w1",)), **where))

    async def claim_talk(self, *workers: str) -> tuple[Claimed, ...]:
        return await self.claim(*workers, queue=AGENT, lane="agent")

    async def start(self, row: JobRow | None = None, **fields: Any) -> Claimed:
        """Insert a job and claim it for w1; nothing else may be pending in its queue."""
        row = self.row(**fields) if row is None else row
        await self.insert(row)
        (claimed,) = await self.claim(queue=row.queue, lane=row.lane)
        assert claimed.id == row.id
        return claimed

    async def finish(self, fence: Any, status: Status, reason: str | None = None, **more: Any) -> Finished | None:
        (finished,) = await self.one(FinishJobs((Finish(fence, status, reason, **more),), now=self.now))
        return finished

    async def hold(self, fence: Any) -> None:
        """End an attempt at a job whose kind nobody knows."""
        unknown = errors.problem("job.unknown_kind").model_dump_json()
        await self.finish(fence, "paused", "hold", refund=True, error=unknown)

    async def queue(self, name: str = "default", state: Any = "running", **fields: Any) -> None:
        """Put a queue's row."""
        await self.one(PutQueue(QueueRow(name, state, **fields), now=self.now))

    async def cancel(self, *ids: str) -> list[Any]:
        return list(await self.one(CancelJobs(ids, now=self.now)))

    async def retry(self, *ids: str, dependants: bool = False) -> list[Any]:
        return list(await self.one(RetryJobs(ids, now=self.now, dependants=dependants)))

    async def pause(self, *ids: str) -> list[PauseResult | None]:
        return list(await self.one(PauseJobs(ids, now=self.now)))

    async def resume(self, *ids: str) -> list[PauseResult | None]:
        return list(await self.one(ResumeJobs(ids, now=self.now)))

    async def begin(self, fence: Any, name: str, *, retry: bool = True, charge: Any = None) -> StepBegun | None:
        return await self.one(BeginStep(fence, name, now=self.now, retry=retry, charge=charge))

    async def done(self, fence: Any, name: str, output: Any = None, **more: Any) -> bool:
        return await self.one(EndStep(fence, name, now=self.now, output=json.dumps(output), **more))

    async def signal(self, job_id: str, name: str, payload: Any = None) -> SignalSent | None:
        return await self.one(SendSignal(job_id, name, json.dumps(payload), now=self.now))

    async def view(self, job_id: str) -> JobView:
        view = await self.store.job(job_id)
        assert view is not None
        return view

    async def status(self, job_id: str) -> tuple[str, str | None]:
        view = await self.view(job_id)
        return view.status, view.reason

    async def told(self, *, after: int = 0) -> list[tuple[str, str, dict[str, Any]]]:
        """Return (type, subject, data) of the events past *after*, without queue and kind."""
        events = await self.store.events(after=after)
        bare = [{k: v for k, v in event.data.items() if k not in ("queue", "kind")} for event in events]
        return [(event.type, event.subject, data) for event, data in zip(events, bare, strict=True)]

    async def newest(self) -> int:
        """Return the offset of the newest event."""
        return (await self.store.event_bounds())[1]

    async def everything(self) -> dict[str, Any]:
        """Return all that can be read of the store, to be compared."""
        store = self.store
        ids = [view.id for view in await store.jobs(limit=1000)]
        names = sorted({row.name for row in await store.agents()} | {"ada", "bob"})
        return {
            "jobs": [await store.job(job_id) for job_id in ids],
            "logs": [await store.job_logs(job_id) for job_id in ids],
            "counts": [await store.counts(ended=ended) for ended in (False, True)],
            "due": await store.next_due(),
            "suspects": await store.suspects(),
            "processes": await store.processes("no boot"),
            "graphs": [await store.graph(job_id, 1000) for job_id in ids],
            "parents": [await store.parents(job_id) for job_id in ids],
            "children": [await store.children(job_id) for job_id in ids],
            "schedules": await store.schedules(),
            "fires": [await store.fires(row.name) for row in await store.schedules()],
            "workers": await store.workers(),
            "queues": await store.queues(),
            "agents": await store.agents(),
            "states": [await store.state(name) for name in names],
            **await about_agents(store, names),
            "events": await store.events(after=0),
            "bounds": await store.event_bounds(),
        }

    async def dump(self) -> Any:
        """Return all that is kept, whether or not a read of the port shows it."""
        if isinstance(self.store, SqliteStore):
            return await self.store._main.run(dump_tables)
        return {name: dict(table) for name, table in vars(self.store).items() if isinstance(table, Table)}

    async def counted(self) -> None:
        """Hold the sum of all moves to what the store itself counts."""
        counts = await self.store.counts(ended=False) | await self.store.counts(ended=True)
        assert {place: jobs for place, jobs in self.tally.items() if jobs} == counts

    async def reopen(self) -> None:
        """Close the store and open it again, as the next daemon does."""
        await self.store.close()
        if isinstance(self.store, SqliteStore):
            self.store = SqliteStore(self.store.path)
        await self.store.open()
        self.store.watch(self._count)

    async def spoil(self, job_id: str, **columns: Any) -> None:
        """Change a job behind the back of every rule, as no change can: only a fault of ours could."""
        if isinstance(self.store, MemoryStore):
            (job,) = self.store._found([job_id])
            asked = {name: columns.pop(name) for name in ("limit_key",) if name in columns}
            self.store._jobs.put(job.seq, replace(job, row=replace(job.row, **asked), **columns))
            self.store._journal.clear()
            return
        names = ", ".join(f"{name} = ?" for name in columns)
        await self.spoil_file(f"UPDATE jobs SET {names} WHERE id = ?", *columns.values(), job_id)

    async def spoil_edges(self, job_id: str, state: Any) -> None:
        """Have the edges of a job stand otherwise, and nobody notice."""
        if isinstance(self.store, MemoryStore):
            (job,) = self.store._found([job_id])
            for edge in self.store._edges.of_child(job.seq):
                self.store._edges.settle(edge, state)
            self.store._journal.clear()
            return
        await self.spoil_file(
            "UPDATE job_deps SET state = ? WHERE child = (SELECT seq FROM jobs WHERE id = ?)", state, job_id
        )

    async def spoil_file(self, statement: str, *values: Any) -> None:
        """Write into the file while the store is closed."""
        assert isinstance(self.store, SqliteStore)
        await self.store.close()
        connection = sqlite3.connect(self.store.path, isolation_level=None)
        assert connection.execute(statement, values).rowcount == 1
        connection.close()
        self.store = SqliteStore(self.store.path)
        await self.store.open()
        self.store.watch(self._count)


def dump_tables(sql: sqlite3.Connection) -> dict[str, list[Any]]:
    """Return every row of every table."""
    names = [name for (name,) in sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {name: sorted(sql.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


async def found(store: Store, **where: Any) -> list[str]:
    """Return the ids of the jobs that a filter finds."""
    return [view.id for view in await store.jobs(JobFilter(**where), limit=1000)]


@pytest.fixture(params=["memory", "memory-on-trio", "sqlite"])
def which(request: pytest.FixtureRequest) -> str:
    """Which store, and which event loop it runs on: the one in a file needs asyncio."""
    return request.param


@pytest.fixture
def anyio_backend(which: str) -> str:
    return "trio" if which == "memory-on-trio" else "asyncio"


@pytest.fixture
def closed_store(which: str, tmp_path: Path) -> Store:
    """A store that was not opened yet."""
    return SqliteStore(tmp_path / "understudy.db") if which == "sqlite" else MemoryStore()


@pytest.fixture
async def store(closed_store: Store) -> AsyncIterator[Store]:
    """An empty store, open; closed when the test ends."""
    await closed_store.open()
    yield closed_store
    await closed_store.close()


@pytest.fixture
async def desk(store: Store) -> AsyncIterator[Desk]:
    """The open store with its desk. In the end the sum of all moves is what the store counts, whatever was done."""
    desk = Desk(store)
    yield desk
    with contextlib.suppress(StoreError):  # the test has closed it
        await desk.counted()
    await desk.store.close()


@pytest.fixture
def problem() -> str:
    """An error as JSON text."""
    return json.dumps(PROBLEM)
