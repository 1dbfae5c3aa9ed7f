"""`providers` and `tools`."""

from collections.abc import Callable
from typing import Any

import pytest

PROVIDER = {
    "name": "local",
    "type": "local",
    "url": "http://127.0.0.1:1",
    "key": "$KEY",
    "agents": ["a", "b"],
    "calls": 12,
    "failures": 1,
    "active": 0,
    "waiting": 2,
    "cache_hits": 3,
    "breaker": "open",
    "last_error": "llm.timeout: silent\x1b\nfor 60 s",
}
TESTED = {
    "ok": True,
    "model": "m-1",
    "text": "Hello\x1b[2J",
    "first_ms": 120,
    "total_ms": 1500,
    "usage": {"input_tokens": 9, "output_tokens": 2, "estimated": False},
    "error": None,
    "hint": "",
}


def test_providers_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/providers", [PROVIDER])
    first, second = cli("providers", "ls").out.splitlines()
    assert first.split() == [
        *("PROVIDER", "TYPE", "BREAKER", "ACTIVE", "WAITING", "CALLS", "FAILURES", "CACHED"),
        *("AGENTS", "KEY", "URL", "LAST", "ERROR"),
    ]
    assert second.split()[:11] == ["local", "local", "open", "0", "2", "12", "1", "3", "a,", "b", "$KEY"]
    assert second.endswith("llm.timeout: silent\\x1b …")
    assert cli("providers", "ls", "--json").json == [PROVIDER]


def test_a_provider_that_answers_is_ok(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/providers/local/test", TESTED)
    ended = cli("providers", "test", "local", "--model", "m-1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "local ok: m-1; first word after 120 ms, whole after 1.5 s; 9 tokens in, 2 out\n  it said: Hello\\x1b[2J\n"
    )
    assert fake.asked("POST", "/v1/providers/local/test").body == {"model": "m-1"}
    assert cli("providers", "test", "local", "--json").json == TESTED
    assert fake.seen[-1].body == {}


def test_a_provider_that_does_not_answer_is_exit_code_1(cli: Callable[..., Any], fake: Any) -> None:
    failed = {"ok": False, "error": "connect refused\x1b", "hint": "Check `base_url`."}
    fake.on("POST", "/v1/providers/local/test", failed)
    ended = cli("providers", "test", "local")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == (
        "error: The provider local did not answer\n  why: connect refused\\x1b\n  next: Check base_url.\n"
    )
    assert cli("providers", "test", "local", "--json").code == 1


def test_a_provider_that_is_not_there_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/providers/x/test", "provider.not_found", "no provider is called x")
    assert cli("providers", "test", "x").code == 4


PIN = "/v1/actors/mcp:maps/ask"


@pytest.mark.parametrize("reply", [{}, None, {"tools": ["find", "route\x1b"], "digest": "d1"}])
def test_the_tools_of_a_server_are_pinned(cli: Callable[..., Any], fake: Any, reply: Any) -> None:
    fake.on("POST", PIN, {"reply": reply})
    ended = cli("tools", "pin", "maps")
    assert ended.code == 0
    more = "  tools   find, route\\x1b\n  digest  d1\n" if reply else ""
    assert ended.out == "the tools of maps are accepted as they are\n" + more
    assert fake.asked("POST", PIN).body == {"type": "tool.pin", "message": {}}
    assert cli("tools", "pin", "maps", "--json").json == reply


@pytest.mark.parametrize(
    ("code", "exit_code"), [("actor.not_found", 4), ("mcp.unavailable", 75), ("message.not_public", 77)]
)
def test_tools_that_cannot_be_pinned(cli: Callable[..., Any], fake: Any, code: str, exit_code: int) -> None:
    fake.problem("POST", PIN, code, "why")
    assert cli("tools", "pin", "maps").code == exit_code
