"""What the kernel asks of an event loop: few verbs, so that asyncio's fast primitives and plain anyio both serve."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Slot(Protocol):
    """One value or one error, given once, awaited by at most one task. Cancelling the waiting task cancels the slot."""

    def done(self) -> bool: ...
    def set_result(self, value: Any, /) -> None: ...
    def set_exception(self, error: BaseException, /) -> None: ...
    def cancel(self) -> object: ...
    def cancelled(self) -> bool: ...
    def exception(self) -> BaseException | None: ...
    def __await__(self) -> Generator[Any, Any, Any]: ...


class Loop(Protocol):
    """The event loop as the kernel sees it."""

    @property
    def time(self) -> Callable[[], float]:
        """The loop's monotonic seconds; safe to call from another thread."""
        ...

    @property
    def slot(self) -> Callable[[], Slot]:
        """Makes an empty `Slot`."""
        ...

    def opened(
        self, sweep: Callable[[], None], failed: Callable[[BaseException], None]
    ) -> AbstractAsyncContextManager[None]:
        """Hold every task of the system; leaving waits for them, and cancels those that do not end by themselves.

        *sweep* is called when the time given to `wake_at` has come; *failed* hears of an error that left a task.
        """
        ...

    def spawn(self, work: Callable[..., Awaitable[None]], *args: Any, name: str, inherit: bool = False) -> None:
        """Start a task of the system. With *inherit* it sees the caller's context variables, else those of `opened`."""
        ...

    def wake_at(self, when: float) -> None:
        """Call *sweep* at the time *when*, instead of at the time given before."""
        ...

    async def pause(self) -> None:
        """Let every other task that is ready run once."""
        ...

    def is_cancelled(self) -> bool:
        """Tell whether the running task was really cancelled, after a cancellation error came out of foreign code."""
        ...
