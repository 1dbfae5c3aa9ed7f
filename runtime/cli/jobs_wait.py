"""Waiting for a job, over restarts of the daemon."""

import time
from collections.abc import Callable
from typing import Any, Final

from runtime.cli import daemon
from runtime.cli.bars import Bars
from runtime.cli.deadline import Expired, deadline
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.jobs_view import show_end
from runtime.cli.text import note
from runtime.control.wire import Cut
from schemas.codes import EXIT_INTERRUPTED, EXIT_NOT_RUNNING, EXIT_TEMPORARY, EXIT_TIMEOUT

RETRY_EVERY: Final = 0.25
"""Seconds between two tries to reach a daemon that is away."""

AWAY: Final = "the daemon is away; waiting for it (Ctrl-C stops waiting, not the job)"

_AWAY: Final = (EXIT_NOT_RUNNING, EXIT_TEMPORARY)

Part = Callable[[str, dict[str, Any]], None]


def attend(job_id: str, timeout: float | None, *, as_json: bool, patient: bool, announce: bool = False) -> int:
    """Wait for the end of a job, print its result and return the exit code.

    *announce* names the job on stderr first; here, so that a Ctrl-C right after it is answered with the way back.
    *patient* waits for a daemon that is down from the start as well. *timeout* is in seconds; it and Ctrl-C end the
    waiting, never the job. On a terminal the job's progress is shown.
    """
    bars = Bars(1)

    def on_part(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            bars.show(job_id, data.get("progress"))
        elif kind == "away":
            bars.clear()
            note(AWAY)

    try:
        if announce:
            note(f"job {job_id}")
        with deadline(timeout):
            job = watch(job_id, on_part, patient=patient) or {}
    except KeyboardInterrupt:
        hint = f"understudy jobs wait {job_id}, or end it: understudy jobs cancel {job_id}"
        raise Interrupted("interrupted; the job goes on", hint=hint, code=EXIT_INTERRUPTED, bare=True) from None
    except Expired:
        why = f"the job has not ended after {timeout:g} s; it goes on"
        raise Failure("Timed out", why, f"understudy jobs wait {job_id}", code=EXIT_TIMEOUT) from None
    finally:
        bars.clear()
    return show_end(job, as_json=as_json)


def watch(
    job_id: str, on_part: Part, *, patient: bool, over: Callable[[], bool] = lambda: False
) -> dict[str, Any] | None:
    """Follow a job to its end and return it as it is then; *on_part* sees each part on the way, `opened` whenever the
    stream begins, and `away` when it is found that the daemon has gone.

    A daemon that goes away is waited for, for ever, or until *over* says that nobody wants to know: then None; one that
    cannot be reached at first only if *patient*.
    """
    path = f"/v1/jobs/{daemon.segment(job_id)}/watch"
    away = False
    while True:
        try:
            with daemon.stream("GET", path, subject=job_id) as parts:
                patient, away = True, False
                on_part("opened", {})
                for kind, data, _ in parts:
                    if kind == "done":
                        return dict(data["job"])
                    on_part(kind, data)
        except Cut:  # the daemon died; what it had acknowledged, this job too, is there when it is back
            patient = True  # it was there, though nothing may have come of a job that says nothing
        except Failure as failure:
            if not patient or failure.exit not in _AWAY:
                raise
        if not away:
            on_part("away", {})
            away = True
        time.sleep(RETRY_EVERY)
        if over():
            return None


def follow_logs(job_id: str, tail: int | None, print_line: Callable[[dict[str, Any]], None]) -> None:
    """Print a job's lines, those there are and those to come, until it ends. None twice, none left out."""
    last = 0

    def catch_up(found: list[dict[str, Any]]) -> None:
        nonlocal last
        while found:
            for line in found:
                print_line(line)
            last = found[-1]["n"]
            found = _lines(job_id, after=last)

    def on_part(kind: str, data: dict[str, Any]) -> None:
        nonlocal last
        if kind == "away":
            note(AWAY)
        elif kind == "log" and data.get("n") == last + 1:
            print_line(data)
            last = data["n"]
        elif kind == "opened" or (kind == "log" and data.get("n", last + 1) > last):
            # Lines written before the stream was open, or skipped by it, are on the disk.
            catch_up(_lines(job_id, after=last))

    catch_up(_lines(job_id, tail=tail))
    job = watch(job_id, on_part, patient=False) or {}
    catch_up(_lines(job_id, after=last))
    note(f"the job is {job['status']}")


def _lines(job_id: str, **query: Any) -> list[dict[str, Any]]:
    return list(daemon.get(f"/v1/jobs/{daemon.segment(job_id)}/logs", subject=job_id, **query))
