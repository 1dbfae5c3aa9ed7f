"""What tests of backends share: a context that keeps a record, and programs that are agents."""

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from runtime.backends.playing import playing
from runtime.backends.port import AgentBackend, BackendEvent, Turn
from runtime.outcomes import Suspended
from runtime.tools.tool import ToolResult


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Tool = Callable[[dict[str, Any]], Awaitable[ToolResult]]


@dataclass
class Context:
    """A `BackendContext` with a record that outlives an attempt (see `again`); tools by name."""

    tools: dict[str, Tool] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)
    results: dict[int, ToolResult] = field(default_factory=dict)
    made: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    count: int = 0

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        number, self.count = self.count, self.count + 1
        if number in self.results:
            return self.results[number]
        if name not in self.tools:
            return ToolResult(f"there is no tool {name}", failed=True)
        self.made.append((name, arguments))
        self.results[number] = result = await self.tools[name](arguments)
        return result

    async def step(self, name: str, function: Any, *args: Any, on_ambiguous: str = "retry") -> Any:
        if name not in self.steps:
            value = function(*args)
            self.steps[name] = await value if inspect.isawaitable(value) else value
            self.done.append(name)
        return self.steps[name]

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        self.told.append((kind, data))

    def again(self) -> "Context":
        """Return the context of the next attempt, which has the record of this one."""
        return Context(self.tools, self.steps, self.results)


@pytest.fixture
def ctx() -> Context:
    async def add(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult(str(arguments["a"] + arguments["b"]))

    async def ask(arguments: dict[str, Any]) -> ToolResult:
        raise Suspended(waits="approval/1", wait_until=None)

    return Context({"add": add, "ask": ask})


def a_turn(text: str = "hello", **more: Any) -> Turn:
    return Turn(run="run-1", agent="clerk", conversation="main", text=text, **more)


@pytest.fixture
def turn() -> Callable[..., Turn]:
    return a_turn


@pytest.fixture
def take() -> Callable[..., Awaitable[list[BackendEvent]]]:
    """Take a turn within 20 s and return its events."""

    async def run(backend: AgentBackend, ctx: Context, turn: Turn | None = None) -> list[BackendEvent]:
        with anyio.fail_after(20):
            async with playing(backend, turn or a_turn(), ctx) as events:
                return [event async for event in events]

    return run


HEAD = """
import json, sys
def say(**line):
    sys.stdout.write(json.dumps(line) + chr(10))
    sys.stdout.flush()
def hear():
    return json.loads(sys.stdin.readline())
turn = hear()
"""


@pytest.fixture
def program() -> Callable[[str], tuple[str, ...]]:
    """Make a program of a piece of Python, which has `turn`, `say` and `hear`."""
    return lambda body: (sys.executable, "-S", "-c", HEAD + body)


class Stub:
    """A backend that is a function."""

    def __init__(self, run: Callable[..., AsyncIterator[BackendEvent]]) -> None:
        self.run = run


@pytest.fixture
def stub() -> type[Stub]:
    return Stub
