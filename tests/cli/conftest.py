"""A small daemon that plays answers over real HTTP on a real Unix socket, and two ways to run the command line."""

import errno
import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from runtime.cli import daemon as cli_daemon
from runtime.cli.main import run
from runtime.cli.version import version_of_cli
from schemas.codes import CODES

NOW = 1_790_000_000_000
DRIVER = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from runtime.cli.main import main; main()"
)


@dataclass
class Seen:
    """A request as the daemon saw it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeDaemon:
    """Plays what `on` and `stream` were told, and remembers what was asked.

    The parts of a stream are (kind, data) or (kind, data, id); `hold` waits until the other side hangs up, `die` closes
    the connection without an end.
    """

    path: Path
    version: str = field(default_factory=version_of_cli)
    seen: list[Seen] = field(default_factory=list)
    hung_up: Event = field(default_factory=Event)
    held: list[socket.socket] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Callable[["Handler"], None]]] = field(default_factory=dict)

    def start(self) -> None:
        self.server = Server(str(self.path), Handler)
        self.server.play = self
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        for connection in self.held:  # a command that was run in this process leaves its own to the process's end
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server.server_close()
        self.path.unlink()

    def on(self, method: str, path: str, value: Any, status: int = 200) -> None:
        """Answer with JSON; said twice for one path, the answers are given in turn and the last one stays."""
        self.answers.setdefault((method, path), []).append(lambda handler: handler.answer(value, status))

    def problem(self, method: str, path: str, code: str, detail: str, /, **data: Any) -> None:
        self.on(method, path, problem(code, detail, **data), CODES[code].status)

    def stream(self, method: str, path: str, *parts: Any) -> None:
        self.answers.setdefault((method, path), []).append(lambda handler: handler.parts(parts))

    def asked(self, method: str, path: str) -> Seen:
        """Return the one request to *path*."""
        (only,) = [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]
        return only


def problem(code: str, detail: str, /, **data: Any) -> dict[str, Any]:
    entry = CODES[code]
    return {
        "code": code,
        "title": entry.title,
        "status": entry.status,
        "detail": detail,
        "hint": entry.hint,
        "retryable": entry.retryable,
        "request_id": "r-1",
        "data": data,
    }


class Server(ThreadingMixIn, UnixStreamServer):
    play: FakeDaemon
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a command that was ended while it was being answered
            raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        play, path = self.server.play, unquote(url.path)
        play.seen.append(Seen(self.command, path, parse_qs(url.query), dict(self.headers.items()), body))
        answers = play.answers.get((self.command, path))
        if not answers:
            self.answer(problem("request.not_found", f"The fake plays nothing for {path}."), 404)
            return
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, value: Any, status: int) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Understudy-Version", self.server.play.version)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def parts(self, parts: tuple[Any, ...]) -> None:
        self.send_response(200)
        self.send_header("Understudy-Version", self.server.play.version)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in parts:
            if callable(part):
                part(self)
                if part in (die, hold):
                    return
            else:
                self._chunk(json.dumps(dict(zip(("kind", "data", "id"), part, strict=False))).encode() + b"\n")
        self._chunk(b"")

    def _chunk(self, raw: bytes) -> None:
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")

    def log_message(self, *args: Any) -> None:
        pass


def hold(handler: Handler) -> None:
    """Wait until the other side hangs up."""
    handler.server.play.held.append(handler.connection)
    assert handler.connection.recv(1) == b""
    handler.server.play.hung_up.set()


def die(handler: Handler) -> None:
    """End the connection in the middle of the stream."""
    handler.connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a daemon, a frozen wall clock, UTC, and no colour."""
    for name in ("UNDERSTUDY_HOST", "UNDERSTUDY_CONFIG", "UNDERSTUDY_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runtime.cli.text.now_ms", lambda: NOW)
    monkeypatch.setattr(cli_daemon, "_warned", set())
    return tmp_path


@pytest.fixture
def fake(home: Path) -> Iterator[FakeDaemon]:
    """The daemon that plays answers."""
    daemon = FakeDaemon(home / "control.sock")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process, as a pipe would see it."""

    def call(*argv: str) -> Ended:
        capsys.readouterr()
        code = run(list(argv))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def child(home: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: str, driver: str = DRIVER, **options: Any) -> "subprocess.Popen[str]":
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", driver, *argv], text=True, env=os.environ.copy(), **pipes
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def terminal(child: Callable[..., "subprocess.Popen[str]"]) -> Callable[..., str]:
    """Run a command on a terminal, and return what it showed."""

    def show(*argv: str) -> str:
        ours, theirs = pty.openpty()
        process = child(*argv, stdout=theirs, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError as error:
            if error.errno != errno.EIO:  # the other end of the terminal was closed
                raise
        os.close(ours)
        assert process.wait() == 0
        return shown.decode().replace("\r\n", "\n")

    return show


@pytest.fixture
def streams() -> tuple[Callable[[Handler], None], Callable[[Handler], None]]:
    """What a stream may do besides sending parts: (hold, die)."""
    return hold, die


@pytest.fixture
def make_problem() -> Callable[..., dict[str, Any]]:
    """Build a problem as the daemon would."""
    return problem


@pytest.fixture
def make_job() -> Callable[..., dict[str, Any]]:
    """Build a job as the daemon shows it."""

    def job(**changes: Any) -> dict[str, Any]:
        view: dict[str, Any] = {
            "id": "0193-a",
            "name": "sleep",
            "queue": "default",
            "status": "completed",
            "reason": None,
            "priority": 100,
            "attempts": 1,
            "max_attempts": 3,
            "crashes": 0,
            "payload": {"seconds": 2},
            "result": None,
            "error": None,
            "progress": None,
            "data": {},
            "key": None,
            "worker": None,
            "conversation": None,
            "timeout_ms": None,
            "created_at": NOW - 125_000,
            "updated_at": NOW - 3_000,
            "execute_after": NOW - 125_000,
            "started_at": NOW - 5_000,
            "finished_at": NOW - 3_000,
            "history": [],
        }
        return view | changes

    return job
