"""`send`: tell and ask."""

import io
from collections.abc import Callable
from typing import Any

import pytest


def test_send_tells(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/actors/agent:echo/tell", None)
    ended = cli("send", "agent:echo", "demo.poke", '{"n": 1}')
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert fake.asked("POST", "/v1/actors/agent:echo/tell").body == {"type": "demo.poke", "message": {"n": 1}}


def test_send_ask_prints_the_reply(cli: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"id": "0193-a"}'))
    fake.on("POST", "/v1/actors/queue/ask", {"reply": {"status": "active"}})
    assert cli("send", "queue", "job.get", "-", "--ask", "--timeout", "2s").json == {"status": "active"}
    body = {"type": "job.get", "message": {"id": "0193-a"}, "timeout": 2.0}
    assert fake.asked("POST", "/v1/actors/queue/ask").body == body


def test_a_message_that_is_not_json_is_wrong_usage(cli: Callable[..., Any], fake: Any) -> None:
    ended = cli("send", "queue", "job.get", "{id: 1}")
    assert (ended.code, fake.seen) == (2, [])
    assert "the message is not JSON: {id: 1}\nA string needs its own quotes: '\"{id: 1}\"'\n" in ended.err


@pytest.mark.parametrize(
    ("code", "exit_code"), [("message.not_public", 77), ("actor.timeout", 124), ("actor.mailbox_full", 75)]
)
def test_each_error_has_its_exit_code(cli: Callable[..., Any], fake: Any, code: str, exit_code: int) -> None:
    fake.problem("POST", "/v1/actors/queue/ask", code, "why it is so")
    assert cli("send", "queue", "job.get", "--ask").code == exit_code


def test_an_internal_error_names_the_request(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/actors/queue/tell", "internal", "KeyError")
    ended = cli("send", "queue", "job.get")
    assert ended.err == (
        "error: Something went wrong inside\n"
        "  why: KeyError\n"
        "  why: request id: r-1\n"
        "  next: `understudy logs` has the details under this request id.\n"
    )


def test_a_code_this_version_does_not_know_is_still_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.on(
        "POST", "/v1/actors/queue/tell", {"code": "new.thing", "title": "New", "detail": "x\x1b", "status": 404}, 404
    )
    ended = cli("send", "queue", "job.get")
    assert (ended.code, ended.err) == (4, "error: New\n  why: x\\x1b\n")
