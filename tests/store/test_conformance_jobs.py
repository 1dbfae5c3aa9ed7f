"""Every store: how jobs come in, are told apart by key, come due, are shown, listed and counted."""

import json
from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.port import AGING_MS, CancelJobs, InsertJobs, PromoteDue
from schemas.jobs import JobFilter


async def test_a_due_job_is_pending_and_shown_whole(desk: Any) -> None:
    row = desk.row(
        args={"b": 1, "a": [None, "ü"]},
        data={"ticket": 7},
        key="k",
        priority=3,
        max_attempts=5,
        timeout_ms=900,
        conversation="main",
    )
    (inserted,) = await desk.insert(row)
    assert (inserted.id, inserted.status, inserted.existing, inserted.conflict) == (row.id, "pending", False, False)
    view = await desk.view(row.id)
    assert view.model_dump(exclude_defaults=True) == {
        "id": row.id,
        "name": "resize",
        "queue": "default",
        "status": "pending",
        "reason": None,
        "priority": 3,
        "attempts": 0,
        "max_attempts": 5,
        "payload": {"a": [None, "ü"], "b": 1},
        "data": {"ticket": 7},
        "key": "k",
        "conversation": "main",
        "timeout_ms": 900,
        "created_at": desk.now,
        "updated_at": desk.now,
        "execute_after": desk.now,
    }


async def test_a_job_for_later_is_delayed_until_then(desk: Any) -> None:
    (inserted,) = await desk.insert(desk.row(execute_after=desk.now + 1))
    assert inserted.status == "delayed"
    assert await desk.status(inserted.id) == ("delayed", "scheduled")
    assert (await desk.view(inserted.id)).execute_after == desk.now + 1
    assert await desk.claim() == ()


async def test_a_job_due_in_the_past_became_eligible_when_it_came(desk: Any) -> None:
    job_id = await desk.add(execute_after=desk.now - 5)
    assert await desk.status(job_id) == ("pending", None)
    assert (await desk.view(job_id)).execute_after == desk.now


async def test_inserts_answer_in_their_order(desk: Any) -> None:
    rows = [desk.row(), desk.row(execute_after=desk.now + 9), desk.row()]
    inserted = await desk.insert(*rows)
    assert [(answer.id, answer.status) for answer in inserted] == [
        (rows[0].id, "pending"),
        (rows[1].id, "delayed"),
        (rows[2].id, "pending"),
    ]


async def test_no_jobs_are_inserted_without_a_word(desk: Any) -> None:
    assert not await desk.insert()
    assert await desk.told() == []


async def test_a_known_key_with_the_same_arguments_answers_the_older_job(desk: Any) -> None:
    older = await desk.add(key="k", args={"n": 1})
    (again,) = await desk.insert(desk.row(key="k", args={"n": 1}))
    assert (again.id, again.status, again.existing, again.conflict) == (older, "pending", True, False)
    assert len(await desk.store.jobs()) == 1
    assert [kind for kind, _, _ in await desk.told()] == ["job.enqueued"]


async def test_a_known_key_answers_where_the_older_job_stands_now(desk: Any) -> None:
    claimed = await desk.start(key="k")
    await desk.finish(claimed, "completed")
    (again,) = await desk.insert(desk.row(key="k"))
    assert (again.id, again.status, again.existing) == (claimed.id, "completed", True)


async def test_a_known_key_with_other_arguments_is_a_conflict_and_adds_nothing(desk: Any) -> None:
    older = await desk.add(key="k", args={"n": 1})
    (again,) = await desk.insert(desk.row(key="k", args={"n": 2}))
    assert (again.id, again.existing, again.conflict) == (older, False, True)
    assert (await desk.view(older)).payload == {"n": 1}
    assert len(await desk.store.jobs()) == 1


async def test_a_key_is_unique_per_kind_only(desk: Any) -> None:
    answers = await desk.insert(desk.row(key="k", kind="resize"), desk.row(key="k", kind="crop"))
    assert [answer.existing or answer.conflict for answer in answers] == [False, False]


async def test_two_jobs_of_one_insert_meet_by_their_key(desk: Any) -> None:
    first, second, third = await desk.insert(
        desk.row(key="k"), desk.row(key="k"), desk.row(key="k", args={"other": True})
    )
    assert (second.id, second.existing) == (first.id, True)
    assert (third.id, third.conflict) == (first.id, True)
    assert len(await desk.store.jobs()) == 1


async def test_jobs_without_a_key_never_meet(desk: Any) -> None:
    answers = await desk.insert(desk.row(), desk.row())
    assert answers[0].id != answers[1].id
    assert len(await desk.store.jobs()) == 2


async def test_an_id_is_taken_once(desk: Any) -> None:
    job_id = await desk.add()
    before = await desk.everything()
    with pytest.raises(StoreError):
        await desk.insert(desk.row(), desk.row(id=job_id))
    assert await desk.everything() == before


