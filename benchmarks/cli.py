"""How long `understudy status` takes as a whole process, beside a Python that only imports click."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from statistics import median
from threading import Thread
from time import perf_counter

from benchmarks.row import Row
from runtime.cli.version import version_of_cli

BARE = [sys.executable, "-P", "-c", "import click"]
OURS = [sys.executable, "-P", "-c", "from runtime.cli.main import main; main()", "status"]
STATUS = {
    "pid": 1,
    "version": "0",
    "uptime": 3.0,
    "health": "ok",
    "reasons": [],
    "home": "/home",
    "config": "/home/config.toml",
    "boot": "b",
    "durability": "full",
    "agents": {"idle": 3},
    "workers": {"idle": 8},
    "queues": {f"queue-{n}": {"pending": n, "active": 1} for n in range(10)},
    "loop_lag_ms": 0.1,
    "blocked": None,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps(STATUS).encode()
        self.send_response(200)
        self.send_header("Understudy-Version", version_of_cli())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


@contextmanager
def answering() -> Iterator[Mapping[str, str]]:
    """Serve one status for ever; hands out the environment in which the command finds it."""
    with tempfile.TemporaryDirectory() as home:
        with Server(str(Path(home) / "control.sock"), Handler) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                yield {**os.environ, "UNDERSTUDY_HOME": home, "UNDERSTUDY_HOST": ""}
            finally:
                server.shutdown()
                thread.join()


def _seconds(argv: list[str], environ: Mapping[str, str], expected: str) -> float:
    start = perf_counter()
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
    took = perf_counter() - start
    assert expected in done.stdout, done.stdout
    return took


def measure(quick: bool = False) -> list[Row]:
    """Time whole processes, ours and the bare one in turn, and take the medians. Milliseconds; lower is better."""
    bare, ours = [], []
    with answering() as environ:
        for n in range(8 if quick else 31):
            pair = _seconds(BARE, environ, ""), _seconds(OURS, environ, "queue-9")
            if n:  # the first pair fills the caches
                bare.append(pair[0] * 1000)
                ours.append(pair[1] * 1000)
    return [Row("cli: status, whole process", median(ours), median(bare), 3.0, "ms", higher_is_better=False)]


if __name__ == "__main__":
    for row in measure("--quick" in sys.argv):
        print(row)
