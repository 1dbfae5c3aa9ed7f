"""Waiting for several jobs at once: progress on a terminal, a line for each as it ends, one exit code for all."""

import queue
import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from runtime.cli.bars import Bars
from runtime.cli.deadline import Expired, deadline
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.jobs_view import failure_of
from runtime.cli.jobs_wait import AWAY, Part, watch
from runtime.cli.text import cell, note, say, say_json
from schemas.codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOT_RUNNING, EXIT_OK, EXIT_TIMEOUT

WATCHERS: Final = 16
"""Jobs that are followed at the same moment; the daemon takes 128 connections in all."""


class News(NamedTuple):
    """What one watcher heard: progress, that the daemon is away, the job at its end, or why it cannot be watched."""

    job: str
    progress: Any = None
    away: bool = False
    ended: dict[str, Any] | None = None
    failure: Failure | None = None


class Watchers:
    """Threads that follow one job after the other and tell what they hear through one queue."""

    def __init__(self, ids: Sequence[str], *, patient: bool) -> None:
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._left: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._patient = patient
        self._over = threading.Event()
        for job in ids:
            self._left.put(job)
        for _ in range(min(WATCHERS, len(ids))):
            threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """Have the threads end once they look up: nobody listens any more."""
        self._over.set()

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                job = self._left.get_nowait()
            except queue.Empty:
                return
            try:
                ended = watch(job, self._hear(job), patient=self._patient, over=self._over.is_set)
                self.news.put(News(job, ended=ended))
            except Failure as failure:
                self.news.put(News(job, failure=failure))

    def _hear(self, job: str) -> Part:
        def hear(kind: str, data: dict[str, Any]) -> None:
            if kind == "progress":
                self.news.put(News(job, progress=data.get("progress")))
            elif kind in ("away", "opened"):
                self.news.put(News(job, away=kind == "away"))

        return hear


def attend_all(ids: Sequence[str], timeout: float | None, *, as_json: bool, patient: bool) -> int:
    """Wait for the end of every job and return the exit code: 0 if all of them completed.

    *timeout* is in seconds; it and Ctrl-C end the waiting, never a job.
    """
    bars = Bars(len(ids))
    ended: dict[str, dict[str, Any]] = {}
    watchers: Watchers | None = None
    try:
        with deadline(timeout):
            watchers = Watchers(ids, patient=patient)
            code = _collect(watchers.news, ended, bars, len(ids), tell=not as_json)
    except KeyboardInterrupt:
        bars.clear()
        left = len(ids) - bars.ended
        hint = "understudy jobs wait with the same ids goes on waiting"
        raise Interrupted(f"interrupted; {left} go on", hint=hint, code=EXIT_INTERRUPTED, bare=True) from None
    except Expired:
        bars.clear()
        why = f"{len(ids) - bars.ended} of {len(ids)} jobs have not ended after {timeout:g} s; they go on"
        raise Failure("Timed out", why, "wait again, or: understudy why ID", code=EXIT_TIMEOUT) from None
    finally:
        if watchers is not None:
            watchers.stop()
    if as_json:
        say_json([ended[job] for job in ids if job in ended])
    return code


def _collect(
    news: "queue.SimpleQueue[News]", ended: dict[str, dict[str, Any]], bars: Bars, total: int, *, tell: bool
) -> int:
    code = EXIT_OK
    away = False
    bars.draw()
    while bars.ended < total:
        heard = news.get()
        if heard.ended is None and heard.failure is None:
            if heard.away and not away:
                bars.clear()
                note(AWAY)
            away = heard.away
            if heard.progress is not None:
                bars.show(heard.job, heard.progress)
            continue
        bars.end(heard.job)
        bars.clear()
        said = _tell(heard, tell=tell)
        code = code or said
        if heard.ended is not None:
            ended[heard.job] = heard.ended
        bars.draw()
    bars.clear()
    return code


def _tell(heard: News, *, tell: bool) -> int:
    """Say how one job ended, and if it did not complete why; return its exit code."""
    if heard.failure is not None:
        if heard.failure.exit == EXIT_NOT_RUNNING:
            raise heard.failure  # all others would say the same
        click.echo(heard.failure.render(), err=True)
        return heard.failure.exit
    job = heard.ended or {}
    if tell:
        say(f"{cell(job['id'])} {cell(job['status'])}")
        if job["status"] != "completed":
            failure = failure_of(job)
            failure.what = f"{job['id']}: {failure.what}"
            click.echo(failure.render(), err=True)
    return EXIT_OK if job["status"] == "completed" else EXIT_FAILED
