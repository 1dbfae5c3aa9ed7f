"""The guards around a provider: who may call when, what is repeated, refused or given again, and what is let go of."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from runtime.clock import SystemClock
from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmCut,
    LlmError,
    LlmOverloaded,
    LlmProtocol,
    LlmRateLimited,
    LlmRequest,
    LlmTimeout,
    LlmUnreachable,
)
from runtime.llm.guarded import Guarded, GuardView
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import complete
from schemas.chat import (
    ChatPart,
    ChatRequest,
    Embedded,
    EmbedRequest,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)
from schemas.config import LimitSettings

USED = Usage(input_tokens=10, output_tokens=5)
WHOLE: tuple[ChatPart, ...] = (TextPart(text="yes"), UsagePart(usage=USED), StopPart())


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param if request.param == "asyncio" else ("trio", {"clock": MockClock(autojump_threshold=0)})


class Even(SystemClock):
    """A clock whose chance is always the same."""

    chance = 0.0

    def random(self) -> float:
        return self.chance


Act = LlmError | tuple[Any, ...]


class Inner:
    """Plays one act for every call, the last one for ever: an error on entering, or parts, errors and waits."""

    name = "inner"

    def __init__(self, *acts: Act) -> None:
        self.acts: list[Act] = list(acts) or [WHOLE]
        self.at: list[float] = []
        self.asked: list[Any] = []
        self.running = self.most = self.left = 0
        self.closed = False

    @property
    def calls(self) -> int:
        return len(self.at)

    def _next(self, request: Any) -> Act:
        self.asked.append(request)
        self.at.append(anyio.current_time())
        return self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        act = self._next(request)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.lowlevel.checkpoint()
            if isinstance(act, LlmError):
                raise act
            async with aclosing(self._parts(act)) as parts:
                yield parts
        finally:
            self.running -= 1
            self.left += 1

    async def _parts(self, act: tuple[Any, ...]) -> AsyncGenerator[ChatPart, None]:
        for each in act:
            await anyio.lowlevel.checkpoint()
            if isinstance(each, Exception):
                raise each
            if callable(each):
                await each()
            else:
                yield each

    async def embed(self, request: EmbedRequest) -> Embedded:
        act = self._next(request)
        await anyio.lowlevel.checkpoint()
        if isinstance(act, LlmError):
            raise act
        return Embedded(vectors=tuple((1.0, 2.0) for _ in request.texts), usage=Usage(input_tokens=7))

    async def close(self) -> None:
        self.closed = True


def guard(inner: Inner, *, cache_ms: int = 0, chance: float = 0.0, **limits: Any) -> Guarded:
    """Guards with short waits, so that the real loop is quick too. Durations are milliseconds."""
    limits = {"retry_base": 20, "retry_cap": 1000, **limits}
    clock = Even()
    clock.chance = chance
    return Guarded(inner, LimitSettings().model_copy(update=limits), cache_ms, clock)


async def all_of(provider: Guarded, request: ChatRequest) -> list[ChatPart]:
    async with provider.stream(request) as parts:
        return [part async for part in parts]


def gaps(inner: Inner) -> list[float]:
    return [round(late - early, 6) for early, late in zip(inner.at, inner.at[1:], strict=False)]


def about(waits: list[float], wished: list[float], backend: str) -> bool:
    """Exactly under the virtual clock; on the real one a wait may only be longer, by what a busy machine needs."""
    if backend == "trio":
        return waits == pytest.approx(wished, abs=0.002)
    return len(waits) == len(wished) and all(w - 0.002 <= g < w + 5 for g, w in zip(waits, wished, strict=True))


async def until(true: Callable[[], bool]) -> None:
    """Give others their turn until something is the case; no time passes by it."""
    for _ in range(10_000):
        if true():
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("it never came to be")


async def call_off(provider: Guarded, request: ChatRequest, when: Callable[[], bool]) -> None:
    """Begin a call and cancel it as soon as *when* is the case."""
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request)
        await until(when)
        group.cancel_scope.cancel()


def hold() -> tuple[Callable[[], Awaitable[Any]], anyio.Event]:
    """Return a wait for an act, and what ends it."""
    event = anyio.Event()
    return event.wait, event


# -- what passes -------------------------------------------------------------------------------------------------------


async def test_parts_pass_as_they_are_and_are_counted(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner)
    assert tuple(await all_of(provider, request_of())) == WHOLE
    assert await complete(provider, request_of()) == ("yes", USED, "stop")
    assert inner.asked[0] == request_of()
    assert provider.name == "inner"
    assert provider.view() == GuardView(2, 0, 0, 0, 0, "closed", None)
    await provider.close()
    assert inner.closed


async def test_parts_come_before_the_answer_is_whole(request_of: Any) -> None:
    wait, go = hold()
    provider = guard(Inner((TextPart(text="a"), wait, TextPart(text="b"), StopPart())))
    async with provider.stream(request_of()) as parts:
        assert await anext(parts) == TextPart(text="a")
        assert provider.view().active == 1
        go.set()
        assert [part async for part in parts] == [TextPart(text="b"), StopPart()]
        assert provider.view().active == 1
    assert provider.view().active == 0


async def test_leaving_early_leaves_the_inner_stream_at_once(request_of: Any) -> None:
    inner = Inner((TextPart(text="a"), anyio.sleep_forever))
    provider = guard(inner)
    async with provider.stream(request_of()) as parts:
        await anext(parts)
    assert (inner.running, inner.left, provider.view().active) == (0, 1, 0)


async def test_an_error_of_the_reader_is_neither_repeated_nor_blamed(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, breaker_failures=1)
    error = LlmTimeout("mine", which="idle")

    async def read() -> None:
        async with provider.stream(request_of()) as parts:
            await anext(parts)
            raise error

    with pytest.raises(LlmTimeout) as caught:
        await read()
    assert caught.value is error
    assert error.detail == "mine"
    assert inner.calls == 1
    assert (provider.view().failures, provider.view().breaker) == (0, "closed")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_over_a_real_socket_a_refusal_is_repeated_and_leaving_hangs_up(play: Any, request_of: Any) -> None:
    async def perform(call: Any) -> None:
        if len(stage.calls) == 1:
            await call.head("503 Service Unavailable", "text/plain")
        else:
            await call.head()
            await call.events(call.text("a"))
            await call.forever()

    stage = await play(perform)
    inner = OpenAIProvider("p", stage.url, None, clock=SystemClock())
    provider = Guarded(inner, LimitSettings(concurrency=1).model_copy(update={"retry_base": 1}), 0, SystemClock())
    async with provider.stream(request_of()) as parts:
        assert await anext(parts) == TextPart(text="a")
        assert not stage.hung_up.is_set()
    with anyio.fail_after(5):
        await stage.hung_up.wait()
    assert len(stage.calls) == 2
    assert provider.view().last_error == "provider 'p': it answered 503"
    await provider.close()


async def test_embedding_passes_the_same_guards(request_of: Any) -> None:
    inner = Inner(LlmOverloaded(), ())
    provider = guard(inner)
    embedded = await provider.embed(EmbedRequest(model="e", texts=("a", "b")))
    assert embedded == Embedded(vectors=((1.0, 2.0), (1.0, 2.0)), usage=Usage(input_tokens=7))
    assert (inner.calls, provider.view().calls, provider.view().failures) == (2, 2, 1)


# -- at once -----------------------------------------------------------------------------------------------------------


async def test_no_more_than_the_limit_run_at_once_and_the_line_is_kept(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner((TextPart(text="a"), wait, StopPart()))
    provider = guard(inner, concurrency=2)
    async with anyio.create_task_group() as group:
        for n in range(6):
            group.start_soon(all_of, provider, request_of(str(n)))
            await until(lambda n=n: provider.view().active + provider.view().waiting == n + 1)
        assert (provider.view().active, provider.view().waiting) == (2, 4)
        go.set()
    assert inner.most == 2
    assert [request.messages[0].content for request in inner.asked] == list("012345")
    assert (provider.view().active, provider.view().waiting) == (0, 0)


async def test_a_place_is_free_again_when_its_stream_was_cancelled(request_of: Any) -> None:
    inner = Inner((TextPart(text="a"), anyio.sleep_forever), WHOLE)
    provider = guard(inner, concurrency=1)
    await call_off(provider, request_of(), lambda: inner.calls == 1)
    with anyio.fail_after(5):
        await all_of(provider, request_of())
    assert inner.calls == 2


async def test_who_is_cancelled_in_line_takes_nothing_with_him(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner((wait, *WHOLE))
    provider = guard(inner, concurrency=1)
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def call(n: int) -> None:
        with scopes[n]:
            await all_of(provider, request_of(str(n)))

    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(call, n)
            await until(lambda n=n: inner.calls == 1 and provider.view().waiting == n)
        scopes[1].cancel()
        await until(lambda: provider.view().waiting == 1)
        go.set()
    assert [request.messages[0].content for request in inner.asked] == ["0", "2"]
    assert (provider.view().active, provider.view().waiting) == (0, 0)


async def test_a_place_is_not_held_between_two_tries(request_of: Any) -> None:
    inner = Inner(LlmOverloaded(), WHOLE)
    provider = guard(inner, concurrency=1, retry_base=300)
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of("first"))
        await until(lambda: inner.calls == 1 and provider.view().active == 0)
        assert provider.view().waiting == 1
        await all_of(provider, request_of("second"))
    assert [request.messages[0].content for request in inner.asked] == ["first", "second", "first"]


# -- a minute ----------------------------------------------------------------------------------------------------------


def left_in(provider: Guarded, *, requests: float | None = None, tokens: float | None = None) -> tuple[float, float]:
    """Return what the buckets hold, -1 where there is none; set it first where waiting for it would take a minute."""
    gate = provider._gate
    gate._wait(0)
    if gate._requests is not None and requests is not None:
        gate._requests.level = requests
    if gate._tokens is not None and tokens is not None:
        gate._tokens.level = tokens
    return (
        -1.0 if gate._requests is None else gate._requests.level,
        -1.0 if gate._tokens is None else gate._tokens.level,
    )


async def test_requests_of_a_minute_may_go_at_once_and_then_evenly(request_of: Any, anyio_backend_name: str) -> None:
    inner = Inner()
    provider = guard(inner, requests_per_minute=1200)
    assert left_in(provider) == (1200, -1)
    started = anyio.current_time()
    left_in(provider, requests=2)
    for _ in range(5):
        await all_of(provider, request_of())
    since = [at - started for at in inner.at]
    assert about(since, [0, 0, 0.05, 0.1, 0.15], anyio_backend_name)


async def test_tokens_are_set_aside_and_put_right_afterwards(request_of: Any) -> None:
    wait, go = hold()
    used = UsagePart(usage=Usage(input_tokens=30, output_tokens=270))
    provider = guard(Inner((wait, TextPart(text="a"), used, StopPart())), tokens_per_minute=600)
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of(max_tokens=100))
        await until(lambda: provider.view().active == 1)
        assert left_in(provider)[1] == pytest.approx(600 - 100 - 6, abs=50)  # five seconds bring that
        go.set()
    assert left_in(provider)[1] == pytest.approx(600 - 300, abs=50)


async def test_tokens_that_are_missing_are_waited_for(request_of: Any, anyio_backend_name: str) -> None:
    inner = Inner((TextPart(text="a"), StopPart()))
    provider = guard(inner, tokens_per_minute=6000)  # a hundred a second
    started = anyio.current_time()
    left_in(provider, tokens=7)
    for _ in range(3):
        await all_of(provider, request_of(max_tokens=1))  # six to be read, one to be told
    since = [at - started for at in inner.at]
    assert about(since, [0, 0.07, 0.14], anyio_backend_name)


async def test_no_debt_is_more_than_a_minutes_worth(request_of: Any) -> None:
    used = UsagePart(usage=Usage(input_tokens=10, output_tokens=1_000_000))
    inner = Inner((TextPart(text="a"), used, StopPart()))
    provider = guard(inner, tokens_per_minute=60)
    await all_of(provider, request_of(max_tokens=1))
    assert left_in(provider)[1] == pytest.approx(-60, abs=10)


async def test_tokens_of_a_refused_call_come_back(request_of: Any) -> None:
    provider = guard(Inner(LlmRequest()), tokens_per_minute=1000)
    with pytest.raises(LlmRequest):
        await all_of(provider, request_of())
    assert left_in(provider)[1] == pytest.approx(1000, abs=1)


async def test_a_request_larger_than_a_minute_goes_when_the_bucket_is_full(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, tokens_per_minute=10)
    with anyio.fail_after(5):
        await all_of(provider, request_of("x" * 1000))
    assert inner.calls == 1


async def test_who_waits_for_tokens_goes_on_when_some_come_back(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner((wait, *WHOLE), WHOLE)
    provider = guard(inner, tokens_per_minute=300)
    started = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of(max_tokens=250))
        await until(lambda: inner.calls == 1)
        group.start_soon(all_of, provider, request_of(max_tokens=250))
        await until(lambda: provider.view().waiting == 1)
        go.set()
    assert inner.calls == 2
    assert anyio.current_time() - started < 5  # by filling alone it would be forty


async def test_cancelled_while_waiting_for_tokens_gives_its_place_back(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, concurrency=1, tokens_per_minute=600)
    await all_of(provider, request_of())
    left_in(provider, tokens=-600)
    await call_off(provider, request_of(), lambda: provider._gate._line.locked())
    left_in(provider, tokens=600)
    with anyio.fail_after(5):
        await all_of(provider, request_of())
    assert (inner.calls, provider.view().waiting) == (2, 0)


# -- again -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        LlmRateLimited(),
        LlmOverloaded(),
        LlmUnreachable(),
        LlmTimeout(which="connect"),
        LlmTimeout(which="first_byte"),
    ],
)
@pytest.mark.parametrize("entering", [True, False])
async def test_what_may_be_repeated_is(error: LlmError, entering: bool, request_of: Any) -> None:
    inner = Inner(error if entering else (error,), WHOLE)
    provider = guard(inner)
    assert tuple(await all_of(provider, request_of())) == WHOLE
    assert (inner.calls, inner.left, provider.view().failures) == (2, 2, 1)


@pytest.mark.parametrize(
    "error",
    [
        LlmAuth(),
        LlmRequest(),
        LlmContext(),
        LlmProtocol(),
        LlmCut(),
        LlmTimeout(which="between"),
        LlmTimeout(which="total"),
    ],
)
async def test_what_may_not_be_repeated_is_raised(error: LlmError, request_of: Any) -> None:
    inner = Inner(error, WHOLE)
    provider = guard(inner)
    with pytest.raises(type(error)) as caught:
        await all_of(provider, request_of())
    assert caught.value is error
    assert inner.calls == 1
    assert provider.view().last_error == error.detail


async def test_nothing_is_repeated_once_a_part_was_handed_out(request_of: Any) -> None:
    inner = Inner((TextPart(text="a"), LlmOverloaded("late")), WHOLE)
    provider = guard(inner)
    got: list[ChatPart] = []
    with pytest.raises(LlmOverloaded, match="late"):
        async with provider.stream(request_of()) as parts:
            got.extend([part async for part in parts])
    assert inner.calls == 1
    assert provider.view().failures == 1
    assert provider.view().active == 0


async def test_waits_double_up_to_the_cap(request_of: Any, anyio_backend_name: str) -> None:
    inner = Inner(LlmOverloaded("still"))
    provider = guard(inner, retries=4, retry_base=20, retry_cap=50)
    with pytest.raises(LlmOverloaded, match="still"):
        await all_of(provider, request_of())
    assert about(gaps(inner), [0.02, 0.04, 0.05, 0.05], anyio_backend_name)


async def test_chance_makes_waits_shorter_only(request_of: Any, anyio_backend_name: str) -> None:
    inner = Inner(LlmOverloaded())
    with pytest.raises(LlmOverloaded):
        await all_of(guard(inner, retries=2, retry_base=40, chance=0.5), request_of())
    assert about(gaps(inner), [0.03, 0.06], anyio_backend_name)


async def test_the_providers_wish_is_obeyed_up_to_the_cap(request_of: Any, anyio_backend_name: str) -> None:
    inner = Inner(LlmRateLimited(retry_after=0.3), LlmRateLimited(retry_after=0.001), WHOLE)
    await all_of(guard(inner, retry_cap=300, chance=0.9), request_of())
    assert about(gaps(inner), [0.3, 0.022], anyio_backend_name)


async def test_a_longer_wish_is_left_to_the_queue(request_of: Any) -> None:
    inner = Inner(LlmRateLimited(retry_after=0.301))
    with pytest.raises(LlmRateLimited) as caught:
        await all_of(guard(inner, retry_cap=300), request_of())
    assert caught.value.retry_after == 0.301
    assert inner.calls == 1


async def test_a_cancelled_pause_makes_no_more_calls(request_of: Any) -> None:
    inner = Inner(LlmOverloaded())
    provider = guard(inner, retry_base=500)
    await call_off(provider, request_of(), lambda: provider._pausing == 1)
    assert (inner.calls, provider.view().waiting) == (1, 0)


async def test_closing_ends_pauses_and_repeats_nothing(request_of: Any) -> None:
    inner = Inner(LlmOverloaded(), LlmUnreachable("it is closed"))
    provider = guard(inner, retry_base=100_000, retry_cap=100_000)
    started = anyio.current_time()
    async with anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(LlmUnreachable, match="it is closed"):
                await all_of(provider, request_of())

        group.start_soon(call)
        await until(lambda: inner.calls == 1 and provider.view().active == 0)
        assert provider.view().waiting == 1
        await provider.close()
    assert inner.calls == 2
    assert anyio.current_time() - started < 5


async def test_closing_lets_through_who_waits_for_tokens(request_of: Any) -> None:
    inner = Inner(WHOLE)
    provider = guard(inner, requests_per_minute=1)
    await all_of(provider, request_of())
    started = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of())
        await until(lambda: provider.view().waiting == 1)
        await provider.close()
    assert anyio.current_time() - started < 5


# -- the breaker -------------------------------------------------------------------------------------------------------


async def failing(provider: Guarded, request: ChatRequest) -> LlmError:
    with pytest.raises(LlmError) as caught:
        await all_of(provider, request)
    return caught.value


async def test_an_open_breaker_refuses_without_a_call(request_of: Any) -> None:
    inner = Inner(LlmOverloaded("down"))
    provider = guard(inner, retries=0, breaker_failures=2, breaker_pause=50_000)
    assert (await failing(provider, request_of())).retry_after is None
    last = await failing(provider, request_of())
    assert isinstance(last, LlmOverloaded)
    assert last.retry_after == pytest.approx(50, abs=5)
    refused = await failing(provider, request_of())
    assert isinstance(refused, LlmUnreachable)
    assert refused.retry_after == pytest.approx(50, abs=5)
    assert "refused without a call because 2 failures in a row" in refused.detail
    assert refused.data["provider"] == "inner"
    with pytest.raises(LlmUnreachable):
        await provider.embed(EmbedRequest(model="e", texts=("a",)))
    assert inner.calls == 2
    assert provider.view() == GuardView(2, 2, 0, 0, 0, "open", "down")


async def test_tries_of_one_call_count_and_no_pause_is_spent_before_an_open_breaker(request_of: Any) -> None:
    inner = Inner(LlmOverloaded("down"))
    provider = guard(inner, retries=10, breaker_failures=3)
    assert (await failing(provider, request_of())).detail == "down"
    assert inner.calls == 3


@pytest.mark.parametrize("error", [LlmRateLimited(), LlmAuth(), LlmRequest(), LlmContext()])
async def test_what_is_not_its_fault_opens_nothing(error: LlmError, request_of: Any) -> None:
    provider = guard(Inner(error), retries=0, breaker_failures=1)
    for _ in range(3):
        await failing(provider, request_of())
    assert provider.view().breaker == "closed"


@pytest.mark.parametrize("act", [(TextPart(text="a"), LlmCut()), (TextPart(text="a"),), ()])
async def test_answers_without_an_end_open_it(act: Act, request_of: Any) -> None:
    provider = guard(Inner(act), breaker_failures=2)
    for _ in range(2):
        with pytest.raises(LlmCut):
            await complete(provider, request_of())
    assert (provider.view().breaker, provider.view().failures) == ("open", 2)


async def test_half_open_lets_exactly_one_call_try(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner(LlmUnreachable(), (wait, *WHOLE), WHOLE)
    provider = guard(inner, retries=0, breaker_failures=1, breaker_pause=50)
    await failing(provider, request_of())
    await anyio.sleep(0.06)
    assert provider.view().breaker == "half_open"
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of())
        await until(lambda: inner.calls == 2)
        refused = await failing(provider, request_of())
        assert refused.data["breaker"] == "half_open"
        assert inner.calls == 2
        go.set()
    assert provider.view().breaker == "closed"
    await all_of(provider, request_of())


async def test_a_try_that_was_cancelled_closes_nothing(request_of: Any) -> None:
    inner = Inner(LlmUnreachable(), (anyio.sleep_forever,), LlmUnreachable())
    provider = guard(inner, retries=0, breaker_failures=1, breaker_pause=50)
    await failing(provider, request_of())
    await anyio.sleep(0.06)
    await call_off(provider, request_of(), lambda: inner.calls == 2)
    assert (inner.calls, provider.view().breaker) == (2, "half_open")
    await failing(provider, request_of())
    assert (inner.calls, provider.view().breaker) == (3, "open")


async def test_the_first_part_of_a_try_lets_others_in(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner(LlmUnreachable(), (TextPart(text="a"), wait, StopPart()), WHOLE)
    provider = guard(inner, retries=0, breaker_failures=1, breaker_pause=50)
    await failing(provider, request_of())
    await anyio.sleep(0.06)
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of())
        await until(lambda: provider.view().breaker == "closed")
        assert tuple(await all_of(provider, request_of())) == WHOLE
        go.set()


async def test_what_a_cancelled_stream_says_afterwards_proves_nothing(request_of: Any) -> None:
    provider = guard(Inner((TextPart(text="a"), anyio.sleep_forever)), breaker_failures=1)
    async with provider.stream(request_of()) as parts:
        await anext(parts)
        with anyio.move_on_after(0.01):
            await anext(parts)
        assert await anext(parts, None) is None
    assert (provider.view().failures, provider.view().breaker) == (0, "closed")


async def test_who_is_refused_does_not_stand_in_line_for_it(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner((wait, *WHOLE), LlmUnreachable())
    provider = guard(inner, concurrency=2, retries=0, breaker_failures=1, requests_per_minute=2)
    async with anyio.create_task_group() as group:
        group.start_soon(all_of, provider, request_of())
        await until(lambda: inner.calls == 1)
        await failing(provider, request_of())
        started = anyio.current_time()
        assert (await failing(provider, request_of())).data["breaker"] == "open"
        assert anyio.current_time() - started < 5  # a place in this minute would come in half of one
        go.set()


async def test_who_stood_in_line_is_refused_too_and_keeps_nothing(request_of: Any) -> None:
    wait, go = hold()
    inner = Inner((wait, LlmOverloaded()))
    provider = guard(
        inner, concurrency=1, retries=0, breaker_failures=1, tokens_per_minute=100_000, requests_per_minute=100
    )
    errors: list[LlmError] = []

    async def call() -> None:
        errors.append(await failing(provider, request_of()))

    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(call)
            await until(lambda n=n: inner.calls == 1 and provider.view().waiting == n)
        go.set()
    assert [type(error) for error in errors] == [LlmOverloaded, LlmUnreachable, LlmUnreachable]
    assert inner.calls == 1
    requests, tokens = left_in(provider)
    assert requests == pytest.approx(99, abs=0.5)
    assert tokens == pytest.approx(100_000, abs=1)


# -- the cache ---------------------------------------------------------------------------------------------------------


async def test_the_same_request_is_answered_from_the_cache(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, cache_ms=60_000)
    assert tuple(await all_of(provider, request_of(temperature=1.0))) == WHOLE
    assert await all_of(provider, request_of(temperature=1.0)) == [
        TextPart(text="yes"),
        UsagePart(usage=USED, cached=True),
        StopPart(),
    ]
    await all_of(provider, request_of(temperature=None))
    await all_of(provider, request_of("other"))
    assert inner.calls == 3
    assert (provider.view().calls, provider.view().cache_hits) == (3, 1)


async def test_tool_calls_are_given_again_and_usage_nobody_told_is_estimated(request_of: Any) -> None:
    call = ToolCallPart(call=ToolCall(id="1", name="t", arguments="{}"))
    provider = guard(Inner((call, StopPart(reason="tool_calls"))), cache_ms=60_000)
    await all_of(provider, request_of("1234"))
    assert await all_of(provider, request_of("1234")) == [
        call,
        UsagePart(usage=Usage(input_tokens=1, output_tokens=0, estimated=True), cached=True),
        StopPart(reason="tool_calls"),
    ]


@pytest.mark.parametrize(
    "act",
    [
        (TextPart(text="a"),),
        (TextPart(text="a"), LlmCut()),
        (TextPart(text="a"), StopPart(reason="length")),
        (TextPart(text="a"), StopPart(reason="content_filter")),
    ],
)
async def test_only_whole_answers_are_kept(act: Act, request_of: Any) -> None:
    inner = Inner(act)
    provider = guard(inner, cache_ms=60_000, breaker_failures=100)
    for _ in range(2):
        try:
            await all_of(provider, request_of())
        except LlmCut:
            pass
    assert (inner.calls, provider.view().cache_hits) == (2, 0)


async def test_an_answer_that_was_not_read_to_its_end_is_not_kept(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, cache_ms=60_000)
    async with provider.stream(request_of()) as parts:
        await anext(parts)
    await all_of(provider, request_of())
    assert (inner.calls, provider.view().cache_hits) == (2, 0)


async def test_an_answer_too_large_is_passed_on_but_not_kept(request_of: Any) -> None:
    large = TextPart(text="x" * (5 * 1024 * 1024))
    inner = Inner((large, StopPart()))
    provider = guard(inner, cache_ms=60_000)
    for _ in range(2):
        assert await all_of(provider, request_of()) == [large, StopPart()]
    assert inner.calls == 2


async def test_a_kept_answer_ends_with_its_time_and_with_the_provider(request_of: Any) -> None:
    inner = Inner()
    provider = guard(inner, cache_ms=50)
    await all_of(provider, request_of())
    await anyio.sleep(0.06)
    await all_of(provider, request_of())
    assert inner.calls == 2
    await provider.close()
    await all_of(provider, request_of())
    await all_of(provider, request_of())
    assert inner.calls == 4


async def test_a_kept_answer_needs_neither_place_nor_breaker(request_of: Any) -> None:
    inner = Inner(WHOLE, LlmUnreachable())
    provider = guard(inner, cache_ms=60_000, retries=0, breaker_failures=1, concurrency=1)
    await all_of(provider, request_of())
    await failing(provider, request_of("other"))
    assert provider.view().breaker == "open"
    assert len(await all_of(provider, request_of())) == 3


async def test_vectors_are_given_again_and_cost_nothing_then() -> None:
    inner = Inner(())
    provider = guard(inner, cache_ms=60_000)
    request = EmbedRequest(model="e", texts=("a",))
    first, second = await provider.embed(request), await provider.embed(request)
    assert first.usage == Usage(input_tokens=7)
    assert second == Embedded(vectors=((1.0, 2.0),))
    assert (inner.calls, provider.view().cache_hits) == (1, 1)


async def test_leaving_a_kept_answer_early_is_fine(request_of: Any) -> None:
    provider = guard(Inner(), cache_ms=60_000)
    await all_of(provider, request_of())
    async with provider.stream(request_of()) as parts:
        assert await anext(parts) == TextPart(text="yes")


# -- the meter ---------------------------------------------------------------------------------------------------------


async def test_the_meter_learns_from_every_answer(request_of: Any) -> None:
    provider = guard(Inner((TextPart(text="a"), UsagePart(usage=Usage(input_tokens=100)), StopPart())))
    await all_of(provider, request_of("x" * 184))
    assert provider.meter.ratio("m") == 3.5


async def test_the_meter_learns_from_vectors_too() -> None:
    provider = guard(Inner(()))
    await provider.embed(EmbedRequest(model="e", texts=("x" * 5,)))
    assert provider.meter.ratio("e") == 3.75  # 21 bytes were 7 tokens
