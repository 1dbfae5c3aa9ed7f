"""What people ask about jobs they have: hold, let go on, signal, take back, one job or many at once."""

from typing import Any

import anyio
import pytest

from runtime.errors import JobNotFound, NotRetryable, PayloadTooLarge, SignalRefused, problem
from runtime.store import port
from schemas.jobs import (
    MAX_PAYLOAD,
    ActOnJobs,
    JobFilter,
    Outcome,
    PauseJob,
    ResumeJob,
    RetryJob,
    SignalJob,
)

FAULT = problem("job.failed", "it broke")
BROKEN = Outcome(ok=False, error=FAULT, error_class="permanent")


async def same_counts(s: Any) -> bool:
    return await s.counts() == await s.true_counts() and s.house.repairs == {}


# -- one job -----------------------------------------------------------------------------------------------------------


async def test_a_pending_job_is_held_until_it_is_let_go_on(stage: Any) -> None:
    async with stage() as s:
        job = (await s.submit()).id
        held = await s.ask(PauseJob(id=job))
        assert (held.outcome, held.status) == ("paused", "paused")
        hand = await s.hand()
        await anyio.sleep(60)
        assert hand.has == []
        assert (await s.ask(ResumeJob(id=job))).outcome == "resumed"
        assert (await hand.takes(1)).id == job
        assert await same_counts(s)


