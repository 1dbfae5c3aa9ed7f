"""What arrives, made into what is meant: limits first, then JSON, then the request's own class."""

import importlib
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from pydantic import Field, ValidationError
from pydantic_core import from_json, to_json

from runtime.control.exchange import HungUp
from runtime.control.replies import Receive, Refusal, Scope
from runtime.errors import MessageNotPublic, RequestInvalid, UnknownMessageType
from schemas.base import MESSAGE_TYPES, Message, Model
from schemas.operations import Operation

M = TypeVar("M", bound=Model)

MAX_ERRORS: Final = 20
MAX_TIMEOUT: Final = 3600.0
DEFAULT_TIMEOUT: Final = 30.0

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_KEY: Final = re.compile(rb"[\x21-\x7e]{1,255}")


class Generic(Model):
    """The body of a message for any actor."""

    type: str = Field(max_length=128)
    message: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0, le=MAX_TIMEOUT, description="seconds to wait for the answer")


class EventsQuery(Model):
    """What may be asked of the events. `types` are separated by commas; one may end in `*`."""

    since: int | None = Field(default=None, ge=0, lt=2**63, description="the cursor after which to begin")
    types: str = Field(default="", max_length=2000)
    subject: str | None = Field(default=None, max_length=128)
    follow: bool = True


def resolve(name: str) -> Any:
    """Return what `module:Class` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of *name* (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def request_id(scope: Scope) -> str | None:
    """Return the client's own request id if it is fit for logs and headers."""
    value = header(scope, b"x-request-id")
    return value.decode() if value is not None and _REQUEST_ID.fullmatch(value) else None


def idempotency_key(scope: Scope, operation: Operation) -> str | None:
    """Return the `Idempotency-Key` of a request that creates something. Raises `RequestInvalid`."""
    value = header(scope, b"idempotency-key") if operation.creates else None
    if value is None:
        return None
    if not _KEY.fullmatch(value):
        raise _wrong("Idempotency-Key", "Should be 1 to 255 printable ASCII characters without spaces", "header")
    return value.decode()


def check_head(scope: Scope, limit: int) -> None:
    """Refuse a path and headers of over *limit* bytes: h11 counts them only as long as they are incomplete."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    for name, value in scope["headers"]:
        size += len(name) + len(value) + 4
    if size > limit:
        raise Refusal("request.too_large", f"The headers are over {limit} bytes.")


async def body_of(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the body. Raises `Refusal` over *limit* bytes, counted before anything is parsed, and `HungUp`."""
    announced = header(scope, b"content-length")
    if announced is not None and int(announced) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    # The rest of the body is not read, so the connection cannot be used again.
    return Refusal("request.too_large", f"The body is over {limit} bytes.", headers=[(b"connection", b"close")])


def query_of(scope: Scope) -> dict[str, str | list[str]]:
    """Return the query; a name given more than once has a list of values. Raises `RequestInvalid`."""
    raw = scope["query_string"]
    if not raw:
        return {}
    query: dict[str, str | list[str]] = {}
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise RequestInvalid("The query cannot be read.") from None
    for name, value in pairs:
        known = query.get(name)
        if known is None:
            query[name] = value
        else:
            query[name] = [*known, value] if isinstance(known, list) else [known, value]
    return query


def timeout_of(query: dict[str, str | list[str]]) -> float:
    """Take `timeout` out of *query*: seconds, 30 where it is not given. Raises `RequestInvalid`."""
    value = query.pop("timeout", None)
    if value is None:
        return DEFAULT_TIMEOUT
    try:
        seconds = float(value) if isinstance(value, str) else -1.0
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise _wrong("timeout", f"Should be a number of seconds up to {MAX_TIMEOUT:.0f}", "query")
    return seconds


def nothing_more(query: Mapping[str, Any]) -> None:
    """Refuse what is left in *query*. Raises `RequestInvalid`."""
    if query:
        errors = [{"type": "extra_forbidden", "loc": ["query", name], "msg": "Unknown parameter"} for name in query]
        raise RequestInvalid(f"Unknown parameter: {', '.join(query)}.", errors=errors[:MAX_ERRORS])


def json_object(body: bytes) -> dict[str, Any]:
    """Parse *body*; nothing at all stands for an empty object. Raises `Refusal`."""
    if not body:
        return {}
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("request.malformed", f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise Refusal("request.malformed", "The body should be a JSON object.")
    return value


def from_query(cls: type[M], path: Mapping[str, str], query: Mapping[str, Any]) -> M:
    """Build a request from text: numbers, truth values and lists are read as their fields want them.

    Raises `RequestInvalid`.
    """
    for name in path.keys() & query.keys():
        raise _wrong(name, "Is given by the path", "query")
    try:
        return cls.model_validate({**query, **path}, strict=False)
    except ValidationError as error:
        raise invalid(error) from None


def from_body(cls: type[M], path: Mapping[str, str], fields: dict[str, Any], nested: str = "") -> M:
    """Build a request from a parsed body and the path; *nested* is the field that the body is, where it is not all.

    Raises `RequestInvalid`.
    """
    for name in path.keys() & fields.keys() if not nested else ():
        raise _wrong(name, "Is given by the path", "body")
    whole = {nested: fields, **path} if nested else {**fields, **path}
    try:
        # As JSON, because strict models take a list for a tuple only there.
        return cls.model_validate_json(to_json(whole))
    except ValidationError as error:
        raise invalid(error, nested) from None


def public_message(generic: Generic) -> Message:
    """Return the message that *generic* carries. Raises `UnknownMessageType`, `MessageNotPublic`, `RequestInvalid`."""
    cls = MESSAGE_TYPES.get(generic.type)
    if cls is None or not cls.PUBLIC:
        known = sorted(name for name, found in MESSAGE_TYPES.items() if found.PUBLIC)
        if cls is None:
            raise UnknownMessageType("No message type has that name.", known=known)
        raise MessageNotPublic(f"{cls.TYPE} may not come from outside.", known=known)
    try:
        return cls.model_validate_json(to_json(generic.message))
    except ValidationError as error:
        raise invalid(error, within="message") from None


def invalid(error: ValidationError, nested: str = "", within: str = "") -> RequestInvalid:
    """Return *error* as an answer that names places and reasons, and never repeats what was sent."""
    errors = []
    for found in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS]:
        loc = list(found["loc"])
        loc = loc[1:] if nested and loc[:1] == [nested] else loc
        loc = [within, *loc] if within else loc
        errors.append({"type": found["type"], "loc": loc, "msg": found["msg"]})
    first = errors[0]
    place = ".".join(str(step) for step in first["loc"]) or "body"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return RequestInvalid(f"{place}: {first['msg']}{more}.", errors=errors)


def _wrong(name: str, msg: str, where: str) -> RequestInvalid:
    return RequestInvalid(f"{name}: {msg}.", errors=[{"type": "value_error", "loc": [where, name], "msg": msg}])
