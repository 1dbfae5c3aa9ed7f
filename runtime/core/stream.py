"""A stream of answers: a bounded channel between a handler that yields and an asker that reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.core._port import Slot

ROOM = 64
"""Items a handler may be ahead of its reader; after that it waits."""


class Channel:
    """The reply slot of a stream: items, then the end or an error. It counts as done once ended or left."""

    __slots__ = ("_error", "_full", "_items", "_left", "_over", "_reader", "_slot")

    def __init__(self, slot: Callable[[], Slot]) -> None:
        self._slot = slot
        self._items: deque[Any] = deque()
        self._reader: Slot | None = None
        self._full: Slot | None = None
        self._over = False
        self._left = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        return self._over

    def set_result(self, value: Any, /) -> None:
        """End the stream; the answer of a handler that does not stream is its one item."""
        if value is not None:
            self._items.append(value)
        self._end()

    def set_exception(self, error: BaseException, /) -> None:
        """End the stream with *error*, which the reader gets after the items that came before it."""
        self._error = error
        self._end()

    def cancel(self) -> None:
        """Leave: what is buffered is dropped and nothing more is taken."""
        self._items.clear()
        if not self._over:
            self._left = True
            self._end()

    def cancelled(self) -> bool:
        return self._left

    def exception(self) -> BaseException | None:
        return self._error

    def _end(self) -> None:
        self._over = True
        for slot in (self._reader, self._full):
            if slot is not None and not slot.done():
                slot.set_result(None)

    async def put(self, item: Any) -> None:
        """Hand *item* over; waits while the reader is 64 items behind. After the reader left it does nothing."""
        while len(self._items) >= ROOM and not self._over:
            self._full = self._slot()
            await self._full
        if self._over:
            return
        self._items.append(item)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._over:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._reader = self._slot()
            await self._reader
        item = self._items.popleft()
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        return item

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("a stream is read with `async for`, not awaited")
