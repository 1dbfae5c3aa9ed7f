"""`ask`: the streamed answer, and each way it can end."""

import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

PATH = "/v1/agents/assistant/ask"
ACCEPTED = ("accepted", {"job": "0193-a", "conversation": "main"})
DONE = ("done", {"text": "Hello", "usage": {}, "job": "0193-a", "model": "m"})


def test_the_answer_is_streamed_and_ends_with_one_newline(cli: Callable[..., Any], fake: Any) -> None:
    tokens = [("token", {"text": text}) for text in ("Hel", "lo\x1b[0m")]
    fake.stream("POST", PATH, ACCEPTED, ("started", {"attempt": 1}), ("reasoning", {"text": "hm"}), *tokens, DONE)
    ended = cli("ask", "assistant", "What", "is it?")
    # On a pipe the words come as they are: what reads them is a program.
    assert (ended.code, ended.out, ended.err) == (0, "Hello\x1b[0m\n", "")
    assert fake.asked("POST", PATH).body == {"text": "What is it?"}


def test_an_answer_without_tokens_comes_whole(cli: Callable[..., Any], fake: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("done", {"text": "Hi\n", "job": "0193-a"}))
    assert cli("ask", "assistant", "x", "--conversation", "two").out == "Hi\n"
    assert fake.asked("POST", PATH).body == {"text": "x", "conversation": "two"}


def test_json_is_one_object_a_part(cli: Callable[..., Any], fake: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "a\nb"}), DONE)
    assert cli("ask", "assistant", "x", "--json").out.splitlines()[:2] == [
        '{"kind": "accepted", "job": "0193-a", "conversation": "main"}',
        '{"kind": "token", "text": "a\\nb"}',
    ]


@pytest.mark.parametrize("argv", [(), ("-",)])
def test_the_text_may_come_from_a_pipe(
    cli: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a diff\n"))
    fake.stream("POST", PATH, ACCEPTED, DONE)
    assert cli("ask", "assistant", *argv).code == 0
    assert fake.asked("POST", PATH).body == {"text": "a diff\n"}


def test_nothing_to_say_is_wrong_usage(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    ended = cli("ask", "assistant")
    assert ended.code == 2
    assert ended.err.endswith("Error: There is nothing to say: the text is empty.\n")


def test_a_restarted_answer_begins_again_and_says_so(cli: Callable[..., Any], fake: Any) -> None:
    again = [("token", {"text": "Hel"}), ("restarted", {}), ("token", {"text": "Hello"})]
    fake.stream("POST", PATH, ACCEPTED, *again, DONE)
    ended = cli("ask", "assistant", "x")
    assert ended.out == "Hel\nHello\n"
    assert ended.err == "the answer begins again; what stands above is void\n"


def test_an_error_in_the_stream_says_what_why_and_next(
    cli: Callable[..., Any], fake: Any, make_problem: Callable[..., Any]
) -> None:
    error = ("error", make_problem("llm.unreachable", "connect to 127.0.0.1:9 refused"))
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "Hel"}), error)
    ended = cli("ask", "assistant", "x")
    assert (ended.code, ended.out) == (75, "Hel\n")
    assert ended.err == (
        "error: The provider cannot be reached\n"
        "  why: connect to 127.0.0.1:9 refused\n"
        "  next: Check base_url and the network.\n"
    )


def test_detached_it_prints_the_job_and_leaves(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", PATH, {"id": "0193-a"}, 202)
    ended = cli("ask", "assistant", "x", "--detach")
    assert (ended.code, ended.out, ended.err) == (0, "0193-a\n", "")
    assert fake.asked("POST", PATH).headers["Prefer"] == "respond-async"
    assert cli("ask", "assistant", "x", "--detach", "--json").json == {"id": "0193-a"}


def test_a_daemon_that_dies_is_exit_code_75_with_the_way_to_the_answer(
    cli: Callable[..., Any], fake: Any, streams: Any
) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "Hel"}), streams[1])
    ended = cli("ask", "assistant", "x")
    assert (ended.code, ended.out) == (75, "Hel\n")
    assert ended.err == (
        "error: The daemon went away\n"
        "  why: the question is kept, and is answered when the daemon is back\n"
        "  next: understudy jobs wait 0193-a\n"
    )


