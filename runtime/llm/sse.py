"""Server-sent events from bytes, with a cap on every line and event."""

import re
from typing import Final

from runtime.errors import LlmTooLarge

# A carriage return that ends the buffer may be the first half of CR LF: it waits for the next bytes.
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\Z)")
_BOM: Final = b"\xef\xbb\xbf"


class SseParser:
    """Cuts a stream of bytes into the data of its events; other fields and comments are skipped.

    It holds at most one line and one event, each of *max_line* bytes; more raises `LlmTooLarge`. `stray` keeps the
    first line that is no event stream at all, for the error message.
    """

    def __init__(self, max_line: int) -> None:
        self.stray = b""
        self._max = max_line
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of every event they complete."""
        # What was searched before holds no line end, but for a last CR.
        start = max(0, len(self._buffer) - 1)
        self._buffer += chunk
        events: list[bytes] = []
        begin = 0
        for end in _LINE_END.finditer(self._buffer, start):
            self._line(bytes(self._buffer[begin : end.start()]), events)
            begin = end.end()
        del self._buffer[:begin]
        self._check(len(self._buffer))
        return events

    def close(self) -> list[bytes]:
        """End the stream; return the data of a last event whose blank line never came, if there is any."""
        events: list[bytes] = []
        for rest in (bytes(self._buffer).rstrip(b"\r"), b""):
            self._line(rest, events)
        self._buffer.clear()
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        self._check(len(line))
        if self._first:
            line, self._first = line.removeprefix(_BOM), False
        if not line:
            self._dispatch(events)
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._size += len(value)
            self._check(self._size)
            self._data.append(value.removeprefix(b" "))
        elif field not in (b"", b"event", b"id", b"retry") and not self.stray:
            self.stray = line

    def _dispatch(self, events: list[bytes]) -> None:
        if self._data:
            events.append(b"\n".join(self._data))
            self._data, self._size = [], 0

    def _check(self, size: int) -> None:
        if size > self._max:
            raise LlmTooLarge(f"a line of the answer is longer than {self._max} bytes", limit=self._max)
