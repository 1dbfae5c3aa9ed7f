"""How attempts ended, and what that means: for their jobs, for suspects, and for the rate of their queue."""

from dataclasses import replace
from typing import Final

from actors import encoding
from actors.company import Company
from actors.entry import Entry
from actors.plan import Planner
from actors.rows import Rows
from actors.settle import settle
from runtime.attempt import MAX_ERROR_TEXT
from runtime.errors import StoreError, problem
from runtime.store import port
from schemas.jobs import Claimed, Outcome

NO_ROOM: Final = Outcome(ok=False, snooze=True, unasked=True, retry_after_ms=1000, tokens=0)
"""The mailbox of a job's worker was full: it comes back in a moment, and has used nothing."""


class Ends:
    """Ends of attempts that are not written yet."""

    def __init__(self, house: Company, planner: Planner, rows: Rows) -> None:
        self.house, self.planner, self.rows = house, planner, rows
        self._noted: list[tuple[Claimed, Outcome]] = []

    def __bool__(self) -> bool:
        return bool(self._noted)

    def note(self, claimed: Claimed, outcome: Outcome) -> None:
        """Note how an attempt ended."""
        self._noted.append((claimed, outcome))

    def entry(self, now: int) -> Entry:
        """Return the change that writes all ends; where it fails they are noted again, but for the tokens, which have
        been given back.
        """
        ends, self._noted = self._noted, []

        def failed(_: StoreError) -> None:
            self._noted += [(claimed, replace(outcome, tokens=None)) for claimed, outcome in ends]

        finishes = tuple([self._settled(claimed, outcome, now) for claimed, outcome in ends])
        return Entry(port.FinishJobs(finishes, now), failed=failed)

    def _settled(self, claimed: Claimed, outcome: Outcome, now: int) -> port.Finish:
        result = None
        if outcome.ok:
            result = outcome.text
            if result is None and outcome.result is not None:
                try:
                    result = encoding.as_given(outcome.result)
                except (TypeError, ValueError, RecursionError) as error:  # it must not take down others' commit
                    outcome = no_json(error)
        chance = self.house.clock.random()
        try:
            finish = settle(claimed, outcome, result, now, chance)
        except Exception as error:  # noqa: BLE001  # whatever cannot be kept of it must not take down others' commit
            why = problem("job.failed", f"how it ended cannot be kept: {type(error).__name__}")
            finish = port.Finish(claimed, "failed", "permanent", error=why.model_dump_json())
        planner = self.planner
        if planner.suspects and not (finish.refund or finish.crash):
            planner.suspects.pop(claimed.id, None)  # it came to its own end
        if outcome.error_class == "rate_limited":
            self.rows.block(claimed.queue, finish.execute_after or now + (outcome.retry_after_ms or 0))
        if outcome.tokens is not None:
            bucket = planner.bucket(claimed.queue, now)
            if bucket is not None:
                bucket.settle(claimed.tokens, outcome.tokens)
        return finish


def no_json(error: Exception) -> Outcome:
    """Return the outcome of an attempt whose result cannot be kept; no other attempt will do better."""
    why = problem("job.failed", f"the result cannot be written as JSON: {error}"[:MAX_ERROR_TEXT])
    return Outcome(ok=False, error=why, error_class="permanent")
