"""What makes a job's code durable: steps, sleeps and waits over whoever keeps the record, in the loop and in a child.

The code of a job runs again from its top after a failure, a restart or a suspension, and finds on record what it has
done. So everything here asks the record first. The logic is written once, in coroutines; for a plain function in a
child process the record answers without waiting, and `run_now` runs them to their end.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from runtime.errors import LeaseLost, RequestInvalid, StepAmbiguous, StepRepeated, StepUnfit, TooManySteps
from runtime.outcomes import ChildrenTimeout, JobResult, OnAmbiguous, SignalTimeout, StepResult, Suspended

MAX_NAME: Final = 255
MAX_OUTPUT: Final = 1024 * 1024
MAX_ERROR: Final = 2000
NAP: Final = 1.0
"""Seconds: what is shorter is slept through, for giving the attempt back would cost more."""

TOLD_LATE: Final = {"~timed_out": True}
"""Stands in the place of a signal's payload where the wait for it ended without one, so that each run sees the same."""

ENDED: Final = ("completed", "failed", "cancelled")

T = TypeVar("T")


class Begun(NamedTuple):
    """The answer to `Record.begin`, as `runtime.store.port.StepBegun`; `output` is JSON text."""

    verdict: str
    output: str | None = None


class Due(NamedTuple):
    """The answer to `Record.due`: when it is due and what time it is, in milliseconds; else a verdict."""

    verdict: str
    due: int = 0
    now: int = 0


class Record(Protocol):
    """Who keeps what an attempt has done. Every call raises LeaseLost once the job is another attempt's, and StoreError
    where it could not be written or read.
    """

    async def begin(self, name: str, retry: bool) -> Begun:
        """Note that a step begins; with *retry* an ambiguous one is begun anew."""
        ...

    async def end(
        self, name: str, output: str | None = None, error: str | None = None, cost: float | None = None
    ) -> None:
        """Record how a step ended: its output (JSON text) or its error. A cancelled call is finished all the same."""
        ...

    async def decided(self, name: str) -> bool:
        """Tell whether the job was held or failed over this step, so that a person has let it run again."""
        ...

    async def due(self, name: str, after_ms: int) -> Due:
        """Record that something is due *after_ms* from now, unless it is on record when."""
        ...

    async def take(self, name: str, step: str) -> str | None:
        """Take the oldest signal of a name as the output of a step; None where there is none."""
        ...

    async def note(self, step: str, output: str) -> None:
        """Record a step that is done (JSON text)."""
        ...

    async def submit(self, name: str, job: dict[str, Any]) -> str:
        """Add a part of the job, once by its name; *job* has the fields of `NewJob`."""
        ...

    async def children(self) -> list[JobResult]:
        """Return the parts of the job."""
        ...

    async def parents(self) -> list[JobResult]:
        """Return what the job depends on."""
        ...


