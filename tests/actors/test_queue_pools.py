"""Pools: who serves which queues, pools that grow and shrink, workers that are drained, and how each is shown."""

import json
from typing import Any

import anyio
import pytest

from runtime.errors import PoolNotFound, WorkerNotFound
from schemas.jobs import DrainWorker, ResizePool

CONFIG = """
    [runtime]
    pool = 2
    child_pool = 1
    [pools.fast]
    lane = "loop"
    size = 1
    queues = ["urgent"]
"""


async def busy(s: Any) -> dict[str, int]:
    return {name: count for name, count in s.house.workers.items() if count}


async def nap(s: Any, seconds: float = 100, **fields: Any) -> str:
    found: str = (await s.submit("sleep", args={"seconds": seconds}, **fields)).id
    return found


async def test_a_pool_serves_its_queues_and_nobody_else_does(whole: Any) -> None:
    async with whole(CONFIG) as s:
        urgent = [await nap(s, queue="urgent") for _ in range(2)]
        others = [await nap(s) for _ in range(3)]
        await s.caught_up()
        assert (await s.job(urgent[0])).worker == "worker:fast-1"
        assert (await s.job(urgent[1])).status == "pending"
        assert {(await s.job(job)).worker for job in others[:2]} == {"worker:loop-1", "worker:loop-2"}
        assert (await s.job(others[2])).status == "pending"
        await anyio.sleep(250)
        assert {(await s.job(job)).status for job in (*urgent, *others)} == {"completed"}
        assert (await s.job(urgent[1])).worker == "worker:fast-1"


async def test_jobs_of_the_other_lane_go_to_the_general_pool(stage: Any) -> None:
    async with stage(CONFIG) as s:
        child = await s.hand("child", lane="child")
        fast = await s.hand("fast", pool="fast")
        await s.submit("shell", args={"argv": ["true"]}, queue="urgent")
        await s.submit(queue="urgent")
        await s.caught_up()
        assert (len(child.has), len(fast.has)) == (1, 1)


async def test_a_pool_grows_at_once(whole: Any) -> None:
    async with whole(CONFIG) as s:
        for _ in range(5):
            await nap(s)
        await s.caught_up()
        assert len(await busy(s)) == 2
        assert await s.ask(ResizePool(name="loop", size=5)) == 2
        await s.caught_up()
        assert set(await busy(s)) == {f"worker:loop-{n}" for n in range(1, 6)}


async def test_a_pool_shrinks_by_workers_that_have_ended_their_jobs(whole: Any) -> None:
    async with whole(CONFIG) as s:
        jobs = [await nap(s, 100 + 10 * n) for n in range(4)]
        await s.caught_up()
        assert await s.ask(ResizePool(name="loop", size=1)) == 2
        await anyio.sleep(50)
        assert len(await busy(s)) == 2
        await anyio.sleep(80)
        assert await busy(s) == {"worker:loop-1": 1}
        assert not s.system.has("worker:loop-2")
        assert "worker:loop-2" not in {row.id for row in await s.disk.workers()}
        await anyio.sleep(400)
        assert {(await s.job(job)).status for job in jobs} == {"completed"}
        assert [view.attempts for view in await s.disk.jobs()] == [1] * 4
        assert s.heard("actor.crashed") == []


async def test_a_worker_too_many_that_falls_is_not_kept_when_it_is_started_anew(stage: Any) -> None:
    async with stage(CONFIG) as s:
        of = [await s.hand(f"worker:loop-{n}") for n in (1, 2)]
        jobs = await s.submit_many({}, {})
        await of[0].takes(1)
        await of[1].takes(1)
        assert await s.ask(ResizePool(name="loop", size=1)) == 2
        await s.restart("worker:loop-2")  # without a word about its job
        await s.caught_up()
        assert not s.system.has("worker:loop-2")
        assert s.house.workers == {"worker:loop-1": 1}
        await of[0].ends(of[0].taken[0])
        await of[0].ends(await of[0].takes(2))
        assert sorted(of[0].has) == sorted(jobs)


