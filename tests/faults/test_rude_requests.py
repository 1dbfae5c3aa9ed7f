"""Malformed, oversized and slow requests at the real socket: refused one by one, and the daemon goes on."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon


@pytest.fixture(scope="module")
def daemon(new_daemon: Any) -> Iterator[Any]:
    """A started daemon."""
    made = new_daemon()
    made.start()
    yield made
    assert made.run("echo")["status"] == "completed"
    assert made.call("GET", "/v1/status")["health"] == "ok"


def raw(daemon: Any, data: bytes, within: float = 10.0) -> bytes:
    """Send bytes; return all that comes until the daemon closes."""
    with connect(daemon, within) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = b""
        while more := receive(connection):
            answer += more
        return answer


def connect(daemon: Any, within: float = 10.0) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(daemon.home / "control.sock"))  # before the timeout: with one, a full backlog is an error
    connection.settimeout(within)
    return connection


def receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def post(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n"
    return head.encode() + b"Content-Type: application/json\r\n\r\n" + body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 not http at all\r\n\r\n", 400),
        (b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 400_000 + b"\r\n\r\n", 413),
        (post(b"{" * 100), 400),
        (post(b"[" * 100_000), 400),
        (post(b'{"kind": "echo", "args": {"a": NaN}}'), 400),
        (post(b'{"kind": "\\ud800", "args": {}}'), 400),
        (post(b'{"kind": "echo", "args": {"a": "\\ud800"}}'), 400),
        (post(b'{"kind": "echo", "args": {"n": 1' + b"0" * 5000 + b"}}"), 400),
        (post(b'{"kind": "echo", "priority": 100000000000000000000000}'), 400),
        (post(b'{"kind": "echo", "delay_ms": 99999999999999999}'), 400),
        (post(b'{"kind": "echo", "max_attempts": 0}'), 400),
        (post(b'{"kind": "echo", "key": "a\\u0000b", "surprise": 1}'), 400),
        (post(b"x" * 2_000_000), 413),
        (post(b"", 1 << 62), 413),
        (b"DELETE /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_problem(daemon: Any, data: bytes, status: int) -> None:
    head, _, body = raw(daemon, data).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 %d " % status), head[:100] + body[:300]
    assert json.loads(body)["status"] == status


def test_a_request_that_does_not_arrive_is_given_up(daemon: Any) -> None:
    answer = raw(daemon, post(b'{"kind": ', 100))

    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_flood_of_connections_is_refused_and_then_over(daemon: Any, wait_until: Any) -> None:
    with ExitStack() as stack:
        for _ in range(140):
            stack.enter_context(connect(daemon))
        with pytest.raises(WireError) as refused:
            daemon.call("GET", "/v1/status")
        assert refused.value.code == "request.overloaded"

    wait_until("there is room again", lambda: answers(daemon), 5.0)


def answers(daemon: Any) -> bool:
    try:
        return bool(daemon.call("GET", "/v1/status"))
    except WireError:
        return False


def test_too_large_arguments_are_refused_for_good(daemon: Any) -> None:
    with pytest.raises(WireError) as refused:
        daemon.submit("echo", args={"text": "x" * 300_000})

    assert (refused.value.code, refused.value.problem["retryable"]) == ("job.payload_too_large", False)


def test_a_result_that_is_too_large_fails_its_job_and_is_not_kept(daemon: Any) -> None:
    job = daemon.run("shell", args={"argv": ["sh", "-c", "yes | head -c 3000000"]})

    assert job["status"] in ("completed", "failed")
    assert len(json.dumps(job)) < 1_200_000
