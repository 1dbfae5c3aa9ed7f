"""What a program writes to its stdout, cut into lines under a cap, until they are read."""

from collections import deque
from typing import Final

import anyio

from runtime.backends.port import BackendUnusable

SHOWN: Final = 200
"""Characters of a line that an error shows."""


class Lines:
    """A queue of lines. A line over *max_line* bytes, or more than *max_bytes* in all, ends it with an error.

    Nothing is kept beyond that, however much is fed.
    """

    def __init__(self, max_line: int, max_bytes: int) -> None:
        self._max_line, self._max_bytes = max_line, max_bytes
        self._rest = bytearray()
        self._ready: deque[bytes] = deque()
        self._total = 0
        self._whole = 0
        self._read = 0
        self._error: BackendUnusable | None = None
        self._stopped: BaseException | None = None
        self._ended = False
        self._news = anyio.Event()

    @property
    def number(self) -> int:
        """Which line was read last, from 1."""
        return self._read

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._news.set()
        if self._error is not None or self._ended:
            return
        self._total += len(data)
        *whole, last = data.split(b"\n")
        for piece in whole:
            self._add(piece)
            if self._error is None:
                self._whole += 1
                self._ready.append(bytes(self._rest))
            self._rest.clear()
        self._add(last)
        if self._total > self._max_bytes:
            self._fail(f"it wrote more than {self._max_bytes} bytes to its stdout")

    def _add(self, data: bytes) -> None:
        self._rest += data[: self._max_line + 1 - len(self._rest)]
        if len(self._rest) > self._max_line:
            begins = shown(bytes(self._rest))
            self._fail(f"line {self._whole + 1} of its stdout has more than {self._max_line} bytes: {begins}")

    def _fail(self, why: str) -> None:
        self._error = self._error or BackendUnusable(why)
        self._rest.clear()

    def end(self) -> None:
        """Know that nothing more comes. A last line that nothing ended is one too."""
        if self._rest and self._error is None and not self._ended:
            self._ready.append(bytes(self._rest))
        self._ended = True
        self._news.set()

    def stop(self, why: BaseException) -> None:
        """Have *why* raised to whoever reads, whatever lines there are."""
        self._stopped = why
        self._news.set()

    async def next(self) -> bytes | None:
        """Return the next line, None when there are no more. Raises BackendUnusable past a cap, after the lines before
        it, and at once what `stop` was told.
        """
        while self._stopped is None and not self._ready:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._news = anyio.Event()
            await self._news.wait()
        if self._stopped is not None:
            raise self._stopped
        self._read += 1
        return self._ready.popleft()


def shown(line: bytes) -> str:
    """Return the beginning of a line as an error shows it."""
    text = line[: SHOWN * 4].decode(errors="replace")
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
