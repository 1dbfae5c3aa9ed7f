"""Every way in which a server fails, over a real socket, in both dialects: the right error, and nothing looks whole."""

import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import anyio
import anyio.abc
import pytest

from runtime.clock import VirtualClock
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
    LlmTooLarge,
    LlmUnreachable,
)
from runtime.llm.anthropic import AnthropicProvider
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import Deadlines
from schemas.chat import ChatPart, EmbedRequest, ReasoningPart, StopPart, TextPart, ToolCallPart
from schemas.codes import CODES

KEY = "sk-very-secret-0123456789"
NOW = 1_700_000_000_000

WHAT_THEY_MEAN: dict[type[LlmError], tuple[bool, str]] = {
    LlmAuth: (False, "permanent"),
    LlmContext: (False, "permanent"),
    LlmCut: (True, "transient"),
    LlmOverloaded: (True, "transient"),
    LlmProtocol: (False, "permanent"),
    LlmRateLimited: (True, "rate_limited"),
    LlmRequest: (False, "permanent"),
    LlmTimeout: (True, "timeout"),
    LlmTooLarge: (False, "permanent"),
    LlmUnreachable: (True, "transient"),
}
"""Whether trying again may help, and the class that the queue's policy goes by."""


class OpenAI:
    """Chat Completions, as its servers write it."""

    provider = OpenAIProvider
    mark: Any = ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, "[DONE]")
    too_long: Any = ({"choices": [{"delta": {}, "finish_reason": "length"}]}, "[DONE]")
    bare_mark: Any = ("[DONE]",)
    wrong_type: Any = {"choices": [{"delta": {"content": 7}}]}
    empty: Any = {"object": "chat.completion", "choices": []}

    @staticmethod
    def base(url: str) -> str:
        return url

    @staticmethod
    def say(text: str) -> Any:
        return {"choices": [{"delta": {"content": text}}]}

    @staticmethod
    def half_a_call(arguments: str) -> Any:
        call = {"index": 0, "id": "a", "function": {"name": "pay", "arguments": arguments}}
        return ({"choices": [{"delta": {"tool_calls": [call]}}]},)


