"""`ask`: words for an agent, and its answer as it comes."""

import sys
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.answer import Answer, attend
from runtime.cli.params import DURATION, from_stdin, json_option
from runtime.cli.text import escape, is_tty, note, say, say_json

WHEN_BUSY: Final = ("enqueue", "steer", "interrupt", "reject", "rollback")


@click.command(epilog="A pipe works too: git diff | understudy ask reviewer")
@click.argument("agent")
@click.argument("text", nargs=-1, metavar="[TEXT|-]")
@click.option("--conversation", metavar="NAME", help="Which conversation goes on; `main` if not given.")
@click.option(
    "--when-busy",
    type=click.Choice(WHEN_BUSY),
    help="If a turn of the conversation runs: wait for it, be taken in by it, end it and keep what it did, be refused, "
    "or end it as if it had not been. Else what the agent's settings say.",
)
@click.option("--detach", is_flag=True, help="Print the job's id and leave; the answer is kept with the job.")
@click.option("--timeout", type=DURATION, help="Give up, and cancel the answer, after this time.")
@json_option
def ask(
    agent: str, text: tuple[str, ...], detach: bool, timeout: float | None, as_json: bool, **options: str | None
) -> None:
    """Say TEXT to AGENT and stream its answer to stdout. Ctrl-C cancels it.

    What happens on the way (tools it calls, what it asks a person for) is told on stderr. With --json each part of the
    stream is one JSON object on a line of its own.
    """
    if detach and timeout is not None:
        raise click.UsageError("--detach does not wait, so --timeout has no meaning with it.")
    words = from_stdin(" ".join(text) or None, missing=f"Say what: understudy ask {agent} TEXT, or pipe it in.")
    if not words.strip():
        raise click.UsageError("There is nothing to say: the text is empty.")
    body = {"text": words, **{name: options[name] for name in ("conversation", "when_busy") if options[name]}}
    path = f"/v1/agents/{daemon.segment(agent)}/ask"
    if detach:
        _detach(path, body, agent, as_json=as_json)
    else:
        attend(path, body, Answer(agent, as_json=as_json), timeout)


def _detach(path: str, body: dict[str, Any], agent: str, *, as_json: bool) -> None:
    accepted = daemon.post(path, body, subject=agent, headers={"Prefer": "respond-async"})
    if as_json:
        say_json(accepted)
        return
    say(escape(accepted["id"]))
    if is_tty(sys.stderr):
        note(f"the answer: understudy jobs wait {accepted['id']}")
