"""A model of Pydantic AI whose answers are on record, and our conversations in its words. Needs the extra
`pydantic-ai`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelRequestPart,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartStartEvent,
    SystemPromptPart,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext

from runtime.backends.port import BackendContext, BackendEvent, Reasoning, Text, Used
from schemas.chat import ChatMessage, Usage

Say = Callable[[BackendEvent], Awaitable[None]]


class RecordedModel(WrapperModel):
    """A model whose requests are steps `model/0`, `model/1`, ... of the run: made once, and found on record after that.

    While a request is made, what comes is shown by *say* piece by piece; an answer from the record is not shown again.
    What each used is told in either case. With *streams* false the model is asked for whole answers.
    """

    def __init__(self, wrapped: Model | str, ctx: BackendContext, say: Say, *, streams: bool) -> None:
        super().__init__(wrapped)
        self._ctx, self._say, self._streams = ctx, say, streams
        self._number = 0

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Return the answer, from the record if it is there. Raises what the context's `step` does."""
        name, self._number = f"model/{self._number}", self._number + 1
        kept = await self._ctx.step(name, self._ask, messages, model_settings, model_request_parameters)
        (response,) = ModelMessagesTypeAdapter.validate_python([kept])
        assert isinstance(response, ModelResponse)
        used = response.usage
        usage = Usage(input_tokens=used.input_tokens, output_tokens=used.output_tokens)
        await self._say(Used(usage=usage, model=response.model_name or self.model_name))
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Give the answer as a stream that is whole already: its pieces were shown as they came."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    async def _ask(
        self, messages: list[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> Any:
        if self._streams:
            async with self.wrapped.request_stream(messages, settings, parameters) as stream:
                async for event in stream:
                    await self._show(event)
            response = stream.get()
        else:
            response = await self.wrapped.request(messages, settings, parameters)
            for index, part in enumerate(response.parts):
                await self._show(PartStartEvent(index=index, part=part))
        return ModelMessagesTypeAdapter.dump_python([response], mode="json")[0]

    async def _show(self, event: Any) -> None:
        match event:
            case PartStartEvent(part=TextPart(content=text)) | PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                if text:
                    await self._say(Text(text=text))
            case (
                PartStartEvent(part=ThinkingPart(content=text))
                | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(text)))
            ):
                if text:
                    await self._say(Reasoning(text=text))


def translated(history: Iterable[ChatMessage]) -> list[ModelMessage]:
    """Return a conversation in the words of Pydantic AI."""
    found: list[ModelMessage] = []
    asked: list[ModelRequestPart] = []
    names: dict[str, str] = {}
    for message in history:
        if message.role != "assistant":
            asked.append(_request_part(message, names))
            continue
        if asked:
            found.append(ModelRequest(parts=asked))
            asked = []
        names |= {call.id: call.name for call in message.tool_calls}
        found.append(ModelResponse(parts=_response_parts(message)))
    if asked:
        found.append(ModelRequest(parts=asked))
    return found


def _request_part(message: ChatMessage, names: dict[str, str]) -> ModelRequestPart:
    match message.role:
        case "tool":
            call = message.tool_call_id or ""
            name = names.get(call) or message.name or "tool"
            outcome: Literal["failed", "success"] = "failed" if message.failed else "success"
            return ToolReturnPart(tool_name=name, content=message.content, tool_call_id=call, outcome=outcome)
        case "system":
            return SystemPromptPart(content=message.content)
        case _:
            return UserPromptPart(content=message.content)


def _response_parts(message: ChatMessage) -> list[ModelResponsePart]:
    text: list[ModelResponsePart] = [TextPart(content=message.content)] if message.content else []
    calls = [ToolCallPart(tool_name=one.name, args=one.arguments, tool_call_id=one.id) for one in message.tool_calls]
    return [*text, *calls]
