"""Values held against JSON Schemas: what is told, and what fits."""

from typing import Any

import pytest

from runtime.tools.schema import MOST, mistakes

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 200},
        "mood": {"enum": ["good", "bad"]},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}, "maxItems": 2},
        "id": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"friend": {"type": "object", "required": ["name"]}},
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "ada"},
        {"name": "ada", "age": 0, "mood": "good", "friends": [{"name": "bob"}], "id": None},
        {"name": "ada", "age": 3.0},
    ],
)
def test_what_fits_has_no_mistakes(value: Any) -> None:
    assert mistakes(value, PERSON) == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "it: should be object, not array"),
        ({}, "name: is missing"),
        ({"name": ""}, "name: should have 1 characters at least"),
        ({"name": "Ada"}, "name: does not fit the pattern ^[a-z]+$"),
        ({"name": "ada", "age": True}, "age: should be integer, not boolean"),
        ({"name": "ada", "age": 1.5}, "age: should be integer, not number"),
        ({"name": "ada", "age": -1}, "age: should be at least 0"),
        ({"name": "ada", "age": 200}, "age: should be less than 200"),
        ({"name": "ada", "mood": "so"}, "mood: should be one of 'good', 'bad'"),
        ({"name": "ada", "friends": [{"name": "b"}, {}]}, "friends[1].name: is missing"),
        ({"name": "ada", "friends": [{"name": "b"}] * 3}, "friends: should have 2 items at most"),
        ({"name": "ada", "id": 5}, "id: fits none of the 2 forms it may have"),
        ({"name": "ada", "x": 5}, "x: is unknown; there are name, age, mood, friends, id"),
    ],
)
def test_a_mistake_is_told_with_its_place(value: Any, told: str) -> None:
    assert told in mistakes(value, PERSON)


def test_a_flood_of_mistakes_is_told_in_part() -> None:
    assert len(mistakes(["x"] * 1000, {"type": "array", "items": {"type": "integer"}})) == MOST


def test_a_schema_that_turns_in_circles_ends() -> None:
    assert mistakes({"a": 1}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}) == []


@pytest.mark.parametrize("schema", [{}, {"type": "strange"}, {"pattern": "("}, {"$ref": "#/nowhere"}])
def test_what_it_does_not_know_it_lets_pass(schema: dict[str, Any]) -> None:
    assert mistakes("text", schema) == []
