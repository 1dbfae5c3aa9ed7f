"""MCP over streamable HTTP. Needs the extra `mcp`."""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from runtime.errors import McpUnavailable
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

SESSION: Final = "mcp-session-id"
"""The header of a session of the older age. Answered with 404, the session is over and nothing was done."""


@asynccontextmanager
async def over_http(url: str, headers: Mapping[str, str], *, changed: Notify, silence: float) -> AsyncIterator[Link]:
    """Open a session over streamable HTTP; *headers* go with each request, to this origin and nowhere else.

    A server that says nothing for *silence* seconds while an answer is due has hung up. Raises McpUnavailable where the
    server is not there or has trouble of its own, McpEnded where it wants nothing of us.
    """
    place = urlsplit(url).netloc.rpartition("@")[2]
    statuses = deque[int](maxlen=1)
    link: Link | None = None

    async def bound(response: httpx2.Response) -> None:
        statuses.append(response.status_code)
        if response.status_code == 404 and SESSION in response.request.headers and link is not None:
            link.run_out()  # whatever words its body has for it
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for")
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            response.stream = _Bounded(response.stream, response.headers.get("content-length", ""))

    client = httpx2.AsyncClient(
        headers={**headers, "accept-encoding": "identity"},
        timeout=httpx2.Timeout(30.0, read=silence),
        event_hooks={"response": [bound]},
        trust_env=False,
        # Plain HTTP needs no certificates, and loading them takes tens of milliseconds.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if url.startswith("http:") else True,
    )
    try:
        async with (
            client,
            streamable_http_client(url, http_client=client, max_sse_event_size=MAX_MESSAGE) as (read, write),
        ):
            session = Session(read, write, message_handler=Handler(changed), client_info=ourselves())
            async with session, anyio.create_task_group() as tasks:
                await begin(session)
                link = Link(session)
                tasks.start_soon(keep_listening, session, changed)
                try:
                    yield link
                finally:
                    tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = plain(group)
        if link is not None and link.gone.is_set() and isinstance(error, Exception):
            error = link.error  # it was known before, and what followed are its echoes
        raise _told(error, place, statuses) from None
    except (MCPError, httpx2.HTTPError) as error:
        raise _told(error, place, statuses) from error


class _Bounded(httpx2.AsyncByteStream):
    """A body of which no more than one message's bytes are read."""

    def __init__(self, inner: Any, declared: str) -> None:
        self._inner, self._declared = inner, declared

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_MESSAGE
        if self._declared.isdecimal() and int(self._declared[:20]) > left:
            raise _too_large()
        async with aclosing(aiter(self._inner)) as parts:
            async for data in parts:
                left -= len(data)
                if left < 0:
                    raise _too_large()
                yield data

    async def aclose(self) -> None:
        await self._inner.aclose()


def _too_large() -> httpx2.StreamError:
    # The SDK answers the one request with an error of this kind; any other would end the session.
    return httpx2.StreamError(f"it has more than {MAX_MESSAGE} bytes")


def _told(error: BaseException, place: str, statuses: deque[int]) -> BaseException:
    """Return what an error of the connection stands for with us; others as they are."""
    if isinstance(error, httpx2.HTTPError):
        return McpUnavailable(f"{place} cannot be reached: {str(error) or type(error).__name__}")
    if isinstance(error, MCPError):
        status = statuses[-1] if statuses and statuses[-1] >= 400 else None
        if status is not None and (status >= 500 or status == 429):
            return McpUnavailable(f"{place} answers {status}")
        return McpEnded(f"{place} answers {status}" if status is not None else f"{place}: {error.message[:500]}")
    return error
