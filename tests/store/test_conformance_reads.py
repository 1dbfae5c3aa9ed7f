"""Every store: what is read of jobs. Filters, the dead letter, how jobs hang together, and why one is not moving."""

import json
from typing import Any

import pytest

from runtime.store.port import ChildResult, Edge, InsertJobs, ParentResult, Tidied, WhyFacts
from schemas.jobs import GraphEdge, JobFilter


async def ids(desk: Any, **where: Any) -> list[str]:
    return [view.id for view in await desk.store.jobs(JobFilter(**where))]


async def test_a_job_is_shown_with_all_that_was_asked_for(desk: Any) -> None:
    parent, whole = await desk.add(queue="p"), await desk.start(queue="w")
    row = desk.child(
        Edge(parent, "hold"),
        parent=whole.id,
        unique="u",
        tags=("b", "a", "b"),
        limit_key="k",
        limit_max=4,
        tokens=9,
        deadline_at=desk.now + 9,
        heartbeat_ms=500,
        timeout_ms=7,
        priority=5,
    )
    await desk.insert(row)
    view = await desk.view(row.id)
    assert (view.unique, view.tags, view.parent, view.limit_key, view.limit_max) == ("u", ("a", "b"), whole.id, "k", 4)
    assert (view.tokens, view.deadline_at, view.heartbeat_ms, view.timeout_ms) == (9, desk.now + 9, 500, 7)
    (edge,) = view.depends_on
    assert (edge.job, edge.on_failure, edge.state, edge.status) == (parent, "hold", "open", "pending")


async def test_a_claim_tells_what_running_takes(desk: Any) -> None:
    whole = await desk.start(queue="w")
    row = desk.row(parent=whole.id, limit_key="k", tokens=3, deadline_at=desk.now + 9, heartbeat_ms=500)
    claimed = await desk.start(row)
    assert (claimed.parent, claimed.limit_key, claimed.tokens) == (whole.seq, "k", 3)
    assert (claimed.deadline_at, claimed.heartbeat_ms, claimed.snoozes) == (desk.now + 9, 500, 0)


async def test_the_edges_of_a_job_are_shown_in_the_order_of_their_ids(desk: Any) -> None:
    first, second = await desk.add(), await desk.add()
    (child,) = await desk.insert(desk.child(second, first))
    assert [edge.job for edge in (await desk.view(child.id)).depends_on] == [first, second]


async def test_jobs_are_found_by_whatever_a_filter_names(desk: Any) -> None:
    whole = await desk.start(queue="w", kind="whole")
    tagged = await desk.add(tags=("red", "blue"), kind="a")
    part = await desk.add(parent=whole.id, tags=("red",), kind="b")
    limited = await desk.add(limit_key="k")
    (held,) = await desk.insert(desk.child(tagged))
    await desk.finish(whole, "waiting", "signal", waits="go")
    await desk.pause(part)
    assert await ids(desk, tag="red") == [part, tagged]
    assert await ids(desk, tag="blue") == [tagged]
    assert await ids(desk, tag="re") == []
    assert await ids(desk, parent=whole.id) == [part]
    assert await ids(desk, parent="nobody") == []
    assert await ids(desk, limit_key="k") == [limited]
    assert await ids(desk, reason="user") == [part]
    assert await ids(desk, status="waiting") == [held.id, whole.id]
    assert await ids(desk, status="waiting", reason="deps") == [held.id]
    assert await ids(desk, kind="b", tag="red", status="paused", queue="default") == [part]
    assert await ids(desk, kind="a", tag="red", status="paused") == []


async def test_jobs_of_every_status_are_found_by_it(desk: Any, problem: str) -> None:
    made = {"active": (await desk.start(queue="a")).id, "delayed": await desk.add(execute_after=desk.now + 1)}
    for status, reason in (("completed", None), ("failed", "timeout"), ("cancelled", "user"), ("paused", "hold")):
        claimed = await desk.start(queue=status)
        await desk.finish(claimed, status, reason)
        made[status] = claimed.id
    made["waiting"] = (await desk.insert(desk.child(made["active"])))[0].id
    made["pending"] = await desk.add()
    for status, job_id in made.items():
        assert await ids(desk, status=status) == [job_id]
    assert await ids(desk, status="failed", reason="permanent") == []


async def test_the_dead_letter_is_read_with_errors_and_attempts(desk: Any, problem: str) -> None:
    claimed = await desk.start(args={"n": 1})
    await desk.begin(claimed, "step")
    await desk.finish(claimed, "failed", "permanent", error=problem)
    (plain,) = await desk.store.jobs(JobFilter(status="failed"))
    assert (plain.error, plain.history) == (None, ())
    (told,) = await desk.store.jobs(JobFilter(status="failed"), errors=True)
    whole = await desk.view(claimed.id)
    assert (told.error, told.history) == (whole.error, whole.history)
    assert told.error is not None
    assert (told.payload, told.steps) == (None, ())


# -- how jobs hang together --------------------------------------------------------------------------------------------


