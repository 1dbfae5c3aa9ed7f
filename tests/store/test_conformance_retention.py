"""Every store: jobs that ended are forgotten, but none that something still hangs on."""

from typing import Any

import pytest

from runtime.store.port import AppendLogs, DeleteEnded, Edge, PromoteDue, RecordProcess, SaveProgress


async def ended(desk: Any, status: Any = "completed", reason: Any = None, **fields: Any) -> str:
    """Add a job and end it now."""
    claimed = await desk.start(**fields)
    await desk.finish(claimed, status, reason)
    return claimed.id


async def forget(desk: Any, status: Any = "completed", queue: str | None = None, **more: Any) -> int:
    return await desk.one(DeleteEnded(status, queue, **({"before": desk.now, "keep": None} | more)))


async def left(desk: Any) -> list[str]:
    return sorted(view.id for view in await desk.store.jobs(limit=1000))


async def test_what_ended_before_a_time_is_forgotten_and_nothing_else(desk: Any) -> None:
    old = await ended(desk)
    failed = await ended(desk, "failed", "permanent")
    desk.now += 10
    young = await ended(desk)
    living = await desk.add()
    newest = await desk.newest()
    assert await forget(desk) == 1
    assert await left(desk) == [failed, young, living]
    assert await desk.store.job(old) is None
    assert await desk.told(after=newest) == []
    assert await forget(desk) == 0


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent"), ("cancelled", "user")])
async def test_each_way_to_end_has_its_own_time(desk: Any, status: Any, reason: Any) -> None:
    jobs = {how: await ended(desk, how, why) for how, why in (("completed", None), ("failed", "permanent"))}
    jobs["cancelled"] = await ended(desk, "cancelled", "user")
    desk.now += 1
    assert await forget(desk, status) == 1
    assert await left(desk) == sorted(job_id for how, job_id in jobs.items() if how != status)
    assert reason is None or status != "completed"


async def test_a_forgotten_job_leaves_nothing_behind(desk: Any) -> None:
    empty = await desk.dump()
    parent = await desk.start()
    (child,) = await desk.insert(desk.child(parent.id, tags=("t",), key="k", unique="u"))
    await desk.one(AppendLogs(parent, ((1, "info", "one"),)))
    await desk.one(SaveProgress(parent, "1", now=desk.now))
    await desk.one(RecordProcess(parent, 7, 8))
    await desk.begin(parent, "step")
    await desk.done(parent, "step", 1)
    await desk.signal(parent.id, "go")
    await desk.finish(parent, "completed")
    (claimed,) = await desk.claim()
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now)
    await desk.one(PromoteDue(now=desk.now))
    await desk.finish((await desk.claim())[0], "completed")
    desk.now += 1
    assert await forget(desk) == 2
    after = await desk.dump()
    apart = ("_events", "_last", "events", "sqlite_sequence", "sqlite_stat1", "sqlite_stat4")
    assert {k: v for k, v in after.items() if k not in apart} == {k: v for k, v in empty.items() if k not in apart}
    assert (await desk.insert(desk.row(kind="child", key="k", unique="u")))[0].existing is False
    assert await desk.store.job_logs(child.id) is None
    assert await desk.store.graph(parent.id, 10) is None


async def test_all_but_the_newest_of_a_queue_are_forgotten(desk: Any) -> None:
    ids = []
    for n in range(5):
        desk.now += 1
        ids.append(await ended(desk, queue="ab"[n == 2]))
    assert await forget(desk, queue="a", before=0, keep=2) == 2
    assert await left(desk) == ids[2:]
    assert await forget(desk, queue="a", before=0, keep=2) == 0
    assert await forget(desk, queue="a", before=desk.now + 1, keep=2) == 2  # what is too old goes, few or many
    assert await left(desk) == [ids[2]]


