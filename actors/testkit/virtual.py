"""Time that passes only when nothing else can happen: an hour's wait in a test takes no time at all.

On asyncio it is `VirtualLoop`; on trio it is trio's own `MockClock` with `autojump_threshold=0`. `virtual_backend`
gives either one in the shape of an `anyio_backend` fixture, and `run_virtually` runs a coroutine function on the first.
"""

import asyncio
import os
import selectors
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from runtime.sandbox.process import descendants

QUIET: Final = 0.05
"""Seconds of real time for which a thread is waited for before it is looked at again."""
CHILD_QUIET: Final = 0.25
"""Seconds of real time that the children of this process get before each jump: for them time is real."""

WATCHER: Final = "asyncio-waitpid-"
"""How asyncio calls the threads that wait for the end of a child."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock stands still while anything can run, and jumps to the next timer when nothing can.

    It stands still, too, while a thread works that was started with `loop.run_in_executor`, or with
    `anyio.to_thread.run_sync` inside `hold_time` (a `stage` and `run_tool` see to that). While there are child
    processes that were started since the loop was made, each jump waits for a quarter of a second of real time first.
    It knows nothing of a network: do not use one.
    """

    def __init__(self) -> None:
        self.at = 1000.0
        self.held: list[Callable[[], bool]] = []
        self._threads = 0
        self._others = children()  # who was here before has nothing to do with what runs in this loop
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the seconds of this loop's own clock; it starts at 1000."""
        return self.at

    def jump(self) -> None:
        """Go to the time of the next timer."""
        self.at = max(self.at, self._scheduled[0].when())  # type: ignore[attr-defined]  # asyncio's own heap of timers

    @property
    def works(self) -> bool:
        """Whether something works that the loop cannot see, so that time must not jump."""
        return self._threads > 0 or any(held() for held in self.held)

    @property
    def has_children(self) -> bool:
        """Whether this process has children that it had not when the loop was made, or a dead one is still to be told
        of.
        """
        if any(thread.name.startswith(WATCHER) for thread in threading.enumerate()):
            return True
        return bool(children() - self._others)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]  # typeshed has it generic over the arguments
        """See asyncio; time stands still until it is done."""
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._threads -= 1


class _Jumping(selectors.DefaultSelector):
    """What the loop waits with. It waits really only for what has no place in virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._had = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        while not ready and self._loop.works:
            ready = super().select(QUIET)
        if not ready:
            had, self._had = self._had, self._loop.has_children
            if had or self._had:  # after the last one has ended, too: news of that may be under way
                ready = super().select(CHILD_QUIET)
        if not ready:
            self._loop.jump()
        return ready


def children() -> frozenset[int]:
    """Return the process ids of the children of this process, those that are dead and not waited for included."""
    if hasattr(os, "waitid"):  # it is asked before each jump, and mostly there are none
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return frozenset()
    return frozenset(descendants(os.getpid()))


@contextmanager
def hold_time() -> Iterator[None]:
    """While inside, have the clock of a `VirtualLoop` stand still as long as threads of `anyio.to_thread` work. On any
    other loop this does nothing. Call it from a task.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if not isinstance(loop, VirtualLoop):
        yield
        return
    limiter = anyio.to_thread.current_default_thread_limiter()

    def works() -> bool:
        return limiter.borrowed_tokens > 0

    loop.held.append(works)
    try:
        yield
    finally:
        loop.held.remove(works)


def virtual_backend(name: Literal["asyncio", "trio"] = "asyncio") -> tuple[str, dict[str, Any]]:
    """Return what an `anyio_backend` fixture returns for virtual time: the name of the library and its options.

    trio's clock does not know of threads: for tools that are plain functions use asyncio, or give
    `trio.testing.MockClock` an `autojump_threshold` of, say, 0.05 s.
    """
    if name == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    import trio.testing

    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


def run_virtually(function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run an async *function* to its end on a loop with virtual time, and return what it returns."""

    async def held() -> T:
        with hold_time():
            return await function(*args)

    return anyio.run(held, backend_options={"loop_factory": VirtualLoop})
