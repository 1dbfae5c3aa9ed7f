"""Progress on a terminal: one line for each job that is at work, drawn over itself on stderr; nothing anywhere else."""

import os
import shutil
import sys
from typing import Any, Final

from runtime.cli.text import escape, is_tty, width

BAR: Final = 24
"""Columns of a bar."""

SHOWN: Final = 8
"""Jobs that have a line of their own at once."""


class Bars:
    """Lines that stay at the bottom of the terminal: how many jobs have ended, and how far those at work are.

    Whatever else is to be printed has to come after `clear`. Off a terminal, or on a dumb one, nothing is drawn.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended = 0
        self.enabled = is_tty(sys.stderr) and os.environ.get("TERM") != "dumb"
        self._lines: dict[str, str] = {}
        self._drawn = 0

    def show(self, job: str, progress: Any) -> None:
        """Show how far a job is, as its code told it."""
        self._lines.pop(job, None)
        self._lines[job] = f"{short(job)}  {bar(progress)}"
        self.draw()

    def end(self, job: str) -> None:
        """Note that a job has ended."""
        self._lines.pop(job, None)
        self.ended += 1

    def draw(self) -> None:
        """Draw everything anew."""
        if not self.enabled:
            return
        lines = list(self._lines.values())[-SHOWN:]
        if self.total > 1:
            lines.append(f"{self.ended} of {self.total} ended  {meter(self.ended / self.total)}")
        columns = shutil.get_terminal_size().columns - 1
        self._erase()
        for line in lines:
            sys.stderr.write(cut(line, columns) + "\n")
        sys.stderr.flush()
        self._drawn = len(lines)

    def clear(self) -> None:
        """Take the lines away, so that something can be printed."""
        if self.enabled:
            self._erase()
            sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[0J")
        self._drawn = 0


def bar(progress: Any) -> str:
    """Return progress in one line: a bar for `{"done": 2, "of": 5}`, `{"percent": 40}` or 0.4, else what was said."""
    match progress:
        case {"done": int() | float() as done, "of": int() | float() as of, **more} if of > 0:
            return f"{meter(done / of)}  {done:g} of {of:g}{rest(more)}"
        case {"percent": int() | float() as percent, **more}:
            return f"{meter(percent / 100)}{rest(more)}"
        case bool():
            return str(progress)
        case float() if 0 <= progress <= 1:
            return meter(progress)
        case str():
            return escape(progress)
    from runtime.cli.text import dump

    return escape(dump(progress))


def rest(more: dict[Any, Any]) -> str:
    """Return what else was told beside the numbers: its texts."""
    texts = [escape(value) for value in more.values() if isinstance(value, str) and value]
    return "".join(f"  {text}" for text in texts)


def meter(part: float) -> str:
    """Return a bar that is filled as far as *part* of 1."""
    part = min(1.0, max(0.0, part))
    full = int(part * BAR)
    return f"[{'#' * full}{'.' * (BAR - full)}] {int(part * 100):3d}%"


def short(job: str) -> str:
    """Return the end of an id, which differs where the beginning, its time, does not."""
    return escape(job if len(job) <= 12 else f"…{job[-12:]}")


def cut(line: str, columns: int) -> str:
    """Return as much of *line* as fits."""
    while width(line) > columns:
        line = line[:-1]
    return line
