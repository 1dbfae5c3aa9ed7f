"""What the user's code may say of a job other than its result, and what it is told of the job it runs.

Raise one of the outcomes from a kind's function, and take a `JobContext` or an `AsyncJobContext` as a parameter. The
module imports nothing: a child process pays for each import.
"""

from typing import Any, Literal, Protocol


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
    """Not now: run it again in *seconds*. The attempt does not count; a job may snooze 1,000 times."""

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


class WaitTimeout(Outcome):
    """What was waited for did not come in time. Left alone it is a failure of class timeout, and may be tried again."""


class SignalTimeout(WaitTimeout):
    """The signal did not come in time."""


class ChildrenTimeout(WaitTimeout):
    """Not all children ended in time."""


class Suspended(BaseException):
    """The attempt ends here and the job goes on later, from the top; raised by the context, never by your code.

    It is no `Exception`, so that `except Exception` lets it pass. Whoever swallows it gains nothing: every further
    call of the context raises it again, and what the function then returns does not count. `says` is what the queue is
    told, as fields of `schemas.jobs.Outcome`, and for a job to be held a `code` and a `detail`.
    """

    def __init__(self, **says: Any) -> None:
        super().__init__("the job goes on later")
        self.says = says


class StepResult:
    """What a step's function may return to tell what the step cost: *cost* is any number, in a unit of your own."""

    __slots__ = ("cost", "output")

    def __init__(self, output: Any, *, cost: float | None = None) -> None:
        self.output = output
        self.cost = cost


