"""How fast jobs of a queue may start: a token bucket with two units, requests and tokens."""

from dataclasses import dataclass

from schemas.jobs import Rate


@dataclass(slots=True)
class Bucket:
    """A bucket that fills evenly and holds at most what the rate allows in its time.

    `requests` and `tokens` are what is left; tokens may fall below nothing where a job used more than it had said,
    and nothing starts until that is made up for. Times are milliseconds UTC; a clock that is set back fills nothing
    and takes nothing away.
    """

    rate: Rate
    requests: float
    tokens: float
    filled_at: int

    @classmethod
    def full(cls, rate: Rate, now: int) -> "Bucket":
        """Return a bucket that nothing was taken from."""
        return cls(rate, float(rate.requests or 0), float(rate.tokens or 0), now)

    def fill(self, now: int) -> None:
        """Put in what has come since the last time."""
        part = max(0, now - self.filled_at) / self.rate.per_ms
        if self.rate.requests is not None:
            self.requests = min(float(self.rate.requests), self.requests + part * self.rate.requests)
        if self.rate.tokens is not None:
            self.tokens = min(float(self.rate.tokens), self.tokens + part * self.rate.tokens)
        self.filled_at = now

    def starts(self) -> int | None:
        """Return how many jobs may start now; None: as many as there are."""
        if self.rate.tokens is not None and self.tokens < 1:
            return 0
        return None if self.rate.requests is None else int(self.requests)

    def budget(self) -> int | None:
        """Return how many tokens the jobs that start now may say together; None: any number."""
        return None if self.rate.tokens is None else int(self.tokens)

    def is_full(self) -> bool:
        """Tell whether waiting brings no more tokens, so that a job that wants more than all may start."""
        return self.rate.tokens is not None and self.tokens >= self.rate.tokens

    def take(self, jobs: int, tokens: int) -> None:
        """Take out what jobs that start reserve."""
        if self.rate.requests is not None:
            self.requests -= jobs
        if self.rate.tokens is not None:
            self.tokens -= tokens

    def settle(self, reserved: int, used: int) -> None:
        """Put right what a job had reserved by what it used."""
        if self.rate.tokens is not None:
            self.tokens = min(float(self.rate.tokens), self.tokens + reserved - used)

    def next_at(self, now: int) -> int:
        """Return when it is worth to look again: there is one more request, and more tokens by a twentieth."""
        wait = 0.0
        if self.rate.requests is not None and self.requests < 1:
            wait = (1 - self.requests) * self.rate.per_ms / self.rate.requests
        if self.rate.tokens is not None and self.tokens < self.rate.tokens:
            debt = max(0.0, 1 - self.tokens) * self.rate.per_ms / self.rate.tokens
            wait = max(wait, debt, self.rate.per_ms / 20)
        return now + max(1, int(wait) + 1)
