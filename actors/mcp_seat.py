"""What agents see of an MCP server, whether it is up or not."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import anyio

from runtime.errors import McpUnavailable, ToolUnknown
from runtime.tools.mcp import Changed, Offered, tool_of, withheld
from runtime.tools.tool import Tool, ToolResult

READY_WITHIN: Final = 30.0


class Answers(Protocol):
    """An open session: see `runtime.tools.mcp_link.Link`, which may not be there to be imported."""

    async def call(self, name: str, arguments: dict[str, Any], within: float) -> ToolResult:
        """Call a tool by the server's own name for it."""
        ...


class McpSeat:
    """What agents see of one MCP server, whether it is up or not.

    tools    what can be used, by `SERVER/tool`; they stay while the server is down, and say so when they are called
    missing  what it lists and cannot be used, by the same names, and why
    changed  of these, the tools that differ from what was pinned
    trouble  why it is not up; None while it is, and before it was tried
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tools: dict[str, Tool] = {}
        self.missing: dict[str, str] = {}
        self.changed: dict[str, Changed] = {}
        self.trouble: str | None = None
        self._digests: dict[str, str] = {}
        self._link: Answers | None = None
        self._settled, self._up = anyio.Event(), anyio.Event()

    async def ready(self, within: float = READY_WITHIN) -> None:
        """Wait until the server is up, or is known not to be; *within* seconds at most, without an error after them."""
        with anyio.move_on_after(within):
            await self._settled.wait()

    async def up(self) -> None:
        """Wait until the server is up, however long."""
        await self._up.wait()

    def why_not(self, tool: str) -> str:
        """Return why *tool* (`SERVER/tool`) is not among the tools."""
        if tool in self.missing:
            return self.missing[tool]
        if self.trouble is not None:
            return f"the MCP server {self.name} is not up: {self.trouble}"
        if not self._settled.is_set():
            return f"the MCP server {self.name} is not up yet"
        return f"the MCP server {self.name} has no such tool"

    def take(
        self, found: Mapping[str, Offered], changed: Mapping[str, Changed], refused: Mapping[str, str], timeout: float
    ) -> None:
        """Have what the server lists: *found* but for what is withheld in *changed*; *timeout* in seconds."""
        self.changed = dict(changed)
        self.missing = dict(refused) | {name: withheld(self.name) for name in changed}
        usable = {name: one for name, one in found.items() if name not in changed}

        async def call(tool: Offered, arguments: dict[str, Any]) -> ToolResult:
            return await self.call(tool, arguments, timeout)

        self.tools = {name: tool_of(self.name, one, call, timeout=timeout) for name, one in usable.items()}
        self._digests = {name: one.digest for name, one in usable.items()}

    async def call(self, tool: Offered, arguments: dict[str, Any], timeout: float) -> ToolResult:
        """Call *tool*, which must be what it was when it was taken.

        Raises McpUnavailable while the server is down (nothing was done), ToolUnknown for a tool that has changed or is
        gone, and what `Link.call` raises.
        """
        await self.ready()
        name = f"{self.name}/{tool.name}"
        if self._link is None:
            raise McpUnavailable(
                f"the MCP server {self.name} is not up, nothing was done: {self.trouble or 'it starts'}",
                retry_after=1.0,
            )
        if self._digests.get(name) != tool.digest:
            why = self.missing.get(name, "its server no longer has it as it was")
            raise ToolUnknown(f"{name} cannot be called: {why}")
        return await self._link.call(tool.name, arguments, timeout)

    def came_up(self, link: Answers) -> None:
        """The server answers, and its tools are taken."""
        self._link, self.trouble = link, None
        self._settled.set()
        self._up.set()

    def went_down(self, trouble: str) -> None:
        """The server does not answer, and why."""
        self._link, self.trouble = None, trouble
        self._settled.set()
        if self._up.is_set():
            self._up = anyio.Event()
