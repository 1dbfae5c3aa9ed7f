"""Runs a command or a user's function to its end: the whole life of an attempt in a child process."""

import json
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import anyio

from runtime.errors import LeaseLost, UnderstudyError
from runtime.sandbox.leash import LINKER_ENV
from runtime.sandbox.output import Allowance, Lines, Tail
from runtime.sandbox.parent import Child, Command, Exit, alone, background, child_env, spawn
from schemas.jobs import MAX_RESULT

OnAsk: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""Answers a question of the function (what, its fields) with what JSON can say. An error of ours is told to the
function; LeaseLost ends it."""

PYTHON: Final = (sys.executable, "-P", "-X", "utf8", "-m", "runtime.sandbox.child")


class Ear(Protocol):
    """Who hears what an attempt in a process tells."""

    async def started(self, pgid: int, started: int, kept: bool) -> bool:
        """Hear of the process while it still waits, one that is *kept* before each attempt; false keeps it from
        running at all.
        """
        ...

    def beat(self) -> None:
        """Hear that the process lives."""
        ...

    def heard(self) -> None:
        """Hear that the code in it gives a sign of life."""
        ...

    def log(self, text: str, level: str = "info") -> None:
        """Hear a line; of one that was printed *level* is the stream, `stdout` or `stderr`."""
        ...

    def progress(self, value: Any) -> None:
        """Hear how far it is."""
        ...

    def tokens(self, used: int) -> None:
        """Hear how many tokens were used."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """How a user's function ended.

    With `answered` false it said nothing and only `exit` tells. Else one of three: `suspend` is how it was suspended;
    `error` has `type`, `message`, `class` (an `ErrorClass`), `retryable` and, where there is one, `code`, `data`,
    `outcome` (retry, snooze, fail, cancel) and `retry_after_ms`; with neither, `result` holds what it returned.
    """

    exit: Exit
    stdout: Tail
    stderr: Tail
    answered: bool = False
    result: Any = None
    error: dict[str, Any] | None = None
    suspend: dict[str, Any] | None = None


@dataclass(slots=True)
class Output:
    """What a command writes: kept by its ends, and handed on by the line (text, stream)."""

    on_line: Callable[[str, str], None]
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
        return lambda line: self.on_line(line, stream)


class Reports:
    """What a user's function says on its own channel; the first result, error or suspension is its answer.

    ready: its process waits for another order, which sets `over` too. spent: it ends, and has not begun this one.
    """

    def __init__(self, ear: Ear, grace: float) -> None:
        self.answer: dict[str, Any] | None = None
        self.limit = anyio.CancelScope()
        self.on_ask: Callable[[int, str, dict[str, Any]], None] | None = None
        self.ready = self.spent = False
        self.over = anyio.Event()
        self._ear = ear
        self._grace = grace
        self._allowance = Allowance(anyio.current_time)

    def hear(self, line: bytes) -> None:
        """Take one report. A line that is none is logged: the user's code may write there too."""
        ear = self._ear
        match _parse(line):
            case {"beat": _}:
                ear.beat()
            case {"heard": _}:
                ear.heard()
            case {"progress": value}:
                ear.progress(value)
            case {"log": [str(level), str(text)]}:
                self._log(level, text)
            case {"ask": [int(number), str(what), dict(fields)]}:
                ear.heard()
                if self.on_ask is not None:  # else it is one who outlived its attempt
                    self.on_ask(number, what, fields)
            case {"tokens": int(used)} if used >= 0:
                ear.tokens(used)
            case (
                {"result": _} | {"error": {"type": str(), "message": str(), "class": str()}} | {"suspend": {}}
            ) as answer if self.answer is None and len(answer) == 1:
                self.answer = answer
                self._is_ending()
            case {"ready": _} if self.answer is not None:
                self.ready = True
                self.over.set()
            case {"spent": _} if self.answer is None:
                self.spent = True
                self._is_ending()
            case _:
                self._log("warning", f"unreadable report: {line[:200].decode(errors='replace')}")

    def _is_ending(self) -> None:
        self.limit.deadline = min(self.limit.deadline, anyio.current_time() + self._grace)

    def _log(self, level: str, text: str) -> None:
        if self._allowance.take():
            self._ear.log(text, level)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


