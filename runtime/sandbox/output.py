"""What is kept of a command's output: its two ends, and its lines as far as anyone could read them."""

import codecs
from collections.abc import Callable
from typing import Final

TAIL_LIMIT: Final = 64 * 1024
MAX_LINE: Final = 8 * 1024
LINES_AT_ONCE: Final = 10_000
LINES_PER_SECOND: Final = 1_000
_RESUME_AT: Final = 100


class Tail:
    """The beginning and the end of a stream of bytes; at most *limit* bytes of it are kept."""

    def __init__(self, limit: int = TAIL_LIMIT) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    @property
    def dropped(self) -> int:
        """How many bytes between the two ends are gone."""
        return self.total - len(self._head) - len(self._tail)

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:][-self._half :]
        del self._tail[: -self._half]

    def text(self) -> str:
        """Return what is kept, with a marker in place of what is not; undecodable bytes are replaced."""
        if not self.dropped:
            return (self._head + self._tail).decode(errors="replace")
        head, tail = self._head.decode(errors="replace"), self._tail.decode(errors="replace")
        return f"{head}\n[... {self.dropped} bytes left out ...]\n{tail}"

    def __repr__(self) -> str:
        return f"<Tail total={self.total} dropped={self.dropped}>"


class Allowance:
    """How many lines may still be handed on: `LINES_AT_ONCE` at first, growing back by `LINES_PER_SECOND`.

    Once it is used up it opens again only for `_RESUME_AT` lines at a time, so a flood is not a trickle of markers.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = float(LINES_AT_ONCE)
        self._at = clock()
        self._shut = False

    def open(self) -> bool:
        """Tell whether a line may be handed on now."""
        now = self._clock()
        self._left = min(LINES_AT_ONCE, self._left + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        self._shut = self._left < (_RESUME_AT if self._shut else 1)
        return not self._shut

    def take(self) -> bool:
        """Use up one line; false where there is none left."""
        if not self.open():
            return False
        self._left -= 1
        return True


class Lines:
    """Cuts a stream of bytes into lines of text and hands each on.

    Lines longer than `MAX_LINE` characters are cut. Of a flood only a part is handed on (see `Allowance`), and a line
    says how many were not: a job that prints without end costs the daemon little more than the reading.
    """

    def __init__(self, on_line: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._allowance = Allowance(clock)
        self._skipped = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes and hand on the lines that are whole now."""
        if not self._allowance.open():
            # Cheap on purpose: only what may begin the next line is decoded.
            self._skipped += data.count(b"\n") or 1
            self._rest = self._decoder.decode(data[-MAX_LINE:]).rpartition("\n")[2]
            return
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._hand_on(line)
        if len(self._rest) > MAX_LINE:
            self._hand_on(self._rest)
            self._rest = ""

    def close(self) -> None:
        """Hand on the last line, though nothing ended it, and how many were left out."""
        self._rest += self._decoder.decode(b"", final=True)
        if self._rest:
            self._say(self._rest)
            self._rest = ""
        else:
            self._say_skipped()

    def _hand_on(self, line: str) -> None:
        if self._allowance.take():
            self._say(line)
        else:
            self._skipped += 1

    def _say(self, line: str) -> None:
        self._say_skipped()
        for start in range(0, max(len(line), 1), MAX_LINE):
            self._on_line(line[start : start + MAX_LINE].removesuffix("\r"))

    def _say_skipped(self) -> None:
        if self._skipped:
            skipped, self._skipped = self._skipped, 0
            self._on_line(f"[... {skipped} lines left out ...]")