def test_a_daemon_that_dies_before_it_accepts_leaves_no_false_promise(
    cli: Callable[..., Any], fake: Any, streams: Any
) -> None:
    fake.stream("POST", PATH, streams[1])
    ended = cli("ask", "assistant", "x")
    assert ended.code == 75
    assert "it may or may not have been taken" in ended.err


def test_a_timeout_hangs_up(cli: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "Hel"}), streams[0])
    ended = cli("ask", "assistant", "x", "--timeout", "200ms")
    assert (ended.code, ended.out) == (124, "Hel\n")
    assert ended.err.startswith("error: Timed out\n  why: the answer was not whole after 0.2 s, and was cancelled\n")
    assert fake.hung_up.wait(10)


def test_ctrl_c_cancels(child: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "Hel"}), streams[0])
    process = child("ask", "assistant", "x")
    assert os.read(process.stdout.fileno(), 3) == b"Hel"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "\n", "cancelled\n")
    assert fake.hung_up.wait(10)


def test_a_reader_that_leaves_hangs_up(child: Callable[..., Any], fake: Any, streams: Any) -> None:
    read, write = os.pipe()
    os.close(read)
    fake.stream("POST", PATH, ACCEPTED, ("token", {"text": "Hel"}), streams[0])
    process = child("ask", "assistant", "x", stdout=write)
    os.close(write)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")
    assert fake.hung_up.wait(10)


def test_a_daemon_that_dies_within_a_part_is_told_like_any_other_death(
    cli: Callable[..., Any], fake: Any, streams: Any
) -> None:
    def half(handler: Any) -> None:
        handler.wfile.write(b'40\r\n{"kind": "token", "da')

    fake.stream("POST", PATH, ACCEPTED, half, streams[1])
    ended = cli("ask", "assistant", "x")
    assert ended.code == 75
    assert "understudy jobs wait 0193-a" in ended.err


def test_on_a_terminal_the_answer_cannot_command_it(terminal: Callable[..., Any], fake: Any) -> None:
    tokens = [("token", {"text": text}) for text in ("a\tb\n", "\x1b]0;title\x07", "c\r\n", "\u202e")]
    fake.stream("POST", PATH, ACCEPTED, ("reasoning", {"text": "hm"}), *tokens, DONE)
    shown = terminal("ask", "assistant", "x")
    assert shown.expandtabs() == "(thinking)\na       b\n\\x1b]0;title\\x07c\n\\u202e\n"


@pytest.mark.parametrize("word", ["enqueue", "steer", "interrupt", "reject", "rollback"])
def test_what_becomes_of_words_for_a_busy_agent_may_be_said(cli: Callable[..., Any], fake: Any, word: str) -> None:
    fake.stream("POST", PATH, ACCEPTED, DONE)
    assert cli("ask", "assistant", "x", "--when-busy", word).code == 0
    assert fake.asked("POST", PATH).body == {"text": "x", "when_busy": word}


