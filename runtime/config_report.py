"""Shows the mistakes of a configuration as a compiler does: file, line, column, caret, and what was probably meant.

Only the standard library: the command line shows mistakes that came from the daemon without loading anything else.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, TypedDict


class Mistake(TypedDict):
    """One mistake. `line` is 0 where `file` is no file but an environment variable (`$NAME`).

    `source` is the line with every secret in it covered; `hint` is empty where there is none.
    """

    file: str
    line: int
    column: int
    width: int
    code: str
    message: str
    path: str
    hint: str
    source: str


MAX_SOURCE: Final = 160
"""Characters of a line that are shown at most."""

# Keys whose values nobody shows, and text that looks like a key wherever it stands. `max_tokens` is none of them.
_COVERED: Final = r"[\w-]*(?:api[_-]?key|secret|passw(?:or)?d|credential|authorization|private[_-]?key|token)"
_VALUE: Final = (
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*(?:"|$)'
    r"|'[^'\n]*(?:'|$)"
    r"|[^\s,}\]#]+"
)
_SECRET_PAIR: Final = re.compile(
    rf"""({_COVERED}["']?\s*[=:]\s*)({_VALUE})""", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
_KEY_LIKE: Final = re.compile(
    r"\b(?:sk|pk|gsk|ghp|gho|xai|hf|AIza|xox[abp])[-_]?[A-Za-z0-9_-]{12,}|(?<=://)[^/\s@\"']+(?=@)"
)


def cover(text: str) -> str:
    """Return *text* with what is or looks secret covered by stars; every character keeps its line and column."""
    text = _SECRET_PAIR.sub(lambda found: found[1] + _stars(found[2]), text)
    return _KEY_LIKE.sub(lambda found: _stars(found[0]), text)


def _stars(value: str) -> str:
    return re.sub(r"""[^\s"']""", "*", value)


def dotted(path: Iterable[str | int]) -> str:
    """Write a path into the data as TOML would: `agents."my agent".tools[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + _tame(part).replace('"', '\\"') + '"'
            text += f".{name}" if text else name
    return text


def render(mistakes: Iterable[Mistake], word: str = "error") -> str:
    """Return *mistakes* as text for a person, one block for each, with an empty line between blocks."""
    return "\n\n".join(_block(mistake, word) for mistake in mistakes)


def _block(mistake: Mistake, word: str) -> str:
    line = str(mistake["line"]) if mistake["line"] else ""
    gutter = " " * max(1, len(line))
    place = f"{mistake['file']}:{line}:{mistake['column']}" if line else mistake["file"]
    text = [f"{word}[{mistake['code']}]: {_tame(mistake['message'])}", f"{gutter}--> {_tame(place)}"]
    if mistake["source"]:
        source, caret = _excerpt(mistake["source"], mistake["column"], mistake["width"])
        text += [f"{gutter} |", f"{line or gutter} | {source}", f"{gutter} | {caret} {_tame(mistake['path'])}".rstrip()]
    if mistake["hint"]:
        text.append(f"{gutter} = help: {_tame(mistake['hint'])}")
    return "\n".join(text)


def _excerpt(source: str, column: int, width: int) -> tuple[str, str]:
    """Return the line and the carets below it; a long line is cut on both sides."""
    start = max(0, column - 1 - MAX_SOURCE // 2) if len(source) > MAX_SOURCE else 0
    before, after = "... " if start else "", " ..." if len(source) > start + MAX_SOURCE else ""
    shown = _tame(source[start : start + MAX_SOURCE])
    at = column - 1 - start
    pad = before + shown[:at].ljust(at)
    marked = shown[at : at + width]
    # A tab stays a tab and a wide character takes two cells, or the carets would stand below something else.
    blank = "".join("\t" if char == "\t" else " " * _cells(char) for char in pad)
    return before + shown + after, blank + "^" * max(1, sum(map(_cells, marked)))


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _tame(text: str) -> str:
    """Return *text* without characters that could steer a terminal."""
    return "".join(char if char == "\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
