"""The tools `files.read`, `files.write`, `files.list` and `files.search`: inside the agent's folder and nowhere
else.
"""

import codecs
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from runtime.clock import VirtualClock
from runtime.errors import ToolError, ToolInvalid
from runtime.tools.commands import run as run_command
from runtime.tools.inside import folder, opened, parts_of, regular
from runtime.tools.schema import mistakes
from runtime.tools.searching import APART, MAX_WORDS, REFUSED, request_of, search, shown
from runtime.tools.tool import Tool, ToolContext, ToolResult
from schemas.tools import Effect

MAX_READ: Final = 100_000
"""Bytes that one call reads."""
MAX_WRITE: Final = 1_000_000
MAX_LISTED: Final = 1_000
SEARCH_TIME: Final = 10.0
"""Seconds for a search that a regular expression could make endless."""

Work = Callable[[Path, dict[str, Any]], str]


def file_tools() -> dict[str, Tool]:
    """Return the four tools by name."""
    return {
        "files.read": _tool(
            "files.read",
            "Read a text file of your folder.",
            {
                "path": _text("where it is, from your folder"),
                "offset": _number("the first byte, from 0"),
                "limit": _number(f"how many bytes, at most {MAX_READ}"),
            },
            ("path",),
            read,
            "pure",
        ),
        "files.write": _tool(
            "files.write",
            "Write a text file of your folder; what was in it is replaced.",
            {"path": _text("where it is, from your folder"), "text": _text("the whole new text")},
            ("path", "text"),
            write,
            "idempotent",
        ),
        "files.list": _tool(
            "files.list",
            "List a folder of your folder: a line each, folders end in /.",
            {"path": _text("which folder; your own unless given")},
            (),
            listing,
            "pure",
        ),
        "files.search": _search_tool(),
    }


def _search_tool() -> Tool:
    plain = _tool(
        "files.search",
        "Find lines in the text files of your folder.",
        {
            "words": {**_text("what to find, as it is, letter case apart"), "maxLength": MAX_WORDS},
            "path": _text("in which folder; your own unless given"),
            "regex": {
                "type": "boolean",
                "description": "words is a regular expression, held against each line; letter case counts",
            },
        },
        ("words",),
        search,
        "pure",
    )

    async def run(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        if not arguments.get("regex") or isinstance(ctx.clock, VirtualClock):
            return await plain.run(ctx, arguments)
        with anyio.move_on_after(SEARCH_TIME):
            ended, out, err = await run_command(APART, ctx.workdir, stdin=request_of(arguments))
            if ended.code == 0:
                return ToolResult(out)
            raise ToolError(err if ended.code == REFUSED else "the search broke off")
        raise ToolError(f"it took longer than {SEARCH_TIME:g} s; use a simpler expression or a smaller folder")

    return replace(plain, run=run)


def _tool(
    name: str, words: str, properties: dict[str, Any], required: tuple[str, ...], work: Work, effect: Effect
) -> Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := mistakes(arguments, schema):
            raise ToolInvalid("; ".join(wrong), errors=wrong)
        return arguments

    async def run(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        try:
            if isinstance(ctx.clock, VirtualClock):  # time that jumps does not wait for threads
                return ToolResult(work(ctx.workdir, arguments))
            # Reading may be left to itself when it takes too long; of writing somebody has to see the end.
            call = partial(work, ctx.workdir, arguments)
            return ToolResult(await anyio.to_thread.run_sync(call, abandon_on_cancel=effect == "pure"))
        except OSError as error:
            raise ToolError(os.strerror(error.errno or 0)) from None

    return Tool(name, words, schema, run, check, effect=effect, traits=frozenset({"private"}))


def _text(words: str) -> dict[str, Any]:
    return {"type": "string", "description": words}


def _number(words: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": 2**53, "description": words}


def read(root: Path, arguments: dict[str, Any]) -> str:
    """Return a part of a file. Raises ToolError."""
    steps = _file(arguments["path"])
    offset, limit = int(arguments.get("offset", 0)), min(int(arguments.get("limit", MAX_READ)), MAX_READ)
    with folder(root, steps[:-1]) as at, regular(steps[-1], at) as fd:
        size = os.fstat(fd).st_size
        data = os.pread(fd, limit, offset)
    if b"\0" in data:
        raise ToolError(f"{arguments['path']!r} is no text file")
    end = offset + len(data)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=end >= size or limit < 4)
    end -= len(decoder.getstate()[0])  # a letter that is cut is left for the next part
    return text + (f"\n[{size - end} more bytes from offset {end}]" if end < size else "")


def write(root: Path, arguments: dict[str, Any]) -> str:
    """Put a file in the place of what was there, whole or not at all; another name of that (a hard link) keeps what it
    had. Raises ToolError.
    """
    steps = _file(arguments["path"])
    if any(step.casefold() == ".git" for step in steps):  # its configuration and hooks are programs of whoever owns it
        raise ToolError("what git keeps is not written to")
    data = arguments["text"].encode(errors="replace")
    if len(data) > MAX_WRITE:
        raise ToolError(f"the text has {len(data)} bytes; {MAX_WRITE} are allowed")
    with folder(root, steps[:-1], make=True) as at:
        name = steps[-1]
        mode = _mode(name, at)
        beside = f".{os.urandom(8).hex()}.new"
        fd = opened(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, at)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(beside, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            os.unlink(beside, dir_fd=at)
            raise
    return f"wrote {len(data)} bytes to {arguments['path']}"


def _mode(name: str, at: int) -> int | None:
    """Return who may do what with the file that is replaced, None where there is none. Raises ToolError."""
    try:
        mode = os.stat(name, dir_fd=at, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise ToolError(f"{name!r} is no ordinary file, so it is not replaced")
    return mode & 0o777


def listing(root: Path, arguments: dict[str, Any]) -> str:
    """Return what is in a folder. Raises ToolError."""
    with folder(root, parts_of(arguments.get("path", "."))) as at, os.scandir(at) as entries:
        lines = sorted(_line(entry) for entry in entries)
    more = f"\n[{len(lines) - MAX_LISTED} more]" if len(lines) > MAX_LISTED else ""
    return "\n".join(lines[:MAX_LISTED]) + more if lines else "(nothing is in it)"


def _line(entry: "os.DirEntry[str]") -> str:
    name = shown(entry.name)
    try:
        if entry.is_symlink():
            return f"{name} (a link, not followed)"
        if entry.is_dir(follow_symlinks=False):
            return f"{name}/"
        return f"{name} {entry.stat(follow_symlinks=False).st_size}"
    except FileNotFoundError:
        return f"{name} (gone)"


def _file(path: str) -> tuple[str, ...]:
    steps = parts_of(path)
    if not steps:
        raise ToolError(f"{path!r} names no file")
    return steps
