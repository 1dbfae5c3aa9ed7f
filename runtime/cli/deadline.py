"""A limit in time over whatever the command waits for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Expired(Exception):
    """The time given to the command is over."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `Expired` in the block after *seconds*, wherever it waits; None is no limit.

    A signal, since the wait is a read from a socket that pings keep awake. Only in the main thread.
    """
    if seconds is None:
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
