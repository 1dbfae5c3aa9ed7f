"""Every store: workers, agents with their states and conversations, and settings."""

from dataclasses import replace
from typing import Any

import pytest

from runtime.errors import StoreError, VersionConflict
from runtime.store.port import (
    AgentRow,
    AppendMessages,
    Heartbeat,
    PutAgent,
    PutSetting,
    PutWorkers,
    RemoveWorkers,
    SaveState,
    StateRow,
    WorkerRow,
)

DAY_MS = 86_400_000


@pytest.fixture
def worker(desk: Any) -> WorkerRow:
    return WorkerRow("w1", None, "loop", "idle", desk.boot, 4711, created_at=desk.now, last_heartbeat_at=desk.now)


# -- workers -----------------------------------------------------------------------------------------------------------


async def test_workers_are_kept_and_replaced_whole(desk: Any, worker: WorkerRow) -> None:
    served = replace(worker, id="w2", agent="ada", lane="agent")
    await desk.one(PutWorkers((worker, served), boot=desk.boot, now=desk.now))
    assert set(await desk.store.workers()) == {worker, served}
    changed = replace(worker, status="error", pid=1, created_at=desk.now + 1)
    await desk.one(PutWorkers((changed,), boot=desk.boot, now=desk.now))
    assert set(await desk.store.workers()) == {changed, served}


async def test_workers_of_other_boots_go_offline(desk: Any, worker: WorkerRow) -> None:
    await desk.one(PutWorkers((worker,), boot=desk.boot, now=desk.now))
    mine = replace(worker, id="w2", boot="boot-2", status="busy")
    await desk.one(PutWorkers((mine,), boot="boot-2", now=desk.now))
    assert set(await desk.store.workers()) == {replace(worker, status="offline"), mine}


async def test_a_worker_that_came_back_belongs_to_its_new_boot(desk: Any, worker: WorkerRow) -> None:
    await desk.one(PutWorkers((worker,), boot=desk.boot, now=desk.now))
    again = replace(worker, boot="boot-2")
    await desk.one(PutWorkers((again,), boot="boot-2", now=desk.now))
    assert await desk.store.workers() == (again,)


async def test_offline_workers_are_forgotten_after_a_day(desk: Any, worker: WorkerRow) -> None:
    await desk.one(PutWorkers((worker,), boot=desk.boot, now=desk.now))
    await desk.one(PutWorkers((), boot="boot-2", now=desk.now + DAY_MS))
    assert [one.status for one in await desk.store.workers()] == ["offline"]
    await desk.one(PutWorkers((), boot="boot-2", now=desk.now + DAY_MS + 1))
    assert await desk.store.workers() == ()


async def test_a_living_worker_is_never_forgotten(desk: Any, worker: WorkerRow) -> None:
    await desk.one(PutWorkers((worker,), boot=desk.boot, now=desk.now))
    await desk.one(PutWorkers((), boot=desk.boot, now=desk.now + 9 * DAY_MS))
    assert await desk.store.workers() == (worker,)


async def test_a_heartbeat_notes_time_and_status_of_this_boots_workers(desk: Any, worker: WorkerRow) -> None:
    foreign = replace(worker, id="w2", boot="boot-0", status="offline")
    await desk.one(PutWorkers((worker, foreign), boot=desk.boot, now=desk.now))
    beats = (("w1", "busy"), ("w2", "busy"), ("nobody", "busy"))
    await desk.one(Heartbeat(beats, boot=desk.boot, now=desk.now + 5, lease_until=desk.now + 30_005))
    assert set(await desk.store.workers()) == {replace(worker, status="busy", last_heartbeat_at=desk.now + 5), foreign}


async def test_workers_out_of_service_are_forgotten(desk: Any, worker: WorkerRow) -> None:
    await desk.one(PutWorkers((worker, replace(worker, id="w2")), boot=desk.boot, now=desk.now))
    await desk.one(RemoveWorkers(("w1", "nobody")))
    assert [one.id for one in await desk.store.workers()] == ["w2"]


# -- agents ------------------------------------------------------------------------------------------------------------


async def test_what_an_agent_should_be_and_was_seen_to_be_is_kept(desk: Any) -> None:
    assert await desk.store.agents() == ()
    await desk.one(PutAgent("bob", "running", "running", None, now=desk.now))
    await desk.one(PutAgent("ada", "running", "running", None, now=desk.now))
    await desk.one(PutAgent("ada", "suspended", "quarantined", "it crashed", now=desk.now + 1))
    assert await desk.store.agents() == (
        AgentRow("ada", "suspended", "quarantined", "it crashed", desk.now + 1),
        AgentRow("bob", "running", "running", None, desk.now),
    )


