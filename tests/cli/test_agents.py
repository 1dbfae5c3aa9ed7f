"""`agents ls`, `show` and `export`."""

import json
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
    "missing_tools": {"maps/find": "the MCP server maps is not up", "x": "a\nname: forged"},
    "permissions": {"files.read": "ask"},
    "workdir": "/srv/work",
    "when_busy": "steer",
    "budget": {"run_calls": 25, "day_cost": 2.5, "day_tokens": 10_000},
    "spent_today": {"calls": 1, "input_tokens": 1000, "output_tokens": 200, "cost": 12_300},
    "runs": ["0193-r"],
    "approvals": ["0193-p"],
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
        "missing tools  maps/find: the MCP server maps is not up\n"
        "               x: a\\nname: forged\n"
        "permissions    files.read: ask\n"
        "workdir        /srv/work\n"
        "when busy      steer\n"
        "budget         run calls 25, day cost 2.5, day tokens 10,000\n"
        "spent today    1 call, 1,200 tokens (1,000 in, 200 out), cost 0.0123; left: 2.4877 of cost and 8,800 tokens\n"
        "defined in     config.toml:3\n"
        "pending        1\n"
        "runs           understudy runs show 0193-r\n"
        "approvals      understudy approvals show 0193-p\n"
        "conversations  main\n"
        "mailbox        0\n"
        "restarts       2\n"
        "incarnation    3\n"
        "heartbeat      4 s ago (2026-09-21T14:13:16Z)\n"
        "last error     LlmTimeout: the model was silent for 60 s\n"
        "saved          {\n"
        '                 "current_goal": "x"\n'
        "               }\n"
        "version        7 of the saved state\n"
    )
    assert cli("agents", "show", "assistant", "--json").json == DETAIL


def test_an_agent_in_quarantine_says_why(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/agents/a", AGENT | {"state": "quarantined", "status": "error", "reason": "ValueError: bad"})
    assert "quarantined  ValueError: bad\n" in cli("agents", "show", "a").out


def test_an_unknown_agent_is_exit_code_4_with_the_next_command(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/agents/a/b c", "agent.not_found", "No agent is called 'a/b c'.")
    ended = cli("agents", "show", "a/b c")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err == (
        "error: There is no such agent\n  why: No agent is called 'a/b c'.\n  next: `understudy agents ls` shows all.\n"
    )


def test_a_conversation_is_exported_page_by_page(cli: Callable[..., Any], fake: Any) -> None:
    path = "/v1/agents/a/conversations/two words/export"
    messages = [{"n": n, "at": 1, "run": "r", "role": "user", "content": f"x\u2028{n}\x1b"} for n in (1, 2, 5)]
    for page in (messages[:2], messages[2:], []):
        fake.on("GET", path, page)
    ended = cli("agents", "export", "a", "--conversation", "two words")
    assert [json.loads(line) for line in ended.out.splitlines()] == messages
    assert "\x1b" not in ended.out
    assert [seen.query["after"] for seen in fake.seen] == [["0"], ["2"], ["5"]]


def test_a_page_that_comes_again_and_again_ends_the_export(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/agents/a/conversations/main/export", [{"n": 3, "role": "user", "content": "x"}])
    ended = cli("agents", "export", "a")
    assert (ended.code, len(fake.seen)) == (0, 2)


def test_a_conversation_that_is_not_there_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/agents/a/conversations/b/export", "conversation.not_found", "a has no conversation b")
    assert cli("agents", "export", "a", "--conversation", "b").code == 4
