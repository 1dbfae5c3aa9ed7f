"""Batches: all of them or none, in an order in which each parent comes first; what the door refuses it says clearly."""

from typing import Any

import pytest

from runtime.errors import (
    BatchInvalid,
    JobCycle,
    PayloadTooLarge,
    QueueDraining,
    RequestInvalid,
    UnknownKind,
    UnknownParent,
    problem,
)
from runtime.store import port
from schemas.jobs import MAX_PAYLOAD, ChangeQueue, NewJob, Outcome

FAULT = problem("job.failed", "it broke")


def after(*refs: str, on_failure: str = "cancel") -> tuple[dict[str, Any], ...]:
    return tuple({"job": ref, "on_failure": on_failure} for ref in refs)


async def test_a_batch_runs_in_the_order_of_its_edges_whatever_order_it_came_in(stage: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        last, first, middle = await s.submit_many(
            {"depends_on": after("#b")}, {"ref": "a"}, {"ref": "b", "depends_on": after("#a")}
        )
        assert [await s.stands(job) for job in (first, middle, last)] == [
            ("active", None),
            ("waiting", "deps"),
            ("waiting", "deps"),
        ]
        for count in (1, 2, 3):
            await hand.ends(await hand.takes(count))
        assert hand.has == [first, middle, last]
        assert await s.counts() == await s.true_counts() == {"default": {"completed": 3}}


async def test_the_answer_has_the_order_of_the_question(stage: Any) -> None:
    async with stage() as s:
        ids = await s.submit_many(
            *(
                {"args": {"n": n}, "depends_on": after("#x") if n else ()} | ({} if n else {"ref": "x"})
                for n in (3, 0, 2, 1)
            )
        )
        assert [(await s.job(job)).payload for job in ids] == [{"n": n} for n in (3, 0, 2, 1)]


async def test_a_batch_is_one_commit(stage: Any) -> None:
    async with stage() as s:
        await s.submit_many(*({} for _ in range(500)))
        (change,) = s.disk.written(port.InsertJobs)
        assert (len(change.jobs), change.whole) == (500, True)
        assert await s.counts() == {"default": {"pending": 500}}


async def test_jobs_of_a_batch_may_wait_for_older_ones_and_be_parts_of_others(stage: Any) -> None:
    async with stage() as s:
        older = (await s.submit()).id
        whole, part = await s.submit_many({"ref": "whole"}, {"parent": "#whole", "depends_on": after(older)})
        view = await s.job(part)
        assert (view.parent, [edge.job for edge in view.depends_on]) == (whole, [older])


@pytest.mark.parametrize(
    ("jobs", "error", "says"),
    [
        (({"ref": "a", "depends_on": after("#b")}, {"ref": "b", "depends_on": after("#a")}), JobCycle, "a -> b -> a"),
        (({"ref": "a", "depends_on": after("#a")},), JobCycle, "a -> a"),
        (({"depends_on": after("#nobody")},), BatchInvalid, "job 0 names #nobody"),
        (({"ref": "a"}, {"ref": "a"}), BatchInvalid, "jobs 0 and 1"),
        (({"ref": "a"}, {"depends_on": after("#a", "#a")}), BatchInvalid, "job 1 names one job twice"),
        (({}, {"kind": "nothing"}), UnknownKind, "job 1 of the batch"),
        (({}, {"args": {"x": "x" * MAX_PAYLOAD}}), PayloadTooLarge, "job 1 of the batch"),
        (({}, {"kind": "sleep", "args": {"seconds": "x"}}), RequestInvalid, "job 1 of the batch"),
        (({}, {"depends_on": after("no-such-id")}), UnknownParent, "no-such-id"),
        (({}, {"parent": "no-such-id"}), UnknownParent, "no-such-id"),
    ],
    ids=["cycle", "self", "unknown ref", "ref twice", "edge twice", "kind", "size", "args", "parent", "whole"],
)
async def test_a_batch_with_one_mistake_is_refused_whole(stage: Any, jobs: Any, error: Any, says: str) -> None:
    async with stage() as s:
        with pytest.raises(error) as caught:
            await s.submit_many(*jobs)
        assert says in caught.value.detail
        assert await s.counts() == await s.true_counts() == {}


async def test_a_cycle_is_told_with_its_path(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises(JobCycle) as caught:
            await s.submit_many({}, *({"ref": f"j{n}", "depends_on": after(f"#j{(n + 1) % 4}")} for n in range(4)))
        assert sorted(caught.value.data["path"][:-1]) == ["j0", "j1", "j2", "j3"]


@pytest.mark.parametrize("field", ["depends_on", "parent"])
async def test_a_single_job_whose_parent_nobody_knows_is_refused_with_its_id(stage: Any, field: str) -> None:
    async with stage() as s:
        with pytest.raises(UnknownParent) as caught:
            await s.submit(**{field: after("gone") if field == "depends_on" else "gone"})
        assert caught.value.data["job"] == "gone"
        assert await s.true_counts() == {}


async def test_a_single_job_has_nobody_to_name_by_a_ref(stage: Any) -> None:
    async with stage() as s:
        with pytest.raises((UnknownParent, BatchInvalid, RequestInvalid)):
            await s.submit(depends_on=after("#a"))


async def test_one_bad_submit_spoils_no_other_of_the_same_commit(stage: Any) -> None:
    async with stage() as s:
        s.system.suspend("queue")
        import anyio

        told: list[str] = []

        async def good() -> None:
            told.append((await s.submit()).id)

        async def bad() -> None:
            with pytest.raises(UnknownParent):
                await s.submit(depends_on=after("gone"))
            told.append("refused")

        async with anyio.create_task_group() as tasks:
            for one in (good, bad, good):
                tasks.start_soon(one)
            await anyio.sleep(1)
            s.system.resume("queue")
        assert len(told) == 3
        assert await s.counts() == await s.true_counts() == {"default": {"pending": 2}}


@pytest.mark.parametrize(
    ("policy", "child"),
    [("cancel", ("cancelled", "dependency")), ("run", ("active", None)), ("hold", ("waiting", "deps"))],
)
async def test_a_parent_that_fails_is_dealt_with_as_the_edge_says(stage: Any, policy: str, child: Any) -> None:
    async with stage() as s:
        hand = await s.hand()
        _, waits = await s.submit_many({"ref": "a", "max_attempts": 1}, {"depends_on": after("#a", on_failure=policy)})
        await hand.ends(await hand.takes(1), Outcome(ok=False, error=FAULT, error_class="permanent"))
        assert await s.stands(waits) == child
        assert await s.counts() == await s.true_counts()


async def test_a_draining_queue_takes_nothing_new_and_runs_what_it_has(stage: Any) -> None:
    async with stage() as s:
        has = (await s.submit(queue="old")).id
        view = await s.ask(ChangeQueue(name="old", state="draining", by="ada"))
        assert (view.state, view.by, view.counts) == ("draining", "ada", {"pending": 1})
        for refused in (s.submit(queue="old"), s.submit_many({}, {"queue": "old"})):
            with pytest.raises(QueueDraining) as caught:
                await refused
            assert "ada" in caught.value.detail
        with pytest.raises(QueueDraining):  # an agent's step, a part of a job and a schedule come by the same door
            s.house.prepare(NewJob(kind="echo", queue="old"), "id", 0)
        hand = await s.hand()
        assert (await hand.takes(1)).id == has
        await s.ask(ChangeQueue(name="old", state="running"))
        await s.submit(queue="old")
        assert await s.counts() == await s.true_counts()
