"""`up`, `down`, `reload`, against daemons that are real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.lifecycle import daemon_argv

# A daemon in its smallest form: it answers hello and readyz, and ends when it is asked to shut down.
SMALL = """
import json, os, sys
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer
from threading import Thread
path = os.environ["UNDERSTUDY_HOME"] + "/control.sock"
if os.path.exists(path):
    sys.exit("another daemon owns this home")
class Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"pid": os.getpid(), "version": "x", "health": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if self.path == "/v1/shutdown" and "STUBBORN" not in os.environ:
            Thread(target=self.server.shutdown).start()
    do_GET = do_POST = answer
    def log_message(self, *args): pass
server = UnixStreamServer(path, Handler)
server.serve_forever(poll_interval=0.01)
os.unlink(path)
"""


@pytest.fixture
def up(child: Callable[..., Any], home: Path) -> Iterator[Callable[..., Any]]:
    """Run `up --detach` with another program as the daemon; what it left running is ended."""
    script = home / "daemon.py"
    pids: list[int] = []

    def start(program: str = SMALL) -> Any:
        script.write_text(program)
        driver = (
            "import sys; from runtime.cli import lifecycle, main\n"
            f"lifecycle.daemon_argv = lambda config: [sys.executable, {str(script)!r}]\n"
            "main.main()"
        )
        process = child("up", "--detach", driver=driver)
        out, err = process.communicate()
        if "pid " in out:
            pids.append(int(out.split("pid ")[1].split(",")[0]))
        return process.returncode, out, err

    yield start
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_the_daemon_is_started_by_this_interpreter_and_safe_path() -> None:
    assert daemon_argv("c.toml") == [sys.executable, "-P", "-m", "actors", "-c", "c.toml"]
    assert daemon_argv(None) == [sys.executable, "-P", "-m", "actors"]


def test_up_becomes_the_daemon(child: Callable[..., Any]) -> None:
    driver = (
        "import sys; from runtime.cli import lifecycle, main\n"
        "lifecycle.daemon_argv = lambda config: [sys.executable, '-c', f'import os; print(os.getpid(), {config!r})']\n"
        "main.main()"
    )
    process = child("up", "-c", "mine.toml", driver=driver)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, f"{process.pid} mine.toml\n", "")


def test_up_detached_returns_when_the_daemon_takes_work_and_down_when_it_is_gone(
    up: Callable[..., Any], cli: Callable[..., Any], home: Path
) -> None:
    code, out, err = up()
    assert (code, err) == (0, "")
    pid = int(out.split("pid ")[1].split(",")[0])
    assert out == f"understudy is up (pid {pid}, socket {home}/control.sock)\n"
    assert (home / "daemon.out").stat().st_mode & 0o777 == 0o600
    assert os.getsid(pid) == pid
    ended = cli("down")
    assert (ended.code, ended.out, ended.err) == (0, f"understudy is down (pid {pid})\n", "")
    assert cli("down").code == 3


def test_a_daemon_that_ends_at_once_is_told_with_its_output_and_exit_code(up: Callable[..., Any], home: Path) -> None:
    (home / "daemon.out").write_text("from an earlier day\n")
    code, out, err = up("import sys; print('no such\\x1b[2J key'); sys.exit(78)")
    assert (code, out) == (78, "")
    assert err == (
        "no such\\x1b[2J key\n"
        f"the daemon ended while it started (exit code 78); all of its output is in {home}/daemon.out\n"
    )


def test_a_second_daemon_is_not_taken_for_the_first(up: Callable[..., Any]) -> None:
    assert up()[0] == 0
    code, out, err = up()
    assert (code, out) == (1, "")
    assert err.startswith("another daemon owns this home\n")


def test_a_daemon_that_does_not_stop_is_exit_code_124(
    up: Callable[..., Any], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUBBORN", "1")
    _, out, _ = up()
    pid = out.split("pid ")[1].split(",")[0]
    ended = cli("down", "--timeout", "200ms")
    assert (ended.code, ended.out) == (124, "")
    assert ended.err == (
        "error: The daemon has not stopped yet\n"
        f"  why: pid {pid} still runs after 0.2 s\n"
        "  next: understudy down --now\n"
    )
    assert f"next: kill -9 {pid}" in cli("down", "--now", "--timeout", "200ms").err


def test_a_process_that_nobody_waited_for_counts_as_gone() -> None:
    from runtime.cli.lifecycle import alive

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert alive(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not alive(process.pid)
    assert not alive(process.pid)


def test_reload_tells_what_changed(cli: Callable[..., Any], fake: Any) -> None:
    result = {
        "added": ["new"],
        "removed": [],
        "restarted": ["a", "b"],
        "unchanged": ["c"],
        "needs_restart": ["runtime.pool"],
        "missing_tools": ["new has to do without mine:look: there is no mine.py"],
    }
    fake.on("POST", "/v1/reload", result)
    ended = cli("reload")
    assert ended.out == "added      new\nrestarted  a, b\n"
    assert ended.err == (
        "These need a new start (understudy down; understudy up): runtime.pool\n"
        "new has to do without mine:look: there is no mine.py\n"
    )
    assert cli("reload", "--json").json == result


def test_reload_without_a_change_says_so(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/reload", {"unchanged": ["a", "b"]})
    assert cli("reload").out == "in force; no agent changed (2)\n"


def test_reload_shows_every_mistake_with_its_place(cli: Callable[..., Any], fake: Any) -> None:
    mistakes = [
        {"file": "config.toml", "line": 9, "column": 59, "message": "not a number", "hint": ""},
        {"file": "config.toml", "line": 12, "column": 1, "message": "unknown key", "hint": "did you mean `role`?"},
    ]
    fake.problem("POST", "/v1/reload", "config.invalid", "2 mistakes", mistakes=mistakes)
    ended = cli("reload")
    assert ended.code == 78
    assert ended.err == (
        "error: The configuration has mistakes\n"
        "  why: 2 mistakes\n"
        "  why: config.toml:9:59: not a number\n"
        "  why: config.toml:12:1: unknown key (did you mean `role`?)\n"
        "  next: `understudy config check` shows each with its place.\n"
    )
