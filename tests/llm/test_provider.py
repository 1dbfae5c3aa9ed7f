"""How a whole answer is collected from the stream of any provider."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runtime.errors import LlmCut
from runtime.llm.provider import complete, estimate_usage
from schemas.chat import ChatPart, ChatRequest, ReasoningPart, StopPart, TextPart, Usage, UsagePart


class Recorded:
    """A provider that streams what it was made with."""

    name = "recorded"

    def __init__(self, *parts: ChatPart) -> None:
        self.parts: Sequence[ChatPart] = parts
        self.left = False

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        try:
            yield self._each()
        finally:
            self.left = True

    async def _each(self) -> AsyncGenerator[ChatPart, None]:
        for part in self.parts:
            yield part

    async def close(self) -> None:
        self.left = True


async def test_text_usage_and_reason_are_collected_without_the_thoughts(request_of: Any) -> None:
    usage = Usage(input_tokens=5, output_tokens=7)
    provider = Recorded(
        ReasoningPart(text="hm"),
        TextPart(text="a"),
        TextPart(text="b"),
        UsagePart(usage=usage),
        StopPart(reason="length"),
    )
    assert await complete(provider, request_of()) == ("ab", usage, "length")
    assert provider.left


async def test_usage_nobody_told_is_estimated(request_of: Any) -> None:
    provider = Recorded(TextPart(text="12345678"), StopPart())
    _, usage, _ = await complete(provider, request_of("1234"))
    assert usage == Usage(input_tokens=1, output_tokens=2, estimated=True)


async def test_a_stream_without_its_mark_is_cut(request_of: Any) -> None:
    provider = Recorded(TextPart(text="half"))
    with pytest.raises(LlmCut) as caught:
        await complete(provider, request_of())
    assert caught.value.data == {"provider": "recorded", "partial": "half"}
    assert provider.left


def test_bytes_are_what_is_estimated_from(request_of: Any) -> None:
    assert estimate_usage(request_of("ø" * 8), "").input_tokens == 4
