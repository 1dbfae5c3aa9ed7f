"""`chat`: a conversation with an agent, line by line."""

import sys
import time
from contextlib import suppress
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.answer import Answer, asked, attend
from runtime.cli.failure import Failure, Interrupted
from runtime.cli.params import person
from runtime.cli.text import dimmed, dump, escape, first_line, is_tty, note, paint
from schemas.codes import CODES, EXIT_NOT_FOUND

SHOWN: Final = 6
"""Messages that are shown when a conversation goes on."""

READ: Final = 40
"""Messages that are read for that: those of tools are not shown."""

LINES: Final = 4
"""Lines of such a message that are shown."""

YES: Final = ("y", "yes")
NO: Final = ("n", "no", "")
LEAVE: Final = ("/quit", "/exit")

HELP: Final = """\
Ctrl-C     cancel the answer that is being given
Ctrl-D     end the talk; so does /quit
/help      this
Whatever else you type, the agent is told. Another conversation: understudy chat --help"""
"""What /help shows, on a terminal alone: of a pipe every line is for the agent."""


@click.command(epilog="A pipe works too, an answer for each line: understudy chat assistant < questions.txt")
@click.argument("agent")
@click.option("--conversation", metavar="NAME", help="Which conversation goes on; `main` if not given.")
@click.option("--new", is_flag=True, help="Begin a new conversation; it gets a name if --conversation gives none.")
@click.option("--fork", "source", metavar="SOURCE", help="Begin a new one with the messages of this conversation.")
def chat(agent: str, conversation: str | None, new: bool, source: str | None) -> None:
    """Talk with AGENT. Ctrl-C cancels the answer that is being given, Ctrl-D ends the talk.

    What the agent asks a person for is asked here, on a terminal; else the commands that answer it are shown.
    """
    name = conversation or (_fresh() if new or source else "main")
    talk = Talk(agent, name)
    before = talk.messages()
    if source is not None:
        daemon.post(talk.path("fork"), {"source": source}, subject=agent)
        before = talk.messages()
    elif new and before:
        hint = f"another --conversation, or go on in it: understudy chat {agent} --conversation {name}"
        raise Failure(CODES["conversation.exists"].title, f"{name} has messages", hint)
    talk.greet(before)
    talk.go_on()


def _fresh() -> str:
    return time.strftime("chat-%Y%m%d-%H%M%S")


class Talk:
    """One conversation of a person with an agent. Off a terminal the first failure ends it, on one nothing but Ctrl-D
    and an agent that is not there."""

    def __init__(self, agent: str, conversation: str) -> None:
        self.agent, self.conversation = agent, conversation
        self.by_hand = is_tty(sys.stdin) and is_tty(sys.stderr)

    def path(self, what: str = "") -> str:
        """Return the path of the conversation, or of *what* can be asked of it."""
        talk = f"/v1/agents/{daemon.segment(self.agent)}/conversations/{daemon.segment(self.conversation)}"
        return f"{talk}/{what}" if what else talk

    def messages(self) -> list[dict[str, Any]]:
        """Return the last messages; none where nobody has said anything yet. `Failure` where there is no such agent."""
        try:
            return list(daemon.get(self.path(), subject=self.agent, limit=READ))
        except Failure as failure:
            if failure.problem == "conversation.not_found":
                return []
            raise

    def greet(self, messages: list[dict[str, Any]]) -> None:
        """Show, on a terminal, where the conversation stands: its last messages, and what waits for a person."""
        if not self.by_hand:
            return
        if is_tty(sys.stdout):
            with suppress(ImportError):
                import readline  # noqa: F401  # gives input() a line that can be edited, and a history
        note(f"{self.agent}, conversation {self.conversation} (Ctrl-C cancels an answer, Ctrl-D ends, /help)")
        said = [message for message in messages if message["role"] in ("user", "assistant") and message.get("content")]
        for message in said[-SHOWN:]:
            who = "you" if message["role"] == "user" else escape(self.agent)
            click.echo(dimmed(f"{who}> {_beginning(message['content'])}"), err=True)
        self._show_waiting()

    def _show_waiting(self) -> None:
        try:
            found = daemon.get("/v1/approvals", status="pending", agent=self.agent)
        except Failure:
            return  # the talk is possible all the same
        for approval in found:
            if approval["conversation"] == self.conversation:
                note(asked(self.agent, approval))

    def go_on(self) -> None:
        """Take lines and show answers until the lines end."""
        while True:
            try:
                words = self._read()
                if words is None or (self.by_hand and words.strip() in LEAVE):
                    return
                if self.by_hand and words.strip() == "/help":
                    note(HELP)
                elif words.strip():
                    self._say(words)
            except KeyboardInterrupt:
                if not self.by_hand:
                    raise
                click.echo(err=True)  # a new prompt below the ^C

    def _read(self) -> str | None:
        """Return the next line, None at the end."""
        if self.by_hand and is_tty(sys.stdout):
            try:
                return input("you> ")
            except EOFError:
                click.echo()
                return None
        if self.by_hand:
            click.echo("you> ", nl=False, err=True)
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None

    def _say(self, words: str) -> None:
        label = paint(f"{escape(self.agent)}> ", "cyan", sys.stderr) if is_tty(sys.stdout) else ""
        answer = Answer(self.agent, on_approval=self._decide if self.by_hand else None, label=label)
        body = {"text": words, "conversation": self.conversation}
        try:
            attend(f"/v1/agents/{daemon.segment(self.agent)}/ask", body, answer)
        except (Interrupted, Failure) as failure:
            if not self.by_hand or failure.exit == EXIT_NOT_FOUND:
                raise
            click.echo(failure.render(), err=True)

    def _decide(self, data: dict[str, Any]) -> None:
        """Ask whether the agent may make a call, and send the answer; Ctrl-D leaves it to be answered elsewhere."""
        tool, arguments = escape(str(data.get("tool"))), data.get("arguments") or {}
        note(f"\n{self.agent} asks to call {tool} with\n{dump(arguments, pretty=True)}")
        if data.get("why"):
            note(f"why you are asked: {first_line(str(data['why']))}")
        _forget_typed()
        while True:
            click.echo("Allow it, once? [y/N] ", nl=False, err=True)
            line = sys.stdin.readline()
            if not line:
                note("\n" + asked(self.agent, data))
                return
            if (word := line.strip().lower()) in YES + NO:
                break
            note("y or n, please; nothing at all is no")  # a slip must not stop the agent's work
        allow = word in YES
        path = f"/v1/approvals/{daemon.segment(str(data['id']))}"
        try:
            daemon.post(path, {"allow": allow, "by": person()}, subject=str(data["id"]))
            click.echo(dimmed("(allowed)" if allow else "(denied)"), err=True)
        except Failure as failure:  # answered elsewhere meanwhile, or over
            click.echo(failure.render(), err=True)


def _forget_typed() -> None:
    """Drop what was typed before the question was there: it was no answer to it."""
    import termios

    with suppress(termios.error, OSError, ValueError):
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)


def _beginning(text: str) -> str:
    lines = escape(text, multiline=True).strip().split("\n")
    return "\n  ".join(lines[:LINES] + (["..."] if len(lines) > LINES else []))
