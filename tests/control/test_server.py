"""The control server on a real socket: who is let in, how long requests may take, and how it stops."""

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.control import server as server_module
from runtime.control.app import App
from runtime.control.backend import Limits
from runtime.control.server import ControlServer
from runtime.errors import AlreadyRunning, HomeUnusable
from schemas.events import StreamPart
from schemas.system import HealthView

WAIT = 20.0


def read_all(client: socket.socket) -> bytes:
    """Read until the other side closes."""
    chunks = []
    try:
        while chunk := client.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass  # closed with bytes of ours unread
    return b"".join(chunks)


class TestWhoIsLetIn:
    def test_the_owner_is(self, control: Any) -> None:
        assert control.get("/v1/hello").status == 200

    def test_another_user_is_refused_before_a_byte_is_read(self, control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "peer_of", lambda peer: (1, os.geteuid() + 4242))
        with control.connect() as client:
            answer = read_all(client)
        assert b" 403 " in answer
        assert b"request.denied" in answer
        assert control.backend.asked == []

    def test_one_connection_too_many_is_told_to_come_back(self, control: Any) -> None:
        crowd = [control.connect() for _ in range(128)]
        try:
            for client in crowd:
                client.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: u\r\n\r\n")
                assert control.answer(client).status == 200
            refused = control.get("/v1/hello")
            assert refused.status == 503
            assert refused.code == "request.overloaded"
            assert refused.headers["retry-after"] == "1"
            assert "understudy-version" in refused.headers
        finally:
            for client in crowd:
                client.close()
        # All of the crowd are gone once the server has seen them go; the next one finds room then.
        until = time.monotonic() + WAIT
        while (answer := control.get("/v1/hello")).status == 503 and time.monotonic() < until:
            pass
        assert answer.status == 200

    def test_file_descriptors_bound_the_connections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module.resource, "getrlimit", lambda kind: (256, 256))
        assert server_module._room(Limits()) == 64
        monkeypatch.setattr(server_module.resource, "getrlimit", lambda kind: (100, 100))
        assert server_module._room(Limits()) == 1
        unlimited = server_module.resource.RLIM_INFINITY
        monkeypatch.setattr(server_module.resource, "getrlimit", lambda kind: (unlimited, unlimited))
        assert server_module._room(Limits()) == 128


