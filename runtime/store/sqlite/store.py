"""The store on SQLite: one writer connection, a few read-only ones, and `state.json` beside the file."""

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from runtime import log
from runtime.errors import StoreCorrupt, StoreError
from runtime.store import port
from runtime.store.sqlite import approvals, graph, personas, queries, sidecar, spending, talks, views
from runtime.store.sqlite.connection import Connection, Durability, wanted_pragmas
from runtime.store.sqlite.migrate import check_ours, migrate
from runtime.store.sqlite.transaction import Transaction, last_number
from runtime.store.sqlite.writer import Writer
from schemas.events import Event
from schemas.jobs import GraphView, JobFilter, JobView, Lane, LogLine, Status

logger = log.get(__name__)

T = TypeVar("T")

READERS: Final = 2


class SqliteStore:
    """The default store: see `runtime.store.port.Store` for what each verb promises.

    durability  "full": acknowledged means synced, so it survives power loss. "relaxed": it survives the death of the
                daemon, but the last commits before a power loss may be gone.
    """

    def __init__(self, path: Path, *, durability: Durability = "full") -> None:
        self.path = path
        self._sidecar = path.with_name("state.json")
        self._main = Connection(path, wanted_pragmas(durability, writer=True), look=check_ours)
        self._readers = [Connection(path, wanted_pragmas(durability, writer=False)) for _ in range(READERS)]
        self._turn = 0
        self._writer = Writer(self._main, path)
        self._identity: sidecar.Sidecar | None = None
        self.unclean = False

    async def open(self) -> None:
        noted = sidecar.read(self._sidecar)
        if noted is not None and not self.path.exists():
            raise StoreCorrupt(f"{self.path.name} is gone, but {self._sidecar.name} remembers it", file=str(self.path))
        self.path.touch(mode=0o600)
        await self._main.open()
        try:
            found, transaction = await self._main.run(make_ready)
            if noted is not None:
                sidecar.check(noted, found)
                self.unclean = not noted.clean
            sidecar.write(self._sidecar, found)
            for reader in self._readers:
                await reader.open()
        except BaseException:
            await self._close_connections()
            raise
        self._identity = found
        self._writer.start(transaction)

    async def close(self) -> None:
        identity, self._identity = self._identity, None
        if identity is None:
            return
        await self._writer.drain()
        try:
            last = await self._main.run(finish_up)
        except StoreError as error:  # no room to fold the log in: nothing is lost, it stays beside the file
            logger.warning("log_not_folded", reason=error.detail)
            return
        finally:
            await self._close_connections()  # else their threads would keep the process alive
        try:
            sidecar.write(self._sidecar, sidecar.Sidecar(identity.uuid, identity.schema, last, clean=True))
        except OSError as error:
            logger.warning("end_not_noted", reason=error.strerror)

    async def _close_connections(self) -> None:
        for connection in (*self._readers, self._main):  # the writer last: whoever closes last checkpoints
            await connection.close()

    def pragmas(self) -> dict[str, int | str]:
        """Return the writer's settings as they were read back, with the version of SQLite."""
        return self._main.pragmas | {"sqlite_version": sqlite3.sqlite_version}

    async def commit(self, changes: Sequence[port.Change]) -> list[Any]:
        return await self._writer.commit(changes)

    def watch(self, listener: port.MoveListener) -> None:
        self._writer.watchers.append(listener)

    async def tidy(self, pages: int) -> port.Tidied:
        return await self._main.run(lambda sql: tidy(sql, self.path, pages))

    def listen(self, listener: port.EventListener) -> None:
        self._writer.listeners.append(listener)

    async def _read(self, query: Callable[..., T], *arguments: Any) -> T:
        self._turn = (self._turn + 1) % len(self._readers)
        return await self._readers[self._turn].run(lambda sql: query(sql, *arguments))

    async def job(self, job_id: str) -> JobView | None:
        return await self._read(views.job, job_id)

    async def jobs(
        self, where: JobFilter | None = None, *, before: str | None = None, limit: int = 50, errors: bool = False
    ) -> tuple[JobView, ...]:
        return await self._read(views.jobs, where, before, limit, errors)

    async def parents(self, job_id: str) -> tuple[port.ParentResult, ...]:
        return await self._read(graph.parents, job_id)

    async def children(self, job_id: str) -> tuple[port.ChildResult, ...]:
        return await self._read(graph.children, job_id)

    async def graph(self, job_id: str, limit: int) -> GraphView | None:
        return await self._read(graph.graph, job_id, limit)

    async def why(self, job_id: str) -> port.WhyFacts | None:
        return await self._read(graph.why, job_id)

    async def job_logs(
        self, job_id: str, *, after: int = 0, tail: int | None = None, limit: int = 1000
    ) -> tuple[LogLine, ...] | None:
        return await self._read(views.job_logs, job_id, after, tail, limit)

    async def counts(self, *, ended: bool) -> dict[tuple[str, Lane, Status], int]:
        return await self._read(views.counts, ended)

    async def next_due(self) -> int | None:
        return await self._read(views.next_due)

    async def suspects(self) -> tuple[tuple[str, str], ...]:
        return await self._read(views.suspects)

    async def processes(self, boot: str) -> tuple[port.ProcessRow, ...]:
        return await self._read(queries.processes, boot)

    async def workers(self) -> tuple[port.WorkerRow, ...]:
        return await self._read(queries.workers)

    async def queues(self) -> tuple[port.QueueRow, ...]:
        return await self._read(queries.queues)

    async def schedules(self) -> tuple[port.ScheduleRow, ...]:
        return await self._read(queries.schedules)

    async def still_runs(self, name: str) -> bool:
        return await self._read(queries.still_runs, name)

    async def fires(self, name: str, *, limit: int = 50) -> tuple[port.FireRow, ...]:
        return await self._read(queries.fires, name, limit)

    async def agents(self) -> tuple[port.AgentRow, ...]:
        return await self._read(queries.agents)

    async def state(self, agent: str) -> port.StateRow | None:
        return await self._read(queries.state, agent)

    async def conversations(self, agent: str) -> tuple[str, ...]:
        return await self._read(queries.conversations, agent)

    async def messages(self, agent: str, conversation: str, *, limit: int = 100) -> tuple[str, ...]:
        return await self._read(queries.messages, agent, conversation, limit)

    async def journal(
        self, agent: str, conversation: str, *, after: int = 0, limit: int = 1000
    ) -> tuple[port.MessageRow, ...]:
        return await self._read(talks.journal, agent, conversation, after, limit)

    async def approvals(
        self, *, status: str | None = None, agent: str | None = None, job: str | None = None, limit: int = 100
    ) -> tuple[port.ApprovalRow, ...]:
        return await self._read(approvals.approvals, status, agent, job, limit)

    async def approval(self, approval_id: str) -> port.ApprovalRow | None:
        return await self._read(approvals.approval, approval_id)

    async def grants(self, agent: str | None = None) -> tuple[port.GrantRow, ...]:
        return await self._read(approvals.grants, agent)

    async def spent(self, agent: str, *, since: str = "") -> tuple[port.Charge, ...]:
        return await self._read(spending.spent, agent, since)

    async def personas(self) -> tuple[port.PersonaRow, ...]:
        return await self._read(personas.personas)

    async def notes(self, agent: str, *, words: tuple[str, ...] = (), limit: int = 20) -> tuple[port.NoteRow, ...]:
        return await self._read(personas.notes, agent, words, limit)

    async def events(
        self, *, after: int, types: tuple[str, ...] = (), subject: str | None = None, limit: int = 1000
    ) -> tuple[Event, ...]:
        return await self._read(queries.events, after, types, subject, limit)

    async def event_bounds(self) -> tuple[int, int]:
        return await self._read(queries.event_bounds)

    async def setting(self, name: str) -> str | None:
        return await self._read(queries.setting, name)


