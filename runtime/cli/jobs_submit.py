"""`jobs submit` and `jobs submit-batch`: what is to be done goes to the daemon, and an id comes back for each job."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.job_options import new_job, what_options, when_options
from runtime.cli.jobs_wait import attend
from runtime.cli.params import DURATION, json_option, read_stdin
from runtime.cli.text import escape, is_tty, note, say, say_json
from schemas.codes import EXIT_USAGE

BATCH_PATIENCE: Final = 120.0
"""Seconds; ten thousand jobs are checked, written and synced in one piece."""


@click.command(epilog="""Example: understudy jobs submit shell --arg 'argv=["sleep","2"]' --wait""")
@click.argument("kind")
@what_options
@when_options
@click.option("--wait", is_flag=True, help="Wait for the end and print the result; exit code 1 if it failed.")
@click.option("--wait-timeout", type=DURATION, help="With --wait: stop waiting after this time; the job goes on.")
@json_option
def submit(kind: str, wait: bool, wait_timeout: float | None, as_json: bool, **options: Any) -> int | None:
    """Submit a job of KIND and print its id. It is on the disk when this returns."""
    if wait_timeout is not None and not wait:
        raise click.UsageError("--wait-timeout needs --wait.")
    submitted = daemon.post("/v1/jobs", new_job(kind, options), subject=kind)
    if wait:
        return attend(submitted["id"], wait_timeout, as_json=as_json, patient=True, announce=True)
    if as_json:
        say_json(submitted)
        return None
    say(escape(submitted["id"]))
    if submitted.get("existing"):
        note(f"{_known(options)}: nothing was added, the job is {submitted['status']}")
    elif is_tty(sys.stderr):
        note(f"its result: understudy jobs wait {submitted['id']}")
    return None


def _known(options: dict[str, Any]) -> str:
    return "the key was known" if options.get("key") is not None else "a job with this word has not ended"


@click.command(epilog="Example: understudy jobs submit-batch jobs.json | xargs understudy jobs wait")
@click.argument("file", metavar="FILE")
@click.option("--key", help="Idempotency key of the whole batch: sent again with it, no job is added twice.")
@json_option
def submit_batch(file: str, key: str | None, as_json: bool) -> None:
    """Submit the jobs in FILE (`-` is stdin), all of them or none, and print their ids in the same order.

    FILE is a JSON array, or has one JSON object a line. A job has the fields of the API: kind, args, queue, priority,
    delay_ms, key, tags ... and `depends_on`, which may name others of the file by their `ref`:
    {"ref": "b", "kind": "echo", "depends_on": [{"job": "#a", "on_failure": "run"}]}
    """
    jobs = read_jobs(_text(file), file)
    headers = None if key is None else {"Idempotency-Key": key}
    try:
        found = daemon.post("/v1/jobs/batch", {"jobs": jobs}, headers=headers, patience=BATCH_PATIENCE)
    except Failure as failure:
        if "path" in failure.data:  # the circle stands in the reason already
            failure.hint = "take one of these edges out of the file"
        raise
    if as_json:
        say_json(found)
        return
    say("\n".join(escape(job["id"]) for job in found))
    known = sum(bool(job.get("existing")) for job in found)
    if known:
        note(f"{known} of {len(found)} were there already: their key or their word was known")


def _text(file: str) -> str:
    if file == "-":
        return read_stdin()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("The file cannot be read", f"{file}: {error}", code=EXIT_USAGE) from None


def read_jobs(text: str, file: str) -> list[Any]:
    """Return the jobs of a JSON array, or of lines with an object each. A mistake is told with its line."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Failure("The batch is not JSON", f"{file}: {error}", code=EXIT_USAGE) from None
    else:
        found = [_line(line, file, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise Failure("There is nothing to submit", f"{file} has no jobs", code=EXIT_USAGE)
    return list(found)


def _line(line: str, file: str, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        why = f"{file}:{number}: {error}"
        hint = "write a JSON array, or one JSON object a line"
        raise Failure("The batch is not JSON", why, hint, code=EXIT_USAGE) from None
