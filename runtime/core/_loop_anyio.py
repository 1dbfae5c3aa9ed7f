"""The same primitives in plain anyio: slower, and at home on trio with its virtual clock."""

import contextvars
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from runtime.core._port import Slot


class AnyioSlot:
    """A reply slot out of an event."""

    __slots__ = ("_error", "_event", "_left", "_over", "_value")

    def __init__(self) -> None:
        self._event: anyio.Event | None = None
        self._over = self._left = False
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._over

    def set_result(self, value: Any, /) -> None:
        self._value = value
        self._end()

    def set_exception(self, error: BaseException, /) -> None:
        self._error = error
        self._end()

    def cancel(self) -> None:
        if not self._over:
            self._over = self._left = True

    def cancelled(self) -> bool:
        return self._left

    def exception(self) -> BaseException | None:
        return self._error

    def _end(self) -> None:
        assert not self._over, "a slot is filled once"
        self._over = True
        if self._event is not None:
            self._event.set()

    def __await__(self) -> Generator[Any, Any, Any]:
        if not self._over:
            self._event = anyio.Event()
            try:
                yield from self._event.wait().__await__()
            except BaseException:
                self.cancel()
                raise
        if self._error is not None:
            raise self._error
        return self._value


class AnyioLoop:
    """Plain anyio: one task group that a cancelled host cannot reach, and one task that waits for the next deadline."""

    def __init__(self) -> None:
        self.slot: Callable[[], Slot] = AnyioSlot
        self._seen = anyio.current_time()
        self._group: TaskGroup | None = None
        self._context = contextvars.copy_context()
        self._when = math.inf
        self._alarm = anyio.Event()
        self._sweep: Callable[[], None] | None = None
        self._failed: Callable[[BaseException], None] | None = None

    def time(self) -> float:
        try:
            self._seen = anyio.current_time()
        except RuntimeError:
            pass  # asked from another thread: the time this loop saw last is the best there is
        return self._seen

    @asynccontextmanager
    async def opened(self, sweep: Callable[[], None], failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
        self._sweep, self._failed, self._context = sweep, failed, contextvars.copy_context()
        closing, ready = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as outer:
            outer.start_soon(self._host, ready, closing, name="actors")
            with anyio.CancelScope(shield=True):
                await ready.wait()
            try:
                yield
            finally:
                closing.set()

    async def _host(self, ready: anyio.Event, closing: anyio.Event) -> None:
        # Shielded, because a cancelled host stops the actors in order; it does not tear their tasks down.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as self._group:
                self._group.start_soon(self._alarm_clock, closing, name="deadlines")
                ready.set()
                await closing.wait()
                self.wake_at(-math.inf)
                await self._settle(self._group)

    async def _settle(self, group: TaskGroup) -> None:
        for _ in range(10):
            await checkpoint()
        group.cancel_scope.cancel()

    async def _alarm_clock(self, closing: anyio.Event) -> None:
        while not closing.is_set():
            self._alarm = anyio.Event()
            with anyio.CancelScope(deadline=self._when):
                await self._alarm.wait()
            if self._sweep is not None and not closing.is_set() and anyio.current_time() >= self._when:
                self._when = math.inf
                self._sweep()

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any, name: str, inherit: bool = False) -> None:
        assert self._group is not None, "the system is not running"
        context = contextvars.copy_context() if inherit else self._context.copy()
        context.run(partial(self._group.start_soon, self._run, work, args, name=name))

    async def _run(self, work: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except Exception as error:  # noqa: BLE001  # a fault of the kernel: told to the system, which stops in order
            assert self._failed is not None
            self._failed(error)

    def wake_at(self, when: float) -> None:
        self._when = when
        self._alarm.set()

    async def pause(self) -> None:
        await checkpoint()

    def is_cancelled(self) -> bool:
        return True
