"""Every store: what no rule allows is put right and counted; what the rules allow is left alone."""

from typing import Any

import pytest

from runtime.store.port import RepairJobs


async def repair(desk: Any) -> dict[str, int]:
    return await desk.one(RepairJobs(now=desk.now))


async def everything_that_waits(desk: Any) -> list[str]:
    """Have a job wait for each thing there is to wait for, as the rules allow; return their ids."""
    parent = await desk.add(queue="parents")
    broken = await desk.start(queue="broken")
    await desk.finish(broken, "failed", "permanent")
    edge = desk.child(parent)
    held = desk.child()
    held.depends_on = (type(edge.depends_on[0])(broken.id, "hold"),)
    await desk.insert(edge, held)
    running = await desk.start(queue="limited", limit_key="k")
    parked = await desk.add(queue="limited", limit_key="k")
    assert await desk.claim(queue="limited") == ()
    signal = await desk.start(queue="signal")
    await desk.finish(signal, "waiting", "signal", waits="go")
    whole = await desk.start(queue="whole")
    await desk.add(queue="part", parent=whole.id)
    await desk.finish(whole, "waiting", "children")
    assert running.limit_key == "k"
    return [edge.id, held.id, parked, signal.id, whole.id]


async def test_nothing_is_done_where_all_is_well(desk: Any) -> None:
    assert await repair(desk) == {}
    ids = await everything_that_waits(desk)
    assert [(await desk.status(job_id))[1] for job_id in ids] == ["deps", "deps", "limit", "signal", "children"]
    before = await desk.dump()
    assert await repair(desk) == {}
    assert await desk.dump() == before


async def test_a_job_waits_for_parents_that_do_not_hold_it(desk: Any) -> None:
    parent = await desk.add()
    rows = [desk.child(parent), desk.child(parent, execute_after=desk.now + 9)]
    await desk.insert(*rows)
    for row in rows:
        await desk.spoil_edges(row.id, "satisfied")
    assert await repair(desk) == {"deps_released": 2}
    assert [await desk.status(row.id) for row in rows] == [("pending", None), ("delayed", "scheduled")]
    assert await repair(desk) == {}


async def test_a_job_waits_for_a_key_that_has_room(desk: Any) -> None:
    ids = [await desk.add(limit_key="k", limit_max=2) for _ in range(6)]
    running = await desk.claim(*"abcdef")
    assert [job.id for job in running] == ids[:2]
    for job_id in ids[:2]:
        await desk.spoil(job_id, limit_key=None)
    assert await repair(desk) == {"limit_released": 2}
    assert [(await desk.status(job_id))[0] for job_id in ids[2:]] == ["pending", "pending", "waiting", "waiting"]
    assert await repair(desk) == {}  # one of the key is pending, and will bring the others along


async def test_a_job_waits_for_a_part_that_is_none(desk: Any) -> None:
    whole = await desk.start(queue="whole")
    part = await desk.add(parent=whole.id)
    await desk.finish(whole, "waiting", "children")
    await desk.spoil(part, parent=None)
    assert await repair(desk) == {"children_released": 1}
    assert await desk.status(whole.id) == ("pending", None)


async def test_a_job_waits_for_a_signal_that_is_there(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "waiting", "signal", waits="go")
    await desk.signal(claimed.id, "other")
    await desk.spoil(claimed.id, waits="other")
    assert await repair(desk) == {"signal_released": 1}
    assert await desk.status(claimed.id) == ("pending", None)


@pytest.mark.parametrize("times", [2])
async def test_all_repairs_are_counted_apart_and_told_as_moves_alone(desk: Any, times: int) -> None:
    for n in range(times):
        claimed = await desk.start(queue=f"s{n}")
        await desk.finish(claimed, "waiting", "signal", waits="go")
        await desk.signal(claimed.id, "other")
        await desk.spoil(claimed.id, waits="other")
    (child,) = await desk.insert(desk.child(await desk.add()))
    await desk.spoil_edges(child.id, "ignored")
    newest = await desk.newest()
    assert await repair(desk) == {"deps_released": 1, "signal_released": times}
    assert await desk.told(after=newest) == []
