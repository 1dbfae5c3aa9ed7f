"""One request on the control socket with the way to answer it, and work that ends when its client leaves."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from runtime.control.replies import Receive, Scope, Send
from runtime.control.routes import Match

T = TypeVar("T")


class HungUp(Exception):
    """The client is gone; there is nobody to answer."""


class Line:
    """The client's end of a connection. The server keeps one per connection and hands it over in `scope["state"]`.

    ASGI tells of a hang-up through `receive`, which takes a task of its own to wait in: 0.1 ms a request, as much as
    all the rest. This costs nothing. `peer` is the process that connected, 0 where nobody knows.
    """

    def __init__(self, peer: int = 0) -> None:
        self.peer = peer
        self._lost = False
        self._on_lost: Callable[[], object] | None = None

    def lose(self) -> None:
        """Say that the client is gone. On the loop of the server."""
        self._lost = True
        if self._on_lost is not None:
            self._on_lost()

    async def attached(self, work: Callable[[], Awaitable[T]], *, seconds: float = float("inf")) -> T:
        """Await `work()` and return or raise what it does; it is cancelled when the client hangs up.

        Raises `HungUp` then, and `TimeoutError` after *seconds*.
        """
        self._check()
        with anyio.CancelScope(deadline=anyio.current_time() + seconds) as scope:
            self._on_lost = scope.cancel
            try:
                return await work()
            finally:
                self._on_lost = None
        self._check()
        raise TimeoutError

    def _check(self) -> None:
        if self._lost:
            raise HungUp


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request whose operation is known. `id` is what its log lines and its answer are marked with."""

    match: Match
    scope: Scope
    receive: Receive
    send: Send
    id: str

    @property
    def line(self) -> Line:
        """The client's end."""
        line: Line = self.scope["state"]["line"]
        return line
