"""Anthropic's Messages over HTTP: Anthropic itself, and whoever speaks its dialect."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from runtime.errors import LlmRequest
from runtime.llm.faults import sign
from runtime.llm.http import HttpProvider
from runtime.llm.messages import encode
from runtime.llm.messages_reader import Reader
from schemas.chat import ChatPart, ChatRequest, Embedded, EmbedRequest

MESSAGES: Final = "/v1/messages"
VERSION: Final = "2023-06-01"
"""The version of the dialect; a date that has stood for years while everything new came as fields."""


class AnthropicProvider(HttpProvider):
    """`POST {base_url}/v1/messages`, always streamed; the base has no version. See `HttpProvider`."""

    def stream(self, request: ChatRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatPart]]:
        """Send *request* and hand out the parts of the answer; leaving closes the connection at once.

        Raises, on entering or while iterating, the `LlmError` of what went wrong; its `data` names the provider.
        """
        return self._exchange(MESSAGES, lambda: encode(request), Reader(request, secret=self._key))

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Raise `LlmRequest`: the dialect has no embeddings."""
        raise sign(LlmRequest("it has no embeddings; name another provider for them"), self.name)

    def _identity(self) -> dict[str, str]:
        return {"anthropic-version": VERSION} | ({} if self._key is None else {"x-api-key": self._key})
