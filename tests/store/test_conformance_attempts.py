"""Every store: how an attempt ends, what becomes of its job, and what it writes while it runs."""

import json
from dataclasses import replace
from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.memory import attempts
from runtime.store.port import (
    MAX_CRASHES,
    AppendLogs,
    CancelJobs,
    Finish,
    FinishJobs,
    PromoteDue,
    RecordProcess,
    SaveProgress,
)
from runtime.store.sqlite import finishes
from schemas.jobs import MAX_LOG_LINES, MOVES, REASONS

ENDINGS = [
    ("completed", None, "job.completed", {}),
    ("failed", "exhausted", "job.failed", {"reason": "exhausted"}),
    ("failed", "timeout", "job.failed", {"reason": "timeout"}),
    ("cancelled", "user", "job.cancelled", {"reason": "user"}),
    ("delayed", "retry", "job.delayed", {"reason": "retry"}),
    ("delayed", "rate_limit", "job.delayed", {"reason": "rate_limit"}),
    ("pending", None, "job.requeued", {}),
    ("paused", "hold", "job.held", {"reason": "hold"}),
]


@pytest.mark.parametrize(("status", "reason", "event", "facts"), ENDINGS)
async def test_an_attempt_ends_as_its_owner_says(
    desk: Any, status: Any, reason: str | None, event: str, facts: dict[str, Any]
) -> None:
    claimed = await desk.start()
    desk.now += 7
    due = desk.now + 100 if status == "delayed" else None
    newest = await desk.newest()
    finished = await desk.finish(claimed, status, reason, execute_after=due)
    assert (finished.id, finished.queue, finished.lane) == (claimed.id, "default", "loop")
    assert (finished.status, finished.reason) == (status, reason)
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.worker, view.updated_at) == (status, reason, "w1", desk.now)
    assert view.finished_at == (desk.now if status in ("completed", "failed", "cancelled") else None)
    assert view.execute_after == (due or desk.now - 7)
    if due is not None:
        assert finished.execute_after == due
        facts = facts | {"execute_after": due}
    assert await desk.told(after=newest) == [(event, claimed.id, facts)]


async def test_a_result_is_kept_as_json(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "completed", result=json.dumps({"text": "ja", "n": None}))
    assert (await desk.view(claimed.id)).result == {"text": "ja", "n": None}


async def test_an_error_is_kept_with_the_job_and_its_attempt(desk: Any, problem: str) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "failed", "permanent", error=problem)
    view = await desk.view(claimed.id)
    assert view.error is not None
    assert view.error.code == "job.failed"
    assert view.history[0].error == view.error


async def test_a_completed_job_shows_no_error_of_an_earlier_attempt(desk: Any, problem: str) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "pending", error=problem)
    assert (await desk.view(claimed.id)).error is not None
    (again,) = await desk.claim()
    await desk.finish(again, "completed")
    view = await desk.view(claimed.id)
    assert view.error is None
    assert view.history[0].error is not None


async def test_a_job_shows_the_words_of_its_last_attempt_only(desk: Any, problem: str) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "pending", error=problem)
    (again,) = await desk.claim()
    await desk.finish(again, "pending", refund=True)
    view = await desk.view(claimed.id)
    assert view.error is None
    assert [attempt.error is not None for attempt in view.history] == [True, False]


async def test_a_delayed_attempt_without_a_time_is_due_at_once(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "delayed", "snooze", refund=True)
    assert await desk.one(PromoteDue(now=desk.now)) == (("default", "loop", 1),)


async def test_a_waiting_job_is_counted_among_the_living(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "waiting", "signal")
    assert await desk.status(claimed.id) == ("waiting", "signal")
    assert await desk.store.counts(ended=False) == {("default", "loop", "waiting"): 1}


async def test_a_refunded_attempt_does_not_count(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "pending", refund=True)
    assert (await desk.view(claimed.id)).attempts == 0
    (again,) = await desk.claim()
    await desk.finish(again, "pending")
    assert (await desk.view(claimed.id)).attempts == 1


async def test_the_start_is_that_of_the_first_attempt(desk: Any) -> None:
    claimed = await desk.start()
    began = desk.now
    await desk.finish(claimed, "pending")
    desk.now += 50
    await desk.claim()
    assert (await desk.view(claimed.id)).started_at == began


