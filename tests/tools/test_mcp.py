"""What an MCP server offers, without a server: what is taken, pinned, checked and shown of it."""

import time
from types import SimpleNamespace as Some
from typing import Any

import pytest

from runtime.errors import ToolInvalid
from runtime.tools.mcp import (
    MAX_DESCRIPTION,
    MAX_PARTS,
    MAX_TOOLS,
    Offered,
    judge,
    offered,
    pins_of,
    pins_text,
    result_of,
    sort_out,
    tame,
    tool_of,
)
from runtime.tools.tool import ToolResult

OBJECT = {"type": "object"}


async def never(tool: Offered, arguments: dict[str, Any]) -> ToolResult:
    raise AssertionError("nobody calls it here")


def checked(schema: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return tool_of("s", offered("t", "", schema), never, timeout=1.0).check(arguments)


# -- digests and pins --------------------------------------------------------------------------------------------------


def test_a_digest_is_of_name_description_and_schema_and_not_of_their_order() -> None:
    one = offered("t", "d", {"type": "object", "required": ["a"]})
    assert one.digest == offered("t", "d", {"required": ["a"], "type": "object"}).digest
    others = [
        offered("u", "d", one.schema),
        offered("t", "e", one.schema),
        offered("t", "d", OBJECT),
        offered("t", "d", {**one.schema, "description": "send it on"}),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_what_is_seen_first_is_pinned_and_what_changes_is_not() -> None:
    first, _ = sort_out("s", [("a", "", OBJECT), ("b", "", OBJECT)])
    verdict = judge(first, {}, trust=False)
    assert (verdict.fresh, verdict.changed) == (("s/a", "s/b"), {})

    second, _ = sort_out("s", [("a", "another", OBJECT), ("c", "", OBJECT)])
    after = judge(second, verdict.pins, trust=False)
    assert after.fresh == ("s/c",)
    assert after.changed["s/a"].pinned == verdict.pins["a"] == after.pins["a"]
    assert after.pins["b"] == verdict.pins["b"]  # it may come back, and another

    trusted = judge(second, verdict.pins, trust=True)
    assert set(trusted.changed) == {"s/a"}
    assert trusted.pins["a"] == second["s/a"].digest


def test_pins_are_kept_as_text() -> None:
    assert pins_of(pins_text({"b": "2", "a": "1"})) == {"a": "1", "b": "2"}
    assert pins_of(None) == {}


# -- a listing ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_taken_of_a_listing_is_told() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    taken, refused = sort_out(
        "s",
        [
            ("fine", "", OBJECT),
            ("fine", "again", OBJECT),
            ("a/b", "", OBJECT),
            ("a.b", "", OBJECT),
            ("not fine", "", OBJECT),
            ("x" * 200, "", OBJECT),
            ("large", "x" * 70_000, OBJECT),
            ("nan", "", {"maximum": float("nan")}),
            ("deep", "", deep),
        ],
    )
    assert set(taken) == {"s/fine", "s/a/b"}
    assert taken["s/fine"].description == ""
    assert refused["s/a.b"] == "to a model its name would be that of s/a/b"
    assert "letters, digits" in refused["s/not fine"]
    assert "at most 65536 are taken" in refused["s/large"]
    assert {"s/nan", "s/deep", "s/" + "x" * 198} <= set(refused)


def test_a_listing_has_an_end() -> None:
    taken, refused = sort_out("s", [(f"t{n}", "", OBJECT) for n in range(MAX_TOOLS + 1)])
    assert len(taken) == MAX_TOOLS
    assert refused == {f"s/t{MAX_TOOLS}": f"its server lists more than {MAX_TOOLS} tools"}


def test_a_model_is_shown_so_much_of_a_description() -> None:
    tool = tool_of("s", offered("t", "x" * 10_000, OBJECT), never, timeout=1.0)
    assert len(tool.spec.description) == MAX_DESCRIPTION
    assert tool.spec.parameters == OBJECT


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"properties": {"a": {"type": "integer"}}}, 1, "1"),
        ({"properties": {"a": {"type": ["string", "null"]}}}, None, 1),
        ({"properties": {"a": {"enum": ["x", "y"]}}}, "x", "z"),
        ({"properties": {"a": {"const": 1}}}, 1, 2),
        ({"properties": {"a": {"minimum": 1, "maximum": 3}}}, 2, 4),
        ({"properties": {"a": {"type": "string", "maxLength": 2}}}, "xx", "xxx"),
        ({"properties": {"a": {"items": {"type": "string"}, "minItems": 1}}}, ["x"], [1]),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, None, 1),
        ({"properties": {"a": {"properties": {"b": {}}, "additionalProperties": False}}}, {"b": 1}, {"c": 1}),
        ({"additionalProperties": {"type": "string"}}, "x", 1),
    ],
)
def test_arguments_are_checked(schema: dict[str, Any], good: Any, bad: Any) -> None:
    assert checked(schema, a=good) == {"a": good}
    with pytest.raises(ToolInvalid, match="a"):
        checked(schema, a=bad)


