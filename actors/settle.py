"""What becomes of a job when an attempt ends: one pure decision, given the attempt, its outcome and the time."""

from typing import Final

from runtime.errors import problem
from runtime.policies import Backoff
from runtime.store.port import Finish
from schemas.errors import Problem
from schemas.jobs import MAX_RESULT, Claimed, Outcome, RetryPolicy

DEFAULT_RETRY: Final = RetryPolicy()
LONGEST_WAIT_MS: Final = 366 * 86_400_000
"""As with the delay of a new job: beyond it lies no time that a job could be shown with."""


def settle(claimed: Claimed, outcome: Outcome, result: str | None, now: int, chance: float) -> Finish:
    """Decide how *claimed* goes on after *outcome*.

    *result* is the outcome's result as JSON text, *chance* a float in [0, 1) for the jitter. The rules, first match
    wins:

    | outcome | becomes |
    |---|---|
    | ok, result within 1 MiB | completed |
    | ok, result too large | failed/permanent |
    | a person must look (unknown kind, ambiguous step) | paused/hold, attempt refunded |
    | it stopped at a step because it is to pause | paused/user, attempt refunded |
    | it waits for a signal or for its children | waiting/signal, waiting/children, attempt refunded |
    | asked to go on later | delayed/snooze, attempt refunded |
    | the daemon stops, or a process that others used before died | pending, attempt refunded |
    | cancelled | cancelled/user |
    | its deadline has passed | failed/deadline |
    | rate limited | delayed/rate_limit, attempt refunded |
    | permanent, dependency, or a class the policy does not retry | failed/permanent |
    | attempts left | delayed/retry |
    | no attempts left | failed/timeout after a timeout, else failed/exhausted |

    A crash is counted apart by the store; the third ends in failed/poison.
    """
    if outcome.ok:
        if result is not None and len(result) * 4 > MAX_RESULT and (size := len(result.encode())) > MAX_RESULT:
            return Finish(claimed, "failed", "permanent", error=too_large(size).model_dump_json())
        return Finish(claimed, "completed", result=result)
    error = outcome.error.model_dump_json() if outcome.error is not None else None
    wait = min(outcome.retry_after_ms or 0, LONGEST_WAIT_MS)
    if outcome.hold:
        return Finish(claimed, "paused", "hold", error=error, refund=True)
    if outcome.pause:
        return Finish(claimed, "paused", "user", refund=True)
    if outcome.waits is not None:
        reason = "signal" if outcome.waits else "children"
        waits, until = outcome.waits or None, outcome.wait_until
        return Finish(claimed, "waiting", reason, refund=True, waits=waits, wait_until=until)
    if outcome.snooze:
        asked = not outcome.unasked
        return Finish(claimed, "delayed", "snooze", execute_after=now + wait, refund=True, asked=asked)
    if outcome.refund:
        return Finish(claimed, "pending", error=error, refund=True)
    return after_failure(claimed, outcome, error, wait, now, chance)


def after_failure(claimed: Claimed, outcome: Outcome, error: str | None, wait: int, now: int, chance: float) -> Finish:
    """Decide how a job goes on after a real failure."""
    policy = RetryPolicy.model_validate_json(claimed.retry) if claimed.retry else DEFAULT_RETRY
    kind = outcome.error_class or "bug"
    if kind == "cancelled":
        return Finish(claimed, "cancelled", "user", error=error)
    if claimed.deadline_at is not None and now >= claimed.deadline_at:
        return Finish(claimed, "failed", "deadline", error=error, crash=outcome.crash)
    backoff = Backoff(policy.base_ms, policy.factor, policy.max_ms, policy.jitter)
    due = now + min(max(round(backoff.delay(max(0, claimed.attempt - 1), chance)), wait), LONGEST_WAIT_MS)
    if kind == "rate_limited" and "rate_limited" in policy.retry_on:
        due = max(due, now + (outcome.retry_after_ms or policy.base_ms))  # no attempt is spent, so no wait grows
        return Finish(claimed, "delayed", "rate_limit", error=error, execute_after=due, refund=True)
    if kind not in policy.retry_on and not outcome.crash:
        return Finish(claimed, "failed", "permanent", error=error)
    if claimed.attempt >= claimed.max_attempts:
        reason = "timeout" if kind == "timeout" else "exhausted"
        return Finish(claimed, "failed", reason, error=error, crash=outcome.crash)
    return Finish(claimed, "delayed", "retry", error=error, execute_after=due, crash=outcome.crash)


def too_large(size: int) -> Problem:
    return problem("job.result_too_large", f"the result has {size} bytes; at most {MAX_RESULT} are kept")
