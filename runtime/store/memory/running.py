"""What an attempt writes while it runs, and the signals that are sent to its job."""

from dataclasses import replace

from runtime.errors import TooManySteps
from runtime.store.memory.base import check_json
from runtime.store.memory.spending import Spending
from runtime.store.memory.tables import Job, Signal, Step
from runtime.store.port import (
    AppendLogs,
    BeginStep,
    EndStep,
    RecordProcess,
    SaveProgress,
    SendSignal,
    SignalSent,
    SignalTaken,
    StepBegun,
    TakeSignal,
)
from schemas.jobs import MAX_LOG_LINES, MAX_SIGNALS, MAX_STEPS, LogLine


class Running(Spending):
    """Writes behind a fence: an attempt that has lost its job changes nothing."""

    def record_process(self, change: RecordProcess) -> bool:
        job = self._held(change.fence)
        if job is not None:
            self._jobs.change(job, process=(change.pgid, change.started))
        return job is not None

    def save_progress(self, change: SaveProgress) -> bool:
        job = self._held(change.fence)
        if job is not None:
            self._jobs.change(job, progress=change.progress)
        return job is not None

    def append_logs(self, change: AppendLogs) -> bool:
        job = self._held(change.fence)
        if job is None:
            return False
        for n, (at, level, text) in enumerate(change.lines, job.lines + 1):
            self._logs.put((job.seq, n), LogLine(n=n, at=at, level=level, text=text))
            if n > MAX_LOG_LINES:
                self._logs.put((job.seq, n - MAX_LOG_LINES), None)
        self._jobs.change(job, lines=job.lines + len(change.lines))
        return True

    # -- steps -------------------------------------------------------------------------------------------------------

    def begin_step(self, change: BeginStep) -> StepBegun | None:
        job = self._held(change.fence)
        if job is None:
            return None
        step = self._steps.get((job.seq, change.name))
        if step is not None and step.state == "done":
            return StepBegun("done", step.output)
        if job.pause_at is not None and not change.at_once:
            return StepBegun("pause")
        if step is not None and step.state == "started" and step.epoch != job.epoch and not change.retry:
            return StepBegun("ambiguous")
        if step is None and self._steps.count(job.seq) >= MAX_STEPS:
            if change.at_once:
                raise TooManySteps
            return StepBegun("full")
        limit = None if change.charge is None else self._passed(change.charge)
        if limit is not None:
            return StepBegun("budget", limit)
        if change.charge is not None:
            self._spend(change.charge)
        self._steps.put((job.seq, change.name), Step("started", job.epoch, change.now))
        return StepBegun("run")

    def end_step(self, change: EndStep) -> bool:
        job = self._held(change.fence)
        step = None if job is None else self._steps.get((job.seq, change.name))
        if job is None or step is None or (step.state, step.epoch) != ("started", job.epoch):
            return False
        if change.charge is not None:
            self._spend(change.charge)
        ended = replace(step, ended_at=change.now, cost=change.cost)
        if change.error is not None:
            self._steps.put((job.seq, change.name), replace(ended, state="failed", error=change.error))
            return True
        self._steps.put((job.seq, change.name), replace(ended, state="done", output=change.output))
        self._tell(job, change.now, "step", step=change.name, cost=change.cost)
        return True

    # -- signals -----------------------------------------------------------------------------------------------------

    def _oldest_signal(self, job: Job, name: str) -> int | None:
        """The number of the oldest signal of a name that nobody took."""
        numbers = (n for n, signal in self._signals.of(job.seq) if signal.name == name and not signal.taken)
        return min(numbers, default=None)

    def send_signal(self, change: SendSignal) -> SignalSent | None:
        job = self._find(change.job)
        if job is None:
            return None
        if job.ended or sum(not signal.taken for _, signal in self._signals.of(job.seq)) >= MAX_SIGNALS:
            return SignalSent(job.status, kept=False)
        check_json(change.payload)
        return self._keep_signal(job, change.name, change.payload, change.now)

    def _keep_signal(self, job: Job, name: str, payload: str, now: int) -> SignalSent:
        """Keep a signal for a job that has not ended, and wake it where it waits for this one."""
        number = 1 + self._signals.count(job.seq)
        self._signals.put((job.seq, number), Signal(name, payload))
        self._tell(job, now, "signalled", signal=name)
        if (job.status, job.reason, job.waits) != ("waiting", "signal", name):
            return SignalSent(job.status, kept=True)
        self._wake([job], now)
        return SignalSent("pending", kept=True)

    def take_signal(self, change: TakeSignal) -> SignalTaken | None:
        job = self._held(change.fence)
        if job is None:
            return None
        step = self._steps.get((job.seq, change.step))
        if step is not None and step.state == "done":
            return SignalTaken(step.output)
        number = self._oldest_signal(job, change.name)
        if number is None:
            return SignalTaken(None)
        signal = self._signals[job.seq, number]
        self._signals.put((job.seq, number), replace(signal, taken=True))
        taken = Step("done", job.epoch, change.now, change.now, signal.payload)
        self._steps.put((job.seq, change.step), taken)
        return SignalTaken(signal.payload)
