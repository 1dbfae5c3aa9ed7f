"""A worker: one job at a time, in the daemon's loop or in a child process of its own."""

import inspect
import json
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import anyio
from anyio import get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from actors.company import Company
from actors.kinds import Kind, ShellArgs, SleepArgs, checked
from runtime.attempt import CANCELLED, MAX_ERROR_TEXT, STOPPED, outcome_of, tell_surely
from runtime.core.actor import Actor, ActorContext, handles
from runtime.core.owned import TaskHandle
from runtime.core.ref import Ref
from runtime.errors import ActorError, LeaseLost, StoreError, problem
from runtime.loader import load_object
from runtime.outcomes import Fail
from runtime.sandbox.parent import Command, Exit, child_env
from runtime.sandbox.run import Answer, run_command, run_python
from schemas.jobs import (
    MAX_LOG_LINES,
    Assignment,
    JobEnded,
    JobLogged,
    JobProcess,
    JobProgress,
    Lane,
    Outcome,
    RunJob,
    WorkerReady,
)

TELL_EVERY: Final = 0.02
OUR_WORDS: Final = ("Unfit", "ResultUnfit", "Fail", "Cancel", "Retry")
"""Error classes whose message says it all; of any other the name is told too."""


class Reporter:
    """What an attempt tells while it runs; in-loop code of the user's gets it as its `ctx`
    (`runtime.outcomes.JobContext`).

    What comes in a burst is one message to the queue; of more lines than are kept of a job the oldest go.
    """

    def __init__(self, assignment: Assignment, ctx: ActorContext, queue: Ref, now: Callable[[], int]) -> None:
        self._lease, self._ctx, self._queue, self._now = assignment.lease, ctx, queue, now
        self._lines: deque[tuple[int, str, str]] = deque(maxlen=MAX_LOG_LINES)
        self._progress: JobProgress | None = None
        self._sender: TaskHandle | None = None
        self.job_id = assignment.lease.id
        self.attempt = assignment.attempt
        self.idempotency_key = assignment.lease.id

    def progress(self, value: Any) -> None:
        """Tell how far it is; only the latest is kept."""
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what is no JSON is refused where it is said
        self._progress = JobProgress(lease=self._lease, progress=value)
        self._soon()

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        self._lines.append((self._now(), level, text.encode(errors="replace").decode()))
        self._soon()

    def _soon(self) -> None:
        if self._sender is None or self._sender.done:
            self._sender = self._ctx.start(self._send, name=f"reports of {self.job_id}")

    async def _send(self) -> None:
        while self._lines or self._progress is not None:
            await self._tell()
            await anyio.sleep(TELL_EVERY)

    async def _tell(self) -> None:
        progress, self._progress = self._progress, None
        lines = tuple(self._lines)
        self._lines.clear()
        try:
            if progress is not None:
                await tell_surely(self._queue, progress)
            if lines:
                await tell_surely(self._queue, JobLogged(lease=self._lease, lines=lines))
        except ActorError:
            return  # the queue is gone; then these words are too

    async def close(self) -> None:
        """Tell the rest, before it is told how the attempt ended."""
        if self._sender is not None:
            self._sender.cancel()
            await self._tell()

    async def started(self, pgid: int, started: int) -> bool:
        """Have the process group kept before its work begins.

        False where the attempt no longer owns the job, or where it cannot be kept now: then nothing begins, and the
        attempt does not count.
        """
        try:
            return await self._queue.ask(JobProcess(lease=self._lease, pgid=pgid, started=started))
        except (StoreError, ActorError):
            return False


