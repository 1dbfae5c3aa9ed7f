"""The contexts that a job's code is handed: for async code in the loop or in a child, and for plain code in a child.

What each call does is said in `runtime.outcomes`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from runtime.durable import Blocking, Durable, Record, run_now
from runtime.outcomes import JobResult, OnAmbiguous

T = TypeVar("T")


class Teller(Protocol):
    """Who passes on what an attempt tells of itself, without waiting for it to arrive."""

    def progress(self, value: Any) -> None:
        """Tell how far it is."""
        ...

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        ...

    def heard(self) -> None:
        """Show that it lives."""
        ...

    def tokens(self, used: int) -> None:
        """Tell how many tokens were used."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What code is told of its job."""

    job_id: str
    attempt: int
    epoch: int


class _Context:
    """What both kinds of context have in common."""

    durable: Durable

    def __init__(self, facts: Facts, teller: Teller, durable: Durable) -> None:
        self.job_id = self.idempotency_key = facts.job_id
        self.attempt, self.epoch = facts.attempt, facts.epoch
        self.durable = durable
        self._teller = teller

    def step_key(self, name: str) -> str:
        """Return the idempotency key of one step."""
        return f"{self.job_id}/{name}"

    def progress(self, value: Any) -> None:
        """Tell how far it is. Raises TypeError or ValueError for what JSON cannot say."""
        self.durable.look()
        self._teller.progress(value)

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        self.durable.look()
        self._teller.log(str(text), level)

    def heartbeat(self) -> None:
        """Show that it lives."""
        self.durable.look()
        self._teller.heard()

    def tokens(self, used: int) -> None:
        """Tell how many tokens were used."""
        self.durable.look()
        self._teller.tokens(used)


class AsyncContext(_Context):
    """The `runtime.outcomes.AsyncJobContext`. Of no use once its attempt has ended."""

    def __init__(self, facts: Facts, teller: Teller, record: Record) -> None:
        super().__init__(facts, teller, Durable(facts.job_id, record))
        self.step = self.durable.step
        self.sleep = self.durable.sleep
        self.wait_signal = self.durable.wait_signal
        self.submit = self.durable.submit
        self.wait_children = self.durable.wait_children
        self.parents = self.durable.parents


class BlockingContext(_Context):
    """The `runtime.outcomes.JobContext`, over a record that answers without waiting on a loop."""

    def __init__(self, facts: Facts, teller: Teller, record: Record, nap: Callable[[float], None]) -> None:
        super().__init__(facts, teller, Blocking(facts.job_id, record, nap))

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        on_ambiguous: OnAmbiguous = "retry",
        cost: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a step, or return what is on record of it."""
        return run_now(self.durable.step(name, function, *args, on_ambiguous=on_ambiguous, cost=cost, **kwargs))

    def sleep(self, seconds: float, name: str | None = None) -> None:
        """Sleep until the time that is on record."""
        run_now(self.durable.sleep(seconds, name))

    def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """Take the next signal of a name."""
        return run_now(self.durable.wait_signal(name, timeout))

    def submit(self, kind: str, args: dict[str, Any] | None = None, *, name: str, **fields: Any) -> str:
        """Add a part of the job, once by its name."""
        return run_now(self.durable.submit(kind, args, name=name, **fields))

    def wait_children(self, timeout: float | None = None) -> list[JobResult]:
        """Return the parts of the job when all have ended."""
        return run_now(self.durable.wait_children(timeout))

    def parents(self) -> list[JobResult]:
        """Return what the job depends on."""
        return run_now(self.durable.parents())
