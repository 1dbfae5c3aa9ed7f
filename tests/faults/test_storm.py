"""The daemon is killed about every second while jobs come in: nothing acknowledged is lost, nothing is done twice."""

import random
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.control.wire import WireError
from runtime.sandbox.process import look

pytestmark = pytest.mark.daemon

WRITERS = 4


@dataclass(frozen=True)
class Line:
    """What a job itself wrote: its key, `start` or `end`, its process, and when in milliseconds."""

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
    """All that is known of a storm: what was acknowledged, what the database says, what the jobs wrote."""

    acknowledged: dict[str, str]
    status: dict[str, str]
    events: list[Told]
    lines: list[Line]
    traced: frozenset[str] = frozenset()
    survivors: list[int] = field(default_factory=list)
    integrity: str = "ok"


def wrongs(history: History) -> list[str]:
    """Return every promise that *history* breaks."""
    found = [f"a process of a dead daemon lived beside its successor: {pid}" for pid in history.survivors]
    if history.integrity != "ok":
        found.append(f"the database is damaged: {history.integrity}")
    by_job: dict[str, list[Told]] = {}
    for event in history.events:
        by_job.setdefault(event.job, []).append(event)
    by_key: dict[str, list[Line]] = {}
    for line in history.lines:
        by_key.setdefault(line.key, []).append(line)
    for key, job in history.acknowledged.items():
        if history.status.get(job) != "completed":
            found.append(f"{key}: acknowledged, but it is {history.status.get(job, 'lost')}")
        found += [f"{key}: {wrong}" for wrong in wrong_events(by_job.get(job, []))]
        found += [f"{key}: {wrong}" for wrong in wrong_lines(by_key.get(key, []), by_job.get(job, []))]
        if key in history.traced and not any(line.phase == "end" for line in by_key.get(key, [])):
            found.append(f"{key}: completed without having run to its end")
    if len(set(history.acknowledged.values())) < len(history.acknowledged):
        found.append("two keys have one job")
    return found


def wrong_events(events: list[Told]) -> list[str]:
    completed = [event.offset for event in events if event.type == "job.completed"]
    found = [f"completed {len(completed)} times"] if len(completed) > 1 else []
    later = [event for event in events if completed and event.offset > completed[0] and event.type == "job.started"]
    return found + ["started again after it was completed"] * bool(later)


def wrong_lines(lines: list[Line], events: list[Told]) -> list[str]:
    """No run begins after the job was completed, and none while an earlier one still writes."""
    ended_at = min((event.at for event in events if event.type == "job.completed"), default=None)
    found = []
    latest: Line | None = None
    for line in lines:
        if line.phase == "start" and ended_at is not None and line.at > ended_at:
            found.append("ran again after it was completed")
        if line.phase == "end" and latest is not None and latest.pid != line.pid:
            found.append("two runs of it overlapped")
        if line.phase == "start":
            latest = line
    return found


# -- the checker itself ------------------------------------------------------------------------------------------------

GOOD = History(
    acknowledged={"a": "1", "b": "2"},
    status={"1": "completed", "2": "completed"},
    events=[
        Told(1, "job.started", "1", 5),
        Told(2, "job.recovered", "1", 8),
        Told(3, "job.started", "1", 9),
        Told(4, "job.completed", "1", 12),
        Told(5, "job.started", "2", 12),
        Told(6, "job.completed", "2", 13),
    ],
    lines=[Line("a", "start", 70, 6), Line("a", "start", 71, 10), Line("a", "end", 71, 11)],
    traced=frozenset({"a"}),
)


def test_the_checker_accepts_a_good_history() -> None:
    assert wrongs(GOOD) == []


@pytest.mark.parametrize(
    ("doctored", "wrong"),
    [
        (replace(GOOD, status={"1": "completed"}), "b: acknowledged, but it is lost"),
        (replace(GOOD, status={"1": "completed", "2": "failed"}), "b: acknowledged, but it is failed"),
        (replace(GOOD, events=[*GOOD.events, Told(7, "job.completed", "1", 20)]), "a: completed 2 times"),
        (
            replace(GOOD, events=[*GOOD.events, Told(7, "job.started", "2", 20)]),
            "b: started again after it was completed",
        ),
        (replace(GOOD, lines=[*GOOD.lines, Line("a", "start", 72, 13)]), "a: ran again after it was completed"),
        (replace(GOOD, lines=[*GOOD.lines, Line("a", "end", 70, 12)]), "a: two runs of it overlapped"),
        (replace(GOOD, lines=GOOD.lines[:2]), "a: completed without having run to its end"),
        (replace(GOOD, survivors=[70]), "a process of a dead daemon lived beside its successor: 70"),
        (replace(GOOD, integrity="row 3 missing"), "the database is damaged: row 3 missing"),
        (replace(GOOD, acknowledged={"a": "1", "b": "1"}, status={"1": "completed"}), "two keys have one job"),
    ],
)
def test_the_checker_finds_what_is_wrong(doctored: History, wrong: str) -> None:
    assert wrong in wrongs(doctored)