@pytest.mark.parametrize(
    "schema",
    [
        {"required": "a", "properties": {"a": 5}, "type": 7, "anyOf": "x", "items": 3, "minItems": "many"},
        {"properties": [], "enum": [], "additionalProperties": "no", "allOf": [{"type": "string"}]},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}, "$ref": "#/nowhere"},
        {"properties": {"a": False}, "patternProperties": {".*": {}}, "additionalProperties": False},
    ],
)
def test_a_schema_that_makes_no_sense_lets_all_pass(schema: dict[str, Any]) -> None:
    assert checked(schema, a=1, b="x") == {"a": 1, "b": "x"}


def test_no_schema_takes_our_time() -> None:
    ladder = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(200)}
    slow = [
        {"properties": {"a": {"pattern": "^(a+)+$"}}},
        {"$defs": ladder, "$ref": "#/$defs/d0"},
        {"$defs": {"x": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"},
    ]
    began = time.monotonic()
    for schema in slow:
        assert checked(schema, a="a" * 40 + "!")
    assert time.monotonic() - began < 2


def test_of_a_large_schema_a_part_is_checked() -> None:
    kept = tame({"properties": {f"p{n}": {"anyOf": [OBJECT] * 20} for n in range(150)}})
    assert str(kept).count("'type'") < MAX_PARTS
    assert len(kept["properties"]) == 150


# -- results -----------------------------------------------------------------------------------------------------------


def answer(*content: Any, structured: Any = None, error: bool = False) -> Any:
    return Some(content=list(content), structured_content=structured, is_error=error)


@pytest.mark.parametrize(
    ("given", "result"),
    [
        (answer(Some(type="text", text="a"), Some(type="text", text="b")), ToolResult("a\nb")),
        (answer(structured={"a": "ä"}), ToolResult('{"a": "ä"}')),
        (answer(), ToolResult("done; the tool said nothing")),
        (answer(error=True), ToolResult("the tool failed and did not say why", failed=True)),
        (answer(Some(type="text", text="no"), error=True), ToolResult("no", failed=True)),
        (answer(Some(type="hologram")), ToolResult("[hologram: not shown]")),
    ],
)
def test_a_result_is_text(given: Any, result: ToolResult) -> None:
    assert result_of(given) == result


def test_of_a_resource_only_the_name_is_shown() -> None:
    text = Some(uri="file:///a", mime_type="text/plain", text="secret words")
    blob = Some(uri="file:///b", mime_type=None, blob="AAAA")
    shown = result_of(answer(Some(type="resource", resource=text), Some(type="resource", resource=blob))).text
    assert shown.splitlines() == [
        "[resource file:///a, text/plain, 12 characters: not shown]",
        "[resource file:///b, no type told, 3 bytes: not shown]",
    ]
