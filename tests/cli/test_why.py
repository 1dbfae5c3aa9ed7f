"""`why`: the reasons of a job or of an agent as lines, and which of both a name is taken for."""

from collections.abc import Callable
from typing import Any

import pytest

PATH = "/v1/jobs/0193-a/why"
VIEW = {
    "id": "0193-a",
    "status": "pending",
    "reason": None,
    "summary": "pending: its queue mail is paused by ada",
    "reasons": [
        {
            "code": "queue.paused",
            "text": "its queue mail is paused by ada",
            "hint": "understudy queues resume mail",
            "data": {},
        },
        {"code": "queue.position", "text": "it is the first\x1b[2J of its queue", "hint": "", "data": {}},
    ],
}
AGENT = {
    "name": "ada",
    "status": "error",
    "reasons": [
        ["it is quarantined: ValueError\x1b[2J", "`understudy agents restart ada`"],
        ["2 messages wait for it", ""],
    ],
}


def test_the_reasons_are_told_one_by_one_the_deciding_one_first(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", PATH, VIEW)
    ended = cli("why", "0193-a")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "pending: its queue mail is paused by ada\n"
        "  next: understudy queues resume mail\n"
        "also: it is the first\\x1b[2J of its queue\n"
    )
    assert cli("why", "0193-a", "--json").json == VIEW
    assert {seen.path for seen in fake.seen} == {PATH}  # an id begins with a digit, a name never does


@pytest.mark.parametrize("subject", ["ada", "agent:ada"])
def test_an_agent_is_told_of_as_well(cli: Callable[..., Any], fake: Any, subject: str) -> None:
    fake.on("GET", "/v1/agents/ada/why", AGENT)
    assert cli("why", subject).out == (
        "the agent ada is error: it is quarantined: ValueError\\x1b[2J\n"
        "  next: understudy agents restart ada\n"
        "also: 2 messages wait for it\n"
    )
    assert cli("why", subject, "--json").json == AGENT
    assert {seen.path for seen in fake.seen} == {"/v1/agents/ada/why"}


def test_an_agent_about_which_there_is_nothing_to_say(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/agents/ada/why", {"name": "ada", "status": "idle", "reasons": []})
    assert cli("why", "ada").out == "the agent ada is idle\n"


def test_what_is_no_agent_may_still_be_a_job(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/agents/f00d/why", "agent.not_found", "there is no agent 'f00d'")
    fake.on("GET", "/v1/jobs/f00d/why", VIEW | {"id": "f00d"})
    assert cli("why", "f00d").out.startswith("pending: its queue mail")


def test_what_is_neither_job_nor_agent_is_not_found(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/jobs/bob/why", "job.not_found", "there is no job bob")
    fake.problem("GET", "/v1/agents/bob/why", "agent.not_found", "there is no agent 'bob'")
    for subject in ("bob", "agent:bob"):
        ended = cli("why", subject)
        assert (ended.code, ended.out) == (4, "")
        assert "there is no agent 'bob'" in ended.err


def test_another_failure_is_no_reason_to_look_elsewhere(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/agents/bob/why", "daemon.starting", "not yet")
    assert cli("why", "bob").code == 75
    assert [seen.path for seen in fake.seen] == ["/v1/agents/bob/why"]
