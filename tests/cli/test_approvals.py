"""`approvals`: the list, the question, the answer, and what needs no asking."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.params import person

NOW = 1_790_000_000_000
PATH = "/v1/approvals/0193-p"
APPROVAL = {
    "id": "0193-p",
    "agent": "clerk",
    "run": "0193-r",
    "conversation": "main",
    "tool": "shell",
    "arguments": {"argv": ["rm", "a\x1b[2J\u202eb\nstatus  allowed"]},
    "digest": "d1",
    "why": "shell always asks",
    "status": "pending",
    "asked_at": NOW - 60_000,
    "expires_at": NOW + 3_600_000,
    "answered_at": None,
    "answered_by": None,
    "reason": None,
    "edited": None,
    "always": False,
}
NEXT = "understudy approvals allow 0193-p, or: understudy approvals deny 0193-p"


def test_what_waits_is_a_table(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/approvals", [APPROVAL | {"arguments": {"path": "a" * 80}}])
    ended = cli("approvals", "ls")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["ID", "AGENT", "TOOL", "ARGUMENTS", "STATUS", "ASKED", "EXPIRES"]
    assert lines[1] == f'0193-p  clerk  shell  {{"path": "{"a" * 48} …  pending  1 min ago  in 1 h'
    assert fake.seen[-1].query == {"status": ["pending"], "limit": ["100"]}


@pytest.mark.parametrize(
    ("argv", "query"),
    [
        (("--all",), {"limit": ["100"]}),
        (("--status", "denied", "--agent", "a", "-n", "3"), {"status": ["denied"], "agent": ["a"], "limit": ["3"]}),
    ],
)
def test_others_are_listed_when_asked_for(
    cli: Callable[..., Any], fake: Any, argv: tuple[str, ...], query: dict[str, list[str]]
) -> None:
    fake.on("GET", "/v1/approvals", [APPROVAL])
    assert cli("approvals", "ls", *argv, "--json").json == [APPROVAL]
    assert fake.seen[-1].query == query


def test_all_and_a_status_contradict(cli: Callable[..., Any], fake: Any) -> None:
    assert cli("approvals", "ls", "--all", "--status", "used").code == 2
    assert fake.seen == []


def test_on_a_terminal_the_list_says_how_to_answer(terminal: Callable[..., str], fake: Any) -> None:
    fake.on("GET", "/v1/approvals", [])
    fake.on("GET", "/v1/approvals", [APPROVAL])
    assert terminal("approvals", "ls").endswith("nothing waits for a person\n")
    shown = terminal("approvals", "ls")
    assert shown.endswith("answer one: understudy approvals allow ID, or deny ID\n")
    assert "\x1b[2J" not in shown


def test_one_is_shown_whole_and_nothing_in_it_can_pose_as_something_else(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", PATH, APPROVAL)
    assert cli("approvals", "show", "0193-p").out == (
        "id            0193-p\n"
        "status        pending\n"
        "agent         clerk\n"
        "tool          shell\n"
        "arguments     {\n"
        '                "argv": [\n'
        '                  "rm",\n'
        '                  "a\\u001b[2J\\u202eb\\nstatus  allowed"\n'
        "                ]\n"
        "              }\n"
        "why           shell always asks\n"
        "run           0193-r\n"
        "conversation  main\n"
        "asked         1 min ago (2026-09-21T14:12:20Z)\n"
        "expires       in 1 h (2026-09-21T15:13:20Z)\n"
        "digest        d1\n"
        f"\nnext: {NEXT}\n"
    )
    assert cli("approvals", "show", "0193-p", "--json").json == APPROVAL


def test_an_answered_one_tells_by_whom_and_with_what(cli: Callable[..., Any], fake: Any) -> None:
    change = {"status": "used", "answered_at": NOW - 5000, "answered_by": "ada", "reason": "ok", "edited": {"a": 1}}
    fake.on("GET", PATH, APPROVAL | change | {"always": True})
    shown = cli("approvals", "show", "0193-p").out
    assert "answered      5 s ago (2026-09-21T14:13:15Z) by ada\nsaid          ok\nwith          {\n" in shown
    assert "always        yes, this call needs no asking any more\n" in shown
    assert "next:" not in shown


def test_a_call_is_allowed_once(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", PATH, APPROVAL | {"status": "allowed"})
    ended = cli("approvals", "allow", "0193-p")
    assert (ended.code, ended.out, ended.err) == (0, "0193-p allowed: clerk may call shell once\n", "")
    assert fake.asked("POST", PATH).body == {"allow": True, "by": person()}


def test_a_call_is_allowed_for_good_with_other_arguments_and_a_word(
    cli: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    fake.on("POST", PATH, APPROVAL | {"status": "allowed"})
    (home / "edit.json").write_text('{"argv": ["ls"]}')
    for given in ('{"argv": ["ls"]}', "-", "@edit.json"):
        monkeypatch.setattr("sys.stdin", io.StringIO('{"argv": ["ls"]}\n'))
        ended = cli("approvals", "allow", "0193-p", "--always", "--edit", given, "--reason", "only look")
        assert ended.out == ("0193-p allowed: clerk may call shell from now on, with these arguments, without asking\n")
        body = {"allow": True, "reason": "only look", "always": True, "arguments": {"argv": ["ls"]}, "by": person()}
        assert fake.seen[-1].body == body


@pytest.mark.parametrize("given", ["{argv: 1}", "[1]", "@nowhere.json", "@."])
def test_arguments_that_cannot_be_used_are_wrong_usage_and_nothing_is_allowed(
    cli: Callable[..., Any], fake: Any, given: str
) -> None:
    ended = cli("approvals", "allow", "0193-p", "--edit", given)
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert "--edit" in ended.err


def test_a_call_is_denied(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", PATH, APPROVAL | {"status": "denied"})
    ended = cli("approvals", "deny", "0193-p", "--reason", "no")
    assert (ended.code, ended.out) == (0, "0193-p denied: clerk may not call shell\n")
    assert fake.asked("POST", PATH).body == {"allow": False, "reason": "no", "by": person()}
    assert cli("approvals", "deny", "0193-p", "--json").json["status"] == "denied"


def test_on_a_terminal_the_answer_comes_with_the_run(terminal: Callable[..., str], fake: Any) -> None:
    fake.on("POST", PATH, APPROVAL | {"status": "allowed"})
    assert terminal("approvals", "allow", "0193-p").endswith("its run: understudy runs show 0193-r\n")


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("request.denied", 77, "Not allowed"),
        ("approval.not_found", 4, "`understudy approvals ls` shows those that wait."),
        ("approval.answered", 1, "`understudy approvals show 0193-p` tells what became of it."),
        ("store.busy", 75, "The database is locked"),
    ],
)
def test_each_refusal_has_its_exit_code(
    cli: Callable[..., Any], fake: Any, code: str, exit_code: int, said: str
) -> None:
    fake.problem("POST", PATH, code, "the detail")
    for word in ("allow", "deny"):
        ended = cli("approvals", word, "0193-p")
        assert (ended.code, ended.out) == (exit_code, "")
        assert said in ended.err


GRANT = {"agent": "clerk", "tool": "shell", "arguments": {"argv": ["ls"]}, "digest": "d1", "at": NOW, "by": "ada"}


def test_what_needs_no_asking_is_listed_and_taken_back(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/grants", [GRANT])
    assert cli("approvals", "grants", "--agent", "clerk").out == (
        'AGENT  TOOL   DIGEST  SINCE    BY   ARGUMENTS\nclerk  shell  d1      0 s ago  ada  {"argv": ["ls"]}\n'
    )
    assert fake.seen[-1].query == {"agent": ["clerk"]}
    assert cli("approvals", "grants", "--json").json == [GRANT]
    fake.on("POST", "/v1/grants/revoke", {})
    assert (
        cli("approvals", "revoke", "clerk", "shell", "d1").out == "clerk asks again before it calls shell like that\n"
    )
    assert fake.seen[-1].body == {"agent": "clerk", "tool": "shell", "digest": "d1"}


def test_a_grant_that_is_not_there_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/grants/revoke", "approval.grant_not_found", "clerk has none")
    assert cli("approvals", "revoke", "clerk", "shell", "d2").code == 4