async def run_command(
    command: Command, ear: Ear, *, timeout: float | None, grace: float, beat: float | None = None
) -> tuple[Exit, Tail, Tail]:
    """Run *command* to its end; return how it ended and what is kept of its stdout and stderr.

    *ear* hears of `(pgid, started)` while the command still waits; where it answers False nothing is run and LeaseLost
    is raised. It hears a beat every *beat* seconds while the command is not stopped. After *timeout* seconds, and when
    it is cancelled, the command is asked to end, and after *grace* more it is killed with all it started. Raises
    CommandUnusable, JobFailed.
    """
    output = Output(ear.log)
    with closing(output):
        beats = None if beat is None else (beat, ear.beat)
        async with spawn(command, on_output=output.add, beat=beats) as child:
            exit_ = await see_through(
                child, ear, child.go, child.wait, limit=anyio.CancelScope(), timeout=timeout, grace=grace
            )
    return exit_, output.tails["stdout"], output.tails["stderr"]


async def run_python(
    payload: Mapping[str, Any],
    ear: Ear,
    on_ask: OnAsk,
    *,
    timeout: float | None,
    grace: float,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run the function that *payload* names (see `child`) in a process of its own; return what it answered.

    Of a flood of lines *ear* hears only a part (see `Lines`). Once it has answered, the process has *grace* seconds to
    end; its answer counts in any case. What it asks is answered until it has ended, during its grace too, so that its
    clean-up does not hang. Raises LeaseLost where *on_ask* did; for the rest see `run_command`.
    """
    output, reports = Output(ear.log), Reports(ear, grace)
    with closing(output):
        spawning = spawn(
            python(payload["folder"], env), on_output=output.add, on_report=reports.hear, keep_stdin_open=True
        )
        async with spawning as child, asking(child, reports, on_ask):

            async def begin() -> None:
                await child.go()
                await order(child, payload)

            exit_ = await see_through(child, ear, begin, child.wait, limit=reports.limit, timeout=timeout, grace=grace)
    return answered(exit_, output, reports)


def python(folder: str, env: Mapping[str, str] | None = None) -> Command:
    """Return the command that runs functions; it does so when it is ordered."""
    return Command(PYTHON, folder, child_env(allow=LINKER_ENV) if env is None else env)


async def order(child: Child, payload: Mapping[str, Any]) -> None:
    """Have *child* run what *payload* names. One that has ended needs no order: its end will tell."""
    with suppress(anyio.BrokenResourceError):
        await child.send(json.dumps({"max_result": MAX_RESULT, **payload}).encode() + b"\n")


def answered(exit_: Exit, output: Output, reports: Reports) -> Answer:
    """Return what came of an order."""
    said = reports.answer
    return Answer(exit_, output.tails["stdout"], output.tails["stderr"], said is not None, **(said or {}))


@asynccontextmanager
async def asking(child: Child, reports: Reports, on_ask: OnAsk) -> AsyncIterator[None]:
    """Answer what the function asks until the end of the scope. Raises LeaseLost where *on_ask* did."""
    try:
        async with background() as begin:
            reports.on_ask = lambda number, what, fields: begin(lambda: _answer(child, number, on_ask(what, fields)))
            try:
                yield
            finally:
                reports.on_ask = None
    except BaseExceptionGroup as group:
        raise alone(group) from None


async def _answer(child: Child, number: int, answer: Awaitable[Any]) -> None:
    """Send the answer to a question. With the lease lost the function is told so, and the attempt ends."""
    lost: LeaseLost | None = None
    try:
        reply: dict[str, Any] = {"n": number, "is": await answer}
    except LeaseLost as error:
        lost, reply = error, {"n": number, "lost": True}
    except UnderstudyError as error:
        reply = {"n": number, "error": {"code": error.code, "detail": error.detail, "data": error.data}}
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # it has ended meanwhile
        await child.send(json.dumps(reply, default=str).encode() + b"\n")
    if lost is not None:
        raise lost


async def see_through(
    child: Child,
    ear: Ear,
    begin: Callable[[], Awaitable[None]],
    end: Callable[[], Awaitable[Exit]],
    *,
    limit: anyio.CancelScope,
    timeout: float | None,
    grace: float,
    kept: bool = False,
) -> Exit:
    """Let an attempt run in *child* from its *begin* to its *end*, or to *limit*, whose deadline others may bring
    forward. Raises LeaseLost where *ear* would not have it begun.
    """
    if not await ear.started(child.pgid, child.started, kept):
        raise LeaseLost
    limit.deadline = anyio.current_time() + (math.inf if timeout is None else timeout)
    try:
        with limit:
            await begin()
            return await end()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await child.terminate(grace)
        raise
    return await child.terminate(grace, "timeout")
