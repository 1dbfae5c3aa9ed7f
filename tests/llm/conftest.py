"""A provider played by the test, byte by byte, over a real socket; and the real one, llama.cpp in a child process."""

import contextlib
import gzip
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.abc
import pytest

from runtime.errors import LocalModelMissing
from runtime.llm.local import find_model, server_argv
from schemas.chat import ChatMessage, ChatRequest
from tests.llm.tiny_gguf import write_model

Part = Callable[["Call"], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Call:
    """One request that arrived, and the wire to answer it on."""

    def __init__(self, stream: anyio.abc.ByteStream, head: bytes, body: bytes) -> None:
        self.stream = stream
        self.line, *lines = head.decode().split("\r\n")
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        self.json = json.loads(body)

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def head(self, status: str = "200 OK", kind: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())

    async def events(self, *chunks: Any) -> None:
        await self.send(b"".join(self.event(chunk) for chunk in chunks))

    @staticmethod
    def event(chunk: Any) -> bytes:
        return f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode()

    @staticmethod
    def text(text: str | None, reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}

    async def forever(self) -> None:
        await anyio.sleep_forever()


@dataclass
class Stage:
    """A loopback server that plays one part for every call."""

    url: str
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    arrived: anyio.Event = field(default_factory=anyio.Event)
    hung_up: anyio.Event = field(default_factory=anyio.Event)


async def _read_call(stream: anyio.abc.ByteStream) -> Call:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.decode().lower().split("\r\n") if line.startswith("content-length:"))
    while len(body) < length:
        body += await stream.receive()
    return Call(stream, head, body)


async def _watch_for_hang_up(stage: Stage, stream: anyio.abc.ByteStream) -> None:
    try:
        await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        stage.hung_up.set()
    except anyio.ClosedResourceError:
        return  # it was the part that closed


@pytest.fixture
async def play() -> AsyncIterator[Callable[[Part], Awaitable[Stage]]]:
    async with anyio.create_task_group() as group:

        async def start(part: Part) -> Stage:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            stage = Stage(f"http://127.0.0.1:{port}/v1")

            async def perform(stream: anyio.abc.SocketStream) -> None:
                stage.connections += 1
                async with stream, anyio.create_task_group() as scene:
                    call = await _read_call(stream)
                    stage.calls.append(call)
                    stage.arrived.set()
                    scene.start_soon(_watch_for_hang_up, stage, stream)
                    try:
                        await part(call)
                    except anyio.BrokenResourceError:
                        stage.hung_up.set()  # the provider under test left while we spoke
                    scene.cancel_scope.cancel()

            async def serve() -> None:
                async with listener:
                    await listener.serve(perform)

            group.start_soon(serve)
            return stage

        yield start
        group.cancel_scope.cancel()


@pytest.fixture
def request_of() -> Callable[..., ChatRequest]:
    def make(text: str = "hello", model: str = "m", **more: Any) -> ChatRequest:
        return ChatRequest(model=model, messages=(ChatMessage(role="user", content=text),), **more)

    return make


@pytest.fixture
def squeeze() -> Callable[[bytes], bytes]:
    return lambda data: gzip.compress(data, 9)


@dataclass(frozen=True)
class Local:
    """The local model's server as it runs."""

    url: str
    key: str
    pid: int


@contextlib.contextmanager
def serve(argv: list[str]) -> Iterator[Local]:
    key = secrets.token_hex(16)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(key.encode() + b"\n")
            child.stdin.flush()
            yield Local(json.loads(child.stdout.readline())["url"] + "/v1", key, child.pid)
        finally:
            child.stdin.close()
            try:
                child.wait(10)
            finally:
                child.kill()


@pytest.fixture(scope="session")
def local_server() -> Iterator[Local]:
    try:
        argv = server_argv(find_model("smollm2"), alias="smollm2")
    except LocalModelMissing as missing:
        pytest.skip(f"no local model here: {missing}")
    with serve(argv) as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """The same server with a model of chance, which knows tools and is up in a tenth of a second."""
    model = write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    try:
        argv = server_argv(model, alias="tiny", threads=1)
    except LocalModelMissing as missing:
        pytest.skip(f"no local model here: {missing}")
    with serve(argv) as server:
        yield server