class Worker(Actor):
    """Runs what the queue hands it, and says how it ended. Cancelling reaches the work through the board at once."""

    def __init__(self, house: Company, name: str, lane: Lane) -> None:
        self.house, self.name, self.lane = house, name, lane

    async def on_start(self) -> None:
        ready = WorkerReady(worker=self.name, lane=self.lane, incarnation=self.ctx.incarnation)
        await self.ctx.actor("queue").tell(ready)

    @handles
    async def run(self, message: RunJob) -> None:
        if message.incarnation not in (0, self.ctx.incarnation):
            return
        job = message.assignment
        queue = self.ctx.actor("queue")
        kind = self.house.kinds.get(job.kind)
        if kind is not None and kind.instant:
            await tell_surely(queue, JobEnded(lease=job.lease, outcome=Outcome(ok=True, result=job.args)))
            return
        reporter = Reporter(job, self.ctx, queue, self.house.clock.now)
        outcome = STOPPED  # which remains true if the daemon stops in the middle
        try:
            in_loop = kind is not None and kind.lane == "loop" and not job.suspect
            seconds = job.timeout_ms / 1000 if in_loop and job.timeout_ms is not None else None
            with self.house.board.running(job.lease, seconds) as attempt:
                if attempt.wished:  # the wish was here before us
                    await checkpoint_if_cancelled()
                outcome = await self._attempt(kind, job, reporter)
            if attempt.cancelled:
                outcome = CANCELLED
            elif attempt.timed_out:
                outcome = timed_out(job)
        finally:
            await reporter.close()
            await tell_surely(queue, JobEnded(lease=job.lease, outcome=outcome))

    async def _attempt(self, kind: Kind | None, job: Assignment, reporter: Reporter) -> Outcome:
        if kind is None:
            why = problem("job.unknown_kind", f"nobody here knows the kind {job.kind!r}")
            return Outcome(ok=False, hold=True, error=why)
        try:
            if kind.lane == "loop" and not job.suspect:
                return await self._in_loop(kind, job, reporter)
            return await self._in_child(kind, job, reporter)
        except LeaseLost as lost:
            return Outcome(ok=False, error=lost.problem(), error_class="lost", refund=True)
        except Exception as error:  # noqa: BLE001  # whatever the user's code raised becomes the outcome of its job
            return outcome_of(error)
        except get_cancelled_exc_class():
            if self.ctx.system.loop.is_cancelled():
                raise
            return outcome_of(RuntimeError("it awaited something that was cancelled"))

    async def _in_loop(self, kind: Kind, job: Assignment, reporter: Reporter) -> Outcome:
        if kind.name == "sleep":
            args: SleepArgs = checked(SleepArgs, job.args, "the arguments of sleep")
            await anyio.sleep(args.seconds)
            return Outcome(ok=True, result={"slept": args.seconds})
        function = load_object(str(kind.run), self.house.loaded.folder)
        return Outcome(ok=True, result=await call(function, job.args, reporter))

    async def _in_child(self, kind: Kind, job: Assignment, reporter: Reporter) -> Outcome:
        grace = self.house.loaded.settings.runtime.grace / 1000
        timeout = None if job.timeout_ms is None else job.timeout_ms / 1000
        if kind.name == "shell":
            return await self._shell(job, reporter, timeout, grace)
        payload = {
            "run": kind.run or kind.name,
            "folder": str(self.house.loaded.folder),
            "args": job.args,
            "job": job.lease.id,
            "attempt": job.attempt,
            "key": reporter.idempotency_key,
        }
        answer = await run_python(
            payload,
            timeout=timeout,
            grace=grace,
            on_started=reporter.started,
            on_line=lambda stream, line: reporter.log(line, stream),
            on_progress=reporter.progress,
            on_log=lambda level, text: reporter.log(text, level),
        )
        return outcome_of_answer(answer, job)

    async def _shell(self, job: Assignment, reporter: Reporter, timeout: float | None, grace: float) -> Outcome:
        args: ShellArgs = checked(ShellArgs, job.args, "the arguments of shell")
        cwd = args.cwd or str(self.house.loaded.folder)
        command = Command(args.argv, cwd, child_env(extra=args.env), args.stdin.encode())
        exit_, out, err = await run_command(
            command,
            timeout=timeout,
            grace=grace,
            on_started=reporter.started,
            on_line=lambda stream, line: reporter.log(line, stream),
        )
        result = {
            "exit_code": exit_.code,
            "stdout": out.text(),
            "stderr": err.text(),
            "dropped": out.dropped + err.dropped,
        }
        if exit_.code == 0 and exit_.reason == "exit":
            return Outcome(ok=True, result=result)
        if exit_.reason == "timeout":
            return timed_out(job)
        if exit_.code is None:
            return crashed(exit_)
        why = problem("job.failed", f"{args.argv[0]} ended with exit code {exit_.code}", data=result)
        return Outcome(ok=False, error=why, error_class="transient")


async def call(function: Callable[..., Any], args: dict[str, Any], ctx: Reporter) -> Any:
    """Call a function of the user's in the loop, with `ctx` where it asks for it."""
    signature = inspect.signature(function)
    given = args | ({"ctx": ctx} if "ctx" in signature.parameters and "ctx" not in args else {})
    try:
        signature.bind(**given)
    except TypeError as error:
        raise Fail(f"the arguments do not fit: {error}", code="job.failed") from None
    result = function(**given)
    return await result if inspect.isawaitable(result) else result


def timed_out(job: Assignment) -> Outcome:
    seconds = (job.timeout_ms or 0) / 1000
    return Outcome(
        ok=False, error=problem("job.timeout", f"the attempt took more than {seconds:g} s"), error_class="timeout"
    )


def crashed(exit_: Exit) -> Outcome:
    """The process died by a signal; it is the job's own crash unless we had sent it, or nobody knows."""
    ours = exit_.killed_by_us or exit_.reason == "lost"
    why = "its guard was killed" if exit_.reason == "lost" else f"killed by signal {exit_.signal}"
    return Outcome(
        ok=False, error=problem("job.crashed", f"the job's process ended: {why}"), error_class="lost", crash=not ours
    )


def outcome_of_answer(answer: Answer, job: Assignment) -> Outcome:
    """Return the outcome of a function that ran in a child."""
    if answer.answered and answer.error is None:
        return Outcome(ok=True, result=answer.result)
    if answer.error is not None:
        return outcome_of_error(answer.error)
    if answer.exit.reason == "timeout":
        return timed_out(job)
    if answer.exit.code is None:
        return crashed(answer.exit)
    why = problem("job.failed", f"the process ended with exit code {answer.exit.code} before it answered")
    # A suspect brought the daemon down by the same call: there it was a crash, so it is one here.
    return Outcome(ok=False, error=why, error_class="bug", crash=job.suspect)


def outcome_of_error(error: dict[str, Any]) -> Outcome:
    """Return the outcome for an error that a child reported."""
    wait = error.get("retry_after_ms")
    if error.get("outcome") == "snooze":
        return Outcome(ok=False, snooze=True, retry_after_ms=wait)
    data = {"code": error["code"]} if "code" in error else {}
    text = error["message"] if error["type"] in OUR_WORDS else f"{error['type']}: {error['message']}"
    why = problem("job.failed", text[:MAX_ERROR_TEXT], data=data)
    return Outcome(ok=False, error=why, error_class=error.get("class", "bug"), retry_after_ms=wait)
