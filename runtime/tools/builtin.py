"""The tools that are always there, by name."""

from typing import Any

from runtime.errors import ToolInvalid
from runtime.tools.fetch import fetch_tool
from runtime.tools.files import file_tools
from runtime.tools.git import git_tools
from runtime.tools.schema import mistakes
from runtime.tools.shell import shell_tool
from runtime.tools.tool import Run, Tool, ToolContext, ToolResult
from schemas.tools import Effect, Trait


def builtin_tools(*, fetch_hosts: tuple[str, ...] = ()) -> dict[str, Tool]:
    """Return them; `http.fetch` may reach *fetch_hosts* though they are in a private network."""
    return {
        **file_tools(),
        **git_tools(),
        "shell": shell_tool(),
        "http.fetch": fetch_tool(fetch_hosts),
        "remember": _note(
            "remember",
            "Keep a note for later conversations; an empty text forgets it.",
            {
                "key": {"type": "string", "minLength": 1, "maxLength": 200, "description": "what it is about"},
                "text": {"type": "string", "maxLength": 10_000, "description": "the note"},
            },
            ("key", "text"),
            _remember,
            "idempotent",
        ),
        "recall": _note(
            "recall",
            "Find notes you have kept.",
            {
                "query": {
                    "type": "string",
                    "maxLength": 1000,
                    "description": "words that stand in them; empty: the latest",
                }
            },
            ("query",),
            _recall,
            "pure",
        ),
    }


async def _remember(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
    await ctx.surroundings.remember(arguments["key"], arguments["text"] or None)
    return ToolResult("kept" if arguments["text"] else "forgotten")


async def _recall(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
    found = await ctx.surroundings.recall(arguments["query"], 20)
    return ToolResult("\n".join(f"{key}: {text}" for key, text in found) or "there is no such note")


def _note(
    name: str, words: str, properties: dict[str, Any], required: tuple[str, ...], run: Run, effect: Effect
) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := mistakes(arguments, schema):
            raise ToolInvalid("; ".join(wrong), errors=wrong)
        return arguments

    # Notes are one's own business, and may have been made of a stranger's words.
    traits = frozenset[Trait]({"private", "untrusted"})
    return Tool(name, words, schema, run, check, effect=effect, traits=traits)
