"""Every store: jobs that depend on others. How edges begin, are settled, cascade, and are opened again by a retry."""

from typing import Any

import pytest

from runtime.store.port import Edge, ExpireJobs, Finish, FinishJobs, InsertJobs, RecoverJobs

POLICIES = ("cancel", "run", "hold")
WAYS_TO_FAIL = (("failed", "permanent"), ("failed", "timeout"), ("cancelled", "user"))


async def edge(desk: Any, child: str) -> str:
    """Return how the only edge of a job stands."""
    (one,) = (await desk.view(child)).depends_on
    return one.state


async def end(desk: Any, job_id: str, status: Any, reason: str | None = None) -> None:
    """Claim one job, which is the only pending one, and end it so."""
    (claimed,) = await desk.claim()
    assert claimed.id == job_id
    await desk.finish(claimed, status, reason)


async def pair(desk: Any, policy: Any = "cancel", **fields: Any) -> tuple[str, str]:
    """Add a parent and a job that depends on it; return their ids."""
    parent, child = desk.row(), None
    child = desk.child(Edge(parent.id, policy), **fields)
    await desk.insert(parent, child)
    return parent.id, child.id


# -- born --------------------------------------------------------------------------------------------------------------


async def test_a_job_with_an_open_edge_waits_and_is_not_claimed(desk: Any) -> None:
    parent = desk.row()
    child = desk.child(parent.id)
    first, second = await desk.insert(parent, child)
    assert (first.status, second.status) == ("pending", "waiting")
    assert await desk.status(child.id) == ("waiting", "deps")
    assert [job.id for job in await desk.claim("w1", "w2")] == [parent.id]
    view = await desk.view(child.id)
    assert [(one.job, one.on_failure, one.state, one.status) for one in view.depends_on] == [
        (parent.id, "cancel", "open", "active")
    ]


async def test_a_job_may_depend_on_one_that_was_there_before(desk: Any) -> None:
    parent = await desk.add()
    (inserted,) = await desk.insert(desk.child(parent))
    assert inserted.status == "waiting"


async def test_edges_come_before_time(desk: Any) -> None:
    parent, child = await pair(desk, execute_after=desk.now + 100)
    assert await desk.status(child) == ("waiting", "deps")
    await end(desk, parent, "completed")
    assert await desk.status(child) == ("delayed", "scheduled")
    assert (await desk.view(child)).execute_after == desk.now + 100


async def test_a_parent_that_has_completed_satisfies_its_edge_at_once(desk: Any) -> None:
    parent = await desk.add()
    await end(desk, parent, "completed")
    now, later = await desk.insert(desk.child(parent), desk.child(parent, execute_after=desk.now + 5))
    assert (now.status, later.status) == ("pending", "delayed")
    assert [await edge(desk, one.id) for one in (now, later)] == ["satisfied", "satisfied"]


@pytest.mark.parametrize(("status", "reason"), WAYS_TO_FAIL)
async def test_a_parent_that_has_failed_has_the_policy_applied_at_once(desk: Any, status: Any, reason: str) -> None:
    parent = await desk.add()
    await end(desk, parent, status, reason)
    newest = await desk.newest()
    children = [desk.child(Edge(parent, policy)) for policy in POLICIES]
    inserted = await desk.insert(*children)
    assert [one.status for one in inserted] == ["cancelled", "pending", "waiting"]
    assert [await desk.status(child.id) for child in children] == [
        ("cancelled", "dependency"),
        ("pending", None),
        ("waiting", "deps"),
    ]
    assert [await edge(desk, child.id) for child in children] == ["broken", "ignored", "broken"]
    assert (await desk.view(children[0].id)).finished_at == desk.now
    assert await desk.told(after=newest) == [
        ("job.enqueued", children[0].id, {"status": "cancelled"}),
        ("job.cancelled", children[0].id, {"reason": "dependency"}),
        ("job.enqueued", children[1].id, {"status": "pending"}),
        ("job.enqueued", children[2].id, {"status": "waiting"}),
    ]


