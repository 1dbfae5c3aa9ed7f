"""The OpenAI-compatible provider against a server that fails in every way a server can."""

import logging
import socket
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from runtime.clock import VirtualClock
from runtime.errors import (
    ConfigError,
    LlmAuth,
    LlmContext,
    LlmCut,
    LlmError,
    LlmOverloaded,
    LlmProtocol,
    LlmRateLimited,
    LlmRequest,
    LlmTimeout,
    LlmTooLarge,
    LlmUnreachable,
)
from runtime.llm import answer
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import Deadlines, complete
from schemas.chat import ReasoningPart, StopPart, TextPart, ToolCall, ToolCallPart, Usage, UsagePart

KEY = "sk-very-secret-0123456789"
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


async def fail(stage: Any, request: Any, **options: Any) -> LlmError:
    """Return the error that a call of *stage* ends with."""
    provider = OpenAIProvider("acme", stage.url, KEY, **options)
    try:
        with anyio.fail_after(20), pytest.raises(LlmError) as caught:
            await complete(provider, request)
    finally:
        await provider.close()
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.data)
    assert caught.value.data["provider"] == "acme"
    assert "'acme'" in caught.value.detail
    return caught.value


async def fail_openly(stage: Any, request: Any) -> None:
    """Call *stage*, which refuses, and wait for it to be hung up on while the provider is still open."""
    provider = OpenAIProvider("acme", stage.url, KEY)
    with anyio.fail_after(5):
        with pytest.raises(LlmError):
            await complete(provider, request)
        await stage.hung_up.wait()
    await provider.close()


async def test_an_answer_comes_in_parts_and_ends_with_usage_and_the_stop(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events({"choices": [{"delta": {"role": "assistant", "content": None}}]})
        await call.events(call.text("Good "), call.text("day"), call.text(None, "stop"), USAGE, "[DONE]")
        await call.forever()

    stage = await play(part)
    provider = OpenAIProvider("acme", stage.url, KEY)
    async with provider.stream(request_of(temperature=0.5, max_tokens=9, stop=("x",), extra={"seed": 1})) as parts:
        got = [one async for one in parts]
    await provider.close()
    assert got == [
        TextPart(text="Good "),
        TextPart(text="day"),
        UsagePart(usage=Usage(input_tokens=3, output_tokens=2)),
        StopPart(reason="stop"),
    ]
    call = stage.calls[0]
    assert call.line == "POST /v1/chat/completions HTTP/1.1"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
        "stop": ["x"],
        "seed": 1,
    }


async def test_reasoning_is_kept_apart_and_tool_calls_are_put_together(play: Any, request_of: Any) -> None:
    def delta(**fields: Any) -> dict[str, Any]:
        return {"choices": [{"delta": fields}]}

    async def part(call: Any) -> None:
        await call.head()
        await call.events(delta(reasoning_content="hm"))
        await call.events(delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}]))
        await call.events(delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]))
        await call.events(delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "now", "arguments": "{}"}}]))
        await call.events(delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]))
        await call.events(call.text(None, "tool_calls"), "[DONE]")

    provider = OpenAIProvider("acme", (await play(part)).url, None)
    async with provider.stream(request_of()) as parts:
        got = [one async for one in parts]
    await provider.close()
    assert got[0] == ReasoningPart(text="hm")
    assert got[1] == ToolCallPart(call=ToolCall(id="a", name="add", arguments='{"x":1}'))
    assert got[2] == ToolCallPart(call=ToolCall(id="b", name="now", arguments="{}"))
    assert got[3].native.body == '{"reasoning_content":"hm"}'
    assert isinstance(got[4], UsagePart)
    assert got[4].usage.estimated
    assert got[5] == StopPart(reason="tool_calls")


async def test_without_a_key_no_authorization_is_sent(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("ok", "stop"), "[DONE]")

    stage = await play(part)
    provider = OpenAIProvider("acme", stage.url, None)
    assert (await complete(provider, request_of()))[0] == "ok"
    await provider.close()
    assert "authorization" not in stage.calls[0].headers


@pytest.mark.parametrize("ending", [b"", b'data: {"choices":[]}\n\n', b"data: [DONE]", b": ping\r\n\r\n"])
async def test_a_finish_reason_is_end_enough(play: Any, request_of: Any, ending: bytes) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("all of it", "length"))
        await call.send(ending)

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    text, usage, reason = await complete(provider, request_of())
    await provider.close()
    assert (text, reason, usage.estimated) == ("all of it", "length", True)


