"""MCP over the stdin and stdout of a child process, which stands behind our guard. Needs the extra `mcp`."""

import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from runtime import log
from runtime.sandbox.parent import Child, Command, Exit, spawn
from runtime.tools.mcp_link import (
    MAX_MESSAGE,
    Handler,
    Link,
    McpEnded,
    Notify,
    Session,
    begin,
    keep_listening,
    ourselves,
    plain,
)

MAX_WAITING: Final = 32 * 1024 * 1024
"""Bytes of messages that wait to be looked at; a server that sends faster than that is ended."""
LINE: Final = 128
"""Bytes that a line takes beside its text while it waits."""
FAREWELL: Final = 1.0
"""Seconds that a server has to end by itself when its stdin is closed, and again when it is asked to (SIGTERM)."""

STRAYS: Final = 1000
"""Lines in a row that are no messages; a server that writes so many is none."""
STRAYS_TOLD: Final = 5
"""Of those in a row so many are logged."""
BREATH: Final = 100
"""Lines that are read before others get a turn."""

_ID: Final = re.compile(rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,100}")')

logger = log.get(__name__)


@asynccontextmanager
async def over_stdio(command: Command, *, changed: Notify, hear: Callable[[bytes], None]) -> AsyncIterator[Link]:
    """Start *command* and open a session over its stdin and stdout; *hear* gets what it writes to stderr.

    *changed* is called when the server's tools may have changed. Leaving asks the process to end, then kills all of it;
    so does the end of this process, by the guard. Raises CommandUnusable, JobFailed, McpEnded.
    """
    lines = Lines()

    def output(stream: str, data: bytes) -> None:
        (lines.feed if stream == "stdout" else hear)(data)

    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    with to_session, from_server, to_server, from_session:
        try:
            async with spawn(command, on_output=output, keep_stdin_open=True) as child:
                await child.go()
                async with anyio.create_task_group() as tasks:
                    session = Session(from_server, to_server, message_handler=Handler(changed), client_info=ourselves())
                    link = Link(session)
                    tasks.start_soon(_read, lines, to_session)
                    tasks.start_soon(_write, child, from_session)
                    tasks.start_soon(_mourn, child, lines, link)
                    try:
                        async with session:
                            try:
                                await begin(session)
                            except MCPError as error:
                                raise (link.error if link.gone.is_set() else McpEnded(error.message[:500])) from error
                            tasks.start_soon(keep_listening, session, changed)
                            yield link
                    finally:
                        await _say_farewell(child)
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise plain(group) from None


class Lines:
    """What a server writes to its stdout, cut into lines, until they are read."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._over = 0
        self._ready: deque[tuple[bytes, int]] = deque()
        self._waiting = 0
        self._news = anyio.Event()
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take what came. Raises McpEnded where more waits than we keep."""
        *lines, last = data.split(b"\n")
        for line in lines:
            self._add(line)
            if self._rest.strip():  # else there is nothing in it, and such lines cost more than their bytes
                self._ready.append((bytes(self._rest), self._over))
                self._waiting += len(self._rest) + LINE
            self._rest, self._over = bytearray(), 0
        self._add(last)
        if self._waiting > MAX_WAITING:
            raise McpEnded(f"it wrote more than {MAX_WAITING} bytes faster than they could be read")
        self._news.set()

    def _add(self, data: bytes) -> None:
        room = MAX_MESSAGE - len(self._rest)
        self._rest += data[:room]
        self._over += max(0, len(data) - room)

    def end(self) -> None:
        """Know that nothing more comes; what has no line end is left out."""
        self._ended = True
        self._news.set()

    async def next(self) -> tuple[bytes, int] | None:
        """Return the next line and how many bytes of it were left out; None when there are no more."""
        while not self._ready:
            if self._ended:
                return None
            self._news = anyio.Event()
            await self._news.wait()
        line, over = self._ready.popleft()
        self._waiting -= len(line) + LINE
        return line, over


async def _read(lines: Lines, to_session: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
    """Hand on what is a message. Raises McpEnded where too much in a row is none."""
    strays = read = 0
    with to_session:
        while (line := await lines.next()) is not None:
            read += 1
            if read % BREATH == 0:
                await anyio.lowlevel.checkpoint()
            message = _parsed(*line, log_it=strays < STRAYS_TOLD)
            if message is not None:
                strays = 0
                try:
                    await to_session.send(SessionMessage(message))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
            elif (strays := strays + 1) >= STRAYS:
                raise McpEnded(f"it wrote {STRAYS} lines in a row that are no messages")


def _parsed(line: bytes, over: int, *, log_it: bool) -> types.JSONRPCMessage | None:
    if over:
        logger.warning("mcp_message_too_large", bytes=len(line) + over)
        return _too_large(line)
    try:
        return types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:  # many programs greet on stdout before they become servers
        if log_it:
            logger.warning("mcp_said_no_mcp", text=line[:200].decode(errors="replace"))
        return None


def _too_large(line: bytes) -> types.JSONRPCMessage | None:
    """Return an error for who waits for this answer, if its beginning tells who that is."""
    found = _ID.search(line[:1000])
    if found is None:
        return None
    name = found[1].decode(errors="replace")
    fault = types.ErrorData(code=types.INTERNAL_ERROR, message=f"its answer has more than {MAX_MESSAGE} bytes")
    return types.JSONRPCError(jsonrpc="2.0", id=name.strip('"') if name.startswith('"') else int(name), error=fault)


async def _write(child: Child, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
    with from_session:
        async for message in from_session:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            try:
                await child.send(text.encode() + b"\n")
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # it reads no more: the session learns so as its own stream closes


async def _mourn(child: Child, lines: Lines, link: Link) -> None:
    ended = await child.wait()
    link.lose(McpEnded(f"its process ended: {_ending(ended)}"))
    lines.end()


def _ending(ended: Exit) -> str:
    return f"code {ended.code}" if ended.signal is None else f"signal {ended.signal}"


async def _say_farewell(child: Child) -> None:
    """Have the server end as the protocol says: close its stdin, wait, ask. Who is in a hurry cancels it, and what is
    left then is killed by who started it.
    """
    with anyio.move_on_after(FAREWELL):
        await child.close_stdin()
        await child.wait()
        return
    await child.terminate(FAREWELL)
