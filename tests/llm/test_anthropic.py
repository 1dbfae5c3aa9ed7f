"""The Anthropic provider over a real socket: where it calls, how it says who asks, and what it does not have."""

from typing import Any

import pytest

from runtime.errors import LlmRequest
from runtime.llm.anthropic import AnthropicProvider
from runtime.llm.provider import complete
from schemas.chat import (
    EmbedRequest,
    NativePart,
    ReasoningPart,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)

KEY = "sk-very-secret-0123456789"


async def answer(call: Any) -> None:
    await call.head()
    for event in (
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "cache_read_input_tokens": 4}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "I look."}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "a", "name": "weather", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ):
        await call.send(f"event: {event['type']}\n".encode() + call.event(event))
    await call.forever()


def provider_of(stage: Any, key: str | None = KEY) -> AnthropicProvider:
    return AnthropicProvider("claude", stage.url.removesuffix("/v1"), key)


async def test_a_whole_answer(play: Any, request_of: Any) -> None:
    stage = await play(answer)
    provider = provider_of(stage)
    async with provider.stream(request_of()) as parts:
        got = [part async for part in parts]
    await provider.close()
    assert got == [
        ReasoningPart(text="hm"),
        TextPart(text="I look."),
        ToolCallPart(call=ToolCall(id="a", name="weather", arguments="{}")),
        NativePart(native=got[3].native),
        UsagePart(usage=Usage(input_tokens=7, output_tokens=2)),
        StopPart(reason="tool_calls"),
    ]
    call = stage.calls[0]
    assert call.line == "POST /v1/messages HTTP/1.1"
    assert call.headers["x-api-key"] == KEY
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in call.headers
    assert call.json["stream"] is True


async def test_without_a_key_none_is_sent(play: Any, request_of: Any) -> None:
    stage = await play(answer)
    provider = provider_of(stage, None)
    assert (await complete(provider, request_of()))[0] == "I look."
    await provider.close()
    assert "x-api-key" not in stage.calls[0].headers


async def test_it_has_no_embeddings() -> None:
    provider = AnthropicProvider("claude", "https://host", KEY)
    with pytest.raises(LlmRequest, match=r"claude.*no embeddings") as caught:
        await provider.embed(EmbedRequest(model="m", texts=("a",)))
    assert not caught.value.retryable
    assert repr(provider) == "<AnthropicProvider claude https://host>"
