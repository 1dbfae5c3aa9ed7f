"""`logs`: the daemon's log file, written for people."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from runtime.cli.failure import Failure, Interrupted
from runtime.cli.params import json_option
from runtime.cli.text import cell, escape, paint, say
from runtime.control.wire import state_dir
from schemas.codes import EXIT_INTERRUPTED, EXIT_NOT_FOUND

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
POLL: Final = 0.2
_COLOURS: Final = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
_SHOWN: Final = ("timestamp", "level", "event", "exception", "stack")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, over rotations of the file.")
@click.option("--tail", type=click.IntRange(min=0), default=100, show_default=True, help="How many of the last lines.")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level and worse.")
@json_option
def logs(follow: bool, tail: int, level: str | None, as_json: bool) -> None:
    """Show the daemon's own log. With --json its lines as they are in the file."""
    path = state_dir(os.environ) / "daemon.log"
    try:
        source = path.open("rb")
    except FileNotFoundError:
        why = f"there is no {path}"
        hint = "a daemon in the foreground writes to its own terminal; understudy up --detach writes the file"
        raise Failure("There is no log yet", why, hint, code=EXIT_NOT_FOUND) from None
    except OSError as error:
        raise Failure("The log cannot be read", str(error), "understudy doctor") from None
    lowest = LEVELS.index(level) if level else 0
    try:
        with source:
            *lines, rest = source.read().split(b"\n")
            if rest and not follow:
                lines.append(rest)
            for line in deque((line for line in lines if _level(line) >= lowest), maxlen=tail):
                _show(line, as_json=as_json)
            for line in follow_file(source, path, rest) if follow else ():
                if _level(line) >= lowest:
                    _show(line, as_json=as_json)
    except KeyboardInterrupt:
        raise Interrupted("", code=EXIT_INTERRUPTED, bare=True) from None


def follow_file(source: BinaryIO, path: Path, pending: bytes = b"") -> Iterator[bytes]:
    """Hand out whole lines as they are appended to *source*, and go on with the file that takes its place at *path*.

    *pending* is the beginning of a line that has been read already.
    """
    while True:
        turned = _turned(source, path)
        # Read after looking: what was written before the file was turned away is still to be had from the old one.
        pending += source.read()
        *lines, pending = pending.split(b"\n")
        yield from lines
        if turned:
            source.close()
            source, pending = path.open("rb"), b""
        elif not lines:
            time.sleep(POLL)


def _turned(source: BinaryIO, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False  # between the two renames of a rotation
    return there.st_ino != os.fstat(source.fileno()).st_ino or there.st_size < source.tell()


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _level(line: bytes) -> int:
    word = (_entry(line) or {}).get("level")
    # A line that is not ours (a crash of the interpreter itself) is the last one that may be hidden.
    return LEVELS.index(word) if word in LEVELS else len(LEVELS)


def _show(line: bytes, *, as_json: bool) -> None:
    say(line.decode(errors="replace") if as_json else render(line))


def render(line: bytes) -> str:
    """Return a line of the log for a person: time, level, event, fields, and a traceback indented below."""
    entry = _entry(line)
    if entry is None:
        return escape(line.decode(errors="replace"))
    level = cell(entry.get("level"))
    head = (
        cell(entry.get("timestamp")),
        paint(f"{level:<8}", _COLOURS.get(level), sys.stdout),
        cell(entry.get("event")),
        *(f"{name}={cell(value)}" for name, value in entry.items() if name not in _SHOWN),
    )
    below = [str(entry[name]) for name in ("exception", "stack") if entry.get(name)]
    text = "  ".join(head[:3]) + "".join(f"  {field}" for field in head[3:])
    return "\n".join((text.rstrip(), *("    " + escape(row) for block in below for row in block.splitlines())))