async def test_the_history_tells_each_attempt_by_its_epoch(desk: Any, problem: str) -> None:
    claimed = await desk.start()
    began = desk.now
    desk.now += 1
    await desk.finish(claimed, "delayed", "retry", error=problem, execute_after=desk.now)
    await desk.one(PromoteDue(now=desk.now))
    (second,) = await desk.claim("w2")
    await desk.finish(second, "pending", refund=True)
    (third,) = await desk.claim("w3")
    await desk.finish(third, "pending", crash=True)
    (fourth,) = await desk.claim("w4")
    await desk.finish(fourth, "paused", "hold", refund=True)
    history = (await desk.view(claimed.id)).history
    assert [(one.epoch, one.attempt, one.worker, one.outcome) for one in history] == [
        (1, 1, "w1", "retry"),
        (2, 2, "w2", "requeued"),
        (3, 2, "w3", "crashed"),
        (4, 3, "w4", "held"),
    ]
    assert (history[0].started_at, history[0].ended_at) == (began, began + 1)
    assert [one.error is not None for one in history] == [True, False, False, False]


async def test_an_attempt_that_runs_has_no_end_yet(desk: Any) -> None:
    claimed = await desk.start()
    (attempt,) = (await desk.view(claimed.id)).history
    assert (attempt.ended_at, attempt.outcome) == (None, None)


async def test_finishes_answer_in_their_order_with_none_for_lost_fences(desk: Any) -> None:
    ids = [await desk.add() for _ in range(3)]
    first, second, third = await desk.claim("w1", "w2", "w3")
    stale = replace(second, epoch=second.epoch + 1)
    ends = tuple(Finish(fence, "completed") for fence in (third, stale, first))
    answers = await desk.one(FinishJobs(ends, now=desk.now))
    assert [answer and answer.id for answer in answers] == [ids[2], None, ids[0]]
    assert (await desk.status(ids[1]))[0] == "active"


async def test_a_job_is_completed_once_even_in_one_batch(desk: Any) -> None:
    claimed = await desk.start()
    twice = (Finish(claimed, "completed", result="1"), Finish(claimed, "completed", result="2"))
    first, second = await desk.one(FinishJobs(twice, now=desk.now))
    assert (first.status, second) == ("completed", None)
    assert (await desk.view(claimed.id)).result == 1


async def test_a_lost_fence_takes_nothing_from_the_owner_in_the_same_batch(desk: Any) -> None:
    claimed = await desk.start()
    ends = (Finish(replace(claimed, worker="zombie"), "failed", "permanent"), Finish(claimed, "completed"))
    lost, owned = await desk.one(FinishJobs(ends, now=desk.now))
    assert (lost, owned and owned.status) == (None, "completed")


# -- crashes -----------------------------------------------------------------------------------------------------------


async def test_the_third_crash_is_poison_whatever_was_asked_for(desk: Any) -> None:
    await desk.add(max_attempts=100)
    seen = []
    for _ in range(MAX_CRASHES):
        (claimed,) = await desk.claim()
        assert claimed.crashes == len(seen)
        finished = await desk.finish(claimed, "pending", crash=True)
        seen.append((finished.status, finished.reason))
    assert seen == [("pending", None)] * (MAX_CRASHES - 1) + [("failed", "poison")]
    view = await desk.view(claimed.id)
    assert (view.crashes, view.status, view.finished_at) == (MAX_CRASHES, "failed", desk.now)
    assert (await desk.told())[-1] == ("job.failed", claimed.id, {"reason": "poison"})


async def test_failures_and_crashes_are_counted_apart(desk: Any) -> None:
    await desk.add()
    for crash in (True, False, True, False, False):
        (claimed,) = await desk.claim()
        await desk.finish(claimed, "pending", crash=crash, refund=crash)
    view = await desk.view(claimed.id)
    assert (view.crashes, view.attempts, view.status) == (2, 3, "pending")


async def test_what_completed_and_crashed_afterwards_is_completed_and_the_crash_counts(desk: Any) -> None:
    claimed = await desk.start()
    finished = await desk.finish(claimed, "completed", crash=True)
    assert (finished.status, finished.reason) == ("completed", None)
    view = await desk.view(claimed.id)
    assert (view.status, view.crashes, view.history[0].outcome) == ("completed", 1, "completed")


