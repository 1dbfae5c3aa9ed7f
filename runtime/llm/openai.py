"""Any OpenAI-compatible endpoint: OpenAI, DeepSeek, Ollama, vLLM, llama.cpp, proxies."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from runtime.errors import LlmCut
from runtime.llm.completions import Reader, encode
from runtime.llm.embeddings import EmbedReader, encode_embed
from runtime.llm.http import HttpProvider
from schemas.chat import ChatPart, ChatRequest, Embedded, EmbedRequest

CHAT: Final = "/chat/completions"
EMBEDDINGS: Final = "/embeddings"


class OpenAIProvider(HttpProvider):
    """`POST {base_url}/chat/completions`, always streamed, and `POST {base_url}/embeddings`; see `HttpProvider`."""

    def stream(self, request: ChatRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatPart]]:
        """Send *request* and hand out the parts of the answer; leaving closes the connection at once.

        Raises, on entering or while iterating, the `LlmError` of what went wrong; its `data` names the provider.
        """
        return self._exchange(CHAT, lambda: encode(request), Reader(request, secret=self._key))

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Return a vector for each text, in order. The caps and deadlines are those of an answer.

        Raises the `LlmError` of what went wrong, `LlmProtocol` for vectors that cannot be those that were asked for.
        """
        reader = EmbedReader(request, secret=self._key)
        async with self._exchange(EMBEDDINGS, lambda: encode_embed(request), reader, whole=True) as answer:
            async for _ in answer:
                pass  # there are no parts; the reader keeps what it read
        if reader.embedded is None:
            raise LlmCut("the answer is empty", provider=self.name)
        return reader.embedded

    def _identity(self) -> dict[str, str]:
        return {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