async def test_arguments_that_are_no_json_are_refused(desk: Any) -> None:
    before = await desk.everything()
    row = desk.row()
    with pytest.raises(StoreError):
        await desk.insert(desk.row(), type(row)(id="x", kind="k", queue="q", lane="loop", args="{no"))
    assert await desk.everything() == before


# -- a unique word -----------------------------------------------------------------------------------------------------


async def test_a_word_that_a_living_job_holds_answers_that_job(desk: Any) -> None:
    older = await desk.add(unique="u", args={"n": 1})
    (again,) = await desk.insert(desk.row(unique="u", args={"n": 2}))
    assert (again.id, again.status, again.existing, again.conflict) == (older, "pending", True, False)
    assert len(await desk.store.jobs()) == 1
    other_kind, none = await desk.insert(desk.row(unique="u", kind="crop"), desk.row())
    assert (other_kind.existing, none.existing) == (False, False)


async def test_two_jobs_of_one_insert_meet_by_their_word(desk: Any) -> None:
    first, second = await desk.insert(desk.row(unique="u"), desk.row(unique="u"))
    assert (second.id, second.existing) == (first.id, True)


@pytest.mark.parametrize(("status", "reason"), [("completed", None), ("failed", "permanent"), ("cancelled", "user")])
async def test_a_word_is_free_when_its_job_has_ended(desk: Any, status: Any, reason: Any) -> None:
    claimed = await desk.start(unique="u")
    assert (await desk.insert(desk.row(unique="u")))[0].status == "active"
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now)
    await desk.one(PromoteDue(now=desk.now))
    (claimed,) = await desk.claim()
    await desk.finish(claimed, status, reason)
    (fresh,) = await desk.insert(desk.row(unique="u"))
    assert (fresh.existing, fresh.status) == (False, "pending")


async def test_a_job_that_is_born_cancelled_holds_no_word(desk: Any) -> None:
    parent = await desk.start()
    await desk.finish(parent, "failed", "permanent")
    first, second = await desk.insert(desk.child(parent.id, unique="u"), desk.row(kind="child", unique="u"))
    assert (first.status, second.status, second.existing) == ("cancelled", "pending", False)


async def test_the_key_is_asked_before_the_word_and_both_before_parents(desk: Any) -> None:
    older = await desk.add(key="k", unique="u")
    answers = await desk.insert(desk.row(key="k", unique="u", args={"n": 9}), desk.row(unique="u", parent="nobody"))
    assert [(one.id, one.conflict, one.existing, one.unknown) for one in answers] == [
        (older, True, False, None),
        (older, False, True, None),
    ]


async def test_a_whole_batch_may_meet_older_jobs(desk: Any) -> None:
    older = await desk.add(unique="u")
    rows = (desk.row(unique="u"), desk.row())
    first, second = await desk.one(InsertJobs(rows, now=desk.now, whole=True))
    assert (first.id, first.existing, second.existing) == (older, True, False)
    assert len(await desk.store.jobs()) == 2


async def test_a_part_may_be_added_by_the_attempt_of_its_whole(desk: Any) -> None:
    whole = await desk.start()
    part = desk.row(parent=whole.id)
    (inserted,) = await desk.one(InsertJobs((part,), now=desk.now, fence=whole))
    assert inserted.status == "pending"
    assert (await desk.view(part.id)).parent == whole.id


# -- coming due --------------------------------------------------------------------------------------------------------


async def test_the_next_due_time_is_that_of_the_first_delayed_job(desk: Any) -> None:
    assert await desk.store.next_due() is None
    await desk.add(execute_after=desk.now + 500)
    sooner = await desk.add(execute_after=desk.now + 200)
    await desk.add()
    assert await desk.store.next_due() == desk.now + 200
    await desk.one(CancelJobs((sooner,), now=desk.now))
    assert await desk.store.next_due() == desk.now + 500


async def test_promotion_wakes_what_is_due_and_nothing_else(desk: Any) -> None:
    due = [await desk.add(execute_after=desk.now + 100, queue=queue) for queue in ("a", "b", "a")]
    later = await desk.add(execute_after=desk.now + 101)
    desk.now += 100
    woken = await desk.one(PromoteDue(now=desk.now))
    assert sorted(woken) == [("a", "loop", 2), ("b", "loop", 1)]
    assert [await desk.status(job_id) for job_id in due] == [("pending", None)] * 3
    assert await desk.status(later) == ("delayed", "scheduled")
    assert await desk.one(PromoteDue(now=desk.now)) == ()


