"""The one seam for time, ids and chance; nothing else calls `time`, `uuid` or `random`."""

import os
import random as _random
import struct
import time
from collections.abc import Iterator
from typing import Final, Protocol

import anyio

RANDS: Final = 512
"""Random numbers that are fetched at a time."""


class Clock(Protocol):
    """What the product asks of time and chance."""

    def now(self) -> int:
        """Wall time in milliseconds since 1970, UTC. It may jump; never subtract two of them to decide a kill."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, of the running event loop (virtual under a virtual clock)."""
        ...

    def new_id(self) -> str:
        """A new UUIDv7 as text: unique, and sorted by the time it was made."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...


class SystemClock:
    """The machine's time and chance."""

    def __init__(self) -> None:
        self._last_ms = 0
        self._counter = 0
        self._rands: Iterator[tuple[int]] = iter(())

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return anyio.current_time()

    def new_id(self) -> str:
        # 48 bits of milliseconds, then a 12 bit counter within the millisecond, then 62 random bits (RFC 9562, method
        # 1): ids made by one process in one millisecond stay sorted.
        ms = time.time_ns() // 1_000_000
        if ms <= self._last_ms:
            self._counter += 1
            if self._counter > 0xFFF:
                self._last_ms += 1
                self._counter = 0
        else:
            self._last_ms, self._counter = ms, 0
        for (rand,) in self._rands:
            return format_uuid7(self._last_ms, self._counter, rand)
        self._rands = struct.iter_unpack("Q", os.urandom(8 * RANDS))  # one call to the system for many ids
        return format_uuid7(self._last_ms, self._counter, next(self._rands)[0])

    def random(self) -> float:
        return _random.random()  # noqa: S311  # jitter, not a secret


class VirtualClock:
    """Time and chance of a simulation: wall time follows the loop's own clock, ids and chance follow a seed."""

    def __init__(self, seed: int = 0, start_ms: int = 1_700_000_000_000) -> None:
        self._random = _random.Random(seed)  # noqa: S311  # reproducible on purpose
        self._start_ms = self._first_ms = start_ms
        self._origin: float | None = None
        self._count = 0

    def now(self) -> int:
        at = anyio.current_time()
        if self._origin is None:
            self._origin = at
        return self._start_ms + round((at - self._origin) * 1000)

    def step(self, ms: int) -> None:
        """Set the wall clock forward or back by *ms*; monotonic time does not notice. A sleep of the machine looks the
        same.
        """
        self._start_ms += ms

    def monotonic(self) -> float:
        return anyio.current_time()

    def new_id(self) -> str:
        self._count += 1
        return format_uuid7(self._first_ms + self._count // 0x1000, self._count % 0x1000, self._random.getrandbits(64))

    def random(self) -> float:
        return self._random.random()


def format_uuid7(ms: int, counter: int, rand: int) -> str:
    """Lay out *ms*, a 12 bit *counter* and 62 bits of *rand* as a UUIDv7."""
    first, second, third = ms >> 16 & 0xFFFFFFFF, ms & 0xFFFF, counter & 0xFFF
    fourth, fifth = 0x8000 | rand >> 48 & 0x3FFF, rand & 0xFFFFFFFFFFFF
    # A third faster than an f-string, and made for every job.
    return "%08x-%04x-7%03x-%04x-%012x" % (first, second, third, fourth, fifth)  # noqa: UP031
