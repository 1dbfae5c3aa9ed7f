"""The counts: kept from moves, counted anew only while nothing moves, and compared with the database."""

from typing import Any

import pytest

from actors.tally import TRIES, Tally
from runtime.store.memory import MemoryStore
from runtime.store.port import InsertJobs, JobRow, Move


class House:
    """What a tally needs of a house."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.counts: dict[str, dict[str, int]] = {}

    def count(self, queue: str, status: str, change: int) -> None:
        of = self.counts.setdefault(queue, {})
        of[status] = of.get(status, 0) + change


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def tally(store: MemoryStore) -> Tally:
    found = Tally(House(store))  # type: ignore[arg-type]  # all that it needs
    store.watch(found.take)  # type: ignore[arg-type]  # nobody asks a listener for an answer
    return found


async def insert(store: Any, *names: str, **fields: Any) -> None:
    await store.commit([InsertJobs(tuple(JobRow(name, "echo", "q", "loop", "{}", **fields) for name in names), 0)])


def test_moves_are_counted_and_the_earliest_time_is_told(tally: Tally) -> None:
    moves = [
        Move("q", "loop", None, "pending", 3),
        Move("q", "loop", "pending", "active", 1),
        Move("q", "child", None, "delayed", 2, 70),
        Move("r", "loop", None, "delayed", 1, 50),
        Move("q", "loop", "completed", None, 1),
    ]
    assert tally.take(moves) == (True, 50)
    assert tally.house.counts == {"q": {"pending": 2, "active": 1, "delayed": 2, "completed": -1}, "r": {"delayed": 1}}
    assert tally.pending == {("q", "loop"): 2}
    assert tally.arrived == {"q": 1}


def test_what_only_goes_is_nothing_to_claim(tally: Tally) -> None:
    assert tally.take([Move("q", "loop", "pending", "cancelled", 1)]) == (False, None)


async def test_what_is_loaded_is_what_the_database_counts(tally: Tally, store: MemoryStore) -> None:
    await store.open()
    await insert(store, "a", "b")
    await insert(store, "c", execute_after=5)
    tally.house.count("ghost", "pending", 7)
    await tally.load()
    assert tally.house.counts == {"q": {"pending": 2, "delayed": 1}}
    assert tally.pending == {("q", "loop"): 2}
    assert await tally.compare() == []


async def test_each_difference_is_told(tally: Tally, store: MemoryStore) -> None:
    await store.open()
    await insert(store, "a")
    tally.house.count("q", "active", 2)
    tally.pending["q", "loop"] = 0
    tally.house.count("q", "completed", 9)  # what has ended is too much to be counted every few seconds
    assert sorted(await tally.compare()) == [("q", "active", -2), ("q", "pending in loop", 1)]


async def test_what_moves_while_it_is_counted_is_counted_once(tally: Tally, store: MemoryStore) -> None:
    await store.open()
    read = store.counts
    names = iter("abcdefgh")

    async def counts(*, ended: bool) -> Any:
        found = await read(ended=ended)
        if (name := next(names, None)) is not None and name < "d":
            await insert(store, name)
        return found

    store.counts = counts  # type: ignore[method-assign]
    await tally.load()
    assert tally.house.counts == {"q": {"pending": 3}}


async def test_what_is_read_before_it_is_told_is_no_difference(store: MemoryStore) -> None:
    """A reader may see a commit whose listeners are called a moment later, but before the next commit returns."""
    await store.open()
    tally = Tally(House(store))  # type: ignore[arg-type]  # all that it needs
    late: list[Any] = []
    store.watch(late.append)
    await insert(store, "a")
    commit = store.commit

    async def tells_first(changes: Any) -> Any:
        while late:
            tally.take(late.pop())
        return await commit(changes)

    store.commit = tells_first  # type: ignore[method-assign]
    assert await tally.compare() == []
    assert tally.house.counts == {"q": {"pending": 1}}


async def test_where_jobs_move_all_the_time_nothing_is_told(tally: Tally, store: MemoryStore) -> None:
    await store.open()
    read, times = store.counts, 0

    async def counts(*, ended: bool) -> Any:
        nonlocal times
        times += 1
        await insert(store, f"job-{times}")
        return await read(ended=ended)

    store.counts = counts  # type: ignore[method-assign]
    tally.house.count("q", "active", 1)
    assert await tally.compare() == []
    assert times == TRIES
