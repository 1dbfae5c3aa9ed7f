"""A provider with guards around it: limits, repeated calls, a circuit breaker and a cache, shared by all who use it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final, TypeVar

import anyio

from runtime import log
from runtime.clock import Clock
from runtime.errors import LlmError, LlmOverloaded, LlmRateLimited, LlmTimeout, LlmUnreachable
from runtime.llm.breaker import Breaker, State
from runtime.llm.cache import LARGEST, Cache, key_of, size_of
from runtime.llm.call import Call, CountedAnswer, Record, replay
from runtime.llm.gate import Gate
from runtime.llm.provider import Provider
from runtime.llm.tokens import TokenMeter
from runtime.policies import Backoff
from schemas.chat import ChatPart, ChatRequest, Embedded, EmbedRequest, Usage
from schemas.config import LimitSettings

JITTER: Final = 0.5
"""By which part of itself a wait between two tries may be shorter, so that a herd spreads."""

Kept = tuple[ChatPart, ...] | Embedded
T = TypeVar("T")

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class GuardView:
    """How a provider stands. calls and failures count tries, so a call that was repeated once is two; `waiting` are in
    line or between two tries; refusals of the breaker and answers from the cache are no calls.
    """

    calls: int
    failures: int
    active: int
    waiting: int
    cache_hits: int
    breaker: State
    last_error: str | None


class Guarded:
    """*inner* behind guards; a `runtime.llm.provider.Provider` itself. One stands for all agents of a provider.

    A request is looked up in the cache, waits in line for a place and for its requests and tokens, and is sent, again
    after a pause where a try failed that may be repeated. All of that is done on entering the stream, which so waits
    for the first part of the answer; from then on nothing is repeated. No place is held during a pause.

    limits
        what holds for all of them together; its durations are milliseconds.
    cache_ms
        how long a whole answer is given again to exactly the same request, at whatever temperature; 0 is never.

    Entering raises what the last try failed with. With a `retry_after` beyond `limits.retry_cap` that is the first: no
    place is held for so long. `LlmUnreachable` with `data["breaker"]` means that the breaker refused and no call was
    made. Cancelling frees place and connection at once; tokens that were set aside stay spent unless it was refused.
    """

    def __init__(self, inner: Provider, limits: LimitSettings, cache_ms: int, clock: Clock) -> None:
        self.name = inner.name
        self.inner = inner
        self.meter = TokenMeter()
        self._limits, self._clock = limits, clock
        self._gate = Gate(limits, clock)
        self._breaker = Breaker(self.name, limits.breaker_failures, limits.breaker_pause / 1000, clock)
        self._cache: Cache[Kept] = Cache(cache_ms / 1000, clock)
        self._backoff = Backoff(limits.retry_base / 1000, 2.0, limits.retry_cap / 1000, JITTER)
        self._closed = anyio.Event()
        self._calls = self._failures = self._pausing = 0
        self._last_error: str | None = None

    def __repr__(self) -> str:
        return f"<Guarded {self.inner!r}>"

    def view(self) -> GuardView:
        """Return how it stands now."""
        return GuardView(
            calls=self._calls,
            failures=self._failures,
            active=self._gate.active,
            waiting=self._gate.waiting + self._pausing,
            cache_hits=self._cache.hits,
            breaker=self._breaker.state,
            last_error=self._last_error,
        )

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        """See `runtime.llm.provider.Provider`; entering waits for the first part of the answer."""
        key = key_of(request) if self._cache.on else None
        hit = self._cache.get(key)
        if isinstance(hit, tuple):
            async with aclosing(replay(hit)) as parts:
                yield parts
            return

        def keep(whole: tuple[ChatPart, ...], size: int) -> None:
            self._keep(key, whole, size)

        async def once(call: Call, stack: AsyncExitStack) -> CountedAnswer:
            parts = await stack.enter_async_context(self.inner.stream(request))
            first = await anext(parts, None)
            return CountedAnswer(parts, first, call, Record(request, call, self.meter, keep, keeps=key is not None))

        async with AsyncExitStack() as stack:
            yield await self._repeat(once, self.meter.reserve(request), stack)

    async def embed(self, request: EmbedRequest) -> Embedded:
        """See `runtime.llm.provider.Provider`; vectors from the cache used nothing."""
        key = key_of(request) if self._cache.on else None
        hit = self._cache.get(key)
        if isinstance(hit, Embedded):
            return hit.model_copy(update={"usage": Usage()})

        async def once(call: Call, _: AsyncExitStack) -> Embedded:
            embedded = await self.inner.embed(request)
            self.meter.learn(request, embedded.usage)
            call.used(embedded.usage)
            call.good()
            return embedded

        async with AsyncExitStack() as stack:
            embedded = await self._repeat(once, self.meter.reserve(request), stack)
        self._keep(key, embedded, size_of(embedded))
        return embedded

    async def close(self) -> None:
        """Close *inner* and forget the answers; who waits is let through to be told so, and nothing is repeated."""
        self._closed.set()
        self._gate.close()
        self._cache.clear()
        await self.inner.close()

    def _keep(self, key: str | None, value: Kept, size: int) -> None:
        """Put a whole answer into the cache."""
        if size <= LARGEST and not self._closed.is_set():
            self._cache.put(key, value, size)

    def _failed(self, error: LlmError) -> None:
        """Count a try that failed."""
        self._failures += 1
        self._last_error = error.detail

    async def _repeat(
        self, once: Callable[[Call, AsyncExitStack], Awaitable[T]], tokens: int, stack: AsyncExitStack
    ) -> T:
        """Return what *once* returns in the first try that works; what it entered is left with *stack*."""
        for tries in count():
            async with AsyncExitStack() as trying:
                call = await trying.enter_async_context(self._admitted(tokens))
                try:
                    got = await once(call, trying)
                except LlmError as error:
                    call.failed(error)
                    pause = self._pause_after(error, tries)
                    if pause is None:
                        raise
                    logger.info("llm_call_repeated", provider=self.name, code=error.code, tries=tries + 1, pause=pause)
                else:
                    stack.push_async_exit(trying.pop_all())
                    return got
            await self._rest(pause)
        raise AssertionError("the loop has no end")

    @asynccontextmanager
    async def _admitted(self, tokens: int) -> AsyncIterator[Call]:
        """Hold a place and the breaker's leave. Raises LlmUnreachable where it refuses."""
        self._breaker.check()  # who is refused need not stand in line for it
        async with self._gate.enter(tokens) as ticket:
            try:
                permit = self._breaker.admit()
            except LlmError:
                ticket.void()
                raise
            self._calls += 1
            try:
                yield Call(ticket, permit, self._failed)
            finally:
                permit.release()

    def _pause_after(self, error: LlmError, tries: int) -> float | None:
        """Return the seconds to wait before the next try after *error*; None where there is to be none."""
        wish = error.retry_after or 0.0
        if self._breaker.state == "open":
            if repeatable(error):  # the queue need not come back before somebody may try
                error.retry_after = max(wish, self._breaker.left)
            return None
        if tries >= self._limits.retries or not repeatable(error) or self._closed.is_set():
            return None
        if wish > self._limits.retry_cap / 1000:
            return None
        return max(wish, self._backoff.delay(tries, self._clock.random()))

    async def _rest(self, seconds: float) -> None:
        self._pausing += 1
        try:
            with anyio.move_on_after(seconds):
                await self._closed.wait()
        finally:
            self._pausing -= 1


def repeatable(error: LlmError) -> bool:
    """Tell whether a call that failed with *error* before its answer may be made again."""
    if isinstance(error, LlmTimeout):
        return error.data.get("which") in ("connect", "first_byte")
    return isinstance(error, LlmRateLimited | LlmOverloaded | LlmUnreachable)
