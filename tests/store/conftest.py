"""Every store, opened, and a desk that says in one line what a test does to it."""

import json
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from runtime.store.memory import MemoryStore
from runtime.store.port import (
    Claimed,
    ClaimJobs,
    Finish,
    Finished,
    FinishJobs,
    Inserted,
    InsertJobs,
    JobRow,
    Store,
)
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import JobView, Status

START = 1_700_000_000_000
AGENT = "agent:ada"
PROBLEM = {"code": "job.failed", "title": "It failed", "status": 500, "detail": "no"}


class Desk:
    """What a test does to a store. Time stands still unless a test moves `now`; job ids rise."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = START
        self.boot = "boot-1"
        self._ids = count(1)

    def row(self, **fields: Any) -> JobRow:
        """A job to insert; `args` and `data` may be given as Python values."""
        given = {"kind": "resize", "queue": "default", "lane": "loop", "args": {}} | fields
        texts = {name: json.dumps(given[name], sort_keys=True) for name in ("args", "data") if name in given}
        return JobRow(**({"id": f"job-{next(self._ids):04d}"} | given | texts))

    def talk(self, conversation: str | None = "main", **fields: Any) -> JobRow:
        """A job on an agent's queue."""
        return self.row(**({"queue": AGENT, "lane": "agent", "kind": "agent.say"} | fields), conversation=conversation)

    async def one(self, change: Any) -> Any:
        """Commit one change alone and return its result."""
        (result,) = await self.store.commit([change])
        return result

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
        names = [row.name for row in await store.agents()] + ["ada"]
        talks = {(name, talk) for name in names for talk in await store.conversations(name)}
        return {
            "jobs": [await store.job(job_id) for job_id in ids],
            "logs": [await store.job_logs(job_id) for job_id in ids],
            "counts": [await store.counts(ended=ended) for ended in (False, True)],
            "due": await store.next_due(),
            "suspects": await store.suspects(),
            "processes": await store.processes("no boot"),
            "workers": await store.workers(),
            "queues": await store.queues(),
            "agents": await store.agents(),
            "states": [await store.state(name) for name in names],
            "messages": {talk: await store.messages(*talk) for talk in talks},
            "events": await store.events(after=0),
            "bounds": await store.event_bounds(),
        }


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
def desk(store: Store) -> Desk:
    """The open store with its desk."""
    return Desk(store)


@pytest.fixture
def problem() -> str:
    """An error as JSON text."""
    return json.dumps(PROBLEM)
