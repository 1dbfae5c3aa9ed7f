"""Streams on the control socket: parts as server-sent events or lines of JSON, with exactly one `done` or `error`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, TypeAlias

from runtime.control.bridge import Bridge, Received
from runtime.control.decode import header
from runtime.control.exchange import Exchange
from runtime.control.replies import (
    CONTENT_TYPE,
    PING,
    Encoding,
    Headers,
    encode_part,
    error_part,
    internal,
    problem_reply,
    send_reply,
)
from runtime.errors import UnderstudyError
from runtime.log import get
from schemas.errors import Problem
from schemas.events import StreamPart

Source: TypeAlias = Callable[[], AbstractAsyncContextManager[AsyncIterator[StreamPart]]]

_ENDINGS: Final = ("done", "error")
HEAD_WITHIN: Final = 1.0
"""Seconds that the first part may take; then the answer begins without it, so that nobody takes silence for absence."""
_DONE: Final = StreamPart(kind="done")
_log = get(__name__)


class Streams:
    """Passes parts from the actors' loop on to a client.

    An error that comes at once is an ordinary answer with its status, later it is the last part. The source is left as
    soon as the client hangs up. A ping goes out after *ping* seconds of silence.
    """

    def __init__(self, bridge: Bridge, ping: float) -> None:
        self._bridge = bridge
        self._ping = ping

    async def run(self, exchange: Exchange, source: Source, *, may_run_dry: bool = False) -> None:
        """Answer with the parts of *source* until its end.

        With *may_run_dry* a source that ends without a `done` is done; else it was cut, and that is an error.
        """
        ending = _DONE if may_run_dry else _cut(exchange.id)
        await exchange.line.attached(partial(self._run, exchange, source, ending))

    async def first(self, exchange: Exchange, source: Source) -> StreamPart:
        """Return the first part of *source* and leave it. Raises what the source raises before it."""

        async def take() -> StreamPart:
            async with self._bridge.stream(source) as parts:
                async for part in parts:
                    return part
            return _cut(exchange.id)

        return await exchange.line.attached(take)

    async def _run(self, exchange: Exchange, source: Source, ending: StreamPart) -> None:
        async with self._bridge.stream(source) as parts:
            first = await parts.batch(min(HEAD_WITHIN, self._ping))
            batch = [ending] if first is not None and not first else first
            if batch is not None and batch[0].kind == "error":
                await refuse(exchange, batch[0])
                return
            encoding = _encoding(exchange)
            headers: Headers = [(b"content-type", CONTENT_TYPE[encoding]), (b"cache-control", b"no-store")]
            await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
            if batch is None:
                await exchange.send({"type": "http.response.body", "body": PING[encoding], "more_body": True})
                batch = await self._more(exchange, parts, encoding, ending)
            while not await _send(exchange, encoding, batch):
                batch = await self._more(exchange, parts, encoding, ending)

    async def _more(
        self, exchange: Exchange, parts: Received[StreamPart], encoding: Encoding, ending: StreamPart
    ) -> list[StreamPart]:
        try:
            while (batch := await parts.batch(self._ping)) is None:
                await exchange.send({"type": "http.response.body", "body": PING[encoding], "more_body": True})
            return batch or [ending]
        except UnderstudyError as error:
            return [error_part(error.problem(exchange.id))]
        except Exception:  # noqa: BLE001  # told to the log in full and to the client by its id
            _log.exception("stream_failed", path=exchange.scope["path"], request_id=exchange.id)
            return [error_part(internal(exchange.id))]


async def refuse(exchange: Exchange, part: StreamPart) -> None:
    """Answer with the problem that *part*, an `error`, holds: nothing has been sent yet."""
    await send_reply(exchange.send, *problem_reply(Problem.model_validate(part.data), exchange.id))


async def _send(exchange: Exchange, encoding: Encoding, batch: list[StreamPart]) -> bool:
    """Send what waits as one piece, up to the part that ends the stream; tell whether it did."""
    chunks = []
    ended = False
    for part in batch:
        try:
            chunks.append(encode_part(part, encoding))
            ended = part.kind in _ENDINGS
        except ValueError:  # something in it that JSON does not know
            _log.exception("part_unsendable", kind=part.kind, request_id=exchange.id)
            chunks.append(encode_part(error_part(internal(exchange.id)), encoding))
            ended = True
        if ended:
            break
    await exchange.send({"type": "http.response.body", "body": b"".join(chunks), "more_body": not ended})
    return ended


def _encoding(exchange: Exchange) -> Encoding:
    return "ndjson" if b"application/x-ndjson" in (header(exchange.scope, b"accept") or b"") else "sse"


def _cut(request_id: str) -> StreamPart:
    return error_part(internal(request_id, "The stream ended without a result."))
