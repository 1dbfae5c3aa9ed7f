"""What a tool is: a name, a schema, what it may do, and one coroutine that does it."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from runtime.clock import Clock
from schemas.chat import ToolSpec
from schemas.tools import Effect, Permission, Trait


class Surroundings(Protocol):
    """What tools may ask of the run they are called in; the built-in ones that need the daemon use it."""

    async def remember(self, key: str, text: str | None) -> None:
        """Keep a note of the agent's, or with None forget it."""
        ...

    async def recall(self, query: str, limit: int) -> list[tuple[str, str]]:
        """Return (key, text) of notes that fit, best first."""
        ...


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What one call is told.

    agent, run, call  the agent's name, the id of its run, the name of the call within it
    key               the same however often this call is tried again: give it to a service that knows idempotency keys
    workdir           the folder that file tools see; it exists
    retried           an earlier try of this call was begun and nobody knows how it ended
    """

    agent: str
    run: str
    call: str
    key: str
    workdir: Path
    clock: Clock
    surroundings: Surroundings
    retried: bool = False


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to, for the model to read. `failed`: it did not do what was asked."""

    text: str
    failed: bool = False


Run = Callable[[ToolContext, dict[str, Any]], Awaitable[ToolResult]]
Verify = Callable[[ToolContext, dict[str, Any]], Awaitable[ToolResult | None]]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as an agent has it.

    parameters   a JSON Schema of an object
    run          does it with arguments that `check` has let through. Raises `ToolError`s, whose words the model reads;
                 anything else is told to the model as a failure too and logged. Cancelling it ends what it does
    check        returns the arguments as they will be used (filled in, coerced). Raises ToolInvalid
    effect       what becomes of a call of which nobody knows how it ended
    verify       for effect `verify`: the result, if the earlier try took effect, or None
    permission   what holds unless the agent's `permissions` say otherwise
    asks_always  no configuration makes it go without asking; a person may allow one exact call for good
    traits       what a call brings into a run (see `schemas.tools.Trait`)
    timeout      seconds that a call may take
    source       where it comes from, for people: "built in", a module, an MCP server
    """

    name: str
    description: str
    parameters: dict[str, Any]
    run: Run
    check: Callable[[dict[str, Any]], dict[str, Any]]
    effect: Effect = "tell_model"
    verify: Verify | None = None
    permission: Permission = "allow"
    asks_always: bool = False
    traits: frozenset[Trait] = frozenset()
    timeout: float = 60.0
    source: str = "built in"

    @property
    def spec(self) -> ToolSpec:
        """Return the tool as a model sees it."""
        return ToolSpec(name=wire_name(self.name), description=self.description, parameters=self.parameters)


@dataclass(slots=True)
class Toolbox:
    """The tools of one agent by name; `missing` tells of those it should have and has not, and why."""

    tools: dict[str, Tool] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def named(self, wire: str) -> Tool | None:
        """Return the tool that a model means by *wire*: models write names their own way."""
        found = self.tools.get(wire)
        return found or next((tool for tool in self.tools.values() if wire_name(tool.name) == wire), None)


def wire_name(name: str) -> str:
    """Return *name* as providers take it: letters, digits, `_` and `-`, at most 64 characters.

    `files.read` is `files_read`, `github/create` is `github_create`; what is too long ends in a hash.
    """
    wire = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "_" for letter in name)
    if len(wire) <= MAX_WIRE_NAME:
        return wire
    return f"{wire[: MAX_WIRE_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


MAX_WIRE_NAME: Final = 64


def canonical(arguments: Mapping[str, Any]) -> str:
    """Return arguments as the one text that stands for them: sorted keys, no spaces."""
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(text: str) -> str:
    """Return the digest that an approval is bound to, of canonical arguments."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def cut(text: str, limit: int, reference: str) -> str:
    """Return at most *limit* characters of *text*; where something is left out the model is told how to read on."""
    if len(text) <= limit:
        return text
    shown = text[: max(0, limit - 160)]
    left = len(text) - len(shown)
    return (
        f"{shown}\n[cut: {left} of {len(text)} characters are not shown; results.read with ref {reference!r} and "
        f"offset {len(shown)} reads on]"
    )