class Anthropic:
    """Messages, as its servers write it."""

    provider = AnthropicProvider
    mark: Any = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"})
    too_long: Any = ({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}, {"type": "message_stop"})
    bare_mark: Any = ({"type": "message_stop"},)
    wrong_type: Any = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 7}}
    empty: Any = {"type": "message", "role": "assistant"}

    @staticmethod
    def base(url: str) -> str:
        return url.removesuffix("/v1")

    @staticmethod
    def say(text: str) -> Any:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    @staticmethod
    def half_a_call(arguments: str) -> Any:
        block = {"type": "tool_use", "id": "a", "name": "pay", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": arguments}
        return (
            {"type": "content_block_start", "index": 1, "content_block": block},
            {"type": "content_block_delta", "index": 1, "delta": delta},
        )


Dialect = type[OpenAI] | type[Anthropic]
Play = Callable[[Any, Dialect], Awaitable[None]]


@dataclass(frozen=True)
class Mode:
    """One way to fail, and what it has to end in. A *partial* that ends in `...` is how the text begins."""

    play: Play
    error: type[LlmError]
    partial: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None


def status(line: str, body: Any = "", **headers: str) -> Play:
    """A refusal with a whole body."""
    text = body if isinstance(body, str) else json.dumps(body)

    async def play(call: Any, dialect: Dialect) -> None:
        await call.head(line, "application/json", Content_Length=str(len(text)), **headers)
        await call.send(text.encode())

    return play


def body(data: str | bytes, kind: str = "text/event-stream", **headers: str) -> Play:
    """A body of 200 that is not what it should be."""

    async def play(call: Any, dialect: Dialect) -> None:
        await call.head(kind=kind, **headers)
        await call.send(data.encode() if isinstance(data, str) else data)

    return play


def events(then: Callable[[Dialect], tuple[Any, ...]], **headers: str) -> Play:
    """Half a sentence, and then something."""

    async def play(call: Any, dialect: Dialect) -> None:
        await call.head(**headers)
        await call.events(dialect.say("half "), dialect.say("an "), *then(dialect))

    return play


async def cut_in_a_chunk(call: Any, dialect: Dialect) -> None:
    await call.head(Transfer_Encoding="chunked")
    data = call.event(dialect.say("half an "))
    await call.send(b"%x\r\n%s\r\n" % (len(data), data))
    await call.send(b"400\r\ndata: {")


async def cut_by_close(call: Any, dialect: Dialect) -> None:
    await call.head()
    await call.events(dialect.say("half an "))
    await call.send(call.event(dialect.say("answer"))[:-20])


async def cut_before_its_length(call: Any, dialect: Dialect) -> None:
    await call.head(Content_Length="100000")
    await call.events(dialect.say("half an "))


async def reset(call: Any, dialect: Dialect) -> None:
    await call.head()
    await call.events(dialect.say("half an "))
    await anyio.sleep(0.05)  # so that the words are read before the reset takes what is still on its way
    raw = call.stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def say_nothing(call: Any, dialect: Dialect) -> None:
    await call.forever()


async def send_only_a_head(call: Any, dialect: Dialect) -> None:
    await call.head()
    await call.forever()


async def stall(call: Any, dialect: Dialect) -> None:
    await call.head()
    await call.events(dialect.say("half an "))
    await call.forever()


async def drip(call: Any, dialect: Dialect) -> None:
    await call.head()
    while True:
        await call.events(dialect.say("."))
        await anyio.sleep(0.02)


async def ping_for_ever(call: Any, dialect: Dialect) -> None:
    await call.head()
    while True:
        await call.send(b": ping\n\n")
        await anyio.sleep(0.02)


async def hang_up(call: Any, dialect: Dialect) -> None:
    await call.send(b"HTTP/1.1 200")


async def speak_something_else(call: Any, dialect: Dialect) -> None:
    await call.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def answer_for_ever(call: Any, dialect: Dialect) -> None:
    await call.head()
    while True:
        await call.events(*[dialect.say("more and more")] * 100)


async def write_one_endless_line(call: Any, dialect: Dialect) -> None:
    await call.head()
    await call.send(b"data: ")
    while True:
        await call.send(b"x" * 10_000)


async def send_a_bomb(call: Any, dialect: Dialect) -> None:
    await call.head(Content_Encoding="gzip")
    await call.send(call.bomb)


async def send_another_document(call: Any, dialect: Dialect) -> None:
    await call.head(kind="application/json")
    await call.send(json.dumps(dialect.empty).encode())


STAYING = (say_nothing, send_only_a_head, stall, drip, ping_for_ever, answer_for_ever, write_one_endless_line)
"""Plays that end only when they are hung up on."""


def wait(**seconds: float) -> dict[str, Any]:
    return {"deadlines": Deadlines(**seconds)}


def reported(kind: str, message: str = "so it is") -> Callable[[Dialect], tuple[Any, ...]]:
    return lambda dialect: ({"type": "error", "error": {"type": kind, "message": message}}, *dialect.mark)


SMALL = {"max_bytes": 200_000, "max_line": 50_000}
PAGE = "<!doctype html>\n<h1>Sign in</h1>\n"
OVERFLOW = {"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}}
LLAMA_OVERFLOW = {"error": {"code": 400, "type": "exceed_context_size_error", "message": "request exceeds it"}}

MODES: dict[str, Mode] = {
    # refusals
    "429 with seconds": Mode(status("429 Too Many", Retry_After="7"), LlmRateLimited, retry_after=7.0),
    "429 with a date": Mode(
        status("429 Too Many", Retry_After=formatdate(NOW / 1000 + 30, usegmt=True)), LlmRateLimited, retry_after=30.0
    ),
    "429 without a time": Mode(status("429 Too Many"), LlmRateLimited),
    "401": Mode(status("401 Unauthorized", {"error": {"message": f"invalid x-api-key {KEY}"}}), LlmAuth),
    "403": Mode(status("403 Forbidden"), LlmAuth),
    "400 context": Mode(status("400 Bad", OVERFLOW), LlmContext),
    "400 context of llama.cpp": Mode(status("400 Bad", LLAMA_OVERFLOW), LlmContext),
    "400 other": Mode(status("400 Bad", {"error": {"message": "temperature is wrong"}}), LlmRequest),
    "404": Mode(status("404 Not Found", {"error": {"message": "model m not found"}}), LlmRequest),
    "408": Mode(status("408 Request Timeout"), LlmOverloaded),
    "413": Mode(status("413 Too Large", {"error": {"type": "request_too_large", "message": "x"}}), LlmRequest),
    "500": Mode(status("500 Oops", PAGE), LlmOverloaded),
    "503 with seconds": Mode(status("503 Loading", Retry_After="2"), LlmOverloaded, retry_after=2.0),
    "529": Mode(status("529 Overloaded", {"error": {"type": "overloaded_error"}}), LlmOverloaded),
    "redirect to nowhere": Mode(status("307 Elsewhere", Location="http://xn--0.com/"), LlmProtocol),
    "redirect": Mode(status("307 Elsewhere", Location="http://127.0.0.1:9/"), LlmProtocol, data={"status": 307}),
    # breaks
    "cut in a chunk": Mode(cut_in_a_chunk, LlmCut, "half an "),
    "cut by close": Mode(cut_by_close, LlmCut, "half an "),
    "cut before its length": Mode(cut_before_its_length, LlmCut, "half an "),
    "reset": Mode(reset, LlmCut, "half an "),
    "no terminal mark": Mode(events(lambda _: ()), LlmCut, "half an "),
    "cut within a tool call": Mode(events(lambda d: d.half_a_call('{"to": "a')), LlmCut, "half an "),
    "a mark within a tool call": Mode(
        events(lambda d: (*d.half_a_call('{"to": "a'), *d.bare_mark)), LlmCut, "half an "
    ),
    "an empty body": Mode(body(""), LlmCut, ""),
    "an empty document": Mode(body("", "application/json"), LlmCut, ""),
    "half a document": Mode(body('{"choices": [{"mess', "application/json"), LlmCut, ""),
    "a hang-up before the head": Mode(hang_up, LlmUnreachable),
    # waits
    "no head": Mode(say_nothing, LlmTimeout, None, wait(first_byte=0.2), {"which": "first_byte"}),
    "no first byte": Mode(send_only_a_head, LlmTimeout, "", wait(first_byte=0.2), {"which": "first_byte"}),
    "stall": Mode(stall, LlmTimeout, "half an ", wait(between=0.2), {"which": "between"}),
    "drip": Mode(drip, LlmTimeout, "....", wait(between=5, total=0.4), {"which": "total"}),
    "pings only": Mode(ping_for_ever, LlmTimeout, "", wait(between=5, total=0.4), {"which": "total"}),
    # nonsense
    "not HTTP": Mode(speak_something_else, LlmProtocol),
    "a page": Mode(body(PAGE, "text/html"), LlmProtocol),
    "a page as events": Mode(body(PAGE), LlmProtocol, ""),
    "a bad event": Mode(events(lambda d: ("{not json", *d.mark)), LlmProtocol, "half an "),
    "an event that is a list": Mode(events(lambda d: (["x"], *d.mark)), LlmProtocol, "half an "),
    "an event of no kind": Mode(events(lambda d: ({"status": "ok"}, *d.mark)), LlmProtocol, "half an "),
    "a number as text": Mode(events(lambda d: (d.wrong_type, *d.mark)), LlmProtocol, "half an "),
    "another document": Mode(send_another_document, LlmProtocol, ""),
    "no JSON": Mode(body("ok", "application/json"), LlmProtocol, ""),
    "bad gzip": Mode(body("no gzip", Content_Encoding="gzip"), LlmProtocol, ""),
    "an encoding nobody asked for": Mode(body(b"\x00", Content_Encoding="br"), LlmProtocol),
    # floods
    "an endless answer": Mode(answer_for_ever, LlmTooLarge, "more and more...", SMALL),
    "an endless line": Mode(write_one_endless_line, LlmTooLarge, "", SMALL),
    "a bomb": Mode(send_a_bomb, LlmTooLarge, "", SMALL),
    # errors within 200
    "overloaded in the stream": Mode(events(reported("overloaded_error")), LlmOverloaded, "half an "),
    "a rate limit in the stream": Mode(events(reported("rate_limit_error")), LlmRateLimited, "half an "),
    "a failure in the stream": Mode(events(reported("api_error", f"oops {KEY}")), LlmOverloaded, "half an "),
    "an error as the document": Mode(
        body('{"error": {"type": "authentication_error", "message": "no"}}', "application/json"), LlmAuth, ""
    ),
}


@pytest.fixture(params=[OpenAI, Anthropic], ids=lambda dialect: dialect.__name__.lower())
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


async def collect(provider: Any, request: Any, got: list[ChatPart]) -> None:
    async with provider.stream(request) as parts:
        async for part in parts:
            got.append(part)  # noqa: PERF401  # what came before an error has to be kept


def check(error: LlmError, kind: type[LlmError]) -> None:
    assert type(error) is kind, error
    assert (error.retryable, error.error_class) == WHAT_THEY_MEAN[kind]
    assert CODES[error.code].retryable == error.retryable
    assert error.data["provider"] == "acme"
    assert "'acme'" in error.detail
    assert KEY not in str(error) + repr(error.data)
    assert "<h1>" not in error.detail


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
async def test_every_failure_ends_in_its_error(
    play: Any, request_of: Any, squeeze: Callable[[bytes], bytes], dialect: Dialect, mode: Mode
) -> None:
    async def part(call: Any) -> None:
        call.bomb = bomb
        await mode.play(call, dialect)

    bomb = squeeze(b": " + b"\n: " * 2_000_000) if mode.play is send_a_bomb else b""
    stage = await play(part)
    clock = VirtualClock(start_ms=NOW) if "retry" in mode.options or mode.retry_after else None
    provider = dialect.provider("acme", dialect.base(stage.url), KEY, clock=clock, **mode.options)
    got: list[ChatPart] = []
    with anyio.fail_after(20), pytest.raises(LlmError) as caught:
        await collect(provider, request_of(), got)
    if mode.play in STAYING:
        with anyio.fail_after(5):
            await stage.hung_up.wait()
    await provider.close()
    error = caught.value
    check(error, mode.error)
    assert error.retry_after == mode.retry_after
    assert error.data.items() >= mode.data.items()
    assert all(isinstance(one, TextPart | ReasoningPart) for one in got), "something looked whole"
    text = "".join(one.text for one in got if isinstance(one, TextPart))
    assert error.data.get("partial", "") == text
    if mode.partial is None or not mode.partial.startswith((".", "more")):
        assert error.data.get("partial") == mode.partial
    else:
        assert text.startswith(mode.partial.removesuffix("..."))


async def test_nobody_there(request_of: Any, dialect: Dialect) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets the port
        provider = dialect.provider("acme", f"http://127.0.0.1:{taken.getsockname()[1]}", KEY)
        with pytest.raises(LlmError) as caught:
            await collect(provider, request_of(), [])
        await provider.close()
    check(caught.value, LlmUnreachable)


async def test_encryption_with_somebody_who_has_none(dialect: Dialect, request_of: Any) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:

        async def babble(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await stream.receive()
                await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        group.start_soon(listener.serve, babble)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        provider = dialect.provider("acme", f"https://127.0.0.1:{port}", KEY)
        with anyio.fail_after(10), pytest.raises(LlmError) as caught:
            await collect(provider, request_of(), [])
        await provider.close()
        group.cancel_scope.cancel()
    check(caught.value, LlmUnreachable)


@pytest.mark.parametrize("arguments", ["", '{"to": "a', '"a"'])
async def test_half_a_tool_call_at_the_limit_is_not_made(
    play: Any, request_of: Any, dialect: Dialect, arguments: str
) -> None:
    async def part(call: Any) -> None:
        ended = [{"type": "content_block_stop", "index": 1}] if dialect is Anthropic else []
        await events(lambda d: (*d.half_a_call(arguments), *ended, *d.too_long))(call, dialect)

    provider = dialect.provider("acme", dialect.base((await play(part)).url), KEY)
    got: list[ChatPart] = []
    await collect(provider, request_of(), got)
    await provider.close()
    assert not [one for one in got if isinstance(one, ToolCallPart)]
    assert got[-1] == StopPart(reason="length")


# -- embeddings --------------------------------------------------------------------------------------------------------

EMBEDDING_MODES = {
    name: mode
    for name, mode in MODES.items()
    if mode.partial in (None, "")
    and name not in ("an empty body", "a page as events", "another document", "pings only")
} | {
    "events instead": Mode(body("data: {}\n\n"), LlmProtocol, ""),
    "no vectors": Mode(body('{"object": "list"}', "application/json"), LlmProtocol, ""),
    "one too few": Mode(body('{"data": [{"index": 0, "embedding": [1]}]}', "application/json"), LlmProtocol, ""),
    "one twice": Mode(body(json.dumps({"data": [{"index": 0, "embedding": [1]}] * 2})), LlmProtocol, ""),
    "one numbered wrong": Mode(
        body(json.dumps({"data": [{"index": n, "embedding": [1]} for n in (0, 2)]})), LlmProtocol, ""
    ),
    "of two lengths": Mode(
        body(json.dumps({"data": [{"index": n, "embedding": [1] * (n + 1)} for n in (0, 1)]})), LlmProtocol, ""
    ),
    "no numbers": Mode(
        body(json.dumps({"data": [{"index": n, "embedding": "AAAA"} for n in (0, 1)]})), LlmProtocol, ""
    ),
    "not finite": Mode(body('{"data": [{"index":0,"embedding":[NaN]},{"index":1,"embedding":[1]}]}'), LlmProtocol, ""),
    "too many bytes": Mode(body('{"data": [' + " " * 300_000 + "]}"), LlmTooLarge, "", SMALL),
}


@pytest.mark.parametrize("mode", EMBEDDING_MODES.values(), ids=EMBEDDING_MODES.keys())
async def test_embeddings_fail_the_same_way(play: Any, squeeze: Callable[[bytes], bytes], mode: Mode) -> None:
    async def part(call: Any) -> None:
        call.bomb = squeeze(b" " * 6_000_000)
        await mode.play(call, OpenAI)

    stage = await play(part)
    clock = VirtualClock(start_ms=NOW) if mode.retry_after else None
    provider = OpenAIProvider("acme", stage.url, KEY, clock=clock, **mode.options)
    with anyio.fail_after(20), pytest.raises(LlmError) as caught:
        await provider.embed(EmbedRequest(model="m", texts=("a", "b")))
    if mode.play in STAYING:
        with anyio.fail_after(5):
            await stage.hung_up.wait()
    await provider.close()
    check(caught.value, mode.error)
    assert caught.value.retry_after == mode.retry_after
    assert caught.value.data.items() >= mode.data.items()