async def test_the_oldest_go_first_up_to_the_limit(desk: Any) -> None:
    ids = []
    for _ in range(5):
        desk.now += 1
        ids.append(await ended(desk))
    desk.now += 1
    assert await forget(desk, limit=2) == 2
    assert await left(desk) == ids[2:]
    assert await forget(desk, before=0, keep=1, limit=1) == 1
    assert await left(desk) == ids[3:]


async def test_every_queue_is_meant_but_those_that_have_a_word_of_their_own(desk: Any) -> None:
    ids = {}
    for name in ("a", "b", "c", "d"):
        desk.now += 1
        ids[name] = await ended(desk, queue=name)
    desk.now += 1
    assert await forget(desk, before=0, keep=1, without=("b",)) == 2  # a, c and d are counted together
    assert await left(desk) == [ids["b"], ids["d"]]
    assert await forget(desk, without=("b", "nothing")) == 1
    assert await left(desk) == [ids["b"]]


async def test_a_job_that_is_to_be_kept_is_kept_and_counted(desk: Any) -> None:
    kept = await ended(desk, tags=("keep", "x"))
    desk.now += 1
    first = await ended(desk)
    desk.now += 1
    second = await ended(desk, tags=("keeper",))
    assert await forget(desk, before=0, keep=2) == 0  # the oldest of the three is too many, but has to stay
    assert await forget(desk, before=0, keep=1) == 1
    assert await left(desk) == [kept, second]
    desk.now += 1
    assert await forget(desk) == 1
    assert await left(desk) == [kept]
    assert first not in await left(desk)


async def test_a_parent_stays_while_an_edge_to_it_is_open_or_broken(desk: Any) -> None:
    broken = await ended(desk, "failed", "permanent")
    (held,) = await desk.insert(desk.child(Edge(broken, "hold")))
    desk.now += 1
    assert await forget(desk, "failed") == 0
    await desk.resume(held.id)
    assert (await desk.view(held.id)).depends_on[0].state == "ignored"
    assert await desk.status(held.id) == ("pending", None)
    assert await forget(desk, "failed") == 0, "it may ask what became of it"
    await desk.cancel(held.id)
    assert await forget(desk, "failed") == 1
    assert (await desk.view(held.id)).depends_on == ()


async def test_a_parent_stays_while_a_child_may_want_its_result(desk: Any) -> None:
    parent, other = await ended(desk), await desk.add(queue="other")
    (child,) = await desk.insert(desk.child(parent, other))
    desk.now += 1
    assert await forget(desk) == 0
    assert [one.id for one in await desk.store.parents(child.id)] == [parent, other]
    await desk.cancel(child.id)
    assert await forget(desk) == 1


async def test_a_cancelled_dependant_keeps_its_parent_for_a_retry(desk: Any) -> None:
    parent = desk.row()
    child = desk.child(parent.id)
    await desk.insert(parent, child)
    (claimed,) = await desk.claim()
    await desk.finish(claimed, "failed", "permanent")
    desk.now += 1
    assert await forget(desk, "failed") == 0
    assert await forget(desk, "cancelled") == 1
    assert await forget(desk, "failed") == 1


async def test_a_whole_and_its_parts_stay_while_one_of_them_lives(desk: Any) -> None:
    whole = await desk.start(queue="whole")
    part = await ended(desk, parent=whole.id)
    desk.now += 1
    assert await forget(desk) == 0  # its whole has not ended
    late = await desk.add(parent=whole.id, execute_after=desk.now + 5)
    await desk.finish(whole, "completed")
    desk.now += 1
    assert await forget(desk, queue="whole") == 0  # a part of it has not ended
    await desk.cancel(late)
    assert await forget(desk, queue="whole") == 1
    view = await desk.view(part)
    assert view.parent is None
    assert await forget(desk) == 1


async def test_what_is_forgotten_is_told_as_a_move_to_nowhere(desk: Any) -> None:
    for _ in range(3):
        await ended(desk)
    desk.now += 1
    desk.heard.clear()
    assert await forget(desk) == 3
    assert [(move.before, move.after, move.jobs) for move in desk.heard] == [("completed", None, 3)]
