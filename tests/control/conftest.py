"""A control server on a real socket, over a backend of real async functions on a second loop in a second thread."""

import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.control.app import App
from runtime.control.backend import Limits
from runtime.control.bridge import Bridge
from runtime.control.server import ControlServer
from runtime.control.wire import Wire
from runtime.errors import EventsExpired, JobNotFound, NoSuchActor
from schemas.agents import AgentView, GetAgent, ListAgents, Say
from schemas.base import Ack, Message
from schemas.events import StreamPart
from schemas.jobs import ListJobs, SubmitJob, Submitted
from schemas.system import ActorView, HealthView, Hello, Shutdown, StatusView

WAIT = 20.0
"""Seconds after which a test gives up on an event; never how long it takes."""


@dataclass
class Loop:
    """An actors' loop in a thread."""

    bridge: Bridge
    thread: threading.Thread
    end: Callable[[], None]

    def block(self) -> Callable[[], None]:
        """Block the loop; return when it is blocked, with the function that frees it."""
        blocked, free = threading.Event(), threading.Event()

        def hold() -> None:
            blocked.set()
            assert free.wait(WAIT)

        self.bridge._actors.call_soon_threadsafe(hold)
        assert blocked.wait(WAIT)
        return free.set


def start_loop() -> Loop:
    """Start a loop in a thread and return when it runs."""
    started = threading.Event()
    made: list[Any] = []

    async def main() -> None:
        stop = anyio.Event()
        made.extend([Bridge.here(), stop])
        started.set()
        await stop.wait()

    thread = threading.Thread(target=anyio.run, args=(main,), daemon=True)
    thread.start()
    assert started.wait(WAIT)
    bridge, stop = made

    def end() -> None:
        if thread.is_alive():
            bridge._actors.call_soon_threadsafe(stop.set)
        thread.join(WAIT)

    return Loop(bridge, thread, end)


@dataclass
class FakeBackend:
    """Answers what tests tell it to, and remembers what reached it."""

    health_view: HealthView = field(default_factory=lambda: HealthView(health="ok"))
    asked: list[tuple[str, Message, str | None]] = field(default_factory=list)
    told: list[tuple[str, Message, str | None]] = field(default_factory=list)
    chats: list[tuple[str, Say, str | None, bool]] = field(default_factory=list)
    event_queries: list[dict[str, Any]] = field(default_factory=list)
    answer: Callable[[Message], Any] | None = None
    parts: list[StreamPart | Exception] = field(default_factory=list)
    hold_open: bool = False
    waiting: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def hello(self) -> Hello:
        return Hello(version="9.9", api={"min": 1, "max": 1}, pid=1, started_at=0)

    def health(self) -> HealthView:
        return self.health_view

    def status(self) -> StatusView:
        return StatusView(
            pid=1,
            version="9.9",
            uptime=1.5,
            health=self.health_view.health,
            home="/home",
            config="config.toml",
            boot="b",
            durability="full",
            agents={},
            workers={},
            queues={},
            loop_lag_ms=0.0,
        )

    def tree(self) -> ActorView:
        return ActorView(
            name="root", kind="supervisor", state="running", restarts=0, incarnation=1, mailbox=0, handled=0
        )

    async def ask(self, actor: str, message: Message, *, timeout: float, key: str | None) -> Any:
        self.asked.append((actor, message, key))
        if self.answer is not None:
            return self.answer(message)
        match message:
            case ListAgents():
                return (AgentView(name="a", status="idle", state="running"),)
            case SubmitJob():
                return Submitted(id="j1", status="pending")
            case Shutdown():
                return Ack()
            case ListJobs() | GetAgent():
                return None
        if actor == "sleeper":
            await self._forever()
        raise NoSuchActor(f"There is no actor {actor!r}.", known=["queue"])

    async def tell(self, actor: str, message: Message, *, key: str | None) -> Any:
        self.told.append((actor, message, key))
        return None

    async def _forever(self) -> None:
        self.waiting.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.cancelled.set()
            raise

    async def _parts(self) -> AsyncIterator[StreamPart]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part
        if self.hold_open:
            await self._forever()

    @asynccontextmanager
    async def chat(self, agent: str, say: Say, *, key: str | None, detach: bool) -> Any:
        self.chats.append((agent, say, key, detach))
        try:
            yield self._parts()
        finally:
            self.left.set()

    @asynccontextmanager
    async def watch(self, job: str) -> Any:
        if job == "none":
            raise JobNotFound(f"There is no job {job!r}.")
        try:
            yield self._parts()
        finally:
            self.left.set()

    @asynccontextmanager
    async def events(self, *, since: int | None, types: tuple[str, ...], subject: str | None, follow: bool) -> Any:
        self.event_queries.append({"since": since, "types": types, "subject": subject, "follow": follow})
        if since == 1:
            raise EventsExpired("Gone.", oldest=5)
        yield self._parts()


@dataclass
class Control:
    """A running control server and the ways to speak to it."""

    server: ControlServer
    backend: FakeBackend
    actors: Loop
    path: Path

    @property
    def wire(self) -> Wire:
        return Wire(self.path)

    def connect(self) -> socket.socket:
        """Return a connected socket that gives up reading after a while."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(WAIT)
        client.connect(str(self.path))
        return client

    def send(self, raw: bytes) -> "Answer":
        """Send bytes on a connection of their own and return what is answered."""
        with self.connect() as client:
            try:
                client.sendall(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was refused before it was all sent
            return read_answer(client)

    def answer(self, client: socket.socket) -> "Answer":
        """Read one answer from a connection."""
        return read_answer(client)

    def get(self, path: str, *headers: str, method: str = "GET", body: bytes | None = None) -> "Answer":
        """Send one request and return what is answered."""
        return self.send(request(path, *headers, method=method, body=body))

    def post(self, path: str, body: Any, *headers: str) -> "Answer":
        """Send *body* as JSON and return what is answered."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.get(path, *headers, method="POST", body=raw)


def request(path: str, *headers: str, method: str = "GET", body: bytes | None = None) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: u", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


@dataclass
class Answer:
    """What came back: status, headers (lower case), body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        return str(self.json()["code"])


def read_answer(client: socket.socket) -> Answer:
    """Read one whole answer: by its length, its chunks, or until the end."""
    with client.makefile("rb") as stream:
        status_line = stream.readline()
        if not status_line:
            return Answer(0, {}, b"")
        headers: dict[str, str] = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        if "content-length" in headers:
            body = stream.read(int(headers["content-length"]))
        else:
            body = b""
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
        return Answer(int(status_line.split()[1]), headers, body)


@pytest.fixture
def actors() -> Iterator[Loop]:
    loop = start_loop()
    yield loop
    loop.end()


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def control(tmp_path: Path, actors: Loop, backend: FakeBackend, limits: Limits) -> Iterator[Control]:
    path = tmp_path / "home" / "control.sock"
    server = ControlServer(App(backend, actors.bridge, limits=limits), path)
    server.start()
    yield Control(server, backend, actors, path)
    server.stop(timeout=1.0)


@pytest.fixture
def tight() -> Callable[..., Limits]:
    """Return limits with some changed."""
    return lambda **changes: replace(Limits(), **changes)