async def test_what_is_born_cancelled_cancels_what_depends_on_it_in_the_same_batch(desk: Any) -> None:
    parent = await desk.add()
    await end(desk, parent, "failed", "permanent")
    child = desk.child(parent)
    grandchild = desk.child(child.id)
    assert [one.status for one in await desk.insert(child, grandchild)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize("whole", [False, True])
async def test_an_unknown_parent_is_told_and_nothing_is_added(desk: Any, whole: bool) -> None:
    good, bad = desk.row(), desk.child("nobody")
    first, second = await desk.one(InsertJobs((good, bad), now=desk.now, whole=whole))
    assert (first.unknown, second.unknown) == (None, "nobody")
    assert await desk.store.job(bad.id) is None
    assert (await desk.store.job(good.id) is None) is whole


async def test_a_job_may_not_depend_on_one_that_comes_later_in_the_batch(desk: Any) -> None:
    later = desk.row()
    first, _ = await desk.insert(desk.child(later.id), later)
    assert first.unknown == later.id


async def test_nothing_is_added_of_a_whole_batch_where_one_is_refused(desk: Any) -> None:
    await desk.add(key="k", args={"n": 1})
    before = await desk.dump()
    rows = (desk.row(), desk.row(key="k", args={"n": 2}), desk.row(parent="nobody"))
    answers = await desk.one(InsertJobs(rows, now=desk.now, whole=True))
    assert [(one.conflict, one.unknown) for one in answers] == [(False, None), (True, None), (False, "nobody")]
    assert await desk.dump() == before
    assert len(desk.heard) == 1
    assert (await desk.start(queue="other")).seq == 2  # no number was used up


async def test_of_a_batch_that_is_not_whole_what_can_be_added_is(desk: Any) -> None:
    rows = (desk.row(), desk.row(parent="nobody"), desk.row())
    answers = await desk.insert(*rows)
    assert [one.unknown for one in answers] == [None, "nobody", None]
    assert len(await desk.store.jobs()) == 2


async def test_what_hangs_on_a_job_that_is_there_already_hangs_on_the_older_one(desk: Any) -> None:
    older = await desk.add(key="k", args={"n": 1})
    twin = await desk.add(unique="u")
    again, other = desk.row(key="k", args={"n": 1}), desk.row(unique="u")
    child, part = desk.child(again.id, other.id), desk.row(parent=again.id)
    answers = await desk.one(InsertJobs((again, other, child, part), now=desk.now, whole=True))
    assert [(one.id, one.existing, one.unknown) for one in answers] == [
        (older, True, None),
        (twin, True, None),
        (child.id, False, None),
        (part.id, False, None),
    ]
    assert {parent.id for parent in await desk.store.parents(child.id)} == {older, twin}
    assert (await desk.view(part.id)).parent == older


# -- settled -----------------------------------------------------------------------------------------------------------


async def test_the_last_parent_that_completes_releases_a_job(desk: Any) -> None:
    first, second = desk.row(priority=1), desk.row(priority=2)
    child = desk.child(first.id, second.id)
    await desk.insert(first, second, child)
    one, two = await desk.claim("w1", "w2")
    await desk.finish(one, "completed")
    assert await desk.status(child.id) == ("waiting", "deps")
    desk.now += 5
    newest = await desk.newest()
    await desk.finish(two, "completed")
    assert await desk.status(child.id) == ("pending", None)
    assert await desk.told(after=newest) == [("job.completed", second.id, {}), ("job.released", child.id, {})]
    assert [one.state for one in (await desk.view(child.id)).depends_on] == ["satisfied", "satisfied"]


async def test_a_released_job_is_ranked_from_its_release(desk: Any) -> None:
    parent, child = await pair(desk)
    (claimed,) = await desk.claim()
    desk.now += 5
    between = await desk.add()
    desk.now += 5
    await desk.finish(claimed, "completed")
    assert [job.id for job in await desk.claim("w1", "w2")] == [between, child]
    assert parent == claimed.id


async def test_an_end_releases_everybody_in_the_transaction_that_ends_it(desk: Any) -> None:
    parent, child = await pair(desk)
    (claimed,) = await desk.claim()
    ending = FinishJobs((Finish(claimed, "completed"),), now=desk.now)
    (finished,), (following,) = await desk.store.commit([ending, desk.claims("w1")])
    assert (finished.id, following.id) == (parent, child)


@pytest.mark.parametrize(("status", "reason"), WAYS_TO_FAIL)
@pytest.mark.parametrize(
    ("policy", "stands", "state"),
    [
        ("cancel", ("cancelled", "dependency"), "broken"),
        ("run", ("pending", None), "ignored"),
        ("hold", ("waiting", "deps"), "broken"),
    ],
)
async def test_a_parent_that_fails_has_the_policy_of_its_edge_applied(
    desk: Any, status: Any, reason: str, policy: Any, stands: Any, state: str
) -> None:
    parent, child = await pair(desk, policy)
    await end(desk, parent, status, reason)
    assert await desk.status(child) == stands
    assert await edge(desk, child) == state


@pytest.mark.parametrize("how", ["cancel", "deadline", "exhausted", "recovered"])
async def test_a_parent_may_fail_in_any_way(desk: Any, how: str) -> None:
    parent, child = await pair(desk)
    if how == "cancel":
        await desk.cancel(parent)
    elif how == "deadline":
        await desk.spoil(parent, deadline_at=desk.now)
        await desk.one(ExpireJobs(now=desk.now))
    else:
        (claimed,) = await desk.claim()
        if how == "recovered":
            await desk.cancel(parent)
            await desk.one(RecoverJobs(boot="boot-2", now=desk.now))
        else:
            await desk.finish(claimed, "failed", "exhausted")
    assert await desk.status(child) == ("cancelled", "dependency")


async def test_an_attempt_that_only_goes_back_settles_nothing(desk: Any) -> None:
    parent, child = await pair(desk)
    (claimed,) = await desk.claim()
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now + 1)
    assert await desk.status(child) == ("waiting", "deps")
    assert await edge(desk, child) == "open"
    assert claimed.id == parent


