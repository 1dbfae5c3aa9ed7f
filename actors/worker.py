"""A worker: one job at a time, in the daemon's loop or in a child process of its own."""

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import anyio
from anyio import get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled

from actors.company import Company
from actors.kinds import Kind, ShellArgs, SleepArgs, checked
from actors.processes import Processes
from actors.reporter import Reporter
from runtime.attempt import (
    CANCELLED,
    LOST,
    MAX_ERROR_TEXT,
    STOPPED,
    Attempt,
    outcome_of,
    outcome_of_suspension,
    seconds_for,
    tell_surely,
    too_late,
)
from runtime.attempt_record import StoreRecord, answer
from runtime.calling import Unfit, arguments
from runtime.core.actor import Actor, handles
from runtime.core.owned import TaskHandle
from runtime.core.ref import Ref
from runtime.errors import LeaseLost, MailboxFull, problem
from runtime.job_context import AsyncContext, Facts
from runtime.loader import load_object
from runtime.outcomes import Fail, Suspended
from runtime.sandbox.parent import Command, Exit, child_env
from runtime.sandbox.run import Answer, run_command
from schemas.codes import CODES
from schemas.jobs import Claimed, JobEnded, Lane, Outcome, RunJob, WorkerReady

OUR_WORDS: Final = (
    *("Unfit", "ResultUnfit", "Fail", "Cancel", "Retry", "WaitTimeout", "SignalTimeout", "ChildrenTimeout"),
)
"""Error classes whose message says it all; of any other the name is told too."""
BEATS_A_LEASE: Final = 3


