"""A process that is kept for the next job: what each would start anew, Python and the imports of the user, is there."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, Final

import anyio

from runtime.errors import JobFailed
from runtime.sandbox.parent import Child, Exit, spawn
from runtime.sandbox.run import Answer, Ear, OnAsk, Output, Reports, answered, asking, order, python, see_through

IDLE_FOR: Final = 60.0
"""Seconds that a process is kept without a job."""
LEAVE_WITHIN: Final = 1.0
"""Seconds that one without a job has to end by itself."""


class Kept:
    """One process that runs functions one after another. `live` is its life, which somebody has to run; `run` is one
    attempt in it.

    usable: whether it can take another one now.
    served: how many it has taken.
    """

    def __init__(self, folder: str, env: Mapping[str, str] | None = None, idle_for: float = IDLE_FOR) -> None:
        self.folder = folder
        self.served = 0
        self._command = python(folder, env)
        self._idle_for = idle_for
        self._child: Child | None = None
        self._is_up = anyio.Event()
        self._running = False
        self._free = True
        self._exit: Exit | None = None
        self._failure: JobFailed | None = None
        self._fault: Exception | None = None
        self._life = anyio.CancelScope()
        self._output: Output | None = None
        self._reports: Reports | None = None

    @property
    def usable(self) -> bool:
        ended = self._child is not None and self._child.has_ended
        return self._free and not ended and not self._life.cancel_called

    async def live(self) -> None:
        """Start the process and return when it has ended. It ends when it had nothing to do for a while, when a
        function left something behind in it, when an attempt is ended from outside, and when this is cancelled; not
        before the attempt in it has had its time to clean up.
        """
        try:
            async with spawn(self._command, on_output=self._write, on_report=self._hear, keep_stdin_open=True) as child:
                self._child = child
                self._is_up.set()
                try:
                    with self._life:
                        self._exit = await child.wait()
                finally:
                    self._free = False
                    if self._exit is None:
                        with anyio.CancelScope(shield=True):
                            await leave(child)
        except JobFailed as error:
            self._failure = error
        finally:
            self._free = False
            self._is_up.set()
            if self._reports is not None:
                self._reports.over.set()

    async def run(
        self,
        payload: Mapping[str, Any],
        ear: Ear,
        on_ask: OnAsk,
        *,
        timeout: float | None,
        grace: float,
    ) -> Answer | None:
        """Do what `run.run_python` does, in this process; None where it has ended before it began, since the user's
        code has changed. With `keep` in *payload* it can be used again afterwards, if all went well. Raises what
        `run_python` raises.
        """
        output, reports = Output(ear.log), Reports(ear, grace)
        with self._busy(output, reports), closing(output):
            await self._is_up.wait()
            if self._failure is not None:
                raise self._failure
            child = self._child
            assert child is not None

            async def begin() -> None:
                self._free = False
                self.served += 1
                if not self._running:
                    await child.go()
                    self._running = True
                await order(child, payload)

            async def end() -> Exit:
                await reports.over.wait()
                if self._fault is not None:
                    raise self._fault
                if self._exit is not None:
                    return self._exit
                child.read_output(output.add)
                return Exit(0, None, killed_by_us=False, reason="exit")

            async with asking(child, reports, on_ask):
                try:
                    exit_ = await see_through(
                        child, ear, begin, end, limit=reports.limit, timeout=timeout, grace=grace, kept=True
                    )
                except Exception:
                    if not self._free:
                        with anyio.CancelScope(shield=True):
                            await child.terminate(grace)
                    raise
            self._free = reports.ready and self._exit is None and exit_.reason == "exit"
        return None if reports.spent else answered(exit_, output, reports)

    @contextmanager
    def _busy(self, output: Output, reports: Reports) -> Iterator[None]:
        """While an attempt runs, it and not the process is what is ended."""
        self._output, self._reports = output, reports
        self._life.shield, self._life.deadline = True, math.inf
        if self._exit is not None or self._failure is not None:
            reports.over.set()
        try:
            yield
        finally:
            self._output = self._reports = None
            self._life.deadline, self._life.shield = anyio.current_time() + self._idle_for, False

    def _write(self, stream: str, data: bytes) -> None:
        if self._output is not None:  # else it is nobody's: a process that has left nothing behind says nothing
            self._told(partial(self._output.add, stream), data)

    def _hear(self, line: bytes) -> None:
        if self._reports is not None:
            self._told(self._reports.hear, line)

    def _told(self, hear: Callable[[bytes], None], data: bytes) -> None:
        """Hand on what the process says; an error of whoever hears it is the attempt's."""
        try:
            hear(data)
        except Exception as error:  # noqa: BLE001  # raised where the attempt is waited for
            self._fault = self._fault or error
            if self._reports is not None:
                self._reports.over.set()


async def leave(child: Child) -> None:
    """Have a process that does nothing end by itself, so that what is registered for its end is done."""
    await child.close_stdin()
    with anyio.move_on_after(LEAVE_WITHIN):
        await child.wait()
