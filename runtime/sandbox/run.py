"""Runs a command or a user's function to its end: the whole life of an attempt in a child process."""

import json
import math
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import anyio

from runtime.errors import LeaseLost
from runtime.sandbox.leash import LINKER_ENV
from runtime.sandbox.output import Allowance, Lines, Tail
from runtime.sandbox.parent import Child, Command, Exit, child_env, spawn
from schemas.jobs import MAX_RESULT

OnStarted: TypeAlias = Callable[[int, int], Awaitable[bool]]
OnLine: TypeAlias = Callable[[str, str], None]

PYTHON: Final = (sys.executable, "-P", "-X", "utf8", "-m", "runtime.sandbox.child")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a user's function ended.

    With `answered` false it said nothing and only `exit` tells; else `error` is None and `result` holds what it
    returned, or `error` has `type`, `message`, `class` (an `ErrorClass`), `retryable` and, where there is one, `code`,
    `outcome` (retry, snooze, fail, cancel) and `retry_after_ms`.
    """

    exit: Exit
    stdout: Tail
    stderr: Tail
    answered: bool = False
    result: Any = None
    error: dict[str, Any] | None = None


@dataclass(slots=True)
class Output:
    """What a command writes: kept by its ends, and handed on by the line."""

    on_line: OnLine
    tails: dict[str, Tail] = field(default_factory=dict)
    lines: dict[str, Lines] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stream in ("stdout", "stderr"):
            self.tails[stream] = Tail()
            self.lines[stream] = Lines(self._of(stream), anyio.current_time)

    def add(self, stream: str, data: bytes) -> None:
        """Take the next bytes of *stream*."""
        self.tails[stream].add(data)
        self.lines[stream].add(data)

    def close(self) -> None:
        """Hand on the last lines, though nothing ended them."""
        for lines in self.lines.values():
            lines.close()

    def _of(self, stream: str) -> Callable[[str], None]:
        return lambda line: self.on_line(stream, line)


class Reports:
    """What a user's function says on its own channel; the first result or error is its answer."""

    def __init__(self, on_progress: Callable[[Any], None], on_log: OnLine, on_answer: Callable[[], None]) -> None:
        self._on_progress = on_progress
        self._on_log = on_log
        self._on_answer = on_answer
        self._allowance = Allowance(anyio.current_time)
        self.answer: dict[str, Any] | None = None

    def hear(self, line: bytes) -> None:
        """Take one report. A line that is none is logged: the user's code may write there too."""
        match _parse(line):
            case {"progress": value}:
                self._on_progress(value)
            case {"log": [str(level), str(text)]}:
                self._log(level, text)
            case {"result": _} | {"error": {"type": _, "message": _, "class": _}} as answer if self.answer is None:
                self.answer = answer
                self._on_answer()
            case _:
                self._log("warning", f"unreadable report: {line[:200].decode(errors='replace')}")

    def _log(self, level: str, text: str) -> None:
        if self._allowance.take():
            self._on_log(level, text)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


async def run_command(
    command: Command, *, timeout: float | None, grace: float, on_started: OnStarted, on_line: OnLine
) -> tuple[Exit, Tail, Tail]:
    """Run *command* to its end; return how it ended and what is kept of its stdout and stderr.

    *on_started* gets `(pgid, started)` while the command still waits; where it answers False nothing is run and
    LeaseLost is raised. After *timeout* seconds, and when it is cancelled, the command is asked to end, and after
    *grace* more it is killed with all it started. Raises CommandUnusable, JobFailed.
    """
    output = Output(on_line)
    with closing(output):
        async with spawn(command, on_output=output.add) as child:
            exit_ = await _see_through(child, on_started, anyio.CancelScope(), timeout=timeout, grace=grace)
    return exit_, output.tails["stdout"], output.tails["stderr"]


async def run_python(
    payload: Mapping[str, Any],
    *,
    timeout: float | None,
    grace: float,
    on_started: OnStarted,
    on_line: OnLine,
    on_progress: Callable[[Any], None],
    on_log: OnLine,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run the function that *payload* names (see `child`) in a process of its own; return what it answered.

    *on_log* gets `(level, text)`, of a flood only a part (see `Lines`). Once it has answered, the process has *grace*
    seconds to end; its answer counts in any case. For the rest see `run_command`.
    """
    line = json.dumps({"max_result": MAX_RESULT, **payload}).encode() + b"\n"
    command = Command(PYTHON, payload["folder"], child_env(allow=LINKER_ENV) if env is None else env, line)
    limit = anyio.CancelScope()

    def hurry() -> None:
        limit.deadline = min(limit.deadline, anyio.current_time() + grace)

    output, reports = Output(on_line), Reports(on_progress, on_log, hurry)
    with closing(output):
        async with spawn(command, on_output=output.add, on_report=reports.hear) as child:
            exit_ = await _see_through(child, on_started, limit, timeout=timeout, grace=grace)
    said = reports.answer
    return Answer(exit_, output.tails["stdout"], output.tails["stderr"], said is not None, **(said or {}))


async def _see_through(
    child: Child, on_started: OnStarted, limit: anyio.CancelScope, *, timeout: float | None, grace: float
) -> Exit:
    """Let *child* run to its end, or to *limit*, whose deadline others may bring forward."""
    if not await on_started(child.pgid, child.started):
        raise LeaseLost
    limit.deadline = anyio.current_time() + (math.inf if timeout is None else timeout)
    try:
        with limit:
            await child.go()
            return await child.wait()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await child.terminate(grace)
        raise
    return await child.terminate(grace, "timeout")
