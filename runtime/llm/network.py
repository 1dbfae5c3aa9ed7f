"""The network beneath httpx: bare asyncio transports, and one lazy timer a connection instead of a deadline a read.

httpcore's own way to anyio stops and starts the socket at every read and opens two scopes around each, which is most of
what a streamed token costs. This one costs a future a read.
"""

# asyncio by name, because that is the point: anyio's sockets are what this spares.
import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import httpcore
import httpx

from runtime.timer import LazyTimer

HIGH_WATER: Final = 256 * 1024
"""Bytes that may wait to be read before the socket is left alone."""

HAPPY_EYEBALLS: Final = 0.25
"""Seconds after which the next address of a name is tried beside the first (RFC 8305)."""

SocketOption: TypeAlias = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


def transport(trust: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """Return what an `httpx.AsyncClient` sends with: HTTP/1.1 over this network, with as many connections as are asked
    for. Nothing of the environment is looked at.
    """
    made = httpx.AsyncHTTPTransport(verify=trust, trust_env=False)
    # httpx has no parameter for the network of its pool, httpcore has.
    made._pool = httpcore.AsyncConnectionPool(  # noqa: SLF001
        ssl_context=trust, max_connections=None, network_backend=Network()
    )
    return made


class Network(httpcore.AsyncNetworkBackend):
    """Opens connections on the running asyncio loop. Timeouts are seconds; None waits for as long as it takes."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        local = None if local_address is None else (local_address, 0)
        loop = asyncio.get_running_loop()
        async with _connecting(timeout):
            _, wire = await loop.create_connection(
                Wire, host, port, local_addr=local, happy_eyeballs_delay=HAPPY_EYEBALLS
            )
        return wire

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@asynccontextmanager
async def _connecting(timeout: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error) or "no connection in time") from error
    except (OSError, ssl.SSLError) as error:
        raise httpcore.ConnectError(str(error)) from error


class Wire(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection. What comes is kept until it is read; at most `HIGH_WATER` bytes and one piece more.

    One reader at a time. Cancelling a read loses nothing; closing drops what was not sent.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._held = self._over = False
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer = LazyTimer(self._too_late)

    def wait_at_most(self, seconds: float) -> None:
        """Have the read that follows end with `httpcore.ReadTimeout` after *seconds* from now."""
        self._timer.set(seconds)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what is there, or else the next that comes, of whatever size; nothing at the end."""
        if timeout is not None:
            self.wait_at_most(timeout)
        if not self._pieces and not self._over:
            self._news = self._loop.create_future()
            try:
                await self._news
            finally:
                self._news = None
        self._timer.rest()
        if not self._pieces:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error) or type(self._error).__name__) from self._error
            return b""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send *buffer*; waits while the other side takes nothing."""
        if self._over or self._transport is None:
            raise httpcore.WriteError(str(self._error or "the connection is closed"))
        self._transport.write(buffer)
        if self._room is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._room)
        except TimeoutError as error:
            raise httpcore.WriteTimeout("the other side takes nothing") from error
        if self._over:
            raise httpcore.WriteError(str(self._error or "the connection is closed"))

    async def aclose(self) -> None:
        """Close at once, which tells the other side that nobody listens any more."""
        self._over = True
        self._timer.stop()
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on encrypted."""
        assert self._transport is not None
        try:
            async with _connecting(timeout):
                made = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname, ssl_handshake_timeout=timeout
                )
        except BaseException:
            await self.aclose()
            raise
        assert made is not None
        self._transport = made
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(self._pieces) or self._over
        assert self._transport is not None
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))

    # -- called by the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._over = True
        self._wake()
        return False  # nobody sends requests on a connection that is half closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._over, self._error = True, exc
        self._timer.stop()
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _too_late(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_exception(httpcore.ReadTimeout("nothing came in time"))
