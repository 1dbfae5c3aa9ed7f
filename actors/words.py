"""What attempts tell while they run: how far they are, what they log, and which process they run in."""

import json
from functools import partial
from typing import Any, Final

from actors.entry import Entry, again, given_up
from runtime.core.actor import Promise
from runtime.events import EventBus
from runtime.store import port
from schemas.events import Event
from schemas.jobs import JobLogged, JobProcess, JobProgress

KEPT: Final = "kept_processes"
"""The setting that names the processes which workers keep: (process group, start time) each."""


class Words:
    """What was told and is not written yet. Who follows a job hears it at once; the disk has it a moment later."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._logs: list[port.AppendLogs] = []
        self._progress: dict[int, port.SaveProgress] = {}
        self._processes: list[tuple[JobProcess, Promise]] = []
        self._kept: dict[str, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._logs or self._progress or self._processes)

    def progressed(self, message: JobProgress, now: int) -> None:
        """Note how far an attempt is; only its latest word is kept."""
        lease = message.lease
        self._tell(lease.id, "job.progress", {"progress": message.progress}, now)
        self._progress[lease.seq] = port.SaveProgress(lease, json.dumps(message.progress), now)

    def logged(self, message: JobLogged) -> None:
        """Note lines of an attempt."""
        for at, level, text in message.lines:
            self._tell(message.lease.id, "job.log", {"level": level, "text": text}, at)
        self._logs.append(port.AppendLogs(message.lease, message.lines))

    def process(self, message: JobProcess, promise: Promise) -> None:
        """Note the process of an attempt; it is waited for."""
        self._processes.append((message, promise))

    def is_kept(self, message: JobProcess) -> bool:
        """Tell whether the process of an attempt is one that is on the disk already."""
        return message.kept and self._kept.get(message.lease.worker) == (message.pgid, message.started)

    def _tell(self, job: str, kind: str, data: dict[str, Any], now: int) -> None:
        if self._bus.listens(job):
            self._bus.publish([Event(at=now, type=kind, subject=job, data=data)])

    def entries(self, *, all_: bool) -> list[Entry]:
        """Return what is to be written now; without *all_* only what somebody waits for. Lines are noted again where
        they could not be written, progress is not: the next word says more.
        """
        found: list[Entry] = []
        if all_:
            logs, self._logs = self._logs, []
            found += [Entry(lines, failed=partial(again, self._logs, lines), apart=given_up()) for lines in logs]
            progress, self._progress = self._progress, {}
            found += [Entry(change, apart=given_up()) for change in progress.values()]
        processes, self._processes = self._processes, []
        fresh = {told.lease.worker: (told.pgid, told.started) for told, _ in processes if told.kept}
        if fresh:
            kept = self._kept | fresh
            found.append(Entry(port.PutSetting(KEPT, json.dumps([*kept.values()])), lambda _: self._kept.update(fresh)))
        return found + [
            Entry(
                port.RecordProcess(told.lease, told.pgid, told.started),
                promise.resolve,
                promise.fail,
                given_up(promise.fail),
            )
            for told, promise in processes
        ]
