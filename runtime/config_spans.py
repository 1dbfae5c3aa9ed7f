"""Finds where each key and value of a TOML text stands, so that a mistake or an origin can name its line."""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

Loc: TypeAlias = tuple[str | int, ...]
"""Where a value is in the data: keys, and positions within arrays from 0."""


class Place(NamedTuple):
    """A piece of one line: line and column count from 1, the width is in characters."""

    line: int
    column: int
    width: int


class Span(NamedTuple):
    """Where a key stands, and its value where that is written behind it; an array's element has only a value."""

    key: Place
    value: Place


_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN: Final = re.compile(r"[^,\]}#\n]*")
# In this order: three quotes would otherwise be an empty string and the start of another. Up to two quotes may stand
# directly before the closing three.
_STRING: Final = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)


def scan(text: str) -> dict[Loc, Span]:
    """Return the places of every key and value of *text*, in the order of the file.

    *text* must be TOML that `tomllib` has read, with `\\n` line ends. A table has the place of its name in its header;
    what a dotted key or a header only implies has the place of its part of the name.
    """
    return _Scanner(text).run()


def nearest(spans: Mapping[Loc, Span], path: Loc) -> Loc:
    """Return the longest beginning of *path* that is in *spans*; `()` where none is."""
    return next((path[:size] for size in range(len(path), 0, -1) if path[:size] in spans), ())


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._spans: dict[Loc, Span] = {}
        self._elements: dict[Loc, int] = {}  # the last position of each array of tables

    def run(self) -> dict[Loc, Span]:
        table: Loc = ()
        while True:
            self._skip(_BLANK)
            if self._pos >= len(self._text):
                return self._spans
            if self._text[self._pos] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Loc:
        double = self._text.startswith("[[", self._pos)
        self._pos += 2 if double else 1
        parts = self._key()
        path: Loc = ()
        for number, (name, place) in enumerate(parts, 1):
            path += (name,)
            if double and number == len(parts):
                self._elements[path] = self._elements.get(path, -1) + 1
            self._note(path, place)
            if path in self._elements:
                path += (self._elements[path],)
                self._note(path, place)
        self._spans[path] = Span(parts[-1][1], parts[-1][1])
        self._pos += 2 if double else 1
        return path

    def _pair(self, table: Loc) -> None:
        path = table
        parts = self._key()
        for name, place in parts:
            path += (name,)
            self._note(path, place)
        self._pos += 1  # the equals sign
        self._skip(_SPACE)
        value = self._value(path)
        self._spans[path] = Span(parts[-1][1], value)

    def _key(self) -> list[tuple[str, Place]]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._pos
            found = _STRING.match(self._text, start) or _BARE.match(self._text, start)
            assert found is not None, "tomllib took what is no key"
            self._pos = found.end()
            name = found[0] if found[0][0] not in "\"'" else str(tomllib.loads(f"v = {found[0]}")["v"])
            parts.append((name, self._place(start)))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._pos):
                return parts
            self._pos += 1

    def _value(self, path: Loc) -> Place:
        start = self._pos
        opening = self._text[start : start + 1]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline(path)
        elif found := _STRING.match(self._text, start):
            self._pos = found.end()
        else:
            self._skip(_PLAIN)
            self._pos = start + len(self._text[start : self._pos].rstrip())
        return self._place(start)

    def _array(self, path: Loc) -> None:
        self._pos += 1
        number = 0
        while self._more("]"):
            place = self._value((*path, number))
            self._spans[(*path, number)] = Span(place, place)
            number += 1

    def _inline(self, path: Loc) -> None:
        self._pos += 1
        while self._more("}"):
            self._pair(path)

    def _more(self, closing: str) -> bool:
        """Go on to the next element; when there is none, step behind *closing* and return False."""
        self._skip(_BLANK)
        if self._text.startswith(",", self._pos):
            self._pos += 1
            self._skip(_BLANK)
        ended = self._text.startswith(closing, self._pos)
        self._pos += ended
        return not ended

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._pos)
        assert found is not None  # every pattern for skipping matches the empty text too
        self._pos = found.end()

    def _note(self, path: Loc, place: Place) -> None:
        self._spans.setdefault(path, Span(place, place))

    def _place(self, start: int) -> Place:
        """Return the place from *start* to here; of several lines, the part on the first."""
        row = bisect_right(self._starts, start) - 1
        end = self._text.find("\n", start, self._pos)
        return Place(row + 1, start - self._starts[row] + 1, max(1, (self._pos if end < 0 else end) - start))