# -- the storm ---------------------------------------------------------------------------------------------------------


class Storm:
    """Writers that do not give up, and a killer."""

    def __init__(self, daemon: Any, jobs: int, kills: int, seed: int) -> None:
        self.daemon, self.jobs, self.kills = daemon, jobs, kills
        self.chance = random.Random(seed)
        self.trace = daemon.folder / "trace"
        self.acknowledged: dict[str, str] = {}
        self.traced: set[str] = set()
        self.survivors: list[int] = []
        self.failures: list[BaseException] = []
        self.over = threading.Event()

    def rage(self) -> None:
        """Submit everything while killing; return when all jobs have ended, with the daemon up."""
        self.daemon.start()
        writers = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(self.kills):
                self.over.wait(self.chance.uniform(0.3, 1.2))
                self._kill_and_start()
        finally:
            if self.failures:
                self.over.set()
            for writer in writers:
                writer.join()
            self.over.set()
        assert not self.failures, self.failures
        assert len(self.acknowledged) == self.jobs
        for job in self.acknowledged.values():
            self.daemon.ended(job, 60)

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
                job = self._submit(self._body(n, key, chance))
                assert self.acknowledged.setdefault(key, job) == job
                if chance.random() < 0.2:
                    assert self._submit(self._body(n, key, None)) == job, "the same key, another job"
                self.over.wait(self.kills * WRITERS / self.jobs)
        except BaseException as error:
            self.failures.append(error)
            raise

    def _body(self, n: int, key: str, chance: random.Random | None) -> dict[str, Any]:
        seconds = n % 7 * 0.05
        match n % 3:
            case 0:
                return {"kind": "echo", "args": {"n": n}, "key": key}
            case 1:
                self.traced.add(key)
                return {"kind": "trace", "args": {"path": str(self.trace), "key": key, "seconds": seconds}, "key": key}
            case _:
                self.traced.add(key)
                note = f'echo "{key} %s $$ $(date +%%s%%3N)" >> {self.trace}; sync {self.trace}'
                script = f"{note % 'start'}; sleep {seconds}; {note % 'end'}"
                return {"kind": "shell", "args": {"argv": ["sh", "-c", script]}, "key": key}

    def _submit(self, body: dict[str, Any]) -> str:
        """Try until it is acknowledged: the key makes that safe."""
        while not self.over.is_set():
            try:
                return str(self.daemon.call("POST", "/v1/jobs", body, timeout=5.0)["id"])
            except WireError as error:
                if not error.problem.get("retryable"):
                    raise
                self.over.wait(0.02)
        raise AssertionError("given up")

    def history(self) -> History:
        """Look at everything; the daemon has stopped."""
        copy = self.daemon.folder / "copy.db"
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.daemon.database)) as source, closing(sqlite3.connect(copy)) as sql:
            source.backup(sql)
            return History(
                acknowledged=self.acknowledged,
                status=dict(sql.execute("SELECT id, status FROM jobs").fetchall()),
                events=[Told(*row) for row in sql.execute('SELECT "offset", type, subject, at FROM events ORDER BY 1')],
                lines=read_lines(self.trace),
                traced=frozenset(self.traced),
                survivors=self.survivors,
                integrity=sql.execute("PRAGMA integrity_check").fetchone()[0],
            )


def read_lines(path: Path) -> list[Line]:
    """A line cut short by a kill has no end and is left out."""
    words = [text.split() for text in path.read_text().splitlines()]
    return [Line(w[0], w[1], int(w[2]), int(w[3])) for w in words if len(w) == 4 and w[3].isdigit()]


@pytest.mark.timeout(180)
def test_a_storm_of_kills_loses_nothing_and_does_nothing_twice(tracing: Any) -> None:
    seed = random.randrange(1_000_000)
    storm = Storm(tracing, jobs=120, kills=8, seed=seed)

    storm.rage()
    assert tracing.stop() == 0

    history = storm.history()
    assert wrongs(history) == [], f"seed {seed}"
    assert any(event.type == "job.recovered" for event in history.events), "no kill hit a running job"


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_long_storm(tracing: Any, pytestconfig: pytest.Config) -> None:
    until = time.monotonic() + 60 * pytestconfig.getoption("--soak-minutes")
    seed = random.randrange(1_000_000)
    while time.monotonic() < until:
        storm = Storm(tracing, jobs=500, kills=40, seed=seed)
        storm.rage()
        assert tracing.stop() == 0
        assert wrongs(storm.history()) == [], f"seed {seed}"
        for path in (*tracing.home.iterdir(), storm.trace):
            path.unlink()
        seed += 1