class Worker(Actor):
    """Runs what the queue hands it, and says how it ended. Cancelling reaches the work through the board at once."""

    queue: Ref
    processes: Processes

    def __init__(self, house: Company, name: str, lane: Lane, pool: str = "", serves: tuple[str, ...] = ()) -> None:
        self.house, self.name, self.lane, self.pool, self.serves = house, name, lane, pool, serves

    async def on_start(self) -> None:
        self.processes = Processes(self.house, self.ctx)
        self.queue = self.ctx.actor("queue")
        await self.queue.tell(
            WorkerReady(
                worker=self.name,
                lane=self.lane,
                pool=self.pool,
                serves=self.serves,
                incarnation=self.ctx.incarnation,
            )
        )

    @handles
    async def run(self, message: RunJob) -> None:
        if message.incarnation not in (0, self.ctx.incarnation):
            return
        job = message.job
        kind = self.house.kinds.get(job.kind)
        if kind is None or not kind.instant:
            await self._run(kind, job)
            return
        ended = JobEnded(job, Outcome(ok=True, text=job.args))
        try:
            self.queue.tell_nowait(ended)
        except MailboxFull:
            await tell_surely(self.queue, ended)

    async def _run(self, kind: Kind | None, job: Claimed) -> None:
        in_loop = kind is not None and kind.lane == "loop" and not job.suspect
        attempt = self.house.board.running(
            job,
            self._seconds(job) if in_loop else None,
            None if job.heartbeat_ms is None else job.heartbeat_ms / 1000,
        )
        lease = self.house.loaded.settings.runtime.lease / 1000
        reporter = Reporter(job, attempt, self.ctx, self.queue, self.house.clock.now, lease)
        watch: TaskHandle | None = None
        outcome = STOPPED  # which remains true if the daemon stops in the middle
        try:
            with attempt:
                if attempt.ending:  # the wish was here before us
                    await checkpoint_if_cancelled()
                if attempt.heartbeat is not None:
                    watch = self.ctx.start(attempt.watch, name=f"silence of {job.id}")
                outcome = await self._attempt(kind, job, reporter)
            outcome = self._judged(attempt, outcome, job)
        finally:
            if watch is not None:
                watch.cancel()
            await reporter.close()
            if reporter.used is not None and outcome is not LOST:
                outcome = replace(outcome, tokens=reporter.used)
            await tell_surely(self.queue, JobEnded(job, outcome))

    def _seconds(self, job: Claimed) -> float | None:
        return seconds_for(job, self.house.clock.now())

    def _judged(self, attempt: Attempt, outcome: Outcome, job: Claimed) -> Outcome:
        """Return the outcome of an attempt that has ended, by what ended it."""
        if attempt.lost:
            return LOST
        if attempt.cancelled:
            return CANCELLED
        if attempt.timed_out:
            return silent(attempt.heartbeat or 0) if attempt.silent else self._timed_out(job)
        return outcome

    def _timed_out(self, job: Claimed) -> Outcome:
        return too_late(job, self.house.clock.now())

    async def _attempt(self, kind: Kind | None, job: Claimed, reporter: Reporter) -> Outcome:
        if kind is None:
            why = problem("job.unknown_kind", f"nobody here knows the kind {job.kind!r}")
            return Outcome(ok=False, hold=True, error=why)
        try:
            if kind.lane == "loop" and not job.suspect:
                return await self._in_loop(kind, job, reporter)
            return await self._in_child(kind, job, reporter)
        except LeaseLost:
            reporter.silence()
            return LOST
        except Exception as error:  # noqa: BLE001  # whatever the user's code raised becomes the outcome of its job
            return outcome_of(error)
        except get_cancelled_exc_class():
            if self.ctx.system.loop.is_cancelled():
                raise
            return outcome_of(RuntimeError("it awaited something that was cancelled"))

    def _record(self, job: Claimed, reporter: Reporter) -> StoreRecord:
        return StoreRecord(job, self.house.store, self.house.clock, self.house.prepare, reporter.heard)

    # -- in the loop -------------------------------------------------------------------------------------------------

    async def _in_loop(self, kind: Kind, job: Claimed, reporter: Reporter) -> Outcome:
        if kind.name == "sleep":
            args: SleepArgs = checked(SleepArgs, json.loads(job.args), "the arguments of sleep")
            await anyio.sleep(args.seconds)
            return Outcome(ok=True, result={"slept": args.seconds})
        function = load_object(str(kind.run), self.house.loaded.folder)
        ctx = AsyncContext(Facts(job.id, job.attempt, job.epoch), reporter, self._record(job, reporter))
        try:
            result = await call(function, json.loads(job.args), ctx)
        except (Exception, Suspended, BaseExceptionGroup) as error:
            if ctx.durable.suspension is None or not is_ours(error):
                raise
            result = None
        if ctx.durable.suspension is not None:  # whatever the code made of it
            return outcome_of_suspension(ctx.durable.suspension.says)
        if ctx.durable.lost:
            raise LeaseLost
        return Outcome(ok=True, result=result)

    # -- in a child --------------------------------------------------------------------------------------------------

    async def _in_child(self, kind: Kind, job: Claimed, reporter: Reporter) -> Outcome:
        runtime = self.house.loaded.settings.runtime
        if kind.name == "shell":
            return await self._shell(job, reporter)
        payload = {
            "run": kind.run or kind.name,
            "folder": str(self.house.loaded.folder),
            "args": json.loads(job.args),
            "job": job.id,
            "attempt": job.attempt,
            "epoch": job.epoch,
            "lease_ms": runtime.lease,
        }
        said, own = await self.processes.run(
            kind,
            job,
            payload,
            reporter,
            partial(answer, self._record(job, reporter)),
            timeout=self._seconds(job),
            grace=runtime.grace / 1000,
        )
        if said.exit.reason == "timeout" and not said.answered:
            return self._timed_out(job)
        return outcome_of_answer(said, job, own=own)

    async def _shell(self, job: Claimed, reporter: Reporter) -> Outcome:
        runtime = self.house.loaded.settings.runtime
        args: ShellArgs = checked(ShellArgs, json.loads(job.args), "the arguments of shell")
        cwd = args.cwd or str(self.house.loaded.folder)
        exit_, out, err = await run_command(
            Command(args.argv, cwd, child_env(extra=args.env), args.stdin.encode()),
            reporter,
            timeout=self._seconds(job),
            grace=runtime.grace / 1000,
            beat=runtime.lease / 1000 / BEATS_A_LEASE,
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
            return self._timed_out(job)
        if exit_.code is None:
            return crashed(exit_)
        why = problem("job.failed", f"{args.argv[0]} ended with exit code {exit_.code}", data=result)
        return Outcome(ok=False, error=why, error_class="transient")


async def call(function: Callable[..., Any], args: dict[str, Any], ctx: AsyncContext) -> Any:
    """Call a function of the user's in the loop, with its context where it asks for it."""
    try:
        given = arguments(getattr(function, "__name__", "the function"), function, args, ctx)
    except Unfit as error:
        raise Fail(str(error), code=error.code) from None
    result = function(**given)
    return await result if inspect.isawaitable(result) else result


def is_ours(error: BaseException) -> bool:
    """Tell whether an error is nothing but failures and suspensions, so that nobody else has to hear of it."""
    if isinstance(error, BaseExceptionGroup):
        return error.split((Exception, Suspended))[1] is None
    return isinstance(error, Exception | Suspended)


def silent(seconds: float) -> Outcome:
    """Return the outcome of an attempt that was not heard of."""
    why = problem("job.timeout", f"nothing was heard of the attempt for {seconds:g} s", data={"silent": True})
    return Outcome(ok=False, error=why, error_class="timeout")


def crashed(exit_: Exit) -> Outcome:
    """The process died by a signal; it is the job's own crash unless we had sent it, or nobody knows."""
    ours = exit_.killed_by_us or exit_.reason == "lost"
    why = "its guard was killed" if exit_.reason == "lost" else f"killed by signal {exit_.signal}"
    return Outcome(
        ok=False, error=problem("job.crashed", f"the job's process ended: {why}"), error_class="lost", crash=not ours
    )


def outcome_of_answer(said: Answer, job: Claimed, *, own: bool) -> Outcome:
    """Return the outcome of a function that ran in a child; *own*: no other ran there before."""
    if said.suspend is not None:
        return outcome_of_suspension(said.suspend)
    if said.error is not None:
        return outcome_of_error(said.error)
    if said.answered:
        return Outcome(ok=True, result=said.result)
    if said.exit.code is None:
        outcome = crashed(said.exit)
        return outcome if own or not outcome.crash else replace(outcome, crash=False, refund=True)
    why = problem("job.failed", f"the process ended with exit code {said.exit.code} before it answered")
    # A suspect brought the daemon down by the same call: there it was a crash, so it is one here.
    return Outcome(ok=False, error=why, error_class="bug", crash=job.suspect)


def outcome_of_error(error: dict[str, Any]) -> Outcome:
    """Return the outcome for an error that a child reported."""
    wait = error.get("retry_after_ms")
    if error.get("outcome") == "snooze":
        return Outcome(ok=False, snooze=True, retry_after_ms=wait)
    code, text = error.get("code"), error["message"]
    if error.get("ours") and code in CODES:  # as it would be told had it run in the loop
        why = problem(code, text[:MAX_ERROR_TEXT], data=error.get("data"))
    else:
        text = text if error["type"] in OUR_WORDS else f"{error['type']}: {text}"
        why = problem("job.failed", text[:MAX_ERROR_TEXT], data={} if code is None else {"code": code})
    return Outcome(ok=False, error=why, error_class=error.get("class", "bug"), retry_after_ms=wait)
