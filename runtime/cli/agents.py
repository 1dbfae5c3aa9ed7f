"""`agents`: the table of its commands, and those that read: ls, show, export."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.agents_view import detail, model
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option
from runtime.cli.text import ago, dump, say, say_json, table

LIST: Final = ("NAME", "STATUS", "STATE", "MODEL", "PENDING", "MAILBOX", "RESTARTS", "HEARTBEAT", "REASON")

PAGE: Final = 1000
"""Messages of a conversation that are read at once."""


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.agents", "ls", "List every agent."),
        "show": ("runtime.cli.agents", "show", "Show one agent with all there is of it."),
        "new": ("runtime.cli.agents_act", "new", "Define an agent; it is kept in the database."),
        "edit": ("runtime.cli.agents_act", "edit", "Change settings of an agent that was defined with `new`."),
        "pause": ("runtime.cli.agents_act", "pause", "Have an agent begin no more turns."),
        "resume": ("runtime.cli.agents_act", "resume", "Let a paused agent go on."),
        "restart": ("runtime.cli.agents_act", "restart", "Start an agent anew, also one in quarantine."),
        "rm": ("runtime.cli.agents_act", "rm", "Forget an agent that was defined with `new`."),
        "fork": ("runtime.cli.agents_act", "fork", "Begin a conversation with the messages of another."),
        "export": ("runtime.cli.agents", "export", "Print a whole conversation, a JSON object a line."),
    },
)
def agents() -> None:
    """List agents, show one; define, change, pause, restart and forget them; fork and export conversations."""


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
        model(agent),
        agent["pending"],
        agent["mailbox"],
        agent["restarts"],
        ago(agent.get("last_heartbeat_at")),
        agent.get("reason"),
    )


@click.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one agent: persona, model, tools and those that are missing, budget and what was spent today, runs, what
    waits for a person, saved state, last error.
    """
    agent = daemon.get(f"/v1/agents/{daemon.segment(name)}", subject=name)
    if as_json:
        say_json(agent)
    else:
        say(detail(agent))


@click.command(epilog="Example: understudy agents export assistant > assistant.jsonl")
@click.argument("name")
@click.option("--conversation", default="main", show_default=True, metavar="NAME", help="Which conversation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as it does anyway: one object a line.")
def export(name: str, conversation: str, as_json: bool) -> None:
    """Print a whole conversation of an agent to stdout, one message a line as JSON, oldest first."""
    path = f"/v1/agents/{daemon.segment(name)}/conversations/{daemon.segment(conversation)}/export"
    after = 0
    while page := daemon.get(path, subject=name, after=after, limit=PAGE):
        for message in page:
            say(dump(message))
        last = int(page[-1]["n"])
        if last <= after:
            break  # it would be the same page for ever
        after = last
