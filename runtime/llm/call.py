"""One try to call a provider: what it tells the guards as its answer passes."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

import anyio.lowlevel

from runtime.errors import LlmCut, LlmError
from runtime.llm.breaker import Permit
from runtime.llm.cache import LARGEST, size_of
from runtime.llm.gate import Ticket
from runtime.llm.provider import estimate_usage
from runtime.llm.tokens import TokenMeter
from schemas.chat import ChatPart, ChatRequest, StopPart, TextPart, Usage, UsagePart


class Call:
    """Tells the breaker, the bucket and the counters how one try went; its end is told once."""

    def __init__(self, ticket: Ticket, permit: Permit, on_failure: Callable[[LlmError], None]) -> None:
        self._ticket, self._permit, self._on_failure = ticket, permit, on_failure
        self._came = self._over = False

    def came(self) -> None:
        """A part of the answer is here."""
        if not self._came:
            self._came = True
            self._permit.came()

    def used(self, usage: Usage) -> None:
        """The provider says what it counted; nothing at all is no count."""
        if total := usage.input_tokens + usage.output_tokens:
            self._ticket.settle(total)

    def good(self) -> None:
        """The answer is whole."""
        if not self._over:
            self._over = True
            self._permit.good()

    def failed(self, error: LlmError) -> None:
        """It failed with *error*."""
        if self._over:
            return
        self._over = True
        self._on_failure(error)
        self._permit.failed(error)
        if not self._came:
            self._ticket.settle(0)  # what was refused was not read

    def left(self) -> None:
        """It was called off: what comes after proves nothing."""
        self._over = True


class Record:
    """What is learnt from an answer as it passes; with *keeps*, the whole of it and its size go to *keep*."""

    def __init__(
        self,
        request: ChatRequest,
        call: Call,
        meter: TokenMeter,
        keep: Callable[[tuple[ChatPart, ...], int], None],
        *,
        keeps: bool,
    ) -> None:
        self._request, self._call, self._meter, self._keep, self._keeps = request, call, meter, keep, keeps
        self._parts: list[ChatPart] = []
        self._size = 0

    def add(self, part: ChatPart) -> None:
        """Take in the next part."""
        self._call.came()
        if isinstance(part, UsagePart):
            self._meter.learn(self._request, part.usage)
            self._call.used(part.usage)
        elif isinstance(part, StopPart):
            self._call.good()
        if self._keeps:
            self._collect(part)

    def _collect(self, part: ChatPart) -> None:
        self._size += size_of(part)
        if self._size > LARGEST:
            self._keeps, self._parts = False, []
            return
        self._parts.append(part)
        # An answer that was cut at its longest, or by a filter, is none to give again.
        if isinstance(part, StopPart) and part.reason in ("stop", "tool_calls"):
            self._keep(self._whole(), self._size)

    def _whole(self) -> tuple[ChatPart, ...]:
        """Return the answer as it is given again: with its usage, even if nobody told it, marked as from the cache."""
        told = [part for part in self._parts if isinstance(part, UsagePart)]
        text = "".join(part.text for part in self._parts if isinstance(part, TextPart))
        usage = told[-1].usage if told else estimate_usage(self._request, text)
        others = [part for part in self._parts if not isinstance(part, UsagePart)]
        return (*others[:-1], UsagePart(usage=usage, cached=True), others[-1])


class CountedAnswer:
    """The parts of one answer as they come; *first* is here already, None where there was none."""

    def __init__(self, parts: AsyncIterator[ChatPart], first: ChatPart | None, call: Call, record: Record) -> None:
        self._parts, self._first, self._call, self._record = parts, first, call, record
        if first is None:
            self._ran_out()
        else:
            record.add(first)

    def __aiter__(self) -> AsyncIterator[ChatPart]:
        return self

    async def __anext__(self) -> ChatPart:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            self._ran_out()
            raise
        except LlmError as error:
            self._call.failed(error)
            raise
        except BaseException:
            self._call.left()
            raise
        self._record.add(part)
        return part

    def _ran_out(self) -> None:
        # Whoever reads it notices that the end is missing and says so; unless it ended well, here it only counts.
        self._call.failed(LlmCut("the answer has no end"))


async def replay(parts: tuple[ChatPart, ...]) -> AsyncGenerator[ChatPart, None]:
    """Yield *parts*; others get their turn in between."""
    for part in parts:
        await anyio.lowlevel.checkpoint()
        yield part
