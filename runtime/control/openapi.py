"""The table of operations as an OpenAPI 3.1 document."""

from collections.abc import Iterator
from functools import cache
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from runtime.control.decode import DEFAULT_TIMEOUT, MAX_TIMEOUT, EventsQuery, Generic, resolve
from schemas.codes import CODES
from schemas.errors import Problem
from schemas.operations import OPERATIONS, Operation

Mode = Literal["validation", "serialization"]
Entry = tuple[tuple[str, str], Mode, TypeAdapter[Any]]
Json = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
_ANYWHERE: Final = ("request.invalid", "request.malformed", "request.too_large", "daemon.draining", "internal")
_TIMEOUT: Final[Json] = {
    "name": "timeout",
    "in": "query",
    "description": "Seconds to wait for the actor.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT, "default": DEFAULT_TIMEOUT},
}
_KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Sent again with the same key, the request is carried out once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_DETACH: Final[Json] = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async` answers 202 with the id of the job, which then survives a hang-up.",
    "schema": {"type": "string"},
}
_CURSOR: Final[Json] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The cursor after which to begin; it wins over `since`.",
    "schema": {"type": "integer"},
}


@cache
def document(version: str) -> Json:
    """Return the document for a daemon of *version*."""
    entries: list[Entry] = [(("", "problem"), "serialization", TypeAdapter(Problem))]
    for operation in OPERATIONS:
        entries += _entries(operation)
    found, shared = TypeAdapter.json_schemas(entries, ref_template=_REF)
    schemas = {key: schema for (key, _), schema in found.items()}
    defs = shared["$defs"]
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _Writer(operation, schemas, defs).describe()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Understudy", "version": version, "description": "The control socket of the daemon."},
        "servers": [{"url": "http://understudy", "description": "HTTP/1.1 over the Unix socket, whatever the host."}],
        "paths": paths,
        "components": {"schemas": defs},
    }


def _entries(operation: Operation) -> Iterator[Entry]:
    request = _request_of(operation)
    if request is not None:
        yield (operation.name, "request"), "validation", TypeAdapter(request)
    reply = resolve(operation.reply) if operation.reply else None
    if operation.served == "actor" and request is not None:
        reply = request.reply_type() or reply  # the table names what a list holds, the class that it is a list
    if reply is not None:
        yield (operation.name, "reply"), "serialization", TypeAdapter(reply)
    if operation.part:
        yield (operation.name, "part"), "serialization", TypeAdapter(resolve(operation.part))


def _request_of(operation: Operation) -> Any:
    if operation.served == "generic":
        return Generic
    if operation.name == "events":
        return EventsQuery
    return resolve(operation.request) if operation.request else None


class _Writer:
    """Describes one operation."""

    def __init__(self, operation: Operation, schemas: dict[tuple[str, str], Json], defs: Json) -> None:
        self._operation = operation
        self._defs = defs
        self._problem = schemas["", "problem"]
        self._request = schemas.get((operation.name, "request"))
        self._reply = schemas.get((operation.name, "reply"), {})
        self._part = schemas.get((operation.name, "part"))
        self._in_path = [step[1:-1] for step in operation.path.split("/") if step.startswith("{")]

    def describe(self) -> Json:
        """Return the operation object."""
        operation = self._operation
        described: Json = {
            "operationId": operation.name,
            "summary": operation.summary,
            "parameters": list(self._parameters()),
            "responses": self._responses(),
        }
        if operation.method == "POST":
            described["requestBody"] = {"required": False, "content": {"application/json": {"schema": self._body()}}}
        return described

    def _fields(self) -> Json:
        return self._follow(self._request) if self._request is not None else {}

    def _follow(self, schema: Json) -> Json:
        while "$ref" in schema:
            schema = self._defs[schema["$ref"].rpartition("/")[2]]
        return schema

    def _parameters(self) -> Iterator[Json]:
        fields = self._fields()
        for name in self._in_path:
            schema = fields.get("properties", {}).get(name, {"type": "string"})
            yield {"name": name, "in": "path", "required": True, "schema": schema}
        if self._operation.method == "GET":
            for name, schema in fields.get("properties", {}).items():
                if name not in self._in_path:
                    required = name in fields.get("required", ())
                    yield {"name": name, "in": "query", "required": required, "schema": schema}
        if self._operation.served in ("actor", "generic"):
            yield _TIMEOUT
        if self._operation.creates:
            yield _KEY
        yield from {"agents.ask": (_DETACH,), "events": (_CURSOR,)}.get(self._operation.name, ())

    def _body(self) -> Json:
        fields = self._fields()
        if self._operation.body:
            schema: Json = fields["properties"][self._operation.body]
            return schema
        own = {name: schema for name, schema in fields.get("properties", {}).items() if name not in self._in_path}
        if len(own) == len(fields.get("properties", {})) and self._request is not None:
            return self._request
        required = [name for name in fields.get("required", ()) if name in own]
        return {"type": "object", "properties": own, "required": required, "additionalProperties": False}

    def _responses(self) -> Json:
        responses: Json = {"200": {"description": "Done.", "content": self._content()}}
        if self._operation.name == "agents.ask":
            responses["202"] = {"description": "Accepted as the job at `Location`."}
        by_status: dict[int, list[str]] = {}
        for code in (*self._operation.errors, *_ANYWHERE):
            known = by_status.setdefault(CODES[code].status, [])
            if code not in known:
                known.append(code)
        for status, codes in sorted(by_status.items()):
            content = {"application/problem+json": {"schema": self._problem}}
            responses[str(status)] = {"description": ", ".join(codes), "content": content}
        return responses

    def _content(self) -> Json:
        if self._part is not None:
            return {"text/event-stream": {"schema": self._part}, "application/x-ndjson": {"schema": self._part}}
        if self._operation.served == "generic":
            return {"application/json": {"schema": {"type": "object", "properties": {"reply": {}}}}}
        return {"application/json": {"schema": self._reply}}
