"""What the whole suite shares: its options, and `Daemon`, the real daemon in a process of its own with all that
breaks it.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from runtime.control.wire import Part, Wire, WireError
from runtime.sandbox.process import alive, descendants, look
from schemas.jobs import ENDED

# Run in the background of a shell, all that we start would inherit that it ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Run in the background of a shell, all that we start would inherit that it ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

BIN = Path(sys.executable).parent
MARK = "LC_UNDERSTUDY_TEST"
"""A variable that the daemon hands down to every command it starts, so that none of them can hide from us."""

BASE = """
[runtime]
pool = 4
child_pool = 2
grace = "1s"
drain = "5s"

[agents.echo]
role = "an echo"
llm = { provider = "scripted", model = "echo" }
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak-minutes", type=float, default=0, metavar="N", help="kill the daemon for so long")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: runs for as long as --soak-minutes says, and not without it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak-minutes"):
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="give --soak-minutes"))


def until(what: str, look_at: Callable[[], Any], within: float = 15.0) -> Any:
    """Return the first true value of *look_at*; fail with *what* when *within* seconds bring none."""
    deadline = time.monotonic() + within
    while not (found := look_at()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Daemon:
    """One home, and the daemon that lives in it from one start to the next."""

    folder: Path
    config: str = BASE
    modules: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="us-")))
    process: subprocess.Popen[bytes] | None = None
    token: str = field(default_factory=lambda: uuid4().hex)
    homes: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.homes.append(self.home)
        self.write(self.config, **self.modules)

    # -- files ---------------------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def output(self) -> Path:
        return self.folder / "daemon.out"

    @property
    def database(self) -> Path:
        return self.home / "understudy.db"

    def write(self, config: str | None = None, **modules: str) -> None:
        """Write the configuration and modules of the user's, readable by the owner alone."""
        files = {f"{name}.py": text for name, text in modules.items()}
        if config is not None:
            files["config.toml"] = config
        for name, text in files.items():
            path = self.folder / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNDERSTUDY_", "XDG_"))}
        return {**kept, "UNDERSTUDY_HOME": str(self.home), **self.environ}

    def log(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the database from outside; only ever while nobody in this process has it open."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as sql:
            return sql.execute(query, values).fetchall()

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start a daemon on this home and return at once."""
        argv = [*self.prefix, sys.executable, "-P", "-m", "actors", "-c", str(self.file)]
        with self.output.open("ab") as sink:
            return subprocess.Popen(
                argv,
                cwd=self.folder,
                env=self.environment() | {MARK: self.token},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    def start(self, within: float = 20.0) -> float:
        """Start and wait until it takes work; return the seconds that took."""
        began = time.monotonic()
        self.process = self.spawn()
        until("the daemon is ready", self._is_ready, within)
        return time.monotonic() - began

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode} while it started"
        try:
            return bool(self.call("GET", "/readyz", timeout=2.0))
        except WireError:
            return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self, within: float = 20.0) -> int:
        """SIGTERM, and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(within)

    def restart(self) -> float:
        """Stop in order and start again."""
        assert self.stop() == 0
        return self.start()

    def await_end(self, within: float = 20.0) -> int:
        """Wait for a daemon that ends by itself; return the exit code."""
        assert self.process is not None
        return self.process.wait(within)

    def family(self) -> set[int]:
        """Return the pids of all that lives of this home's daemons: its descendants, and whoever carries its mark."""
        below = set(descendants(self.pid)) if self.process is not None and self.process.poll() is None else set()
        return {pid for pid in below | marked(f"{MARK}={self.token}".encode()) if self._is_other(pid)}

    def _is_other(self, pid: int) -> bool:
        process = look(pid)
        return process is not None and not process.zombie and (self.process is None or pid != self.process.pid)

    def groups(self) -> list[int]:
        """Return the process groups that are noted with attempts and still have a living member."""
        if not self.database.exists():
            return []
        return [g for (g,) in self.rows("SELECT DISTINCT pgid FROM job_attempts WHERE pgid IS NOT NULL") if alive(g)]

    def close(self) -> None:
        """End it if it runs. Fails where anything of it is left alive."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(15)
                except subprocess.TimeoutExpired:
                    self.kill()
                    raise AssertionError("the daemon did not stop within 15 s") from None
            self.assert_alone()
        finally:
            for pid in self.family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for home in self.homes:
                shutil.rmtree(home, ignore_errors=True)

    def assert_alone(self, within: float = 3.0) -> None:
        """Nothing of a daemon that has ended may be alive for longer than this."""
        deadline = time.monotonic() + within
        while left := (self.family() or self.groups()):
            assert time.monotonic() < deadline, f"left behind: {[describe(pid) for pid in left]}"
            time.sleep(0.05)

    # -- talk ----------------------------------------------------------------------------------------------------------

    @property
    def wire(self) -> Wire:
        return Wire(self.home / "control.sock")

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 15.0, **query: Any) -> Any:
        """One request. Raises WireError."""
        return self.wire.call(method, path, body, query, timeout=timeout)

    def cli(
        self, *args: str, stdin: str = "", within: float = 30.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the real command `understudy`."""
        return subprocess.run(
            [str(BIN / "understudy"), *args],
            input=stdin,
            cwd=self.folder,
            env=self.environment() | environ,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )

    def submit(self, kind: str, *, args: dict[str, Any] | None = None, **more: Any) -> str:
        """Submit a job; return its id."""
        return str(self.call("POST", "/v1/jobs", {"kind": kind, "args": args or {}, **more})["id"])

    def job(self, job: str) -> dict[str, Any]:
        found = self.call("GET", f"/v1/jobs/{job}")
        assert isinstance(found, dict)
        return found

    def ended(self, job: str, within: float = 20.0) -> dict[str, Any]:
        """Wait for the end of a job, over restarts; return it."""

        def look_at() -> dict[str, Any] | None:
            try:
                view = self.job(job)
            except WireError as error:
                if error.code == "job.not_found":
                    raise
                return None
            return view if view["status"] in ENDED else None

        found = until(f"job {job} ends", look_at, within)
        assert isinstance(found, dict)
        return found

    def run(
        self, kind: str, *, args: dict[str, Any] | None = None, within: float = 20.0, **more: Any
    ) -> dict[str, Any]:
        """Submit a job and return it when it has ended."""
        return self.ended(self.submit(kind, args=args, **more), within)

    def ask(self, actor: str, message: str, *, timeout: float = 10.0, key: str | None = None, **fields: Any) -> Any:
        """Ask an actor a public message; return its reply. Raises WireError."""
        body = {"type": message, "message": fields}
        headers = {"Idempotency-Key": key} if key else {}
        query = {"timeout": timeout}
        answer = self.wire.call("POST", f"/v1/actors/{actor}/ask", body, query, headers, timeout + 5)
        return answer["reply"]

    def agent(self, name: str) -> dict[str, Any]:
        found = self.call("GET", f"/v1/agents/{name}")
        assert isinstance(found, dict)
        return found

    def events(self, types: str = "", since: int = 0) -> list[dict[str, Any]]:
        """Return what has happened."""
        query = {"since": since, "follow": False, "types": types}
        with self.wire.stream("GET", "/v1/events", query=query) as parts:
            return [event for event in map(event_of, parts) if event is not None]


def event_of(part: Part) -> dict[str, Any] | None:
    kind, data, _ = part
    return data if kind == "event" else None


def marked(mark: bytes) -> set[int]:
    """Return the pids of all processes whose environment has *mark*."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in entry.joinpath("environ").read_bytes():
                    found.add(int(entry.name))
    return found


def describe(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")[:200]
    except OSError:
        words = "?"
    return f"{pid}: {words}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """With a failure come the last lines of every daemon that the test had."""
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Daemon):
                report.sections.append((f"daemon {value.home}", value.log()[-8000:]))  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session")
def base() -> str:
    """The start of every configuration here."""
    return BASE


@pytest.fixture(scope="module")
def wait_until() -> Callable[..., Any]:
    """Give tests `until`."""
    return until


@pytest.fixture(scope="module")
def new_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Daemon]]:
    """Make daemons, not yet started; each is ended after the module, and leaves nothing behind."""
    made: list[Daemon] = []

    def make(config: str = BASE, **more: Any) -> Daemon:
        made.append(Daemon(tmp_path_factory.mktemp("user"), config, **more))
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for one in made:
            stack.callback(one.close)