@pytest.fixture
def save(desk: Any) -> SaveState:
    return SaveState("ada", '{"n": 1}', 1, expected=0, boot=desk.boot, incarnation=1, now=desk.now)


async def test_a_state_is_saved_and_its_version_rises(desk: Any, save: SaveState) -> None:
    assert await desk.store.state("ada") is None
    assert await desk.one(save) == 1
    assert await desk.one(replace(save, state='{"n": 2}', schema_version=3, expected=1, now=desk.now + 1)) == 2
    assert await desk.store.state("ada") == StateRow("ada", '{"n": 2}', 3, 2, desk.boot, 1, desk.now + 1)
    assert await desk.store.state("bob") is None


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_state_somebody_else_saved_since_is_not_overwritten(desk: Any, save: SaveState, expected: int) -> None:
    await desk.one(save)
    await desk.one(replace(save, expected=1))
    before = await desk.everything()
    with pytest.raises(VersionConflict):
        await desk.one(replace(save, state='{"n": 9}', expected=expected))
    assert await desk.everything() == before


async def test_a_first_save_expects_no_row(desk: Any, save: SaveState) -> None:
    with pytest.raises(VersionConflict):
        await desk.one(replace(save, expected=1))
    assert await desk.store.state("ada") is None


async def test_a_new_incarnation_takes_the_row_over_and_the_old_one_writes_nothing(desk: Any, save: SaveState) -> None:
    await desk.one(save)
    assert await desk.one(replace(save, expected=1, incarnation=2)) == 2
    before = await desk.everything()
    with pytest.raises(VersionConflict):
        await desk.one(replace(save, expected=2, incarnation=1))
    assert await desk.everything() == before


async def test_incarnations_count_within_their_boot(desk: Any, save: SaveState) -> None:
    await desk.one(replace(save, incarnation=7))
    assert await desk.one(replace(save, expected=1, boot="boot-2", incarnation=1)) == 2
    row = await desk.store.state("ada")
    assert (row.boot, row.incarnation) == ("boot-2", 1)


async def test_a_conflict_takes_the_whole_commit_back(desk: Any, save: SaveState) -> None:
    await desk.one(save)
    before = await desk.everything()
    with pytest.raises(VersionConflict):
        await desk.store.commit([PutAgent("ada", "running", "running", None, now=1), replace(save, expected=5)])
    assert await desk.everything() == before


# -- conversations -----------------------------------------------------------------------------------------------------


def say(conversation: str, *texts: str, at: int, agent: str = "ada") -> AppendMessages:
    return AppendMessages(agent, conversation, tuple(f'"{text}"' for text in texts), job=None, now=at)


async def test_messages_are_kept_in_their_order(desk: Any) -> None:
    await desk.one(say("main", "a", "b", at=1))
    await desk.one(say("side", "x", at=2))
    await desk.one(say("main", "c", at=3))
    assert await desk.store.messages("ada", "main") == ('"a"', '"b"', '"c"')
    assert await desk.store.messages("ada", "side") == ('"x"',)
    assert await desk.store.messages("ada", "nothing") == ()
    assert await desk.store.messages("bob", "main") == ()


async def test_the_last_messages_are_told_oldest_first(desk: Any) -> None:
    await desk.one(say("main", *"abcdef", at=1))
    assert await desk.store.messages("ada", "main", limit=2) == ('"e"', '"f"')
    assert await desk.store.messages("ada", "main", limit=99) == tuple(f'"{c}"' for c in "abcdef")


async def test_conversations_are_told_the_last_used_first(desk: Any) -> None:
    assert await desk.store.conversations("ada") == ()
    for at, name in enumerate(["one", "two", "three", "one"]):
        await desk.one(say(name, "hello", at=at))
    await desk.one(say("elsewhere", "hello", at=9, agent="bob"))
    assert await desk.store.conversations("ada") == ("one", "three", "two")


async def test_a_conversation_without_messages_is_there(desk: Any) -> None:
    await desk.one(say("empty", at=1))
    assert await desk.store.conversations("ada") == ("empty",)
    assert await desk.store.messages("ada", "empty") == ()


# -- settings ----------------------------------------------------------------------------------------------------------


async def test_settings_are_kept_and_replaced(desk: Any) -> None:
    assert await desk.store.setting("theme") is None
    await desk.one(PutSetting("theme", '"dark"'))
    await desk.one(PutSetting("theme", '"light"'))
    assert await desk.store.setting("theme") == '"light"'


async def test_text_that_is_no_json_is_refused(desk: Any, save: SaveState) -> None:
    before = await desk.everything()
    broken = [PutSetting("theme", "{no"), replace(save, state="{no"), AppendMessages("ada", "m", ("{no",), None, 1)]
    for change in broken:
        with pytest.raises(StoreError):
            await desk.one(change)
    assert await desk.everything() == before
