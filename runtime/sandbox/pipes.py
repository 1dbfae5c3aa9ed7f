"""Pipes to child processes as async readers and writers: the same on every event loop, and no threads."""

import os
from collections.abc import Callable
from typing import Final

import anyio

CHUNK: Final = 64 * 1024


class End:
    """Our end of a pipe. Closing it twice is allowed; nobody may wait on it when it is closed."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def read_all(self, sink: Callable[[bytes], None]) -> None:
        """Hand all that comes to *sink*, at most 64 KiB at a time, until the other side closes.

        An error of *sink* ends the reading and is raised. Cancelling loses nothing: what is unread stays there.
        """
        while True:
            await anyio.wait_readable(self._fd)
            try:
                data = os.read(self._fd, CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return
            sink(data)

    def read_now(self, sink: Callable[[bytes], None]) -> None:
        """Hand what is there already to *sink*, without waiting."""
        while True:
            try:
                data = os.read(self._fd, CHUNK)
            except BlockingIOError:
                return
            if not data:
                return
            sink(data)

    async def read_lines(self, sink: Callable[[bytes], None], limit: int) -> None:
        """Hand each line to *sink* until the other side closes; what a line has over *limit* bytes is dropped."""
        rest = bytearray()

        def cut(data: bytes) -> None:
            *lines, last = data.split(b"\n")
            for line in lines:
                rest.extend(line[: limit - len(rest)])
                sink(bytes(rest))
                rest.clear()
            rest.extend(last[: limit - len(rest)])

        await self.read_all(cut)
        if rest:
            sink(bytes(rest))

    async def write(self, data: bytes) -> None:
        """Write all of *data*. Cancelled, a part of it may have been written.

        Raises BrokenResourceError when nobody reads any more, ClosedResourceError when it is closed here.
        """
        rest = memoryview(data)
        while rest:
            written = self._write_some(rest)
            if written == 0:
                await anyio.wait_writable(self._fd)
            rest = rest[written:]

    def write_nowait(self, data: bytes) -> bool:
        """Write a few bytes; false when nobody will read them any more."""
        try:
            return self._write_some(data) == len(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False

    def _write_some(self, data: bytes | memoryview) -> int:
        if self._fd < 0:
            raise anyio.ClosedResourceError
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError as error:
            raise anyio.BrokenResourceError from error


class Wires:
    """The pipes of one child by name: *near* ends are ours, *far* ends are numbers to hand to the child."""

    def __init__(self) -> None:
        self.near: dict[str, End] = {}
        self.far: dict[str, int] = {}

    def reads(self, *names: str) -> None:
        """Add pipes that we read."""
        for name in names:
            near, self.far[name] = os.pipe()
            self.near[name] = End(near)

    def writes(self, *names: str) -> None:
        """Add pipes that we write."""
        for name in names:
            self.far[name], near = os.pipe()
            self.near[name] = End(near)

    def hand_over(self) -> None:
        """Close the far ends: the child has its own copies now, or never will."""
        while self.far:
            os.close(self.far.popitem()[1])

    def close(self) -> None:
        """Close everything."""
        self.hand_over()
        for end in self.near.values():
            end.close()
