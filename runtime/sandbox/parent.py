"""Starts commands through the guard, reads all they write, and ends them with everything they started."""

import errno
import marshal
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias

import anyio
import anyio.abc

from runtime.errors import JobFailed
from runtime.sandbox.leash import Beat, Leash, launch
from runtime.sandbox.pipes import End, Wires
from schemas.errors import ErrorClass

Reason: TypeAlias = Literal["exit", "timeout", "cancel", "lost"]
OnOutput: TypeAlias = Callable[[str, bytes], None]
Work: TypeAlias = Callable[[], Awaitable[None]]

ALLOWED_ENV: Final = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR", "USER", "LOGNAME", "SHELL", "TERM")
OWN_ENV: Final = "UNDERSTUDY_"
MAX_REPORT_LINE: Final = 4 * 1024 * 1024
PIPES_WITHIN: Final = 2.0


class CommandUnusable(JobFailed):
    """The command cannot be started at all: no such program, not executable, no such directory."""

    error_class: ClassVar[ErrorClass] = "permanent"


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a list of words, never shell text. `env` is its whole environment; None means `child_env()`."""

    argv: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: with a code or by a signal.

    `killed_by_us` tells that we had asked for it before it ended, even where it then ended with a code. The reason
    `lost` means that the guard was killed, so nobody knows how; the command's group was killed then.
    """

    code: int | None
    signal: int | None
    killed_by_us: bool
    reason: Reason