class TestSlowAndBrokenRequests:
    @pytest.fixture
    def limits(self, tight: Any) -> Limits:
        changed: Limits = tight(request=0.05)
        return changed

    @pytest.mark.parametrize(
        "raw",
        [
            b"GET /v1/hello HT",
            b"GET /v1/hello HTTP/1.1\r\nHost: u\r\n",
            b"POST /v1/jobs HTTP/1.1\r\nHost: u\r\nContent-Length: 50\r\n\r\n{",
            b"POST /v1/jobs HTTP/1.1\r\nHost: u\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        ],
    )
    def test_a_request_that_does_not_arrive_is_answered_408_and_closed(self, control: Any, raw: bytes) -> None:
        with control.connect() as client:
            client.sendall(raw)
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"request.timeout" in answer
        assert control.backend.asked == []

    def test_a_dripping_request_does_not_win_time(self, control: Any) -> None:
        with control.connect() as client:
            client.settimeout(0.005)
            answer = b""
            until = time.monotonic() + WAIT
            while not answer and time.monotonic() < until:
                try:
                    client.sendall(b"x" if answer else b"G")
                    answer = client.recv(65536)
                except TimeoutError:
                    continue  # one more drop
        assert answer.startswith(b"HTTP/1.1 408 ")

    def test_a_connection_that_says_nothing_is_closed_without_a_word(self, control: Any) -> None:
        with control.connect() as client:
            assert read_all(client) == b""

    def test_the_deadline_is_for_each_request_and_not_for_the_answer(self, control: Any) -> None:
        control.backend.hold_open = True
        control.backend.parts = [StreamPart(kind="started")]
        with control.connect() as client:
            for _ in range(3):
                client.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: u\r\n\r\n")
                assert control.answer(client).status == 200
            client.sendall(b"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\n\r\n")
            seen = b""
            while b"started" not in seen:
                seen += client.recv(65536)
            client.settimeout(0.2)  # four times the deadline
            with pytest.raises(TimeoutError):
                client.recv(65536)

    def test_the_second_request_of_a_connection_has_a_deadline_too(self, control: Any) -> None:
        with control.connect() as client:
            client.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: u\r\n\r\nGET /v1/he")
            answer = read_all(client)
        assert answer.count(b"HTTP/1.1 200") == 1
        assert answer.count(b"HTTP/1.1 408") == 1


class TestWhatIsNotHttp:
    @pytest.mark.parametrize(
        "raw",
        [b"\x00\x01\x02\x03\r\n\r\n", b"hello there\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"],
    )
    def test_garbage_is_answered_400(self, control: Any, raw: bytes) -> None:
        answer = control.send(raw)
        assert (answer.status, answer.code) == (400, "request.malformed")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]

    def test_large_headers_are_answered_413(self, control: Any) -> None:
        answer = control.get("/v1/hello", "X-Long: " + "x" * 17_000)
        assert (answer.status, answer.code) == (413, "request.too_large")

    def test_headers_below_the_limit_are_taken(self, control: Any) -> None:
        assert control.get("/v1/hello", "X-Long: " + "x" * 15_000).status == 200

    def test_a_large_body_is_refused_before_it_is_sent(self, control: Any) -> None:
        with control.connect() as client:
            client.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: u\r\nContent-Length: 1048577\r\n\r\n")
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 413 ")

    def test_a_large_chunked_body_is_counted(self, control: Any) -> None:
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: u\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = control.send(head + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17 + b"0\r\n\r\n")
        assert (answer.status, answer.code) == (413, "request.too_large")

    def test_a_request_to_change_the_protocol_is_an_ordinary_request(self, control: Any) -> None:
        answer = control.get("/v1/hello", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x")
        assert answer.status == 200

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(raw=st.binary(min_size=1, max_size=200))
    def test_no_bytes_bring_it_down(self, control: Any, raw: bytes) -> None:
        with control.connect() as client:
            client.sendall(raw + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            answer = read_all(client)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert control.get("/v1/hello").status == 200

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(body=st.one_of(st.binary(max_size=100), st.text(max_size=50).map(str.encode)))
    def test_no_body_is_more_than_a_wrong_request(self, control: Any, body: bytes) -> None:
        answer = control.post("/v1/jobs", body)
        assert answer.status == 400
        assert answer.code in ("request.invalid", "request.malformed")


class TestWhileTheActorsAreBlocked:
    @pytest.mark.parametrize("path", ["/v1/hello", "/healthz", "/v1/status", "/v1/ps"])
    def test_snapshots_are_answered_at_once(self, control: Any, path: str) -> None:
        control.get(path)
        free = control.actors.block()
        try:
            begun = time.monotonic()
            assert control.get(path).status == 200
            assert time.monotonic() - begun < 0.1
        finally:
            free()

    def test_an_ask_is_told_that_it_is_too_late(self, control: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runtime.control.app.GRACE", 0.01)
        control.backend.health_view = HealthView(health="degraded", blocked={"actor": "queue"})
        free = control.actors.block()
        try:
            answer = control.get("/v1/agents?timeout=0.01")
        finally:
            free()
        assert (answer.status, answer.code) == (504, "actor.timeout")
        assert answer.json()["data"] == {"blocked": {"actor": "queue"}}


class TestStopping:
    def stopping(self, control: Any, timeout: float = WAIT) -> threading.Thread:
        thread = threading.Thread(target=control.server.stop, args=(timeout,))
        thread.start()
        return thread

    def test_nothing_is_left_of_it(self, control: Any) -> None:
        threads = threading.active_count()
        control.server.stop()
        assert not control.path.exists()
        assert not control.server.alive
        assert threading.active_count() == threads - 1

    def test_stopping_twice_is_harmless(self, control: Any) -> None:
        control.server.stop()
        control.server.stop()
        assert not control.server.alive

    def test_a_stream_ends_with_an_error_that_says_so(self, control: Any) -> None:
        control.backend.parts = [StreamPart(kind="started")]
        control.backend.hold_open = True
        with control.connect() as client:
            client.sendall(b"GET /v1/jobs/x/watch HTTP/1.1\r\nHost: u\r\nAccept: application/x-ndjson\r\n\r\n")
            assert control.backend.waiting.wait(WAIT)
            thread = self.stopping(control)
            answer = read_all(client)
            thread.join(WAIT)
        assert answer.count(b'"kind":"error"') == 1
        assert b"daemon.draining" in answer
        assert answer.endswith(b"0\r\n\r\n")
        assert control.backend.left.wait(WAIT)

    def test_an_idle_connection_is_closed(self, control: Any) -> None:
        with control.connect() as client:
            client.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: u\r\n\r\n")
            assert control.answer(client).status == 200
            control.server.stop()
            assert client.recv(1) == b""

    def test_a_call_under_way_is_answered(self, control: Any) -> None:
        free = control.actors.block()
        with control.connect() as client:
            client.sendall(b"GET /v1/agents HTTP/1.1\r\nHost: u\r\n\r\n")
            until = time.monotonic() + WAIT
            while not control.actors.bridge._calls and time.monotonic() < until:
                pass
            thread = self.stopping(control)
            free()
            answer = read_all(client)
            thread.join(WAIT)
        assert answer.startswith(b"HTTP/1.1 200 ")

    def test_a_call_that_does_not_end_is_answered_that_the_daemon_stops(self, control: Any) -> None:
        with control.connect() as client:
            head = b"POST /v1/actors/sleeper/ask HTTP/1.1\r\nHost: u\r\nContent-Length: 22\r\n\r\n"
            client.sendall(head + b'{"type":"worker.list"}')
            assert control.backend.waiting.wait(WAIT)
            thread = self.stopping(control, timeout=0.01)
            answer = read_all(client)
            thread.join(WAIT)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"daemon.draining" in answer
        assert control.backend.cancelled.wait(WAIT)

    def test_it_can_be_started_again_on_the_same_path(self, control: Any) -> None:
        control.server.stop()
        again = ControlServer(App(control.backend, control.actors.bridge), control.path)
        again.start()
        try:
            assert control.get("/v1/hello").status == 200
        finally:
            again.stop()


class TestStarting:
    def test_what_a_dead_daemon_left_is_replaced(self, control: Any, tmp_path: Path) -> None:
        path = tmp_path / "other" / "control.sock"
        path.parent.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        server = ControlServer(App(control.backend, control.actors.bridge), path)
        server.start()
        try:
            assert path.is_socket()
        finally:
            server.stop()
        assert not path.exists()

    def test_a_live_socket_is_left_to_its_owner(self, control: Any) -> None:
        with pytest.raises(AlreadyRunning):
            ControlServer(App(control.backend, control.actors.bridge), control.path).start()
        assert control.get("/v1/hello").status == 200

    def test_a_path_that_is_too_long_starts_nothing(self, control: Any, tmp_path: Path) -> None:
        server = ControlServer(App(control.backend, control.actors.bridge), tmp_path / ("x" * 120))
        with pytest.raises(HomeUnusable):
            server.start()
        assert not server.alive

    def test_signals_stay_with_their_owner(self, control: Any) -> None:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert control.server.alive