async def test_a_delayed_job_that_is_let_go_on_waits_for_its_time_again(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        began = s.house.clock.now()
        job = (await s.submit(delay_ms=60_000)).id
        await s.ask(PauseJob(id=job))
        await anyio.sleep(10)
        assert (await s.ask(ResumeJob(id=job))).status == "delayed"
        await hand.takes(1)
        assert s.house.clock.now() - began == 60_000


async def test_a_running_job_is_held_at_its_next_step(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        running = await hand.takes(1)
        assert (await s.ask(PauseJob(id=job))).outcome == "requested"
        await hand.ends(running, Outcome(ok=False, pause=True))
        assert await s.stands(job) == ("paused", "user")
        await s.ask(ResumeJob(id=job))
        assert (await hand.takes(2)).attempt == 1
        assert await same_counts(s)


async def test_a_job_that_has_ended_can_neither_be_held_nor_signalled(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        await hand.ends(await hand.takes(1))
        assert (await s.ask(PauseJob(id=job))).outcome == "too_late"
        with pytest.raises(SignalRefused) as caught:
            await s.ask(SignalJob(id=job, name="go"))
        assert caught.value.data["status"] == "completed"


@pytest.mark.parametrize("ask", [PauseJob, ResumeJob, RetryJob])
async def test_nobody_can_ask_anything_of_a_job_that_is_not_there(stage: Any, ask: Any) -> None:
    async with stage() as s:
        with pytest.raises(JobNotFound):
            await s.ask(ask(id="nobody"))
        with pytest.raises(JobNotFound):
            await s.ask(SignalJob(id="nobody", name="go"))


async def test_a_signal_wakes_the_job_that_waits_for_it_and_frees_no_seat_twice(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        await hand.ends(await hand.takes(1), Outcome(ok=False, waits="go"))
        assert await s.stands(job) == ("waiting", "signal")
        await s.ask(SignalJob(id=job, name="stop"))
        assert await s.stands(job) == ("waiting", "signal")
        assert (await s.ask(SignalJob(id=job, name="go", payload={"n": 1}))).status == "pending"
        again = await hand.takes(2)
        assert (again.id, again.attempt) == (job, 1)
        assert await same_counts(s)


async def test_a_payload_that_is_too_large_is_refused_at_the_door(stage: Any) -> None:
    async with stage() as s:
        job = (await s.submit()).id
        with pytest.raises(PayloadTooLarge):
            await s.ask(SignalJob(id=job, name="go", payload="x" * MAX_PAYLOAD))


async def test_a_wait_that_is_over_makes_the_job_run_again(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit()).id
        until = s.house.clock.now() + 90_000
        await hand.ends(await hand.takes(1), Outcome(ok=False, waits="go", wait_until=until))
        assert (await hand.takes(2)).id == job
        assert s.house.clock.now() == until
        assert await same_counts(s)


async def test_a_job_that_waits_for_its_parts_runs_again_when_the_last_has_ended(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        whole, *_ = await s.submit_many({"ref": "whole", "priority": 0}, {"parent": "#whole"}, {"parent": "#whole"})
        await hand.ends(await hand.takes(1), Outcome(ok=False, waits=""))
        assert await s.stands(whole) == ("waiting", "children")
        await hand.ends(await hand.takes(2))
        assert await s.stands(whole) == ("waiting", "children")
        await hand.ends(await hand.takes(3))
        assert (await hand.takes(4)).id == whole
        assert await same_counts(s)


async def test_a_retried_parent_takes_its_dependants_back_with_it(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        parent, child = await s.submit_many({"ref": "a"}, {"depends_on": ({"job": "#a"},)})
        await hand.ends(await hand.takes(1), BROKEN)
        assert await s.stands(child) == ("cancelled", "dependency")
        await s.ask(RetryJob(id=parent, dependants=True))
        assert await s.stands(child) == ("waiting", "deps")
        await hand.ends(await hand.takes(2))
        assert (await hand.takes(3)).id == child
        assert await same_counts(s)


async def test_a_job_whose_unique_word_another_holds_now_is_not_retried(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        job = (await s.submit(unique="word")).id
        await hand.ends(await hand.takes(1), BROKEN)
        await s.submit(unique="word")
        with pytest.raises(NotRetryable, match="unique word"):
            await s.ask(RetryJob(id=job))


# -- many jobs ---------------------------------------------------------------------------------------------------------


async def test_many_jobs_are_acted_on_in_chunks(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({"tags": ("old",)} for _ in range(1200)), *({} for _ in range(3)))
        acted = await s.ask(ActOnJobs(action="cancel", where=JobFilter(tag="old")))
        assert (acted.matched, acted.done, acted.left, acted.more) == (1200, 1200, {}, False)
        assert [len(change.ids) for change in s.disk.written(port.CancelJobs)] == [500, 500, 200]
        assert await s.counts() == await s.true_counts() == {"default": {"cancelled": 1200, "pending": 3}}


async def test_a_dry_run_only_counts(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({} for _ in range(7)))
        acted = await s.ask(ActOnJobs(action="cancel", where=JobFilter(status="pending"), dry_run=True))
        assert (acted.matched, acted.done, acted.more) == (7, 0, False)
        assert await s.counts() == {"default": {"pending": 7}}


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_limit_is_kept_and_told(stage: Any, dry_run: bool) -> None:
    async with stage() as s:
        await s.submit_many(*({} for _ in range(7)))
        acted = await s.ask(ActOnJobs(action="pause", limit=5, dry_run=dry_run))
        assert (acted.matched, acted.more) == (5, True)
        assert (await s.counts())["default"].get("paused", 0) == (0 if dry_run else 5)


async def test_what_could_not_be_changed_is_told_by_where_it_stands(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit_many({"priority": 0}, {"priority": 1}, {"delay_ms": 1000})
        await hand.ends(await hand.takes(1))
        await hand.takes(2)
        acted = await s.ask(ActOnJobs(action="cancel"))
        assert (acted.matched, acted.done, acted.left) == (3, 2, {"completed": 1})


async def test_the_dead_letter_is_taken_back_at_once(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit_many(*({"max_attempts": 1} for _ in range(3)))
        for count in range(1, 4):
            await hand.ends(await hand.takes(count), BROKEN)
        acted = await s.ask(ActOnJobs(action="retry", where=JobFilter(status="failed")))
        assert (acted.matched, acted.done) == (3, 3)
        for count in range(4, 7):
            await hand.ends(await hand.takes(count))
        assert await s.counts() == await s.true_counts() == {"default": {"completed": 3}}


async def test_the_queue_goes_on_while_many_are_acted_on(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        await s.submit_many(*({"queue": "old"} for _ in range(2000)))
        running = await hand.takes(1)
        s.disk.takes = 1.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.ask, ActOnJobs(action="cancel", where=JobFilter(queue="old", status="pending")))
            await anyio.sleep(0.5)
            began = s.house.clock.now()
            await hand.ends(running)
            assert s.house.clock.now() - began < 4_000
        s.disk.takes = 0.0
        assert await same_counts(s)


async def test_acting_on_many_is_refused_like_any_other_wish(stage: Any) -> None:
    async with stage() as s:
        await s.submit()
        from runtime.errors import StoreFull

        s.disk.refuses = StoreFull("no space left")
        with pytest.raises(StoreFull):
            await s.ask(ActOnJobs(action="cancel"))
