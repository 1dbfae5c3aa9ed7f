"""`agents`: list them, show one."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option
from runtime.cli.text import ago, dump, escape, fields, say, say_json, table, when

LIST: Final = ("NAME", "STATUS", "STATE", "MODEL", "PENDING", "MAILBOX", "RESTARTS", "HEARTBEAT", "REASON")


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.agents", "ls", "List every agent."),
        "show": ("runtime.cli.agents", "show", "Show one agent: persona, saved state, last error."),
    },
)
def agents() -> None:
    """List agents, show one."""


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List every agent."""
    found = daemon.get("/v1/agents")
    if as_json:
        say_json(found)
    else:
        say(table(LIST, (_row(agent) for agent in found)))


def _row(agent: dict[str, Any]) -> tuple[Any, ...]:
    return (
        agent["name"],
        agent["status"],
        agent["state"],
        _model(agent),
        agent["pending"],
        agent["mailbox"],
        agent["restarts"],
        ago(agent.get("last_heartbeat_at")),
        agent.get("reason"),
    )


def _model(agent: dict[str, Any]) -> str:
    return "/".join(part for part in (agent.get("provider"), agent.get("model")) if part) or agent.get("actor") or ""


@click.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one agent: persona, saved state, last error."""
    agent = daemon.get(f"/v1/agents/{daemon.segment(name)}", subject=name)
    if as_json:
        say_json(agent)
    else:
        say(_detail(agent))


def _detail(agent: dict[str, Any]) -> str:
    return fields(
        (
            ("name", agent["name"]),
            ("status", f"{agent['status']} ({agent['state']})"),
            ("reason", agent.get("reason")),
            ("role", agent.get("role")),
            ("goal", agent.get("goal")),
            ("backstory", agent.get("backstory")),
            ("model", _model(agent)),
            ("temperature", agent.get("temperature")),
            ("tools", ", ".join(agent.get("tools", ()))),
            ("actor", agent.get("actor")),
            ("defined in", agent.get("origin")),
            ("pending", agent["pending"]),
            ("mailbox", agent["mailbox"]),
            ("restarts", agent["restarts"]),
            ("incarnation", agent.get("incarnation")),
            ("heartbeat", when(agent.get("last_heartbeat_at"))),
            ("conversations", ", ".join(agent.get("conversations", ()))),
            ("last error", agent.get("last_error")),
            ("saved", escape(dump(agent["saved"], pretty=True), multiline=True) if agent.get("saved") else None),
            ("version", f"{agent['state_version']} of the saved state" if agent.get("saved") else None),
        )
    )
