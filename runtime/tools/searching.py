"""Looks for lines in the files of a folder. A regular expression can take for ever and let nothing else run meanwhile,
so that is looked for in a process of its own, which can be ended: see `main`.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

from runtime.errors import ToolError
from runtime.tools.inside import FOLDER, folder, opened, parts_of, regular

MAX_FOUND: Final = 200
MAX_SEARCHED: Final = 5_000
"""Files that one search looks into; of each the first megabyte."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of all of them together."""
MAX_LINE: Final = 500
MAX_WORDS: Final = 1_000
ENOUGH: Final = "[there may be more; look in a smaller folder]"
REFUSED: Final = 3
"""The exit code of the process when its standard error says in words for the agent what is wrong."""

Wanted: TypeAlias = Callable[[str], object]
"""What tells by its truth whether a line is one of those that are looked for."""

_HOME: Final = str(Path(__file__).resolve().parent.parent.parent)
# Isolated: neither the folder that is searched nor a variable has a say in what is imported.
APART: Final = (
    *(sys.executable, "-I", "-c"),
    f"import sys; sys.path.insert(0, {_HOME!r}); from runtime.tools.searching import main; main()",
)
"""The command that answers one request of `request_of`, in the folder that is searched."""


def search(root: Path, arguments: dict[str, Any]) -> str:
    """Return the lines in which some words stand: `path:number: line`. Raises ToolError."""
    wanted = _wanted(arguments["words"], regex=arguments.get("regex", False))
    start = parts_of(arguments.get("path", "."))
    found: list[str] = []
    looked = 0
    with folder(root, start) as at, closing(_texts(at, "/".join(map(shown, start)))) as texts:
        for number, (path, text, size) in enumerate(texts, 1):
            found += _hits(path, text, wanted, MAX_FOUND + 1 - len(found))
            looked += size
            if len(found) > MAX_FOUND or number >= MAX_SEARCHED or looked >= MAX_BYTES:
                found = [*found[:MAX_FOUND], ENOUGH]
                break
    return "\n".join(found) if found else "nothing was found"


def request_of(arguments: dict[str, Any]) -> bytes:
    """Return the arguments of `search` as the process reads them."""
    return json.dumps(arguments).encode()


def main() -> None:
    """Search the current folder for what standard input says, and write what is found."""
    try:
        said, code = search(Path(), json.load(sys.stdin.buffer)), 0
    except ToolError as error:
        said, code = error.detail, REFUSED
    except OSError as error:
        said, code = os.strerror(error.errno or 0), REFUSED
    (sys.stderr if code else sys.stdout).buffer.write(said.encode(errors="replace"))
    sys.exit(code)


def shown(name: str) -> str:
    """Return a name as text of one line, whatever bytes it is made of."""
    text = os.fsencode(name).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _wanted(words: str, *, regex: bool) -> Wanted:
    if not words:
        raise ToolError("there are no words to look for")
    if not regex:  # by an expression they would be looked for in the daemon without a pause for anybody else
        folded = words.casefold()
        return lambda line: folded in line.casefold()
    try:
        return re.compile(words).search
    except (re.error, OverflowError, RecursionError) as error:
        raise ToolError(f"this is no regular expression: {error}") from None


def _texts(at: int, path: str, depth: int = 0) -> Generator[tuple[str, str, int], None, None]:
    """Give each file below a folder with its text, empty where it has none, and its bytes; links and devices are
    passed over.
    """
    with os.scandir(at) as entries:
        inside = sorted(entries, key=lambda one: one.name)
    for entry in inside:
        place = f"{path}/{shown(entry.name)}" if path else shown(entry.name)
        try:
            if entry.is_dir(follow_symlinks=False) and depth < 32 and entry.name != ".git":
                inner = opened(entry.name, FOLDER, at)
                try:
                    yield from _texts(inner, place, depth + 1)
                finally:
                    os.close(inner)
            elif entry.is_file(follow_symlinks=False):
                with regular(entry.name, at) as fd:
                    data = os.pread(fd, 1024 * 1024, 0)
                yield place, "" if b"\0" in data else data.decode(errors="replace"), len(data)
        except (ToolError, OSError):
            continue


def _hits(path: str, text: str, wanted: Wanted, most: int) -> list[str]:
    hits: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if wanted(line.removesuffix("\r")):
            hits.append(f"{path}:{number}: {line.strip()[:MAX_LINE]}")
            if len(hits) >= most:
                break
    return hits
