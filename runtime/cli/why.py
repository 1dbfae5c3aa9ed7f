"""`why`: the exact reason why a job stands where it does, or how an agent is."""

from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.params import json_option
from runtime.cli.text import ago, coloured_status, escape, say, say_json
from schemas.codes import EXIT_NOT_FOUND


@click.command()
@click.argument("subject", metavar="JOB|AGENT")
@json_option
def why(subject: str, as_json: bool) -> None:
    """Tell why a job is not moving: every reason there is, the one that decides first, and what to do next."""
    try:
        view = daemon.get(f"/v1/jobs/{daemon.segment(subject)}/why", subject=subject)
    except Failure as failure:
        if failure.exit != EXIT_NOT_FOUND or (agent := _agent(subject)) is None:
            raise
        say_json(agent) if as_json else say(of_agent(agent))
        return
    if as_json:
        say_json(view)
    else:
        say(of_job(view))


def of_job(view: dict[str, Any]) -> str:
    """Return the reasons as lines."""
    lines = []
    for number, found in enumerate(view["reasons"]):
        head = f"{coloured_status(view['status'], view['status'])}: " if number == 0 else "also: "
        lines.append(head + escape(found["text"]))
        if found.get("hint"):
            lines.append(f"  next: {escape(found['hint'].replace('`', ''))}")
    return "\n".join(lines)


def _agent(name: str) -> dict[str, Any] | None:
    try:
        return dict(daemon.get(f"/v1/agents/{daemon.segment(name)}", subject=name))
    except Failure:
        return None


def of_agent(agent: dict[str, Any]) -> str:
    """Return how an agent is: state, reason, what waits for it."""
    name = escape(agent["name"])
    doing = f" and {escape(agent['status'])}" if agent["state"] == "running" else ""
    lines = [f"the agent {name} is {coloured_status(agent['state'], escape(agent['state']))}{doing}"]
    if agent.get("reason"):
        lines.append(f"  why: {escape(agent['reason'])}")
    waiting = agent["pending"]
    if waiting:
        lines.append(f"also: {waiting} {'message waits' if waiting == 1 else 'messages wait'} for it")
        lines.append(f"  next: understudy jobs ls --queue agent:{name} --status pending, then: understudy why JOB")
    lines.append(f"also: it was last heard of {ago(agent.get('last_heartbeat_at'))}")
    if agent["state"] != "running":
        lines.append(f"  next: understudy agents show {name}")
    return "\n".join(lines)
