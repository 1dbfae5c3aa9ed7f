"""An attempt at a job as its runner sees it: on the board while it runs, and what its end means."""

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import anyio

from runtime.core.ref import Ref
from runtime.errors import MailboxFull, UnderstudyError, problem
from runtime.outcomes import Cancel, Fail, Retry, Snooze, WaitTimeout
from runtime.outcomes import Outcome as Said
from schemas.base import AnyMessage
from schemas.errors import ErrorClass, Problem
from schemas.jobs import Claimed, Fence, Outcome

MAX_ERROR_TEXT: Final = 2000
LONGEST_WAIT: Final = 366 * 86_400.0


class Attempt:
    """One attempt that runs in this daemon: a scope that ends it, for one of four reasons.

    A wish (`Board.cancel`), a lost lease (`Board.lose`), its own deadline, or its silence: with *heartbeat* seconds
    something must be heard of it (`alive`) at least that often, which `watch` sees to. Entered, it stands on the
    board; left, it is gone, and the cancellation that any of them sent is swallowed.
    """

    __slots__ = ("_board", "_heard", "heartbeat", "lease", "lost", "scope", "silent", "wished")

    def __init__(
        self, board: dict[str, "Attempt"], lease: Fence, seconds: float | None, heartbeat: float | None
    ) -> None:
        self._board = board
        self.lease = lease
        self.heartbeat = heartbeat
        self.wished = self.lost = self.silent = False
        self._heard = now = anyio.current_time()
        self.scope = anyio.CancelScope(deadline=math.inf if seconds is None else now + seconds)

    def __enter__(self) -> "Attempt":
        self._board[self.lease.id] = self
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._board.get(self.lease.id) is self:
            del self._board[self.lease.id]
        return self.scope.__exit__(kind, error, trace)

    @property
    def ending(self) -> bool:
        """Whether it was told to end, for whatever reason but its deadline."""
        return self.wished or self.lost or self.silent

    @property
    def cancelled(self) -> bool:
        """Whether a wish is what ended it; one that was done before the wish reached it is not cancelled."""
        return self.wished and self.scope.cancelled_caught

    @property
    def timed_out(self) -> bool:
        """Whether its own deadline or its silence ended it."""
        return not (self.wished or self.lost) and self.scope.cancelled_caught

    def alive(self) -> None:
        """Note that something was heard of it."""
        self._heard = anyio.current_time()

    async def watch(self) -> None:
        """End it once nothing was heard of it for `heartbeat` seconds."""
        assert self.heartbeat is not None
        while (until := self._heard + self.heartbeat) > anyio.current_time():  # noqa: ASYNC110  # waking it at each
            # sign of life would cost more than to look once in a heartbeat
            await anyio.sleep_until(until)
        self.silent = True
        self.scope.cancel()

    def lose(self) -> None:
        """End it because the job is another attempt's by now: nothing it says counts any more."""
        self.lost = True
        self.scope.cancel()


