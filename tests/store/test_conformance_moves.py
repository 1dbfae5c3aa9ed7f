"""Every store: whatever moves jobs is told, so that whoever keeps counts misses none."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from runtime.errors import VersionConflict
from runtime.store.port import (
    CancelJobs,
    DeleteEnded,
    Finish,
    FinishJobs,
    InsertJobs,
    Move,
    PromoteDue,
    PutSetting,
    RecoverJobs,
    SaveState,
)

CONFLICT = SaveState("zoe", "{}", 1, expected=9, boot="b", incarnation=1, now=1)


async def heard(desk: Any, *changes: Any) -> list[Move]:
    """Commit changes; return the moves that were told of them, in any order."""
    desk.heard.clear()
    await desk.store.commit(list(changes))
    return sorted(desk.heard, key=repr)


async def test_what_is_new_comes_from_nowhere_and_what_is_alike_is_one_move(desk: Any) -> None:
    rows = [desk.row(), desk.row(), desk.row(lane="child"), desk.row(execute_after=desk.now + 5)]
    rows += [desk.row(execute_after=desk.now + 3), desk.child(rows[0].id), desk.row(deadline_at=desk.now + 7)]
    assert await heard(desk, InsertJobs(tuple(rows), now=desk.now)) == sorted(
        [
            Move("default", "loop", None, "pending", 3, desk.now + 7),
            Move("default", "child", None, "pending", 1),
            Move("default", "loop", None, "delayed", 2, desk.now + 3),
            Move("default", "loop", None, "waiting", 1),
        ],
        key=repr,
    )


async def test_moves_of_one_commit_are_told_together_though_a_job_moved_twice(desk: Any) -> None:
    row = desk.row()
    moves = await heard(desk, InsertJobs((row,), now=desk.now), desk.claims("w1"))
    assert moves == [Move("default", "loop", "pending", "active", 1), Move("default", "loop", None, "pending", 1)]


async def test_the_whole_life_of_a_job_is_told(desk: Any) -> None:
    await desk.add(limit_key="k")
    parked = await desk.add(limit_key="k")
    (claimed,) = await desk.claim("w1", "w2")
    assert set(desk.heard[-2:]) == {
        Move("default", "loop", "pending", "active", 1),
        Move("default", "loop", "pending", "waiting", 1),
    }
    delayed = Finish(claimed, "delayed", "retry", execute_after=desk.now + 9)
    assert await heard(desk, FinishJobs((delayed,), now=desk.now)) == [
        Move("default", "loop", "active", "delayed", 1, desk.now + 9),
        Move("default", "loop", "waiting", "pending", 1),
    ]
    desk.now += 9
    assert await heard(desk, PromoteDue(now=desk.now)) == [Move("default", "loop", "delayed", "pending", 1)]
    (again,) = await desk.claim("w1")
    assert again.id == parked
    assert await heard(desk, RecoverJobs(boot="boot-2", now=desk.now)) == [
        Move("default", "loop", "active", "pending", 1)
    ]
    assert await heard(desk, CancelJobs((parked,), now=desk.now)) == [
        Move("default", "loop", "pending", "cancelled", 1)
    ]
    desk.now += 1
    assert await heard(desk, DeleteEnded("cancelled", None, before=desk.now, keep=None)) == [
        Move("default", "loop", "cancelled", None, 1)
    ]


async def test_the_end_of_a_wait_is_a_time_to_look_again(desk: Any) -> None:
    claimed = await desk.start(deadline_at=desk.now + 50)
    end = Finish(claimed, "waiting", "signal", waits="go", wait_until=desk.now + 20)
    (move,) = await heard(desk, FinishJobs((end,), now=desk.now))
    assert move == Move("default", "loop", "active", "waiting", 1, desk.now + 20)
    desk.heard.clear()
    await desk.signal(claimed.id, "go")
    assert desk.heard == [Move("default", "loop", "waiting", "pending", 1, desk.now + 50)]


async def test_what_a_cascade_moves_is_told_too(desk: Any) -> None:
    rows = [desk.row(queue="a")]
    rows += [desk.child(rows[0].id, queue="b"), desk.child(rows[0].id, queue="b")]
    await desk.insert(*rows)
    assert await heard(desk, CancelJobs((rows[0].id,), now=desk.now)) == [
        Move("a", "loop", "pending", "cancelled", 1),
        Move("b", "loop", "waiting", "cancelled", 2),
    ]


async def test_a_commit_that_moves_nobody_tells_nobody(desk: Any) -> None:
    claimed = await desk.start()
    assert await heard(desk, PutSetting("a", "1"), CancelJobs((claimed.id,), now=desk.now)) == []
    held = await desk.add()
    await desk.pause(held)
    desk.heard.clear()
    await desk.pause(held)
    assert desk.heard == []


async def test_a_job_that_changes_hands_while_it_is_held_has_not_moved(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "paused", "hold")
    desk.heard.clear()
    await desk.pause(claimed.id)
    assert desk.heard == []


async def test_what_was_taken_back_is_not_told(desk: Any) -> None:
    with pytest.raises(VersionConflict):
        await desk.store.commit([InsertJobs((desk.row(), desk.row()), now=desk.now), desk.claims("w1"), CONFLICT])
    assert desk.heard == []
    await desk.add()
    assert desk.heard == [Move("default", "loop", None, "pending", 1)]


async def test_a_neighbour_that_fails_takes_no_move_away(desk: Any) -> None:
    async def fail() -> None:
        with pytest.raises(VersionConflict):
            await desk.store.commit([InsertJobs((desk.row(queue="lost"),), now=desk.now), CONFLICT])

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(desk.add)
            tasks.start_soon(fail)
    assert desk.tally == {("default", "loop", "pending"): 8}


async def test_moves_are_told_before_the_commit_returns(desk: Any) -> None:
    order: list[str] = []
    desk.store.watch(lambda moves: order.append("told"))
    desk.store.watch(lambda moves: order.append(f"and {sum(move.jobs for move in moves)}"))
    await desk.add()
    order.append("returned")
    assert order == ["told", "and 1", "returned"]


async def test_a_watcher_finds_committed_what_it_is_told_of(desk: Any) -> None:
    found: list[Any] = []
    news = anyio.Event()

    def look(moves: Sequence[Move]) -> None:
        news.set()

    desk.store.watch(look)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.add)
        with anyio.fail_after(5):
            await news.wait()
        found.append(await desk.store.counts(ended=False))
    assert found == [{("default", "loop", "pending"): 1}]
