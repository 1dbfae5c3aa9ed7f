"""The bridge between two real loops in two threads."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from runtime.control.bridge import BUFFER, PACE, Bridge
from runtime.errors import Draining, JobNotFound

WAIT = 20.0
colour: ContextVar[str] = ContextVar("colour", default="none")

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bridge(actors: Any) -> Iterator[Bridge]:
    yield actors.bridge
    actors.bridge.close()


class Sleeper:
    """Waits for ever on the other loop and tells when it began and how it ended."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cancelled = threading.Event()

    async def sleep(self) -> None:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.cancelled.set()
            raise


async def wait(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, WAIT)


async def test_a_call_runs_in_the_other_thread_and_brings_its_value_back(bridge: Bridge, actors: Any) -> None:
    async def where(n: int) -> tuple[int, int]:
        return threading.get_ident(), n

    assert await bridge.call(where, 7) == (actors.thread.ident, 7)


async def test_an_error_is_raised_where_the_caller_waits(bridge: Bridge) -> None:
    async def fail() -> None:
        raise JobNotFound("no such job")

    with pytest.raises(JobNotFound, match="no such job"):
        await bridge.call(fail)


async def test_the_callers_context_is_seen_on_the_other_side(bridge: Bridge) -> None:
    async def look() -> str:
        return colour.get()

    colour.set("green")
    assert await bridge.call(look) == "green"


async def test_cancelling_the_caller_cancels_the_work(bridge: Bridge) -> None:
    sleeper = Sleeper()
    async with anyio.create_task_group() as group:
        group.start_soon(bridge.call, sleeper.sleep)
        await wait(sleeper.begun)
        group.cancel_scope.cancel()
    await wait(sleeper.cancelled)


async def test_cancelling_does_not_wait_for_a_blocked_loop(bridge: Bridge, actors: Any) -> None:
    sleeper = Sleeper()
    free = actors.block()
    with anyio.move_on_after(0) as scope:
        await bridge.call(sleeper.sleep)
    assert scope.cancelled_caught
    free()
    assert await bridge.call(anyio.lowlevel.checkpoint) is None
    assert not sleeper.begun.is_set()


async def test_closing_lets_every_caller_go(bridge: Bridge, actors: Any) -> None:
    sleeper = Sleeper()

    async def ask() -> None:
        with pytest.raises(Draining):
            await bridge.call(sleeper.sleep)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await wait(sleeper.begun)
        await anyio.to_thread.run_sync(bridge.close)
    await wait(sleeper.cancelled)
    with pytest.raises(Draining):
        await bridge.call(sleeper.sleep)


async def test_a_caller_is_let_go_when_the_other_loop_ends(bridge: Bridge, actors: Any) -> None:
    sleeper = Sleeper()
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(Draining):
                await bridge.call(sleeper.sleep)

        group.start_soon(ask)
        await wait(sleeper.begun)
        await anyio.to_thread.run_sync(actors.end)
    with pytest.raises(Draining):
        await bridge.call(sleeper.sleep)


