"""How words reach a terminal: tables, times, colours, JSON, and the escaping of what came from outside."""

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

import click

# C0 without tab and newline, DEL, C1, line separators, and the marks that reorder or that a reader does not see at all:
# what Unicode calls format, letters without a shape, and selectors of variants, in which a whole message can be hidden.
# What joins letters and the one selector that emoji have stay, where they have letters to join.
_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    r"\u2800\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    r"|(?<![\u0590-\U0010ffff])[\u200c\u200d]|(?<![0-9#*\xa9\xae\u0590-\U0010ffff])\ufe0f"
    r"|(?<=[\u200c\u200d])[\u200c\u200d\ufe0f]|(?<=\ufe0f)[\u200c\ufe0f]"
)
_UNSEEN: Final = re.compile(_UNSAFE.pattern + r"|[\u200c\u200d\ufe0f]")
"""The same for JSON, in which a letter that is written as its number is still that letter: what joins is shown too."""
_BREAKS: Final = re.compile(r"[\t\n]")
_MARKED: Final = ("STATE", "STATUS", "CHECK", "BREAKER")
_COLOURS: Final = {
    "active": "cyan",
    "allowed": "green",
    "backing_off": "yellow",
    "busy": "cyan",
    "cancelled": "yellow",
    "completed": "green",
    "degraded": "yellow",
    "denied": "red",
    "done": "green",
    "draining": "yellow",
    "error": "red",
    "expired": "yellow",
    "fail": "red",
    "failed": "red",
    "half_open": "yellow",
    "offline": "red",
    "ok": "green",
    "open": "red",
    "paused": "yellow",
    "quarantined": "red",
    "safe_mode": "red",
    "warn": "yellow",
    "warning": "yellow",
}
_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def now_ms() -> int:
    """Return the wall time in milliseconds since 1970.

    Not the product's clock: that one loads the event loop's library, which would double the start of every command.
    """
    return time.time_ns() // 1_000_000


def is_tty(stream: TextIO) -> bool:
    """Tell whether *stream* is a terminal."""
    return stream.isatty()


def coloured(stream: TextIO) -> bool:
    """Tell whether *stream* wants colour: a terminal that is not dumb, and no NO_COLOR."""
    return is_tty(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(word: str, colour: str | None, stream: TextIO) -> str:
    """Return *word* in *colour* where *stream* wants colour."""
    return click.style(word, fg=colour) if colour and coloured(stream) else word


def dimmed(word: str) -> str:
    """Return *word* faint, for stderr, where that wants colour."""
    return click.style(word, dim=True) if coloured(sys.stderr) else word


def coloured_status(status: str, word: str) -> str:
    """Return *word* in the colour of a status, on stdout."""
    return paint(word, _COLOURS.get(status), sys.stdout)


def escape(text: str, *, multiline: bool = False) -> str:
    """Return *text* with nothing in it that could command a terminal; newlines and tabs stay if *multiline*."""
    text = text.replace("\r\n", "\n") if multiline else _BREAKS.sub(lambda found: repr(found[0])[1:-1], text)
    return _UNSAFE.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def note(text: str) -> None:
    """Say something to the person, on stderr."""
    click.echo(escape(text, multiline=True), err=True)


def say(text: str) -> None:
    """Write a line of data to stdout."""
    click.echo(text, color=True)  # left alone, click takes escapes out of what a pipe should get unchanged


def write(text: str) -> None:
    """Write foreign text to stdout as it comes: escaped on a terminal, untouched on a pipe."""
    click.echo(escape(text, multiline=True) if is_tty(sys.stdout) else text, nl=False, color=True)


def dump(value: Any, *, pretty: bool = False) -> str:
    """Return *value* as JSON that keeps its letters and holds nothing a terminal would obey."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if pretty else None)
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text)


def say_json(value: Any) -> None:
    """Write *value* to stdout as JSON: indented for a person, one line for a program."""
    say(dump(value, pretty=is_tty(sys.stdout)))


def cell(value: Any) -> str:
    """Return *value* as one word of a table; what is missing is a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return escape(dump(value))
    return escape(str(value))


def width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata  # a megabyte of tables that most output never needs

    marks = sum(1 for char in text if unicodedata.combining(char))
    return len(text) - marks + sum(1 for char in text if unicodedata.east_asian_width(char) in "WF")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table without borders: one row a line, columns two spaces apart, numbers to the right."""
    values = [list(row) for row in rows]
    cells = [list(headers), *([cell(value) for value in row] for row in values)]
    widths = [max(width(line[i]) for line in cells) for i in range(len(headers))]
    right = [bool(values) and all(type(row[i]) is int for row in values) for i in range(len(headers))]
    lines = (_line(headers, line, widths, right, head=n == 0) for n, line in enumerate(cells))
    return "\n".join(lines)


def _line(headers: Sequence[str], line: list[str], widths: list[int], right: list[bool], *, head: bool) -> str:
    parts = []
    for header, word, wide, to_right in zip(headers, line, widths, right, strict=True):
        gap = " " * (wide - width(word))
        shown = word if head or header not in _MARKED else paint(word, _COLOURS.get(word), sys.stdout)
        parts.append(gap + shown if to_right else shown + gap)
    return "  ".join(parts).rstrip()


def fields(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return names and values in two columns; text of several lines is indented below its name."""
    known = [(name, value) for name, value in pairs if value is not None and value != ""]
    wide = max((len(name) for name, _ in known), default=0)
    lines = []
    for name, value in known:
        word = escape(value, multiline=True) if isinstance(value, str) else cell(value)
        lines.append(f"{name:<{wide}}  " + word.rstrip("\n").replace("\n", "\n" + " " * (wide + 2)))
    return "\n".join(lines)


def first_line(text: str, room: int | None = None) -> str:
    """Return the first line of *text* that says something, escaped, in *room* columns; dots stand for the rest."""
    lines = text.strip().splitlines()
    line = escape(lines[0].strip()) if lines else ""
    cut = len(lines) > 1
    if room is not None and width(line) + 2 * cut > room:
        line, cut = line[:room], True
        while width(line) > room - 2:
            line = line[:-1]
    return f"{line} \N{HORIZONTAL ELLIPSIS}" if cut else line


def columns() -> int:
    """Return how many columns the terminal has; 80 where there is none."""
    import shutil  # `status` does without it

    return shutil.get_terminal_size().columns


def money(micros: int) -> str:
    """Return millionths as a number of units, without zeros at its end: `0.0123`."""
    return f"{'-' if micros < 0 else ''}{abs(micros) // 1_000_000}.{abs(micros) % 1_000_000:06d}".rstrip("0").rstrip(
        "."
    )


def took(ms: int | None) -> str | None:
    """Return how long something took: `820 ms`, `1.2 s`, `3 min`."""
    if ms is None or ms < 1000:
        return None if ms is None else f"{ms} ms"
    return f"{ms / 1000:.1f} s" if ms < 60_000 else span(ms / 1000)


def span(seconds: float) -> str:
    """Return a length of time in its largest unit: `3 s`, `12 min`, `2 d`."""
    for size, unit in _SPANS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def ago(at: int | None) -> str:
    """Return how long ago a time in milliseconds was: `3 s ago`; `in 3 s` for one to come."""
    if at is None:
        return "-"
    seconds = (now_ms() - at) / 1000
    return f"{span(seconds)} ago" if seconds > -1 else f"in {span(-seconds)}"


def stamp(at: int) -> str:
    """Return a time in milliseconds as ISO 8601, UTC, to the second."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000))
    except (OverflowError, ValueError):
        return str(at)


def when(at: int | None) -> str | None:
    """Return a time both ways: `3 s ago (2026-11-22T17:45:01Z)`."""
    return None if at is None else f"{ago(at)} ({stamp(at)})"
