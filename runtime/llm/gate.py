"""Who may call a provider now: so many at once, so many requests and tokens a minute, first come first served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from runtime.clock import Clock
from schemas.config import LimitSettings

_NOTHING: Final = 1e-6
_SHORTEST: Final = 0.001
"""Seconds: below it a sleep may end before the clock has moved."""


@dataclass(slots=True)
class Bucket:
    """A bucket that fills evenly and holds what a minute brings; `at` and waits are in seconds.

    It may fall below nothing where more was used than had been said, by at most a minute's worth: what lies further
    back no provider remembers.
    """

    per_minute: int
    level: float
    at: float

    def wait(self, amount: int, now: float) -> float:
        """Return the seconds until *amount* can be taken; more than it holds waits until it is full."""
        self.level = min(float(self.per_minute), self.level + max(0.0, now - self.at) * self.per_minute / 60)
        self.at = now
        missing = min(amount, self.per_minute) - self.level
        return missing * 60 / self.per_minute if missing > _NOTHING else 0.0

    def take(self, amount: int) -> None:
        """Take *amount* out; a negative one is put back."""
        self.level = min(float(self.per_minute), max(-float(self.per_minute), self.level - amount))


class Gate:
    """A line before a provider. Only its head waits for anything, so nobody is overtaken, however small his wish is."""

    def __init__(self, limits: LimitSettings, clock: Clock) -> None:
        self._clock = clock
        self._line = anyio.Lock()
        seats = limits.concurrency
        self._seats = None if seats is None else anyio.Semaphore(seats, max_value=seats)
        self._limits = limits
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._changed = anyio.Event()
        self._closed = False
        self.active = 0
        self.waiting = 0

    @asynccontextmanager
    async def enter(self, tokens: int) -> AsyncIterator["Ticket"]:
        """Wait in line, then hold a place, with one request and *tokens* taken, until the block is left.

        Cancelled while it waits it leaves the line and has taken nothing.
        """
        self.waiting += 1
        try:
            async with self._line:
                await self._take_seat(tokens)
        finally:
            self.waiting -= 1
        self.active += 1
        try:
            yield Ticket(self, tokens)
        finally:
            self.active -= 1
            self._leave_seat()

    def close(self) -> None:
        """Let everybody through who waits for the next minute: there is nothing left to protect."""
        self._closed = True
        self._wake()

    def give_back(self, requests: int, tokens: int) -> None:
        """Put back what was taken but not used; negative tokens are what was used beyond."""
        if self._requests is not None:
            self._requests.take(-requests)
        if self._tokens is not None:
            self._tokens.take(-tokens)
        self._wake()

    async def _take_seat(self, tokens: int) -> None:
        if self._seats is not None:
            await self._seats.acquire()
        try:
            await self._take_rate(tokens)
        except BaseException:
            self._leave_seat()
            raise

    def _leave_seat(self) -> None:
        if self._seats is not None:
            self._seats.release()

    async def _take_rate(self, tokens: int) -> None:
        while not self._closed:
            wait = self._wait(tokens)
            if wait <= 0:
                self._take(tokens)
                return
            with anyio.move_on_after(max(wait, _SHORTEST)):
                await self._changed.wait()

    def _wait(self, tokens: int) -> float:
        now = self._clock.monotonic()
        wait = 0.0
        if self._limits.requests_per_minute is not None:
            self._requests = self._requests or _full(self._limits.requests_per_minute, now)
            wait = self._requests.wait(1, now)
        if self._limits.tokens_per_minute is not None:
            self._tokens = self._tokens or _full(self._limits.tokens_per_minute, now)
            wait = max(wait, self._tokens.wait(tokens, now))
        return wait

    def _take(self, tokens: int) -> None:
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._tokens.take(tokens)

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class Ticket:
    """A place in a provider: one request and the tokens that were set aside for it."""

    def __init__(self, gate: Gate, tokens: int) -> None:
        self._gate, self._tokens = gate, tokens

    def settle(self, used: int) -> None:
        """Put right what was set aside by what was *used*; the last word counts."""
        if used != self._tokens:
            self._gate.give_back(0, self._tokens - used)
            self._tokens = used

    def void(self) -> None:
        """No call was made: everything goes back."""
        self._gate.give_back(1, self._tokens)
        self._tokens = 0


def _full(per_minute: int, now: float) -> Bucket:
    return Bucket(per_minute, float(per_minute), now)
