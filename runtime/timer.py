"""A deadline that is moved on again and again, at the price of a comparison."""

import asyncio  # by name: it is one of its loop's timers, which anyio does not show
from collections.abc import Callable
from typing import Final

NEVER: Final = float("inf")


class LazyTimer:
    """Calls *ring* once a moment has come that was set and not moved on since.

    To cancel and set a timer of the loop costs more than the read that it guards. So the loop's own is left where it
    is, and set anew only when it comes too late or has come too early. It lives on the loop it was made on.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._due = NEVER
        self._handle: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Ring in *seconds* from now, instead of whenever it was to ring."""
        self._due = self._loop.time() + seconds
        if self._handle is None or self._handle.when() > self._due:
            self._arm()

    def rest(self) -> None:
        """Do not ring until it is set again."""
        self._due = NEVER

    def stop(self) -> None:
        """Do not ring, and let go of the loop's timer: it will not be needed again."""
        self.rest()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(self._due, self._came)

    def _came(self) -> None:
        self._handle = None
        if self._due == NEVER:
            return
        if self._loop.time() < self._due:
            self._arm()
        else:
            self._due = NEVER
            self._ring()
