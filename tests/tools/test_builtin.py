"""The tools that are always there, and the two that remember."""

from typing import Any

import pytest

from actors.together import DESCRIBED
from runtime.errors import ToolInvalid
from runtime.tools.builtin import builtin_tools
from runtime.tools.tool import ToolContext, ToolResult, wire_name
from schemas.tools import BUILTIN_TOOLS


async def call(name: str, ctx: ToolContext, **arguments: Any) -> ToolResult:
    made = builtin_tools()[name]
    return await made.run(ctx, made.check(arguments))


def test_what_is_there() -> None:
    made = builtin_tools()
    assert set(made) == {
        *("files.read", "files.write", "files.list", "files.search"),
        *("git.status", "git.diff", "git.log", "git.show"),
        *("shell", "http.fetch", "remember", "recall"),
    }
    assert {*made, *DESCRIBED} == set(BUILTIN_TOOLS)
    assert all(name == one.name and one.source == "built in" for name, one in made.items())
    assert all(one.description and one.parameters["additionalProperties"] is False for one in made.values())
    assert len({wire_name(name) for name in made}) == len(made)


def test_only_the_shell_always_asks() -> None:
    assert [name for name, one in builtin_tools().items() if one.asks_always] == ["shell"]


async def test_a_note_is_kept_found_and_forgotten(ctx: ToolContext, notes: Any) -> None:
    assert await call("remember", ctx, key="tea", text="green, no sugar") == ToolResult("kept")
    assert notes.kept == {"tea": "green, no sugar"}
    assert await call("recall", ctx, query="green") == ToolResult("tea: green, no sugar")
    assert await call("remember", ctx, key="tea", text="") == ToolResult("forgotten")
    assert notes.kept == {}
    assert await call("recall", ctx, query="green") == ToolResult("there is no such note")


async def test_so_many_notes_are_found_and_no_more(ctx: ToolContext, notes: Any) -> None:
    notes.kept |= {f"k{number}": "x" for number in range(30)}
    assert len((await call("recall", ctx, query="")).text.splitlines()) == 20
    assert notes.asked == [("", 20)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("remember", {"key": "a"}),
        ("remember", {"key": "", "text": "x"}),
        ("remember", {"key": "k" * 201, "text": "x"}),
        ("remember", {"key": "a", "text": "x" * 10_001}),
        ("recall", {}),
        ("recall", {"query": 3}),
        ("recall", {"query": "a", "limit": 100}),
    ],
)
def test_wrong_arguments_are_refused(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvalid):
        builtin_tools()[name].check(arguments)


def test_what_they_bring_into_a_run() -> None:
    made = builtin_tools()
    assert made["remember"].effect == "idempotent"
    assert made["recall"].effect == "pure"
    assert made["recall"].traits == frozenset({"private", "untrusted"})
    assert made["http.fetch"].traits == frozenset({"untrusted", "outward"})
