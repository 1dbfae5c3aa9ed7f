"""Our side of the talk with a guard: start one, give it orders, hear its reports, bury it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import anyio.to_thread

from runtime.sandbox.pipes import End, Wires
from runtime.sandbox.process import kill_group, start_time

KILL_WITHIN: Final = 3.0  # the guard gives up after 2, and then says so
MAX_REPORT: Final = 1000
LINKER_ENV: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""What an interpreter may need to start at all."""

Beat: TypeAlias = tuple[float, Callable[[], None]]

# Imported, not run as a script: a script is compiled anew each time (6 of 16 ms). Its folder comes last on the path, so
# that the standard library's names stay its own.
_PROGRAM: Final = "import sys; sys.path.append(sys.argv.pop(1)); import guard; guard.main()"


class Leash:
    """One guard and what it has reported: `known` who the command is, `settled` whether it began, `ended` how it did.

    All three events are set when the guard is gone, whatever it said. `failure` and `ending` are its reports (see
    `guard`). `on_beat` is called whenever it tells that the command lives.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], control: End, reports: End, on_beat: Callable[[], None] | None = None
    ) -> None:
        self.pid = process.pid
        self.pgid = 0
        self.started = 0
        self.failure: dict[str, Any] | None = None
        self.ending: dict[str, Any] | None = None
        self.known, self.settled, self.ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._process = process
        self._control = control
        self._reports = reports
        self._on_beat = on_beat

    async def brief(self, spec: bytes) -> None:
        """Tell the guard what to start; return when that waits at the gate, or never will (`pgid` is 0)."""
        with suppress(anyio.BrokenResourceError):  # its reports will tell more
            await self._control.write(b"%08x" % len(spec) + spec)
        await self.known.wait()

    def order(self, letter: bytes) -> None:
        """Say one letter (see `guard`); one who is gone need not hear it."""
        self._control.write_nowait(letter)

    async def kill(self) -> None:
        """Let go, upon which the guard kills the whole tree, and return when it is gone; at most 6 seconds."""
        self._control.close()
        if not self.ended.is_set():
            self._process.send_signal(signal.SIGCONT)  # one that was stopped would sleep through this
        with anyio.move_on_after(KILL_WITHIN):
            await self.ended.wait()
        if not self.ended.is_set():
            self._process.kill()  # it is stopped or stuck; `follow` hears of its end and does its work
            with anyio.move_on_after(KILL_WITHIN):
                await self.ended.wait()
            self.ended.set()

    async def follow(self) -> None:
        """Read the reports to their end and bury the guard; where it was killed, do its work."""
        try:
            await self._reports.read_lines(self._hear, MAX_REPORT)
            # With its reports closed it has nothing left to do but to exit; there is no portable way to await that.
            while self._process.poll() is None:  # noqa: ASYNC110  # no event: see above
                await anyio.sleep(0.001)
            if self.ending is None and self.pgid:
                await anyio.to_thread.run_sync(kill_group, self.pgid, self.started)
        finally:
            for event in (self.known, self.settled, self.ended):
                event.set()

    def _hear(self, line: bytes) -> None:
        report: dict[str, Any] = json.loads(line)
        if "pgid" in report:
            self.pgid = report["pgid"]
            self.started = report["started"] or start_time(self.pgid)
            self.known.set()
        elif "asked" in report:
            self.ending = report
        elif "beat" in report:
            if self._on_beat is not None:
                self._on_beat()
        else:
            self.failure = report if "failed" in report else None
            self.settled.set()


def launch(wires: Wires, *, report: bool, stdin: bool, beat: Beat | None = None) -> Leash:
    """Start a guard, with *report* and *stdin* as further pipes to the command, and add all of them to *wires*.

    With *beat* (seconds, what to call) it tells so often that the command lives. Blocks for a millisecond or two, like
    every start of a process. Raises OSError.
    """
    wires.writes("control", *(["stdin"] if stdin else []))
    wires.reads("reports", "stdout", "stderr", *(["report"] if report else []))
    far = wires.far
    numbers = [far["control"], far["reports"], far.get("report", -1)]
    every = "0" if beat is None else str(max(1, round(beat[0] * 1000)))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parent), *map(str, numbers), every],
        stdin=far.get("stdin", subprocess.DEVNULL),
        stdout=far["stdout"],
        stderr=far["stderr"],
        pass_fds=[fd for fd in numbers if fd >= 0],
        env={name: os.environ[name] for name in LINKER_ENV if name in os.environ},
        start_new_session=True,
    )
    wires.hand_over()
    return Leash(process, wires.near["control"], wires.near["reports"], None if beat is None else beat[1])