async def test_a_cancelled_graph_goes_to_its_last_descendant_with_an_event_each(desk: Any) -> None:
    root = desk.row()
    left, right = desk.child(root.id), desk.child(root.id)
    join = desk.child(left.id, right.id)
    spared = desk.child(Edge(join.id, "run"))
    await desk.insert(root, left, right, join, spared)
    newest = await desk.newest()
    await end(desk, root.id, "failed", "permanent")
    assert [await desk.status(row.id) for row in (left, right, join)] == [("cancelled", "dependency")] * 3
    assert await desk.status(spared.id) == ("pending", None)
    told = await desk.told(after=newest)
    gone = [("job.cancelled", row.id, {"reason": "dependency"}) for row in (left, right, join)]
    assert [event for event in told if event[0] == "job.cancelled"] == gone
    assert ("job.released", spared.id, {}) in told


async def test_a_long_chain_is_cancelled_to_its_end(desk: Any) -> None:
    rows = [desk.row()]
    for _ in range(300):
        rows.append(desk.child(rows[-1].id))  # each needs the one before
    await desk.insert(*rows)
    await desk.cancel(rows[0].id)
    assert await desk.store.counts(ended=False) == {}
    assert (await desk.status(rows[-1].id))[1] == "dependency"


async def test_one_parent_that_fails_is_enough(desk: Any) -> None:
    good, bad = desk.row(), desk.row()
    child = desk.child(good.id, bad.id)
    await desk.insert(good, bad, child)
    one, two = await desk.claim("w1", "w2")
    await desk.finish(one, "completed")
    await desk.finish(two, "failed", "permanent")
    assert await desk.status(child.id) == ("cancelled", "dependency")


async def test_a_held_job_goes_on_by_a_persons_word_alone(desk: Any) -> None:
    good, bad = desk.row(), desk.row()
    child = desk.child(Edge(good.id, "hold"), Edge(bad.id, "hold"))
    await desk.insert(good, bad, child)
    one, two = await desk.claim("w1", "w2")
    await desk.finish(two, "failed", "permanent")
    (early,) = await desk.resume(child.id)
    assert (early.outcome, early.status) == ("unchanged", "waiting")  # the other question is still open
    await desk.finish(one, "completed")
    assert await desk.status(child.id) == ("waiting", "deps")
    newest = await desk.newest()
    desk.now += 1
    (resumed,) = await desk.resume(child.id)
    assert (resumed.outcome, resumed.status) == ("resumed", "pending")
    assert [one.state for one in (await desk.view(child.id)).depends_on] == ["satisfied", "ignored"]
    assert await desk.told(after=newest) == [("job.resumed", child.id, {"status": "pending"})]


async def test_a_paused_dependant_is_cancelled_too_and_a_satisfied_one_stays_paused(desk: Any) -> None:
    parent, child = await pair(desk)
    await desk.pause(child)
    other, kept = await pair(desk)
    await desk.pause(kept)
    one, two = await desk.claim("w1", "w2")
    await desk.finish(one, "failed", "permanent")
    await desk.finish(two, "completed")
    assert await desk.status(child) == ("cancelled", "dependency")
    assert await desk.status(kept) == ("paused", "user")
    assert (await desk.resume(kept))[0].status == "pending"
    assert {one.id, two.id} == {parent, other}


async def test_what_is_cancelled_together_is_cancelled_by_its_person(desk: Any) -> None:
    parent, child = await pair(desk)
    results = await desk.cancel(parent, child)
    assert [result.outcome for result in results] == ["cancelled", "cancelled"]
    assert [await desk.status(job_id) for job_id in (parent, child)] == [("cancelled", "user")] * 2


