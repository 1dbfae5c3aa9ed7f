"""The program that runs a user's function in a process of its own: `python -m runtime.sandbox.child`, behind the guard.

It reads one line of JSON from stdin (`run` as module:function, `folder`, `args`, `job`, `attempt`, `key`, `max_result`)
and writes lines of JSON on descriptor 3: `{"progress"}`, `{"log": [level, text]}`, and at the end `{"result"}` or
`{"error"}`. What the function prints is its output; tracebacks go to stderr.
"""

import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

from runtime.outcomes import Cancel, Fail, JobContext, Outcome, Retry, Snooze

REPORT_FD: Final = 3
MAX_MESSAGE: Final = 2000
MAX_RESULT: Final = 1024 * 1024
PASSING: Final = frozenset({"transient", "rate_limited", "timeout", "lost", "bug"})


class Unfit(Exception):
    """The job and the function do not go together; no other attempt will change that."""

    code = "job.failed"


class ResultUnfit(Unfit):
    """The result is too large, or nothing that JSON can say."""

    code = "job.result_too_large"


class ToldToEnd(SystemExit):
    """SIGTERM came; as an exit it runs the function's `finally` blocks on its way."""


class Wire:
    """Descriptor 3. Threads of the function may write too; a slow reader makes the writer wait."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lock = threading.Lock()

    def send(self, name: str, value: bytes) -> None:
        """Write one line: *value* is JSON already."""
        rest = memoryview(b'{"%b":%b}\n' % (name.encode(), value))
        with self._lock:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]


class Context:
    """The `JobContext` of a function in a child process."""

    def __init__(self, order: dict[str, Any], wire: Wire) -> None:
        self.job_id: str = order["job"]
        self.attempt: int = order["attempt"]
        self.idempotency_key: str = order["key"]
        self._wire = wire

    def progress(self, value: Any) -> None:
        """Tell how far it is. Raises ResultUnfit where JSON cannot say it."""
        self._wire.send("progress", encode(value))

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        self._wire.send("log", encode([level, str(text)]))


def main() -> int:
    """Run one function; return the exit code, 0 where there is a result."""
    wire = Wire(REPORT_FD)
    order: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    _give_up_stdin()
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        result = encode(run(order, wire))
        limit = order.get("max_result", MAX_RESULT)
        if len(result) > limit:
            raise ResultUnfit(f"the result has {len(result)} bytes; {limit} are allowed")
    except ToldToEnd as told:
        return int(told.code or 0)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # this is the border; what is not reported here is lost
        wire.send("error", encode(describe(error)))
        return 1
    wire.send("result", result)
    return 0


def run(order: dict[str, Any], wire: Wire) -> Any:
    """Load the function, call it, and return what it returned or what its coroutine did."""
    from runtime.loader import load_object  # brings pydantic along, 100 ms; a mistake of ours above should show sooner

    function = load_object(order["run"], Path(order["folder"]))
    result = function(**arguments(order["run"], function, order["args"], Context(order, wire)))
    if not inspect.isawaitable(result):
        return result
    import anyio  # only for coroutines

    async def wait() -> Any:
        return await result

    return anyio.run(wait)


def arguments(name: str, function: Callable[..., Any], args: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Return *args*, with the context where the function wants it. Raises Unfit where they do not fit the function."""
    if not callable(function):
        raise Unfit(f"{name} is not a function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C modules do not tell
        return args
    wanted = {parameter.name: context for parameter in signature.parameters.values() if wants_context(parameter)}
    try:
        signature.bind(**args, **wanted)
    except TypeError as error:
        raise Unfit(f"the arguments do not fit {name}: {error}") from None
    return args | wanted


def wants_context(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is for the job's context: by its name, or by its annotation, which may be text."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        annotation = JobContext if annotation.rpartition(".")[2] == JobContext.__name__ else None
    return parameter.name == "ctx" or annotation is JobContext


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
        case Unfit():
            return {"class": "permanent", "code": error.code}
        case SystemExit():
            return {"class": "bug", "message": f"the function called sys.exit({error.code!r})"}
        case ImportError():
            return {"class": "permanent"}
    return _classify_foreign(error)


def _classify_foreign(error: BaseException) -> dict[str, Any]:
    from pydantic import ValidationError  # loaded by now, with our own errors

    from runtime.errors import UnderstudyError

    if isinstance(error, UnderstudyError):
        return {"class": error.error_class, "code": error.code}
    if isinstance(error, ValidationError):
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