def test_a_busy_agent_that_refuses_is_exit_code_75(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", PATH, "agent.busy", "a turn runs in main")
    ended = cli("ask", "assistant", "x", "--when-busy", "reject")
    assert (ended.code, ended.out) == (75, "")
    assert cli("ask", "assistant", "x", "--when-busy", "never").code == 2


ASIDES = [
    ("token", {"text": "I look"}),
    ("tool", {"name": "files.read", "arguments": {"path": "a\x1b[2J\nb"}, "state": "started"}),
    ("tool", {"name": "files.read", "arguments": {"path": "a"}, "state": "done"}),
    ("tool", {"name": "fetch\x07", "arguments": '{"url": "u"}', "state": "started"}),
    ("tool", {"name": "fetch\x07", "arguments": "{}", "state": "failed", "text": "no\x1bsuch host\nat all"}),
    ("tool", {"name": "old", "arguments": "{}", "state": "failed"}),
    ("approval", {"id": "0193-p", "tool": "shell", "arguments": {"argv": ["ls", "\u202e"]}}),
    ("waiting", {"reason": "signal"}),
    ("restarted", {}),
    ("ask", {"agent": "ada", "job": "0193-y"}),
    ("waiting", {"reason": "children"}),
    ("restarted", {}),
    ("token", {"text": "It is"}),
    ("steer", {"text": "faster\n\x1b!"}),
    ("waiting", {"reason": "retry"}),
    ("waiting", {}),
    ("steered", {"into": "0193-z"}),
    ("token", {"text": " done"}),
    DONE,
]


def test_what_happens_on_the_way_is_told_on_stderr_and_the_answer_stays_whole(
    cli: Callable[..., Any], fake: Any
) -> None:
    fake.stream("POST", PATH, ACCEPTED, *ASIDES)
    ended = cli("ask", "assistant", "x")
    assert (ended.code, ended.out) == (0, "I look\nIt is done\n")
    assert ended.err == (
        'tool files.read {"path": "a\\u001b[2J\\nb"}\n'
        'tool fetch\\x07 {"url": "u"}\n'
        "tool fetch\\x07 failed: no\\x1bsuch host \N{HORIZONTAL ELLIPSIS}\n"
        "tool old failed\n"
        'approval: assistant asks to call shell {"argv": ["ls", "\\u202e"]}\n'
        "  next: understudy approvals allow 0193-p, or: understudy approvals deny 0193-p\n"
        "(asks ada: understudy runs show 0193-y)\n"
        "(waits for another agent)\n"
        "(takes in: faster\\n\\x1b!)\n"
        "(waits: retry)\n"
        "(waits for its turn)\n"
        "(taken in by the run 0193-z, which answers it: understudy runs show 0193-z)\n"
    )
    ended = cli("ask", "assistant", "x", "--json")
    assert ended.err == ""
    assert '{"kind": "steered", "into": "0193-z"}' in ended.out.splitlines()


def test_words_after_a_tool_that_are_said_anew_are_told_of(cli: Callable[..., Any], fake: Any) -> None:
    half = [("token", {"text": "Do"}), ("waiting", {"reason": "retry"}), ("restarted", {}), ("token", {"text": "Done"})]
    fake.stream("POST", PATH, ACCEPTED, ASIDES[0], ASIDES[1], *half, DONE)
    ended = cli("ask", "assistant", "x")
    assert ended.out == "I look\nDo\nDone\n"
    assert ended.err.endswith("(waits: retry)\nthe answer begins again; what stands above is void\n")


def test_words_taken_in_by_another_run_are_answered_by_that(cli: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("steered", {"into": "0193-z"}), streams[1])
    ended = cli("ask", "assistant", "x")
    assert ended.code == 75
    assert "next: understudy jobs wait 0193-z\n" in ended.err


def test_on_a_terminal_what_happens_on_the_way_has_lines_of_its_own(terminal: Callable[..., Any], fake: Any) -> None:
    long = ("tool", {"name": "t", "arguments": {"text": "w" * 500}, "state": "started"})
    fake.stream("POST", PATH, ACCEPTED, ASIDES[0], long, ("token", {"text": "Done"}), DONE)
    first, second, third = terminal("ask", "assistant", "x").splitlines()
    assert (first, third) == ("I look", "Done")
    assert second.startswith('\x1b[2mtool t {"text": "www')
    assert second.endswith("…\x1b[0m")
    assert len(second) <= 80 + len("\x1b[2m\x1b[0m")


def test_a_hint_on_a_failed_job_names_the_job_and_not_the_agent(
    cli: Callable[..., Any], fake: Any, make_problem: Callable[..., Any]
) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("error", make_problem("job.failed", "it broke")))
    told = cli("ask", "assistant", "x").err
    assert "understudy jobs show 0193-a" in told
    assert "jobs show assistant" not in told


def test_a_question_that_a_stop_cut_off_is_not_to_be_asked_again(
    cli: Callable[..., Any], fake: Any, make_problem: Callable[..., Any]
) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("error", make_problem("daemon.draining", "The daemon is stopping")))
    told = cli("ask", "assistant", "x").err
    assert "the question is kept, and is answered when the daemon is back" in told
    assert "understudy jobs wait" in told


def test_an_answer_that_is_not_whole_says_so(cli: Callable[..., Any], fake: Any) -> None:
    fake.stream("POST", PATH, ACCEPTED, ("done", {"text": "Once upon", "job": "0193-a", "cut": True}))
    ended = cli("ask", "assistant", "x")
    assert ended.out == "Once upon\n"
    assert "max_tokens were used up" in ended.err
