"""The one place where the control thread and the actors' loop meet: calls, streams, cancelling and errors cross."""

# asyncio by name, because the two loops are asyncio's and a hop must cost 0.1 ms: `call_soon_threadsafe` and bare
# futures do, `anyio.from_thread` (a lock, an event and a task group a call) does not.
import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, Generic, Self, TypeVar
from weakref import WeakKeyDictionary

from runtime.errors import Draining, UnderstudyError
from runtime.log import get
from runtime.timer import LazyTimer

T = TypeVar("T")

PACE: Final = 0.004
"""Seconds from one time that parts are carried over to the next; the first of a quiet moment goes at once."""

BUFFER: Final = 256
"""Parts of one stream that may wait on their way; then the sender waits."""

_log = get(__name__)


class Bridge:
    """The way from other loops to the loop that `here()` was called on.

    It ends with `close()`: from then on, and for whoever waits at that moment, every crossing raises `Draining`.
    """

    def __init__(self, actors: asyncio.AbstractEventLoop) -> None:
        self._actors = actors
        self._calls: set[_Crossing] = set()
        self._streams: set[_Crossing] = set()
        self._live: set[_Crossing] = set()
        self._couriers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Courier] = WeakKeyDictionary()
        self._streams_open = True
        self._calls_open = True

    @classmethod
    def here(cls) -> Self:
        """Return a bridge to the running loop."""
        return cls(asyncio.get_running_loop())

    async def call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await `fn(*args)` on the other loop and return or raise what it does.

        Cancelling the caller cancels it there, without waiting for it to end. Raises `Draining` if it cannot run or
        does not come to an end because that loop stops.
        """
        crossing = _Crossing(self._actors, self._live, self._courier())
        self._calls.add(crossing)
        try:
            if not self._calls_open:
                raise _gone()
            crossing.start(crossing.run, fn, *args)
            while not crossing.ended:
                await crossing.news()
            return crossing.outcome()  # type: ignore[no-any-return]  # what fn returned, and fn returns T
        finally:
            self._calls.discard(crossing)
            crossing.leave()

    @asynccontextmanager
    async def stream(
        self, open_parts: Callable[[], AbstractAsyncContextManager[AsyncIterator[T]]]
    ) -> AsyncGenerator["Received[T]", None]:
        """Enter the context manager that `open_parts()` makes on the other loop and hand its parts over, in order.

        At most 256 parts wait on the way; then the other side is held up. Leaving, however it happens, leaves the
        context manager there, without waiting for that. Errors travel, `Draining` as in `call`.
        """
        crossing = _Crossing(self._actors, self._live, self._courier())
        self._streams.add(crossing)
        try:
            if not self._streams_open:
                raise _gone()
            crossing.start(crossing.run, crossing.pump, open_parts)
            yield Received(crossing)
        finally:
            self._streams.discard(crossing)
            crossing.leave()

    def _courier(self) -> "_Courier":
        """Return what wakes the loop that asks."""
        here = asyncio.get_running_loop()
        courier = self._couriers.get(here)
        if courier is None:
            courier = self._couriers[here] = _Courier(self._actors, here)
        return courier

    def end_streams(self) -> None:
        """End every open stream with `Draining` and open no more; calls go on. From any thread."""
        self._streams_open = False
        for crossing in tuple(self._streams):
            crossing.abandon()

    def close(self) -> None:
        """End everything under way with `Draining` and begin nothing more. From any thread, any number of times."""
        self.end_streams()
        self._calls_open = False
        for crossing in tuple(self._calls):
            crossing.abandon()


class _Crossing:
    """One thing under way on the other loop.

    The counts and flags are read by both threads. Where one side decides to sleep, it sets its flag first and looks
    again after; the other side changes what is looked at first and reads the flag after. Under the interpreter's lock
    one of the two sees the other, so no wake-up is lost.
    """

    def __init__(self, there: asyncio.AbstractEventLoop, live: "set[_Crossing]", courier: "_Courier") -> None:
        self._here = asyncio.get_running_loop()
        self._courier = courier
        self._there = there
        self._live = live  # a loop holds its tasks weakly; touched on the other side only
        self._task: asyncio.Task[None] | None = None
        self._left = False
        self._over = False
        self._wake: asyncio.Future[bool] | None = None
        self._waking = False
        self._silence = LazyTimer(self._silent)
        self._value: Any = None
        self._error: BaseException | None = None
        self.ended = False
        self.parts: deque[Any] = deque()
        self._sent = 0
        self._taken = 0
        self._full: asyncio.Event | None = None

    # -- on the side of the caller ----------------------------------------------------------------

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Begin `work(*args)` on the other loop, in a copy of the caller's context."""
        context = copy_context()

        def begin() -> None:
            if not self._left:
                self._live.add(self)
                self._task = self._there.create_task(work(*args), context=context)

        try:
            self._there.call_soon_threadsafe(begin)
        except RuntimeError:  # that loop is closed
            raise _gone() from None

    async def news(self, within: float | None = None) -> bool:
        """Wait until a part has come or the end; tell whether one did, within so many seconds."""
        self._wake = self._here.create_future()
        try:
            if self.ended or self.parts:
                return True
            if within is not None:
                self._silence.set(within)
            return await self._wake
        finally:
            self._wake = None
            self._silence.rest()

    def take(self) -> Any:
        """Return the oldest part and let the other side go on if it waits for room."""
        part = self.parts.popleft()
        self._taken += 1
        full = self._full
        if full is not None and self._sent - self._taken <= BUFFER // 2:
            _post(self._there, full.set)
        return part

    def outcome(self) -> Any:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._value

    def leave(self) -> None:
        """Cancel the work if it has not ended; nobody waits for it any more."""
        self._left = True
        self._silence.stop()
        if not self._over:
            _post(self._there, self._cancel)

    def abandon(self) -> None:
        """Let the caller go with `Draining`, whatever the other side does. From any thread."""
        _post(self._here, self._finish, None, _gone())

    # -- on the other side ------------------------------------------------------------------------

    async def run(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Do one call and tell how it ended."""
        try:
            value = await fn(*args)
        except Exception as error:  # noqa: BLE001  # it is raised again where the caller waits
            self._end(None, error)
        except BaseException:
            self._end(None, _gone())
            raise
        else:
            self._end(value, None)

    async def pump(self, open_parts: Callable[[], AbstractAsyncContextManager[AsyncIterator[Any]]]) -> None:
        """Hand over every part of one stream."""
        async with open_parts() as parts:
            async for part in parts:
                if self._sent - self._taken >= BUFFER:
                    await self._room()
                self.parts.append(part)
                self._sent += 1
                self._tell()

    async def _room(self) -> None:
        self._full = full = asyncio.Event()
        if self._sent - self._taken >= BUFFER:
            await full.wait()
        self._full = None

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _end(self, value: Any, error: BaseException | None) -> None:
        self._over = True
        self._live.discard(self)
        if self._left:
            _tell_unheard(error)
        else:
            _post(self._here, self._finish, value, error)

    def _tell(self) -> None:
        # One wake-up is enough for all that is sent before it arrives.
        if not self._waking:
            self._waking = True
            self._courier.carry(self)

    # -- on the caller's loop again ---------------------------------------------------------------

    def woken(self) -> None:
        """Know that a part or the end is here."""
        self._waking = False
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(True)

    def _silent(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(False)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        if not self.ended:
            self._value, self._error, self.ended = value, error, True
            self.woken()


class _Courier:
    """Wakes the crossings of one loop for the parts that came: at once, and while there are many, all of them together
    after a few milliseconds. Each wake-up costs both loops a turn and a fight for the interpreter's lock.

    Used on the actors' loop only.
    """

    def __init__(self, actors: asyncio.AbstractEventLoop, caller: asyncio.AbstractEventLoop) -> None:
        self._actors, self._caller = actors, caller
        self._waiting: list[_Crossing] = []
        self._due = 0.0

    def carry(self, crossing: _Crossing) -> None:
        """Have *crossing* woken."""
        self._waiting.append(crossing)
        if len(self._waiting) > 1:
            return
        now = self._actors.time()
        if now >= self._due:
            self._deliver(now)
        else:
            self._actors.call_at(self._due, self._deliver)

    def _deliver(self, now: float | None = None) -> None:
        waiting, self._waiting = self._waiting, []
        self._due = (self._actors.time() if now is None else now) + PACE
        _post(self._caller, _wake, waiting)


def _wake(crossings: list[_Crossing]) -> None:
    for crossing in crossings:
        crossing.woken()


class Received(Generic[T]):
    """The receiving end of a stream. Cancelling a wait loses no part."""

    def __init__(self, crossing: _Crossing) -> None:
        self._crossing = crossing

    async def batch(self, within: float | None = None) -> list[T] | None:
        """Wait for a part and return all that are there then, in order; an empty list means the end.

        None where none came within so many seconds.
        """
        crossing = self._crossing
        while not crossing.parts:
            if crossing.ended:
                crossing.outcome()
                return []
            if not await crossing.news(within):
                return None
        return [crossing.take() for _ in range(len(crossing.parts))]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        crossing = self._crossing
        while not crossing.parts:
            if crossing.ended:
                crossing.outcome()
                raise StopAsyncIteration
            await crossing.news()
        return crossing.take()  # type: ignore[no-any-return]  # the crossing carries parts of any type


def _post(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(fn, *args)
    except RuntimeError:
        pass  # that loop is closed: nobody is left there to be told


def _gone() -> Draining:
    return Draining("The daemon is stopping; this was not carried out, or its end is unknown.")


def _tell_unheard(error: BaseException | None) -> None:
    # Its caller left; errors of ours would have been an answer, the others are mistakes somebody must see.
    if error is not None and not isinstance(error, UnderstudyError):
        _log.error("abandoned_call_failed", exc_info=error)
