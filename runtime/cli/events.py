"""`events`: what happened, replayed from the database, and with -f what happens."""

import time
from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.params import json_option
from runtime.cli.text import cell, dump, note, say
from runtime.control.wire import Cut
from schemas.codes import EXIT_INTERRUPTED, EXIT_TEMPORARY


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens; without --since only that.")
@click.option("--since", type=click.IntRange(min=0), metavar="N", help="Only those after this offset.")
@click.option("--types", metavar="A,B", help="Only these types; `job.*` is all of jobs.")
@json_option
def events(follow: bool, since: int | None, types: str | None, as_json: bool) -> None:
    """Show events, oldest first: offset, time, type, subject, facts. With --json one object a line."""
    try:
        _replay(since if since is not None or follow else 0, types, follow=follow, as_json=as_json)
    except Failure as failure:
        # Without --since "all there are" was meant, and the oldest of them may be gone.
        oldest = failure.data.get("oldest")
        if since is not None or not isinstance(oldest, int):
            raise
        _replay(oldest - 1, types, follow=follow, as_json=as_json)


def _replay(last: int | None, types: str | None, *, follow: bool, as_json: bool) -> None:
    query = {"since": last, "types": types, "follow": follow}
    try:
        with daemon.stream("GET", "/v1/events", query=query) as parts:
            for kind, data, offset in parts:
                last = offset if offset is not None else last
                _show(kind, data, as_json=as_json)
    except KeyboardInterrupt:
        raise Interrupted("", code=EXIT_INTERRUPTED, bare=True) from None
    except Cut:
        hint = "understudy events " + ("-f " if follow else "") + (f"--since {last}" if last is not None else "")
        raise Failure("The daemon went away", hint=hint.strip(), code=EXIT_TEMPORARY) from None


def _show(kind: str, data: dict[str, Any], *, as_json: bool) -> None:
    if kind == "lagged":
        note("some events were skipped here: this reader was too slow. They are kept: see --since")
    elif kind != "done":
        say(dump(data) if as_json else line(data))


def line(event: dict[str, Any]) -> str:
    """Return an event as one line: offset, local time, type, subject, facts."""
    at = time.strftime("%H:%M:%S", time.localtime(event["at"] / 1000))
    facts = " ".join(f"{name}={cell(value)}" for name, value in event.get("data", {}).items())
    return (
        f"{cell(event.get('offset')):>8}  {at}  {cell(event['type']):<20}  {cell(event['subject'])}  {facts}".rstrip()
    )