async def test_a_finished_answer_does_not_wait_long_for_its_usage(
    play: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("all of it", "stop"))
        await call.forever()

    monkeypatch.setattr(answer, "AFTER_FINISH", 0.05)
    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    assert (await complete(provider, request_of()))[::2] == ("all of it", "stop")
    await provider.close()


async def test_nothing_counts_after_the_end(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("all of it", "stop"), "[DONE]", call.text("too late"), "{not json")

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    assert (await complete(provider, request_of()))[0] == "all of it"
    await provider.close()


async def test_a_flood_in_one_read_leaves_turns_to_others(
    play: Any, request_of: Any, squeeze: Callable[[bytes], bytes]
) -> None:
    async def part(call: Any) -> None:
        await call.head(Content_Encoding="gzip")
        await call.send(squeeze(call.event(call.text("word")) * 5000 + b"data: [DONE]\n\n"))

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    turns = 0
    async with provider.stream(request_of()) as parts, anyio.create_task_group() as group:
        assert await anext(parts) == TextPart(text="word")

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        group.start_soon(others)
        assert len([part async for part in parts]) == 4999 + 2
        group.cancel_scope.cancel()
    await provider.close()
    assert turns >= 10


async def test_a_whole_completion_is_as_good_as_a_stream(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        message = {"role": "assistant", "content": "whole"}
        await call.head(kind="application/json; charset=utf-8")
        choices = [{"message": message, "finish_reason": "stop"}]
        await call.send(call.event({"object": "chat.completion", "choices": choices, "usage": USAGE["usage"]})[6:])

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    assert await complete(provider, request_of()) == ("whole", Usage(input_tokens=3, output_tokens=2), "stop")
    await provider.close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        ("401 Unauthorized", f'{{"error":{{"message":"bad key {KEY}"}}}}', LlmAuth),
        ("403 Forbidden", "no", LlmAuth),
        ("404 Not Found", '{"error":{"message":"model m not found"}}', LlmRequest),
        ("408 Request Timeout", "", LlmOverloaded),
        ("409 Conflict", "", LlmOverloaded),
        ("500 Oops", "<html><h1>nginx</h1></html>", LlmOverloaded),
        ("503 Loading", '{"error":{"message":"Loading model","code":503}}', LlmOverloaded),
        ("400 Bad", '{"error":{"type":"exceed_context_size_error","message":"too big"}}', LlmContext),
        ("400 Bad", '{"error":{"code":"context_length_exceeded","message":"x"}}', LlmContext),
        ("400 Bad", '{"error":{"message":"This model\'s maximum context length is 4096"}}', LlmContext),
        ("400 Bad", '{"error":{"message":"temperature is wrong"}}', LlmRequest),
        ("204 Nothing", "", LlmProtocol),
    ],
)
async def test_a_refusal_becomes_the_error_it_stands_for(
    play: Any, request_of: Any, status: str, body: str, kind: type[LlmError]
) -> None:
    async def part(call: Any) -> None:
        await call.head(status, "application/json", Content_Length=str(len(body)))
        await call.send(body.encode())

    error = await fail(await play(part), request_of())
    assert type(error) is kind
    assert "<h1>" not in error.detail


async def test_a_refusal_is_quoted_only_so_far(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head("500 Oops", "text/plain")
        await call.send((f"{'x' * 280} {KEY} " * 100_000).encode())

    error = await fail(await play(part), request_of())
    assert 300 < len(error.detail) < 360
    assert KEY[:12] not in error.detail


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("1.5", 1.5), (formatdate(1_700_000_030, usegmt=True), 30.0), ("soon", None), ("inf", None)],
)
async def test_a_rate_limit_says_how_long_to_wait(
    play: Any, request_of: Any, header: str, seconds: float | None
) -> None:
    async def part(call: Any) -> None:
        await call.head("429 Too Many", Retry_After=header)

    error = await fail(await play(part), request_of(), clock=VirtualClock(start_ms=1_700_000_000_000))
    assert isinstance(error, LlmRateLimited)
    assert error.retry_after == seconds


