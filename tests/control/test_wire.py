"""The command line's end of the socket, against the real server and against servers that fail."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.control import wire
from runtime.control.backend import Limits
from runtime.control.wire import Cut, NotRunning, Wire, WireError, quote, socket_path, state_dir
from schemas.events import StreamPart
from schemas.jobs import ListJobs

WAIT = 20.0


@contextmanager
def peer(path: Path, answer: bytes, *, hold: bool = False) -> Iterator[Wire]:
    """Listen on *path*, read a request, answer with *answer* and close; with *hold*, keep the connection open."""
    done = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            if hold:
                assert done.wait(WAIT)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Wire(path)
        finally:
            done.set()
            thread.join(WAIT)


def reply(body: bytes, status: str = "200 OK", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    return head.encode() + body


class TestWhereTheSocketIs:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"UNDERSTUDY_HOST": "unix:///run/a.sock", "UNDERSTUDY_HOME": "/h"}, "/run/a.sock"),
            ({"UNDERSTUDY_HOST": "unix:///run/a%20b.sock"}, "/run/a b.sock"),
            ({"UNDERSTUDY_HOST": "/run/b.sock"}, "/run/b.sock"),
            ({"UNDERSTUDY_HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/1"}, "/h/control.sock"),
            ({"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/home/u"}, "/run/user/1/understudy/control.sock"),
            ({"XDG_RUNTIME_DIR": "relative", "HOME": "/home/u"}, "/home/u/.local/state/understudy/control.sock"),
            ({"XDG_STATE_HOME": "/state", "HOME": "/home/u"}, "/state/understudy/control.sock"),
            ({"UNDERSTUDY_HOST": "", "UNDERSTUDY_HOME": "", "HOME": "/u"}, "/u/.local/state/understudy/control.sock"),
        ],
    )
    def test_the_environment_decides(self, environ: dict[str, str], expected: str) -> None:
        assert socket_path(environ) == Path(expected)

    def test_the_state_directory_does_not_follow_the_runtime_directory(self) -> None:
        assert state_dir({"XDG_RUNTIME_DIR": "/run/user/1", "HOME": "/u"}) == Path("/u/.local/state/understudy")
        assert state_dir({"UNDERSTUDY_HOME": "/h"}) == Path("/h")

    @pytest.mark.parametrize("host", ["http://127.0.0.1:1", "unix://relative", "tcp://x"])
    def test_a_host_that_is_no_unix_socket_is_refused(self, host: str) -> None:
        with pytest.raises(WireError, match="UNDERSTUDY_HOST"):
            socket_path({"UNDERSTUDY_HOST": host})


class TestCalls:
    def test_an_answer_comes_back_with_the_version(self, control: Any) -> None:
        client = control.wire
        assert client.call("GET", "/v1/hello")["product"] == "understudy"
        assert client.version == "9.9"

    def test_a_query_is_written_as_the_server_reads_it(self, control: Any) -> None:
        control.wire.call("GET", "/v1/jobs", query={"kind": "a b&c", "limit": 3, "status": None})
        assert control.backend.asked[0][1] == ListJobs(kind="a b&c", limit=3)
        with control.wire.stream("GET", "/v1/events", query={"follow": False}) as parts:
            assert [kind for kind, _, _ in parts] == ["done"]
        assert control.backend.event_queries[0]["follow"] is False

    def test_a_body_and_headers_are_sent(self, control: Any) -> None:
        control.wire.call("POST", "/v1/jobs", {"kind": "x"}, headers={"Idempotency-Key": "k"})
        assert control.backend.asked[0][1].job.key == "k"

    def test_a_name_may_hold_anything(self, control: Any) -> None:
        with pytest.raises(WireError):
            control.wire.call("POST", f"/v1/actors/{quote('a/b ü?')}/ask", {"type": "worker.list"})
        assert control.backend.asked[0][0] == "a/b ü?"

    def test_a_problem_is_raised_whole(self, control: Any) -> None:
        with pytest.raises(WireError) as caught:
            control.wire.call("GET", "/v1/nowhere")
        assert caught.value.code == "request.not_found"
        assert caught.value.problem["hint"]

    def test_a_body_that_is_too_large_gets_the_answer_to_that(self, control: Any) -> None:
        with pytest.raises(WireError) as caught:
            control.wire.call("POST", "/v1/jobs", {"kind": "x" * 2_000_000})
        assert caught.value.code == "request.too_large"

    def test_the_functions_ask_the_daemon_of_the_environment(
        self, control: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("UNDERSTUDY_HOST", f"unix://{control.path}")
        assert wire.call("GET", "/v1/hello")["version"] == "9.9"
        control.backend.parts = [StreamPart(kind="done", data={"n": 1})]
        with wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert list(parts) == [("done", {"n": 1}, None)]


class TestOverload:
    @pytest.fixture
    def limits(self, tight: Any) -> Limits:
        changed: Limits = tight(connections=0)
        return changed

    def test_a_refusal_before_the_request_was_read_is_understood(self, control: Any) -> None:
        with pytest.raises(WireError) as caught:
            control.wire.call("GET", "/v1/hello")
        assert caught.value.code == "request.overloaded"


class TestNobodyThere:
    def test_no_socket(self, tmp_path: Path) -> None:
        with pytest.raises(NotRunning, match="no socket at"):
            Wire(tmp_path / "none.sock").call("GET", "/v1/hello")

    def test_a_dead_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "dead.sock"))
        with pytest.raises(NotRunning, match="nobody listens on"):
            Wire(tmp_path / "dead.sock").call("GET", "/v1/hello")

    def test_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        with pytest.raises(WireError, match="longer than"):
            Wire(tmp_path / ("x" * 120)).call("GET", "/v1/hello")

    def test_nobody_accepts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wire, "CONNECT_TIMEOUT", 0.05)
        with socket.socket(socket.AF_UNIX) as stuck, socket.socket(socket.AF_UNIX) as first:
            stuck.bind(str(tmp_path / "stuck.sock"))
            stuck.listen(0)
            first.connect(str(tmp_path / "stuck.sock"))
            with pytest.raises(WireError) as caught:
                Wire(tmp_path / "stuck.sock").call("GET", "/v1/hello")
        assert caught.value.code == "actor.timeout"


class TestFailingPeers:
    def test_an_answer_that_is_cut_off(self, tmp_path: Path) -> None:
        with peer(tmp_path / "s", reply(b'{"a"', length=100)) as client, pytest.raises(Cut):
            client.call("GET", "/")

    def test_no_answer_at_all(self, tmp_path: Path) -> None:
        with peer(tmp_path / "s", b"") as client, pytest.raises(Cut):
            client.call("GET", "/")

    def test_an_answer_that_does_not_come(self, tmp_path: Path) -> None:
        with peer(tmp_path / "s", b"", hold=True) as client, pytest.raises(WireError) as caught:
            client.call("GET", "/", timeout=0.01)
        assert caught.value.code == "actor.timeout"

    def test_half_an_answer_that_does_not_go_on(self, tmp_path: Path) -> None:
        with peer(tmp_path / "s", reply(b"{", length=9), hold=True) as client, pytest.raises(WireError) as caught:
            client.call("GET", "/", timeout=0.01)
        assert caught.value.code == "actor.timeout"

    @pytest.mark.parametrize("answer", [reply(b"<html>", "500 Oops"), reply(b"{}", "404 No"), reply(b"<html>")])
    def test_somebody_else_answers(self, tmp_path: Path, answer: bytes) -> None:
        with peer(tmp_path / "s", answer) as client, pytest.raises(WireError) as caught:
            client.call("GET", "/")
        assert caught.value.code == "daemon.version"

    @pytest.mark.parametrize("raw", [b'{"kind":"token","data":{}}\n', b'{"kind":"tok'])
    def test_a_stream_without_an_end_was_cut(self, tmp_path: Path, raw: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        with peer(tmp_path / "s", head + b"%x\r\n%s\r\n" % (len(raw), raw)) as client:
            with client.stream("GET", "/") as parts, pytest.raises(Cut):
                list(parts)

    @pytest.mark.parametrize("raw", [b"[1]\n", b"{}\n", b'{"kind":"error","data":null}\n', b"<p>\n"])
    def test_a_stream_of_somebody_else(self, tmp_path: Path, raw: bytes) -> None:
        with peer(tmp_path / "s", reply(raw)) as client:
            with client.stream("GET", "/") as parts, pytest.raises(WireError) as caught:
                list(parts)
        assert caught.value.code == "daemon.version"

    def test_a_silent_stream_counts_as_dead(self, tmp_path: Path) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        with peer(tmp_path / "s", head, hold=True) as client:
            with client.stream("GET", "/", timeout=0.01) as parts, pytest.raises(WireError) as caught:
                list(parts)
        assert caught.value.code == "actor.timeout"


class TestStreams:
    def test_parts_come_as_they_are_sent_and_end_with_done(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="token", data={"text": "a"}, id=1), StreamPart(kind="done")]
        with control.wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert list(parts) == [("token", {"text": "a"}, 1), ("done", {}, None)]

    def test_an_error_part_is_raised(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="token"), StreamPart(kind="error", data={"code": "job.failed"})]
        with control.wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert next(parts)[0] == "token"
            with pytest.raises(WireError) as caught:
                next(parts)
        assert caught.value.code == "job.failed"

    def test_a_refused_stream_raises_on_entering(self, control: Any) -> None:
        with pytest.raises(WireError) as caught, control.wire.stream("GET", "/v1/jobs/none/watch"):
            pass
        assert caught.value.code == "job.not_found"

    def test_leaving_tells_the_daemon_at_once(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="token")]
        control.backend.hold_open = True
        with control.wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert next(parts)[0] == "token"
        assert control.backend.left.wait(WAIT)

    def test_a_stopping_daemon_says_so(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="token")]
        control.backend.hold_open = True
        with control.wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert next(parts)[0] == "token"
            thread = threading.Thread(target=control.server.stop)
            thread.start()
            with pytest.raises(WireError) as caught:
                next(parts)
            thread.join(WAIT)
        assert caught.value.code == "daemon.draining"


class TestPings:
    @pytest.fixture
    def limits(self, tight: Any) -> Limits:
        changed: Limits = tight(ping=0.01)
        return changed

    def test_they_are_not_parts(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="token")]
        control.backend.hold_open = True
        with control.wire.stream("GET", "/v1/jobs/x/watch") as parts:
            assert next(parts)[0] == "token"
            assert control.backend.waiting.wait(WAIT)
            control.server.stop()  # after which whatever was sent can be read: pings and the end
            with pytest.raises(WireError):
                next(parts)


def test_it_needs_the_standard_library_alone() -> None:
    script = (
        "import sys; import runtime.control.wire; "
        "print([name for name in ('pydantic', 'anyio', 'starlette', 'uvicorn', 'structlog', 'httpx', 'click')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
