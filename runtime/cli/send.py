"""`send`: any public message for any actor."""

from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.params import DURATION, from_stdin, json_value, quoted
from runtime.cli.text import say_json


@click.command(epilog='Example: understudy send system job.get \'{"id": "0193..."}\' --ask')
@click.argument("actor")
@click.argument("message_type", metavar="TYPE")
@click.argument("message", metavar="[JSON|-]", default="{}")
@click.option("--ask", is_flag=True, help="Wait for the reply and print it.")
@click.option("--timeout", type=DURATION, help="With --ask: how long the actor may take.")
def send(actor: str, message_type: str, message: str, ask: bool, timeout: float | None) -> None:
    """Send ACTOR a message of TYPE, whose fields are the JSON object."""
    if timeout is not None and not ask:
        raise click.UsageError("--timeout needs --ask.")
    value = json_value(from_stdin(message, missing=""), what="the message", form=quoted)
    body = {"type": message_type, "message": value}
    path = f"/v1/actors/{daemon.segment(actor)}/"
    if not ask:
        accepted = reply_of(daemon.post(path + "tell", body, subject=actor))
        if accepted is not None:
            say_json(accepted)
        return
    if timeout is not None:
        body["timeout"] = timeout
    # The daemon ends the question itself; the extra second lets its answer about that arrive.
    answer = daemon.post(path + "ask", body, subject=actor, timeout=(timeout or daemon.TIMEOUT) + 1)
    say_json(reply_of(answer))


def reply_of(answer: Any) -> Any:
    """Return what the actor itself said, without the envelope."""
    return answer["reply"] if isinstance(answer, dict) and "reply" in answer else answer
