"""Pure deciders that are given the time: how long to wait, when to give up."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Backoff:
    """How the waits grow: `base * factor**n` seconds, at most `max`, shortened by up to `jitter` of itself.

    Jitter goes downward only and after the cap, so a delay never exceeds `max` and a herd still spreads.
    `jitter=1.0` is full jitter: anything from 0 to the whole.
    """

    base: float = 1.0
    factor: float = 2.0
    max: float = 300.0
    jitter: float = 1.0

    def delay(self, n: int, chance: float) -> float:
        """Return the seconds to wait before retry number *n* (from 0); *chance* is a float in [0, 1)."""
        try:
            whole = min(self.max, self.base * self.factor**n)
        except OverflowError:
            whole = self.max
        return whole * (1.0 - self.jitter * chance)


@dataclass(slots=True)
class RestartLimit:
    """How often a child may crash in a row before its supervisor gives up.

    The first restart is immediate, the next waits 0.2 s, doubling to 30 s. A sliding window alone never trips under
    backoff (the waits outgrow it), so what counts is crashes in a row; a stable stretch (`reset_after` seconds alive
    with at least one message handled) forgets them. Crashes by one durable message count once: the message pays with
    its own attempts.
    """

    allowed: int = 5
    reset_after: float = 60.0
    backoff: Backoff = field(default_factory=lambda: Backoff(base=0.2, factor=2.0, max=30.0, jitter=0.5))
    crashes: int = 0
    blamed: set[str] = field(default_factory=set)

    def crashed(self, *, alive_for: float, handled: int, blame: str | None, chance: float) -> float | None:
        """Count a crash; return the seconds to wait before the restart, or None where the limit is passed.

        *alive_for* is in seconds, *handled* the messages the dead incarnation finished, *blame* the id of the durable
        message that did it, if one did.
        """
        if alive_for >= self.reset_after and handled > 0:
            self.reset()
        if blame is None or blame not in self.blamed:
            self.crashes += 1
        if blame is not None:
            self.blamed.add(blame)
        if self.crashes > self.allowed:
            return None
        return 0.0 if self.crashes <= 1 else self.backoff.delay(self.crashes - 2, chance)

    def reset(self) -> None:
        """Forget every crash: a person mended it, or it ran well for long enough."""
        self.crashes = 0
        self.blamed.clear()
