"""Agents whose provider is away or slow, callers that hang up, and a key that may show up nowhere."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.daemon

CANARY = "sk-canary-0123456789abcdefghij"


class Provider(BaseHTTPRequestHandler):
    """Quotes the key it was given, as some real ones do; a path with `slow` says a word and then nothing."""

    seen: list[str] = []
    release = threading.Event()

    def do_POST(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "slow" in self.path:
            self._begin(200, "text/event-stream")
            self.wfile.write(b'data: {"choices":[{"delta":{"content":"one "}}]}\n\n')
            self.wfile.flush()
            self.release.wait(30)
        else:
            self._begin(401, "application/json")
            self.wfile.write(b'{"error":{"message":"Incorrect API key provided: %b"}}' % CANARY.encode())

    def _begin(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the standard library
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A provider on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        Provider.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def daemon(full: Any, port: int) -> Any:
    """A daemon whose agents speak with a provider that is away, one that is slow, and one that refuses the key."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    more = ""
    for name, url in (("away", f":{closed}/v1"), ("slow", f":{port}/slow"), ("strict", f":{port}/v1")):
        more += f'\n[providers.{name}]\nbase_url = "http://127.0.0.1{url}"\napi_key = "env:CANARY_KEY"\n'
        more += f'[agents.{name}]\nrole = "one"\nllm = {{ provider = "{name}", model = "m" }}\n'
    made = full(more, environ={"CANARY_KEY": CANARY})
    made.start()
    return made


def test_a_provider_that_is_away_delays_the_job_and_hurts_nobody(daemon: Any, wait_until: Any) -> None:
    job = daemon.submit("agent.message", args={"agent": "away", "message": {"text": "hello"}}, max_attempts=2)

    view = wait_until("it is tried again", lambda: tried_again(daemon.job(job)))

    assert view["history"][0]["error"]["code"] == "llm.unreachable"
    assert daemon.call("GET", "/v1/status")["health"] == "ok"
    assert daemon.run("echo", args={"n": 1})["status"] == "completed"
    assert daemon.agent("away")["restarts"] == 0


def tried_again(view: dict[str, Any]) -> Any:
    assert view["status"] != "completed"
    return view if view["status"] == "delayed" or view["attempts"] == 2 else None


def test_an_asker_that_hangs_up_cancels_the_answer(daemon: Any, wait_until: Any) -> None:
    asker = subprocess.Popen(
        [str(Path(sys.executable).parent / "understudy"), "ask", "slow", "hello"],
        env=daemon.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert asker.stdout is not None
    assert asker.stdout.read(4) == b"one "
    job = daemon.call("GET", "/v1/jobs", queue="agent:slow", limit=1)[0]["id"]

    asker.send_signal(signal.SIGINT)
    asker.communicate(timeout=10)

    assert asker.returncode == 130
    assert daemon.ended(job)["status"] == "cancelled"
    wait_until("the agent is free", lambda: daemon.agent("slow")["status"] == "idle")


def test_a_killed_asker_cancels_the_answer_too(daemon: Any) -> None:
    body = {"text": "hello", "conversation": "other"}
    with daemon.wire.stream("POST", "/v1/agents/slow/ask", body) as parts:
        kinds = []
        for kind, data, _ in parts:
            kinds.append(kind)
            if kind == "accepted":
                job = data["job"]
            if kind == "token":
                break

    assert kinds == ["accepted", "started", "token"]
    assert daemon.ended(job)["status"] == "cancelled"


def test_a_key_is_found_nowhere(daemon: Any) -> None:
    job = daemon.run("agent.message", args={"agent": "strict", "message": {"text": "hello"}})
    assert f"Bearer {CANARY}" in Provider.seen
    assert (job["status"], job["error"]["code"]) == ("failed", "llm.auth")

    shown = [
        daemon.cli(*words).stdout
        for words in (
            ("jobs", "show", job["id"], "--json"),
            ("status", "--json"),
            ("events", "--since", "0", "--json"),
            ("agents", "show", "strict", "--json"),
            ("ps", "--json"),
        )
    ]
    env = daemon.run("shell", args={"argv": ["env"]})["result"]["stdout"]
    files = [path.read_bytes() for path in daemon.home.iterdir() if path.is_file()]

    assert all(shown)
    assert not [text for text in (*shown, env, daemon.log()) if CANARY in text]
    assert not [data for data in files if CANARY.encode() in data]
