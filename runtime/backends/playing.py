"""Runs a backend's turn in a task of its own, so that whoever hears it may wait as they like."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runtime.backends.port import AgentBackend, BackendContext, BackendEvent, BackendUnusable, Final, Turn
from runtime.outcomes import Suspended


@asynccontextmanager
async def playing(backend: AgentBackend, turn: Turn, ctx: BackendContext) -> AsyncIterator[AsyncIterator[BackendEvent]]:
    """Run a turn and give its events; the last is the `Final`, and the backend has cleaned up when it comes.

    A deadline around a single event is allowed, which it would not be on the bare generator: that may hold scopes of
    its own where it yields. Iterating raises what the backend raised, out of any group; `Suspended` goes before errors.
    A backend that ends without a `Final` is a `BackendUnusable`. Leaving early cancels it and waits for its end.
    """
    send, receive = anyio.create_memory_object_stream[BackendEvent](0)
    ending: list[BaseException] = []
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_play, backend, turn, ctx, send, ending)
            with receive:
                try:
                    yield _Heard(receive, ending)
                finally:
                    tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _raise_plain(group)


async def _play(
    backend: AgentBackend,
    turn: Turn,
    ctx: BackendContext,
    send: MemoryObjectSendStream[BackendEvent],
    ending: list[BaseException],
) -> None:
    with send:
        try:
            final = await _all_before(backend.run(turn, ctx), send)
            if final is None:
                raise BackendUnusable("the backend ended its turn without an answer")
        except (Exception, Suspended) as error:  # noqa: BLE001  # raised to whoever hears the turn
            ending.append(error)
        except BaseExceptionGroup as group:
            try:
                _raise_plain(group)
            except (Exception, Suspended) as error:  # noqa: BLE001  # the same
                ending.append(error)
        else:
            await send.send(final)


async def _all_before(
    events: AsyncIterator[BackendEvent], send: MemoryObjectSendStream[BackendEvent]
) -> BackendEvent | None:
    """Pass on all events before the `Final`; return that, once the backend has come to its own end."""
    final: BackendEvent | None = None
    try:
        async for event in events:
            if final is None and not isinstance(event, Final):
                await send.send(event)
            elif final is None:
                final = event
        return final
    finally:
        await _closed(events)


async def _closed(events: AsyncIterator[BackendEvent]) -> None:
    """Close a generator that was cut off: its open scopes are left here, in the task that opened them."""
    close = getattr(events, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except BaseExceptionGroup as group:  # its own task groups hand on by what it was closed
        rest = group.split(GeneratorExit)[1]
        if rest is not None:
            raise rest from None


class _Heard:
    """The events of a turn; it may be left anywhere, which a generator may not be on every event loop."""

    def __init__(self, receive: MemoryObjectReceiveStream[BackendEvent], ending: list[BaseException]) -> None:
        self._receive, self._ending = receive, ending

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BackendEvent:
        try:
            return await self._receive.receive()
        except anyio.EndOfStream:
            pass
        if self._ending:
            raise self._ending[0]
        raise StopAsyncIteration


def _raise_plain(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise what a group stands for: a suspension, else its only error, else the group."""
    error: BaseException = group.subgroup(Suspended) or group
    while isinstance(error, BaseExceptionGroup) and (len(error.exceptions) == 1 or group.subgroup(Suspended)):
        error = error.exceptions[0]
    raise error
