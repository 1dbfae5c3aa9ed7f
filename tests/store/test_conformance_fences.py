"""Every store: whatever an attempt writes when it has lost its job changes nothing, by a byte."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runtime.errors import LeaseLost
from runtime.store.port import (
    AppendLogs,
    BeginStep,
    DeleteEnded,
    EndStep,
    ExpireLeases,
    Finish,
    FinishJobs,
    InsertJobs,
    PutSetting,
    RecordProcess,
    RecoverJobs,
    SaveProgress,
    TakeSignal,
    UseApproval,
)
from schemas.jobs import Lease


def finish(status: Any, reason: str | None = None, **more: Any) -> Callable[[Any, Any], Any]:
    return lambda fence, desk: FinishJobs((Finish(fence, status, reason, **more),), now=desk.now)


WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "complete": finish("completed", result="1"),
    "fail": finish("failed", "permanent", error=None),
    "retry": finish("delayed", "retry", execute_after=9),
    "requeue": finish("pending", refund=True),
    "crash": finish("pending", crash=True),
    "wait": finish("waiting", "signal", waits="later"),
    "wait for parts": finish("waiting", "children"),
    "hold": finish("paused", "hold"),
    "process": lambda fence, desk: RecordProcess(fence, pgid=77, started=1),
    "progress": lambda fence, desk: SaveProgress(fence, '{"done": 1}', now=desk.now),
    "logs": lambda fence, desk: AppendLogs(fence, ((desk.now, "info", "late"),)),
    "begin a step": lambda fence, desk: BeginStep(fence, "new", now=desk.now),
    "begin an open step": lambda fence, desk: BeginStep(fence, "open", now=desk.now),
    "end a step": lambda fence, desk: EndStep(fence, "open", now=desk.now, output="1"),
    "take a signal": lambda fence, desk: TakeSignal(fence, "go", "wait", now=desk.now),
    "begin a step that is paid": lambda fence, desk: BeginStep(
        fence, "new", now=desk.now, charge=desk.charge(calls=1, cost=9)
    ),
    "end a step that was paid": lambda fence, desk: EndStep(
        fence, "open", now=desk.now, output="1", charge=desk.charge(cost=-9)
    ),
    "absorb": lambda fence, desk: desk.absorbing(fence),
    "ask a person": lambda fence, desk: desk.question(fence, "ask/new"),
    "use an approval": lambda fence, desk: UseApproval(fence, ALLOWED, "ask/1", "shell", "d1", now=desk.now),
    "children": lambda fence, desk: InsertJobs((desk.row(parent=fence.id),), now=desk.now, fence=fence),
}


ALLOWED = "approval-of-the-attempt"
RAISES = ("children", "use an approval")


async def older_epoch(desk: Any, claimed: Any) -> Any:
    return replace(claimed, epoch=claimed.epoch - 1)


async def newer_epoch(desk: Any, claimed: Any) -> Any:
    return replace(claimed, epoch=claimed.epoch + 1)


async def other_worker(desk: Any, claimed: Any) -> Any:
    return replace(claimed, worker="w2")


async def other_boot(desk: Any, claimed: Any) -> Any:
    return replace(claimed, boot="boot-0")


async def unknown_job(desk: Any, claimed: Any) -> Any:
    return replace(claimed, seq=claimed.seq + 1000)


async def completed(desk: Any, claimed: Any) -> Any:
    await desk.finish(claimed, "completed")
    return claimed


async def failed(desk: Any, claimed: Any) -> Any:
    await desk.finish(claimed, "failed", "exhausted")
    return claimed


async def requeued(desk: Any, claimed: Any) -> Any:
    await desk.finish(claimed, "pending")
    return claimed


async def taken_over(desk: Any, claimed: Any) -> Any:
    await desk.finish(claimed, "pending", refund=True)
    (again,) = await desk.claim("w1")
    assert (again.id, again.attempt, again.worker) == (claimed.id, claimed.attempt, claimed.worker)
    await desk.begin(again, "open")
    return claimed


async def recovered(desk: Any, claimed: Any) -> Any:
    await desk.one(RecoverJobs(boot="boot-2", now=desk.now))
    return claimed


async def expired(desk: Any, claimed: Any) -> Any:
    await desk.one(ExpireLeases(boot=claimed.boot, now=desk.now + 30_001))
    return claimed


async def forgotten(desk: Any, claimed: Any) -> Any:
    await desk.finish(claimed, "failed", "exhausted")
    assert await desk.one(DeleteEnded("failed", None, before=desk.now + 1, keep=None)) == 1
    return claimed


LOSSES = [
    *(older_epoch, newer_epoch, other_worker, other_boot, unknown_job, completed, failed, requeued, taken_over),
    *(recovered, expired, forgotten),
]


async def an_attempt(desk: Any) -> Any:
    """Start an attempt that every write has something to do for."""
    claimed = await desk.start()
    await desk.begin(claimed, "open")
    await desk.signal(claimed.id, "go", 1)
    await desk.insert(desk.talk(tags=("steer",)))
    await desk.answer(await desk.ask(claimed, id=ALLOWED))
    return claimed


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("write", sorted(WRITES))
async def test_a_write_whose_fence_is_lost_changes_nothing(desk: Any, write: str, lose: Any) -> None:
    fence = await lose(desk, await an_attempt(desk))
    change = WRITES[write](fence, desk)
    desk.now += 99
    before, moves = await desk.dump(), list(desk.heard)
    if write in RAISES:
        with pytest.raises(LeaseLost):
            await desk.one(change)
    else:
        answer = await desk.one(change)
        assert answer in (None, False) or list(answer) == [None]
    assert await desk.dump() == before
    assert desk.heard == moves


@pytest.mark.parametrize("write", sorted(WRITES))
async def test_a_lease_is_as_good_a_fence_as_the_claim(desk: Any, write: str) -> None:
    claimed = await an_attempt(desk)
    lease = Lease(seq=claimed.seq, id=claimed.id, epoch=claimed.epoch, worker="w1", boot="boot-1")
    before = await desk.dump()
    desk.now += 1
    answer = await desk.one(WRITES[write](lease, desk))
    assert write == "use an approval" or answer not in (None, False, [None])
    assert await desk.dump() != before


async def test_a_strict_finish_with_a_lost_fence_takes_the_whole_commit_back(desk: Any) -> None:
    other, claimed = await desk.start(queue="other"), await desk.start()
    stale = replace(claimed, epoch=0)
    before = await desk.everything()
    ends = (Finish(other, "completed"), Finish(stale, "completed"))
    changes = [PutSetting("before", "1"), FinishJobs(ends, now=desk.now, strict=True), PutSetting("after", "1")]
    with pytest.raises(LeaseLost):
        await desk.store.commit(changes)
    assert await desk.everything() == before
    assert [await desk.store.setting(name) for name in ("before", "after")] == [None, None]


async def test_children_of_a_lost_attempt_take_the_whole_commit_back(desk: Any) -> None:
    claimed = await desk.start()
    before = await desk.dump()
    children = InsertJobs((desk.row(),), now=desk.now, fence=replace(claimed, epoch=0))
    with pytest.raises(LeaseLost):
        await desk.store.commit([PutSetting("before", "1"), children])
    assert await desk.dump() == before


async def test_a_strict_finish_that_owns_its_job_is_a_plain_one(desk: Any) -> None:
    claimed = await desk.start()
    (finished,) = await desk.one(FinishJobs((Finish(claimed, "completed"),), now=desk.now, strict=True))
    assert finished.status == "completed"
