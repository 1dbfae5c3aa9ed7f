"""JSON of the wire, both ways: what a request is written with, and how an answer's values are taken or refused."""

import json
import math
from collections.abc import Iterator
from typing import Any, Final, Literal

from runtime.errors import LlmCut, LlmProtocol, LlmRequest
from runtime.llm.faults import quote, reported
from schemas.chat import MOST_TOKENS, ChatMessage, Native, NativePart

MAX_TOOL_CALLS: Final = 128
"""How many tools one answer may call; more is `LlmTooLarge`."""


def write(body: dict[str, Any]) -> bytes:
    """Return *body* as JSON. Raises `LlmRequest` where it holds something JSON cannot say."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise LlmRequest(f"the request cannot be written as JSON: {error}") from error


def native(dialect: Literal["messages", "completions"], model: str, value: Any) -> Iterator[NativePart]:
    """Yield *value* as the part it is; nothing where it holds half a character, which could not be sent back."""
    body = json.dumps(value, separators=(",", ":"))
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()  # only here do halves that came apart become one
    except UnicodeEncodeError:
        return
    yield NativePart(native=Native(dialect=dialect, model=model, body=body))


def native_of(message: ChatMessage, dialect: str, model: str) -> Any:
    """Return *message* in the form of its provider, None where it has none or is somebody else's."""
    kept = message.native
    if kept is None or (kept.dialect, kept.model) != (dialect, model):
        return None
    return json.loads(kept.body)


def parse(data: bytes, secret: str | None) -> dict[str, Any]:
    """Return *data* as a JSON object; raise `LlmProtocol` for anything else, and what an error object stands for."""
    try:
        value = json.loads(data.decode())  # of bytes it would guess the encoding first
    except (ValueError, RecursionError):
        raise LlmProtocol(f"the answer is not JSON: {quote(data.decode(errors='replace'), secret)}") from None
    value = as_dict(value, "a chunk")
    if value.get("error"):
        raise reported(value["error"], secret=secret)
    if value.get("object") == "error":
        raise reported(value, secret=secret)
    return value


def parse_whole(data: bytes, secret: str | None) -> dict[str, Any]:
    """Return a whole body as `parse` does; one that is empty or ends in the middle is `LlmCut`."""
    try:
        return parse(data, secret)
    except LlmProtocol:
        # A server that says no length and closes looks like one that has said all.
        if ends_early(data):
            raise LlmCut("the answer was cut before its end" if data.strip() else "the answer is empty") from None
        raise


def ends_early(data: bytes) -> bool:
    """Tell whether *data* is the beginning of a JSON document."""
    text = data.decode(errors="replace").rstrip()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text) or error.msg.startswith("Unterminated string")
    except RecursionError:
        return False
    return False


def is_object(text: str) -> bool:
    """Tell whether *text* is one whole JSON object, as the arguments of a tool call are."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def as_dict(value: Any, what: str) -> dict[str, Any]:
    """Return *value* if it is an object; `LlmProtocol` naming *what* otherwise, as of all below."""
    if not isinstance(value, dict):
        raise LlmProtocol(f"{what} of the answer is no object")
    return value


def as_list(value: Any, what: str) -> list[Any]:
    """Return *value* if it is a list; nothing at all is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise LlmProtocol(f"{what} of the answer is no list")
    return value


def as_str(value: Any, what: str) -> str:
    """Return *value* if it is text."""
    if not isinstance(value, str):
        raise LlmProtocol(f"{what} of the answer is no text")
    return value


def as_count(value: Any) -> int | None:
    """Return *value* if it counts something; nothing is refused here, for usage is no reason to lose an answer. What no
    model can have read or written is not a count either.
    """
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS else None


def as_vector(value: Any, what: str) -> tuple[float, ...]:
    """Return *value* if it is a list of finite numbers, at least one."""
    numbers = as_list(value, what)
    if not numbers:
        raise LlmProtocol(f"{what} of the answer is empty")
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and _finite(one) for one in numbers):
        raise LlmProtocol(f"{what} of the answer holds what is no number")
    return tuple(map(float, numbers))


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that no float can hold
        return False
