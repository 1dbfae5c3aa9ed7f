"""How attempts ended, and what that means: for their jobs, for suspects, and for the rate of their queue."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from actors import encoding
from actors.company import Company
from actors.entry import Entry, given_up
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
    """Ends of attempts that are not written yet. *take_back* has all that a worker holds by the database go back."""

    def __init__(self, house: Company, planner: Planner, rows: Rows, take_back: Callable[[str], None]) -> None:
        self.house, self.planner, self.rows, self._take_back = house, planner, rows, take_back
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

        def apart(_: StoreError) -> list[Entry]:
            return [alone(finish, end) for finish, end in zip(finishes, ends, strict=True)]

        def alone(finish: port.Finish, end: tuple[Claimed, Outcome]) -> Entry:
            def failed(_: StoreError) -> None:
                self._noted.append((end[0], replace(end[1], tokens=None)))

            return Entry(port.FinishJobs((finish,), now), failed=failed, apart=lambda error: [in_short(finish, error)])

        def in_short(finish: port.Finish, error: StoreError) -> Entry:
            why = problem("job.failed", f"how it ended cannot be kept: {error.detail}")
            short = port.Finish(finish.fence, "failed", "permanent", error=why.model_dump_json())
            return Entry(port.FinishJobs((short,), now), apart=given_up(lambda _: self._take_back(finish.fence.worker)))

        finishes = tuple([self._settled(claimed, outcome, now) for claimed, outcome in ends])
        return Entry(port.FinishJobs(finishes, now), failed=failed, apart=apart)

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