async def test_promotion_takes_the_oldest_first_up_to_its_limit(desk: Any) -> None:
    late = await desk.add(execute_after=desk.now + 30)
    early = await desk.add(execute_after=desk.now + 10)
    middle = await desk.add(execute_after=desk.now + 20)
    desk.now += 1000
    assert await desk.one(PromoteDue(now=desk.now, limit=2)) == (("default", "loop", 2),)
    assert [(await desk.status(job))[0] for job in (early, middle, late)] == ["pending", "pending", "delayed"]


async def test_promotion_is_no_event(desk: Any) -> None:
    await desk.add(execute_after=desk.now + 1)
    newest = await desk.newest()
    desk.now += 1
    await desk.one(PromoteDue(now=desk.now))
    assert await desk.told(after=newest) == []


async def test_a_promoted_job_ranks_by_its_due_time_not_by_when_it_was_woken(desk: Any) -> None:
    due_early = await desk.add(execute_after=desk.now + 10)
    desk.now += 20
    came_later = await desk.add()
    desk.now += 1000
    await desk.one(PromoteDue(now=desk.now))
    assert [job.id for job in await desk.claim("w1", "w2")] == [due_early, came_later]


async def test_a_delayed_job_keeps_its_priority(desk: Any) -> None:
    plain = await desk.add(execute_after=desk.now + 10, priority=100)
    urgent = await desk.add(execute_after=desk.now + 10 + AGING_MS - 1, priority=99)
    desk.now += AGING_MS * 2
    await desk.one(PromoteDue(now=desk.now))
    assert [job.id for job in await desk.claim("w1", "w2")] == [urgent, plain]


# -- what is shown -----------------------------------------------------------------------------------------------------


async def test_an_unknown_job_is_none(desk: Any) -> None:
    assert await desk.store.job("nobody") is None
    assert await desk.store.job_logs("nobody") is None


async def test_jobs_are_listed_newest_first_without_what_is_wide(desk: Any, problem: str) -> None:
    claimed = await desk.start(args={"n": 1}, data={"t": 1})
    await desk.finish(claimed, "completed", result=json.dumps({"big": True}))
    second = await desk.add(args={"n": 2})
    newer, older = await desk.store.jobs()
    assert (newer.id, older.id) == (second, claimed.id)
    assert (older.payload, older.result, older.history) == (None, None, ())
    assert (older.status, older.attempts, older.finished_at) == ("completed", 1, desk.now)


async def test_jobs_are_filtered_by_status_queue_and_kind_together(desk: Any) -> None:
    a = await desk.add(queue="a", kind="x")
    b = await desk.add(queue="b", kind="x")
    c = await desk.add(queue="a", kind="y", execute_after=desk.now + 1)

    async def ids(**filters: Any) -> list[str]:
        return [view.id for view in await desk.store.jobs(JobFilter(**filters))]

    assert await ids() == [c, b, a]
    assert await ids(queue="a") == [c, a]
    assert await ids(kind="x") == [b, a]
    assert await ids(status="delayed") == [c]
    assert await ids(queue="a", kind="x", status="pending") == [a]
    assert await ids(queue="a", status="active") == []


async def test_jobs_are_paged_by_the_last_id_that_was_seen(desk: Any) -> None:
    ids = [await desk.add(queue="ab"[n % 2]) for n in range(7)]
    seen: list[str] = []
    while page := await desk.store.jobs(before=seen[-1] if seen else None, limit=3):
        assert len(page) <= 3
        seen += [view.id for view in page]
    assert seen == ids[::-1]
    assert [view.id for view in await desk.store.jobs(JobFilter(queue="b"), before=ids[4])] == [ids[3], ids[1]]


async def test_jobs_are_counted_by_queue_lane_and_status(desk: Any) -> None:
    ended = await desk.start(queue="a")
    await desk.finish(ended, "failed", "permanent")
    await desk.add(queue="a")
    await desk.add(queue="a")
    await desk.add(queue="a", lane="child")
    await desk.add(queue="b", execute_after=desk.now + 1)
    assert await desk.store.counts(ended=False) == {
        ("a", "loop", "pending"): 2,
        ("a", "child", "pending"): 1,
        ("b", "loop", "delayed"): 1,
    }
    assert await desk.store.counts(ended=True) == {("a", "loop", "failed"): 1}


async def test_an_empty_store_counts_nothing(desk: Any) -> None:
    assert await desk.store.counts(ended=False) == {}
    assert await desk.store.counts(ended=True) == {}
    assert await desk.store.jobs() == ()


async def test_enqueued_is_told_with_queue_kind_and_status(desk: Any) -> None:
    row = desk.row(queue="q", kind="crop", execute_after=desk.now + 1)
    await desk.one(InsertJobs((row,), now=desk.now))
    (event,) = await desk.store.events(after=0)
    assert (event.type, event.subject, event.at) == ("job.enqueued", row.id, desk.now)
    assert event.data == {"queue": "q", "kind": "crop", "status": "delayed"}
