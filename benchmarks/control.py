"""How fast the control socket answers, beside a bare starlette on uvicorn; the client is a process of its own."""

import json
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.row import Row
from runtime.control.app import App
from runtime.control.bridge import Bridge
from runtime.control.server import ControlServer
from schemas.agents import AgentView, Say
from schemas.base import Message
from schemas.events import StreamPart
from schemas.system import ActorView, HealthView, Hello, StatusView

HELLO = Hello(version="0", api={"min": 1, "max": 1}, pid=1, started_at=0)
AGENTS = (AgentView(name="a", status="idle", state="running"),)
PARTS = 10_000


class Backend:
    """Answers at once: what is measured is the socket and the hop to the other loop."""

    def hello(self) -> Hello:
        return HELLO

    def health(self) -> HealthView:
        return HealthView(health="ok")

    def status(self) -> StatusView:
        raise NotImplementedError("not measured")

    def tree(self) -> ActorView:
        raise NotImplementedError("not measured")

    async def ask(self, actor: str, message: Message, *, timeout: float, key: str | None) -> Any:
        return AGENTS

    async def tell(self, actor: str, message: Message, *, key: str | None) -> Any:
        return None

    def chat(
        self, agent: str, say: Say, *, key: str | None, detach: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        raise NotImplementedError("not measured")

    @asynccontextmanager
    async def watch(self, job: str) -> AsyncIterator[AsyncIterator[StreamPart]]:
        yield _tokens()

    def events(
        self, *, since: int | None, types: tuple[str, ...], subject: str | None, follow: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[StreamPart]]:
        raise NotImplementedError("not measured")


async def _tokens() -> AsyncIterator[StreamPart]:
    for n in range(PARTS):
        yield StreamPart(kind="token", data={"text": f"word {n}"}, id=n)
        if n % 100 == 0:
            await anyio.sleep(0)
    yield StreamPart(kind="done")


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Serve the real control room."""
    started = threading.Event()
    made: list[Any] = []

    async def actors() -> None:
        made.extend([Bridge.here(), anyio.Event(), anyio.lowlevel.current_token()])
        started.set()
        await made[1].wait()

    thread = threading.Thread(target=anyio.run, args=(actors,))
    thread.start()
    started.wait()
    bridge, stop, token = made
    server = ControlServer(App(Backend(), bridge), path)
    server.start()
    try:
        yield
    finally:
        server.stop()
        anyio.from_thread.run_sync(stop.set, token=token)
        thread.join()


@contextmanager
def bare(path: Path) -> Iterator[None]:
    """Serve the same answer with nothing of ours."""

    async def hello(request: Request) -> JSONResponse:
        return JSONResponse(HELLO.model_dump())

    app = Starlette(routes=[Route("/v1/hello", hello)])
    server = uvicorn.Server(
        uvicorn.Config(app, uds=str(path), http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


# -- the client, in its own process ------------------------------------------------------------------------------------


def _connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(path)
    return client


def _answer(client: socket.socket) -> bytes:
    """Read one whole answer: its head and its body may come apart."""
    raw = client.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(body) < length:
        body += client.recv(65536)
    assert raw.startswith(b"HTTP/1.1 200"), raw
    return body


def round_trip_p50(path: str, target: str, count: int) -> float:
    """Return the median of *count* round trips on one connection, in milliseconds."""
    client = _connect(path)
    raw = _request(target)
    taken = []
    for _ in range(count + count // 10):
        begun = perf_counter()
        client.sendall(raw)
        _answer(client)
        taken.append(perf_counter() - begun)
    client.close()
    return median(taken[count // 10 :]) * 1000


def rate(path: str, target: str, count: int, connections: int = 50) -> float:
    """Return requests a second over *connections* connections with one request each under way."""
    raw = _request(target)
    answered = 0
    with selectors.DefaultSelector() as ready:
        for _ in range(connections):
            client = _connect(path)
            ready.register(client, selectors.EVENT_READ)
            client.sendall(raw)
        since = perf_counter()
        begun = connections
        while answered < count:
            for key, _ in ready.select():
                client = key.fileobj  # type: ignore[assignment]  # sockets are all that was registered
                _answer(client)
                answered += 1
                if begun < count:
                    begun += 1
                    client.sendall(raw)
        taken = perf_counter() - since
        for key in list(ready.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return answered / taken


def stream_rate(path: str, target: str, count: int) -> float:
    """Return parts a second of a stream of *count* parts."""
    client = _connect(path)
    since = perf_counter()
    client.sendall(_request(target, "Accept: application/x-ndjson\r\n"))
    seen = b""
    lines = 0
    while b'"done"' not in seen[-200:] + b"":
        chunk = client.recv(262144)
        assert chunk
        lines += chunk.count(b'"kind":')
        seen = seen[-200:] + chunk
    assert lines >= count, lines
    client.close()
    return lines / (perf_counter() - since)


def _request(target: str, more: str = "") -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: u\r\n{more}\r\n".encode()


def _child(measure: Callable[..., float], path: Path, target: str, count: int) -> float:
    argv = [sys.executable, "-m", "benchmarks.control", measure.__name__, str(path), target, str(count)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def measure(quick: bool = True) -> list[Row]:
    """Alternate ours and the bare stack and take medians."""
    trips, requests, rounds = (1000, 3000, 3) if quick else (5000, 20000, 5)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        mine, plain = Path(folder) / "home" / "ours.sock", Path(folder) / "bare.sock"
        with ours(mine), bare(plain):
            for _ in range(rounds):
                for name, fn, path, target, count in (
                    ("bare trip", round_trip_p50, plain, "/v1/hello", trips),
                    ("hello trip", round_trip_p50, mine, "/v1/hello", trips),
                    ("ask trip", round_trip_p50, mine, "/v1/agents", trips),
                    ("bare rate", rate, plain, "/v1/hello", requests),
                    ("hello rate", rate, mine, "/v1/hello", requests),
                    ("ask rate", rate, mine, "/v1/agents", requests),
                    ("stream", stream_rate, mine, "/v1/jobs/x/watch", PARTS),
                ):
                    figures.setdefault(name, []).append(_child(fn, path, target, count))
    m = {name: median(values) for name, values in figures.items()}
    return [
        Row("control: hello, round trip p50", m["hello trip"], m["bare trip"], 1.5, "ms", higher_is_better=False),
        Row("control: ask of an actor, p50", m["ask trip"], m["bare trip"], 2.5, "ms", higher_is_better=False),
        Row("control: hello, 50 connections", m["hello rate"], m["bare rate"], 0.6),
        Row("control: ask, 50 connections", m["ask rate"], m["bare rate"], 0.25),
        Row("control: parts of one stream", m["stream"], 10_000.0, 1.0),
    ]


def main() -> None:
    """Measure, or be the client that a measuring process started."""
    if len(sys.argv) > 4:
        fn = {f.__name__: f for f in (round_trip_p50, rate, stream_rate)}[sys.argv[1]]
        print(json.dumps(fn(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    for row in measure("--full" not in sys.argv):
        print(row)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
