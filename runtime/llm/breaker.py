"""The circuit breaker: a provider that fails again and again is left alone for a while, then tried by one call."""

from typing import Final, Literal, TypeAlias

from runtime.clock import Clock
from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmCut,
    LlmOverloaded,
    LlmProtocol,
    LlmRequest,
    LlmTimeout,
    LlmTooLarge,
    LlmUnreachable,
)
from runtime.llm.faults import sign

State: TypeAlias = Literal["closed", "open", "half_open"]

Sign: TypeAlias = Literal["came", "good", "bad", "last", "void", "rested"]
"""What a call tells of its provider. came: the first part of an answer. good: a whole answer, or a refusal that only a
working provider gives. bad: a failure that is the provider's fault; last: the one that was one too many. void: nothing
(it was called off, or a rate limit). rested: the pause is over."""

TABLE: Final[dict[tuple[State, Sign], State]] = {
    ("closed", "came"): "closed",
    ("closed", "good"): "closed",
    ("closed", "bad"): "closed",
    ("closed", "last"): "open",
    ("closed", "void"): "closed",
    # Who still runs while it is open began before: it says nothing of now.
    ("open", "came"): "open",
    ("open", "good"): "open",
    ("open", "bad"): "open",
    ("open", "last"): "open",
    ("open", "void"): "open",
    ("open", "rested"): "half_open",
    # The first part is enough, for an answer may take minutes; the count is kept until the end, so that one more
    # failure opens it again.
    ("half_open", "came"): "closed",
    ("half_open", "good"): "closed",
    ("half_open", "bad"): "open",
    ("half_open", "last"): "open",
    ("half_open", "void"): "half_open",
}

FAULTS: Final = (LlmOverloaded, LlmUnreachable, LlmTimeout, LlmCut, LlmProtocol)
"""Failures that are the provider's fault."""

ANSWERS: Final = (LlmAuth, LlmRequest, LlmContext, LlmTooLarge)
"""Failures that only a working provider can give."""


class Breaker:
    """Counts the failures in a row of one provider.

    provider
        its name, for what a refused call is told.
    failures
        so many in a row open it; from then on calls are refused.
    pause
        for so many seconds; then one call is let through, and its end decides.
    """

    def __init__(self, provider: str, failures: int, pause: float, clock: Clock) -> None:
        self._provider, self._limit, self._pause, self._clock = provider, failures, pause, clock
        self._state: State = "closed"
        self._until = 0.0
        self._trial: Permit | None = None
        self.failures = 0

    @property
    def state(self) -> State:
        """How it stands now; the pause ends without anybody's doing."""
        if self._state == "open" and self._clock.monotonic() >= self._until:
            self._state = TABLE[self._state, "rested"]
        return self._state

    @property
    def left(self) -> float:
        """The seconds until the pause is over; 0 unless it is open."""
        return max(0.0, self._until - self._clock.monotonic()) if self.state == "open" else 0.0

    def check(self) -> None:
        """Raise LlmUnreachable with its `retry_after` where a call would be refused now."""
        state = self.state
        if state == "closed" or (state == "half_open" and self._trial is None):
            return
        why = f"refused without a call because {self.failures} failures in a row came before"
        if state == "open":
            wait, when = self.left, f"the next try is in {self.left:.1f} s"
        else:
            wait, when = self._pause, "one call is trying already"
        refusal = LlmUnreachable(f"{why}; {when}", retry_after=wait, breaker=state, failures=self.failures)
        raise sign(refusal, self._provider)

    def admit(self) -> "Permit":
        """Let a call through. Raises LlmUnreachable where it is refused."""
        self.check()
        permit = Permit(self)
        if self.state == "half_open":
            self._trial = permit
        return permit

    def heard(self, permit: "Permit", told: Sign) -> None:
        """Go by what the call of *permit* tells; while half open only the call that tries has a say."""
        state = self.state
        if state == "open" or (state == "half_open" and permit is not self._trial):
            return
        if told == "good":
            self.failures = 0
        elif told == "bad":
            self.failures += 1
            told = "last" if self.failures >= self._limit else "bad"
        self._state = TABLE[state, told]
        if self._state == "open":
            self._until = self._clock.monotonic() + self._pause
        if self._state != "half_open" or told == "void":
            self._trial = None


class Permit:
    """One call that was let through. Tell it what came of it; `release` it at the end in any case."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def came(self) -> None:
        """The answer has begun."""
        self._breaker.heard(self, "came")

    def good(self) -> None:
        """The answer is whole."""
        self._breaker.heard(self, "good")

    def failed(self, error: BaseException) -> None:
        """The call failed with *error*."""
        self._breaker.heard(self, sign_of(error))

    def release(self) -> None:
        """The call is over. One that tried and told nothing makes room for the next."""
        self._breaker.heard(self, "void")


def sign_of(error: BaseException) -> Sign:
    """Return what *error* tells of the provider."""
    if isinstance(error, FAULTS):
        return "bad"
    return "good" if isinstance(error, ANSWERS) else "void"