def make_ready(sql: sqlite3.Connection) -> tuple[sidecar.Sidecar, Transaction]:
    """Migrate, and tell which database this is."""
    schema = migrate(sql, time.time_ns() // 1_000_000)
    row = sql.execute("SELECT value FROM settings WHERE name = 'uuid'").fetchone()
    identity = json.loads(row[0]) if row else str(uuid.uuid4())
    if row is None:
        sql.execute("INSERT INTO settings VALUES ('uuid', ?)", (json.dumps(identity),))
    # `state.json` will hold a later start to what is noted there, so that must be on the disk first. With `relaxed`, or
    # after a death within a commit, the last transactions may not be, and a power loss would have us refuse our file.
    sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return sidecar.Sidecar(identity, schema, last_number(sql, "jobs"), clean=False), Transaction(sql)


def finish_up(sql: sqlite3.Connection) -> int:
    """Fold the log into the file, so that a copy of the file alone is whole; return the last job's number."""
    sql.execute("PRAGMA optimize").fetchall()
    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return last_number(sql, "jobs")


def tidy(sql: sqlite3.Connection, path: Path, pages: int) -> port.Tidied:
    """Give free pages back and fold the log in; both do what they can at once and wait for nobody."""
    before = sql.execute("PRAGMA freelist_count").fetchone()[0]
    if before:
        # A script, since execute() takes one step of the statement and each step frees one page.
        sql.executescript(f"PRAGMA incremental_vacuum({int(pages)})")
    sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    free = sql.execute("PRAGMA freelist_count").fetchone()[0]
    log_file = path.with_name(f"{path.name}-wal")
    return port.Tidied(before - free, free, log_file.stat().st_size if log_file.exists() else 0)