class Board:
    """The attempts that run now, so that a wish to cancel reaches the work at once and not through a busy mailbox."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._early: dict[str, int] = {}

    def running(self, lease: Fence, seconds: float | None = None, heartbeat: float | None = None) -> Attempt:
        """Return the attempt of *lease*, to be entered.

        *seconds* is the time it may take, *heartbeat* how many seconds it may be silent.
        """
        attempt = Attempt(self._attempts, lease, seconds, heartbeat)
        if self._early and self._early.pop(lease.id, None) == lease.epoch:
            attempt.wished = True
            attempt.scope.cancel()
        return attempt

    def cancel(self, job: str, epoch: int) -> bool:
        """End the attempt *epoch* of *job*; return whether it runs. A wish that is here first waits for its attempt."""
        attempt = self._attempts.get(job)
        if attempt is None:
            self._early[job] = epoch
            return False
        if attempt.lease.epoch != epoch:
            return False
        attempt.wished = True
        attempt.scope.cancel()
        return True

    def lose(self, job: str, epoch: int) -> bool:
        """End the attempt *epoch* of *job*, whose lease is lost; return whether it runs."""
        attempt = self._attempts.get(job)
        if attempt is None or attempt.lease.epoch != epoch:
            return False
        attempt.lose()
        return True

    def over(self, job: str, epoch: int) -> None:
        """Forget a wish that found no attempt: that of *epoch* at *job* has ended, or the job begins anew. One that is
        meant for a later attempt stays.
        """
        if self._early.get(job, epoch + 1) <= epoch:
            del self._early[job]


def seconds_for(job: Claimed, now: int) -> float | None:
    """Return how long an attempt may take: its own time, but not beyond the deadline of its job."""
    times = [] if job.timeout_ms is None else [job.timeout_ms / 1000]
    if job.deadline_at is not None:
        times.append(max(0, job.deadline_at - now) / 1000)
    return min(times, default=None)


def too_late(job: Claimed, now: int) -> Outcome:
    """Return the outcome of an attempt whose time was up; what becomes of its job the queue decides."""
    why = f"the attempt took more than {(job.timeout_ms or 0) / 1000:g} s"
    if job.deadline_at is not None and now >= job.deadline_at:
        why = "the deadline of the job has passed"
    return Outcome(ok=False, error=problem("job.timeout", why), error_class="timeout")


async def tell_surely(ref: Ref, message: AnyMessage) -> None:
    """Tell *ref* what must not be lost: where its mailbox is full, wait for room, though the work is being cancelled.

    Raises what `Ref.tell` raises.
    """
    try:
        ref.tell_nowait(message)
    except MailboxFull:
        with anyio.CancelScope(shield=True):
            await ref.tell(message)


STOPPED: Final = Outcome(ok=False, refund=True)
"""What remains true of an attempt that the daemon's stop cut off: it does not count."""

LOST: Final = Outcome(ok=False, refund=True, error=problem("job.lease_lost"), error_class="lost")
"""The job is another attempt's: this one writes nothing, and its worker has room again."""

CANCELLED: Final = Outcome(ok=False, error=problem("job.cancelled"), error_class="cancelled")

_SAID: Final[dict[type[Exception], ErrorClass]] = {Fail: "permanent", Cancel: "cancelled"}


def outcome_of(error: Exception) -> Outcome:
    """Return the outcome for what the work raised."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case Snooze():
            return Outcome(ok=False, snooze=True, retry_after_ms=millis(error.seconds))
        case Retry():
            wait = None if error.after is None else millis(error.after)
            return Outcome(ok=False, error=failure(error), error_class="transient", retry_after_ms=wait)
        case Fail() | Cancel():
            return Outcome(ok=False, error=failure(error), error_class=_SAID[type(error)])
        case WaitTimeout():
            return Outcome(ok=False, error=failure(error), error_class="timeout")
        case UnderstudyError():
            wait = None if error.retry_after is None else millis(error.retry_after)
            return Outcome(ok=False, error=error.problem(), error_class=error.error_class, retry_after_ms=wait)
        case _:
            return Outcome(ok=False, error=failure(error), error_class="bug")


def outcome_of_suspension(says: Mapping[str, Any]) -> Outcome:
    """Return the outcome for an attempt that was suspended (`runtime.outcomes.Suspended.says`).

    Raises ValueError for what no context says: it may come from a process of the user's.
    """
    match says:
        case {"snooze": True, "retry_after_ms": int(wait)} if wait >= 0:
            return Outcome(ok=False, snooze=True, retry_after_ms=wait)
        case {"waits": str(name), "wait_until": int() | None as until}:
            return Outcome(ok=False, waits=name, wait_until=until)
        case {"pause": True}:
            return Outcome(ok=False, pause=True)
        case {"hold": True, "code": "job.step_ambiguous" as code, "detail": str(detail), "step": str(step)}:
            return Outcome(ok=False, hold=True, error=problem(code, detail[:MAX_ERROR_TEXT], data={"step": step}))
    raise ValueError("an attempt cannot be suspended so")


def millis(seconds: float) -> int:
    """Return a wait in milliseconds: never negative and at most a year, whatever the user's code may have named."""
    return 0 if math.isnan(seconds) else round(max(0.0, min(seconds, LONGEST_WAIT)) * 1000)


def failure(error: Exception) -> Problem:
    """Return an error of the user's code as it is shown: what it says, its type if it says more, never a traceback."""
    text = str(error) if isinstance(error, Said) else f"{type(error).__name__}: {error}"
    return problem("job.failed", text[:MAX_ERROR_TEXT])
