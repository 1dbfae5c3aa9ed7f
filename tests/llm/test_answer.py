"""One answer on its way in, whatever comes at once: others get their turn meanwhile."""

import zlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from runtime.clock import SystemClock
from runtime.errors import LlmTooLarge
from runtime.llm.answer import BREATH, SLICE, Answer, Decoder
from runtime.llm.completions import Reader
from runtime.llm.provider import Deadlines


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Flood(httpx.AsyncByteStream):
    """A body that is there at once: reading it never waits."""

    def __init__(self, piece: bytes, times: int) -> None:
        self.piece, self.times = piece, times

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.times):
            yield self.piece


class NoWire:
    def wait_at_most(self, seconds: float) -> None: ...


def answer(piece: bytes, times: int, *, encoding: str = "", max_bytes: int = 50_000_000) -> Answer:
    response = httpx.Response(200, stream=Flood(piece, times), extensions={"network_stream": NoWire()})
    reader: Any = Reader(None)
    decoder = Decoder(reader, encoding=encoding, whole=False, max_bytes=max_bytes, max_line=1_000_000)
    clock = SystemClock()
    return Answer(response, decoder, provider="p", deadlines=Deadlines(), clock=clock, started=clock.monotonic())


async def turns(body: Answer) -> int:
    """Return how many turns another task got while an answer without any part was read to its end."""
    counted = 0

    async def count() -> None:
        nonlocal counted
        while True:
            await anyio.lowlevel.checkpoint()
            counted += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await anyio.lowlevel.checkpoint()
        before = counted
        with pytest.raises(LlmTooLarge):
            await anext(body)
        taken = counted - before
        tasks.cancel_scope.cancel()
    return taken


@pytest.mark.parametrize("piece", [b":\n\n", b'data: {"choices": []}\n\n'], ids=["comments", "empty events"])
async def test_reads_that_bring_nothing_let_others_have_their_turn(piece: bytes) -> None:
    times = 100 * BREATH
    assert await turns(answer(piece, times + 1, max_bytes=times * len(piece))) >= 99


async def test_one_read_that_becomes_very_much_lets_others_have_their_turn() -> None:
    size = 1_000_000
    bomb = zlib.compress(b"\n" * (2 * size), wbits=31)
    assert await turns(answer(bomb, 1, encoding="gzip", max_bytes=size)) >= size // SLICE - 4  # that is one PIECE


async def test_what_becomes_nothing_is_counted_too() -> None:
    packed = zlib.compress(b"\n", wbits=31)
    assert await turns(answer(packed + b"x" * 1000, 1000, encoding="gzip", max_bytes=100_000)) == 0
