"""`chat`: on a terminal with Ctrl-C and Ctrl-D, with questions to the person, and on a pipe."""

import errno
import io
import os
import pty
import re
import select
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from runtime.cli.params import person

TALK = "/v1/agents/ada/conversations/main"
ASK = "/v1/agents/ada/ask"
APPROVAL = "/v1/approvals/0193-p"
ASKS = (
    "approval",
    {"id": "0193-p", "tool": "shell", "arguments": {"argv": ["rm", "\x1b[2J"]}, "why": "it always asks"},
)
ACCEPTED = ("accepted", {"job": "0193-a", "conversation": "main"})
HISTORY = [
    {"role": "system", "content": "hidden"},
    {"role": "user", "content": "What is there?"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
    {"role": "tool", "content": "secret of a tool", "tool_call_id": "1"},
    {"role": "assistant", "content": "One\nTwo\x1b[2J\nThree\nFour\nFive"},
]
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from runtime.cli.main import main; main()"
)
QUESTION = "Allow it, once? [y/N] "
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """The person's side of a terminal that a command runs on, as its controlling one."""

    def __init__(self, child: Callable[..., Any], *argv: str, **options: Any) -> None:
        self.ours, theirs = pty.openpty()
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs, **options}
        self.process = child(*argv, driver=OWN_TERMINAL, **ends)
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def until(self, text: str) -> str:
        """Return what was shown up to and with *text*, since the last time."""
        deadline = time.monotonic() + 20
        while (at := self.shown.find(text, self._seen)) < 0:
            assert select.select([self.ours], [], [], max(0, deadline - time.monotonic()))[0], self.shown
            assert self._more(), f"the command ended before {text!r}: {self.shown!r}"
        piece, self._seen = self.shown[self._seen : at + len(text)], at + len(text)
        return piece

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until *text* is shown: one that comes while readline is busy is noticed with the next key."""
        for _ in range(40):
            self.type(CTRL_C)
            while self.shown.find(text, self._seen) < 0 and select.select([self.ours], [], [], 0.5)[0]:
                assert self._more()
            if self.shown.find(text, self._seen) >= 0:
                break
        self.until(text)

    def type(self, keys: str | bytes) -> None:
        os.write(self.ours, keys if isinstance(keys, bytes) else keys.encode())

    def end(self) -> tuple[int, str]:
        """Read to the end; return the exit code and what was shown since the last time."""
        while self._more():
            pass
        os.close(self.ours)
        return self.process.wait(), self.shown[self._seen :]

    def _more(self) -> bool:
        try:
            raw = os.read(self.ours, 4096)
        except OSError as error:
            if error.errno != errno.EIO:  # the other end of the terminal was closed
                raise
            return False
        text = raw.decode().replace("\r\n", "\n")
        self.shown += re.sub(r"\x1b\[\?2004[hl]\r?", "", text)  # readline's mark for pasted text
        return bool(raw)


@pytest.fixture
def person_at(child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fake: Any) -> Callable[..., Terminal]:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("INPUTRC", os.devnull)
    fake.on("GET", "/v1/approvals", [])
    return lambda *argv, **options: Terminal(child, "chat", *argv, **options)


def answer(fake: Any, text: str, *before: Any) -> None:
    fake.stream("POST", ASK, ACCEPTED, *before, ("token", {"text": text}), ("done", {"text": text}))


def test_a_talk_goes_on_where_it_stood_and_ends_with_ctrl_d(person_at: Callable[..., Terminal], fake: Any) -> None:
    fake.on("GET", TALK, HISTORY)
    answer(fake, "Hi\x1b[2J")
    answer(fake, "Bye")
    talk = person_at("ada")
    assert talk.until("you> What") == "ada, conversation main (Ctrl-C cancels an answer, Ctrl-D ends, /help)\nyou> What"
    assert talk.until("...\n") == " is there?\nada> One\n  Two\\x1b[2J\n  Three\n  Four\n  ...\n"
    talk.until("you> ")
    talk.type("hello there\n")
    assert talk.until("you> ") == "hello there\nada> Hi\\x1b[2J\nyou> "
    talk.type("\n")
    talk.until("you> ")
    talk.type("bye\n")
    assert talk.until("you> ") == "bye\nada> Bye\nyou> "
    talk.type(CTRL_D)
    assert talk.end() == (0, "\n")
    assert [seen.body["text"] for seen in fake.seen if seen.path == ASK] == ["hello there", "bye"]
    assert "secret of a tool" not in talk.shown


def test_ctrl_c_cancels_the_answer_and_the_talk_goes_on(
    person_at: Callable[..., Terminal], fake: Any, streams: Any
) -> None:
    fake.on("GET", TALK, [])
    fake.stream("POST", ASK, ACCEPTED, ("token", {"text": "Once upon"}), streams[0])
    answer(fake, "Fine")
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tell me a story\n")
    talk.until("Once upon")
    talk.type(CTRL_C)
    assert "cancelled\n" in talk.until("you> ")
    assert fake.hung_up.wait(10)
    talk.type("half a li")
    talk.until("half a li")
    talk.interrupt("you> ")
    talk.type("short then\n")
    assert "short then\nada> Fine\nyou> " in talk.until("Fine\nyou> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0
    assert [seen.body["text"] for seen in fake.seen if seen.path == ASK] == ["tell me a story", "short then"]


def test_help_and_quit_are_for_us_and_other_words_for_the_agent(person_at: Callable[..., Terminal], fake: Any) -> None:
    fake.on("GET", TALK, [])
    answer(fake, "That is a path")
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("/help\n")
    assert "/quit\n" in talk.until("you> ")
    talk.type("/etc/hosts\n")
    talk.until("That is a path\nyou> ")
    talk.type("/quit\n")
    assert talk.end()[0] == 0
    assert [seen.body["text"] for seen in fake.seen if seen.path == ASK] == ["/etc/hosts"]


@pytest.mark.parametrize(
    ("typed", "allow"), [("y\n", True), ("YES\n", True), ("\n", False), ("No\n", False), ("yo\ny\n", True)]
)
def test_what_the_agent_asks_is_asked_here(
    person_at: Callable[..., Terminal], fake: Any, typed: str, allow: bool
) -> None:
    answered = Event()

    def take(handler: Any) -> None:
        handler.answer({}, 200)
        answered.set()

    def wait(handler: Any) -> None:
        assert answered.wait(20)

    fake.on("GET", TALK, [])
    fake.answers["POST", APPROVAL] = [take]
    answer(fake, "Done", ("token", {"text": "I need"}), ASKS, wait, ("waiting", {"reason": "signal"}))
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tidy up\n")
    shown = talk.until(QUESTION)
    assert "I need\n\nada asks to call shell with\n{\n" in shown
    assert '"rm",\n    "\\u001b[2J"\n' in shown
    assert "why you are asked: it always asks\n" in shown
    talk.type(typed)
    assert f"({'allowed' if allow else 'denied'})\n" in talk.until("Done\n")
    assert fake.asked("POST", APPROVAL).body == {"allow": allow, "by": person()}
    talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0


def test_what_was_typed_before_the_question_is_no_answer(person_at: Callable[..., Terminal], fake: Any) -> None:
    typed = Event()

    def wait(handler: Any) -> None:
        assert typed.wait(20)

    fake.on("GET", TALK, [])
    fake.on("POST", APPROVAL, {})
    answer(fake, "Done", ("token", {"text": "I need"}), wait, ASKS)
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tidy up\n")
    talk.until("I need")
    talk.type("y\n")
    talk.until("y\n")  # the terminal has it
    typed.set()
    talk.until(QUESTION)
    assert not [seen for seen in fake.seen if seen.path == APPROVAL]
    talk.type("n\n")
    talk.until("(denied)\n")
    assert fake.asked("POST", APPROVAL).body["allow"] is False
    talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0


def test_a_question_may_be_left_open(person_at: Callable[..., Terminal], fake: Any) -> None:
    fake.on("GET", TALK, [])
    answer(fake, "Later", ASKS)
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tidy up\n")
    talk.until(QUESTION)
    talk.type(CTRL_D)
    assert "next: understudy approvals allow 0193-p, or: understudy approvals deny 0193-p\n" in talk.until("Later\n")
    talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0
    assert not [seen for seen in fake.seen if seen.path == APPROVAL]


def test_ctrl_c_at_the_question_cancels_and_answers_nothing(
    person_at: Callable[..., Terminal], fake: Any, streams: Any
) -> None:
    fake.on("GET", TALK, [])
    fake.stream("POST", ASK, ACCEPTED, ASKS, streams[0])
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tidy up\n")
    talk.until(QUESTION)
    talk.type(CTRL_C)
    assert "cancelled\n" in talk.until("you> ")
    assert fake.hung_up.wait(10)
    talk.type(CTRL_D)
    assert talk.end()[0] == 0
    assert not [seen for seen in fake.seen if seen.path == APPROVAL]


def test_an_answer_that_comes_too_late_is_told_and_the_talk_goes_on(
    person_at: Callable[..., Terminal], fake: Any
) -> None:
    fake.on("GET", TALK, [])
    fake.problem("POST", APPROVAL, "approval.answered", "ada answered it")
    answer(fake, "Done", ASKS)
    talk = person_at("ada")
    talk.until("you> ")
    talk.type("tidy up\n")
    talk.until(QUESTION)
    talk.type("y\n")
    assert "error: The approval waits no more\n  why: ada answered it\n" in talk.until("Done\n")
    talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0


def test_a_failed_answer_does_not_end_a_talk_on_a_terminal(
    person_at: Callable[..., Terminal], fake: Any, make_problem: Callable[..., Any]
) -> None:
    fake.on("GET", TALK, [])
    fake.problem("POST", ASK, "daemon.draining", "it stops")
    answer(fake, "Back", ("error", make_problem("llm.unreachable", "refused")))
    fake.problem("POST", ASK, "agent.not_found", "no agent is called ada")
    talk = person_at("ada")
    for said in ("error: The daemon is stopping\n", "error: The provider cannot be reached\n"):
        talk.until("you> ")
        talk.type("hello\n")
        talk.until(said)
    talk.until("you> ")
    talk.type("hello\n")
    code, shown = talk.end()
    assert code == 4
    assert "error: There is no such agent\n" in shown


def test_what_waits_from_before_is_shown_with_the_way_to_answer(person_at: Callable[..., Terminal], fake: Any) -> None:
    fake.answers.pop(("GET", "/v1/approvals"))
    waiting = {"id": "0193-p", "tool": "shell", "arguments": {}, "conversation": "main"}
    fake.on("GET", "/v1/approvals", [waiting, waiting | {"id": "0193-q", "conversation": "two"}])
    fake.on("GET", TALK, [])
    talk = person_at("ada")
    assert "next: understudy approvals allow 0193-p, or: " in talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0
    assert "0193-q" not in talk.shown
    assert fake.asked("GET", "/v1/approvals").query == {"status": ["pending"], "agent": ["ada"]}


def test_with_the_answers_in_a_file_the_prompt_stays_on_the_terminal(
    person_at: Callable[..., Terminal], fake: Any, tmp_path: Any
) -> None:
    fake.on("GET", TALK, [])
    answer(fake, "Hi")
    with (tmp_path / "answers").open("w") as file:
        talk = person_at("ada", stdout=file)
    talk.until("you> ")
    talk.type("hello\n")
    talk.until("you> ")
    talk.type(CTRL_D)
    assert talk.end()[0] == 0
    assert (tmp_path / "answers").read_text() == "Hi\n"


# -- on a pipe ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def piped(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def call(text: str, *argv: str) -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return cli("chat", *argv)

    return call


def test_on_a_pipe_each_line_is_answered(piped: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", TALK, HISTORY)
    answer(fake, "One", ASKS)
    answer(fake, "Two")
    ended = piped("a\n\nb", "ada")
    assert (ended.code, ended.out) == (0, "One\nTwo\n")
    assert ended.err == (
        'approval: ada asks to call shell {"argv": ["rm", "\\u001b[2J"]}\n'
        "  next: understudy approvals allow 0193-p, or: understudy approvals deny 0193-p\n"
    )
    bodies = [seen.body for seen in fake.seen if seen.path == ASK]
    assert bodies == [{"text": "a", "conversation": "main"}, {"text": "b", "conversation": "main"}]


@pytest.mark.parametrize(("code", "exit_code"), [("agent.busy", 75), ("tool.denied", 77), ("agent.not_found", 4)])
def test_on_a_pipe_the_first_failure_ends_it(piped: Callable[..., Any], fake: Any, code: str, exit_code: int) -> None:
    fake.on("GET", TALK, [])
    fake.problem("POST", ASK, code, "why")
    assert piped("a\nb\n", "ada").code == exit_code
    assert len([seen for seen in fake.seen if seen.path == ASK]) == 1


def test_an_agent_that_is_not_there_is_exit_code_4_before_a_word_is_said(piped: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", TALK, "agent.not_found", "no agent is called ada")
    assert piped("a\n", "ada").code == 4
    assert len(fake.seen) == 1


def test_a_new_talk_has_a_name_of_its_own(
    piped: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.cli.chat._fresh", lambda: "chat-1")
    fake.problem("GET", "/v1/agents/ada/conversations/chat-1", "conversation.not_found", "none yet")
    answer(fake, "Hi")
    assert piped("a\n", "ada", "--new").out == "Hi\n"
    assert fake.asked("POST", ASK).body["conversation"] == "chat-1"


def test_a_new_talk_does_not_go_on_in_an_old_one(piped: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", TALK, HISTORY)
    ended = piped("a\n", "ada", "--new", "--conversation", "main")
    assert (ended.code, ended.out) == (1, "")
    assert "There is a conversation of this name\n  why: main has messages\n" in ended.err


def test_a_talk_may_begin_as_a_fork(piped: Callable[..., Any], fake: Any) -> None:
    path = "/v1/agents/ada/conversations/two"
    fake.on("GET", path, [])
    fake.on("POST", f"{path}/fork", 5)
    answer(fake, "Hi")
    assert piped("a\n", "ada", "--fork", "main", "--conversation", "two").code == 0
    assert fake.asked("POST", f"{path}/fork").body == {"source": "main"}
    fake.problem("POST", "/v1/agents/ada/conversations/three/fork", "conversation.not_found", "there is no x")
    fake.on("GET", "/v1/agents/ada/conversations/three", [])
    assert piped("a\n", "ada", "--fork", "x", "--conversation", "three").code == 4


def test_the_name_of_a_new_talk_is_one_the_daemon_takes() -> None:
    from runtime.cli.chat import _fresh

    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}", _fresh())
