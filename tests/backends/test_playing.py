"""Turns in a task of their own: their events, their errors, and what is left when they are cut off."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from runtime.backends.lines import Lines
from runtime.backends.playing import playing
from runtime.backends.port import BackendContext, BackendEvent, BackendUnusable, Final, KeepsState, Text, Turn
from runtime.outcomes import Suspended

Take = Callable[..., Any]
NewTurn = Callable[..., Turn]


async def test_a_backend_may_hold_scopes_where_it_yields(take: Take, ctx: Any, stub: Any, turn: NewTurn) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 0)
            with anyio.fail_after(10):
                yield Text(text="a")
            yield Final(text="b")

    async with playing(stub(run), turn(), ctx) as events:
        with anyio.fail_after(10):
            assert await anext(events) == Text(text="a")
        with anyio.fail_after(10):
            assert await anext(events) == Final(text="b")
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_nothing_counts_after_the_answer_and_it_comes_when_all_is_cleaned_up(
    take: Take, ctx: Any, stub: Any
) -> None:
    done: list[str] = []

    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        yield Final(text="b")
        yield Text(text="late")
        yield Final(text="c")
        done.append("cleaned")

    assert await take(stub(run), ctx) == [Final(text="b")]
    assert done == ["cleaned"]


async def test_no_answer_is_a_mistake(take: Take, ctx: Any, stub: Any) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        yield Text(text="a")

    with pytest.raises(BackendUnusable, match="without an answer"):
        await take(stub(run), ctx)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("error", [ValueError("x"), Suspended(waits="approval/1", wait_until=None)])
async def test_what_it_raises_comes_out_of_any_group(
    take: Take, ctx: Any, stub: Any, error: BaseException, grouped: bool
) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        yield Text(text="a")
        raise BaseExceptionGroup("g", [BaseExceptionGroup("h", [error])]) if grouped else error

    with pytest.raises(type(error)) as raised:
        await take(stub(run), ctx)
    assert raised.value is error


async def test_a_suspension_goes_before_errors(take: Take, ctx: Any, stub: Any) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        raise BaseExceptionGroup("g", [ValueError("x"), Suspended(pause=True)])
        yield Final(text="")

    with pytest.raises(Suspended):
        await take(stub(run), ctx)


async def test_two_errors_stay_a_group(take: Take, ctx: Any, stub: Any) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        raise ExceptionGroup("g", [ValueError("x"), KeyError("y")])
        yield Final(text="")

    with pytest.raises(ExceptionGroup) as raised:
        await take(stub(run), ctx)
    assert len(raised.value.exceptions) == 2


async def test_leaving_early_ends_it(ctx: Any, stub: Any, turn: NewTurn) -> None:
    ended: list[str] = []

    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                while True:
                    yield Text(text="a")
        finally:
            ended.append("ended")

    async with playing(stub(run), turn(), ctx) as events:
        await anext(events)
    assert ended == ["ended"]


async def test_an_error_of_the_hearer_is_raised_as_it_is(ctx: Any, stub: Any, turn: NewTurn) -> None:
    async def run(turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        await anyio.sleep_forever()
        yield Final(text="")

    with pytest.raises(KeyError):
        async with playing(stub(run), turn(), ctx):
            raise KeyError("mine")


async def test_a_plain_iterator_will_do(take: Take, ctx: Any) -> None:
    class Plain:
        left = 2

        def run(self, turn: Turn, ctx: BackendContext) -> "Plain":
            return self

        def __aiter__(self) -> "Plain":
            return self

        async def __anext__(self) -> BackendEvent:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return Final(text="x") if self.left == 0 else Text(text="x")

    assert await take(Plain(), ctx) == [Text(text="x"), Final(text="x")]
    assert not isinstance(Plain(), KeepsState)


async def test_lines_are_cut_anywhere() -> None:
    text = b"one\n\ntwo three\nfour"
    for size in range(1, len(text) + 1):
        lines = Lines(100, 100)
        for start in range(0, len(text), size):
            lines.feed(text[start : start + size])
        lines.end()
        lines.feed(b"late")
        assert [await lines.next() for _ in range(5)] == [b"one", b"", b"two three", b"four", None]


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_lines_before_a_cap_are_read_and_what_is_kept_is_bounded(size: int) -> None:
    lines = Lines(5, 1000)
    text = b"12345\n123456789\nlater\n" + b"x" * 500
    for start in range(0, len(text), size):
        lines.feed(text[start : start + size])

    assert await lines.next() == b"12345"
    with pytest.raises(BackendUnusable, match=r"line 2 .* more than 5 bytes"):
        await lines.next()
    assert len(lines._rest) <= 6
    assert not lines._ready


async def test_a_stop_goes_before_lines() -> None:
    lines = Lines(5, 1000)
    lines.feed(b"a\n")
    lines.stop(ValueError("enough"))
    with pytest.raises(ValueError, match="enough"):
        await lines.next()
