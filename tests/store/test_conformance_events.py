"""Every store: events are kept in order, found by type and subject, forgotten oldest first, told after the commit."""

import json
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from runtime.errors import VersionConflict
from runtime.store.port import AppendEvents, InsertJobs, PruneEvents, PutSetting, SaveState
from schemas.events import Event


async def tell(desk: Any, *types: str, subject: str = "it") -> None:
    await desk.one(AppendEvents(tuple((type_, subject, "{}") for type_ in types), now=desk.now))


async def found(desk: Any, *types: str, after: int = 0, **which: Any) -> list[str]:
    return [event.type for event in await desk.store.events(after=after, types=types, **which)]


async def test_an_event_is_kept_as_it_was_told(desk: Any) -> None:
    data = {"n": 1, "list": [None, "ü"]}
    await desk.one(AppendEvents((("agent.crashed", "ada", json.dumps(data)),), now=desk.now))
    assert await desk.store.events(after=0) == (
        Event(offset=1, at=desk.now, type="agent.crashed", subject="ada", data=data),
    )


async def test_offsets_rise_over_commits(desk: Any) -> None:
    await tell(desk, "a", "b")
    await desk.add()
    await tell(desk, "c")
    events = await desk.store.events(after=0)
    assert [event.type for event in events] == ["a", "b", "job.enqueued", "c"]
    offsets = [event.offset for event in events]
    assert offsets == sorted(set(offsets))


async def test_a_replay_goes_on_past_its_cursor_up_to_a_limit(desk: Any) -> None:
    await tell(desk, *"abcdef")
    first = await desk.store.events(after=0, limit=2)
    assert [event.type for event in first] == ["a", "b"]
    assert await found(desk, after=first[-1].offset, limit=3) == ["c", "d", "e"]
    assert await found(desk, after=await desk.newest()) == []


async def test_events_are_found_by_type_by_family_and_by_subject(desk: Any) -> None:
    await tell(desk, "job.completed", "job.failed", "jobs.odd", "agent.started", subject="x")
    await tell(desk, "job.failed", "agent.started", subject="y")
    assert await found(desk, "job.failed") == ["job.failed", "job.failed"]
    assert await found(desk, "job.*") == ["job.completed", "job.failed", "job.failed"]
    assert await found(desk, "job.completed", "agent.*") == ["job.completed", "agent.started", "agent.started"]
    assert len(await found(desk, "*")) == len(await found(desk)) == 6
    assert await found(desk, "job.") == []
    assert await found(desk, "nothing.*") == []
    assert await found(desk, subject="y") == ["job.failed", "agent.started"]
    assert await found(desk, "job.*", subject="x") == ["job.completed", "job.failed"]
    assert await found(desk, "job.*", subject="x", limit=1) == ["job.completed"]


async def test_bounds_of_no_events_are_one_and_zero(desk: Any) -> None:
    assert await desk.store.event_bounds() == (1, 0)


async def test_all_but_the_newest_events_are_forgotten(desk: Any) -> None:
    await tell(desk, *"abcde")
    assert await desk.store.event_bounds() == (1, 5)
    assert await desk.one(PruneEvents(keep=2)) == 3
    assert await found(desk) == ["d", "e"]
    assert await desk.store.event_bounds() == (4, 5)
    assert await desk.one(PruneEvents(keep=2)) == 0


async def test_offsets_are_not_used_again_after_all_was_forgotten(desk: Any) -> None:
    await tell(desk, *"abc")
    assert await desk.one(PruneEvents(keep=0)) == 3
    assert await desk.store.event_bounds() == (4, 3)
    await tell(desk, "d")
    assert await desk.store.event_bounds() == (4, 4)
    assert [event.offset for event in await desk.store.events(after=0)] == [4]


async def test_pruning_that_is_taken_back_forgets_nothing(desk: Any) -> None:
    await tell(desk, *"abcde")
    before = await desk.everything()
    conflict = SaveState("ada", "{}", 1, expected=9, boot="b", incarnation=1, now=1)
    with pytest.raises(VersionConflict):
        await desk.store.commit([PruneEvents(keep=1), conflict])
    assert await desk.everything() == before
    assert await found(desk) == list("abcde")


# -- the listener ------------------------------------------------------------------------------------------------------


class Ear:
    """Hears what a store tells, and can wait until it has heard enough."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self._news = anyio.Event()

    def __call__(self, events: Sequence[Event]) -> None:
        self.heard += events
        self._news.set()

    async def hears(self, count: int) -> list[Event]:
        with anyio.fail_after(5):
            while len(self.heard) < count:
                await self._news.wait()
                self._news = anyio.Event()
        return self.heard


async def test_a_listener_hears_each_event_as_it_is_kept(desk: Any) -> None:
    ear = Ear()
    desk.store.listen(ear)
    await desk.add()
    await desk.store.commit([AppendEvents((("a", "x", '{"n": 1}'),), now=desk.now), desk.claims("w1")])
    heard = await ear.hears(3)
    assert tuple(heard) == await desk.store.events(after=0)


async def test_every_listener_hears_in_the_order_of_offsets_over_concurrent_commits(desk: Any) -> None:
    ears = [Ear(), Ear()]
    for ear in ears:
        desk.store.listen(ear)
    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(desk.one, InsertJobs((desk.row(), desk.row(execute_after=desk.now + n)), desk.now))
    for ear in ears:
        heard = await ear.hears(80)
        assert [event.offset for event in heard] == list(range(1, 81))


async def test_a_listener_finds_committed_what_it_is_told_of(desk: Any) -> None:
    ear = Ear()
    desk.store.listen(ear)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(desk.one, InsertJobs((desk.row(),), desk.now))
        (event,) = await ear.hears(1)
        assert (await desk.view(event.subject)).status == "pending"


async def test_a_listener_hears_nothing_of_what_was_taken_back(desk: Any) -> None:
    ear = Ear()
    desk.store.listen(ear)
    conflict = SaveState("ada", "{}", 1, expected=9, boot="b", incarnation=1, now=1)
    with pytest.raises(VersionConflict):
        await desk.store.commit([InsertJobs((desk.row(),), desk.now), conflict])
    await desk.one(PutSetting("quiet", "1"))
    await tell(desk, "after")
    assert [(event.type, event.offset) for event in await ear.hears(1)] == [("after", 1)]
