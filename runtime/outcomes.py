"""What the user's code may say of a job other than its result, and what it is told of the job it runs.

Raise one of these from a kind's function. The module imports nothing: a child process pays for each import.
"""

from typing import Any, Protocol


class Outcome(Exception):
    """What every outcome is; not raised itself."""


class Retry(Outcome):
    """The attempt failed and is tried again, as far as the budget of attempts goes; *after* is in seconds.

    Without *after* the retry policy of the job says when.
    """

    def __init__(self, after: float | None = None, message: str = "") -> None:
        super().__init__(message or "asked to be tried again")
        self.after = after


class Snooze(Outcome):
    """Not now: run it again in *seconds*. The attempt does not count."""

    def __init__(self, seconds: float, message: str = "") -> None:
        super().__init__(message or f"asked to wait {seconds:g} s")
        self.seconds = seconds


class Fail(Outcome):
    """The job failed for good; no attempt will help. *code* is for programs, the user's own word."""

    def __init__(self, message: str, *, code: str = "job.failed") -> None:
        super().__init__(message)
        self.code = code


class Cancel(Outcome):
    """The job is no longer wanted; it ends as cancelled."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "called off by its own code")
        self.reason = reason


class JobContext(Protocol):
    """What a kind's function is told of its job: it asks by a parameter named `ctx`, or one annotated with this class.

    `idempotency_key` is the same for every attempt of the job; hand it to services that know such keys.
    """

    job_id: str
    attempt: int
    idempotency_key: str

    def progress(self, value: Any) -> None:
        """Tell how far it is: anything JSON can say. Only the latest value is kept."""
        ...

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log; *level* is debug, info, warning or error."""
        ...
