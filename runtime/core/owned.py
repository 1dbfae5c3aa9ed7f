"""What one incarnation owns beside its mailbox: tasks and timers, which end with it; and which one is running now."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, get_cancelled_exc_class

from runtime.core.deadlines import Timer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runtime.core.incarnation import Incarnation
    from schemas.base import AnyMessage

CURRENT: ContextVar[Incarnation | None] = ContextVar("CURRENT", default=None)
"""The incarnation whose handler is running: asks made in it inherit its message's deadline."""


class TaskHandle:
    """A task that belongs to an instance."""

    __slots__ = ("_life", "_scope", "done", "name")

    def __init__(self, life: Incarnation, name: str) -> None:
        self._life = life
        self._scope = CancelScope()
        self.name = name
        self.done = False

    def cancel(self) -> None:
        """Ask the task to end; it has ended when `done` is true."""
        self._scope.cancel()

    async def run(self, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        """Run *work*; an exception is the actor's crash, a cancellation that nobody asked for too."""
        CURRENT.set(None)
        try:
            with self._scope:
                await work(*args)
        except Exception as error:  # noqa: BLE001  # the supervisor decides
            self._life.fail(error)
        except get_cancelled_exc_class():
            if self._life.cell.system.loop.is_cancelled():
                raise
            self._life.fail(RuntimeError(f"the task {self.name} awaited something that was cancelled"))
        finally:
            self.done = True
            self._life.task_ended(self)


class Alarm(Timer):
    """A timer that ends with its incarnation."""

    __slots__ = ("_life",)

    def __init__(self, life: Incarnation, when: float, message: AnyMessage) -> None:
        self._life = life
        super().__init__(life.cell.system.deadlines, when, lambda: self._ring(message))
        assert life.timers is not None
        life.timers.add(self)

    def _ring(self, message: AnyMessage) -> None:
        if self._life.timers is not None:
            self._life.timers.discard(self)
        self._life.signal(message)

    def cancel(self) -> None:
        if self._life.timers is not None:
            self._life.timers.discard(self)
        super().cancel()