def child_env(
    environ: Mapping[str, str] | None = None,
    *,
    allow: Iterable[str] = (),
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment a child may see: allowlisted names of *environ* (ours by default), then *extra*.

    A name that ends in `*` in *allow* stands for all that begin so. Nothing of our own ever passes, in *extra* neither.
    """
    names = (*ALLOWED_ENV, *allow)
    exact = {name for name in names if not name.endswith("*")}
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    source = os.environ if environ is None else environ
    chosen = {name: value for name, value in source.items() if name in exact or name.startswith(prefixes)}
    return {name: value for name, value in (chosen | dict(extra or {})).items() if not name.startswith(OWN_ENV)}


class Child:
    """One command behind its guard; it waits at the gate until `go`. Made by `spawn`, and of no use after it.

    `pgid` and `started` (clock ticks since boot) name its process group for `process.kill_group`.
    """

    def __init__(self, command: Command, leash: Leash, drained: anyio.Event, near: Mapping[str, End]) -> None:
        self.pgid = leash.pgid
        self.started = leash.started
        self.pid_of_guard = leash.pid
        self._command = command
        self._leash = leash
        self._drained = drained
        self._near = near
        self._stdin = near.get("stdin")
        self._why: Reason = "cancel"
        self._writing = anyio.Lock()

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._leash.ended.is_set()

    async def go(self) -> None:
        """Let the command begin; return when its program runs. Raises CommandUnusable when it cannot."""
        self._leash.order(b"g")
        await self._leash.settled.wait()
        if self._leash.failure is not None:
            raise CommandUnusable(_why_unusable(self._command, self._leash.failure))

    async def wait(self) -> Exit:
        """Return how the command ended, after all that it wrote has been handed on.

        Its streams are given 2 seconds more, should one who escaped hold them. Cancelling leaves the command running.
        """
        await self._leash.ended.wait()
        with anyio.move_on_after(PIPES_WITHIN):
            await self._drained.wait()
        ending = self._leash.ending
        if ending is None:
            return Exit(None, signal.SIGKILL, killed_by_us=True, reason="lost")
        reason = self._why if ending["asked"] else "exit"
        return Exit(ending.get("exit"), ending.get("signal"), ending["asked"], reason)

    async def terminate(self, grace: float, reason: Reason = "cancel") -> Exit:
        """Ask the group to end (SIGTERM), wait *grace* seconds, then kill the whole tree; return how it ended.

        A command that ended before it was asked keeps its own ending. Takes *grace* and at most 4 seconds; 4 more where
        the guard itself is stuck.
        """
        self._why = reason
        self._leash.order(b"t")
        with anyio.move_on_after(grace):
            await self._leash.ended.wait()
        await self._leash.kill()
        return await self.wait()

    async def send(self, data: bytes) -> None:
        """Write to the command's stdin (only with `keep_stdin_open`); waits while the command does not read.

        Raises BrokenResourceError when it never will again, ClosedResourceError after `close_stdin`.
        """
        if self._stdin is None:
            raise anyio.ClosedResourceError
        async with self._writing:
            await self._stdin.write(data)

    def read_output(self, on_output: OnOutput) -> None:
        """Hand on what the command has written up to now, so that what it writes later can be told from it."""
        for stream in ("stdout", "stderr"):
            self._near[stream].read_now(partial(on_output, stream))

    async def close_stdin(self) -> None:
        """Let the command see the end of its stdin, once all that was sent is written."""
        if self._stdin is not None:
            async with self._writing:
                self._stdin.close()


@asynccontextmanager
async def spawn(
    command: Command,
    *,
    on_output: OnOutput,
    on_report: Callable[[bytes], None] | None = None,
    keep_stdin_open: bool = False,
    beat: Beat | None = None,
) -> AsyncIterator[Child]:
    """Start *command* up to its gate; after `Child.go` it runs. Leaving the scope in any way ends its whole tree first.

    *on_output* gets "stdout" or "stderr" and at most 64 KiB at a time; with *on_report* the command has a descriptor 3,
    each line of which (at most 4 MiB) is handed on; with *beat* (seconds, what to call) the guard tells so often that
    the command is there and not stopped. An error of any of them ends the scope and is raised. Raises CommandUnusable
    for a command of no words, JobFailed when the system has no room for a process. Cancelling, like leaving, kills at
    once and within a bound (see `Child.terminate`, which asks first).
    """
    if not command.argv or not command.argv[0]:
        raise CommandUnusable("the command is empty")
    try:
        with closing(Wires()) as wires:
            stdin = bool(command.stdin) or keep_stdin_open
            leash = _launch(command, wires, report=on_report is not None, stdin=stdin, beat=beat)
            drained = anyio.Event()
            async with background(leash.follow, lambda: _hand_on(wires.near, on_output, on_report, drained)) as begin:
                try:
                    child = await _at_the_gate(command, leash, drained, wires.near)
                    if command.stdin:
                        begin(lambda: _feed(child, command.stdin, keep_stdin_open))
                    yield child
                finally:
                    with anyio.CancelScope(shield=True):
                        await leash.kill()
                        with anyio.move_on_after(PIPES_WITHIN):
                            await drained.wait()
    except BaseExceptionGroup as group:
        raise alone(group) from None


@asynccontextmanager
async def background(*works: Work) -> AsyncIterator[Callable[[Work], None]]:
    """Run *works*, and what is begun later, until the end of the scope.

    They outlast a cancellation from outside: to end a tree one must go on reading.
    """
    scopes: set[anyio.CancelScope] = set()

    async def run(work: Work, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await work()
        finally:
            scopes.discard(scope)

    async with anyio.create_task_group() as tasks:

        def begin(work: Work) -> None:
            scope = anyio.CancelScope(shield=True)
            scopes.add(scope)
            tasks.start_soon(run, work, scope)

        for work in works:
            begin(work)
        try:
            yield begin
        finally:
            for scope in scopes:
                scope.cancel()


def _launch(command: Command, wires: Wires, *, report: bool, stdin: bool, beat: Beat | None) -> Leash:
    try:
        return launch(wires, report=report, stdin=stdin, beat=beat)
    except OSError as error:
        raise JobFailed(f"cannot start {command.argv[0]!r}: {error.strerror}") from error


async def _at_the_gate(command: Command, leash: Leash, drained: anyio.Event, near: Mapping[str, End]) -> Child:
    """Have the guard start *command*; return it when it waits. Raises JobFailed when nothing was started."""
    env = child_env() if command.env is None else command.env
    argv = [os.fsencode(word) for word in command.argv]
    cwd = None if command.cwd is None else os.fsencode(command.cwd)
    # The guard runs on this very interpreter; json would cost it as much as its whole start.
    await leash.brief(marshal.dumps((argv, cwd, {os.fsencode(name): os.fsencode(env[name]) for name in env})))
    if not leash.pgid:
        why = os.strerror(leash.failure["failed"]) if leash.failure else "its guard died"
        raise JobFailed(f"cannot start {command.argv[0]!r}: {why}")
    return Child(command, leash, drained, near)


async def _hand_on(
    near: Mapping[str, End], on_output: OnOutput, on_report: Callable[[bytes], None] | None, drained: anyio.Event
) -> None:
    """Read all that the command writes."""
    try:
        async with anyio.create_task_group() as streams:
            streams.start_soon(near["stdout"].read_all, lambda data: on_output("stdout", data))
            streams.start_soon(near["stderr"].read_all, lambda data: on_output("stderr", data))
            if on_report is not None:
                streams.start_soon(near["report"].read_lines, on_report, MAX_REPORT_LINE)
    finally:
        drained.set()


async def _feed(child: Child, data: bytes, keep_open: bool) -> None:
    """Write what the command was given for its stdin. One that ends without reading it all makes no mistake."""
    with suppress(anyio.BrokenResourceError):
        await child.send(data)
    if not keep_open:
        await child.close_stdin()


def _why_unusable(command: Command, failure: Mapping[str, Any]) -> str:
    """Say in a sentence why the command could not begin."""
    number, program = failure["failed"], command.argv[0]
    missing = number in (errno.ENOENT, errno.ENOTDIR)
    if failure["stage"] == "cwd":
        return (
            f"no such directory: {command.cwd!r}" if missing else f"cannot enter {command.cwd!r}: {os.strerror(number)}"
        )
    if missing:
        found = os.sep in program and Path(command.cwd or ".", program).exists()
        return f"the interpreter that {program!r} names does not exist" if found else f"no such program: {program!r}"
    return f"cannot run {program!r}: {os.strerror(number)}"


def alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error in a group of one, else the group: our tasks are nobody's business."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