async def test_a_rate_limit_in_milliseconds_is_the_finer_word(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head("429 Too Many", Retry_After="1", Retry_After_Ms="250")

    assert (await fail(await play(part), request_of())).retry_after == 0.25


async def _refuse_at_length(call: Any) -> None:
    await call.head("500 Oops", "text/plain")
    while True:
        await call.send(b"why, let me tell you " * 1000)


async def _send_a_page_and_stay(call: Any) -> None:
    await call.head(kind="text/html")
    await call.forever()


async def _redirect_and_stay(call: Any) -> None:
    await call.head("302 Found", Location="/login")
    await call.forever()


@pytest.mark.parametrize("part", [_refuse_at_length, _send_a_page_and_stay, _redirect_and_stay])
async def test_a_refusal_is_hung_up_on(play: Any, request_of: Any, part: Any) -> None:
    stage = await play(part)
    await fail_openly(stage, request_of())


async def test_a_redirect_is_not_followed_and_the_key_stays_here(play: Any, request_of: Any) -> None:
    async def elsewhere(call: Any) -> None:
        await call.head()

    other = await play(elsewhere)

    async def part(call: Any) -> None:
        await call.head("307 Temporary Redirect", Location=f"{other.url}/chat/completions")

    error = await fail(await play(part), request_of())
    assert isinstance(error, LlmProtocol)
    assert "redirects" in error.detail
    assert other.connections == 0


async def test_a_proxy_of_the_environment_is_not_asked(
    play: Any, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("direct", "stop"), "[DONE]")

    proxy = await play(part)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    assert (await complete(provider, request_of()))[0] == "direct"
    await provider.close()
    assert proxy.connections == 0


async def _cut_in_a_chunk(call: Any) -> None:
    await call.head(Transfer_Encoding="chunked")
    data = call.event(call.text("half an "))
    await call.send(b"%x\r\n%s\r\n" % (len(data), data))
    await call.send(b"400\r\ndata: {")


async def _cut_by_close(call: Any) -> None:
    await call.head()
    await call.events(call.text("half an "))
    await call.send(b'data: {"choices": [{"del')


async def _end_without_a_mark(call: Any) -> None:
    await call.head()
    await call.events(call.text("half an "))


@pytest.mark.parametrize("part", [_cut_in_a_chunk, _cut_by_close, _end_without_a_mark])
async def test_a_cut_answer_fails_with_the_part_that_came(play: Any, request_of: Any, part: Any) -> None:
    error = await fail(await play(part), request_of())
    assert type(error) is LlmCut
    assert error.data["partial"] == "half an "
    assert error.retryable


async def _say_nothing(call: Any) -> None:
    await call.forever()


async def _send_only_a_head(call: Any) -> None:
    await call.head()
    await call.forever()


async def _stall(call: Any) -> None:
    await call.head()
    await call.events(call.text("slow"))
    await call.forever()


async def _drip(call: Any) -> None:
    await call.head()
    while True:
        await call.events(call.text("."))
        await anyio.sleep(0.02)


@pytest.mark.parametrize(
    ("part", "deadlines", "which", "partial"),
    [
        (_say_nothing, Deadlines(first_byte=0.2), "first_byte", None),
        (_say_nothing, Deadlines(total=0.2), "total", None),
        (_send_only_a_head, Deadlines(first_byte=0.2), "first_byte", ""),
        (_stall, Deadlines(between=0.2), "between", "slow"),
        (_drip, Deadlines(between=5, total=0.4), "total", "."),
    ],
)
async def test_each_deadline_is_kept_and_named(
    play: Any, request_of: Any, part: Any, deadlines: Deadlines, which: str, partial: str | None
) -> None:
    stage = await play(part)
    error = await fail(stage, request_of(), deadlines=deadlines)
    assert isinstance(error, LlmTimeout)
    assert error.data["which"] == which
    said = error.data.get("partial")
    assert said == partial or (partial == "." and set(said) == {"."})
    with anyio.fail_after(5):
        await stage.hung_up.wait()


async def test_a_connection_that_is_never_taken_passes_its_own_deadline(request_of: Any) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        provider = OpenAIProvider("acme", f"http://127.0.0.1:{port}", KEY, deadlines=Deadlines(connect=0.2))
        with pytest.raises(LlmTimeout) as caught:
            await complete(provider, request_of())
        await provider.close()
        for one in waiting:
            one.close()
    assert caught.value.data["which"] == "connect"


async def test_nobody_there_is_unreachable(request_of: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets the port
        provider = OpenAIProvider("acme", f"http://127.0.0.1:{taken.getsockname()[1]}", KEY)
        with pytest.raises(LlmUnreachable, match="acme"):
            await complete(provider, request_of())
        await provider.close()


async def test_a_server_that_hangs_up_before_it_answers_is_unreachable(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.send(b"HTTP/1.1 200")

    assert type(await fail(await play(part), request_of())) is LlmUnreachable


async def _talk_nonsense(call: Any) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def _send_a_page(call: Any) -> None:
    await call.head(kind="text/html; charset=utf-8")
    await call.send(b"<!doctype html><h1>Sign in</h1>")


async def _send_a_page_as_events(call: Any) -> None:
    await call.head()
    await call.send(b"<!doctype html>\n<h1>Sign in</h1>\n")


async def _send_other_json(call: Any) -> None:
    await call.head(kind="application/json")
    await call.send(b'{"status": "ok"}')


async def _send_no_json(call: Any) -> None:
    await call.head(kind="application/json")
    await call.send(b"ok")


async def _send_a_bad_event(call: Any) -> None:
    await call.head()
    await call.events(call.text("good"), "{not json", call.text("never seen", "stop"))


async def _send_deep_json(call: Any) -> None:
    await call.head()
    await call.events(call.text("good"), "[" * 200_000)


async def _send_a_list(call: Any) -> None:
    await call.head()
    await call.events(call.text("good"), ["x"])


async def _send_a_number_as_text(call: Any) -> None:
    await call.head()
    await call.events(call.text("good"), {"choices": [{"delta": {"content": 7}}]})


async def _send_brotli(call: Any) -> None:
    await call.head(Content_Encoding="br")
    await call.send(b"\x00\x01")


async def _send_bad_gzip(call: Any) -> None:
    await call.head(Content_Encoding="gzip")
    await call.send(b"no gzip at all")


@pytest.mark.parametrize(
    "part",
    [
        _talk_nonsense,
        _send_a_page,
        _send_a_page_as_events,
        _send_other_json,
        _send_no_json,
        _send_a_bad_event,
        _send_deep_json,
        _send_a_list,
        _send_a_number_as_text,
        _send_brotli,
        _send_bad_gzip,
    ],
)
async def test_what_is_not_the_protocol_is_said_to_be_so(play: Any, request_of: Any, part: Any) -> None:
    error = await fail(await play(part), request_of())
    assert type(error) is LlmProtocol
    assert "<h1>" not in error.detail
    assert error.data.get("partial", "") in ("", "good")


async def test_what_came_before_a_bad_event_is_handed_out_first(play: Any, request_of: Any) -> None:
    provider = OpenAIProvider("acme", (await play(_send_a_bad_event)).url, KEY)
    async with provider.stream(request_of()) as parts:
        assert await anext(parts) == TextPart(text="good")
        with pytest.raises(LlmProtocol):
            await anext(parts)
        with pytest.raises(StopAsyncIteration):
            await anext(parts)
    await provider.close()


async def _answer_for_ever(call: Any) -> None:
    await call.head()
    while True:
        await call.events(*[call.text("more and more")] * 100)


async def _write_one_endless_line(call: Any) -> None:
    await call.head()
    await call.send(b"data: ")
    while True:
        await call.send(b"x" * 10_000)


async def _comment_for_ever(call: Any) -> None:
    await call.head()
    while True:
        await call.send(b": ping\n\n" * 1000)


@pytest.mark.parametrize("part", [_answer_for_ever, _write_one_endless_line, _comment_for_ever])
async def test_an_endless_answer_is_cut_off(play: Any, request_of: Any, part: Any) -> None:
    stage = await play(part)
    error = await fail(stage, request_of(), max_bytes=200_000, max_line=50_000)
    assert type(error) is LlmTooLarge
    with anyio.fail_after(5):
        await stage.hung_up.wait()


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
async def test_a_bomb_is_stopped_at_the_cap(
    play: Any, request_of: Any, squeeze: Callable[[bytes], bytes], kind: str
) -> None:
    bomb = squeeze(b": " + b"\n: " * 20_000_000)
    assert len(bomb) < 200_000

    async def part(call: Any) -> None:
        await call.head(kind=kind, Content_Encoding="gzip")
        await call.send(bomb)

    assert type(await fail(await play(part), request_of(), max_bytes=1_000_000)) is LlmTooLarge


async def test_a_compressed_answer_is_understood(play: Any, request_of: Any, squeeze: Callable[[bytes], bytes]) -> None:
    async def part(call: Any) -> None:
        await call.head(Content_Encoding="gzip")
        data = squeeze(call.event(call.text("unasked")) + call.event(call.text(None, "stop")))
        for at in range(len(data)):
            await call.send(data[at : at + 1])

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    assert (await complete(provider, request_of()))[0] == "unasked"
    await provider.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "slow down", "type": "rate_limit_error"}, LlmRateLimited),
        ({"message": "slow down", "code": 429}, LlmRateLimited),
        ({"message": "full", "type": "overloaded_error"}, LlmOverloaded),
        ({"message": "Context size has been exceeded.", "code": 500}, LlmContext),
        ({"message": "bad", "code": "invalid_api_key"}, LlmAuth),
        ({"message": "bad", "type": "invalid_request_error"}, LlmRequest),
        (f"it broke, {KEY}", LlmOverloaded),
    ],
)
async def test_an_error_in_the_stream_is_told_apart(
    play: Any, request_of: Any, error: Any, kind: type[LlmError]
) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("begun"), {"error": error})

    caught = await fail(await play(part), request_of())
    assert type(caught) is kind
    assert caught.data["partial"] == "begun"


