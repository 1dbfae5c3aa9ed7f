"""The kernel's fast primitives on asyncio (futures, tasks, one timer), and the choice between them and plain anyio."""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio

from runtime.core._loop_anyio import AnyioLoop
from runtime.core._port import Loop, Slot

LEFTOVER_GRACE = 1.0
"""Seconds that tasks which outlived the system's stop get to notice their cancellation."""


def pick() -> Loop:
    """Return the primitives that fit the running event loop."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return AnyioLoop()
    return AnyioLoop() if task is None else AsyncioLoop()


class AsyncioLoop:
    """Bare asyncio: a reply is a future, a spawn is a task without a cancel scope, a deadline is the loop's timer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        plain = getattr(self._loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        # BaseEventLoop.time only calls time.monotonic; a virtual clock brings its own, and that one counts.
        self.time: Callable[[], float] = time.monotonic if plain else self._loop.time
        self.slot: Callable[[], Slot] = self._loop.create_future
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._sweep: Callable[[], None] = _nothing
        self._failed: Callable[[BaseException], None] = _raise

    @asynccontextmanager
    async def opened(self, sweep: Callable[[], None], failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
        self._sweep, self._failed = sweep, failed
        self._context = contextvars.copy_context()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self._join()
            if self._timer is not None:
                self._timer.cancel()
            self._sweep = _nothing

    async def _join(self) -> None:
        # Whoever ended in order is gone after a round or two of the loop; what remains swallows cancellation.
        for _ in range(3):
            if not self._tasks:
                return
            await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEFTOVER_GRACE)

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any, name: str, inherit: bool = False) -> None:
        context = None if inherit else self._context.copy()
        task = asyncio.Task(cast("Coroutine[Any, Any, None]", work(*args)), loop=self._loop, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self._sweep()

    async def pause(self) -> None:
        await asyncio.sleep(0)

    def is_cancelled(self) -> bool:
        # Awaiting a task or future that somebody cancelled raises CancelledError too; then nobody asked us to end.
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0


def _nothing() -> None:
    """Do nothing: the sweep of a loop that is closed."""


def _raise(error: BaseException) -> None:
    raise error
