"""`agents ls` and `agents show`."""

from collections.abc import Callable
from typing import Any

NOW = 1_790_000_000_000
AGENT = {
    "name": "assistant",
    "status": "idle",
    "state": "running",
    "role": "Helper",
    "provider": "local",
    "model": "smollm2",
    "actor": None,
    "restarts": 2,
    "mailbox": 0,
    "pending": 1,
    "last_heartbeat_at": NOW - 4000,
    "reason": None,
}
DETAIL = AGENT | {
    "origin": "config.toml:3",
    "goal": "Answer",
    "backstory": "Two lines\nof it",
    "temperature": 0.2,
    "tools": ["files.read"],
    "saved": {"current_goal": "x"},
    "state_version": 7,
    "incarnation": 3,
    "conversations": ["main"],
    "last_error": "LlmTimeout: the model was silent for 60 s",
}


def test_agents_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/agents", [AGENT, AGENT | {"name": "mine", "provider": "", "model": "", "actor": "m:Mine"}])
    assert cli("agents", "ls").out == (
        "NAME       STATUS  STATE    MODEL          PENDING  MAILBOX  RESTARTS  HEARTBEAT  REASON\n"
        "assistant  idle    running  local/smollm2        1        0         2  4 s ago    -\n"
        "mine       idle    running  m:Mine               1        0         2  4 s ago    -\n"
    )
    assert cli("agents", "ls", "--json").json[0] == AGENT


def test_one_agent_is_shown_whole(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/agents/assistant", DETAIL)
    assert cli("agents", "show", "assistant").out == (
        "name           assistant\n"
        "status         idle (running)\n"
        "role           Helper\n"
        "goal           Answer\n"
        "backstory      Two lines\n"
        "               of it\n"
        "model          local/smollm2\n"
        "temperature    0.2\n"
        "tools          files.read\n"
        "defined in     config.toml:3\n"
        "pending        1\n"
        "mailbox        0\n"
        "restarts       2\n"
        "incarnation    3\n"
        "heartbeat      4 s ago (2026-09-21T14:13:16Z)\n"
        "conversations  main\n"
        "last error     LlmTimeout: the model was silent for 60 s\n"
        "saved          {\n"
        '                 "current_goal": "x"\n'
        "               }\n"
        "version        7 of the saved state\n"
    )
    assert cli("agents", "show", "assistant", "--json").json == DETAIL


def test_an_unknown_agent_is_exit_code_4_with_the_next_command(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/agents/a/b c", "agent.not_found", "No agent is called 'a/b c'.")
    ended = cli("agents", "show", "a/b c")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err == (
        "error: There is no such agent\n  why: No agent is called 'a/b c'.\n  next: `understudy agents ls` shows all.\n"
    )
