"""What the store in memory can do beyond the port: fail when told to, and keep what it has over closing and opening."""

from collections.abc import AsyncIterator, Sequence

import pytest

from runtime.errors import StoreError, StoreFull
from runtime.store.memory import MemoryStore
from runtime.store.port import AppendEvents, PutSetting
from schemas.events import Event

EVENT = AppendEvents((("a", "b", "{}"),), now=1)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


async def test_the_next_commit_fails_as_told_and_the_one_after_does_not(memory: MemoryStore) -> None:
    memory.fail_next(StoreFull("no space"))
    with pytest.raises(StoreFull):
        await memory.commit([PutSetting("a", "1")])
    assert await memory.setting("a") is None
    await memory.commit([PutSetting("a", "2")])
    assert await memory.setting("a") == "2"


async def test_a_commit_whose_acknowledgement_was_lost_has_happened(memory: MemoryStore) -> None:
    heard: list[Sequence[Event]] = []
    memory.listen(heard.append)
    memory.fail_next(StoreError("the outcome is unknown"), applied=True)
    with pytest.raises(StoreError):
        await memory.commit([PutSetting("a", "1"), EVENT])
    assert await memory.setting("a") == "1"
    assert len(heard) == 1


async def test_what_was_committed_is_there_after_closing_and_opening(memory: MemoryStore) -> None:
    await memory.commit([PutSetting("a", "1"), EVENT])
    await memory.close()
    await memory.open()
    assert await memory.setting("a") == "1"
    assert await memory.event_bounds() == (1, 1)


async def test_a_listener_is_let_go_when_the_store_closes(memory: MemoryStore) -> None:
    heard: list[Sequence[Event]] = []
    memory.listen(heard.append)
    await memory.close()
    await memory.open()
    await memory.commit([EVENT])
    assert heard == []
