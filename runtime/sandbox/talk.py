"""What the function in a child process is handed: a context whose record and teller are at the other end of the wire.

Imported once the function is loaded, which brings along what this needs.
"""

import time  # a plain function sleeps in its own process: no event loop, no virtual clock
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from runtime.calling import is_async
from runtime.durable import Begun, Due, Record, as_json
from runtime.errors import LeaseLost, UnderstudyError
from runtime.job_context import AsyncContext, BlockingContext, Facts
from runtime.outcomes import JobResult
from runtime.sandbox.wire import Wire

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]


class WireTeller:
    """The `runtime.job_context.Teller` of a child process."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def progress(self, value: Any) -> None:
        """Tell how far it is."""
        self._wire.send("progress", as_json(value).encode())

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        self._wire.send("log", as_json([level, text.encode(errors="replace").decode()]).encode())

    def heard(self) -> None:
        """Show that it lives."""
        self._wire.send("heard", b"1")

    def tokens(self, used: int) -> None:
        """Tell how many tokens were used. Raises ValueError below 0."""
        if used < 0:
            raise ValueError(f"tokens used are 0 or more, not {used}")
        self._wire.send("tokens", b"%d" % used)


class WireRecord:
    """The `runtime.durable.Record` of a child process: each call is a question to the daemon."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def begin(self, name: str, retry: bool) -> Begun:
        return Begun(*await self._ask("begin", {"name": name, "retry": retry}))

    async def end(
        self, name: str, output: str | None = None, error: str | None = None, cost: float | None = None
    ) -> None:
        await self._ask("end", {"name": name, "output": output, "error": error, "cost": cost})

    async def decided(self, name: str) -> bool:
        return bool(await self._ask("decided", {"name": name}))

    async def due(self, name: str, after_ms: int) -> Due:
        return Due(*await self._ask("due", {"name": name, "after_ms": after_ms}))

    async def take(self, name: str, step: str) -> str | None:
        taken: str | None = await self._ask("take", {"name": name, "step": step})
        return taken

    async def note(self, step: str, output: str) -> None:
        await self._ask("note", {"step": step, "output": output})

    async def submit(self, name: str, job: dict[str, Any]) -> str:
        return str(await self._ask("submit", {"name": name, "job": job}))

    async def children(self) -> list[JobResult]:
        return [JobResult(*one) for one in await self._ask("children", {})]

    async def parents(self) -> list[JobResult]:
        return [JobResult(*one) for one in await self._ask("parents", {})]


def context_for(function: Callable[..., Any], order: dict[str, Any], wire: Wire) -> AsyncContext | BlockingContext:
    """Return the context of *function*: what waits is a coroutine where the function is one."""
    facts, teller = Facts(order["job"], order["attempt"], order.get("epoch", 0)), WireTeller(wire)
    if is_async(function):
        return AsyncContext(facts, teller, WireRecord(partial(_ask_in_a_thread, wire)))
    record: Record = WireRecord(partial(_ask_here, wire))
    return BlockingContext(facts, teller, record, time.sleep)


async def _ask_here(wire: Wire, what: str, fields: dict[str, Any]) -> Any:
    return read(wire.ask(what, fields))


async def _ask_in_a_thread(wire: Wire, what: str, fields: dict[str, Any]) -> Any:
    import anyio.to_thread

    # Not abandoned when cancelled: the answer comes soon, and the end of a step must be on record.
    return read(await anyio.to_thread.run_sync(wire.ask, what, fields))


def read(answer: dict[str, Any]) -> Any:
    """Return what an answer says. Raises LeaseLost, or the error of ours that the daemon met."""
    if answer.get("lost"):
        raise LeaseLost
    if (error := answer.get("error")) is not None:
        raise error_of(error["code"])(error["detail"], **error["data"])
    return answer["is"]


def error_of(code: str) -> type[UnderstudyError]:
    """Return the class of errors with this code, the most general one."""
    level: list[type[UnderstudyError]] = [UnderstudyError]
    while level:
        for one in level:
            if one.code == code and one is not UnderstudyError:
                return one
        level = [below for one in level for below in one.__subclasses__()]
    return UnderstudyError
