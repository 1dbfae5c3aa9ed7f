"""Holds a value against a JSON Schema, as far as tools and answers use one; what it does not know it lets pass."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

DEEPEST: Final = 64
MOST: Final = 20
"""Mistakes that are told at once."""

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,),
    "array": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
}

_RANGES: Final[dict[str, tuple[Callable[[float, float], bool], str]]] = {
    "minimum": (operator.lt, "at least"),
    "maximum": (operator.gt, "at most"),
    "exclusiveMinimum": (operator.le, "more than"),
    "exclusiveMaximum": (operator.ge, "less than"),
}


def mistakes(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with *value*, at most 20 sentences of the form `place: what`; empty where it fits.

    Knows type, enum, const, properties, required, additionalProperties, items, lengths, ranges, pattern, anyOf, oneOf,
    allOf and `$ref` within the schema.
    """
    found = _Check(schema).look(value, schema, "", 0)
    return [told for told, _ in zip(found, range(MOST), strict=False)]


class _Check:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root

    def look(self, value: Any, schema: Any, place: str, depth: int) -> Iterator[str]:
        if schema is False:
            yield f"{place or 'it'}: is not allowed"
        if not isinstance(schema, Mapping) or depth > DEEPEST:
            return
        if "$ref" in schema:
            yield from self.look(value, self.target(str(schema["$ref"])), place, depth + 1)
        yield from self.kind(value, schema, place)
        yield from self.either(value, schema, place, depth)
        if isinstance(value, dict):
            yield from self.members(value, schema, place, depth)
        elif isinstance(value, list | tuple):
            yield from self.items(value, schema, place, depth)
        elif isinstance(value, str):
            yield from self.text(value, schema, place)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield from self.number(value, schema, place)

    def target(self, reference: str) -> Any:
        found: Any = self.root
        for word in reference.removeprefix("#").split("/")[1:]:
            found = found.get(word.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        return found

    def kind(self, value: Any, schema: Mapping[str, Any], place: str) -> Iterator[str]:
        wanted = schema.get("type")
        names = [wanted] if isinstance(wanted, str) else list(wanted or ())
        if names and not any(fits(value, name) for name in names):
            yield f"{place or 'it'}: should be {' or '.join(names)}, not {type_name(value)}"
        if "enum" in schema and value not in schema["enum"]:
            yield f"{place or 'it'}: should be one of {', '.join(map(repr, schema['enum'][:20]))}"
        if "const" in schema and value != schema["const"]:
            yield f"{place or 'it'}: should be {schema['const']!r}"

    def either(self, value: Any, schema: Mapping[str, Any], place: str, depth: int) -> Iterator[str]:
        for one in schema.get("allOf", ()):
            yield from self.look(value, one, place, depth + 1)
        for word in ("anyOf", "oneOf"):
            ways = schema.get(word)
            if ways and all(any(self.look(value, one, place, depth + 1)) for one in ways):
                yield f"{place or 'it'}: fits none of the {len(ways)} forms it may have"

    def members(self, value: dict[str, Any], schema: Mapping[str, Any], place: str, depth: int) -> Iterator[str]:
        known = schema.get("properties") or {}
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{_at(place, name)}: is missing"
        more = schema.get("additionalProperties", True)
        for name, inner in value.items():
            if name in known:
                yield from self.look(inner, known[name], _at(place, name), depth + 1)
            elif more is False:
                yield f"{_at(place, name)}: is unknown; there are {', '.join(known) or 'none'}"
            elif isinstance(more, Mapping):
                yield from self.look(inner, more, _at(place, name), depth + 1)

    def items(self, value: Any, schema: Mapping[str, Any], place: str, depth: int) -> Iterator[str]:
        if len(value) < schema.get("minItems", 0):
            yield f"{place or 'it'}: should have {schema['minItems']} items at least"
        if len(value) > schema.get("maxItems", len(value)):
            yield f"{place or 'it'}: should have {schema['maxItems']} items at most"
        inner = schema.get("items")
        for number, one in enumerate(value):
            yield from self.look(one, inner, f"{place}[{number}]", depth + 1)

    def text(self, value: str, schema: Mapping[str, Any], place: str) -> Iterator[str]:
        if len(value) < schema.get("minLength", 0):
            yield f"{place or 'it'}: should have {schema['minLength']} characters at least"
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{place or 'it'}: should have {schema['maxLength']} characters at most"
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and len(value) <= 10_000:
            try:
                fits_it = re.search(pattern, value) is not None
            except re.error:  # another dialect than ours: let it pass
                return
            if not fits_it:
                yield f"{place or 'it'}: does not fit the pattern {pattern}"

    def number(self, value: float, schema: Mapping[str, Any], place: str) -> Iterator[str]:
        for word, (wrong, told) in _RANGES.items():
            limit = schema.get(word)
            if isinstance(limit, int | float) and not isinstance(limit, bool) and wrong(value, limit):
                yield f"{place or 'it'}: should be {told} {limit}"


def fits(value: Any, name: str) -> bool:
    """Tell whether *value* has the JSON type *name*; a type nobody knows is had by all."""
    types = _TYPES.get(name)
    if types is None:
        return True
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, types)


def type_name(value: Any) -> str:
    """Return the JSON type of *value*."""
    return next((name for name in _TYPES if fits(value, name)), type(value).__name__)


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else str(name)
