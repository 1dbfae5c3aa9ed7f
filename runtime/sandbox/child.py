"""The program that runs a user's function in a process of its own: `python -m runtime.sandbox.child`, behind the guard.

It reads one line of JSON from stdin (`run` as module:function, `folder`, `args`, `job`, `attempt`, `epoch`,
`max_result`, `lease_ms`, `keep`) and tells on its wire (see `wire`) `beat`, `heard`, `progress`, `log` [level, text]
and `tokens`, and at the end one of `result`, `error` and `suspend`. What the function prints is its output; tracebacks
go to stderr.

With `keep` the process stays for another order: it tells `ready` where the function has left it as it was (see
`traces`), and else ends as without. An order that comes when files of the user's modules have changed is not begun: it
tells `spent` and ends.
"""

import inspect
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, Final

from runtime.calling import Unfit, arguments
from runtime.outcomes import Cancel, Fail, Outcome, Retry, Snooze, Suspended, WaitTimeout
from runtime.sandbox.wire import Wire

MAX_MESSAGE: Final = 2000
MAX_RESULT: Final = 1024 * 1024
PASSING: Final = frozenset({"transient", "rate_limited", "timeout", "lost", "bug"})
BEATS_A_LEASE: Final = 3


class ResultUnfit(Unfit):
    """The result is too large, or nothing that JSON can say."""

    code = "job.result_too_large"


class ToldToEnd(SystemExit):
    """SIGTERM came; as an exit it runs the function's `finally` blocks on its way."""


def main() -> int:
    """Run one function after another; return the exit code, 0 where the last had a result or was suspended."""
    wire = Wire()
    order: dict[str, Any] | None = wire.order()
    assert order is not None
    _give_up_stdin()
    signal.signal(signal.SIGTERM, _on_sigterm)
    if "lease_ms" in order:
        wire.beat(order["lease_ms"] / 1000 / BEATS_A_LEASE)
    while True:
        work = Work(order, wire)
        code = perform(work, wire)
        if not order.get("keep") or not work.left_nothing():
            return code
        sys.stdout.flush()
        sys.stderr.flush()
        wire.send("ready", b"1")
        if (order := wire.order()) is None:
            return 0
        if work.is_stale():
            wire.send("spent", b"1")
            return 0


def perform(work: "Work", wire: Wire) -> int:
    """Do *work* and tell how it ended; return the exit code for it."""
    order = work.order
    try:
        said, value = "result", fitting(encode(work.run()), order.get("max_result", MAX_RESULT))
    except ToldToEnd as told:
        work.traces = None
        return int(told.code or 0)
    except (Exception, SystemExit, Suspended, BaseExceptionGroup) as error:
        # This is the border; what is not reported here is lost.
        if work.suspension is None and not isinstance(error, Exception | SystemExit):
            raise
        if not isinstance(error, Exception | Suspended) or isinstance(error, MemoryError):
            work.traces = None  # it wanted the process to end, or the process had better
        said, value = "error", b"" if work.suspension is not None else encode(describe(error))
    if work.suspension is not None:  # whatever the function made of it
        said, value = "suspend", encode(work.suspension.says)
    wire.send(said, value)
    return 1 if said == "error" else 0


class Work:
    """One function and its context."""

    def __init__(self, order: dict[str, Any], wire: Wire) -> None:
        self.order, self._wire = order, wire
        self.traces: Any = None
        self._context: Any = None

    @property
    def suspension(self) -> Suspended | None:
        """How the attempt was suspended, if it was."""
        found: Suspended | None = None if self._context is None else self._context.durable.suspension
        return found

    def run(self) -> Any:
        """Load the function, call it, and return what it returned or what its coroutine did."""
        from runtime.loader import load_object  # dear to import; a mistake above should show sooner

        name = self.order["run"]
        function = load_object(name, Path(self.order["folder"]))
        if self.order.get("keep"):
            from runtime.sandbox.traces import Traces

            self.traces = Traces()

        from runtime.sandbox.talk import context_for

        self._context = context_for(function, self.order, self._wire)
        result = function(**arguments(name, function, self.order["args"], self._context))
        if not inspect.isawaitable(result):
            return result
        import anyio  # only for coroutines

        async def wait() -> Any:
            return await result

        return anyio.run(wait)

    def left_nothing(self) -> bool:
        """Tell whether the process is as it was before the function ran."""
        return self.traces is not None and self.traces.are_gone()

    def is_stale(self) -> bool:
        """Tell whether the user's code is another by now than what is loaded."""
        from runtime.loader import is_stale

        return is_stale()


def fitting(result: bytes, limit: int) -> bytes:
    """Return *result*. Raises ResultUnfit where it is too large."""
    if len(result) > limit:
        raise ResultUnfit(f"the result has {len(result)} bytes; {limit} are allowed")
    return result


def encode(value: Any) -> bytes:
    """Return *value* as JSON; dataclasses, dates, models and the like as pydantic writes them. Raises ResultUnfit."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        import pydantic  # only for what the standard library cannot say
    try:
        return pydantic.TypeAdapter(Any).dump_json(value)
    except ValueError as error:
        raise ResultUnfit(f"{type(value).__name__} cannot be written as JSON: {error}") from None


def describe(error: BaseException) -> dict[str, Any]:
    """Return *error* as it is reported, and print its traceback where the function's own code is at fault."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    described = {"type": type(error).__name__, "message": str(error)[:MAX_MESSAGE], **classify(error)}
    if not isinstance(error, Outcome | Unfit) and "code" not in described:
        traceback.print_exception(error)
    described["retryable"] = described["class"] in PASSING
    return described


def classify(error: BaseException) -> dict[str, Any]:
    """Return whose doing *error* was and what its raiser asks for."""
    match error:
        case Retry():
            return {"outcome": "retry", "class": "transient", "retry_after_ms": _millis(error.after)}
        case Snooze():
            return {"outcome": "snooze", "class": "transient", "retry_after_ms": _millis(error.seconds)}
        case Fail():
            return {"outcome": "fail", "class": "permanent", "code": error.code}
        case Cancel():
            return {"outcome": "cancel", "class": "cancelled"}
        case WaitTimeout():
            return {"class": "timeout"}
        case Unfit():
            return {"class": "permanent", "code": error.code}
        case SystemExit():
            return {"class": "bug", "message": f"the function called sys.exit({error.code!r})"}
        case ImportError():
            return {"class": "permanent"}
    return _classify_foreign(error)


def _classify_foreign(error: BaseException) -> dict[str, Any]:
    from runtime.errors import UnderstudyError

    if isinstance(error, UnderstudyError):
        wait = {} if error.retry_after is None else {"retry_after_ms": _millis(error.retry_after)}
        return {"class": error.error_class, "code": error.code, "data": error.data, "ours": True} | wait
    pydantic = sys.modules.get("pydantic")  # who raises its error has it loaded
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        # Its own text quotes the input.
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        places = (f"{'.'.join(map(str, m['loc'])) or 'value'}: {m['msg']}" for m in mistakes)
        return {"class": "permanent", "message": "; ".join(places)[:MAX_MESSAGE]}
    return {"class": "bug"}


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else max(0, round(seconds * 1000))


def _give_up_stdin() -> None:
    """Leave nothing to read: a function that asks for input gets its end, not a wait."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for the life of the process
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a TextIOWrapper, as nobody replaced it yet


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the second would interrupt the clean-up
    raise ToldToEnd(128 + number)


if __name__ == "__main__":
    sys.exit(main())
