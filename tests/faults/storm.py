"""A storm: writers that do not give up, and somebody who kills the daemon again and again."""

import asyncio
import random
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from runtime.control.wire import WireError
from runtime.sandbox.process import look
from runtime.store.port import PutSchedule
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import ENDED
from tests.faults.storm_history import History, Line, Told

WRITERS: Final = 4
MISSED: Final = 25
"""Ticks of the schedule that the first daemon has to make up for."""
LIMIT: Final = 2
MINUTE: Final = 60_000


class Storm:
    """One storm on one home; `rage`, stop the daemon, then look at the `history`."""

    def __init__(self, daemon: Any, jobs: int, kills: int, seed: int) -> None:
        self.daemon, self.jobs, self.kills = daemon, jobs, kills
        self.chance = random.Random(seed)
        self.repeated = 0.2
        """The part of the jobs that is submitted a second time with its key."""
        self.variety = 9
        """How many of the sorts of jobs in `_body` there are."""
        self.trace = daemon.folder / "trace"
        self.acknowledged: dict[str, str] = {}
        self.traced: set[str] = set()
        self.after: dict[str, tuple[str, ...]] = {}
        self.parts: dict[str, int] = {}
        self.survivors: list[int] = []
        self.failures: list[BaseException] = []
        self.over = threading.Event()

    def rage(self) -> None:
        """Submit everything while killing; return when all jobs have ended, with the daemon up."""
        self.daemon.start()
        assert self.daemon.stop() == 0
        asyncio.run(wind_back(self.daemon.database))
        self.daemon.start()
        writers = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(self.kills):
                self.over.wait(self.chance.uniform(0.05, 1.2))
                self._kill_and_start()
        finally:
            if self.failures:
                self.over.set()
            for writer in writers:
                writer.join()
            self.over.set()
        assert not self.failures, self.failures
        assert len(self.acknowledged) == self.jobs
        self._await_all()

    def _await_all(self) -> None:
        """Wait until every job has ended, for as long as some job ends every minute."""
        left = list(self.acknowledged.values())
        done, deadline = -1, 0.0
        while left:
            if self.daemon.job(left[-1])["status"] in ENDED:
                left.pop()
                continue
            counts = self.daemon.call("GET", "/v1/status")["queues"].values()
            ended = sum(count.get(status, 0) for count in counts for status in ENDED)
            if ended > done:
                done, deadline = ended, time.monotonic() + 60
            assert time.monotonic() < deadline, self.daemon.cli("why", left[-1]).stdout
            time.sleep(0.2)

    def _kill_and_start(self) -> None:
        before = {pid: process.started for pid in self.daemon.family() if (process := look(pid))}
        self.daemon.kill()
        before |= {pid: process.started for pid in self.daemon.family() if (process := look(pid))}
        self.daemon.start()
        for pid, started in before.items():
            process = look(pid)
            if process is not None and process.started == started and not process.zombie:
                self.survivors.append(pid)

    def _write(self, writer: int) -> None:
        chance = random.Random(writer)
        try:
            for n in range(writer, self.jobs, WRITERS):
                key = f"k{n}"
                body = self._body(n, key)
                job = self._post("/v1/jobs", body)["id"]
                assert self.acknowledged.setdefault(key, job) == job
                if chance.random() < self.repeated:
                    assert self._post("/v1/jobs", body)["id"] == job, "the same key, another job"
                if body["kind"] == "patient":
                    self._post(f"/v1/jobs/{job}/signal", {"name": "go", "payload": key})
                self.over.wait(self.kills * WRITERS / self.jobs)
        except (AssertionError, WireError, OSError, KeyError) as error:
            self.failures.append(error)

    def _body(self, n: int, key: str) -> dict[str, Any]:
        common = {"key": key, "priority": n % 5 * 50}
        seconds = 1.5 if n == 3 * WRITERS else n % 7 * 0.03  # one runs for longer than any daemon is left alone
        args = {"path": str(self.trace), "key": key}
        match n // WRITERS % self.variety:
            case 0:
                return {"kind": "echo", "args": {"n": n}, **common}
            case 1:
                return {"kind": "echo", "args": {"n": n}, "delay_ms": 300, **common}
            case 2:
                self.traced.add(key)
                note = f'echo "{key} %s $$ $(date +%%s%%3N)" >> {self.trace}; sync {self.trace}'
                script = f"{note % 'start'}; sleep {seconds}; {note % 'end'}"
                return {"kind": "shell", "args": {"argv": ["sh", "-c", script]}, **common}
            case 3:
                self.traced.add(key)
                return {"kind": "trace", "args": args | {"seconds": seconds}, **common}
            case 4:
                self.traced.add(key)
                return {"kind": "stepped", "args": args, **common}
            case 5:
                self.traced.add(key)
                self.parts[key] = 2
                return {"kind": "family", "args": args, **common}
            case 6:
                self.traced.add(key)
                return {"kind": "patient", "args": args, **common}
            case 7:
                self.traced.add(key)
                limit = {"limit_key": "few", "limit_max": LIMIT}
                return {"kind": "trace", "args": args | {"seconds": 0.1}, **limit, **common}
            case _:
                self.traced.add(key)
                self.after[key] = tuple(f"k{n - back * WRITERS}" for back in (1, 3, 5))
                edges = [{"job": self.acknowledged[parent]} for parent in self.after[key]]
                return {"kind": "trace", "args": args | {"seconds": 0.02}, "depends_on": edges, **common}

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """Try until it is acknowledged: the key makes that safe."""
        while not self.over.is_set():
            try:
                return self.daemon.call("POST", path, body, timeout=5.0)
            except WireError as error:
                if not error.problem.get("retryable"):
                    raise
                self.over.wait(0.02)
        raise AssertionError("given up")

    def history(self) -> History:
        """Look at everything; the daemon has stopped."""
        folder = self.daemon.folder / f"copy-{time.monotonic_ns()}"
        folder.mkdir()
        with (
            closing(sqlite3.connect(self.daemon.database)) as source,
            closing(sqlite3.connect(folder / "us.db")) as sql,
        ):
            source.backup(sql)
            integrity = sql.execute("PRAGMA integrity_check").fetchone()[0]
        found = asyncio.run(look_at(folder / "us.db"))
        return replace(
            found,
            acknowledged=self.acknowledged,
            lines=read_lines(self.trace),
            traced=frozenset(self.traced),
            after=self.after,
            limits={"few": LIMIT},
            parts=self.parts,
            survivors=self.survivors,
            integrity=integrity,
        )


