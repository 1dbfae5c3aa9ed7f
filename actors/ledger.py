"""What a turn has done, on record: each call of a model or a tool is a step of its job, made once and paid once.

A turn that was cut off (a crash, a wait for a person) runs again from its top and finds here what it has done.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import anyio

from actors.budget import units
from runtime.attempt_record import kept
from runtime.clock import Clock
from runtime.errors import BudgetSpent, LeaseLost, TooManySteps, UnderstudyError
from runtime.outcomes import Suspended
from runtime.store import port
from schemas.jobs import Claimed

MAX_ERROR: Final = 2000
LOST: Final = "/lost/"
"""What stands in the name of a step that keeps what was lost with another, since that may be begun again: between its
name and the attempt it was lost in.
"""
UNKNOWN: Final = "nobody knows how it ended; it counts as if all that was reserved for it had been used"


class Ledger:
    """The steps of one attempt at a turn.

    done     outputs of steps that ended, by name, as JSON has them
    started  steps that an earlier attempt began and of which nobody knows how they ended: which attempt (epoch) it was
    """

    def __init__(self, job: Claimed, store: port.Store, clock: Clock) -> None:
        self.job = job
        self.store, self.clock = store, clock
        self.done: dict[str, Any] = {}
        self.started: dict[str, int] = {}

    async def load(self) -> None:
        """Read what earlier attempts left. Raises StoreError."""
        if self.job.epoch == 1:
            return
        view = await self.store.job(self.job.id)
        for step in () if view is None else view.steps:
            if step.state == "done":
                self.done[step.name] = step.output
            elif step.state == "started":
                self.started[step.name] = step.epoch
        for name, epoch in list(self.started.items()):
            if f"{name}{LOST}{epoch}" in self.done:
                del self.started[name]

    async def begin(self, name: str, *, charge: port.Charge | None = None, first: Sequence[port.Change] = ()) -> None:
        """Note that a step begins, after *first* in the same commit; *charge* is spent in advance.

        Raises BudgetSpent where it may not be spent, LeaseLost, TooManySteps, StoreError, what *first* raises, and
        Suspended where a person asked to pause the job.
        """
        step = port.BeginStep(self.job, name, self.clock.now(), retry=True, charge=charge)
        begun: port.StepBegun = kept((await self.store.commit((*first, step)))[-1])
        match begun.verdict:
            case "pause":
                raise Suspended(pause=True)
            case "full":
                raise TooManySteps
            case "budget":
                assert charge is not None
                raise day_is_spent(charge, str(begun.output))
        self.started.pop(name, None)

    async def end(self, name: str, output: Any, *, cost: float | None = None, charge: port.Charge | None = None) -> Any:
        """Record what a step came to, and return it as it is on record. It is written though the turn is being
        cancelled: what was done has been paid for. Raises LeaseLost, StoreError.
        """
        text = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
        change = port.EndStep(self.job, name, self.clock.now(), text, cost=cost, charge=charge)
        with anyio.CancelScope(shield=True):
            kept((await self.store.commit((change,)))[0])
        self.done[name] = output
        return output

    async def fail(
        self,
        name: str,
        error: BaseException,
        *,
        charge: port.Charge | None = None,
        lost: dict[str, Any] | None = None,
    ) -> None:
        """Record that a step failed, so that it may be begun again, and what was *lost* with it; it is written though
        the turn is being cancelled.
        """
        said = told(error)[:MAX_ERROR].encode(errors="replace").decode()
        now = self.clock.now()
        failed = port.EndStep(self.job, name, now, error=said, charge=charge)
        with anyio.CancelScope(shield=True):
            if lost is None:
                await self.store.commit((failed,))
            else:
                with suppress(LeaseLost):  # then it is not ours to tell, and the failure is what matters
                    place = f"{name}{LOST}{self.job.epoch}."
                    place += str(sum(known.startswith(place) for known in self.done))
                    await self.record(place, lost | {"text": said, "failed": True}, failed)

    async def lose(self, name: str, lost: dict[str, Any]) -> None:
        """Record what may have been *lost* with a step that an earlier attempt began and of which nobody knows how it
        ended. Raises as `record` does.
        """
        await self.record(f"{name}{LOST}{self.started[name]}", lost | {"text": UNKNOWN, "failed": True})

    async def absorb(self, change: port.AbsorbJobs) -> str:
        """Take in what was said meanwhile; return it as JSON text. Raises LeaseLost, StoreError."""
        found: str = kept((await self.store.commit((change,)))[0])
        return found

    async def record(self, name: str, output: Any, *first: port.Change) -> Any:
        """Begin and end a step in one commit, after *first*: all of it happens or nothing does. Raises LeaseLost,
        TooManySteps, StoreError, what *first* raises.
        """
        now = self.clock.now()
        text = json.dumps(output, ensure_ascii=False, separators=(",", ":"))
        begin = port.BeginStep(self.job, name, now, at_once=True)
        kept((await self.store.commit((*first, begin, port.EndStep(self.job, name, now, text))))[len(first)])
        self.done[name] = output
        self.started.pop(name, None)
        return output


def day_is_spent(charge: port.Charge, limit: str) -> BudgetSpent:
    """Return the error for a call that a day's budget does not allow; *limit* is the field of *charge* that says so."""
    if limit == "max_cost":
        name, needs = "day_cost", f"{units(charge.cost)} with the next call, and {units(charge.max_cost or 0)} a day"
    else:
        tokens = charge.input_tokens + charge.output_tokens
        name, needs = "day_tokens", f"up to {tokens} tokens with the next call, and {charge.max_tokens} a day"
    return BudgetSpent(f"the day's budget of {charge.agent} does not reach: {needs} are allowed", limit=name)


def told(error: BaseException) -> str:
    """Return what a person is told of how a step failed."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return "it was cut off"  # by a cancel, a stop or a deadline; what asyncio says of it helps nobody
    return error.detail if isinstance(error, UnderstudyError) else f"{type(error).__name__}: {error}"
