"""The store in a file: many at once is the same as one by one, whoever among them is refused."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import LeaseLost, StoreError, StoreRejected
from runtime.store.port import (
    AppendEvents,
    ClaimJobs,
    Finish,
    FinishJobs,
    InsertJobs,
    JobRow,
    Move,
    PauseJobs,
    RecordProcess,
)
from runtime.store.sqlite.store import SqliteStore
from runtime.store.sqlite.transaction import Bulk
from schemas.jobs import Claimed

NOW = 1_700_000_000_000
BOOT = "boot-1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "understudy.db")
    await store.open()
    yield store
    await store.close()


def row(job_id: str, **fields: Any) -> JobRow:
    return JobRow(**({"id": job_id, "kind": "k", "queue": "q", "lane": "loop", "args": "{}"} | fields))


async def one(store: SqliteStore, change: Any) -> Any:
    (result,) = await store.commit([change])
    return result


async def claimed(store: SqliteStore, count: int, **fields: Any) -> tuple[Claimed, ...]:
    """Add jobs and claim them all."""
    await one(store, InsertJobs(tuple(row(f"job-{n}", **fields) for n in range(count)), now=NOW))
    workers = tuple(f"w{n}" for n in range(count))
    lane = fields.get("lane", "loop")
    found = await one(store, ClaimJobs("q", lane, workers, boot=BOOT, now=NOW, lease_until=NOW + 1))
    assert len(found) == count
    return found  # type: ignore[no-any-return]


async def statuses(store: SqliteStore) -> dict[str, str]:
    return {view.id: view.status for view in await store.jobs(limit=1000)}


def done(*jobs: Any, **fields: Any) -> FinishJobs:
    return FinishJobs(tuple(Finish(job, "completed", result="1") for job in jobs), now=NOW + 5, **fields)


async def told(store: SqliteStore, kind: str) -> list[str]:
    return [event.subject for event in await store.events(after=0, types=(kind,))]


async def test_one_lost_fence_among_many_is_refused_alone(sqlite: SqliteStore) -> None:
    first, second, third = await claimed(sqlite, 3)
    for wrong in ({"epoch": 2}, {"worker": "w9"}, {"boot": "boot-2"}):
        (answer,) = await one(sqlite, done(replace(second, **wrong)))
        assert answer is None
    answers = await one(sqlite, done(first, replace(second, worker="w9"), third))
    assert [answer and answer.id for answer in answers] == ["job-0", None, "job-2"]
    assert await statuses(sqlite) == {"job-0": "completed", "job-1": "active", "job-2": "completed"}
    assert await told(sqlite, "job.completed") == ["job-0", "job-2"]


async def test_a_strict_batch_with_a_lost_fence_leaves_nothing(sqlite: SqliteStore) -> None:
    first, second = await claimed(sqlite, 2)
    with pytest.raises(LeaseLost):
        await sqlite.commit([done(first, replace(second, epoch=9), strict=True)])
    assert set((await statuses(sqlite)).values()) == {"active"}
    assert await told(sqlite, "job.completed") == []


async def test_an_attempt_ends_once_whatever_the_batch_says(sqlite: SqliteStore) -> None:
    (job,) = await claimed(sqlite, 1)
    answers = await one(sqlite, done(job, job))
    assert [answer is None for answer in answers] == [False, True]
    assert await told(sqlite, "job.completed") == ["job-0"]


async def test_different_ends_in_one_batch_are_answered_in_order(sqlite: SqliteStore) -> None:
    first, second, third = await claimed(sqlite, 3)
    ends = (
        Finish(first, "failed", "permanent", error='{"code":"x","title":"x","status":500,"detail":"x"}'),
        Finish(second, "completed", result='"ok"'),
        Finish(third.lease, "delayed", "retry", execute_after=NOW + 60),
    )
    moves: list[Move] = []
    sqlite.watch(moves.extend)
    answers = await one(sqlite, FinishJobs(ends, now=NOW + 5))
    assert [(answer.id, answer.status) for answer in answers] == [
        ("job-0", "failed"),
        ("job-1", "completed"),
        ("job-2", "delayed"),
    ]
    assert sorted(moves, key=lambda move: str(move.after)) == [
        Move("q", "loop", "active", "completed", 1),
        Move("q", "loop", "active", "delayed", 1, NOW + 60),
        Move("q", "loop", "active", "failed", 1),
    ]
    view = await sqlite.job("job-1")
    assert view is not None
    assert (view.result, view.worker, [attempt.outcome for attempt in view.history]) == ("ok", "w1", ["completed"])


async def test_an_attempt_with_a_process_is_told_once(sqlite: SqliteStore) -> None:
    (job,) = await claimed(sqlite, 1, lane="child")
    assert await one(sqlite, RecordProcess(job, 77, 5)) is True
    await one(sqlite, done(job))
    view = await sqlite.job("job-0")
    assert view is not None
    assert [(a.epoch, a.outcome, a.ended_at) for a in view.history] == [(1, "completed", NOW + 5)]
    assert await sqlite.processes("boot-2") == ()


async def test_a_wish_to_pause_does_not_outlive_the_job(sqlite: SqliteStore) -> None:
    (job,) = await claimed(sqlite, 1)
    await one(sqlite, PauseJobs(("job-0",), now=NOW))
    await one(sqlite, done(job))
    view = await sqlite.job("job-0")
    assert view is not None
    assert (view.status, view.pause_requested) == ("completed", False)


# -- added together ----------------------------------------------------------------------------------------------------


async def commit_all(store: SqliteStore, commits: Sequence[Sequence[Any]]) -> list[Any]:
    """Hand in commits of several callers at the same moment; return what each of them gets."""
    answers: list[Any] = [None] * len(commits)

    async def call(n: int) -> None:
        try:
            answers[n] = await store.commit(commits[n])
        except StoreError as error:
            answers[n] = error

    async with anyio.create_task_group() as tasks:
        for n in range(len(commits)):
            tasks.start_soon(call, n)
    return answers


async def test_jobs_of_many_callers_are_added_as_one_and_answered_apart(sqlite: SqliteStore) -> None:
    commits = [[InsertJobs((row(f"a{n}"), row(f"b{n}", execute_after=NOW + 9)), now=NOW + n)] for n in range(20)]
    answers = await commit_all(sqlite, commits)
    for n, ((first, second),) in enumerate(answers):
        assert (first.id, first.status, second.id, second.status) == (f"a{n}", "pending", f"b{n}", second.status)
    view = await sqlite.job("a7")
    assert view is not None
    assert view.created_at == NOW + 7
    assert len(await statuses(sqlite)) == 40
    assert len(await told(sqlite, "job.enqueued")) == 40


async def test_an_id_that_is_there_already_fails_its_own_caller_alone(sqlite: SqliteStore) -> None:
    await one(sqlite, InsertJobs((row("taken"),), now=NOW))
    moves: list[Move] = []
    sqlite.watch(moves.extend)
    names = ["a", "taken", "b", "c"]
    answers = await commit_all(sqlite, [[InsertJobs((row(name),), now=NOW)] for name in names])
    assert [isinstance(answer, StoreRejected) for answer in answers] == [False, True, False, False]
    assert set(await statuses(sqlite)) == {"taken", "a", "b", "c"}
    assert sum(move.jobs for move in moves) == 3
    assert await told(sqlite, "job.enqueued") == ["taken", "a", "b", "c"]


async def test_words_that_cannot_be_written_fail_their_own_caller_alone(sqlite: SqliteStore) -> None:
    commits = [
        [InsertJobs((row("a"),), now=NOW)],
        [InsertJobs((row("\ud800"),), now=NOW)],
        [InsertJobs((row("b"),), now=NOW)],
    ]
    answers: list[str] = []

    async def call(commit: Any) -> None:
        try:
            ((added,),) = await sqlite.commit(commit)
            answers.append(added.id)
        except ValueError:
            answers.append("refused")

    async with anyio.create_task_group() as tasks:
        for commit in commits:
            tasks.start_soon(call, commit)
    assert sorted(answers) == ["a", "b", "refused"]
    assert set(await statuses(sqlite)) == {"a", "b"}


async def test_an_event_that_is_no_text_harms_nobody(sqlite: SqliteStore) -> None:
    broken = AppendEvents((("a.b", "x", '{"text":"\\ud800"}'),), now=NOW)
    answers = await commit_all(
        sqlite, [[InsertJobs((row("a"),), now=NOW)], [broken], [InsertJobs((row("b"),), now=NOW)]]
    )
    assert not [answer for answer in answers if isinstance(answer, StoreError)]
    assert [event.type for event in await sqlite.events(after=0)] == ["job.enqueued", "a.b", "job.enqueued"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 255, 256, 257, 700])
async def test_a_batch_of_any_size_is_written_whole(sqlite: SqliteStore, count: int) -> None:
    jobs = await claimed(sqlite, count)
    answers = await one(sqlite, done(*jobs))
    assert len({answer.id for answer in answers}) == count
    assert (await sqlite.counts(ended=True))["q", "loop", "completed"] == count


async def test_few_statements_serve_all_sizes(sqlite: SqliteStore) -> None:
    bulk = Bulk(1, "INSERT INTO settings (name, value) SELECT column1, '1' FROM", "WHERE column1 IS NOT NULL")

    def run_all(sql: Any) -> int:
        return sum(bulk.run(sql, [f"s{size}-{n}" for n in range(size)]) for size in range(300))

    assert await sqlite._main.run(run_all) == sum(range(300))
    assert len(bulk._texts) <= 9
