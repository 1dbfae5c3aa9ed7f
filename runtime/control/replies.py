"""What the control socket sends: JSON, problems and the two encodings of a stream, each with the headers all carry."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from pydantic_core import to_json

from runtime.errors import UnderstudyError, problem
from schemas.errors import Problem
from schemas.events import StreamPart

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]
Encoding: TypeAlias = Literal["sse", "ndjson"]

PING: Final[dict[Encoding, bytes]] = {"sse": b": ping\n\n", "ndjson": b"\n"}
CONTENT_TYPE: Final[dict[Encoding, bytes]] = {
    "sse": b"text/event-stream; charset=utf-8",
    "ndjson": b"application/x-ndjson",
}

_BUSY: Final = (429, 503)


class Refusal(UnderstudyError):
    """A request that ends in the control room itself: no such path, unreadable, too large."""

    def __init__(self, code: str, detail: str = "", *, headers: Headers | None = None, **data: Any) -> None:
        self.code = code  # type: ignore[misc]  # the one error whose code is not its class's: it never leaves this room
        self.headers = headers or []
        super().__init__(detail, **data)


def encode(value: Any) -> bytes:
    """Return *value* (models, tuples of them, plain values) as JSON on one line; what JSON cannot say is null."""
    return to_json(value, inf_nan_mode="null")


def problem_reply(error: UnderstudyError | Problem, request_id: str | None) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of an error."""
    told = error if isinstance(error, Problem) else error.problem(request_id)
    headers: Headers = [(b"content-type", b"application/problem+json")]
    headers += getattr(error, "headers", [])
    if told.retry_after_ms is not None or told.status in _BUSY:
        # Whole seconds, rounded up: sooner would be refused again.
        seconds = 1 if told.retry_after_ms is None else max(1, -(-told.retry_after_ms // 1000))
        headers.append((b"retry-after", b"%d" % seconds))
    return told.status, headers, encode(told)


def encode_part(part: StreamPart, encoding: Encoding) -> bytes:
    """Return one part of a stream as it is sent."""
    if encoding == "ndjson":
        return encode(part) + b"\n"
    lines = [] if part.id is None else [b"id: %d\n" % part.id]
    return b"".join([*lines, b"event: ", part.kind.encode(), b"\ndata: ", encode(part.data), b"\n\n"])


def error_part(error: Problem) -> StreamPart:
    """Return *error* as the last part of a stream."""
    return StreamPart(kind="error", data=error.model_dump(mode="json"))


def internal(request_id: str, detail: str = "") -> Problem:
    """Return what others are told about a mistake of ours: where to look, and nothing of what it was."""
    return problem("internal", detail, request_id=request_id)


async def send_reply(send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole answer."""
    sized = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": sized})
    await send({"type": "http.response.body", "body": body})
