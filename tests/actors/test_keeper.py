"""The keeper: what happens to actors is written down, what cannot be written takes nobody down, and what ended long ago
is forgotten.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog.testing

from actors import keeper
from actors.keeper import Keeper
from runtime.config import load
from runtime.core.spec import ChildSpec
from runtime.errors import StoreFull
from runtime.store import port
from schemas.system import Happened

CONFIG = """
    [runtime]
    pool = 1
    [agents.ada]
    llm = { provider = "scripted", model = "echo" }
"""


async def test_what_happens_to_agents_is_kept(whole: Any) -> None:
    async with whole(CONFIG) as s:
        store = s.system.ref("store")
        for kind, data in (("actor.started", {}), ("actor.quarantined", {"reason": "it broke"})):
            await store.tell(Happened(kind=kind, subject="agent:ada", data=data))
        await s.caught_up()
        (row,) = await s.disk.agents()
        assert (row.name, row.desired, row.observed, row.reason) == ("ada", "running", "quarantined", "it broke")
        kinds = [event.type for event in await s.disk.events(after=0, subject="agent:ada")]
        assert kinds == ["actor.started", "actor.quarantined"]


async def test_what_happens_to_others_is_an_event_and_no_agent(whole: Any) -> None:
    async with whole(CONFIG) as s:
        await s.system.ref("store").tell(Happened(kind="actor.started", subject="worker:loop-1", data={"at": object}))
        await s.caught_up()
        assert await s.disk.agents() == ()
        assert len(await s.disk.events(after=0, subject="worker:loop-1")) == 1


async def test_history_that_cannot_be_written_takes_nobody_down(whole: Any) -> None:
    async with whole(CONFIG) as s:
        s.disk.refuses = StoreFull("no space left")
        await s.system.ref("store").tell(Happened(kind="actor.started", subject="agent:ada", data={}))
        await anyio.sleep(2 * keeper.PRUNE_EVERY + 1)
        s.disk.refuses = None
        assert s.heard("actor.crashed") == []
        view = await s.until(await s.say("ada", "hi"))
        assert view.status == "completed"


async def test_the_oldest_events_are_forgotten_from_time_to_time(whole: Any) -> None:
    async with whole(CONFIG) as s:
        await anyio.sleep(keeper.PRUNE_EVERY + 1)
        assert s.disk.written(port.PruneEvents) == [port.PruneEvents(keeper.KEEP_EVENTS)]


async def test_what_the_store_tells_is_told_on(whole: Any) -> None:
    async with whole(CONFIG) as s:
        with s.house.bus.subscribe(("job.enqueued",)) as news:
            submitted = await s.submit()
            assert [event.subject for event in news.take()] == [submitted.id]


# -- what is forgotten -------------------------------------------------------------------------------------------------

DAY = 86_400.0


class Archive:
    """The keeper alone, and jobs that the test lets end."""

    def __init__(self, house: Any) -> None:
        self.house, self.disk = house, house.store
        self.numbers = itertools.count(1)

    async def add(self, queue: str = "default", **fields: Any) -> str:
        now = self.house.clock.now()
        row = port.JobRow(
            f"job-{next(self.numbers):05}", "echo", queue, "loop", "{}", **({"execute_after": now} | fields)
        )
        (result,) = await self.disk.commit([port.InsertJobs((row,), now)])
        assert result[0].id == row.id
        return row.id

    async def run(self, queue: str, count: int) -> tuple[Any, ...]:
        workers = tuple(f"w{n}" for n in range(count))
        now = self.house.clock.now()
        (claimed,) = await self.disk.commit([port.ClaimJobs(queue, "loop", workers, "boot-1", now, now + 30_000)])
        assert len(claimed) == count
        return tuple(claimed)

    async def end(self, claimed: Any, status: Any = "completed") -> None:
        reason = {"completed": None, "failed": "exhausted", "cancelled": "user"}[status]
        ends = tuple(port.Finish(one, status, reason) for one in claimed)
        await self.disk.commit([port.FinishJobs(ends, self.house.clock.now(), strict=True)])

    async def ended(self, status: str = "completed", queue: str = "default", **fields: Any) -> str:
        """Have one job come to its end now."""
        job = await self.add(queue, **fields)
        await self.end(await self.run(queue, 1), status)
        return job

    async def later(self, seconds: float) -> None:
        """Have the wall clock so much later, and a sweep after that."""
        self.house.clock.step(round((seconds - 70) * 1000))
        await anyio.sleep(70)

    async def left(self) -> list[str]:
        return sorted(job.id for job in await self.disk.jobs(limit=1000))


@pytest.fixture
def archive(furnish: Any, perform: Any) -> Any:
    @asynccontextmanager
    async def run(config: str = "") -> AsyncIterator[Archive]:
        house = furnish(config)
        async with perform(house, lambda house: (ChildSpec("store", lambda: Keeper(house)),)):
            yield Archive(house)

    return run


async def test_ended_jobs_are_forgotten_after_their_time_and_failed_ones_later(archive: Any) -> None:
    async with archive() as s:
        jobs = {status: await s.ended(status) for status in ("completed", "cancelled", "failed")}
        await s.later(7 * DAY - 120)
        assert await s.left() == sorted(jobs.values())
        await s.later(240)
        assert await s.left() == [jobs["failed"]]
        await s.later(23 * DAY)
        assert await s.left() == []


async def test_what_has_not_ended_is_never_forgotten(archive: Any) -> None:
    async with archive() as s:
        running, waiting = await s.add(), await s.add("later", execute_after=s.house.clock.now() + 10**12)
        await s.run("default", 1)
        await s.later(365 * DAY)
        assert await s.left() == sorted([running, waiting])


async def test_no_more_than_so_many_are_kept_the_newest(archive: Any) -> None:
    config = "[retention]\ncompleted_max = 3\nfailed_max = 1\n[queues.own.retention]\ncompleted_max = 1\n"
    async with archive(config) as s:
        completed = [await s.ended(queue=queue) for queue in "ababa"]
        cancelled = [await s.ended("cancelled", queue=queue) for queue in "abab"]
        failed = [await s.ended("failed", queue=queue) for queue in "ab"]
        own = [await s.ended(queue="own") for _ in range(3)]
        await anyio.sleep(keeper.SWEEP_AFTER + 5)
        assert await s.left() == sorted([*completed[-3:], *cancelled[-3:], *failed[-1:], *own[-1:]])


async def test_a_queue_may_keep_longer_or_shorter_than_others(archive: Any) -> None:
    config = (
        "[retention]\ncompleted = '2d'\n[queues.audit.retention]\ncompleted = '9d'\n"
        "[queues.noise.retention]\ncompleted = '1h'\ncompleted_max = 2\nfailed = '2h'\n"
    )
    async with archive(config) as s:
        usual, audit, _ = [await s.ended(queue=queue) for queue in ("default", "audit", "noise")]
        failed = await s.ended("failed", "noise")
        await s.later(3700)
        assert await s.left() == sorted([usual, audit, failed])
        await s.later(3700)
        assert await s.left() == sorted([usual, audit])
        await s.later(2 * DAY)
        assert await s.left() == [audit]
        await s.later(7 * DAY)
        assert await s.left() == []


async def test_a_reload_changes_how_long_is_kept(archive: Any, tmp_path: Path) -> None:
    async with archive() as s:
        await s.ended()
        await anyio.sleep(3600)
        (tmp_path / "config.toml").write_text("[retention]\ncompleted = '30m'\n")
        s.house.loaded = load(tmp_path / "config.toml", {})
        await anyio.sleep(61)
        assert await s.left() == []


async def test_a_job_with_the_tag_keep_stays_for_good(archive: Any) -> None:
    async with archive("[retention]\ncompleted_max = 0\n") as s:
        kept = await s.ended(tags=("a", "keep"))
        await s.ended(tags=("a",))
        await s.later(100 * DAY)
        assert await s.left() == [kept]


async def test_a_parent_stays_while_another_job_waits_for_it(archive: Any) -> None:
    async with archive("[retention]\nfailed = '1h'\ncompleted = '1h'\n") as s:
        parent = await s.ended("failed")
        held = await s.add(depends_on=(port.Edge(parent, "hold"),))
        whole = await s.add("other")
        part = await s.ended(parent=whole)
        await s.later(10 * DAY)
        assert await s.left() == sorted([parent, held, whole, part])
        await s.disk.commit([port.ResumeJobs((held,), s.house.clock.now())])  # a person lets it go on without
        for queue in ("default", "other"):
            await s.end(await s.run(queue, 1))
        await s.later(3700)
        assert await s.left() == []


async def test_many_are_forgotten_in_chunks_with_pauses_between_them(archive: Any) -> None:
    async with archive("[retention]\ncompleted = '1h'\n") as s:
        for _ in range(1200):
            await s.add()
        await s.end(await s.run("default", 1200))
        s.disk.commits.clear()
        times: list[float] = []
        commit = s.disk.commit

        async def timed(changes: Any) -> Any:
            times.extend([anyio.current_time()] * is_deletion(changes))
            return await commit(changes)

        s.disk.commit = timed
        await s.later(3700)
        assert await s.left() == []
        chunks = [change for change in s.disk.written(port.DeleteEnded) if change.status == "completed"]
        assert all(change.limit == keeper.CHUNK == 500 for change in chunks)
        assert all(len(changes) == 1 for changes in s.disk.commits if is_deletion(changes))  # each its own transaction
        assert all(b - a >= keeper.PAUSE * 0.9 for a, b in itertools.pairwise(times))


def is_deletion(changes: Any) -> bool:
    return any(isinstance(change, port.DeleteEnded) for change in changes)


async def test_a_store_that_refuses_is_swept_later(archive: Any) -> None:
    async with archive("[retention]\ncompleted = '1m'\n") as s:
        await s.ended()
        s.disk.refuses = StoreFull("no space left")
        await anyio.sleep(1000)
        s.disk.refuses = None
        assert len(await s.left()) == 1
        await anyio.sleep(61)
        assert await s.left() == []


async def test_free_pages_are_given_back_in_slices_down_to_a_spare(archive: Any) -> None:
    async with archive() as s:
        free, slices = 5_000, []

        async def tidy(pages: int) -> port.Tidied:
            nonlocal free
            await anyio.sleep(0)
            slices.append(anyio.current_time())
            freed = min(free, pages)
            free -= freed
            return port.Tidied(freed, free, 0)

        s.disk.tidy = tidy
        await anyio.sleep(keeper.SWEEP_AFTER + 5)
        assert free == keeper.SPARE_PAGES
        assert len(slices) == (5_000 - keeper.SPARE_PAGES) // keeper.SLICE
        assert all(b - a >= keeper.PAUSE * 0.9 for a, b in itertools.pairwise(slices))


async def test_a_log_that_grows_too_large_is_told_of_once(archive: Any) -> None:
    size = 300 * 2**20

    async def tidy(pages: int) -> port.Tidied:
        await anyio.sleep(0)
        return port.Tidied(0, 0, size)

    with structlog.testing.capture_logs() as logs:
        async with archive() as s:
            s.disk.tidy = tidy
            await anyio.sleep(300)
            size = 0
            await anyio.sleep(120)
            size = 300 * 2**20
            await anyio.sleep(300)
    assert [log["mebibytes"] for log in logs if log["event"] == "write_ahead_log_is_large"] == [300, 300]
