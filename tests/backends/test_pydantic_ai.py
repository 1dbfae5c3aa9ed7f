"""Agents of Pydantic AI as backends, with models that need no network."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, DeferredToolRequests, RunContext
from pydantic_ai import exceptions as theirs
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from runtime.backends.port import BackendUnusable, Final, Text, Turn, Used
from runtime.backends.pydantic_ai import PydanticAIBackend
from runtime.backends.pydantic_ai_model import translated
from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmOverloaded,
    LlmRateLimited,
    LlmRequest,
    LlmTimeout,
    LlmUnreachable,
)
from runtime.outcomes import Suspended
from runtime.tools.tool import ToolResult
from schemas.chat import ChatMessage, ToolCall, ToolSpec

Take = Callable[..., Any]
NewTurn = Callable[..., Turn]

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
ADD = ToolSpec(name="add", description="adds", parameters=PARAMETERS)
ASK = ToolSpec(name="ask", description="asks a person")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the only loop that Pydantic AI runs on


class Scripted:
    """A model that says what it is told, and keeps what it was asked."""

    def __init__(self, *answers: str | list[tuple[str, dict[str, Any]]]) -> None:
        self.answers = list(answers)
        self.asked: list[list[ModelMessage]] = []
        self.infos: list[AgentInfo] = []

    @property
    def model(self) -> FunctionModel:
        return FunctionModel(stream_function=self._say, model_name="scripted")

    async def _say(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        self.asked.append(list(messages))
        self.infos.append(info)
        answer = self.answers[len(self.asked) - 1]
        if isinstance(answer, str):
            for word in answer.split(" "):
                yield word + " "
        else:
            for index, (name, arguments) in enumerate(answer):
                yield {index: DeltaToolCall(name=name, json_args=json.dumps(arguments), tool_call_id=f"c{index}")}


def shown(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def test_an_answer_is_streamed_and_counted(take: Take, ctx: Any) -> None:
    backend = PydanticAIBackend(Agent(Scripted("good day to you").model))

    *events, used, final = await take(backend, ctx)

    assert [event.text for event in events] == ["good ", "day ", "to ", "you "]
    assert isinstance(used, Used)
    assert used.model == "scripted"
    assert used.usage.output_tokens > 0
    assert final == Final(text="good day to you ")


async def test_a_model_that_cannot_stream(take: Take, ctx: Any) -> None:
    def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart(content="whole")])

    text, _, final = await take(PydanticAIBackend(Agent(FunctionModel(say)), streams=False), ctx)

    assert text == Text(text="whole")
    assert final == Final(text="whole")


async def test_the_turn_is_told_in_its_words(take: Take, ctx: Any, turn: NewTurn) -> None:
    script = Scripted("ok")
    call = ToolCall(id="c9", name="files_read", arguments='{"path": "x"}')
    history = (
        ChatMessage(role="user", content="read x"),
        ChatMessage(role="assistant", content="gladly", tool_calls=(call,)),
        ChatMessage(role="tool", name="files.read", tool_call_id="c9", content="not there", failed=True),
        ChatMessage(role="assistant", content="it is not there"),
    )
    agent = Agent(script.model, instructions="Be brief.")
    await take(PydanticAIBackend(agent), ctx, turn("and y?", history=history, system="a clerk", tools=(ADD,)))

    (asked,) = script.asked
    assert [type(message).__name__ for message in asked] == [
        "ModelRequest",
        "ModelResponse",
        "ModelRequest",
        "ModelResponse",
        "ModelRequest",
    ]
    returned = asked[2].parts[0]
    assert isinstance(returned, ToolReturnPart)
    assert (returned.tool_name, returned.content, returned.outcome) == ("files_read", "not there", "failed")
    assert isinstance(asked[-1], ModelRequest)
    assert asked[-1].parts[-1].content == "and y?"  # type: ignore[union-attr]
    (info,) = script.infos
    assert "Be brief." in (info.instructions or "")
    assert "a clerk" in (info.instructions or "")
    (tool,) = info.function_tools
    assert (tool.name, tool.description, tool.parameters_json_schema) == ("add", "adds", PARAMETERS)


async def test_tools_of_ours_go_through_us_and_its_own_do_not(take: Take, ctx: Any, turn: NewTurn) -> None:
    script = Scripted([("add", {"a": 1, "b": 2}), ("own", {}), ("broken", {})], "done")
    agent = Agent(script.model, deps_type=str)

    @agent.tool
    def own(context: RunContext[str]) -> str:
        return f"own for {context.deps}"

    async def broken(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult("the disk is full", failed=True)

    ctx.tools["broken"] = broken
    backend = PydanticAIBackend(agent, deps=lambda turn: turn.conversation)
    events = await take(backend, ctx, turn(tools=(ADD, ToolSpec(name="broken"))))

    assert ctx.made == [("add", {"a": 1, "b": 2}), ("broken", {})]
    parts = {part.tool_name: part for part in script.asked[1][-1].parts if isinstance(part, ToolReturnPart)}
    assert parts["add"].content == "3"
    assert parts["own"].content == "own for main"
    assert parts["broken"].content == "the disk is full"
    assert parts["broken"].outcome == "failed"
    assert len([event for event in events if isinstance(event, Used)]) == 2


async def test_arguments_that_are_no_object_come_back_to_the_model(take: Take, ctx: Any, turn: NewTurn) -> None:
    script = Scripted([("add", [1])], "sorry")  # type: ignore[list-item]
    *_, final = await take(PydanticAIBackend(Agent(script.model)), ctx, turn(tools=(ADD,)))

    assert final == Final(text="sorry ")
    assert ctx.made == []


async def test_a_finished_request_is_never_paid_twice(take: Take, ctx: Any, turn: NewTurn) -> None:
    script = Scripted([("ask", {})], "done")
    backend = PydanticAIBackend(Agent(script.model))
    said = turn(tools=(ASK,))
    with pytest.raises(Suspended) as suspended:
        await take(backend, ctx, said)
    assert suspended.value.says["waits"] == "approval/1"
    assert len(script.asked) == 1

    async def allowed(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult("yes")

    ctx.tools["ask"] = allowed
    second = ctx.again()
    events = await take(backend, second, said)

    assert len(script.asked) == 2
    assert second.done == ["model/1"]
    assert shown(events) == "done "
    assert len([event for event in events if isinstance(event, Used)]) == 2
    assert events[-1] == Final(text="done ")

    events = await take(backend, second.again(), said)
    assert len(script.asked) == 2
    assert shown(events) == ""
    assert events[-1] == Final(text="done ")


async def test_a_wait_lets_the_calls_beside_it_end(take: Take, ctx: Any, turn: NewTurn) -> None:
    ended: list[str] = []

    async def slow(arguments: dict[str, Any]) -> ToolResult:
        await anyio.sleep(0.05)
        ended.append("slow")
        return ToolResult("ok")

    ctx.tools["slow"] = slow
    script = Scripted([("ask", {}), ("slow", {})], "done")
    with pytest.raises(Suspended):
        await take(PydanticAIBackend(Agent(script.model)), ctx, turn(tools=(ASK, ToolSpec(name="slow"))))

    assert ended == ["slow"]
    assert [name for name, _ in ctx.made] == ["ask", "slow"]


class Weather(BaseModel):
    place: str
    degrees: float


async def test_an_output_that_is_no_text(take: Take, ctx: Any) -> None:
    model = TestModel(custom_output_args={"place": "Köln", "degrees": 20.5})
    *_, final = await take(PydanticAIBackend(Agent(model, output_type=Weather)), ctx)

    assert final == Final(text='{"place":"Köln","degrees":20.5}', output={"place": "Köln", "degrees": 20.5})


async def test_a_test_model_calls_every_tool(take: Take, ctx: Any, turn: NewTurn) -> None:
    *_, final = await take(PydanticAIBackend(Agent(TestModel())), ctx, turn(tools=(ADD,)))

    assert ctx.made == [("add", {"a": 0, "b": 0})]
    assert final == Final(text='{"add":"0"}')


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (theirs.ModelHTTPError(429, "m", retry_after=7), LlmRateLimited),
        (theirs.ModelHTTPError(401, "m"), LlmAuth),
        (theirs.ModelHTTPError(400, "m"), LlmRequest),
        (theirs.ModelHTTPError(503, "m"), LlmOverloaded),
        (theirs.ModelContextWindowExceededError("m", "too long"), LlmContext),
        (theirs.ModelTimeoutError("m", "slow"), LlmTimeout),
        (theirs.ModelRequestTimeout("m", 1.0), LlmTimeout),
        (theirs.ModelConnectionError("m", "refused"), LlmUnreachable),
        (theirs.UnexpectedModelBehavior("odd"), BackendUnusable),
    ],
)
async def test_what_a_provider_does_is_told_in_our_words(
    take: Take, ctx: Any, error: Exception, kind: type[Exception]
) -> None:
    async def say(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        raise error
        yield ""

    with pytest.raises(kind) as raised:
        await take(PydanticAIBackend(Agent(FunctionModel(stream_function=say))), ctx)
    assert type(raised.value) is kind
    if kind is LlmRateLimited:
        assert raised.value.retry_after == 7  # type: ignore[attr-defined]
    both = FallbackModel(FunctionModel(stream_function=say), FunctionModel(stream_function=say))
    with pytest.raises(kind):
        await take(PydanticAIBackend(Agent(both)), ctx.again())


async def test_agents_that_cannot_be_used(take: Take, ctx: Any, turn: NewTurn) -> None:
    with pytest.raises(BackendUnusable, match="has no model"):
        await take(PydanticAIBackend(Agent()), ctx)

    agent = Agent(Scripted([("add", {})]).model)
    agent.tool_plain(lambda: "mine", name="add")
    with pytest.raises(BackendUnusable, match="add"):
        await take(PydanticAIBackend(agent), ctx.again(), turn(tools=(ADD,)))

    deferring = Agent(Scripted([("later", {})]).model, output_type=[str, DeferredToolRequests])
    deferring.tool_plain(lambda: "x", name="later", requires_approval=True)
    with pytest.raises(BackendUnusable, match="defers tools"):
        await take(PydanticAIBackend(deferring), ctx.again())


async def test_an_error_of_its_own_tools_is_raised_as_it_is(take: Take, ctx: Any) -> None:
    agent = Agent(Scripted([("own", {})]).model)

    @agent.tool_plain
    def own() -> str:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError):
        await take(PydanticAIBackend(agent), ctx)


def test_a_conversation_may_end_with_a_question() -> None:
    history = (
        ChatMessage(role="system", content="s"),
        ChatMessage(role="user", content="a"),
        ChatMessage(role="tool", tool_call_id="gone", content="x"),
    )
    (request,) = translated(history)

    assert [part.part_kind for part in request.parts] == ["system-prompt", "user-prompt", "tool-return"]
    assert translated(()) == []
    assert isinstance(translated((ChatMessage(role="assistant", content="x"),))[0], ModelResponse)
    assert ToolCallPart(tool_name="x").args is None
