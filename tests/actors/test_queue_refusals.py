"""What the store refuses for what is in it: it must not hold up the queue, and whoever wanted it is told."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from runtime.errors import StoreRejected
from runtime.store import port
from schemas.jobs import Claimed, JobLogged, Outcome

BAD = "a word that no store takes"

REFUSALS: dict[str, Callable[[], Exception]] = {
    "the store": lambda: StoreRejected("understudy.db refuses what was to be written: CHECK constraint failed"),
    "before the store": lambda: OverflowError("Python int too large to convert to SQLite INTEGER"),
}


@pytest.fixture(params=REFUSALS)
def spoil(request: Any) -> Callable[..., None]:
    """Have every commit fail that has a change of *kind* with the bad word in it."""

    def on(disk: Any, kind: type, only: Callable[[Any], bool] = lambda change: BAD in repr(change)) -> None:
        disk.spoils = lambda change: REFUSALS[request.param]() if isinstance(change, kind) and only(change) else None

    return on


async def test_a_job_that_cannot_be_written_is_refused_alone(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        hands = [await s.hand("first"), await s.hand("second")]
        spoil(s.disk, port.InsertJobs)
        told: dict[str, Any] = {}

        async def submit(name: str, text: str) -> None:
            try:
                told[name] = await s.submit(args={"text": text})
            except StoreRejected as error:
                told[name] = error

        async with anyio.create_task_group() as tasks:
            for name, text in (("one", "fine"), ("two", BAD), ("three", "fine")):
                tasks.start_soon(submit, name, text)
        assert isinstance(told["two"], StoreRejected)
        assert {(await hand.takes(1)).id for hand in hands} == {told["one"].id, told["three"].id}
        assert s.heard("actor.crashed") == []
        assert s.house.store_trouble is None


async def test_a_wish_that_cannot_be_written_is_refused_alone(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        job = await s.submit(delay_ms=60_000)
        spoil(s.disk, port.CancelJobs, lambda change: True)
        with pytest.raises(StoreRejected):
            await s.cancel(job.id)
        assert (await s.job(job.id)).status == "delayed"
        assert s.heard("actor.crashed") == []


async def test_an_end_that_cannot_be_written_fails_its_job_alone(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        one, two = await s.hand("one"), await s.hand("two")
        await s.submit(args={"text": "1"})
        await s.submit(args={"text": "2"})
        bad, good = await one.takes(1), await two.takes(1)
        spoil(s.disk, port.FinishJobs)
        s.disk.takes = 1  # both ends are in one commit
        await s.submit(args={"text": "3"})
        await one.ends(bad, Outcome(ok=True, result=BAD))
        await two.ends(good, Outcome(ok=True, result="well"))
        s.disk.takes = 0
        ended = await s.until(bad.id)
        assert (ended.status, ended.reason) == ("failed", "permanent")
        assert ended.error.detail.startswith("how it ended cannot be kept: ")
        assert ((ended := await s.until(good.id)).status, ended.result) == ("completed", "well")
        assert s.heard("actor.crashed") == []


async def test_an_end_that_cannot_be_written_at_all_is_found_lost(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        first = await hand.takes(1)
        spoil(s.disk, port.FinishJobs, lambda change: True)
        await hand.ends(first)
        s.disk.spoils = lambda change: None
        second = await hand.takes(2)
        assert (second.id, second.epoch) == (first.id, first.epoch + 1)
        await hand.ends(second)
        assert (await s.until(first.id)).status == "completed"


async def test_lines_that_cannot_be_written_are_left_out(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit()
        job: Claimed = await hand.takes(1)
        spoil(s.disk, port.AppendLogs)
        queue = s.system.ref("queue")
        for text in (BAD, "fine"):
            await queue.tell(JobLogged(job, ((1, "info", text),)))
            await anyio.sleep(5)
        await hand.ends(job)
        assert (await s.until(job.id)).status == "completed"
        assert s.heard("actor.crashed") == []


async def test_what_is_no_ones_in_particular_is_tried_again(stage: Any, spoil: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = await s.submit(delay_ms=1000)
        spoil(s.disk, port.PromoteDue, lambda change: True)
        await anyio.sleep(5)
        assert s.house.store_trouble is not None
        s.disk.spoils = lambda change: None
        assert (await hand.takes(1)).id == job.id
        assert s.house.store_trouble is None
        assert s.heard("actor.crashed") == []
