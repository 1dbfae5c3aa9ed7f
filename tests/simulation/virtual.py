"""An event loop whose clock jumps: it stands still while anything can run, and goes to the next timer when nothing can.

The simulation has neither sockets nor threads, so nothing else can ever wake it.
"""

import asyncio  # the loop of the simulation is one of asyncio's
import selectors
from typing import Any


class Stuck(Exception):
    """Nothing can run, and no timer will ever wake anything: a deadlock."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time, seconds from 1,000."""

    def __init__(self) -> None:
        self.at = 1000.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.at

    def jump(self) -> None:
        self.at = max(self.at, self._scheduled[0].when())  # type: ignore[attr-defined]


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise Stuck("nothing can run and nothing is due")
        if timeout > 0:
            self._loop.jump()
        return []
