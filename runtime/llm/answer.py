"""One answer on its way in: every wait has a deadline, every byte is counted, and a break keeps the text so far."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final, Protocol

import anyio.lowlevel
import httpx

from runtime.clock import Clock
from runtime.errors import LlmCut, LlmError, LlmProtocol, LlmTimeout, LlmTooLarge
from runtime.llm.faults import quote, sign
from runtime.llm.inflate import Inflater
from runtime.llm.network import Wire
from runtime.llm.provider import Deadlines
from runtime.llm.sse import SseParser
from schemas.chat import ChatPart

PARTIAL_CHARS: Final = 100_000
"""How much of a broken answer its error carries."""

AFTER_FINISH: Final = 5.0
"""How many seconds a finished answer may take to say its usage and `[DONE]`; without them it counts as it is."""

BREATH: Final = 256
"""How many parts and reads follow one another before others get a turn: what came at once may hold thousands."""

SLICE: Final = 16 * 1024
"""How many bytes are looked through before others get a turn, in bytes: a small read may become very many."""


class Reader(Protocol):
    """A dialect's half of reading: the data of events to parts. Nothing in it waits.

    `secret` must not be quoted, `begun` tells that something was understood, `done` that nothing can follow,
    `finished` that a terminal mark came, `partial` is the text so far.
    """

    @property
    def secret(self) -> str | None: ...
    @property
    def begun(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def partial(self) -> str: ...

    def feed(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts in one event's data."""
        ...

    def feed_whole(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts of a body that is one JSON document."""
        ...

    def finish(self) -> Iterator[ChatPart]:
        """Yield what ends the answer; raise `LlmCut` where it never ended."""
        ...


class Decoder:
    """Bytes of a response's body to parts: decompressed, counted, cut into events, read. Nothing here waits.

    The parts are made as they are asked for, so a compressed flood is never in memory whole. *whole* means that the
    body is one JSON document, from a server that does not stream.
    """

    def __init__(self, reader: Reader, *, encoding: str, whole: bool, max_bytes: int, max_line: int) -> None:
        self.reader = reader
        self._inflater = Inflater(encoding)
        self._sse = SseParser(max_line)
        self._body = bytearray() if whole else None
        self._max = max_bytes
        self._raw = self._size = 0

    def feed(self, raw: bytes) -> Iterator[ChatPart | None]:
        """Take the next bytes off the wire; yield the parts they complete, and None after each `SLICE` of what is more,
        so that a flood of nothing can be left for a moment.
        """
        self._raw += len(raw)
        self._count()
        more = False
        for piece in self._inflater.feed(raw):
            self._size += len(piece)
            self._count()
            for at in range(0, len(piece), SLICE):
                if more:
                    yield None
                more = True
                yield from self._read(piece if len(piece) <= SLICE else piece[at : at + SLICE])
                if self.reader.done:
                    return

    def _count(self) -> None:
        """Raise LlmTooLarge where there is more than may be, on the wire or of what becomes of it."""
        if max(self._size, self._raw) > self._max:
            raise LlmTooLarge(f"the answer is longer than {self._max} bytes", limit=self._max)

    def _read(self, piece: bytes) -> Iterator[ChatPart]:
        if self._body is not None:
            self._body += piece
            return
        for data in self._sse.feed(piece):
            yield from self.reader.feed(data)
            if self.reader.done:
                return

    def close(self) -> Iterator[ChatPart]:
        """Take the end of the body; raise `LlmCut` or `LlmProtocol` where it is not the end of an answer."""
        if self._body is not None:
            yield from self.reader.feed_whole(bytes(self._body))
        elif not self.reader.done:
            yield from self._last_events()
        yield from self.reader.finish()

    def _last_events(self) -> Iterator[ChatPart]:
        try:
            for data in self._sse.close():
                yield from self.reader.feed(data)
        except LlmProtocol:
            # Half an event at the end is what a cut looks like; `finish` tells whether something is missing.
            return
        if self._sse.stray and not self.reader.begun:
            stray = quote(self._sse.stray.decode(errors="replace"), self.reader.secret)
            raise LlmProtocol(f"the answer is no event stream: {stray}")


class Answer:
    """The parts of one response as an async iterator; `aclose` lets go of the body."""

    def __init__(
        self,
        response: httpx.Response,
        decoder: Decoder,
        *,
        provider: str,
        deadlines: Deadlines,
        clock: Clock,
        started: float,
    ) -> None:
        self._raw = raw_body(response)
        self._wire: Wire = response.extensions["network_stream"]
        self._decoder = decoder
        self._provider = provider
        self._deadlines = deadlines
        self._clock = clock
        self._started = started
        self._begun = False
        self._over = False
        self._parts: Iterator[ChatPart | None] = iter(())
        self._in_a_row = 0

    def __aiter__(self) -> AsyncIterator[ChatPart]:
        return self

    async def __anext__(self) -> ChatPart:
        try:
            while True:
                for part in self._parts:
                    if part is not None:
                        await self._breathe()
                        return part
                    await anyio.lowlevel.checkpoint()
                if self._over:
                    raise StopAsyncIteration
                await self._more()
                await self._breathe()
        except LlmError as error:
            self._over = True
            error.data["partial"] = self._decoder.reader.partial[:PARTIAL_CHARS]
            sign(error, self._provider)
            raise

    async def aclose(self) -> None:
        """Stop reading; nothing more comes."""
        self._over, self._parts = True, iter(())
        await self._raw.aclose()

    async def _breathe(self) -> None:
        self._in_a_row += 1
        if self._in_a_row >= BREATH:
            self._in_a_row = 0
            await anyio.lowlevel.checkpoint()

    async def _more(self) -> None:
        raw = None if self._decoder.reader.done else await self._read()
        if raw is None:
            self._over, self._parts = True, self._decoder.close()
        else:
            self._begun, self._parts = True, self._decoder.feed(raw)

    async def _read(self) -> bytes | None:
        """Return the next bytes, None at the end; a finished answer that breaks or stalls has ended as well."""
        finished = self._decoder.reader.finished
        which, seconds = self._patience(finished=finished)
        self._wire.wait_at_most(max(0.0, seconds))
        try:
            return await anext(self._raw, None)
        except httpx.HTTPError as error:
            if finished:
                return None
            if isinstance(error, httpx.ReadTimeout):
                raise timed_out(which, self._deadlines) from error
            raise LlmCut(f"the connection broke: {str(error) or type(error).__name__}") from error

    def _patience(self, *, finished: bool) -> tuple[str, float]:
        spent = self._clock.monotonic() - self._started
        total = self._deadlines.total - spent
        if finished:
            which, seconds = "between", AFTER_FINISH
        elif self._begun:
            which, seconds = "between", self._deadlines.between
        else:
            which, seconds = "first_byte", self._deadlines.first_byte - spent
        return ("total", total) if total < seconds else (which, seconds)


def raw_body(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Return the body as it is on the wire: httpx's own decoding has no cap on what comes out of one read."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    body = aiter(response.stream)  # `aiter_raw` without its counting
    assert isinstance(body, AsyncGenerator)
    return body


def timed_out(which: str, deadlines: Deadlines) -> LlmTimeout:
    """Return the error of the deadline called *which*."""
    words = {
        "connect": "no connection",
        "first_byte": "no answer",
        "between": "nothing more of the answer",
        "total": "the answer did not end",
    }
    seconds: float = getattr(deadlines, which)
    return LlmTimeout(f"{words[which]} within {seconds:g} s", which=which)
