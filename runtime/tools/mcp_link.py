"""An open session with an MCP server, whatever carries it: `runtime.tools.mcp_stdio` or `runtime.tools.mcp_http`.

Needs the extra `mcp`; it is imported when the first server is started, in a thread, and never before: the SDK takes the
better part of a second. Both of the protocol's ages are spoken, the newer one is asked for first.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import mcp_types as types
from mcp.client.session import ClientSession, IncomingMessage
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost, listen
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from runtime.errors import McpUnavailable, ToolError, ToolTimeout
from runtime.tools.mcp import MAX_TOOLS, Listed, result_of
from runtime.tools.tool import ToolResult
from runtime.version import VERSION

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of one message of a server."""
MAX_PAGES: Final = 100
LISTEN_AGAIN: Final = 1.0

Notify = Callable[[], Awaitable[None]]


class McpEnded(Exception):
    """The server's process is gone, or what it says is no MCP: a crash of the actor that keeps it."""


class Session(ClientSession):
    """The SDK's session, but for one check."""

    async def validate_tool_result(self, name: str, result: types.CallToolResult) -> None:
        """Check nothing: the output's schema is a stranger's too, and its patterns may run for ever."""


class Link:
    """An open session, as long as the scope that gave it. `gone` is set once it is over, and `error` says why."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._forgotten = False
        self.gone = anyio.Event()
        self.error: Exception = McpEnded("its session ended")

    def lose(self, error: Exception) -> None:
        """Know that the session is over."""
        if not self.gone.is_set():
            self.error = error
            self.gone.set()

    def run_out(self) -> None:
        """Know that the server has forgotten the session, and does nothing that is asked in it."""
        self._forgotten = True
        self.lose(McpUnavailable("its session ran out; a new one is opened", retry_after=1.0))

    async def tools(self) -> list[Listed]:
        """Return all that the server lists now. Raises McpUnavailable where the session is over, ToolError for what is
        no listing.
        """
        capabilities = self._session.server_capabilities
        if capabilities is None or capabilities.tools is None:
            return []
        try:
            return await self._pages()
        except MCPError as error:
            if error.code == types.CONNECTION_CLOSED:
                raise McpUnavailable("its session is over") from error
            raise ToolError(f"it does not list its tools: {error.message[:500]}") from error
        except ValidationError as error:
            raise ToolError("what it lists are no tools that MCP knows") from error

    async def _pages(self) -> list[Listed]:
        found: list[Listed] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
            page = await self._session.list_tools(params=params)
            found += [(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None or len(found) > MAX_TOOLS:
                break
        return found

    async def call(self, name: str, arguments: dict[str, Any], within: float) -> ToolResult:
        """Call a tool by the server's own name for it. Cancelled, or after *within* seconds, it is told to stop.

        What the server refuses is a failed result. Raises ToolTimeout, and ToolError where the session ended meanwhile:
        it is not known whether the call took effect.
        """
        try:
            answer = await self._session.call_tool(name, arguments, within, allow_input_required=True)
        except MCPError as error:
            return self._refused(error, within)
        except ValidationError as error:
            raise ToolError(
                "the server's answer is none that MCP knows; whether the call took effect is unknown"
            ) from error
        if isinstance(answer, types.InputRequiredResult):
            return ToolResult(
                "the tool wants to ask a person or a model something, which is not supported", failed=True
            )
        return result_of(answer)

    def _refused(self, error: MCPError, within: float) -> ToolResult:
        if error.code == types.REQUEST_TIMEOUT:
            raise ToolTimeout(f"the tool did not answer within {within:g} s; its server was told to stop") from error
        if self._forgotten:
            raise McpUnavailable("the session with the server ran out; nothing was done", retry_after=1.0) from error
        if error.code == types.CONNECTION_CLOSED:
            raise ToolError("the server went away during the call; whether it took effect is unknown") from error
        return ToolResult(f"the server refused the call: {error.message[:2000]}", failed=True)


async def begin(session: Session) -> None:
    """Agree on the protocol: the newer age is asked for; whoever does not know it shakes hands as ever."""
    try:
        await session.discover()
    except (MCPError, ValidationError, RuntimeError) as error:
        if isinstance(error, MCPError) and error.code == types.CONNECTION_CLOSED:
            raise
        try:
            await session.initialize()
        except MCPError as refused:
            if refused.code != types.UNSUPPORTED_PROTOCOL_VERSION:
                raise
            # It was slow to start: our first question came through after we had given it up.
            await session.discover()
        except (ValidationError, RuntimeError) as unlike:
            raise McpEnded(f"it speaks no MCP that we know: {str(unlike)[:500]}") from unlike


async def keep_listening(session: Session, changed: Notify) -> None:
    """Keep the newer age's stream of changes open; in the older one they come unasked."""
    while True:
        try:
            async with listen(session, tools_list_changed=True) as subscription:
                await changed()  # nothing is told of what changed before
                async for _ in subscription:
                    pass  # the session's handler hears of it too
        except ListenNotSupportedError:
            return
        except SubscriptionLost:
            pass
        except MCPError as error:
            if error.code != types.CONNECTION_CLOSED:
                return  # it tells of no changes
        await anyio.sleep(LISTEN_AGAIN)


class Handler:
    """Hears what the server says unasked."""

    def __init__(self, changed: Notify) -> None:
        self._changed = changed

    async def __call__(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            await self._changed()


def ourselves() -> types.Implementation:
    return types.Implementation(name="understudy", version=VERSION)


def plain(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group of tasks of ours, which are nobody's business; a cancellation goes before."""
    cancelled, rest = group.split(anyio.get_cancelled_exc_class())
    if cancelled is not None:
        return cancelled
    error: BaseException = group if rest is None else rest
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