class Durable:
    """The durable side of an attempt's context (see `runtime.outcomes.JobContext`, which says what each call does).

    `suspension` is set once the attempt was suspended, `lost` once its lease was: from then on every call raises.
    """

    def __init__(self, job_id: str, record: Record) -> None:
        self.job_id = job_id
        self.suspension: Suspended | None = None
        self.lost = False
        self._record = record
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}

    # -- steps -------------------------------------------------------------------------------------------------------

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        on_ambiguous: OnAmbiguous = "retry",
        cost: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a step, or return what is on record of it."""
        self._claim_name(name)
        begun = await self._ask(self._record.begin(name, on_ambiguous == "retry"))
        if begun.verdict == "ambiguous":
            begun = await self._resolve(name, on_ambiguous)
        if begun.verdict == "done":
            return json.loads(begun.output or "null")
        self._heed(begun.verdict)
        try:
            value = await self._call(function, args, kwargs)
            if isinstance(value, StepResult):
                value, cost = value.output, value.cost if value.cost is not None else cost
            text = output_text(name, value)
        except Exception as error:
            await self._ask(self._record.end(name, error=said(error)), again=True)
            raise
        except Suspended:
            # It waits within the step: not ended, but not in doubt either. The next run begins it anew.
            await self._ask(self._record.end(name, error="suspended"), again=True)
            raise
        await self._ask(self._record.end(name, output=text, cost=cost), again=True)
        return json.loads(text)

    async def _resolve(self, name: str, on_ambiguous: OnAmbiguous) -> Begun:
        """Begin an ambiguous step anew where a person has let the job run again over it; else fail or hold the job."""
        if await self._ask(self._record.decided(name)):
            return await self._ask(self._record.begin(name, True))
        unsure = StepAmbiguous(f"an earlier attempt began the step {name!r} and never told how it ended", step=name)
        if on_ambiguous == "hold":
            raise self._suspended(hold=True, code=unsure.code, detail=unsure.detail, step=name)
        raise unsure

    def _heed(self, verdict: str) -> None:
        if verdict == "pause":
            raise self._suspended(pause=True)
        if verdict == "full":
            raise TooManySteps

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float, name: str | None = None) -> None:
        """Sleep until the time that is on record."""
        self.look()
        if seconds < NAP and name is None:
            await self._nap(max(0.0, seconds))
            return
        due = await self._due(self._own("sleep", name), seconds)
        left = due.due - due.now
        if left >= NAP * 1000:
            raise self._suspended(snooze=True, retry_after_ms=left)
        await self._nap(max(0, left) / 1000)

    async def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """Take the next signal of a name, or give the attempt back until there is one."""
        checked_name(name)
        step = self._own("signal/" + name)
        text = await self._ask(self._record.take(name, step))
        if text is not None:
            payload = json.loads(text)
            if payload == TOLD_LATE:
                raise SignalTimeout(f"no signal {name!r} came in time")
            return payload
        until = await self._until(step, timeout)
        if until is not None and until.now >= until.due:
            await self._ask(self._record.note(step, json.dumps(TOLD_LATE)))
            raise SignalTimeout(f"no signal {name!r} came in time")
        raise self._suspended(waits=name, wait_until=None if until is None else until.due)

    async def wait_children(self, timeout: float | None = None) -> list[JobResult]:
        """Return the parts of the job when all have ended; else give the attempt back until they have."""
        self.look()
        step = self._own("children")
        found = await self._ask(self._record.children())
        alive = [one.id for one in found if one.status not in ENDED]
        if not alive:
            return found
        until = await self._until(step, timeout)
        if until is not None and until.now >= until.due:
            raise ChildrenTimeout(f"{len(alive)} of {len(found)} children did not end in time")
        raise self._suspended(waits="", wait_until=None if until is None else until.due)

    async def _until(self, step: str, timeout: float | None) -> Due | None:
        return None if timeout is None else await self._due(f"{step}/until", timeout)

    async def _due(self, step: str, seconds: float) -> Due:
        due = await self._ask(self._record.due(step, millis(seconds)))
        self._heed(due.verdict)
        return due

    # -- other jobs --------------------------------------------------------------------------------------------------

    async def submit(self, kind: str, args: dict[str, Any] | None = None, *, name: str, **fields: Any) -> str:
        """Add a part of the job, once by its name."""
        checked_name(name)
        if taken := {"key", "parent", "ref"} & fields.keys():
            raise RequestInvalid(f"{', '.join(sorted(taken))} of a child job are set by its name")
        self._own("child", name)
        return await self._ask(self._record.submit(name, {"kind": kind, "args": args or {}, **fields}))

    async def parents(self) -> list[JobResult]:
        """Return what the job depends on."""
        return await self._ask(self._record.parents())

    # -- within ------------------------------------------------------------------------------------------------------

    def _claim_name(self, name: str) -> None:
        self.look()
        checked_name(name)
        if name in self._names:
            raise StepRepeated(f"this attempt has had a step {name!r} already", step=name)
        self._names.add(name)

    def _own(self, what: str, name: str | None = None) -> str:
        """Return the name under which something other than a step of the user's is kept: numbered unless it has one."""
        self.look()
        if name is None:
            self._counts[what] = number = self._counts.get(what, 0) + 1
            return f"~{what}/{number}"
        checked_name(name)
        step = f"~{what}/{name}"
        if step in self._names:
            raise StepRepeated(f"this attempt has had a {what} called {name!r} already", step=name)
        self._names.add(step)
        return step

    def look(self) -> None:
        """Raise again what ended this attempt, for whoever has swallowed it."""
        if self.suspension is not None:
            raise self.suspension
        if self.lost:
            raise LeaseLost

    def _suspended(self, **says: Any) -> Suspended:
        self.suspension = Suspended(**says)
        return self.suspension

    async def _ask(self, question: Coroutine[Any, Any, T], *, again: bool = False) -> T:
        """Ask the record. With *again* also after the attempt was suspended: it may end what it has begun."""
        try:
            if not again or self.lost:
                self.look()
            return await question
        except LeaseLost:
            self.lost = True
            raise
        finally:
            question.close()

    async def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = function(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    async def _nap(self, seconds: float) -> None:
        import anyio  # a plain function in a child has no use for it, and would pay 25 ms

        await anyio.sleep(seconds)


class Blocking(Durable):
    """The same for a plain function: its record answers without waiting, and nothing in it may wait on a loop."""

    def __init__(self, job_id: str, record: Record, nap: Callable[[float], None]) -> None:
        super().__init__(job_id, record)
        self._sleep = nap

    async def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(f"{function!r} is async: a job that has async steps must be an async function itself")
        return value

    async def _nap(self, seconds: float) -> None:
        self._sleep(seconds)


def run_now(coroutine: Awaitable[T]) -> T:
    """Run to its end a coroutine that never really waits."""
    steps = coroutine.__await__()
    try:
        next(steps)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]  # a coroutine's return value
    raise RuntimeError("this cannot wait: it is called without a loop")


def checked_name(name: object) -> None:
    """Raise RequestInvalid unless *name* may be the name of a step, a signal or a child."""
    if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME) or str(name).startswith("~"):
        raise RequestInvalid(f"a name is a text of 1 to {MAX_NAME} characters that does not begin with ~: {name!r:.80}")


def output_text(name: str, value: Any) -> str:
    """Return the output of a step as it is kept. Raises StepUnfit."""
    try:
        text = as_json(value)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        why = f"the step {name!r} returned what JSON cannot say: {type(error).__name__}: {error}"
        raise StepUnfit(why[:MAX_ERROR], step=name) from None
    if size > MAX_OUTPUT:
        raise StepUnfit(f"the output of the step {name!r} has {size} bytes; at most {MAX_OUTPUT} are kept", step=name)
    return text


encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def as_json(value: Any) -> str:
    """Return *value* as JSON; dataclasses, dates, models and the like as pydantic writes them.

    Raises TypeError, ValueError or RecursionError where it cannot be written.
    """
    try:
        return encode(value)
    except (TypeError, ValueError):
        import pydantic  # only for what the standard library cannot say

    return pydantic.TypeAdapter(Any).dump_json(value).decode()


def said(error: BaseException) -> str:
    """Return an error as it is kept with a step."""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR].encode(errors="replace").decode()


def millis(seconds: float) -> int:
    """Return a wait in milliseconds; one that is no number, or beyond ten years, is none a job could wait for."""
    if not 0 <= seconds <= 3650 * 86_400:
        if seconds < 0:
            return 0
        raise RequestInvalid(f"a wait is at most 3650 days, not {seconds} s")
    return round(seconds * 1000)
