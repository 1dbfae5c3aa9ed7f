"""A server of tools written with the official SDK: `python mcp_server_tools.py FOLDER [PORT]`, over stdio without a
port. What it does is written to files in FOLDER, `FOLDER/words` is what the tool `greet` says of itself, and where
`FOLDER/old` is there it knows the protocol's older age only.
"""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import (
    METHOD_NOT_FOUND,
    AudioContent,
    CallToolResult,
    ImageContent,
    ResourceLink,
    TextContent,
    ToolAnnotations,
)

FOLDER = Path(sys.argv[1])
OLD = FOLDER / "old"


async def refuse_the_new(context: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
    if context.method == "server/discover" and OLD.exists():
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    return await call_next(context)


server = MCPServer("tools", log_level="ERROR", middleware=[refuse_the_new])


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def greet(name: str) -> str:
    return f"hello {name}"


def learn() -> None:
    """Offer `greet` with what stands in the file now."""
    words = FOLDER / "words"
    server.add_tool(greet, description=words.read_text() if words.exists() else "Greet somebody.")


@server.tool()
async def renew(context: Context) -> str:
    """Offer `greet` anew, and a tool that was not there before."""
    server.remove_tool("greet")
    learn()
    if OLD.exists():
        await context.session.send_tool_list_changed()
    else:
        await context.notify_tools_changed()
    return "renewed"


@server.tool()
def fail(reason: str) -> str:
    """Fail."""
    raise ToolError(reason)


@server.tool()
def header(name: str, context: Context) -> str:
    """Tell a header of the request."""
    return str((context.headers or {}).get(name))


@server.tool()
async def slow() -> str:
    """Take a very long time."""
    (FOLDER / "slow-began").touch()
    try:
        await anyio.sleep(3600)
    except anyio.get_cancelled_exc_class():
        (FOLDER / "slow-cancelled").touch()
        raise
    return "never"


@server.tool()
def everything() -> CallToolResult:
    """Answer with more than text."""
    return CallToolResult(
        content=[
            TextContent(text="first"),
            ImageContent(data="AAAA", mime_type="image/png"),
            AudioContent(data="AAAAAAAA", mime_type="audio/wav"),
            ResourceLink(uri="file:///notes.txt", name="notes"),
            TextContent(text="last"),
        ]
    )


@server.tool()
def surroundings(names: list[str]) -> str:
    """Tell variables of the environment, and the folder it runs in."""
    return "\n".join([*(f"{name}={os.environ.get(name)}" for name in names), str(Path.cwd())])


@server.tool()
def crash(words: str) -> str:
    """End the whole server."""
    sys.stderr.write(words)
    sys.stderr.flush()
    os._exit(7)


@server.tool()
def large(size: int) -> str:
    """Answer with much."""
    return "x" * size


learn()
(FOLDER / "pids").open("a").write(f"{os.getpid()}\n")
if len(sys.argv) > 2:
    anyio.run(lambda: server.run_streamable_http_async(port=int(sys.argv[2])))
else:
    server.run("stdio")
