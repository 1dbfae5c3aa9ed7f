"""Fails where a test leaves something behind: tasks, threads, open files and sockets, child processes."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import anyio
from anyio.lowlevel import checkpoint

from runtime.sandbox.process import descendants

WITHIN: Final = 1.0
STEP: Final = 0.01
TURNS: Final = 10
"""How often every other task gets a turn before those that are left count as left behind."""

POOLED: Final = ("AnyIO worker thread", "asyncio_", "ThreadPoolExecutor", "Trio ")
"""How threads are called that wait in a pool for more work: they are nobody's leak."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is at one moment; each thing by what tells it from every other one, with words for people."""

    tasks: dict[Any, str]
    threads: dict[Any, str]
    descriptors: dict[Any, str]
    children: dict[Any, str]

    @classmethod
    def now(cls) -> "Seen":
        """Look."""
        threads = {
            thread: thread.name
            for thread in threading.enumerate()
            if not thread.name.startswith(POOLED) and thread is not threading.current_thread()
        }
        children = {pid: f"process {pid}" for pid in descendants(os.getpid())}
        return cls(tasks_now(), threads, descriptors_now(), children)

    def beyond(self, before: "Seen") -> list[str]:
        """Return in words what was not there *before*."""
        return [
            f"{kind}: {', '.join(words for key, words in mine.items() if key not in there)}"
            for kind, mine, there in (
                ("tasks", self.tasks, before.tasks),
                ("threads", self.threads, before.threads),
                ("descriptors", self.descriptors, before.descriptors),
                ("child processes", self.children, before.children),
            )
            if mine.keys() - there.keys()
        ]


class leaks:  # noqa: N801  # a context manager is named like a function
    """`with leaks():` or `async with leaks():` - raise AssertionError with what the block has left behind.

    What is on its way out has *within* seconds of real time for that; with `async with` the tasks get a few turns, too,
    and without an event loop no tasks are looked for. Threads that wait in a pool do not count. An error in the block
    goes first.
    """

    def __init__(self, *, within: float = WITHIN) -> None:
        self._within = within
        self._before: Seen | None = None

    def __enter__(self) -> None:
        self._before = Seen.now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._check()

    async def __aenter__(self) -> None:
        self._before = Seen.now()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        for _ in range(TURNS):
            await checkpoint()
        self._check()

    def _check(self) -> None:
        assert self._before is not None
        until = time.monotonic() + self._within  # real time: threads and processes know no other
        while left := Seen.now().beyond(self._before):
            if time.monotonic() >= until:
                raise AssertionError(f"left behind: {'; '.join(left)}")
            time.sleep(STEP)


def tasks_now() -> dict[Any, str]:
    """Return the tasks of the loop that runs here; none where no loop runs."""
    try:
        return {task.id: task.name or "unnamed" for task in anyio.get_running_tasks()}
    except anyio.NoEventLoopError:
        return {}


def descriptors_now() -> dict[Any, str]:
    """Return the open descriptors with what they lead to."""
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    found: dict[Any, str] = {}
    for path in list(folder.iterdir()):
        try:
            target = str(path.readlink())
        except OSError:
            target = ""
        with suppress(OSError):  # the one that was opened to list them is gone again
            os.fstat(int(path.name))
            found[path.name, target] = f"{path.name} ({target})" if target else path.name
    return found