async def test_parents_are_told_with_what_became_of_them(desk: Any, problem: str) -> None:
    done, failed, open_ = desk.row(priority=1), desk.row(priority=2, kind="crop"), desk.row(priority=3)
    child = desk.child(open_.id, Edge(failed.id, "run"), done.id)
    await desk.insert(done, failed, open_, child)
    one, two = await desk.claim("w1", "w2")
    await desk.finish(one, "completed", result="[1]")
    await desk.finish(two, "failed", "permanent", error=problem)
    assert await desk.store.parents(child.id) == (
        ParentResult(done.id, "resize", "completed", "satisfied", "[1]", None),
        ParentResult(failed.id, "crop", "failed", "ignored", None, problem),
        ParentResult(open_.id, "resize", "pending", "open", None, None),
    )
    assert await desk.store.parents(done.id) == await desk.store.parents("nobody") == ()


async def test_parts_are_told_with_what_became_of_them(desk: Any) -> None:
    whole = await desk.start(queue="whole")
    first = await desk.add(parent=whole.id)
    second = await desk.add(parent=whole.id, kind="crop")
    await desk.finish((await desk.claim())[0], "completed", result='"x"')
    assert await desk.store.children(whole.id) == (
        ChildResult(first, "resize", "completed", '"x"', None),
        ChildResult(second, "crop", "pending", None, None),
    )
    assert await desk.store.children(first) == await desk.store.children("nobody") == ()


async def test_a_graph_has_all_that_hangs_together_nearest_first(desk: Any) -> None:
    top, middle = desk.row(), desk.row(kind="crop")
    middle.depends_on = (Edge(top.id),)
    low = desk.child(Edge(middle.id, "hold"))
    part = desk.row(parent=middle.id)
    apart = desk.row()
    await desk.insert(top, middle, low, part, apart)
    view = await desk.store.graph(low.id, 10)
    assert [node.id for node in view.nodes][:2] == [low.id, middle.id]
    assert {node.id for node in view.nodes} == {top.id, middle.id, low.id, part.id}
    assert {(node.kind, node.status, node.reason) for node in view.nodes} == {
        ("resize", "pending", None),
        ("crop", "waiting", "deps"),
        ("child", "waiting", "deps"),
    }
    assert set(view.edges) == {
        GraphEdge(parent=top.id, child=middle.id),
        GraphEdge(parent=middle.id, child=low.id, on_failure="hold"),
        GraphEdge(parent=middle.id, child=part.id, relation="part"),
    }
    assert view.cut is False
    assert {node.id for node in (await desk.store.graph(part.id, 10)).nodes} == {node.id for node in view.nodes}
    alone = await desk.store.graph(apart.id, 1)
    assert ([node.id for node in alone.nodes], alone.edges, alone.cut) == ([apart.id], (), False)
    assert await desk.store.graph("nobody", 10) is None


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_a_graph_that_is_too_large_is_cut_where_it_is_farthest(desk: Any, limit: int) -> None:
    rows = [desk.row()]
    for _ in range(3):
        rows.append(desk.child(rows[-1].id))  # each needs the one before
    await desk.insert(*rows)
    view = await desk.store.graph(rows[0].id, limit)
    assert [node.id for node in view.nodes] == [row.id for row in rows][:limit]
    assert len(view.edges) == min(limit, 4) - 1
    assert view.cut is (limit < 4)


# -- why ---------------------------------------------------------------------------------------------------------------


async def test_the_facts_of_a_job_that_waits_its_turn(desk: Any) -> None:
    await desk.add(queue="other")
    await desk.add(lane="child")
    first, second = await desk.add(), await desk.add()
    urgent = await desk.add(priority=0)
    for job_id, ahead in ((urgent, 0), (first, 1), (second, 2)):
        assert await desk.store.why(job_id) == WhyFacts(await desk.view(job_id), ahead, ())
    assert await desk.store.why("nobody") is None


async def test_only_what_is_pending_has_others_ahead(desk: Any) -> None:
    await desk.add()
    later = await desk.add(execute_after=desk.now + 1)
    assert (await desk.store.why(later)).ahead == 0


async def test_who_runs_of_its_key_is_told(desk: Any) -> None:
    ids = [await desk.add(limit_key="k", limit_max=2) for _ in range(3)]
    await desk.claim("w1", "w2", "w3")
    assert [(await desk.store.why(job_id)).key_active for job_id in ids] == [tuple(ids[:2])] * 3


async def test_those_ahead_are_counted_up_to_a_thousand(desk: Any) -> None:
    rows = tuple(desk.row() for _ in range(1_003))
    await desk.one(InsertJobs(rows, now=desk.now))
    assert (await desk.store.why(rows[999].id)).ahead == 999
    assert (await desk.store.why(rows[-1].id)).ahead == 1_000


async def test_tidying_up_changes_nothing_that_is_kept(desk: Any) -> None:
    await desk.add(args={"text": "x" * 10_000})
    before = await desk.everything()
    tidied = await desk.store.tidy(10)
    assert isinstance(tidied, Tidied)
    assert min(tidied.freed, tidied.free, tidied.wal_bytes) >= 0
    assert await desk.everything() == before


async def test_all_is_there_after_closing_and_opening(desk: Any) -> None:
    claimed = await desk.start(tags=("t",), unique="u", data={"n": 1})
    await desk.begin(claimed, "step")
    await desk.done(claimed, "step", json.dumps(1))
    await desk.insert(desk.child(claimed.id))
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    assert (await desk.finish(claimed, "completed")).status == "completed"
