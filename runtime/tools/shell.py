"""The tool `shell`: a program with its words, in the agent's folder. It always asks a person."""

from typing import Any, Final

from runtime.errors import ToolInvalid
from runtime.tools.commands import run
from runtime.tools.schema import mistakes
from runtime.tools.tool import Tool, ToolContext, ToolResult

TIMEOUT: Final = 300.0

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "argv": {
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 1000,
            "description": "the program and its words; this is no shell text, so no pipes and no quotes",
        }
    },
    "required": ["argv"],
    "additionalProperties": False,
}


def shell_tool() -> Tool:
    """Return the tool."""
    return Tool(
        "shell",
        "Run a program in your folder. A person is asked each time.",
        SCHEMA,
        _run,
        _check,
        effect="ask_human",
        permission="ask",
        asks_always=True,
        traits=frozenset({"private", "outward"}),
        timeout=TIMEOUT,
    )


def _check(arguments: dict[str, Any]) -> dict[str, Any]:
    if wrong := mistakes(arguments, SCHEMA):
        raise ToolInvalid("; ".join(wrong), errors=wrong)
    if any("\0" in word for word in arguments["argv"]) or not arguments["argv"][0]:
        raise ToolInvalid("argv: holds an empty program or a NUL")
    try:
        "".join(arguments["argv"]).encode()
    except UnicodeEncodeError:
        raise ToolInvalid("argv: holds what is no text") from None
    return arguments


async def _run(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
    ended, out, err = await run(tuple(arguments["argv"]), ctx.workdir)
    how = f"exit code {ended.code}" if ended.code is not None else f"signal {ended.signal}"
    told = [how, *([out] if out else []), *([f"[stderr]\n{err}"] if err else [])]
    return ToolResult("\n".join(told), failed=ended.code != 0)
