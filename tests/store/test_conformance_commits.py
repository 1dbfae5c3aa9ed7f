"""Every store: a commit is all or nothing for its caller, and none of its neighbours' business."""

from dataclasses import replace
from typing import Any, get_args

import anyio
import anyio.lowlevel
import pytest

from runtime.errors import LeaseLost, StoreError, VersionConflict
from runtime.store.port import (
    AppendEvents,
    AppendLogs,
    AppendMessages,
    BeginStep,
    CancelJobs,
    Change,
    DeleteEnded,
    EndStep,
    ExpireJobs,
    ExpireLeases,
    Finish,
    FinishJobs,
    FireSchedule,
    Heartbeat,
    InsertJobs,
    PauseJobs,
    PromoteDue,
    PruneEvents,
    PutAgent,
    PutQueue,
    PutSchedule,
    PutSetting,
    PutWorkers,
    QueueRow,
    RecordProcess,
    RecoverJobs,
    ReleaseHeld,
    RemoveSchedule,
    RemoveWorkers,
    RepairJobs,
    ResumeJobs,
    RetryJobs,
    SaveProgress,
    SaveState,
    ScheduleRow,
    SendSignal,
    Store,
    TakeSignal,
    WorkerRow,
)
from schemas.jobs import JobFilter
from tests.store.agents_desk import a_busy_office

TOUCHES = [
    *("insert", "insert edges", "claim", "process", "progress", "logs", "begin", "end", "signal", "take", "finish"),
    *("cancel", "pause", "resume", "retry", "expire", "promote", "release", "leases", "repair", "recover", "delete"),
    *("workers", "heartbeat", "remove", "queue", "schedule", "fire", "forget", "agent", "state", "messages", "events"),
    *("prune", "setting", "begin charged", "end charged", "absorb", "ask", "answer", "use", "expire approvals"),
    *("revoke", "fork", "persona", "no persona", "note", "no note"),
]
CONFLICT = SaveState("zoe", "{}", 1, expected=9, boot="b", incarnation=1, now=1)


async def test_an_empty_commit_answers_nothing(desk: Any) -> None:
    assert await desk.store.commit([]) == []


async def test_results_come_in_the_order_of_the_changes(desk: Any) -> None:
    row = desk.row()
    insert, claims = InsertJobs((row,), now=desk.now), desk.claims("w1")
    state = SaveState("ada", "{}", 1, expected=0, boot="b", incarnation=1, now=1)
    (inserted,), nothing, (claimed,), version = await desk.store.commit([insert, PutSetting("a", "1"), claims, state])
    assert (inserted.id, nothing, claimed.id, version) == (row.id, None, row.id, 1)