async def test_a_pool_may_be_emptied_and_filled_again(whole: Any) -> None:
    async with whole(CONFIG) as s:
        assert await s.ask(ResizePool(name="loop", size=0)) == 2
        job = await nap(s, 1)
        await anyio.sleep(60)
        assert (await s.job(job)).status == "pending"
        assert await s.ask(ResizePool(name="loop", size=3)) == 0
        assert (await s.until(job)).status == "completed"
        assert sum(name.startswith("worker:loop-") for name in s.system.names()) == 3
        await s.caught_up()
        assert sum(name.startswith("worker:loop-") for name in s.house.workers) == 3


async def test_a_job_that_is_claimed_for_a_worker_that_is_dismissed_meanwhile_goes_back(whole: Any) -> None:
    async with whole(CONFIG) as s:
        for _ in range(4):
            await nap(s, 10)
        await s.caught_up()
        await anyio.sleep(9.8)
        s.disk.takes = 0.5  # so that ends, claims and the new size meet while something else is being written
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(nap, s, 10)
            await anyio.sleep(0.4)
            assert await s.system.ref("queue").ask(ResizePool(name="loop", size=0)) == 2
        s.disk.takes = 0.0
        await anyio.sleep(5)
        assert sorted(job.status for job in await s.disk.jobs()) == ["completed"] * 2 + ["pending"] * 3
        assert await s.system.ref("queue").ask(ResizePool(name="loop", size=3)) == 0
        await anyio.sleep(20)
        assert {job.status for job in await s.disk.jobs()} == {"completed"}
        assert s.heard("actor.crashed") == []


async def test_changes_of_size_do_not_mix(whole: Any) -> None:
    async with whole(CONFIG) as s:
        told: list[int] = []

        async def resize(size: int) -> None:
            told.append(await s.ask(ResizePool(name="loop", size=size)))

        async with anyio.create_task_group() as tasks:
            for size in (7, 3, 9, 4):
                tasks.start_soon(resize, size)
        await s.caught_up()
        assert len(told) == 4
        assert sum(name.startswith("worker:loop-") for name in s.system.names()) in (3, 4, 7, 9)
        assert s.heard("actor.crashed") == []


async def test_a_pool_that_nobody_knows_is_refused_with_those_there_are(whole: Any) -> None:
    async with whole(CONFIG) as s:
        with pytest.raises(PoolNotFound, match="loop, child, fast"):
            await s.ask(ResizePool(name="slow", size=1))


async def test_a_drained_worker_ends_its_job_and_takes_no_other_until_it_may(whole: Any) -> None:
    async with whole(CONFIG) as s:
        first, second = await nap(s), await nap(s)
        await s.caught_up()
        name = (await s.job(first)).worker
        view = await s.ask(DrainWorker(id=name))
        assert (view.status, view.draining, view.job) == ("busy", True, first)
        waits = [await nap(s) for _ in range(2)]
        await anyio.sleep(150)
        assert (await s.job(first)).status == "completed"
        assert {(await s.job(job)).worker for job in (second, *waits)} - {name, None} != set()
        assert s.house.workers[name] == 0
        rows = {row.id: json.loads(row.capabilities) for row in await s.disk.workers()}
        assert rows[name]["draining"] is True
        await s.restart(name)  # its next incarnation stays out of service
        last = await nap(s)
        await s.caught_up()
        assert s.house.workers[name] == 0
        assert (await s.ask(DrainWorker(id=name, drain=False))).draining is False
        await s.caught_up()
        assert s.house.workers[name] == 1
        assert (await s.until(last)).status == "completed"


async def test_agents_and_strangers_are_not_drained(stage: Any) -> None:
    async with stage('[agents.ada]\nllm = { provider = "scripted", model = "echo" }\n') as s:
        await s.hand("one")
        await s.hand("agent:ada", lane="agent", queue="agent:ada")
        for name in ("agent:ada", "nobody"):
            with pytest.raises(WorkerNotFound) as caught:
                await s.ask(DrainWorker(id=name))
            assert caught.value.data["known"] == ["one"]


async def test_a_worker_that_has_gone_is_shown_so_until_it_is_back(stage: Any) -> None:
    async with stage() as s:
        await s.hand("one")
        await s.hand("two", lane="child", pool="child")
        await s.system.stop_child("one")
        s.system.quarantine("two", "a person said so")
        await s.caught_up()
        rows = {row.id: row.status for row in await s.disk.workers()}
        assert rows == {"one": "offline", "two": "error"}
        await s.hand("one")
        rows = {row.id: row.status for row in await s.disk.workers()}
        assert rows == {"one": "idle", "two": "error"}