async def wind_back(path: Path) -> None:
    """Have a stopped daemon's schedule be late by some ticks, as after a night without power."""
    store = SqliteStore(path)
    await store.open()
    for row in await store.schedules():
        late = row.high_mark // MINUTE * MINUTE - MISSED * MINUTE
        await store.commit([PutSchedule(replace(row, high_mark=late, next_at=late + MINUTE))])
    await store.close()


async def look_at(path: Path) -> History:
    """Return what a database tells."""
    store = SqliteStore(path)
    await store.open()
    jobs = await store.jobs(limit=1_000_000)
    events = await store.events(after=0, limit=10_000_000)
    await store.close()
    return History(
        acknowledged={},
        status={job.id: job.status for job in jobs},
        events=[Told(event.offset or 0, event.type, event.subject, event.at) for event in events],
        lines=[],
        limited={job.id: job.limit_key for job in jobs if job.limit_key},
        parents={job.id: job.parent for job in jobs if job.parent},
        ticks=[(event.subject, event.data["fire_at"]) for event in events if event.type == "schedule.fired"],
    )


def read_lines(path: Path) -> list[Line]:
    """A line cut short by a kill has no end and is left out."""
    words = [text.split() for text in path.read_text().splitlines()]
    return [Line(w[0], w[1], int(w[2]), int(w[3])) for w in words if len(w) == 4 and w[3].isdigit()]