async def a_busy_store(desk: Any) -> dict[str, Any]:
    """Fill the store with one of everything, and return the changes that touch all of it."""
    failed = await desk.start(queue="failed")
    (fallen,) = await desk.insert(desk.child(failed.id))
    await desk.finish(failed, "failed", "permanent")
    held = await desk.start(queue="held")
    await desk.hold(held)
    running, ending = await desk.start(queue="a", limit_key="k"), await desk.start(queue="b", limit_key="l")
    await desk.insert(desk.child(ending.id), desk.row(queue="b", limit_key="l"))
    assert await desk.claim(queue="b") == ()
    await desk.one(AppendLogs(running, ((1, "info", "one"),)))
    await desk.begin(running, "open")
    await desk.signal(running.id, "go", 1)
    waiting = await desk.start(queue="w")
    await desk.finish(waiting, "waiting", "signal", waits="go")
    stuck = await desk.start(queue="s")
    await desk.finish(stuck, "waiting", "signal", waits="go")
    await desk.signal(stuck.id, "other")
    await desk.spoil(stuck.id, waits="other")
    ended = await desk.start(queue="e", tags=("t",))
    await desk.begin(ended, "step")
    await desk.ask(ended)
    await desk.finish(ended, "completed")
    orphan = await desk.start(queue="c")
    pending, _ = await desk.add(), await desk.add(deadline_at=desk.now + 3)
    paused = await desk.add(queue="p")
    await desk.pause(paused)
    await desk.add(execute_after=desk.now + 1)
    worker = WorkerRow("w1", None, "loop", "idle", "boot-0", 1, created_at=1, last_heartbeat_at=1)
    await desk.one(PutWorkers((worker,), boot="boot-0", now=1))
    await desk.one(PutAgent("ada", "running", "running", None, now=1))
    state = SaveState("ada", '{"n": 1}', 1, expected=0, boot="b", incarnation=1, now=1)
    await desk.one(state)
    said = AppendMessages("ada", "main", ('"hello"',), job=None, now=1)
    await desk.one(said)
    nightly = ScheduleRow("nightly", "0 3 * * *", "UTC", "{}", "one", "skip", "config", False, 5, 1)
    for name in ("nightly", "hourly"):
        await desk.one(PutSchedule(replace(nightly, name=name)))
    office = await a_busy_office(desk, running)
    now = desk.now + 10
    return {
        "insert": InsertJobs((desk.row(), desk.row(key="k"), desk.row(execute_after=now + 9)), now=now),
        "insert edges": InsertJobs((desk.child(pending, tags=("a", "b"), unique="u", parent=running.id),), now=now),
        "claim": desk.claims("w1", "w2"),
        "process": RecordProcess(running, 77, 88),
        "progress": SaveProgress(running, "1", now=now),
        "logs": AppendLogs(running, ((2, "info", "two"),)),
        "begin": BeginStep(running, "new", now=now),
        "end": EndStep(running, "open", now=now, output="1"),
        "signal": SendSignal(waiting.id, "go", "1", now=now),
        "take": TakeSignal(running, "go", "wait", now=now),
        **office,
        "finish": FinishJobs((Finish(ending, "completed", result="1"),), now=now),
        "cancel": CancelJobs((running.id, pending), now=now),
        "pause": PauseJobs((running.id, pending, held.id), now=now),
        "resume": ResumeJobs((paused,), now=now),
        "retry": RetryJobs((failed.id,), now=now, dependants=True),
        "expire": ExpireJobs(now=now),
        "promote": PromoteDue(now=now),
        "release": ReleaseHeld((held.kind,), now=now),
        "leases": ExpireLeases(running.boot, now=now + 60_000),
        "repair": RepairJobs(now=now),
        "recover": RecoverJobs(boot="boot-9", now=now),
        "delete": DeleteEnded("completed", None, before=now + 1, keep=None),
        "workers": PutWorkers((replace(worker, id="w2", boot="boot-2"),), boot="boot-2", now=now),
        "heartbeat": Heartbeat((("w1", "error"),), boot=orphan.boot, now=now, lease_until=now + 90_000),
        "remove": RemoveWorkers(("w1",)),
        "queue": PutQueue(QueueRow("default", "paused"), now=now),
        "schedule": PutSchedule(replace(nightly, cron="* * * * *")),
        "fire": FireSchedule("nightly", 5, 9, now, desk.row()),
        "forget": RemoveSchedule("hourly"),
        "agent": PutAgent("ada", "suspended", "stopped", "why", now=now),
        "state": replace(state, state='{"n": 2}', expected=1),
        "messages": replace(said, now=now),
        "events": AppendEvents((("a", "b", "{}"),), now=now),
        "prune": PruneEvents(keep=1),
        "setting": PutSetting("name", "1"),
        "fallen": CancelJobs((fallen.id,), now=now),
    }


async def test_the_list_has_every_change_there_is(desk: Any) -> None:
    changes = await a_busy_store(desk)
    assert {type(change) for change in changes.values()} == set(get_args(Change))


async def test_each_change_alone_is_taken_back_whole(desk: Any) -> None:
    changes = await a_busy_store(desk)
    before, moves = await desk.dump(), list(desk.heard)
    for name, change in changes.items():
        with pytest.raises(VersionConflict):
            await desk.store.commit([change, CONFLICT])
        assert await desk.dump() == before, name
    assert desk.heard == moves


@pytest.mark.parametrize("name", TOUCHES)
async def test_each_change_has_something_to_take_back(desk: Any, name: str) -> None:
    changes = await a_busy_store(desk)
    before = await desk.dump()
    await desk.one(changes[name])
    assert await desk.dump() != before


async def test_all_changes_together_are_taken_back_whole(desk: Any) -> None:
    changes = await a_busy_store(desk)
    before = await desk.dump()
    with pytest.raises(VersionConflict):
        await desk.store.commit([*changes.values(), CONFLICT])
    assert await desk.dump() == before
    await desk.store.commit(list(changes.values()))
    assert await desk.dump() != before


