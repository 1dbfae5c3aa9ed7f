"""`jobs`: the table of its commands, and those that read: ls, dead, show, logs, wait."""

import sys
from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.jobs_view import LIST, dead, detail, log_line, row
from runtime.cli.jobs_wait import attend, follow_logs
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import DURATION, filter_options, json_option
from runtime.cli.text import dump, is_tty, note, say, say_json, table


@click.group(
    cls=LazyGroup,
    lazy={
        "submit": ("runtime.cli.jobs_submit", "submit", "Submit a job; it is on the disk when this returns."),
        "submit-batch": ("runtime.cli.jobs_submit", "submit_batch", "Submit many jobs: all of them or none."),
        "ls": ("runtime.cli.jobs", "ls", "List jobs, newest first."),
        "show": ("runtime.cli.jobs", "show", "Show one job with all there is of it."),
        "wait": ("runtime.cli.jobs", "wait", "Wait for the end of jobs; of one, print its result."),
        "logs": ("runtime.cli.jobs", "logs", "Show what a job wrote, and with -f what it writes."),
        "cancel": ("runtime.cli.jobs_act", "cancel", "End jobs, whatever they do."),
        "retry": ("runtime.cli.jobs_act", "retry", "Run failed or cancelled jobs again."),
        "pause": ("runtime.cli.jobs_act", "pause", "Hold jobs."),
        "resume": ("runtime.cli.jobs_act", "resume", "Let held jobs go on."),
        "signal": ("runtime.cli.jobs_act", "signal", "Send a job a signal that it waits for."),
        "graph": ("runtime.cli.jobs_graph", "graph", "Show what hangs together by dependencies."),
        "dead": ("runtime.cli.jobs", "dead_letter", "The dead letter: failed jobs, with the error of each attempt."),
    },
)
def jobs() -> None:
    """Submit, find, follow, hold, cancel and retry jobs."""


@click.command()
@filter_options
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@json_option
def ls(limit: int, as_json: bool, **where: Any) -> None:
    """List jobs, newest first."""
    found = daemon.get("/v1/jobs", limit=limit, **where)
    if as_json:
        say_json(found)
        return
    say(table(LIST, (row(job) for job in found)))
    if len(found) == limit and is_tty(sys.stderr):
        note(f"the latest {limit}; more with --limit")


@click.command("dead", epilog="When it is mended: understudy jobs retry --status failed --kind KIND --yes")
@click.option("--reason", help="Only those that failed for this reason: exhausted, permanent, timeout, poison, ...")
@click.option("--queue", help="Only those on this queue.")
@click.option("--kind", help="Only those of this kind.")
@click.option("--tag", help="Only those with this tag.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@json_option
def dead_letter(limit: int, as_json: bool, **where: Any) -> None:
    """Show the dead letter: jobs that failed for good, newest first, with the error of each attempt."""
    found = daemon.get("/v1/jobs", status="failed", errors=True, limit=limit, **where)
    if as_json:
        say_json(found)
        return
    say("\n\n".join(map(dead, found)) if found else "no job has failed")
    if len(found) == limit and is_tty(sys.stderr):
        note(f"the latest {limit}; more with --limit")


@click.command()
@click.argument("job_id", metavar="ID")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show one job with what it depends on, its steps and its attempts."""
    view = daemon.get(f"/v1/jobs/{daemon.segment(job_id)}", subject=job_id)
    if as_json:
        say_json(view)
    else:
        say(detail(view))


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--tail", type=click.IntRange(1, 10_000), help="Only the last lines.")
@json_option
def logs(job_id: str, follow: bool, tail: int | None, as_json: bool) -> None:
    """Show what a job wrote, and with -f what it writes."""

    def print_line(line: dict[str, Any]) -> None:
        say(dump(line) if as_json else log_line(line))

    if follow:
        follow_logs(job_id, tail, print_line)
        return
    lines = daemon.get(f"/v1/jobs/{daemon.segment(job_id)}/logs", subject=job_id, tail=tail)
    if as_json:
        say_json(lines)
        return
    for line in lines:
        print_line(line)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", type=DURATION, help="Stop waiting after this time; the jobs go on.")
@json_option
def wait(ids: tuple[str, ...], timeout: float | None, as_json: bool) -> int:
    """Wait for the end of jobs. Of one the result is printed, of several a line each as they end.

    Exit code 0 if all completed, 1 if one failed or was cancelled, 124 if the time was over first. A daemon that is
    started again meanwhile is waited for; one that is down from the start only with --timeout.
    """
    patient = timeout is not None
    if len(ids) == 1:
        return attend(ids[0], timeout, as_json=as_json, patient=patient)
    from runtime.cli.jobs_many import attend_all  # threads and queues, which one job does without

    return attend_all(tuple(dict.fromkeys(ids)), timeout, as_json=as_json, patient=patient)
