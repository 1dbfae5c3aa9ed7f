"""An answer of an agent on its way to the terminal: its words to stdout, what happens on the way to stderr."""

import sys
from collections.abc import Callable
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.deadline import Expired, deadline
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.text import cell, columns, dimmed, dump, escape, first_line, is_tty, note, say, write
from runtime.control.wire import Cut
from schemas.codes import EXIT_INTERRUPTED, EXIT_TEMPORARY, EXIT_TIMEOUT

WAITS: Final = {"signal": "waits for a person", "children": "waits for another agent"}
"""Why a turn stands still, by the reason of its job."""

STEPS: Final = ("tool", "approval", "ask")
"""Parts after which the model speaks anew."""

ASIDES: Final = (*STEPS, "steer", "waiting", "steered")
"""Parts that are told on stderr."""

LINE: Final = 200
"""Columns that a line about a tool may take where stderr is no terminal."""

OnApproval = Callable[[dict[str, Any]], None]


class Answer:
    """An answer on its way to stdout: what has been written of it, and the job behind it once that is known.

    *on_approval* is told when the agent asks a person; without it the commands that answer are shown. *label* comes on
    stderr before the first word.
    """

    def __init__(
        self, agent: str, *, as_json: bool = False, on_approval: OnApproval | None = None, label: str = ""
    ) -> None:
        self.agent = agent
        self._label = label
        self.job: str | None = None
        self._as_json = as_json
        self._on_approval = on_approval or (lambda data: note(asked(agent, data)))
        self._wrote = ""
        self._thinking = False
        self._asked = False

    def show(self, kind: str, data: dict[str, Any]) -> None:
        """Write one part of the stream."""
        if kind in ("accepted", "steered"):
            self.job = data.get("job") or data.get("into")
        if self._as_json:
            say(dump({"kind": kind, **data}))
        elif kind == "token":
            self._write(data["text"])
        elif kind == "done":
            self._write("" if self._wrote else data.get("text", ""))
            if data.get("cut"):
                self.end_line()
                note("(the model's max_tokens were used up, so the answer is not whole)")
        elif kind == "reasoning":
            self._think()
        elif kind == "restarted":
            self._begin_again()
        elif kind in ASIDES:
            self._aside(kind, data)

    def subject(self, code: str) -> str:
        """Return what a hint on an error of this code speaks of: the job where it is one of jobs, else the agent."""
        return (self.job or "ID") if code.startswith("job.") else self.agent

    def end_line(self) -> None:
        """End the line on stdout if it is open, so that nothing is written behind it."""
        if self._wrote and not self._wrote.endswith("\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        if text:
            if self._label and not self._wrote:
                click.echo(self._label, nl=False, err=True)
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

    def _aside(self, kind: str, data: dict[str, Any]) -> None:
        if kind in STEPS:
            self.end_line()
            self._wrote = ""  # the answer is what is said after the last of them; what stands above stays true
        elif is_tty(sys.stdout):
            self.end_line()  # on a pipe the answer stays as it is
        if kind == "approval":
            self._asked = True
            self._on_approval(data)
            return
        waits_as_told = kind == "waiting" and self._asked and data.get("reason") == "signal"
        self._asked = self._asked and kind == "waiting"
        if not waits_as_told and (line := aside(kind, data)):
            click.echo(dimmed(line), err=True)


def aside(kind: str, data: dict[str, Any]) -> str:
    """Return the line about a part that is not the answer, safe for a terminal; nothing where there is nothing new."""
    room = columns() if is_tty(sys.stderr) else LINE
    match kind:
        case "tool":
            return first_line(_tool(data), room)
        case "ask":
            return f"(asks {cell(data.get('agent'))}: understudy runs show {cell(data.get('job'))})"
        case "steer":
            return first_line(f"(takes in: {escape(str(data.get('text')))})", room)
        case "steered":
            into = cell(data.get("into"))
            return f"(taken in by the run {into}, which answers it: understudy runs show {into})"
    reason = data.get("reason")
    return f"({WAITS.get(reason or '') or (f'waits: {cell(reason)}' if reason else 'waits for its turn')})"


def _tool(data: dict[str, Any]) -> str:
    name, state = cell(data.get("name")), data.get("state")
    if state == "done":
        return ""  # the line of its start stands above
    if state != "started":
        why = first_line(str(data.get("text") or ""), columns())
        return f"tool {name} {cell(state)}" + (f": {why}" if why else "")
    given = data.get("arguments")
    said = given if isinstance(given, str) else dump(given) if given else ""
    return f"tool {name} {escape(said)}"


def asked(agent: str, data: dict[str, Any]) -> str:
    """Return that an agent asks a person, with the commands that answer."""
    approval = cell(data.get("id"))
    what = f"{cell(agent)} asks to call {cell(data.get('tool'))} {cell(data.get('arguments') or {})}"
    return f"approval: {what}\n  next: {ways_to_answer(approval)}"


def ways_to_answer(approval: str) -> str:
    """Return the two commands that answer an approval."""
    return f"understudy approvals allow {approval}, or: understudy approvals deny {approval}"


def attend(path: str, body: dict[str, Any], answer: Answer, timeout: float | None = None) -> None:
    """Ask and show the answer as it comes, to its end.

    Ctrl-C hangs up, which cancels the answer, and is raised as `Interrupted`; so does *timeout*, in seconds, which is a
    `Failure` like every problem of the daemon.
    """
    try:
        with deadline(timeout), daemon.stream("POST", path, body, subject=answer.subject) as parts:
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
    except Failure as failure:
        answer.end_line()
        if failure.problem == "daemon.draining" and answer.job is not None:  # asked again it would be done twice
            raise _cut(answer) from None
        raise


def _cut(answer: Answer) -> Failure:
    if answer.job is None:
        why = "nothing was heard of the question yet; it may or may not have been taken"
        hint = "understudy jobs ls --kind agent.message"
    else:
        why = "the question is kept, and is answered when the daemon is back"
        hint = f"understudy jobs wait {answer.job}"
    return Failure("The daemon went away", why, hint, code=EXIT_TEMPORARY)
