"""The network beneath httpx, over real sockets: encryption, floods, silence, and hanging up."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import httpcore
import pytest
import trustme
from anyio.streams.tls import TLSListener

from runtime.errors import LlmUnreachable
from runtime.llm.network import HIGH_WATER, Network, Wire
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import complete

pytestmark = pytest.mark.anyio

Talk = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def opposite(talk: Talk) -> AsyncIterator[Wire]:
    """Connect to somebody who does what *talk* says."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        wire = await Network().connect_tcp("127.0.0.1", port, timeout=5)
        assert isinstance(wire, Wire)
        try:
            yield wire
        finally:
            await wire.aclose()
            tasks.cancel_scope.cancel()


async def test_what_is_said_is_heard_until_the_end() -> None:
    async def echo(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with opposite(echo) as wire:
        await wire.write(b"hello")
        assert await wire.read(100) == b"hello"
        assert await wire.read(100) == b""
        assert wire.get_extra_info("is_readable")


async def test_a_flood_is_held_back_while_nobody_reads() -> None:
    sent = 0
    size = 64 * 1024 * 1024

    async def flood(stream: anyio.abc.ByteStream) -> None:
        nonlocal sent
        async with stream:
            while sent < size:
                await stream.send(bytes(1024 * 1024))
                sent += 1024 * 1024

    async with opposite(flood) as wire:
        got = 0
        while got < size:
            await anyio.wait_all_tasks_blocked()
            data = await wire.read(1)
            assert data
            assert len(data) <= 2 * HIGH_WATER  # a piece more than may wait
            got += len(data)
        assert await wire.read(1) == b""


async def test_silence_ends_a_read_and_loses_nothing() -> None:
    go = anyio.Event()

    async def later(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await go.wait()
            await stream.send(b"late")

    async with opposite(later) as wire:
        wire.wait_at_most(0.01)
        with pytest.raises(httpcore.ReadTimeout):
            await wire.read(100)
        with pytest.raises(httpcore.ReadTimeout):
            await wire.read(100, timeout=0.01)
        with anyio.move_on_after(0.01) as cancelled:
            await wire.read(100)
        assert cancelled.cancelled_caught
        go.set()
        assert await wire.read(100) == b"late"


async def test_who_takes_nothing_is_not_waited_for_without_end() -> None:
    async def deaf(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with opposite(deaf) as wire:
        with pytest.raises(httpcore.WriteTimeout):
            await wire.write(bytes(64 * 1024 * 1024), timeout=0.05)


async def test_a_closed_connection_takes_nothing_and_its_reader_is_let_go() -> None:
    async def wait(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()

    async with opposite(wait) as wire:
        read: list[bytes] = []

        async def reader() -> None:
            read.append(await wire.read(100))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            await wire.aclose()
        assert read == [b""]
        with pytest.raises(httpcore.WriteError):
            await wire.write(b"more")


async def test_nobody_there_is_an_error_of_connecting() -> None:
    with pytest.raises(httpcore.ConnectError):
        await Network().connect_tcp("127.0.0.1", 9, timeout=5)


# -- encrypted ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[str]:
    """A provider behind TLS, whose certificate *authority* has signed; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def answer(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            asked = b""
            while b'"messages"' not in asked:
                asked += await stream.receive()
            await stream.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
                b'data: {"choices":[{"delta":{"content":"in secret"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
            )

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as plain, anyio.create_task_group() as tasks:
        listener = TLSListener(plain, context, standard_compatible=False)
        tasks.start_soon(listener.serve, answer)
        yield f"https://localhost:{plain.extra(anyio.abc.SocketAttribute.local_port)}/v1"
        tasks.cancel_scope.cancel()


async def test_an_answer_comes_through_encryption(secure: str, authority: trustme.CA, request_of: Any) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    provider = OpenAIProvider("acme", secure, "key", trust=trust)
    text, _, _ = await complete(provider, request_of())
    await provider.close()
    assert text == "in secret"


async def test_a_certificate_that_nobody_vouches_for_is_refused(secure: str, request_of: Any) -> None:
    provider = OpenAIProvider("acme", secure, "key")
    with pytest.raises(LlmUnreachable, match="certificate"):
        await complete(provider, request_of())
    await provider.close()
