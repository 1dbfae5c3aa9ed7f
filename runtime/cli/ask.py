"""`ask`: words for an agent, and its answer as it comes."""

import sys
from typing import Any

import click

from runtime.cli import daemon
from runtime.cli.deadline import Expired, deadline
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.params import DURATION, from_stdin, json_option
from runtime.cli.text import dump, escape, is_tty, note, say, say_json, write
from runtime.control.wire import Cut
from schemas.codes import EXIT_INTERRUPTED, EXIT_TEMPORARY, EXIT_TIMEOUT


@click.command(epilog="A pipe works too: git diff | understudy ask reviewer")
@click.argument("agent")
@click.argument("text", nargs=-1, metavar="[TEXT|-]")
@click.option("--conversation", metavar="NAME", help="Which conversation goes on; `main` if not given.")
@click.option("--detach", is_flag=True, help="Print the job's id and leave; the answer is kept with the job.")
@click.option("--timeout", type=DURATION, help="Give up, and cancel the answer, after this time.")
@json_option
def ask(
    agent: str, text: tuple[str, ...], conversation: str | None, detach: bool, timeout: float | None, as_json: bool
) -> None:
    """Say TEXT to AGENT and stream its answer to stdout. Ctrl-C cancels it.

    With --json each part of the stream is one JSON object on a line of its own.
    """
    if detach and timeout is not None:
        raise click.UsageError("--detach does not wait, so --timeout has no meaning with it.")
    words = from_stdin(" ".join(text) or None, missing=f"Say what: understudy ask {agent} TEXT, or pipe it in.")
    if not words.strip():
        raise click.UsageError("There is nothing to say: the text is empty.")
    body = {"text": words, **({"conversation": conversation} if conversation else {})}
    path = f"/v1/agents/{daemon.segment(agent)}/ask"
    if detach:
        _detach(path, body, agent, as_json=as_json)
    else:
        _attend(path, body, Answer(agent, as_json=as_json), timeout)


def _detach(path: str, body: dict[str, Any], agent: str, *, as_json: bool) -> None:
    accepted = daemon.post(path, body, subject=agent, headers={"Prefer": "respond-async"})
    if as_json:
        say_json(accepted)
        return
    say(escape(accepted["id"]))
    if is_tty(sys.stderr):
        note(f"the answer: understudy jobs wait {accepted['id']}")


class Answer:
    """An answer on its way to stdout: what has been written of it, and the job behind it once that is known."""

    def __init__(self, agent: str, *, as_json: bool) -> None:
        self.agent = agent
        self.job: str | None = None
        self._as_json = as_json
        self._wrote = ""
        self._thinking = False

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Write one part of the stream."""
        if kind == "accepted":
            self.job = data.get("job")
        if self._as_json:
            say(dump({"kind": kind, **data}))
        elif kind == "token":
            self._write(data["text"])
        elif kind == "reasoning":
            self._think()
        elif kind == "restarted":
            self._begin_again()
        elif kind == "done" and not self._wrote:
            self._write(data.get("text", ""))

    def end_line(self) -> None:
        """End the line on stdout if it is open, so that nothing is written behind it."""
        if self._wrote and not self._wrote.endswith("\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            self._wrote = text[-1]  # first: Ctrl-C may come as soon as the text is out
            write(text)

    def _think(self) -> None:
        if not self._thinking and is_tty(sys.stderr):
            note("(thinking)")
        self._thinking = True

    def _begin_again(self) -> None:
        self.end_line()
        if self._wrote:
            note("the answer begins again; what stands above is void")
        self._wrote = ""


def _attend(path: str, body: dict[str, Any], answer: Answer, timeout: float | None) -> None:
    try:
        with deadline(timeout), daemon.stream("POST", path, body, subject=answer.agent) as parts:
            for kind, data, _ in parts:
                answer.show(kind, data)
        answer.end_line()
    except KeyboardInterrupt:
        answer.end_line()
        raise Interrupted("cancelled", code=EXIT_INTERRUPTED, bare=True) from None
    except Expired:
        answer.end_line()
        why = f"the answer was not whole after {timeout:g} s, and was cancelled"
        raise Failure("Timed out", why, "give it more --timeout, or --detach", code=EXIT_TIMEOUT) from None
    except Cut:
        answer.end_line()
        raise _cut(answer) from None
    except Failure:
        answer.end_line()
        raise


def _cut(answer: Answer) -> Failure:
    if answer.job is None:
        why = "nothing was heard of the question yet; it may or may not have been taken"
        hint = "understudy jobs ls --kind agent.message"
    else:
        why = "the question is kept, and is answered when the daemon is back"
        hint = f"understudy jobs wait {answer.job}"
    return Failure("The daemon went away", why, hint, code=EXIT_TEMPORARY)
