"""What a person changes about agents: `new`, `edit`, `pause`, `resume`, `restart`, `rm`, `fork`."""

import os
import pty
from collections.abc import Callable
from typing import Any

import pytest

VIEW = {"name": "clerk", "status": "idle", "state": "running", "restarts": 0, "mailbox": 0, "pending": 0}


def test_an_agent_is_defined_with_what_is_said_and_nothing_else(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/agents", VIEW)
    ended = cli(
        *("agents", "new", "clerk", "--role", "clerk", "--goal", "file", "--instructions", "Be brief."),
        *("--provider", "local", "--model", "m", "--tool", "files.read", "--tool", "shell"),
        *("--set", "llm.temperature=0.5", "--set", "budget.day_cost=2", "--set", "max_attempts=1"),
        *("--set", 'permissions.files.read="ask"', "--set", 'output={"type": "object"}'),
    )
    assert (ended.code, ended.out, ended.err) == (0, "clerk defined, it is idle (running)\n", "")
    assert fake.asked("POST", "/v1/agents").body == {
        "name": "clerk",
        "settings": {
            "role": "clerk",
            "goal": "file",
            "instructions": "Be brief.",
            "llm": {"provider": "local", "model": "m", "temperature": 0.5},
            "tools": ["files.read", "shell"],
            "budget": {"day_cost": 2},
            "max_attempts": 1,
            "permissions": {"files.read": "ask"},
            "output": {"type": "object"},
        },
    }
    assert cli("agents", "new", "clerk", "--json").json == VIEW


def test_an_agent_is_changed_and_settings_are_taken_back(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/agents/clerk/edit", VIEW | {"reason": "its tool x\x1b is missing"})
    ended = cli("agents", "edit", "clerk", "--model", "n", "--unset", "goal", "--unset", "budget.day_cost")
    assert (ended.code, ended.out) == (0, "clerk changed, it is idle (running)\n")
    assert ended.err == "  why: its tool x\\x1b is missing\n"
    changes = {"llm": {"model": "n"}, "goal": None, "budget": {"day_cost": None}}
    assert fake.asked("POST", "/v1/agents/clerk/edit").body == {"settings": changes}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("edit", "a"), "Say what to change"),
        (("edit", "a", "--set", "goal"), "--set needs KEY=JSON, not goal"),
        (("edit", "a", "--set", "goal=x"), "A string needs its own quotes: --set 'goal=\"x\"'"),
        (("edit", "a", "--goal", "x", "--unset", "goal"), "goal is set and unset at once"),
        (("new", "a", "--role", "x", "--set", 'role="y"'), "role is set twice"),
        (("new", "a", "--set", "budget=1", "--set", "budget.day_cost=2"), "budget.day_cost is set twice"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_nothing_is_asked(
    cli: Callable[..., Any], fake: Any, argv: tuple[str, ...], said: str
) -> None:
    ended = cli("agents", *argv)
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert said in ended.err


@pytest.mark.parametrize(
    ("code", "exit_code"), [("agent.exists", 1), ("agent.invalid", 2), ("daemon.draining", 75), ("request.denied", 77)]
)
def test_a_refusal_has_its_exit_code(cli: Callable[..., Any], fake: Any, code: str, exit_code: int) -> None:
    fake.problem("POST", "/v1/agents", code, "why", errors=[{"loc": ["llm", "model"], "msg": "is missing\x1b"}])
    ended = cli("agents", "new", "clerk")
    assert ended.code == exit_code
    assert "llm.model: is missing\\x1b" in ended.err


@pytest.mark.parametrize(
    ("word", "path", "body", "said"),
    [
        ("pause", "pause", {"paused": True}, "clerk paused, it is idle (running)\n"),
        ("resume", "pause", {"paused": False}, "clerk resumed, it is idle (running)\n"),
        ("restart", "restart", {}, "clerk restarted, it is idle (running)\n"),
    ],
)
def test_an_agent_is_paused_resumed_and_restarted(
    cli: Callable[..., Any], fake: Any, word: str, path: str, body: dict[str, Any], said: str
) -> None:
    fake.on("POST", f"/v1/agents/clerk/{path}", VIEW)
    ended = cli("agents", word, "clerk")
    assert (ended.code, ended.out, ended.err) == (0, said, "")
    assert fake.asked("POST", f"/v1/agents/clerk/{path}").body == body
    assert cli("agents", word, "clerk", "--json").json == VIEW
    assert cli("agents", word, "bob").code == 4


def test_on_a_terminal_a_paused_agent_comes_with_the_way_back(terminal: Callable[..., str], fake: Any) -> None:
    fake.on("POST", "/v1/agents/clerk/pause", VIEW)
    assert terminal("agents", "pause", "clerk").endswith("let it go on: understudy agents resume clerk\n")


def test_an_agent_is_forgotten_only_if_that_is_meant(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/agents/clerk/remove", {})
    ended = cli("agents", "rm", "clerk")
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert "add --yes to do it" in ended.err
    assert cli("agents", "rm", "clerk", "--yes").out == "clerk removed; its conversations stay\n"
    fake.problem("POST", "/v1/agents/a/remove", "agent.from_config", "it is in config.toml:3")
    assert cli("agents", "rm", "a", "--yes").code == 1


@pytest.mark.parametrize(("typed", "code", "asked"), [(b"y\n", 0, 1), (b"n\n", 130, 0)])
def test_on_a_terminal_it_is_asked(child: Callable[..., Any], fake: Any, typed: bytes, code: int, asked: int) -> None:
    fake.on("POST", "/v1/agents/clerk/remove", {})
    ours, theirs = pty.openpty()
    process = child("agents", "rm", "clerk", stdin=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 4096)
    os.write(ours, typed)
    assert process.wait() == code
    os.close(ours)
    assert len(fake.seen) == asked


def test_a_conversation_is_forked(cli: Callable[..., Any], fake: Any) -> None:
    path = "/v1/agents/clerk/conversations/two/fork"
    fake.on("POST", path, 7)
    ended = cli("agents", "fork", "clerk", "main", "two")
    assert (ended.code, ended.out) == (0, "two begins with 7 messages of main\n")
    assert fake.asked("POST", path).body == {"source": "main"}
    assert cli("agents", "fork", "clerk", "main", "two", "--keep", "0", "--json").json == {
        "conversation": "two",
        "messages": 7,
    }
    assert fake.seen[-1].body == {"source": "main", "keep": 0}
    fake.problem("POST", "/v1/agents/clerk/conversations/x/fork", "conversation.exists", "x is there")
    assert cli("agents", "fork", "clerk", "main", "x").code == 1
