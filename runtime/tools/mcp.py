"""What an MCP server offers, as tools of ours: names, pinned schemas, checked arguments, results as text.

Everything here is the word of a stranger. What a server says of itself (that a tool only reads, say) changes nothing of
what an agent may do; a schema that differs from the one that was pinned is withheld until a person takes it.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from runtime.errors import ToolInvalid
from runtime.tools.schema import mistakes
from runtime.tools.tool import Tool, ToolContext, ToolResult, canonical, digest_of, wire_name
from schemas.tools import ToolName, Trait

MAX_TOOLS: Final = 500
"""Tools of one server that are looked at."""
MAX_SCHEMA: Final = 64 * 1024
"""Characters of a tool's description and schema together, above which it is not taken."""
MAX_PARTS: Final = 1000
"""Parts of a schema that arguments are checked against."""
MAX_DESCRIPTION: Final = 4096
"""Characters of a description that a model is shown; what is pinned is the whole."""

TRAITS: Final[frozenset[Trait]] = frozenset({"untrusted", "outward"})

INSTALL: Final = "pip install 'understudy[mcp]'"

_NAME: Final = TypeAdapter[str](ToolName)

Listed = tuple[str, str, Mapping[str, Any]]
"""A tool as it came: name, description, schema."""

Call = Callable[["Offered", dict[str, Any]], Awaitable[ToolResult]]


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool as a server lists it. *digest* is the SHA-256 of name, description and schema: what is pinned."""

    name: str
    description: str
    schema: dict[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A tool that is withheld: what was pinned, and what the server offers now."""

    pinned: str
    now: Offered


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the pins say of a listing.

    pins     what is to be kept: what was, with what is seen for the first time
    fresh    names that are seen for the first time, and are trusted for that
    changed  names that are not what was pinned; with `trust` they are in the pins and here all the same
    """

    pins: dict[str, str]
    fresh: tuple[str, ...]
    changed: dict[str, Changed]


def offered(name: str, description: str, schema: Mapping[str, Any]) -> Offered:
    """Return a tool as it was listed. Raises ValueError for what no JSON can be or what is too large."""
    text = canonical({"name": name, "description": description, "inputSchema": dict(schema)})
    if len(text) > MAX_SCHEMA:
        raise ValueError(f"its description and schema have {len(text)} characters; at most {MAX_SCHEMA} are taken")
    return Offered(name, description, dict(schema), digest_of(text))


def sort_out(server: str, listing: Iterable[Listed]) -> tuple[dict[str, Offered], dict[str, str]]:
    """Return what can be used of a *listing* (name, description, schema) by its name with us, `SERVER/tool`; and why
    the rest cannot, by the same name.
    """
    taken: dict[str, Offered] = {}
    refused: dict[str, str] = {}
    wires: dict[str, str] = {}
    for number, (name, description, schema) in enumerate(listing):
        full = f"{server}/{name}"
        reason = _unfit(full, number, wires)
        if reason is None:
            try:
                taken[full] = offered(name, description, schema)
                wires[wire_name(full)] = full
                continue
            except (ValueError, RecursionError) as error:
                reason = str(error) or "its schema cannot be read"
        if full not in taken:
            refused[full[:200]] = reason
    return taken, refused


def _unfit(full: str, number: int, wires: Mapping[str, str]) -> str | None:
    if number >= MAX_TOOLS:
        return f"its server lists more than {MAX_TOOLS} tools"
    try:
        _NAME.validate_python(full)
    except ValidationError:
        return "its name is not one that a tool may have: letters, digits and _.:/- only, at most 128"
    other = wires.get(wire_name(full))
    if other == full:
        return "its server lists it twice"
    return None if other is None else f"to a model its name would be that of {other}"


def judge(found: Mapping[str, Offered], pins: Mapping[str, str], *, trust: bool) -> Verdict:
    """Compare what is *found* with the *pins* (digests by the server's own names).

    What is seen for the first time is trusted and pinned. A pin outlives its tool: one that goes and comes back another
    is a change too.
    """
    kept, fresh, changed = dict(pins), [], {}
    for full, tool in found.items():
        pinned = pins.get(tool.name)
        if pinned is None:
            fresh.append(full)
        elif pinned != tool.digest:
            changed[full] = Changed(pinned, tool)
        if pinned is None or trust:
            kept[tool.name] = tool.digest
    return Verdict(kept, tuple(fresh), changed)


def pins_text(pins: Mapping[str, str]) -> str:
    """Return pins as they are kept."""
    return json.dumps({"tools": dict(sorted(pins.items()))}, ensure_ascii=True, separators=(",", ":"))


def pins_of(text: str | None) -> dict[str, str]:
    """Return pins as they were kept; none where nothing was."""
    return {} if text is None else dict(json.loads(text)["tools"])


def withheld(server: str) -> str:
    """Return what is said of a tool whose schema has changed."""
    return f"its schema has changed; allow it: understudy tools pin {server}"


def tame(schema: Any) -> dict[str, Any]:
    """Return what of a stranger's *schema* arguments are checked against here; the rest is for its server to check.

    Left out is whatever could take our time or trip us: patterns, references, what is not of the type it should be, and
    everything past a number of parts.
    """
    return _tame(schema, [MAX_PARTS]) if isinstance(schema, Mapping) else {}


def _tame(schema: Mapping[str, Any], left: list[int]) -> dict[str, Any]:
    left[0] -= 1
    if left[0] < 0:
        return {}
    kept: dict[str, Any] = {
        word: schema[word] for word, fits in _PLAIN.items() if word in schema and fits(schema[word])
    }
    if isinstance(known := schema.get("properties"), Mapping):
        kept["properties"] = {name: _tame(one, left) if isinstance(one, Mapping) else {} for name, one in known.items()}
    if isinstance(inner := schema.get("items"), Mapping) and "prefixItems" not in schema:
        kept["items"] = _tame(inner, left)
    # What a pattern lets in is not known here, so beside one nothing is unknown.
    if "patternProperties" not in schema and "$ref" not in schema and "allOf" not in schema:
        others = schema.get("additionalProperties", True)
        kept["additionalProperties"] = _tame(others, left) if isinstance(others, Mapping) else others is not False
    for word in ("anyOf", "oneOf"):
        ways = schema.get(word)
        if isinstance(ways, list) and ways and all(isinstance(way, Mapping) for way in ways):
            kept[word] = [_tame(way, left) for way in ways]
    return kept


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bound(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


_PLAIN: Final[Mapping[str, Callable[[Any], bool]]] = {
    "type": lambda value: isinstance(value, str) or _is_names(value),
    "enum": lambda value: isinstance(value, list) and len(value) > 0,
    "const": lambda value: True,
    "required": _is_names,
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_size),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_bound),
}


def tool_of(server: str, found: Offered, call: Call, *, timeout: float) -> Tool:
    """Return *found* as a tool of ours, done by *call*, with *timeout* in seconds. A person is asked before each call
    unless the agent's permissions say otherwise, and nobody makes a call again of which it is not known how it ended.
    """

    checked = {"type": "object"} | tame(found.schema)

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := mistakes(arguments, checked):
            raise ToolInvalid("; ".join(wrong), errors=wrong)
        try:
            canonical(arguments).encode()
        except ValueError as error:
            raise ToolInvalid("the arguments hold what JSON in UTF-8 cannot say") from error
        return arguments

    async def run(context: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        return await call(found, arguments)

    description = found.description
    if len(description) > MAX_DESCRIPTION:
        description = description[: MAX_DESCRIPTION - 3] + "..."
    return Tool(
        name=f"{server}/{found.name}",
        description=description,
        parameters={"type": "object"} | found.schema,
        run=run,
        check=check,
        effect="tell_model",
        permission="ask",
        traits=TRAITS,
        timeout=timeout,
        source=f"MCP server {server}",
    )


def result_of(answer: Any) -> ToolResult:
    """Return the answer to a `tools/call` as text: its texts joined, and of everything else a line that names it.

    Where there is no content at all the structured value is shown as JSON.
    """
    parts = [_shown(block) for block in answer.content]
    if not parts and answer.structured_content is not None:
        parts = [json.dumps(answer.structured_content, ensure_ascii=False)]
    text = "\n".join(parts)
    if answer.is_error:
        return ToolResult(text or "the tool failed and did not say why", failed=True)
    return ToolResult(text or "done; the tool said nothing")


def _shown(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.type}, {block.mime_type}, {_size(block.data)}: not shown]"
        case "resource_link":
            return f"[resource {block.uri} ({block.name}): not shown]"
        case "resource":
            kind = block.resource.mime_type or "no type told"
            data = getattr(block.resource, "blob", None)
            size = f"{len(block.resource.text)} characters" if data is None else _size(data)
            return f"[resource {block.resource.uri}, {kind}, {size}: not shown]"
        case other:
            return f"[{other}: not shown]"


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4} bytes"