async def test_a_dependant_that_was_cancelled_before_stays_as_it_is(desk: Any) -> None:
    parent, child = await pair(desk)
    await desk.cancel(child)
    before = await desk.view(child)
    desk.now += 1
    await end(desk, parent, "completed")
    after = await desk.view(child)
    assert (after.status, after.reason, after.updated_at) == ("cancelled", "user", before.updated_at)


# -- retried -----------------------------------------------------------------------------------------------------------


async def test_a_retried_parent_opens_the_edges_that_broke_over_it(desk: Any) -> None:
    parent, child = await pair(desk, "hold")
    await end(desk, parent, "failed", "permanent")
    (retried,) = await desk.retry(parent)
    assert retried.also == 0
    assert await edge(desk, child) == "open"
    await end(desk, parent, "completed")
    assert await desk.status(child) == ("pending", None)


async def test_dependants_that_were_cancelled_stay_so_unless_they_are_asked_for(desk: Any) -> None:
    parent, child = await pair(desk)
    await end(desk, parent, "failed", "permanent")
    await desk.retry(parent)
    assert await desk.status(child) == ("cancelled", "dependency")
    await end(desk, parent, "completed")
    assert await desk.status(child) == ("cancelled", "dependency")


async def test_a_retry_with_dependants_takes_all_of_them_back(desk: Any) -> None:
    root = desk.row()
    left, right = desk.child(root.id), desk.child(root.id)
    join = desk.child(left.id, right.id)
    await desk.insert(root, left, right, join)
    await end(desk, root.id, "failed", "permanent")
    newest = await desk.newest()
    desk.now += 5
    (retried,) = await desk.retry(root.id, dependants=True)
    assert (retried.before, retried.also) == ("failed", 3)
    assert [await desk.status(row.id) for row in (left, right, join)] == [("waiting", "deps")] * 3
    assert all(one.state == "open" for one in (await desk.view(join.id)).depends_on)
    told = await desk.told(after=newest)
    assert sorted(told) == sorted(("job.retried", row.id, {}) for row in (root, left, right, join))
    for row in (root, left, right, join):
        (claimed,) = await desk.claim()
        assert claimed.id == row.id
        await desk.finish(claimed, "completed")


async def test_a_dependant_that_a_person_cancelled_is_not_taken_back(desk: Any) -> None:
    parent, child = await pair(desk)
    await desk.cancel(parent, child)
    (retried,) = await desk.retry(parent, dependants=True)
    assert retried.also == 0
    assert await desk.status(child) == ("cancelled", "user")


async def test_what_is_retried_alone_goes_on_without_the_parents_that_failed(desk: Any) -> None:
    parent, child = await pair(desk)
    await end(desk, parent, "failed", "permanent")
    await desk.retry(child)
    assert await desk.status(child) == ("pending", None)
    assert await edge(desk, child) == "ignored"


async def test_a_parent_that_is_retried_with_its_child_is_waited_for(desk: Any) -> None:
    parent, child = await pair(desk)
    await end(desk, parent, "failed", "permanent")
    for ids in ((parent, child), (child, parent)):
        results = await desk.retry(*ids)
        assert [(one.before, one.also) for one in results] == [
            ("failed" if name == parent else "cancelled", 0) for name in ids
        ]
        assert await desk.status(child) == ("waiting", "deps")
        await end(desk, parent, "failed", "permanent")
    assert await desk.status(child) == ("cancelled", "dependency")


async def test_a_parent_that_has_not_ended_is_waited_for(desk: Any) -> None:
    parent, child = await pair(desk)
    await end(desk, parent, "failed", "permanent")
    await desk.retry(parent)
    await desk.retry(child)
    assert await desk.status(child) == ("waiting", "deps")
    await end(desk, parent, "completed")
    assert await desk.status(child) == ("pending", None)


async def test_a_job_that_is_named_twice_is_told_where_it_stands(desk: Any) -> None:
    parent, child = await pair(desk)
    await end(desk, parent, "failed", "permanent")
    first, _, second = await desk.retry(child, parent, child)
    assert (first.before, second) == ("cancelled", "waiting")


async def test_a_retried_graph_that_fails_again_is_cancelled_again(desk: Any) -> None:
    parent, child = await pair(desk)
    for _ in range(2):
        await end(desk, parent, "failed", "permanent")
        assert await desk.status(child) == ("cancelled", "dependency")
        await desk.retry(parent, dependants=True)
        assert await desk.status(child) == ("waiting", "deps")