async def test_leaving_the_stream_hangs_up_at_once(play: Any, request_of: Any) -> None:
    stage = await play(_stall)
    provider = OpenAIProvider("acme", stage.url, KEY)
    with anyio.fail_after(5):
        async with provider.stream(request_of()) as parts:
            assert await anext(parts) == TextPart(text="slow")
            assert not stage.hung_up.is_set()
        await stage.hung_up.wait()
    await provider.close()


@pytest.mark.parametrize("part", [_say_nothing, _send_only_a_head, _stall])
async def test_cancelling_hangs_up_at_once(play: Any, request_of: Any, part: Any) -> None:
    stage = await play(part)
    provider = OpenAIProvider("acme", stage.url, KEY)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(complete, provider, request_of())
            await stage.arrived.wait()
            group.cancel_scope.cancel()
        await stage.hung_up.wait()
    await provider.close()


async def test_closing_the_provider_cuts_what_runs_and_refuses_what_comes(play: Any, request_of: Any) -> None:
    provider = OpenAIProvider("acme", (await play(_stall)).url, KEY)
    async with provider.stream(request_of()) as parts:
        assert await anext(parts) == TextPart(text="slow")
        await provider.close()
        with anyio.fail_after(5), pytest.raises(LlmCut):
            await anext(parts)
    with pytest.raises(LlmUnreachable, match="closed"):
        await complete(provider, request_of())


