"""Every store: leases. Who is not heard of for too long has lost its job."""

from typing import Any

import pytest

from runtime.store.port import ExpireLeases, Heartbeat
from schemas.jobs import Lease

LEASE = 30_000


async def expire(desk: Any, boot: str | None = None) -> list[Any]:
    return list(await desk.one(ExpireLeases(boot or desk.boot, now=desk.now)))


async def beat(desk: Any, *silent: int) -> None:
    await desk.one(Heartbeat((), desk.boot, now=desk.now, lease_until=desk.now + LEASE, silent=silent))


async def test_what_is_beyond_its_lease_is_taken_back_with_the_attempt_counted(desk: Any) -> None:
    claimed = await desk.start()
    desk.now += LEASE
    assert await expire(desk) == []  # until its last millisecond it is not beyond it
    desk.now += 1
    newest = await desk.newest()
    (lost,) = await expire(desk)
    assert lost.lease == Lease(claimed.seq, claimed.id, 1, "w1", "boot-1")
    assert lost.status == "pending"
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.attempts, view.crashes, view.error) == ("pending", None, 1, 0, None)
    (attempt,) = view.history
    assert (attempt.outcome, attempt.ended_at) == ("lost", desk.now)
    assert attempt.error is not None
    assert await desk.told(after=newest) == [("job.lost", claimed.id, {"status": "pending"})]
    (again,) = await desk.claim()
    assert (again.epoch, again.attempt) == (2, 2)


async def test_the_last_attempt_that_is_lost_exhausts_its_job(desk: Any) -> None:
    claimed = await desk.start(max_attempts=1)
    child = await desk.insert(desk.child(claimed.id))
    desk.now += LEASE + 1
    newest = await desk.newest()
    (lost,) = await expire(desk)
    assert lost.status == "failed"
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.finished_at) == ("failed", "exhausted", desk.now)
    assert view.error is not None
    assert view.error == view.history[0].error
    assert await desk.told(after=newest) == [
        ("job.lost", claimed.id, {"status": "failed"}),
        ("job.failed", claimed.id, {"reason": "exhausted"}),
        ("job.cancelled", child[0].id, {"reason": "dependency"}),
    ]


async def test_a_lost_attempt_fulfils_the_wish_to_cancel(desk: Any) -> None:
    claimed = await desk.start(max_attempts=1)
    await desk.cancel(claimed.id)
    desk.now += LEASE + 1
    newest = await desk.newest()
    (lost,) = await expire(desk)
    assert lost.status == "cancelled"
    assert await desk.status(claimed.id) == ("cancelled", "user")
    assert await desk.told(after=newest) == [
        ("job.lost", claimed.id, {"status": "cancelled"}),
        ("job.cancelled", claimed.id, {"reason": "user"}),
    ]


async def test_a_heartbeat_renews_every_lease_of_its_boot_but_those_of_the_silent(desk: Any) -> None:
    heard, silent = await desk.start(queue="a"), await desk.start(queue="b")
    desk.boot = "boot-2"
    other = await desk.start(queue="c")
    desk.boot = "boot-1"
    desk.now += LEASE - 1
    await beat(desk, silent.seq)
    desk.now += 2
    assert [lost.lease.id for lost in await expire(desk)] == [silent.id]
    assert [lost.lease.id for lost in await expire(desk, "boot-2")] == [other.id]
    assert (await desk.status(heard.id))[0] == "active"
    desk.now += LEASE - 2
    assert await expire(desk) == []
    desk.now += 1
    assert [lost.lease.id for lost in await expire(desk)] == [heard.id]


async def test_leases_of_other_boots_are_left_to_recovery(desk: Any) -> None:
    claimed = await desk.start()
    desk.now += LEASE * 2
    assert await expire(desk, "boot-2") == []
    assert (await desk.status(claimed.id))[0] == "active"


async def test_a_job_that_lost_its_lease_takes_its_old_place(desk: Any) -> None:
    first = await desk.start()
    desk.now += 5
    second = await desk.add()
    desk.now += LEASE
    await expire(desk)
    assert [job.id for job in await desk.claim("w1", "w2")] == [first.id, second]


async def test_many_are_told_oldest_first(desk: Any) -> None:
    ids = [await desk.add(priority=900 - n) for n in range(5)]
    await desk.claim(*(f"w{n}" for n in range(5)))
    desk.now += LEASE + 1
    assert [lost.lease.id for lost in await expire(desk)] == ids


@pytest.mark.parametrize("suspect", [True, False])
async def test_a_lost_lease_says_nothing_about_suspicion(desk: Any, suspect: bool) -> None:
    from runtime.store.port import RecoverJobs

    row = desk.row(lane="agent", queue="agent:ada", user_code=True)
    await desk.start(row)
    if suspect:
        desk.boot = "boot-2"
        await desk.one(RecoverJobs(boot=desk.boot, now=desk.now))
        await desk.claim_talk()
    desk.now += LEASE + 1
    assert len(await expire(desk)) == 1
    assert await desk.store.suspects() == (((row.id, "agent:ada"),) if suspect else ())
