"""`doctor`: what is wrong with this installation, each finding with its fix."""

import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from stat import S_IMODE
from subprocess import TimeoutExpired, run
from typing import Final, Literal, NamedTuple

import click

from runtime.cli import daemon
from runtime.cli.config import check_argv
from runtime.cli.failure import Failure
from runtime.cli.params import json_option
from runtime.cli.text import escape, say, say_json, table
from runtime.cli.version import python_version, version_of_cli
from runtime.control.wire import MAX_SOCKET_PATH, WireError, socket_path, state_dir
from schemas.codes import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_OK

LOW_DISK: Final = 1 << 30
NO_DISK: Final = 64 << 20
CONFIG_WITHIN: Final = 30.0


class Check(NamedTuple):
    """One finding. `fix` is empty where nothing is to be done."""

    check: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Look for what is wrong, and say how to mend it. Exit code 1 if anything fails; a warning is no failure."""
    checks = [check for look in LOOKS for check in look()]
    if as_json:
        say_json([check._asdict() for check in checks])
    else:
        say(table(("CHECK", "OF", "FOUND"), ((check.state, check.check, check.found) for check in checks)))
        for check in checks:
            if check.fix:
                say(f"\n{check.state} {check.check}: {escape(check.fix)}")
    return EXIT_FAILED if any(check.state == "fail" for check in checks) else EXIT_OK


def look_at_python() -> Iterator[Check]:
    """Report the interpreter and the platform."""
    fine = sys.version_info >= (3, 11)
    yield Check(
        "python", "ok" if fine else "fail", f"{python_version()} on {platform.system()}", "" if fine else "3.11"
    )


def look_at_sqlite() -> Iterator[Check]:
    """Report SQLite, and the one known fault of it that concerns write-ahead logs."""
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info >= (3, 51, 3):
        yield Check("sqlite", "ok", version)
        return
    fix = (
        "SQLite before 3.51.3 can damage a database when two connections write or checkpoint just as the write-ahead "
        "log is reset. The daemon writes through one connection, so this cannot happen while nothing else writes "
        "the file: leave it to the daemon, or use a Python with a newer SQLite."
    )
    yield Check("sqlite", "warn", f"{version}, older than 3.51.3", fix)


def look_at_home() -> Iterator[Check]:
    """Report whether the state directory can be written, by us alone, and has room."""
    home = state_dir(os.environ)
    there = home
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check("home", "fail", f"{home} cannot be written", f"chmod u+rwx {there}, or set UNDERSTUDY_HOME")
        return
    if home.exists() and S_IMODE(home.stat().st_mode) & 0o077:
        yield Check("home", "warn", f"{home} is open to others", f"chmod 700 {home}")
    else:
        yield Check("home", "ok", f"{home}" + ("" if home.exists() else " (made at the first start)"))
    yield _disk(there)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    found = f"{free / (1 << 30):.1f} GiB free"
    if free < NO_DISK:
        return Check("disk", "fail", found, f"free some space on the disk of {folder}; nothing can be accepted without")
    return Check("disk", "warn" if free < LOW_DISK else "ok", found, "free some space" if free < LOW_DISK else "")


def look_at_socket() -> Iterator[Check]:
    """Report the control socket: its path, and that nobody else can connect."""
    try:
        path = socket_path(os.environ)
    except WireError as error:
        yield Check("socket", "fail", str(error), "set UNDERSTUDY_HOST to unix:///PATH, or unset it")
        return
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        fix = "set UNDERSTUDY_HOST to a shorter path"
        yield Check("socket", "fail", f"{path} is longer than {MAX_SOCKET_PATH} bytes", fix)
    elif not path.exists():
        yield Check("socket", "ok", f"{path} (made by the daemon)")
    elif not path.is_socket():
        yield Check("socket", "fail", f"{path} is not a socket", "move it away, then: understudy up")
    elif S_IMODE(path.stat().st_mode) & 0o077:
        yield Check("socket", "fail", f"{path} is open to others", f"chmod 600 {path}")
    else:
        yield Check("socket", "ok", str(path))


def look_at_daemon() -> Iterator[Check]:
    """Report whether the daemon runs, fits this command line, and is well."""
    try:
        hello = daemon.hello()
        status = daemon.get("/v1/status", timeout=daemon.HELLO_TIMEOUT)
    except Failure as failure:
        state: Literal["warn", "fail"] = "warn" if failure.exit == EXIT_NOT_RUNNING else "fail"
        found = daemon.without_start(failure)
        yield Check("daemon", state, found, failure.hint or "understudy up")
        return
    yield Check("daemon", "ok", f"pid {hello['pid']}")
    ours, theirs = version_of_cli(), hello["version"]
    fix = "" if ours == theirs else "understudy down; understudy up"
    yield Check("version", "fail" if fix else "ok", f"daemon {theirs}, command {ours}" if fix else ours, fix)
    reasons = "; ".join(status.get("reasons", ()))
    if status["health"] == "ok":
        yield Check("health", "ok", "ok")
    else:
        yield Check(
            "health", "warn", f"{status['health']}: {reasons or 'no reason given'}", "understudy logs --level warning"
        )


def look_at_model() -> Iterator[Check]:
    """Report whether the local model's engine is installed."""
    if find_spec("xllamacpp") is not None:
        yield Check("local model", "ok", "xllamacpp is installed")
    else:
        fix = "pip install 'understudy[local]', or give every agent another provider"
        yield Check("local model", "warn", "xllamacpp is not installed", fix)


def look_at_config() -> Iterator[Check]:
    """Report what `config check` says."""
    try:
        checked = run(check_argv(None), capture_output=True, text=True, timeout=CONFIG_WITHIN, check=False)
    except TimeoutExpired:
        yield Check("config", "fail", f"the check took more than {CONFIG_WITHIN:g} s", "understudy config check")
        return
    said = {word: [line for line in checked.stderr.splitlines() if line.startswith(word)] for word in ("error", "warn")}
    if checked.returncode != 0:
        found = (said["error"] or (checked.stderr or checked.stdout).strip().splitlines() or [""])[0]
        yield Check("config", "fail", found or f"exit code {checked.returncode}", "understudy config check")
    elif said["warn"]:
        yield Check("config", "warn", said["warn"][0].partition(": ")[2], "understudy config check")
    else:
        yield Check("config", "ok", (checked.stdout.strip().splitlines() or ["no mistakes"])[0])


LOOKS: Final[tuple[Callable[[], Iterator[Check]], ...]] = (
    look_at_python,
    look_at_sqlite,
    look_at_home,
    look_at_socket,
    look_at_daemon,
    look_at_model,
    look_at_config,
)
