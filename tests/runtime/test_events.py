"""The event bus and the replay: nothing kept is missed, nothing is told twice, and a slow reader hurts nobody."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from runtime.errors import EventsExpired
from runtime.events import EventBus, Subscription, follow, wanted
from runtime.store.memory import MemoryStore
from runtime.store.port import AppendEvents, PruneEvents
from schemas.events import Event


def event(offset: int | None = None, kind: str = "job.done", subject: str = "j1") -> Event:
    return Event(offset=offset, at=1, type=kind, subject=subject)


# -- the bus -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "subject", "matches"),
    [
        ((), None, True),
        (("job.done",), None, True),
        (("job.*",), None, True),
        (("job.failed", "job.d*"), None, True),
        (("*",), None, True),
        (("job",), None, False),
        (("jobs.*",), None, False),
        ((), "j1", True),
        ((), "j2", False),
        (("job.*",), "j2", False),
    ],
)
def test_a_filter_wants_types_and_a_subject(types: tuple[str, ...], subject: str | None, matches: bool) -> None:
    assert wanted(types, subject)(event()) is matches


def test_events_are_told_to_all_that_want_them_in_order() -> None:
    bus = EventBus()
    with bus.subscribe() as all_, bus.subscribe(subject="j1") as one, bus.subscribe(("x.*",)) as none:
        bus.publish([event(1), event(2, subject="j2"), event(3)])
        assert [e.offset for e in all_.take()] == [1, 2, 3]
        assert [e.offset for e in one.take()] == [1, 3]
        assert none.take() == []
        assert all_.take() == []


def test_what_nobody_hears_need_not_be_made() -> None:
    bus = EventBus()
    assert not bus.listens("j1")
    with bus.subscribe(subject="j1"):
        assert bus.listens("j1")
        assert not bus.listens("j2")
    assert not bus.listens("j1")
    with bus.subscribe():
        assert bus.listens("j2")
    assert not bus.listens("j2")


def test_two_who_follow_one_subject_leave_one_after_the_other() -> None:
    bus = EventBus()
    with bus.subscribe(subject="j1") as first:
        with bus.subscribe(subject="j1"):
            pass
        bus.publish([event(1)])
        assert len(first.take()) == 1


def test_a_reader_who_is_too_slow_is_told_so_once_and_keeps_the_newest() -> None:
    slow = Subscription(wanted(), limit=3)
    for n in range(1, 6):
        slow.offer(event(n))
    assert slow.lagged
    assert [e.offset for e in slow.take()] == [4, 5]


async def test_a_reader_waits_until_there_is_something() -> None:
    bus = EventBus()
    with bus.subscribe() as news:
        with anyio.move_on_after(0) as early:
            await news.wait()
        assert early.cancelled_caught
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(news.wait)
            bus.publish([event(1)])
        await news.wait()  # it has not been taken yet
        assert len(news.take()) == 1


# -- following ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def kept() -> AsyncIterator[tuple[MemoryStore, EventBus]]:
    store, bus = MemoryStore(), EventBus()
    await store.open()
    store.listen(bus.publish)
    yield store, bus
    await store.close()


async def add(store: MemoryStore, *kinds: str, subject: str = "s") -> None:
    await store.commit([AppendEvents(tuple((kind, subject, "{}") for kind in kinds), now=1)])


async def collected(stream: Any, count: int) -> list[Event]:
    found: list[Event] = []
    with anyio.fail_after(30):
        while len(found) < count:
            found.append(await anext(stream))
    return found


async def test_a_replay_without_following_ends_with_what_is_kept(kept: Any) -> None:
    store, bus = kept
    await add(store, *["a.x"] * 1203)  # more than two pages
    async with follow(store, bus, since=0, live=False) as stream:
        assert [e.offset async for e in stream] == list(range(1, 1204))
    async with follow(store, bus, since=1200, live=False) as stream:
        assert [e.offset async for e in stream] == [1201, 1202, 1203]


async def test_from_now_on_means_from_now_on(kept: Any) -> None:
    store, bus = kept
    await add(store, "a.old")
    async with follow(store, bus, since=None) as stream:
        await add(store, "a.new")
        assert [e.type for e in await collected(stream, 1)] == ["a.new"]


async def test_types_and_subject_are_filtered_in_the_past_and_in_the_present(kept: Any) -> None:
    store, bus = kept
    for subject in ("s", "t"):
        await add(store, "a.x", "b.x", "a.y", subject=subject)
    async with follow(store, bus, since=0, types=("a.*",), subject="s") as stream:
        await collected(stream, 2)
        for subject in ("t", "s"):
            await add(store, "a.x", "b.x", subject=subject)
        (live,) = await collected(stream, 1)
        assert (live.type, live.subject, live.offset) == ("a.x", "s", 9)


async def test_a_replay_meets_the_present_without_gap_or_repeat(kept: Any) -> None:
    store, bus = kept
    await add(store, *["a.x"] * 700)
    total = 3_000

    async def write() -> None:
        for _ in range((total - 700) // 10):
            await add(store, *["a.y"] * 10)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        async with follow(store, bus, since=0) as stream:
            found = [e.offset for e in await collected(stream, total)]
    assert found == list(range(1, total + 1))


async def test_many_who_follow_at_different_places_all_get_everything(kept: Any) -> None:
    store, bus = kept
    await add(store, *["a.x"] * 100)
    found: dict[int, list[int | None]] = {}

    async def read(since: int) -> None:
        async with follow(store, bus, since=since) as stream:
            found[since] = [e.offset for e in await collected(stream, 600 - since)]

    async with anyio.create_task_group() as tasks:
        for since in (0, 50, 99, 100):
            tasks.start_soon(read, since)
        for _ in range(50):
            await add(store, *["a.y"] * 10)
    assert found == {since: list(range(since + 1, 601)) for since in (0, 50, 99, 100)}


async def test_a_reader_who_lags_is_served_from_the_table_and_misses_nothing(kept: Any) -> None:
    store, bus = kept
    async with follow(store, bus, since=0) as stream:
        await add(store, "a.first")
        await collected(stream, 1)
        for _ in range(30):
            await add(store, *["a.flood"] * 100)  # far more than the window of a reader holds
        assert [e.offset for e in await collected(stream, 3000)] == list(range(2, 3002))
        await add(store, "a.last")
        assert [e.offset for e in await collected(stream, 1)] == [3002]


async def test_what_is_only_told_live_comes_in_between(kept: Any) -> None:
    store, bus = kept
    async with follow(store, bus, since=0) as stream:
        await add(store, "a.x")
        await collected(stream, 1)
        bus.publish([event(None, "turn.token")])
        await add(store, "a.y")
        assert [e.type for e in await collected(stream, 2)] == ["turn.token", "a.y"]


async def test_a_place_that_is_no_longer_kept_is_refused_with_the_oldest_that_is(kept: Any) -> None:
    store, bus = kept
    await add(store, *["a.x"] * 10)
    await store.commit([PruneEvents(keep=4)])
    with pytest.raises(EventsExpired) as caught:
        async with follow(store, bus, since=5):
            pytest.fail("it was not refused")
    assert caught.value.data == {"oldest": 7}
    async with follow(store, bus, since=6, live=False) as stream:
        assert [e.offset async for e in stream] == [7, 8, 9, 10]


async def test_whoever_leaves_is_forgotten(kept: Any) -> None:
    store, bus = kept
    async with follow(store, bus, since=None, subject="s") as stream, aclosing(stream):  # type: ignore[type-var]
        assert bus.listens("s")
    assert not bus.listens("s")