async def test_what_was_taken_back_can_be_done_again(desk: Any) -> None:
    row = desk.row(key="k", execute_after=desk.now + 5)
    insert = InsertJobs((row,), now=desk.now)
    for _ in range(2):
        with pytest.raises(VersionConflict):
            await desk.store.commit([insert, CONFLICT])
    (inserted,) = await desk.one(insert)
    assert (inserted.id, inserted.existing) == (row.id, False)
    assert await desk.told() == [("job.enqueued", row.id, {"status": "delayed"})]


async def test_a_lost_fence_aborts_no_neighbour(desk: Any) -> None:
    claimed = await desk.start()
    stale = FinishJobs((Finish(replace(claimed, epoch=0), "completed"),), now=desk.now, strict=True)
    refused: list[int] = []

    async def keep(n: int) -> None:
        await desk.store.commit([InsertJobs((desk.row(queue="kept"),), now=desk.now), PutSetting(f"kept-{n}", "1")])

    async def lose(n: int) -> None:
        with pytest.raises(LeaseLost):
            await desk.store.commit([InsertJobs((desk.row(queue="lost"),), now=desk.now), stale])
        refused.append(n)

    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(keep, n)
            tasks.start_soon(lose, n)
    assert sorted(refused) == list(range(10))
    assert len(await desk.store.jobs(JobFilter(queue="kept"))) == 10
    assert await desk.store.jobs(JobFilter(queue="lost")) == ()
    assert [await desk.store.setting(f"kept-{n}") for n in range(10)] == ["1"] * 10
    offsets = [event.offset for event in await desk.store.events(after=0)]
    assert offsets == list(range(1, len(offsets) + 1))


async def test_a_constraint_one_caller_broke_aborts_no_neighbour(desk: Any) -> None:
    taken = await desk.add()
    outcomes: list[str] = []

    async def insert(**fields: Any) -> None:
        try:
            await desk.add(**fields)
        except StoreError:
            outcomes.append("refused")
        else:
            outcomes.append("kept")

    async with anyio.create_task_group() as tasks:
        for n in range(6):
            tasks.start_soon(lambda n=n: insert(**({"id": taken} if n % 2 else {})))
    assert sorted(outcomes) == ["kept"] * 3 + ["refused"] * 3
    assert len(await desk.store.jobs()) == 4


async def test_concurrent_claims_share_no_job(desk: Any) -> None:
    ids = {await desk.add() for _ in range(30)}
    seen: list[str] = []

    async def work(name: str) -> None:
        while claimed := await desk.claim(name, name):
            seen.extend(job.id for job in claimed)

    async with anyio.create_task_group() as tasks:
        for n in range(6):
            tasks.start_soon(work, f"w{n}")
    assert len(seen) == 30
    assert set(seen) == ids


async def test_concurrent_completions_of_one_attempt_are_accepted_once(desk: Any) -> None:
    claimed = await desk.start()
    accepted: list[Any] = []

    async def complete() -> None:
        finished = await desk.finish(claimed, "completed")
        if finished is not None:
            accepted.append(finished)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(complete)
    assert len(accepted) == 1
    assert [kind for kind, _, _ in await desk.told()].count("job.completed") == 1


async def test_a_cancelled_commit_leaves_the_store_whole(desk: Any) -> None:
    both = [InsertJobs((desk.row(id="maybe"),), now=desk.now), PutSetting("maybe", "1")]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.store.commit, both)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    # Unknown means: it happened or it did not, but never by half.
    await desk.one(PutSetting("after", "1"))
    happened = await desk.store.job("maybe") is not None
    assert await desk.store.setting("maybe") == ("1" if happened else None)
    assert (await desk.newest() == 1) is happened


async def test_a_store_that_is_not_open_refuses(closed_store: Store) -> None:
    with pytest.raises(StoreError):
        await closed_store.commit([PutSetting("a", "1")])
    with pytest.raises(StoreError):
        await closed_store.setting("a")


async def test_a_store_is_closed_twice_without_harm_and_refuses_then(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError):
        await store.commit([PutSetting("a", "1")])
    with pytest.raises(StoreError):
        await store.setting("a")


async def test_a_store_is_closed_without_ever_having_been_open(closed_store: Store) -> None:
    await closed_store.close()


async def test_what_was_handed_in_is_finished_before_a_store_closes(desk: Any) -> None:
    outcomes: list[str] = []

    async def put(n: int) -> None:
        try:
            await desk.one(PutSetting(f"s{n}", "1"))
        except StoreError:
            outcomes.append("refused")
        else:
            outcomes.append("kept")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(put, n)
            await anyio.lowlevel.checkpoint()
            await desk.store.close()
    assert len(outcomes) == 20
