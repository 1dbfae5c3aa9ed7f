"""`why`: the exact reason why a job stands where it does, or why an agent does not do more."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.params import json_option
from runtime.cli.text import coloured_status, escape, say, say_json
from schemas.codes import EXIT_NOT_FOUND

AGENT: Final = "agent:"


@click.command()
@click.argument("subject", metavar="JOB|AGENT")
@json_option
def why(subject: str, as_json: bool) -> None:
    """Tell why a job or an agent is not moving: every reason, the one that decides first, and what to do next.

    What begins with a digit is a job, for a job's id does and an agent's name cannot. All else is an agent, or where
    there is none of that name a job; `agent:NAME` is always an agent.
    """
    name = subject.removeprefix(AGENT)
    if subject.startswith(AGENT):
        view = _of("agents", name)
    elif subject[:1].isdigit():
        view = _of("jobs", subject)
    else:
        view = _of_either(subject)
    if as_json:
        say_json(view)
    else:
        say(of_job(view) if "id" in view else of_agent(view))


def _of(kind: str, subject: str) -> dict[str, Any]:
    return dict(daemon.get(f"/v1/{kind}/{daemon.segment(subject)}/why", subject=subject))


def _of_either(subject: str) -> dict[str, Any]:
    try:
        return _of("agents", subject)
    except Failure as failure:
        if failure.exit != EXIT_NOT_FOUND:
            raise
        absent = failure
    try:
        return _of("jobs", subject)
    except Failure as failure:
        raise absent if failure.exit == EXIT_NOT_FOUND else failure from None


def of_job(view: dict[str, Any]) -> str:
    """Return the reasons as lines."""
    status = coloured_status(view["status"], escape(view["status"]))
    return "\n".join(_lines(f"{status}: ", [(found["text"], found.get("hint") or "") for found in view["reasons"]]))


def of_agent(view: dict[str, Any]) -> str:
    """Return what an agent does now, as lines."""
    status = coloured_status(view["status"], escape(view["status"]))
    head = f"the agent {escape(view['name'])} is {status}"
    reasons = [(str(text), str(hint or "")) for text, hint in view["reasons"]]
    return "\n".join(_lines(f"{head}: ", reasons) if reasons else [head])


def _lines(head: str, reasons: list[tuple[str, str]]) -> list[str]:
    lines = []
    for number, (text, hint) in enumerate(reasons):
        lines.append((head if number == 0 else "also: ") + escape(text))
        if hint:
            lines.append(f"  next: {escape(hint.replace('`', ''))}")
    return lines