class Source:
    """A stream on the other loop that counts what it has given and tells when it was left."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0
        self.left = threading.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[int]]:
        try:
            yield self._numbers()
        finally:
            self.left.set()

    async def _numbers(self) -> AsyncIterator[int]:
        for n in range(self.count):
            self.given += 1
            yield n


async def test_parts_arrive_whole_and_in_order(bridge: Bridge) -> None:
    source = Source(5000)
    async with bridge.stream(source.open) as parts:
        assert [part async for part in parts] == list(range(5000))
    await wait(source.left)


async def test_a_slow_reader_holds_the_sender_up(bridge: Bridge) -> None:
    source = Source(100_000)
    async with bridge.stream(source.open) as parts:
        assert await parts.batch()
        taken = source.given
        await bridge.call(anyio.lowlevel.checkpoint)  # the source has had its turn
        assert source.given <= taken + BUFFER + 1
        await bridge.call(anyio.lowlevel.checkpoint)
        held = source.given
        await bridge.call(anyio.lowlevel.checkpoint)
        assert source.given == held
    await wait(source.left)


async def test_batches_are_bounded_and_lose_nothing(bridge: Bridge) -> None:
    source = Source(10_000)
    seen: list[int] = []
    async with bridge.stream(source.open) as parts:
        while batch := await parts.batch():
            assert len(batch) <= BUFFER
            seen += batch
    assert seen == list(range(10_000))


async def test_leaving_early_leaves_the_other_side(bridge: Bridge) -> None:
    source = Source(100_000)
    async with bridge.stream(source.open) as parts:
        async for part in parts:
            assert part == 0
            break
    await wait(source.left)


async def test_an_interrupted_wait_for_a_part_loses_none(bridge: Bridge) -> None:
    go = threading.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[AsyncIterator[int]]:
        async def numbers() -> AsyncIterator[int]:
            await anyio.to_thread.run_sync(go.wait, WAIT)
            for n in range(3):
                yield n

        yield numbers()

    async with bridge.stream(slow) as parts:
        with anyio.move_on_after(0) as scope:
            await parts.batch()
        assert scope.cancelled_caught
        go.set()
        assert [part async for part in parts] == [0, 1, 2]


async def test_an_error_after_some_parts_comes_after_them(bridge: Bridge) -> None:
    @asynccontextmanager
    async def failing() -> AsyncIterator[AsyncIterator[int]]:
        async def numbers() -> AsyncIterator[int]:
            yield 1
            raise JobNotFound("gone")

        yield numbers()

    async with bridge.stream(failing) as parts:
        assert await anext(parts) == 1
        with pytest.raises(JobNotFound):
            await anext(parts)


async def test_an_error_on_entering_is_raised_at_the_first_part(bridge: Bridge) -> None:
    @asynccontextmanager
    async def refused() -> AsyncIterator[AsyncIterator[int]]:
        raise JobNotFound("none")
        yield  # what makes this a context manager

    async with bridge.stream(refused) as parts:
        with pytest.raises(JobNotFound):
            await parts.batch()


async def test_ending_streams_spares_calls(bridge: Bridge) -> None:
    sleeper = Sleeper()

    @asynccontextmanager
    async def endless() -> AsyncIterator[AsyncIterator[int]]:
        async def numbers() -> AsyncIterator[int]:
            yield 1
            await sleeper.sleep()

        yield numbers()

    async with bridge.stream(endless) as parts:
        assert await anext(parts) == 1
        bridge.end_streams()
        with pytest.raises(Draining):
            await parts.batch()
    await wait(sleeper.cancelled)
    assert await bridge.call(anyio.lowlevel.checkpoint) is None
    with pytest.raises(Draining):
        async with bridge.stream(endless) as parts:
            await parts.batch()


async def test_parts_that_come_close_together_are_carried_together(bridge: Bridge, monkeypatch: Any) -> None:
    loop = asyncio.get_running_loop()
    real, crossings = loop.call_soon_threadsafe, 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal crossings
        crossings += 1
        return real(*args, **named)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)

    @asynccontextmanager
    async def many() -> AsyncIterator[AsyncIterator[int]]:
        async def parts() -> AsyncIterator[int]:
            for n in range(20_000):
                yield n
                await anyio.lowlevel.checkpoint()

        yield parts()

    began = time.monotonic()
    got: list[int] = []
    async with bridge.stream(many) as parts:
        while batch := await parts.batch():
            got += batch
    assert got == list(range(20_000))
    assert crossings <= (time.monotonic() - began) / PACE + 3  # the first, one each few milliseconds, and the end


async def test_a_silence_is_told_and_nothing_is_lost(bridge: Bridge) -> None:
    go = threading.Event()

    @asynccontextmanager
    async def one() -> AsyncIterator[AsyncIterator[int]]:
        async def parts() -> AsyncIterator[int]:
            await anyio.to_thread.run_sync(go.wait, WAIT)
            yield 1

        yield parts()

    async with bridge.stream(one) as parts:
        assert await parts.batch(0.01) is None
        assert await parts.batch(0.01) is None
        go.set()
        assert await parts.batch(WAIT) == [1]
        assert await parts.batch(WAIT) == []
