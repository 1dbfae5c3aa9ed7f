"""What an attempt records, in a real database: kept over attempts, behind the fence, asked for by a child process."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.attempt_record import StoreRecord, answer
from runtime.clock import VirtualClock
from runtime.durable import Begun, Durable
from runtime.errors import (
    JobNotFound,
    KeyConflict,
    LeaseLost,
    PayloadTooLarge,
    RequestInvalid,
    StepAmbiguous,
    problem,
)
from runtime.outcomes import Suspended
from runtime.store import port
from runtime.store.sqlite.store import SqliteStore
from schemas.jobs import Claimed, NewJob

LEASE = 30_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def prepare(job: NewJob, job_id: str, now: int) -> port.JobRow:
    """Stand for the kinds: every kind is known, and `huge` is too large."""
    if job.kind == "huge":
        raise PayloadTooLarge("the arguments are too large")
    edges = tuple(port.Edge(one.job, one.on_failure) for one in job.depends_on)
    args = f'{{"n":{job.args.get("n", 0)}}}'
    return port.JobRow(job_id, job.kind, "q", "loop", args, key=job.key, parent=job.parent, depends_on=edges)


class Life:
    """One job in a database, attempt after attempt."""

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self.store, self.path, self.clock = store, path, VirtualClock(seed=1)
        self.now = self.clock.now()
        self.heard = 0

    async def commit(self, change: port.Change) -> Any:
        return (await self.store.commit([change]))[0]

    async def add(self, job: str, **fields: Any) -> None:
        await self.commit(port.InsertJobs((port.JobRow(job, "k", "q", "loop", "{}", **fields),), self.now))

    async def claim(self, worker: str = "w1") -> Claimed:
        return (await self.commit(port.ClaimJobs("q", "loop", (worker,), "b", self.now, self.now + LEASE)))[0]  # type: ignore[no-any-return]

    async def attempt(self, worker: str = "w1") -> StoreRecord:
        """Claim the job and return the record of the new attempt."""
        return self.record(await self.claim(worker))

    def record(self, job: Claimed) -> StoreRecord:
        return StoreRecord(job, self.store, self.clock, prepare, self.hear)

    def hear(self) -> None:
        self.heard += 1

    async def die(self) -> None:
        """Let the lease run out: the attempt is over, and knows nothing of it."""
        lost = await self.commit(port.ExpireLeases("b", self.now + LEASE + 1))
        assert len(lost) == 1

    async def end(self, record: StoreRecord, status: Any, reason: str | None = None, **fields: Any) -> None:
        finish = port.Finish(record.job, status, reason, **fields)
        assert (await self.commit(port.FinishJobs((finish,), self.now)))[0] is not None

    def dump(self) -> list[str]:
        """Return every row of the file, as text."""
        connection = sqlite3.connect(self.path)
        try:
            return list(connection.iterdump())
        finally:
            connection.close()


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Life]:
    store = SqliteStore(tmp_path / "understudy.db")
    await store.open()
    yield Life(store, store.path)
    await store.close()


async def test_a_step_that_is_done_stays_done_over_attempts(life: Life) -> None:
    await life.add("j")
    first = await life.attempt()
    assert await first.begin("one", True) == Begun("run")
    await first.end("one", output='{"a":1}', cost=2.5)
    await life.die()
    assert await (await life.attempt()).begin("one", True) == Begun("done", '{"a":1}')
    view = await life.store.job("j")
    assert view is not None
    assert [(step.name, step.state, step.cost) for step in view.steps] == [("one", "done", 2.5)]
    assert life.heard == 3


async def test_a_step_left_open_is_ambiguous_for_the_next_attempt(life: Life) -> None:
    await life.add("j")
    await (await life.attempt()).begin("one", True)
    await life.die()
    second = await life.attempt()
    assert await second.begin("one", False) == Begun("ambiguous")
    assert await second.begin("one", True) == Begun("run")


@pytest.mark.parametrize("policy", ["hold", "fail"])
async def test_a_person_decides_over_an_ambiguous_step_once(life: Life, policy: Any) -> None:
    await life.add("j", max_attempts=10)
    await (await life.attempt()).begin("one", True)
    await life.die()

    async def step(record: StoreRecord) -> Any:
        return await Durable("j", record).step("one", lambda: "run", on_ambiguous=policy)

    for _ in range(2):  # as long as its verdict was not recorded, another attempt comes to the same one
        with pytest.raises((Suspended, StepAmbiguous)):
            await step(await life.attempt())
        await life.die()
    third = await life.attempt()
    with pytest.raises((Suspended, StepAmbiguous)):
        await step(third)
    error = problem("job.step_ambiguous", "unsure", data={"step": "one"}).model_dump_json()
    if policy == "hold":
        await life.end(third, "paused", "hold", error=error, refund=True)
        await life.commit(port.ResumeJobs(("j",), life.now))
    else:
        await life.end(third, "failed", "permanent", error=error)
        await life.commit(port.RetryJobs(("j",), life.now))
    fourth = await life.attempt()
    assert await fourth.decided("one")
    assert await fourth.begin("one", True) == Begun("run")
    await life.die()  # in the middle of it again: what was decided before says nothing about this
    with pytest.raises((Suspended, StepAmbiguous)):
        await step(await life.attempt())


async def test_what_is_due_is_due_at_the_time_first_named(life: Life) -> None:
    await life.add("j")
    first = await (await life.attempt()).due("~sleep/1", 60_000)
    assert (first.verdict, first.due - first.now) == ("run", 60_000)
    await life.die()
    again = await (await life.attempt()).due("~sleep/1", 90_000)
    assert (again.verdict, again.due) == ("done", first.due)


async def test_a_wish_to_pause_stops_before_a_step_and_before_a_wait(life: Life) -> None:
    await life.add("j")
    record = await life.attempt()
    await life.commit(port.PauseJobs(("j",), life.now))
    assert (await record.begin("one", True)).verdict == "pause"
    assert (await record.due("~sleep/1", 60_000)).verdict == "pause"


async def test_a_signal_is_taken_once_and_stays_taken(life: Life) -> None:
    await life.add("j")
    for n in (1, 2):
        await life.commit(port.SendSignal("j", "go", f'{{"n":{n}}}', life.now))
    for _ in range(2):
        record = await life.attempt()
        assert await record.take("go", "~signal/go/1") == '{"n":1}'
        assert await record.take("go", "~signal/go/2") == '{"n":2}'
        assert await record.take("go", "~signal/go/3") is None
        await life.die()


async def test_what_was_noted_in_place_of_a_signal_stays_in_its_place(life: Life) -> None:
    await life.add("j")
    await (await life.attempt()).note("~signal/go/1", '"late"')
    await life.commit(port.SendSignal("j", "go", "1", life.now))
    await life.die()
    assert await (await life.attempt()).take("go", "~signal/go/1") == '"late"'


async def test_a_child_is_submitted_once_by_its_name(life: Life) -> None:
    await life.add("j")
    first = await (await life.attempt()).submit("a", {"kind": "part", "args": {"n": 1}})
    await life.die()
    record = await life.attempt()
    assert await record.submit("a", {"kind": "part", "args": {"n": 1}}) == first
    with pytest.raises(KeyConflict):
        await record.submit("a", {"kind": "part", "args": {"n": 2}})
    child = await life.store.job(first)
    assert child is not None
    assert (child.parent, child.key) == ("j", "j/a")
    assert [(one.id, one.kind, one.ok) for one in await record.children()] == [(first, "part", False)]


@pytest.mark.parametrize(
    ("job", "error"),
    [
        ({"kind": "huge"}, PayloadTooLarge),
        ({"kind": "part", "colour": "red"}, RequestInvalid),
        ({"kind": "part", "args": {"x": object()}}, RequestInvalid),
        ({"kind": "part", "depends_on": [{"job": "nobody"}]}, JobNotFound),
    ],
)
async def test_a_child_that_cannot_be_submitted_says_why(life: Life, job: Any, error: Any) -> None:
    await life.add("j")
    record = await life.attempt()
    with pytest.raises(error) as found:
        await record.submit("a", job)
    assert "red" not in str(found.value)


async def test_what_a_job_depends_on_is_at_hand_with_its_result(life: Life) -> None:
    await life.add("p")
    await life.end(await life.attempt(), "completed", result='{"n":7}')
    await life.add("j", depends_on=(port.Edge("p"),))
    [parent] = await (await life.attempt()).parents()
    assert (parent.id, parent.ok, parent.result) == ("p", True, {"n": 7})


# -- the fence ---------------------------------------------------------------------------------------------------------

WRITES: list[tuple[str, Any]] = [
    ("begin", lambda r: r.begin("two", True)),
    ("end", lambda r: r.end("one", output="2")),
    ("end with an error", lambda r: r.end("one", error="no")),
    ("due", lambda r: r.due("~sleep/1", 5)),
    ("take", lambda r: r.take("go", "~signal/go/1")),
    ("note", lambda r: r.note("~signal/go/1", "1")),
    ("submit", lambda r: r.submit("a", {"kind": "part"})),
]


@pytest.mark.parametrize("ended", [False, True], ids=["while the next one runs", "when the next one has ended"])
@pytest.mark.parametrize("write", [write for _, write in WRITES], ids=[name for name, _ in WRITES])
async def test_an_attempt_that_lost_its_lease_changes_nothing_by_a_byte(life: Life, write: Any, ended: bool) -> None:
    await life.add("j")
    await life.commit(port.SendSignal("j", "go", "1", life.now))
    zombie = await life.attempt("w1")
    await zombie.begin("one", True)
    await life.die()
    second = await life.attempt("w1")  # the same worker, the same boot: only the epoch tells them apart
    await second.begin("one", True)
    await second.end("one", output="1")
    if ended:
        await life.end(second, "completed", result='"second"')
    before = life.dump()
    with pytest.raises(LeaseLost):
        await write(zombie)
    assert life.dump() == before


async def test_what_such_an_attempt_tells_by_the_queue_changes_nothing_either(life: Life) -> None:
    await life.add("j")
    zombie = (await life.attempt()).job
    await life.die()
    await life.end(await life.attempt(), "completed", result='"second"')
    before = life.dump()
    changes: list[port.Change] = [
        port.SaveProgress(zombie, '"mine"', life.now),
        port.AppendLogs(zombie, ((life.now, "info", "mine"),)),
        port.RecordProcess(zombie, 77, 5),
        port.FinishJobs((port.Finish(zombie, "completed", result='"mine"'),), life.now),
        port.FinishJobs((port.Finish(zombie, "failed", "permanent", error='{"mine":1}'),), life.now),
    ]
    assert [await life.commit(change) for change in changes] == [False, False, False, [None], [None]]
    assert life.dump() == before


# -- asked by a child process ------------------------------------------------------------------------------------------


async def test_a_child_process_is_answered_with_what_json_can_say(life: Life) -> None:
    await life.add("p")
    await life.end(await life.attempt(), "completed", result="7")
    await life.add("j", depends_on=(port.Edge("p"),))
    record = await life.attempt()
    assert tuple(await answer(record, "begin", {"name": "one", "retry": True})) == ("run", None)
    done = {"name": "one", "output": "1", "error": None, "cost": None}
    assert await answer(record, "end", done) is None
    assert tuple(await answer(record, "begin", {"name": "one", "retry": True})) == ("done", "1")
    assert await answer(record, "parents", {}) == [["p", "k", "completed", 7, None]]


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        ("commit", {}),
        ("__init__", {}),
        ("begin", {"name": "one"}),
        ("begin", {"name": "one", "retry": True, "more": 1}),
        ("begin", {"name": 1, "retry": True}),
        ("end", {"name": "one", "output": 1, "error": None, "cost": None}),
        ("due", {"name": "x", "after_ms": "1"}),
        ("submit", {"name": "x", "job": []}),
    ],
)
async def test_what_a_child_process_cannot_ask_is_refused(life: Life, what: str, fields: Any) -> None:
    await life.add("j")
    record = await life.attempt()
    before = life.dump()
    with pytest.raises(RequestInvalid):
        await answer(record, what, fields)
    assert life.dump() == before
