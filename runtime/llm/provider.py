"""What a model provider is: a context-managed stream of parts, its deadlines, and how a whole answer is collected."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from runtime.errors import LlmCut
from schemas.chat import ChatPart, ChatRequest, Embedded, EmbedRequest, StopPart, TextPart, Usage, UsagePart

BYTES_PER_TOKEN: Final = 4.0
"""What a token weighs where nobody counted: 5 % off for English, 20 % for code, so mark it as an estimate."""


class Provider(Protocol):
    """A model behind one verb.

    `stream` is entered to send the request and left to be rid of it: leaving closes the connection at once, which is
    what stops a provider from working on. Entering and iterating raise `LlmError`s. A stream that ended well gave one
    `UsagePart` and then, last, one `StopPart`; what failed on the way carries the text so far in `data["partial"]`.
    """

    name: str

    def stream(self, request: ChatRequest) -> AbstractAsyncContextManager[AsyncIterator[ChatPart]]:
        """Send *request* and hand out the parts of the answer as they come."""
        ...

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Return a vector for each text. Raises `LlmError`s; `LlmRequest` where it has no embeddings."""
        ...

    async def close(self) -> None:
        """Let go of every connection; streams that still run are cut."""
        ...


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a provider may keep us waiting, in seconds.

    connect
        for the connection and, again, for its encryption.
    first_byte
        from the start of the call to the first byte of the answer's body.
    between
        from one piece of the body to the next.
    total
        for the whole call, however lively it is.
    """

    connect: float = 10.0
    first_byte: float = 60.0
    between: float = 60.0
    total: float = 600.0


async def complete(provider: Provider, request: ChatRequest) -> tuple[str, Usage, str]:
    """Return the whole answer of *provider*: its text, what it used, and why it stopped.

    Raises the stream's `LlmError`s, and `LlmCut` with the partial text where no `StopPart` came.
    """
    text: list[str] = []
    usage: Usage | None = None
    async with provider.stream(request) as parts:
        async for part in parts:
            if isinstance(part, TextPart):
                text.append(part.text)
            elif isinstance(part, UsagePart):
                usage = part.usage
            elif isinstance(part, StopPart):
                whole = "".join(text)
                return whole, usage or estimate_usage(request, whole), part.reason
    raise LlmCut(f"provider {provider.name!r}: the answer has no end", provider=provider.name, partial="".join(text))


def estimate_usage(request: ChatRequest, answer: str) -> Usage:
    """Guess what a call used from its bytes, for a provider that does not say."""
    asked = sum(len(message.content.encode(errors="replace")) for message in request.messages)
    told = len(answer.encode(errors="replace"))
    return Usage(
        input_tokens=round(asked / BYTES_PER_TOKEN), output_tokens=round(told / BYTES_PER_TOKEN), estimated=True
    )
