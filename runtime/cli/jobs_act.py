"""`jobs cancel`, `retry`, `pause`, `resume`: for jobs that are named, or for all that a filter finds; and `signal`."""

import sys
from typing import Any, Final, NamedTuple

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.params import FILTERS, filter_options, json_option, json_value, quoted
from runtime.cli.text import cell, is_tty, note, say, say_json
from schemas.codes import CODES, EXIT_NOT_RUNNING, EXIT_OK, EXIT_USAGE

ACT_PATIENCE: Final = 600.0
"""Seconds that a hundred thousand jobs may take."""


class Action(NamedTuple):
    """A thing to do with jobs. done: what was done, as in `3 jobs cancelled`; late: the code for jobs past it."""

    name: str
    done: str
    late: str


CANCEL: Final = Action("cancel", "cancelled", "job.too_late")
RETRY: Final = Action("retry", "taken back", "job.not_retryable")
PAUSE: Final = Action("pause", "paused", "job.not_pausable")
RESUME: Final = Action("resume", "resumed", "job.not_pausable")

WORDS: Final = {
    "requested": {"cancel": "being ended", "pause": "runs, and pauses at its next step"},
    "unchanged": {"pause": "was paused already", "resume": "was not paused"},
}
"""What became of a wish, where its own word does not say it."""


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="With a filter: do it, without asking.")
@json_option
def cancel(ids: tuple[str, ...], yes: bool, as_json: bool, **where: Any) -> int:
    """End jobs, whatever they do: those that are named, or all that a filter finds. Exit code 1 if one had ended."""
    return act(CANCEL, ids, where, yes=yes, as_json=as_json)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--with-dependants", is_flag=True, help="Take back what was cancelled over them, too.")
@filter_options
@click.option("--yes", is_flag=True, help="With a filter: do it, without asking.")
@json_option
def retry(ids: tuple[str, ...], with_dependants: bool, yes: bool, as_json: bool, **where: Any) -> int:
    """Run failed or cancelled jobs again, under the same ids, with a new budget of attempts."""
    body = {"dependants": True} if with_dependants else {}
    return act(RETRY, ids, where, yes=yes, as_json=as_json, body=body)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="With a filter: do it, without asking.")
@json_option
def pause(ids: tuple[str, ...], yes: bool, as_json: bool, **where: Any) -> int:
    """Hold jobs: one that waits at once, one that runs at its next step."""
    return act(PAUSE, ids, where, yes=yes, as_json=as_json)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="With a filter: do it, without asking.")
@json_option
def resume(ids: tuple[str, ...], yes: bool, as_json: bool, **where: Any) -> int:
    """Let held jobs go on; one that is held over a failed job goes on without it."""
    return act(RESUME, ids, where, yes=yes, as_json=as_json)


def act(
    action: Action,
    ids: tuple[str, ...],
    where: dict[str, Any],
    *,
    yes: bool,
    as_json: bool,
    body: dict[str, Any] | None = None,
) -> int:
    """Do it to jobs by id or by filter, never both; return the exit code."""
    given = {name: where[name] for name in FILTERS if where[name] is not None}
    if ids and given:
        raise click.UsageError("Name jobs, or filter them; not both.")
    if ids:
        return _each(action, ids, body or {}, as_json=as_json)
    if not given:
        raise click.UsageError(f"Name the jobs to {action.name}, or find them: --status, --queue, --kind, --tag, ...")
    return _all(action, given, body or {}, yes=yes, as_json=as_json)


# -- by id -------------------------------------------------------------------------------------------------------------


def _each(action: Action, ids: tuple[str, ...], body: dict[str, Any], *, as_json: bool) -> int:
    """Do it to one job after the other. What goes wrong with one is told and keeps nobody from the next."""
    code, answers = EXIT_OK, []
    for job in ids:
        try:
            answer = daemon.post(f"/v1/jobs/{daemon.segment(job)}/{action.name}", body, subject=job)
            answers.append(answer)
            if not as_json:
                say(f"{cell(answer['id'])} {_outcome(action, answer)}")
            elif answer.get("outcome") == "too_late":
                code = CODES[action.late].exit
        except Failure as failure:
            if len(ids) == 1 or failure.exit == EXIT_NOT_RUNNING:
                raise
            click.echo(failure.render(), err=True)
            code = failure.exit
    if as_json:
        say_json(answers[0] if len(ids) == 1 else answers)
    return code


def _outcome(action: Action, answer: dict[str, Any]) -> str:
    outcome = answer.get("outcome")
    if outcome == "too_late":
        entry = CODES[action.late]
        raise Failure(entry.title, f"it is {answer['status']}", f"understudy jobs show {answer['id']}", code=entry.exit)
    if outcome is None:
        return cell(answer["status"])
    word = WORDS.get(outcome, {}).get(action.name, outcome)
    return f"{word}, it is {answer['status']}" if outcome == "resumed" else cell(word)


# -- by filter ---------------------------------------------------------------------------------------------------------


def _all(action: Action, where: dict[str, Any], body: dict[str, Any], *, yes: bool, as_json: bool) -> int:
    request = {"action": action.name, "where": where, **{name: body[name] for name in ("dependants",) if name in body}}
    if not yes:
        found = _act(request | {"dry_run": True})
        if not found["matched"]:
            say_json(found) if as_json else say("no job is found by that")
            return EXIT_OK
        _ask(action, found)
    done = _act(request)
    if as_json:
        say_json(done)
        return EXIT_OK
    say(f"{many(done['done'])} {action.done}")
    if left := ", ".join(f"{number} {word}" for word, number in done["left"].items()):
        note(f"left as they were: {left}")
    if done["more"]:
        note("there are more; say it again for the next ones")
    return EXIT_OK


def _ask(action: Action, found: dict[str, Any]) -> None:
    meant = f"{many(found['matched'])}{' or more' if found['more'] else ''}"
    if not (is_tty(sys.stdin) and is_tty(sys.stderr)):
        what = f"Nothing was done: the filter finds {meant} to {action.name}"
        raise Failure(what, hint="add --yes to do it", code=EXIT_USAGE)
    click.confirm(f"The filter finds {meant}. {action.name.capitalize()} them?", abort=True, err=True)


def _act(request: dict[str, Any]) -> dict[str, Any]:
    return dict(daemon.post("/v1/jobs/act", request, patience=ACT_PATIENCE))


def many(number: int) -> str:
    """Return a number of jobs in words."""
    return "1 job" if number == 1 else f"{number:,} jobs"


# -- signals -----------------------------------------------------------------------------------------------------------


@click.command(epilog="""Example: understudy jobs signal ID approved --payload '{"by": "ada"}'""")
@click.argument("job_id", metavar="ID")
@click.argument("name")
@click.option("--payload", metavar="JSON", help="What the job gets from wait_signal; null if not given.")
@json_option
def signal(job_id: str, name: str, payload: str | None, as_json: bool) -> None:
    """Send job ID the signal NAME. It is kept until the job takes it, so it may come before the job waits for it."""
    body: dict[str, Any] = {"name": name}
    if payload is not None:
        body["payload"] = json_value(payload, what="--payload", form=lambda text: f"--payload {quoted(text)}")
    answer = daemon.post(f"/v1/jobs/{daemon.segment(job_id)}/signal", body, subject=job_id)
    if as_json:
        say_json(answer)
    else:
        say(f"{cell(answer['id'])} has the signal {cell(name)}, it is {cell(answer['status'])}")