class JobResult:
    """How another job stands: one that this one depends on, or a part of it.

    result
        what it returned, where it completed.
    error
        what went wrong as a dict (`code`, `detail`, ...), where it failed.
    """

    __slots__ = ("error", "id", "kind", "result", "status")

    def __init__(
        self, job: str, kind: str, status: str, result: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        self.id, self.kind, self.status = job, kind, status
        self.result, self.error = result, error

    @property
    def ok(self) -> bool:
        """Whether it completed."""
        return self.status == "completed"

    def __repr__(self) -> str:
        return f"JobResult({self.id!r}, {self.kind!r}, {self.status!r})"


OnAmbiguous = Literal["retry", "fail", "hold"]


class _Told(Protocol):
    """What every function is told of its job, and how it tells of itself; these calls never wait.

    epoch
        which start of the job this is, over all its life; it only grows. Hand it to a service that can refuse an older
        one (a fence), for an attempt that has lost its job may run on for a moment.
    idempotency_key
        the same for every attempt of the job; hand it to services that know such keys.
    """

    job_id: str
    attempt: int
    epoch: int
    idempotency_key: str

    def step_key(self, name: str) -> str:
        """Return the idempotency key of one step: the same whenever the step is run, another for each step."""
        ...

    def progress(self, value: Any) -> None:
        """Tell how far it is: anything JSON can say. Only the latest value is kept, written twice a second at most."""
        ...

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log; *level* is debug, info, warning or error. The last 10,000 lines are kept."""
        ...

    def heartbeat(self) -> None:
        """Show that it lives.

        A job with `heartbeat_ms` (or a kind with `heartbeat_timeout`) ends as timed out when nothing was heard of it
        for so long: no heartbeat, progress, log line, printed line or step.
        """
        ...

    def tokens(self, used: int) -> None:
        """Tell how many tokens were used of what the job had reserved; the rest goes back to its queue's rate.

        The last number told counts, and it replaces the estimate also where it is more. Raises ValueError below 0.
        """
        ...


class JobContext(_Told, Protocol):
    """The context of a plain function, which runs in a process of its own; a call waits for its answer.

    A function gets it by a parameter named `ctx`, or one annotated with this class. Every call may raise

    * `runtime.errors.LeaseLost`: the job is another attempt's by now; nothing more is written, and the process ends;
    * `runtime.errors.StoreError`: the database did not do it; let it pass, and the attempt is tried again;
    * `Suspended`: see there.

    The code runs again from the top after a failure, a restart or a suspension; what it put into steps is not done
    twice. So what lies outside of steps must be the same each time: names of steps, signals and children above all.
    Steps, sleeps, waits and children are each named once within an attempt, at most 255 characters, not beginning with
    `~`; else `StepRepeated` or `RequestInvalid` is raised. A job has at most 10,000 of them (`TooManySteps`).

    On cancellation, timeout or stop the process gets SIGTERM, which raises SystemExit in the main thread: `finally`
    blocks run, and after the grace (5 s unless configured) it is killed. A step that was running then is *ambiguous*.
    """

    def step(
        self,
        name: str,
        function: Any,
        *args: Any,
        on_ambiguous: OnAmbiguous = "retry",
        cost: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `function(*args, **kwargs)` unless its output is on record; return the output as JSON has it.

        Once recorded it never runs again for this job. The output (at most 1 MiB of JSON, else `StepUnfit`) is on the
        disk when this returns; a function may return a `StepResult` to tell also what it cost. An exception ends the
        step as failed and passes on; the next attempt runs the step again. `Suspended` in place of the call: a person
        asked to pause the job, it stops before this step and goes on when it is resumed.

        *on_ambiguous* says what becomes of a step that an earlier attempt began and did not live to end, so that nobody
        knows whether it took effect: `retry` runs it again (give `step_key(name)` to the service it calls), `fail`
        raises `StepAmbiguous`, `hold` holds the job for a person.
        """
        ...

    def sleep(self, seconds: float, name: str | None = None) -> None:
        """Sleep, over restarts too. The time to wake is recorded at the first call.

        For a second or more the attempt is given back and takes no worker; the job runs again when it is time, and this
        returns at once. Without *name* it is called by its number among the sleeps of the attempt.
        """
        ...

    def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """Return the payload of the next signal of this name, each once, in the order they were sent.

        Where there is none the attempt is given back until it comes, at most *timeout* seconds from the first call:
        then `SignalTimeout` is raised, here and on every later run.
        """
        ...

    def submit(self, kind: str, args: dict[str, Any] | None = None, *, name: str, **fields: Any) -> str:
        """Submit a job that is a part of this one; return its id.

        *fields* are those of `schemas.jobs.NewJob` but for `key`, `parent` and `ref`. A later run that submits by the
        same *name* gets the id of the same job; with other arguments `KeyConflict` is raised. Raises also what
        submitting raises: `UnknownKind`, `RequestInvalid`, `PayloadTooLarge`.
        """
        ...

    def wait_children(self, timeout: float | None = None) -> list[JobResult]:
        """Return all parts of this job, in the order they were submitted, once the last has ended.

        While one lives the attempt is given back. After *timeout* seconds from the first call `ChildrenTimeout` is
        raised if one still lives.
        """
        ...

    def parents(self) -> list[JobResult]:
        """Return the jobs that this one depends on, with their results, in the order of their ids."""
        ...


class AsyncJobContext(_Told, Protocol):
    """The context of an async function, in the daemon's loop or in a process of its own; what waits is a coroutine.

    A function gets it by a parameter named `ctx`, or one annotated with this class. See `JobContext`, which says what
    each of these does, what it raises, and what code must keep to. A plain function that runs in the loop is given this
    one too, and can use only what does not wait.

    On cancellation, timeout or stop the function is cancelled as by any scope: `finally` blocks run, the end of a step
    that was done by then is recorded all the same, and a step that was running is *ambiguous*.
    """

    async def step(
        self,
        name: str,
        function: Any,
        *args: Any,
        on_ambiguous: OnAmbiguous = "retry",
        cost: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """See `JobContext.step`; *function* may be async too."""
        ...

    async def sleep(self, seconds: float, name: str | None = None) -> None:
        """See `JobContext.sleep`."""
        ...

    async def wait_signal(self, name: str, timeout: float | None = None) -> Any:
        """See `JobContext.wait_signal`."""
        ...

    async def submit(self, kind: str, args: dict[str, Any] | None = None, *, name: str, **fields: Any) -> str:
        """See `JobContext.submit`."""
        ...

    async def wait_children(self, timeout: float | None = None) -> list[JobResult]:
        """See `JobContext.wait_children`."""
        ...

    async def parents(self) -> list[JobResult]:
        """See `JobContext.parents`."""
        ...
