"""The lines that a program and we exchange: one JSON object each. What they mean: docs/how-to/agents-elsewhere.md."""

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from runtime.backends.lines import shown
from runtime.backends.port import BackendUnusable, Turn
from schemas.base import Model
from schemas.chat import MOST_TOKENS, ChatMessage

PROTOCOL: Final = 1
"""The number that is told with a turn; it grows when a program would have to be written anew."""

Id = Annotated[str, Field(min_length=1, max_length=200)]


class SaysText(Model):
    """A piece of the answer."""

    type: Literal["text"]
    text: str


class SaysReasoning(Model):
    """A piece of what it thinks."""

    type: Literal["reasoning"]
    text: str


class AsksTool(Model):
    """Call a tool; it is answered with a `tool_result` of the same id."""

    type: Literal["tool"]
    id: Id
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class AsksStep(Model):
    """It is about to do what shall be done once: it is answered with `step_begin`, or what is on record."""

    type: Literal["step"]
    id: Id
    name: Annotated[str, Field(min_length=1, max_length=200)]
    on_ambiguous: Literal["retry", "fail", "hold"] = "retry"


class SaysStepDone(Model):
    """What it came to; it is answered with `step_result` when it is on record."""

    type: Literal["step_done"]
    id: Id
    output: Any = None


class SaysUsage(Model):
    """What a call of a model used."""

    type: Literal["usage"]
    input_tokens: int = Field(default=0, ge=0, le=MOST_TOKENS)
    output_tokens: int = Field(default=0, ge=0, le=MOST_TOKENS)
    model: str = ""
    estimated: bool = False


class SaysLog(Model):
    """A line for whoever follows the run."""

    type: Literal["log"]
    text: str


class SaysState(Model):
    """What the next turn shall begin with; it counts once the turn has ended well."""

    type: Literal["state"]
    state: dict[str, Any]


class SaysFinal(Model):
    """The answer. Without a text it is what was said in pieces."""

    type: Literal["final"]
    text: str | None = None
    output: Any = None


class SaysError(Model):
    """There will be no answer; `retryable`: another attempt may bring one."""

    type: Literal["error"]
    text: str
    retryable: bool = False


Line = Annotated[
    SaysText
    | SaysReasoning
    | AsksTool
    | AsksStep
    | SaysStepDone
    | SaysUsage
    | SaysLog
    | SaysState
    | SaysFinal
    | SaysError,
    Field(discriminator="type"),
]

_LINE: Final[TypeAdapter[Any]] = TypeAdapter(Line)


def parse(line: bytes, number: int) -> Any:
    """Return what a line says. Raises BackendUnusable, which names the line, for what is none of the protocol."""
    try:
        found = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise BackendUnusable(
            f"line {number} of its stdout is no JSON ({str(error)[:200]}): {shown(line)}; "
            "stdout is for the protocol, everything else belongs on stderr"
        ) from None
    try:
        return _LINE.validate_python(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        why = f"{place}: {first['msg']}" if place else first["msg"]
        raise BackendUnusable(
            f"line {number} of its stdout is no message of the protocol ({why[:300]}): {shown(line)}"
        ) from None


def turn_line(turn: Turn, state: dict[str, Any]) -> bytes:
    """Return the line that a turn begins with."""
    return encoded(
        {
            "type": "turn",
            "protocol": PROTOCOL,
            **turn.model_dump(mode="json", exclude={"history", "tools"}),
            "history": [_message(one) for one in turn.history],
            "tools": [one.model_dump(mode="json") for one in turn.tools],
            "state": state,
        }
    )


def _message(message: ChatMessage) -> dict[str, Any]:
    return {"role": message.role, "content": message.content} | message.model_dump(mode="json", exclude_defaults=True)


def encoded(message: dict[str, Any]) -> bytes:
    """Return a message of ours as a line. ASCII, so that no locale of the program's can misread it."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
