"""One call of a tool, as an agent would make it."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from actors.testkit.virtual import hold_time
from runtime.clock import VirtualClock
from runtime.errors import ToolError
from runtime.tools.functions import tool_of
from runtime.tools.tool import Tool, ToolContext, ToolResult


class Notes:
    """What an agent remembers, for the length of a test: `runtime.tools.tool.Surroundings` in a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def remember(self, key: str, text: str | None) -> None:
        """Keep a note, or with None forget it."""
        if text is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = text

    async def recall(self, query: str, limit: int) -> list[tuple[str, str]]:
        """Return notes with a word of *query* in key or text."""
        words = query.lower().split()
        found = [note for note in self.kept.items() if any(word in " ".join(note).lower() for word in words)]
        return found[:limit]


def as_tool(tool: Tool | Callable[..., Any], name: str | None = None) -> Tool:
    """Return a function as the tool that an agent would have of it; under another *name* where one is given."""
    found = tool if isinstance(tool, Tool) else tool_of(tool)
    return found if name is None else replace(found, name=name)


async def run_tool(
    tool: Tool | Callable[..., Any], arguments: Mapping[str, Any] | None = None, **context: Any
) -> ToolResult:
    """Call a tool, or a function as a tool, and return what a model would be told of it.

    The arguments are checked by its schema first. Errors are no exceptions here but results that are `failed`, as in a
    run. *context* are fields of `runtime.tools.tool.ToolContext` (`agent`, `key`, `retried`, `surroundings`, `workdir`,
    ...); without a `workdir` the call has one that goes when it has ended. Nobody is asked for permission.
    """
    tool = as_tool(tool)
    with folder_of("tool") as folder, hold_time():
        fields: dict[str, Any] = {
            "agent": "tester",
            "run": "run-1",
            "call": "tool/0.0",
            "key": "run-1/tool/0.0",
            "workdir": folder,
            "clock": VirtualClock(),
            "surroundings": Notes(),
        }
        return await _called(tool, ToolContext(**(fields | context)), dict(arguments or {}))


@contextmanager
def folder_of(what: str) -> Iterator[Path]:
    """Give a new folder, ours alone, that goes with the block."""
    with tempfile.TemporaryDirectory(prefix=f"understudy-{what}-") as folder:
        yield Path(folder).resolve()


async def _called(tool: Tool, context: ToolContext, arguments: dict[str, Any]) -> ToolResult:
    try:
        checked = tool.check(arguments)
        with anyio.fail_after(tool.timeout):
            return await tool.run(context, checked)
    except ToolError as error:
        return ToolResult(error.detail, failed=True)
    except TimeoutError:
        return ToolResult(f"{tool.name} took more than {tool.timeout:g} s and was ended", failed=True)
    except Exception as error:  # noqa: BLE001  # a model is told what a tool raises
        return ToolResult(f"{type(error).__name__}: {error}", failed=True)