# -- snoozes -----------------------------------------------------------------------------------------------------------


async def snooze(desk: Any, claimed: Any, **more: Any) -> Any:
    return await desk.finish(claimed, "delayed", "snooze", refund=True, execute_after=desk.now, **more)


async def test_a_snooze_is_counted_and_one_too_many_is_a_failure_for_good(
    desk: Any, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    for module in (attempts, finishes):
        monkeypatch.setattr(module, "MAX_SNOOZES", 3)
    claimed = await desk.start()
    for n in range(3):
        assert claimed.snoozes == n
        assert (await snooze(desk, claimed)).status == "delayed"
        assert (await desk.view(claimed.id)).snoozes == n + 1
        await desk.one(PromoteDue(now=desk.now))
        (claimed,) = await desk.claim()
    finished = await snooze(desk, claimed)
    assert (finished.status, finished.reason) == ("failed", "permanent")
    view = await desk.view(claimed.id)
    assert (view.status, view.snoozes, view.attempts) == ("failed", 3, 0)
    assert view.error is not None
    assert view.error == view.history[-1].error
    assert [attempt.outcome for attempt in view.history] == ["snooze"] * 3 + ["failed"]
    await desk.retry(claimed.id)
    assert (await desk.view(claimed.id)).snoozes == 0


async def test_other_delays_are_no_snoozes(desk: Any) -> None:
    claimed = await desk.start()
    await desk.finish(claimed, "delayed", "retry", execute_after=desk.now)
    assert (await desk.view(claimed.id)).snoozes == 0


# -- a wish to cancel --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "reason"), [pair[:2] for pair in ENDINGS if pair[0] != "completed"])
async def test_any_end_but_success_gives_way_to_a_wish_to_cancel(desk: Any, status: Any, reason: str | None) -> None:
    claimed = await desk.start()
    await desk.one(CancelJobs((claimed.id,), now=desk.now))
    finished = await desk.finish(claimed, status, reason, execute_after=desk.now + 1)
    assert (finished.status, finished.reason) == ("cancelled", "user")
    view = await desk.view(claimed.id)
    assert (view.status, view.reason, view.finished_at) == ("cancelled", "user", desk.now)
    assert (await desk.told())[-1] == ("job.cancelled", claimed.id, {"reason": "user"})


async def test_what_finished_before_it_was_stopped_stays_completed(desk: Any) -> None:
    claimed = await desk.start()
    await desk.one(CancelJobs((claimed.id,), now=desk.now))
    finished = await desk.finish(claimed, "completed", result='"done"')
    assert (finished.status, finished.reason) == ("completed", None)
    assert (await desk.view(claimed.id)).result == "done"


async def test_a_wish_to_cancel_comes_before_the_verdict_of_poison(desk: Any) -> None:
    await desk.add()
    for _ in range(MAX_CRASHES - 1):
        await desk.finish((await desk.claim())[0], "pending", crash=True)
    (claimed,) = await desk.claim()
    await desk.one(CancelJobs((claimed.id,), now=desk.now))
    finished = await desk.finish(claimed, "pending", crash=True)
    assert (finished.status, finished.reason) == ("cancelled", "user")


# -- moves -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(MOVES))
async def test_an_attempt_moves_its_job_only_as_the_table_says(desk: Any, status: Any) -> None:
    claimed = await desk.start()
    before = await desk.everything()
    reason = REASONS.get(status, (None,))[0]
    if status in MOVES["active"]:
        assert (await desk.finish(claimed, status, reason, execute_after=desk.now)).status == status
    else:
        with pytest.raises(StoreError):
            await desk.finish(claimed, status, reason)
        assert await desk.everything() == before


@pytest.mark.parametrize("status", sorted(REASONS))
async def test_a_status_takes_only_its_own_reasons(desk: Any, status: Any) -> None:
    claimed = await desk.start()
    before = await desk.everything()
    for wrong in (None, "whim"):
        with pytest.raises(StoreError):
            await desk.finish(claimed, status, wrong, execute_after=desk.now)
    assert await desk.everything() == before


# -- progress, processes, logs -----------------------------------------------------------------------------------------


async def test_progress_is_kept_as_json_and_the_last_word_counts(desk: Any) -> None:
    claimed = await desk.start()
    assert await desk.one(SaveProgress(claimed, '{"done": 1}', now=desk.now)) is True
    assert await desk.one(SaveProgress(claimed, '{"done": 2}', now=desk.now)) is True
    assert (await desk.view(claimed.id)).progress == {"done": 2}


async def test_processes_of_other_boots_are_told_while_their_attempts_are_active(desk: Any) -> None:
    first, second, bare = await desk.start(queue="a"), await desk.start(queue="b"), await desk.start(queue="c")
    await desk.one(RecordProcess(first, pgid=70, started=1234))
    await desk.one(RecordProcess(second, pgid=71, started=1235))
    assert await desk.store.processes("boot-1") == ()
    found = {(row.job, row.pgid, row.started) for row in await desk.store.processes("boot-2")}
    assert found == {(first.id, 70, 1234), (second.id, 71, 1235)}
    await desk.finish(first, "pending")
    assert [row.job for row in await desk.store.processes("boot-2")] == [second.id]
    await desk.claim(queue="a")
    assert [row.job for row in await desk.store.processes("boot-2")] == [second.id]
    assert (await desk.view(bare.id)).status == "active"


async def log(desk: Any, claimed: Any, *texts: str) -> bool:
    return await desk.one(AppendLogs(claimed, tuple((desk.now, "info", text) for text in texts)))


async def test_lines_are_numbered_from_one_within_their_job(desk: Any) -> None:
    claimed, other = await desk.start(queue="a"), await desk.start(queue="b")
    assert await log(desk, claimed, "one", "two") is True
    await log(desk, other, "apart")
    await log(desk, claimed, "three")
    lines = await desk.store.job_logs(claimed.id)
    assert [(line.n, line.at, line.level, line.text) for line in lines] == [
        (1, desk.now, "info", "one"),
        (2, desk.now, "info", "two"),
        (3, desk.now, "info", "three"),
    ]
    assert [line.text for line in await desk.store.job_logs(other.id)] == ["apart"]


async def test_numbering_goes_on_in_the_next_attempt(desk: Any) -> None:
    claimed = await desk.start()
    await log(desk, claimed, "first try")
    await desk.finish(claimed, "pending")
    (again,) = await desk.claim()
    await log(desk, again, "second try")
    assert [(line.n, line.text) for line in await desk.store.job_logs(claimed.id)] == [
        (1, "first try"),
        (2, "second try"),
    ]


async def test_lines_are_read_past_a_number_up_to_a_limit_or_from_the_end(desk: Any) -> None:
    claimed = await desk.start()
    assert await desk.store.job_logs(claimed.id) == ()
    await log(desk, claimed, *(str(n) for n in range(1, 11)))

    async def numbers(**which: int) -> list[int]:
        return [line.n for line in await desk.store.job_logs(claimed.id, **which)]

    assert await numbers(after=7) == [8, 9, 10]
    assert await numbers(after=2, limit=3) == [3, 4, 5]
    assert await numbers(tail=2) == [9, 10]
    assert await numbers(tail=99) == list(range(1, 11))
    assert await numbers(tail=5, limit=1) == [6, 7, 8, 9, 10]
    assert await numbers(tail=5, after=8) == [9, 10]
    assert await numbers(after=10) == []


async def test_the_oldest_lines_go_when_a_job_wrote_too_many(desk: Any) -> None:
    claimed = await desk.start()
    await log(desk, claimed, *(["x"] * (MAX_LOG_LINES - 1)))
    await log(desk, claimed, "y", "z", "!")
    lines = await desk.store.job_logs(claimed.id, limit=MAX_LOG_LINES * 2)
    assert (lines[0].n, lines[-1].n, len(lines)) == (3, MAX_LOG_LINES + 2, MAX_LOG_LINES)
    assert [line.text for line in lines[-3:]] == ["y", "z", "!"]
    assert [line.n for line in await desk.store.job_logs(claimed.id, limit=2)] == [3, 4]


async def test_one_flood_of_lines_leaves_its_last_ones(desk: Any) -> None:
    claimed = await desk.start()
    await log(desk, claimed, *(str(n) for n in range(1, MAX_LOG_LINES + 6)))
    lines = await desk.store.job_logs(claimed.id, limit=MAX_LOG_LINES * 2)
    assert (lines[0].n, lines[0].text, len(lines)) == (6, "6", MAX_LOG_LINES)
