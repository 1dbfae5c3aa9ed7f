"""`up`, `down`, `reload`: the daemon's life as seen from outside."""

import os
import sys
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from time import monotonic, sleep
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.deadline import Expired, deadline
from runtime.cli.failure import Failure
from runtime.cli.params import DURATION, json_option
from runtime.cli.text import cell, escape, note, say, say_json
from runtime.config_report import render
from runtime.control import wire
from schemas.codes import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_TIMEOUT

POLL: Final = 0.05
READY_WITHIN: Final = 60.0
TAIL_LINES: Final = 30


@click.command()
@click.option("-c", "--config", metavar="FILE", help="The configuration; else $UNDERSTUDY_CONFIG, else ./config.toml.")
@click.option("--detach", is_flag=True, help="Run in the background; returns when the daemon takes work.")
def up(config: str | None, detach: bool) -> int:
    """Start the daemon.

    In the foreground this process becomes the daemon: Ctrl-C stops it.
    """
    argv = daemon_argv(config)
    if detach:
        return _detached([*argv, "--quiet"])  # its log goes to the file that `understudy logs` reads
    sys.stdout.flush()
    return os.execv(argv[0], argv)  # noqa: S606  # becoming the daemon, without a shell, is the point


def daemon_argv(config: str | None) -> list[str]:
    """Return the command that is the daemon; it finds and judges a configuration that is not named here."""
    return [sys.executable, "-P", "-m", "actors", *(["-c", config] if config else [])]


def _detached(argv: list[str]) -> int:
    output = _output_file()
    with output.open("ab") as sink:
        written = sink.tell()
        child = Popen(argv, stdin=DEVNULL, stdout=sink, stderr=STDOUT, start_new_session=True)
    started = monotonic()
    while child.poll() is None:
        if _takes_work(child.pid):
            say(f"understudy is up (pid {child.pid}, socket {wire.socket_path(os.environ)})")
            return 0
        if monotonic() - started > READY_WITHIN:
            why = f"pid {child.pid} is still starting; its output is in {output}"
            raise Failure("The daemon is not ready", why, "understudy status", code=EXIT_TIMEOUT)
        sleep(POLL)
    with output.open("rb") as source:
        source.seek(written)
        lines = source.read().decode(errors="replace").splitlines()
    note("\n".join(lines[-TAIL_LINES:]))
    code = child.returncode
    note(f"the daemon ended while it started ({_ending(code)}); all of its output is in {output}")
    return code if code > 0 else EXIT_FAILED if code == 0 else 128 - code


def _output_file() -> Path:
    folder = wire.state_dir(os.environ)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = folder / "daemon.out"
        output.touch(mode=0o600)
    except OSError as error:
        raise Failure("The state directory cannot be used", str(error), "understudy doctor") from None
    return output


def _takes_work(pid: int) -> bool:
    # An older daemon may answer on the socket while ours is being refused: only the child's own answer counts.
    try:
        return bool(daemon.hello()["pid"] == pid) and bool(daemon.get("/readyz", timeout=daemon.HELLO_TIMEOUT))
    except Failure:
        return False


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


@click.command()
@click.option("--now", is_flag=True, help="Do not wait for running work; it is run again after the next start.")
@click.option("--timeout", type=DURATION, default=60.0, show_default="60s", help="How long to wait for its end.")
def down(now: bool, timeout: float) -> None:
    """Stop the daemon and wait until it is gone."""
    try:
        pid = int(daemon.hello()["pid"])
    except Failure as failure:
        if failure.exit != EXIT_NOT_RUNNING:
            raise
        raise Failure(daemon.without_start(failure), code=EXIT_NOT_RUNNING, bare=True) from None
    try:
        with deadline(timeout):
            daemon.post("/v1/shutdown", {"now": now}, timeout=timeout + 1)
            while alive(pid):
                sleep(POLL)
    except Expired:
        hint = f"kill -9 {pid}  (nothing acknowledged is lost)" if now else "understudy down --now"
        why = f"pid {pid} still runs after {timeout:g} s"
        raise Failure("The daemon has not stopped yet", why, hint, code=EXIT_TIMEOUT) from None
    say(f"understudy is down (pid {pid})")


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended but was not waited for by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state not in ("Z", "X")


@click.command()
@json_option
def reload(as_json: bool) -> None:
    """Read the configuration again; on any mistake the running one stays."""
    try:
        result = daemon.post("/v1/reload", {})
    except Failure as failure:
        raise _with_places(failure) from None
    if as_json:
        say_json(result)
        return
    say(reloaded(result))
    if result.get("needs_restart"):
        note("These need a new start (understudy down; understudy up): " + ", ".join(result["needs_restart"]))
    for missing in result.get("missing_tools", ()):
        note(missing)


def _with_places(failure: Failure) -> Failure:
    """Show each mistake with its line and caret; return what remains to be said."""
    mistakes = [one for one in failure.data.get("mistakes", ()) if "source" in one]
    if not mistakes:
        return failure
    note(render(mistakes))
    return Failure(failure.what, "nothing was changed, the running configuration stays", code=failure.exit)


def reloaded(result: dict[str, Any]) -> str:
    """Return one line for each thing a reload did."""
    lines = [
        f"{what:<9}  {', '.join(cell(name) for name in result[what])}"
        for what in ("added", "removed", "restarted")
        if result.get(what)
    ]
    if result.get("read_anew"):
        lines.append("code       has changed, and was read anew")
    return "\n".join(lines) or escape(f"in force; no agent changed ({len(result.get('unchanged', ()))})")
