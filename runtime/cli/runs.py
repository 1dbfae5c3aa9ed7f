"""`runs`: what agents did, said, called and spent."""

import sys
from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import STATUSES, json_option
from runtime.cli.runs_view import LIST, detail, row
from runtime.cli.text import cell, is_tty, note, say, say_json, table
from schemas.codes import CODES, EXIT_OK


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.runs", "ls", "List runs, newest first."),
        "show": ("runtime.cli.runs", "show", "Show one run: a timeline, what it cost, what it waits for."),
        "cancel": ("runtime.cli.runs", "cancel", "End a run."),
    },
)
def runs() -> None:
    """What agents did, said, called and spent. A run is one turn of an agent; its id is that of its job."""


@click.command()
@click.option("--agent", help="Only those of this agent.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this status.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@click.option("--before", metavar="ID", help="Only those older than this run.")
@json_option
def ls(limit: int, as_json: bool, **where: Any) -> None:
    """List runs of agents, newest first."""
    found = daemon.get("/v1/runs", limit=limit, **where)
    if as_json:
        say_json(found)
        return
    say(table(LIST, map(row, found)))
    if len(found) == limit and is_tty(sys.stderr):
        note(f"the latest {limit}; older ones: --before {found[-1]['id']}")


@click.command()
@click.argument("run_id", metavar="ID")
@json_option
def show(run_id: str, as_json: bool) -> None:
    """Show one run: what was said, called, asked and answered, what it cost, and what it waits for."""
    run = daemon.get(f"/v1/runs/{daemon.segment(run_id)}", subject=run_id)
    if as_json:
        say_json(run)
        return
    say(detail(run, _asked(run)))


def _asked(run: dict[str, Any]) -> list[str]:
    """Return the approvals that a run waits for: those its timeline names, else those that the daemon lists as its own.
    The run must be shown, also where they cannot be had.
    """
    if run["status"] != "waiting" or run.get("reason") != "signal":
        return []
    pending = (one for one in run.get("timeline", ()) if (one["what"], one.get("state")) == ("approval", "pending"))
    if named := [one["data"]["id"] for one in pending if "id" in (one.get("data") or {})]:
        return named
    try:
        found = daemon.get("/v1/approvals", status="pending", agent=run["agent"], limit=1000)
    except Failure:
        return []
    return [approval["id"] for approval in found if approval["run"] == run["id"]]


@click.command()
@click.argument("run_id", metavar="ID")
@json_option
def cancel(run_id: str, as_json: bool) -> int:
    """End a run; what it has done stays on record. Exit code 1 if it had ended already."""
    answer = daemon.post(f"/v1/runs/{daemon.segment(run_id)}/cancel", {}, subject=run_id)
    late = CODES["job.too_late"]
    if as_json:
        say_json(answer)
        return late.exit if answer["outcome"] == "too_late" else EXIT_OK
    if answer["outcome"] == "too_late":
        title = "The run had already ended"
        raise Failure(title, f"it is {answer['status']}", f"understudy runs show {answer['id']}", code=late.exit)
    say(f"{cell(answer['id'])} {'being ended' if answer['outcome'] == 'requested' else cell(answer['outcome'])}")
    return EXIT_OK
