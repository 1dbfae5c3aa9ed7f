"""Tools, schemas and vectors against llama.cpp's real server, in both of the dialects that it speaks."""

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from runtime.errors import LlmAuth, LlmContext
from runtime.llm.anthropic import AnthropicProvider
from runtime.llm.openai import OpenAIProvider
from schemas.chat import (
    ChatMessage,
    ChatPart,
    ChatRequest,
    EmbedRequest,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
    UsagePart,
)
from tests.llm.tiny_gguf import END, TOOL_CALL

pytestmark = pytest.mark.local_model

CITY = {"type": "string", "enum": ["Oslo", "Rome"]}
PLACE = {"type": "object", "properties": {"city": CITY}, "required": ["city"], "additionalProperties": False}
WEATHER = ToolSpec(name="weather", description="Tells the weather.", parameters=PLACE)
ONE_CALL = {"parallel_tool_calls": False, "logit_bias": {str(TOOL_CALL): 50, str(END): 80}}
"""What makes a model of chance call once and end."""

Provider = OpenAIProvider | AnthropicProvider


@pytest.fixture(params=[OpenAIProvider, AnthropicProvider], ids=["openai", "anthropic"])
async def provider(request: pytest.FixtureRequest, tiny_server: Any) -> AsyncIterator[Provider]:
    made = make(request.param, tiny_server, tiny_server.key)
    yield made
    await made.close()


@pytest.fixture
async def openai(tiny_server: Any) -> AsyncIterator[OpenAIProvider]:
    made = OpenAIProvider("tiny", tiny_server.url, tiny_server.key)
    yield made
    await made.close()


def make(kind: type[Provider], server: Any, key: str) -> Provider:
    return kind("tiny", server.url.removesuffix("" if kind is OpenAIProvider else "/v1"), key)


def ask(*messages: ChatMessage, **more: Any) -> ChatRequest:
    found = messages or (ChatMessage(role="user", content="weather in Oslo?"),)
    settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": 200} | more
    return ChatRequest(model="tiny", messages=found, **settings)


async def parts_of(provider: Provider, request: ChatRequest) -> list[ChatPart]:
    with anyio.fail_after(30):
        async with provider.stream(request) as parts:
            return [part async for part in parts]


def text_of(parts: list[ChatPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


async def test_words_are_streamed_with_their_usage(provider: Provider) -> None:
    system = ChatMessage(role="system", content="be a prompt")
    parts = await parts_of(provider, ask(system, ChatMessage(role="user", content="light"), max_tokens=8))
    assert len([part for part in parts if isinstance(part, TextPart)]) > 1
    assert isinstance(parts[-2], UsagePart)
    assert not parts[-2].usage.estimated
    assert (parts[-2].usage.output_tokens, parts[-2].usage.input_tokens > 10) == (8, True)
    assert parts[-1] == StopPart(reason="length")


async def test_a_prompt_that_the_server_still_knows_counts_all_the_same(provider: Provider) -> None:
    usages = []
    for _ in range(2):
        parts = await parts_of(provider, ask(ChatMessage(role="user", content="stage " * 50), max_tokens=2))
        usages += [part.usage.input_tokens for part in parts if isinstance(part, UsagePart)]
    assert usages[0] == usages[1] > 50


async def test_a_tool_is_called_and_its_result_read(openai: OpenAIProvider) -> None:
    question = ChatMessage(role="user", content="weather in Oslo?")
    parts = await parts_of(openai, ask(question, tools=(WEATHER,), tool_choice="required", extra=ONE_CALL))
    calls = [part.call for part in parts if isinstance(part, ToolCallPart)]
    assert [call.name for call in calls] == ["weather"]
    assert json.loads(calls[0].arguments)["city"] in CITY["enum"]
    assert calls[0].id
    assert parts[-1] == StopPart(reason="tool_calls")
    told = (question, ChatMessage(role="assistant", tool_calls=tuple(calls)))
    result = ChatMessage(role="tool", content="no station", tool_call_id=calls[0].id, failed=True)
    last = await parts_of(openai, ask(*told, result, tools=(WEATHER,), tool_choice="none", max_tokens=6))
    assert text_of(last)
    assert last[-1] == StopPart(reason="length")


async def test_a_history_of_calls_is_understood_in_both_dialects(provider: Provider) -> None:
    call = ToolCall(id="call_1", name="weather", arguments='{"city": "Oslo"}')
    history = (
        ChatMessage(role="user", content="weather?"),
        ChatMessage(role="assistant", content="I look.", tool_calls=(call,)),
        ChatMessage(role="tool", content="no station", tool_call_id="call_1", failed=True),
        ChatMessage(role="user", content="and now?"),
    )
    parts = await parts_of(provider, ask(*history, tools=(WEATHER,), tool_choice="none", max_tokens=6))
    assert text_of(parts)
    assert isinstance(parts[-1], StopPart)


async def test_an_answer_fits_its_schema(openai: OpenAIProvider) -> None:
    for schema in (PLACE, {"enum": ["Oslo", "Rome"]}):
        parts = await parts_of(openai, ask(response_schema=schema))
        answer = json.loads(text_of(parts))
        assert (answer["city"] if isinstance(answer, dict) else answer) in CITY["enum"]
        assert parts[-1] == StopPart(reason="stop")


async def test_vectors_come_in_the_order_of_their_texts(openai: OpenAIProvider) -> None:
    texts = ("stage", "light prompt", "stage")
    embedded = await openai.embed(EmbedRequest(model="tiny", texts=texts))
    first, second, third = embedded.vectors
    assert len(first) == 64
    assert math.hypot(*first) == pytest.approx(1.0, abs=1e-3)
    assert first == pytest.approx(third, abs=1e-4)
    assert first != pytest.approx(second, abs=1e-2)
    assert embedded.usage.input_tokens > 3
    assert not embedded.usage.estimated


async def test_a_text_too_long_for_a_vector_is_told_so(openai: OpenAIProvider) -> None:
    with pytest.raises(LlmContext, match="too large"):
        await openai.embed(EmbedRequest(model="tiny", texts=("stage " * 600,)))


@pytest.mark.parametrize("kind", [OpenAIProvider, AnthropicProvider])
async def test_a_wrong_key_is_refused(kind: type[Provider], tiny_server: Any) -> None:
    provider = make(kind, tiny_server, "wrong-key")
    with pytest.raises(LlmAuth):
        await parts_of(provider, ask())
    if kind is OpenAIProvider:
        with pytest.raises(LlmAuth):
            await provider.embed(EmbedRequest(model="tiny", texts=("stage",)))
    await provider.close()


async def test_a_conversation_that_does_not_fit_is_told_so(provider: Provider) -> None:
    with pytest.raises(LlmContext) as caught:
        await parts_of(provider, ask(ChatMessage(role="user", content="stage " * 9000)))
    assert not caught.value.retryable


async def test_hanging_up_frees_the_slot(provider: Provider) -> None:
    endless = ask(ChatMessage(role="user", content="light"), max_tokens=1000, extra={"ignore_eos": True})
    began = anyio.current_time()
    assert len(await parts_of(provider, endless)) > 500
    whole = anyio.current_time() - began
    began = anyio.current_time()
    with anyio.fail_after(30):
        for _ in range(8):  # of two slots: were they not freed, this would take four times as long as a whole answer
            async with provider.stream(endless) as parts:
                assert isinstance(await anext(aiter(parts)), TextPart)
    assert text_of(await parts_of(provider, ask(max_tokens=2)))
    assert anyio.current_time() - began < 2 * whole