async def test_calls_share_a_provider(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head()
        for word in call.json["messages"][0]["content"].split():
            await call.events(call.text(f"{word} "))
        await call.events(call.text(None, "stop"), "[DONE]")

    provider = OpenAIProvider("acme", (await play(part)).url, KEY)
    answers: dict[str, str] = {}

    async def call(text: str) -> None:
        answers[text] = (await complete(provider, request_of(text)))[0]

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(call, f"call number {number} ")
    await provider.close()
    assert len(answers) == 40
    assert all(asked == told for asked, told in answers.items())


async def test_an_error_of_the_reader_is_not_blamed_on_the_provider(play: Any, request_of: Any) -> None:
    provider = OpenAIProvider("acme", (await play(_stall)).url, KEY)
    with pytest.raises(LlmRequest) as caught:
        async with provider.stream(request_of()):
            raise LlmRequest("mine")
    await provider.close()
    assert "provider" not in caught.value.data


async def test_a_request_that_json_cannot_say_is_refused_before_it_is_sent(request_of: Any) -> None:
    provider = OpenAIProvider("acme", "http://127.0.0.1:9", KEY)
    with pytest.raises(LlmRequest, match="acme"):
        await complete(provider, request_of(extra={"x": object()}))
    await provider.close()


async def test_the_key_is_in_no_log_and_no_repr(play: Any, request_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def part(call: Any) -> None:
        await call.head("401 Unauthorized")
        await call.send(KEY.encode())

    caplog.set_level(logging.DEBUG)
    error = await fail(await play(part), request_of())
    assert "[key]" in error.detail
    assert KEY not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
    assert repr(OpenAIProvider("acme", "http://h/v1/", KEY)) == "<OpenAIProvider acme http://h/v1>"


@pytest.mark.parametrize(
    "url",
    ["", "h/v1", "ftp://h/v1", "http://", "http://user:pw@h/v1", "http://h/v1?key=1", "http://h/v1#x", "http://h:x"],
)
def test_an_address_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="acme") as caught:
        OpenAIProvider("acme", url, KEY)
    assert "pw" not in str(caught.value)


def test_a_key_no_header_can_hold_is_refused_unquoted() -> None:
    with pytest.raises(ConfigError) as caught:
        OpenAIProvider("acme", "http://h", "sk-one\nsk-two")
    assert "sk-" not in str(caught.value)


async def test_the_line_end_of_a_keys_file_is_no_part_of_it(play: Any, request_of: Any) -> None:
    async def part(call: Any) -> None:
        await call.head()
        await call.events(call.text("ok", "stop"))

    stage = await play(part)
    provider = OpenAIProvider("acme", stage.url, f"{KEY}\n")
    await complete(provider, request_of())
    await provider.close()
    assert stage.calls[0].headers["authorization"] == f"Bearer {KEY}"
