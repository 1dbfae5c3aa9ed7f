"""What a turn has done, on record: each call of a model or a tool is a step of its job, made once and paid once.

A turn that was cut off (a crash, a wait for a person) runs again from its top and finds here what it has done.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import anyio

from runtime.attempt_record import kept
from runtime.clock import Clock
from runtime.errors import BudgetSpent, TooManySteps
from runtime.outcomes import Suspended
from runtime.store import port
from schemas.jobs import Claimed

MAX_ERROR: Final = 2000


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
                raise BudgetSpent(
                    f"the day's budget of {charge.agent} does not allow it ({begun.output})",
                    limit=f"day {begun.output}",
                )
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

    async def fail(self, name: str, error: BaseException, *, charge: port.Charge | None = None) -> None:
        """Record that a step failed, so that it may be begun again; written though the turn is being cancelled."""
        said = f"{type(error).__name__}: {error}"[:MAX_ERROR].encode(errors="replace").decode()
        change = port.EndStep(self.job, name, self.clock.now(), error=said, charge=charge)
        with anyio.CancelScope(shield=True):
            await self.store.commit((change,))

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
