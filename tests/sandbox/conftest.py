"""What tests with real processes share: waiting for a condition, collecting output, and who is still alive."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.sandbox import process
from runtime.sandbox.parent import Child


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Heard:
    """Collects what a command writes; `ready` is set once it has written a line that says so.

    It is a `runtime.sandbox.run.Ear` too: `goes` is what it answers to who started, `groups` who did.
    """

    chunks: dict[str, list[bytes]] = field(default_factory=lambda: {"stdout": [], "stderr": []})
    lines: list[tuple[str, str]] = field(default_factory=list)
    ready: anyio.Event = field(default_factory=anyio.Event)
    goes: bool = True
    groups: list[tuple[int, int]] = field(default_factory=list)
    beats: list[float] = field(default_factory=list)
    lives: int = 0
    used: int | None = None

    def output(self, stream: str, data: bytes) -> None:
        self.chunks[stream].append(data)
        if b"ready" in self.stdout:
            self.ready.set()

    async def started(self, pgid: int, started: int, kept: bool) -> bool:
        self.groups.append((pgid, started))
        return self.goes

    def beat(self) -> None:
        self.beats.append(anyio.current_time())

    def heard(self) -> None:
        self.lives += 1

    def log(self, text: str, level: str = "info") -> None:
        self.lines.append((level, text))
        if text == "ready":
            self.ready.set()

    def progress(self, value: Any) -> None:
        self.lines.append(("progress", value))

    def tokens(self, used: int) -> None:
        self.used = used

    @property
    def stdout(self) -> bytes:
        return b"".join(self.chunks["stdout"])

    @property
    def stderr(self) -> bytes:
        return b"".join(self.chunks["stderr"])


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Wait until a condition holds; fail when it does not within so many seconds."""

    async def wait(condition: Callable[[], object], within: float = 10.0) -> None:
        with anyio.fail_after(within):
            while not condition():
                await anyio.sleep(0.005)

    return wait


class Family:
    """The processes of a command as they were at one moment, each known by number and start time."""

    def __init__(self, root: int) -> None:
        seen = [process.look(pid) for pid in (root, *process.descendants(root))]
        self.members = {p.pid: p.started for p in seen if p is not None}

    def alive(self) -> list[int]:
        return [pid for pid, started in self.members.items() if self._is_alive(pid, started)]

    @staticmethod
    def _is_alive(pid: int, started: int) -> bool:
        now = process.look(pid)
        return now is not None and now.started == started and not now.zombie


@pytest.fixture
def family() -> Callable[[int], Family]:
    return Family


# A child, a grandchild, one in a new session, and an orphan in a new session.
TREE = "sleep 1000 & sh -c 'sleep 1000 & wait' & setsid sleep 1000 & (setsid sleep 1000 &) ; echo ready; wait"
TREE_SIZE = 6


@pytest.fixture
def tree(until: Callable[..., Awaitable[None]]) -> Callable[[Child], Awaitable[Family]]:
    """Return everyone of a `TREE` once all have been born."""

    async def grown(child: Child) -> Family:
        await until(lambda: len(process.descendants(child.pid_of_guard)) >= TREE_SIZE)
        return Family(child.pid_of_guard)

    return grown


@pytest.fixture
def tree_argv() -> tuple[str, ...]:
    return ("sh", "-c", TREE)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    fds = Path("/proc/self/fd")
    before = {p.name for p in fds.iterdir()} if fds.exists() else set()
    yield
    after = {p.name for p in fds.iterdir() if p.exists()} if fds.exists() else set()
    pipes = [name for name in after - before if (fds / name).readlink().name.startswith("pipe:")]
    assert pipes == []
