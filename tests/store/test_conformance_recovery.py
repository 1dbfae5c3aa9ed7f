"""Every store: what becomes of jobs whose owner died, and who is blamed."""

from typing import Any, NamedTuple

import pytest

from runtime.store.port import MAX_CRASHES, CancelJobs, Finish, FinishJobs, Heartbeat, RecoverJobs, RetryJobs


async def daemon_dies(desk: Any) -> tuple[Any, ...]:
    """Recover as the next boot does, and go on as that boot."""
    desk.boot = f"boot-{int(desk.boot.removeprefix('boot-')) + 1}"
    return await desk.one(RecoverJobs(boot=desk.boot, now=desk.now))


async def worker_dies(desk: Any, worker: str = "w1") -> tuple[Any, ...]:
    return await desk.one(RecoverJobs(boot=desk.boot, now=desk.now, worker=worker))


class Death(NamedTuple):
    """A row of the table of blame: who ran what and how often the daemon died before, and what is to become of it."""

    lane: str
    user_code: bool
    deaths: int
    suspect: bool
    crashes: int
    status: str = "pending"


BLAME = [
    # Our own code and what runs in a child are innocent of the daemon's death, however often it dies.
    Death("loop", user_code=False, deaths=5, suspect=False, crashes=0),
    Death("agent", user_code=False, deaths=5, suspect=False, crashes=0),
    Death("child", user_code=False, deaths=5, suspect=False, crashes=0),
    Death("child", user_code=True, deaths=5, suspect=False, crashes=0),
    # A suspect of lane loop is re-run in a child, so no further death is its doing.
    Death("loop", user_code=True, deaths=1, suspect=True, crashes=0),
    Death("loop", user_code=True, deaths=5, suspect=True, crashes=0),
    # A suspect turn runs alone: the first death only makes it one, each further one is its crash, and three are poison.
    Death("agent", user_code=True, deaths=1, suspect=True, crashes=0),
    Death("agent", user_code=True, deaths=2, suspect=True, crashes=1),
    Death("agent", user_code=True, deaths=MAX_CRASHES, suspect=True, crashes=MAX_CRASHES - 1),
    Death("agent", user_code=True, deaths=MAX_CRASHES + 1, suspect=True, crashes=MAX_CRASHES, status="failed"),
]


@pytest.mark.parametrize("case", BLAME, ids=lambda case: f"{case.lane}-{case.user_code}-{case.deaths}")
async def test_the_daemons_death_is_blamed_by_the_table(desk: Any, case: Death) -> None:
    row = desk.row(lane=case.lane, user_code=case.user_code, max_attempts=1)
    await desk.insert(row)
    for _ in range(case.deaths):
        assert len(await desk.claim(lane=case.lane)) == 1
        (recovered,) = await daemon_dies(desk)
    assert (recovered.id, recovered.queue, recovered.lane) == (row.id, "default", case.lane)
    assert (recovered.status, recovered.suspect) == (case.status, case.suspect)
    view = await desk.view(row.id)
    assert (view.status, view.crashes, view.attempts) == (case.status, case.crashes, 0)
    assert (view.reason, view.worker) == ("poison" if case.status == "failed" else None, "w1")
    if case.status == "pending":
        (claimed,) = await desk.claim(lane=case.lane)
        assert (claimed.suspect, claimed.crashes, claimed.epoch) == (case.suspect, case.crashes, case.deaths + 1)


@pytest.mark.parametrize("lane", ["loop", "child", "agent"])
async def test_a_workers_death_blames_nobody(desk: Any, lane: str) -> None:
    await desk.insert(desk.row(lane=lane, user_code=True))
    for _ in range(MAX_CRASHES + 1):
        await desk.claim("w1", lane=lane)
        (recovered,) = await worker_dies(desk)
        assert (recovered.status, recovered.suspect) == ("pending", False)
    assert (await desk.view(recovered.id)).crashes == 0


async def test_a_suspect_stays_one_when_its_worker_dies(desk: Any) -> None:
    await desk.insert(desk.row(lane="agent", user_code=True))
    await desk.claim(lane="agent")
    await daemon_dies(desk)
    await desk.claim(lane="agent")
    (recovered,) = await worker_dies(desk)
    assert (recovered.status, recovered.suspect) == ("pending", True)
    assert (await desk.view(recovered.id)).crashes == 0


async def test_only_what_other_boots_hold_is_taken_from_the_dead_daemon(desk: Any) -> None:
    old = await desk.start()
    desk.boot = "boot-9"
    mine = await desk.start()
    recovered = await desk.one(RecoverJobs(boot="boot-9", now=desk.now))
    assert [job.id for job in recovered] == [old.id]
    assert (await desk.view(mine.id)).status == "active"
    assert await desk.one(RecoverJobs(boot="boot-9", now=desk.now)) == ()


async def test_only_what_the_dead_worker_of_this_boot_holds_is_taken(desk: Any) -> None:
    foreign = await desk.start()
    desk.boot = "boot-2"
    ids = [await desk.add() for _ in range(3)]
    await desk.claim("w1", "w2", "w1")
    recovered = await worker_dies(desk, "w1")
    assert [job.id for job in recovered] == [ids[0], ids[2]]
    assert [(await desk.status(job_id))[0] for job_id in (foreign.id, ids[1])] == ["active", "active"]


