"""What a program asks of us in a turn, side by side: tools to be called, and steps of its own to be put on record."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.abc

from runtime.backends.port import BackendContext, BackendUnusable
from runtime.backends.wire import AsksStep, AsksTool, SaysStepDone
from runtime.outcomes import Suspended

MAX_AT_ONCE: Final = 64
"""Tools and steps of one turn that run at the same time."""

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Requests:
    """The requests of one turn, each in a task of its own; they are answered as they finish.

    Where one raises (the turn is suspended, or its job is lost), no further one is begun, and *stop* is called with the
    error once all tool calls have come to their end: what they do is on record then. Steps that the program is in the
    midst of are given up.
    """

    def __init__(
        self,
        ctx: BackendContext,
        send: Send,
        tasks: anyio.abc.TaskGroup,
        stop: Callable[[BaseException], None],
    ) -> None:
        self._ctx, self._send, self._tasks, self._stop = ctx, send, tasks, stop
        self._open: set[str] = set()
        self._steps: dict[str, _Step] = {}
        self._calling = 0
        self._error: BaseException | None = None
        self._changed = anyio.Event()
        self._turn = anyio.Event()
        self._turn.set()

    def tool(self, asked: AsksTool) -> None:
        """Begin the call of a tool. Raises BackendUnusable for an id in use, or too many at once."""
        if self._error is not None:
            return
        self._claim(asked.id)
        self._calling += 1
        before, self._turn = self._turn, anyio.Event()
        self._tasks.start_soon(self._call, asked, before, self._turn)

    def step(self, asked: AsksStep) -> None:
        """Begin a step of the program's. Raises BackendUnusable as `tool` does."""
        if self._error is not None:
            return
        self._claim(asked.id)
        self._tasks.start_soon(self._record, asked)

    def step_done(self, said: SaysStepDone) -> None:
        """Take what a step came to. Raises BackendUnusable where the program was not told to do it."""
        step = self._steps.pop(said.id, None)
        if step is None:
            if self._error is None:
                raise BackendUnusable(f"it ends a step that was not begun: id {said.id!r}")
            return
        step.output = said.output
        step.done.set()

    async def all_answered(self) -> None:
        """Wait until no tool is being called. Raises what a call raised."""
        await self.quiet()
        if self._error is not None:
            raise self._error

    async def quiet(self) -> None:
        """Wait until no tool is being called: what was begun is on record then."""
        while self._calling:
            self._changed = anyio.Event()
            await self._changed.wait()

    def _claim(self, name: str) -> None:
        if name in self._open:
            raise BackendUnusable(f"it asks for two things at once by the same id: {name!r}")
        if len(self._open) >= MAX_AT_ONCE:
            raise BackendUnusable(f"it asks for more than {MAX_AT_ONCE} things at once")
        self._open.add(name)

    async def _call(self, asked: AsksTool, before: anyio.Event, begun: anyio.Event) -> None:
        # Calls are found on record by their order, and tasks begin in any: so each lets the next one go.
        await before.wait()
        begun.set()
        answer: dict[str, Any] | None = None
        try:
            result = await self._ctx.call_tool(asked.name, asked.arguments)
            answer = {"type": "tool_result", "id": asked.id, "text": result.text, "failed": result.failed}
        except (Exception, Suspended) as error:  # noqa: BLE001  # it ends the turn, once the others have ended
            self._failed(error)
        finally:
            self._calling -= 1
            self._changed.set()
            self._see()
        if answer is not None:
            await self._answer(asked.id, answer)

    async def _record(self, asked: AsksStep) -> None:
        try:
            output = await self._ctx.step(asked.name, self._do, asked.id, on_ambiguous=asked.on_ambiguous)
        except (Exception, Suspended) as error:  # noqa: BLE001  # the same
            self._failed(error)
            self._see()
        else:
            await self._answer(asked.id, {"type": "step_result", "id": asked.id, "output": output})

    async def _do(self, name: str) -> Any:
        """Have the program do a step; return what it came to."""
        step = self._steps[name] = _Step()
        await self._send({"type": "step_begin", "id": name})
        await step.done.wait()
        return step.output

    async def _answer(self, name: str, message: dict[str, Any]) -> None:
        self._open.discard(name)
        await self._send(message)

    def _failed(self, error: BaseException) -> None:
        # A suspension goes before errors: what is done is on record, and the next run meets the error again.
        if self._error is None or (isinstance(error, Suspended) and not isinstance(self._error, Suspended)):
            self._error = error

    def _see(self) -> None:
        if self._error is not None and not self._calling:
            self._stop(self._error)


class _Step:
    """A step that the program is in the midst of."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.output: Any = None
