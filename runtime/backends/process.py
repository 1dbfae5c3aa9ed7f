"""A program that is an agent: a child process for each turn, which speaks JSON lines on stdin and stdout.

The process stands behind our guard: it has a group of its own, it and all it started end with the turn, and with the
daemon however that ends. The protocol is described in docs/how-to/agents-elsewhere.md.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final

import anyio

from runtime import log
from runtime.backends.lines import Lines
from runtime.backends.port import (
    BackendContext,
    BackendEvent,
    BackendFailed,
    BackendUnusable,
    Note,
    Reasoning,
    Text,
    Turn,
    Used,
)
from runtime.backends.port import Final as FinalEvent
from runtime.backends.requests import Requests
from runtime.backends.wire import (
    AsksStep,
    AsksTool,
    SaysError,
    SaysFinal,
    SaysLog,
    SaysReasoning,
    SaysState,
    SaysStepDone,
    SaysText,
    SaysUsage,
    encoded,
    parse,
    turn_line,
)
from runtime.errors import JobFailed
from runtime.sandbox.output import Lines as LogLines
from runtime.sandbox.output import Tail
from runtime.sandbox.parent import Child, Command, Exit, child_env, spawn
from schemas.chat import Usage

MAX_LINE: Final = 1024 * 1024
"""Bytes of a line of its stdout."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes of its stdout in one turn."""
MAX_ANSWER: Final = 1_000_000
"""Characters of an answer that is put together from its pieces."""
GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""
FAREWELL: Final = 1.0
"""Seconds that it has to end by itself after its answer, its stdin closed, before it is asked to."""
LAST_WORDS: Final = 1000
"""Characters of the end of its stderr that are told with its end."""

logger = log.get(__name__)


class ProcessBackend:
    """The `runtime.backends.port.AgentBackend` (with `KeepsState`) of a program.

    argv                 words, never shell text
    cwd                  where it runs; None is our own folder
    env                  its whole environment; None is `child_env()`, with Python's buffering of stdout off
    grace                seconds between SIGTERM and SIGKILL when a turn is cut off
    max_line, max_bytes  caps on what it writes to stdout, a line and a turn

    A turn raises `CommandUnusable` where the program cannot be started; `BackendUnusable`, which names the line, for
    what is not the protocol or is over a cap; `BackendFailed` where the program dies without an answer; either of them
    where it reports an error. What it writes to stderr is logged at debug; the last of it is told with its death.
    """

    def __init__(
        self,
        argv: tuple[str, ...],
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        *,
        grace: float = GRACE,
        max_line: int = MAX_LINE,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.argv, self.cwd = tuple(argv), cwd
        self.env = child_env(extra={"PYTHONUNBUFFERED": "1"}) if env is None else dict(env)
        self._grace, self._max_line, self._max_bytes = grace, max_line, max_bytes
        self._state: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """Return what the program last said shall be kept."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Have the next turn begin with *state*."""
        self._state = dict(state)

    async def run(self, turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        """Take a turn; see the class. Cancelled, it has ended the process and all that it started."""
        lines, last_words = Lines(self._max_line, self._max_bytes), Tail(2 * LAST_WORDS)
        command = Command(self.argv, self.cwd, self.env, turn_line(turn, self._state))
        said = _Said()
        with closing(LogLines(partial(_log, turn), anyio.current_time)) as logged:

            def hear(stream: str, data: bytes) -> None:
                if stream == "stdout":
                    lines.feed(data)
                else:
                    last_words.add(data)
                    logged.add(data)

            async with spawn(command, on_output=hear, keep_stdin_open=True) as child:
                try:
                    await child.go()
                    async with anyio.create_task_group() as tasks:
                        requests = Requests(ctx, partial(_send, child), tasks, lines.stop)
                        tasks.start_soon(_mourn, child, lines)
                        try:
                            while said.final is None and (line := await lines.next()) is not None:
                                event = said.hear(parse(line, lines.number), requests) if line.strip() else None
                                if event is not None:
                                    yield event
                            if said.final is None:
                                raise _died(await child.wait(), last_words)
                        except JobFailed:
                            await requests.quiet()
                            raise
                        await requests.all_answered()
                        await _say_farewell(child)
                        tasks.cancel_scope.cancel()
                finally:
                    with anyio.CancelScope(shield=True):
                        await child.terminate(self._grace)
        assert said.final is not None
        self._state = self._state if said.state is None else said.state
        yield said.final


class _Said:
    """What a program has said of its turn so far."""

    def __init__(self) -> None:
        self.final: FinalEvent | None = None
        self.state: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._length = 0

    def hear(self, message: Any, requests: Requests) -> BackendEvent | None:
        """Take a message; return what it is to whoever follows the turn. Raises what the program reports."""
        match message:
            case SaysText():
                self._add(message.text)
                return Text(text=message.text)
            case SaysReasoning():
                return Reasoning(text=message.text)
            case SaysUsage():
                usage = message.model_dump(include={"input_tokens", "output_tokens", "estimated"})
                return Used(usage=Usage(**usage), model=message.model)
            case SaysLog():
                return Note(kind="log", data={"text": message.text})
            case AsksTool():
                requests.tool(message)
            case AsksStep():
                requests.step(message)
            case SaysStepDone():
                requests.step_done(message)
            case SaysState():
                self.state = message.state
            case SaysFinal():
                text = "".join(self._pieces) if message.text is None else message.text
                self.final = FinalEvent(text=text, output=message.output)
            case SaysError():
                raise (BackendFailed if message.retryable else BackendUnusable)(message.text or "it failed")
        return None

    def _add(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_ANSWER:
            raise BackendUnusable(f"its answer has more than {MAX_ANSWER} characters")
        self._pieces.append(text)


def _log(turn: Turn, line: str) -> None:
    logger.debug("agent_said", agent=turn.agent, run=turn.run, text=line)


async def _send(child: Child, message: dict[str, Any]) -> None:
    try:
        await child.send(encoded(message))
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # it reads no more; how it ends is told elsewhere


async def _mourn(child: Child, lines: Lines) -> None:
    await child.wait()
    lines.end()


async def _say_farewell(child: Child) -> None:
    """Let it end by itself; what it cannot do without time it is not given."""
    with anyio.move_on_after(FAREWELL):
        await child.close_stdin()
        await child.wait()


def _died(ended: Exit, last_words: Tail) -> BackendFailed:
    how = f"exit code {ended.code}" if ended.code is not None else f"signal {ended.signal}"
    words = last_words.text().strip()[-LAST_WORDS:]
    told = f"; the end of its stderr: {words}" if words else ""
    return BackendFailed(f"the program ended with {how} before it answered{told}")