async def test_a_wish_to_cancel_is_fulfilled_by_the_owners_death(desk: Any) -> None:
    claimed = await desk.start()
    await desk.one(CancelJobs((claimed.id,), now=desk.now))
    newest = await desk.newest()
    desk.now += 3
    (recovered,) = await daemon_dies(desk)
    assert recovered.status == "cancelled"
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.finished_at) == ("cancelled", "user", desk.now)
    assert await desk.told(after=newest) == [
        ("job.recovered", claimed.id, {"status": "cancelled", "suspect": False}),
        ("job.cancelled", claimed.id, {"reason": "user"}),
    ]


async def test_recovery_is_told_and_the_verdict_of_poison_too(desk: Any) -> None:
    await desk.insert(desk.row(lane="agent", user_code=True))
    for _ in range(MAX_CRASHES):
        await desk.claim(lane="agent")
        (recovered,) = await daemon_dies(desk)
    assert (await desk.told())[-1] == ("job.recovered", recovered.id, {"status": "pending", "suspect": True})
    await desk.claim(lane="agent")
    await daemon_dies(desk)
    assert (await desk.told())[-2:] == [
        ("job.recovered", recovered.id, {"status": "failed", "suspect": True}),
        ("job.failed", recovered.id, {"reason": "poison"}),
    ]


async def test_a_lost_attempt_is_remembered_as_lost(desk: Any) -> None:
    claimed = await desk.start()
    desk.now += 4
    await daemon_dies(desk)
    await desk.claim()
    first, second = (await desk.view(claimed.id)).history
    assert (first.outcome, first.ended_at, first.error) == ("lost", desk.now, None)
    assert (second.epoch, second.attempt, second.outcome) == (2, 1, None)


async def test_a_recovered_job_takes_its_old_place(desk: Any) -> None:
    first = await desk.start()
    desk.now += 5
    second = await desk.add()
    desk.now += 5
    await daemon_dies(desk)
    assert [job.id for job in await desk.claim("w1", "w2")] == [first.id, second]


async def test_many_orphans_are_recovered_oldest_first(desk: Any) -> None:
    ids = [await desk.add(priority=900 - n) for n in range(20)]
    await desk.claim(*(f"w{n}" for n in range(20)))
    assert [job.id for job in await daemon_dies(desk)] == ids


# -- suspects ----------------------------------------------------------------------------------------------------------


async def make_suspect(desk: Any, **fields: Any) -> Any:
    """Insert a job, let the daemon die while it runs, and claim it again."""
    row = desk.row(**({"lane": "agent", "queue": "agent:ada", "user_code": True} | fields))
    await desk.start(row)
    await daemon_dies(desk)
    (claimed,) = await desk.claim(queue=row.queue, lane=row.lane)
    assert claimed.suspect is True
    return claimed


async def test_suspects_on_agents_queues_are_listed_until_they_have_ended(desk: Any) -> None:
    first = await make_suspect(desk)
    second = await make_suspect(desk, queue="agent:bob")
    in_loop = await make_suspect(desk, lane="loop", queue="default")
    assert await desk.store.suspects() == ((first.id, "agent:ada"), (second.id, "agent:bob"))
    await desk.one(RecoverJobs(boot="none", now=desk.now))
    await desk.one(CancelJobs((first.id,), now=desk.now))
    assert await desk.store.suspects() == ((second.id, "agent:bob"),)
    assert (await desk.view(in_loop.id)).status == "pending"


@pytest.mark.parametrize(("status", "reason"), [("delayed", "retry"), ("pending", None)])
async def test_an_attempt_that_came_to_its_own_end_clears_its_job(desk: Any, status: Any, reason: Any) -> None:
    claimed = await make_suspect(desk)
    await desk.finish(claimed, status, reason, execute_after=desk.now + 1)
    assert await desk.store.suspects() == ()


@pytest.mark.parametrize("how", ["crash", "refund"])
async def test_a_suspect_whose_attempt_crashed_or_did_not_count_stays_one(desk: Any, how: str) -> None:
    claimed = await make_suspect(desk)
    await desk.one(FinishJobs((Finish(claimed, "pending", **{how: True}),), now=desk.now))
    assert await desk.store.suspects() == ((claimed.id, claimed.queue),)


async def test_a_suspect_of_the_loop_whose_child_crashed_does_not_return_to_the_loop(desk: Any) -> None:
    claimed = await make_suspect(desk, lane="loop", queue="default")
    await desk.finish(claimed, "pending", crash=True)
    (again,) = await desk.claim()
    assert (again.suspect, again.crashes) == (True, 1)


async def test_a_retry_by_hand_clears_the_suspicion(desk: Any) -> None:
    claimed = await make_suspect(desk)
    await desk.finish(claimed, "failed", "permanent")
    await desk.one(RetryJobs((claimed.id,), now=desk.now))
    assert await desk.store.suspects() == ()


async def test_a_heartbeat_changes_no_ownership(desk: Any) -> None:
    claimed = await desk.start()
    await desk.one(Heartbeat((("w1", "busy"),), boot=desk.boot, now=desk.now + 5, lease_until=desk.now + 99))
    assert (await desk.finish(claimed, "completed")).status == "completed"
