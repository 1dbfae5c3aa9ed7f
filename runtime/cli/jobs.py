"""`jobs`: submit, list, show, follow, cancel, retry, wait."""

import sys
from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.jobs_view import LIST, detail, log_line, row
from runtime.cli.jobs_wait import attend, follow_logs
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import DURATION, json_option, json_value, quoted
from runtime.cli.text import cell, dump, escape, is_tty, note, say, say_json, table
from schemas.codes import CODES

STATUSES = ("pending", "waiting", "delayed", "active", "paused", "completed", "failed", "cancelled")


@click.group(
    cls=LazyGroup,
    lazy={
        "submit": ("runtime.cli.jobs", "submit", "Submit a job; it is on the disk when this returns."),
        "ls": ("runtime.cli.jobs", "ls", "List jobs, newest first."),
        "show": ("runtime.cli.jobs", "show", "Show one job with its attempts."),
        "logs": ("runtime.cli.jobs", "logs", "Show what a job wrote, and with -f what it writes."),
        "cancel": ("runtime.cli.jobs", "cancel", "End a job, whatever it does."),
        "retry": ("runtime.cli.jobs", "retry", "Run a failed or cancelled job again."),
        "wait": ("runtime.cli.jobs", "wait", "Wait for a job's end and print its result."),
    },
)
def jobs() -> None:
    """Submit, list, follow, cancel and retry jobs."""


@click.command(epilog="""Example: understudy jobs submit shell --arg 'argv=["sleep","2"]' --wait""")
@click.argument("kind")
@click.option("--arg", "pairs", multiple=True, metavar="NAME=JSON", help="One argument; may be given many times.")
@click.option("--args", "whole", metavar="JSON", help="All arguments as one JSON object.")
@click.option("--queue", help="The queue; else the kind's own.")
@click.option("--priority", type=click.IntRange(0, 1000), help="Lower runs sooner; 100 if not given.")
@click.option("--delay", type=DURATION, help="Not before this time has passed.")
@click.option("--key", help="Idempotency key: the same key adds nothing a second time.")
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="How often it is tried.")
@click.option("--timeout", type=DURATION, help="How long one attempt may take.")
@click.option("--wait", is_flag=True, help="Wait for the end and print the result; exit code 1 if it failed.")
@click.option("--wait-timeout", type=DURATION, help="With --wait: stop waiting after this time; the job goes on.")
@json_option
def submit(
    kind: str,
    pairs: tuple[str, ...],
    whole: str | None,
    wait: bool,
    wait_timeout: float | None,
    as_json: bool,
    **options: Any,
) -> int | None:
    """Submit a job of KIND and print its id. It is on the disk when this returns."""
    if wait_timeout is not None and not wait:
        raise click.UsageError("--wait-timeout needs --wait.")
    submitted = daemon.post("/v1/jobs", _new_job(kind, _arguments(pairs, whole), options), subject=kind)
    if wait:
        return attend(submitted["id"], wait_timeout, as_json=as_json, patient=True, announce=True)
    if as_json:
        say_json(submitted)
        return None
    say(escape(submitted["id"]))
    if submitted.get("existing"):
        note(f"the key was known: nothing was added, the job is {submitted['status']}")
    elif is_tty(sys.stderr):
        note(f"its result: understudy jobs wait {submitted['id']}")
    return None


def _arguments(pairs: tuple[str, ...], whole: str | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if whole is not None:
        value = json_value(whole, what="--args", form=lambda text: f"--arg {quoted(f'NAME={text}')}")
        if not isinstance(value, dict):
            raise click.UsageError(f"--args must be a JSON object like '{{\"name\": 1}}', not {whole}")
        arguments.update(value)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--arg needs NAME=JSON, not {pair}")
        arguments[name] = json_value(text, what=f"--arg {name}", form=_form(name))
    return arguments


def _form(name: str) -> Any:
    return lambda text: f"--arg {quoted(f'{name}={text}')}"


def _new_job(kind: str, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    job = {
        "kind": kind,
        "args": arguments,
        **{name: options[name] for name in ("queue", "priority", "key", "max_attempts")},
    }
    for name in ("delay", "timeout"):
        job[f"{name}_ms"] = None if options[name] is None else round(options[name] * 1000)
    return {name: value for name, value in job.items() if value is not None}


@click.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this status.")
@click.option("--queue", help="Only those on this queue.")
@click.option("--kind", help="Only those of this kind.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@json_option
def ls(status: str | None, queue: str | None, kind: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    found = daemon.get("/v1/jobs", status=status, queue=queue, kind=kind, limit=limit)
    if as_json:
        say_json(found)
        return
    say(table(LIST, (row(job) for job in found)))
    if len(found) == limit and is_tty(sys.stderr):
        note(f"the latest {limit}; more with --limit")


@click.command()
@click.argument("job_id", metavar="ID")
@json_option
def show(job_id: str, as_json: bool) -> None:
    """Show one job with its attempts."""
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
@click.argument("job_id", metavar="ID")
@click.option("--reason", default="", help="Kept with the job.")
@json_option
def cancel(job_id: str, reason: str, as_json: bool) -> int:
    """End a job, whatever it does. Exit code 1 if it had already ended."""
    answer = daemon.post(f"/v1/jobs/{daemon.segment(job_id)}/cancel", {"reason": reason}, subject=job_id)
    too_late = answer["outcome"] == "too_late"
    if as_json:
        say_json(answer)
    elif too_late:
        entry = CODES["job.too_late"]
        raise Failure(entry.title, f"it is {answer['status']}", f"understudy jobs show {job_id}", code=entry.exit)
    else:
        word = "cancelled" if answer["outcome"] == "cancelled" else "being ended"
        say(f"{cell(answer['id'])} {word}")
    return CODES["job.too_late"].exit if too_late else 0


@click.command()
@click.argument("job_id", metavar="ID")
@json_option
def retry(job_id: str, as_json: bool) -> None:
    """Run a failed or cancelled job again, under the same id."""
    answer = daemon.post(f"/v1/jobs/{daemon.segment(job_id)}/retry", {}, subject=job_id)
    if as_json:
        say_json(answer)
    else:
        say(f"{cell(answer['id'])} {cell(answer['status'])}")


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", type=DURATION, help="Stop waiting after this time; the job goes on.")
@json_option
def wait(job_id: str, timeout: float | None, as_json: bool) -> int:
    """Wait for a job's end and print its result.

    Exit code 0 if it completed, 1 if it failed or was cancelled, 124 if the time was over first. A daemon that is
    started again meanwhile is waited for; one that is down from the start only with --timeout.
    """
    return attend(job_id, timeout, as_json=as_json, patient=timeout is not None)
