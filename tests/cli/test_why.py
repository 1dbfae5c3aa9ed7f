"""`why`: the reasons of a job as lines, and the kindness of an answer where the name is an agent's."""

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
    "status": "idle",
    "state": "running",
    "reason": None,
    "pending": 0,
    "last_heartbeat_at": 1_790_000_000_000 - 3_000,
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


@pytest.mark.parametrize(
    ("agent", "lines"),
    [
        (AGENT, ["the agent ada is running and idle", "also: it was last heard of 3 s ago"]),
        (
            AGENT | {"state": "quarantined", "status": "error", "reason": "ValueError: broken", "pending": 2},
            [
                "the agent ada is quarantined",
                "  why: ValueError: broken",
                "also: 2 messages wait for it",
                "  next: understudy jobs ls --queue agent:ada --status pending, then: understudy why JOB",
                "also: it was last heard of 3 s ago",
                "  next: understudy agents show ada",
            ],
        ),
    ],
)
def test_an_agent_is_told_of_as_well(
    cli: Callable[..., Any], fake: Any, agent: dict[str, Any], lines: list[str]
) -> None:
    fake.problem("GET", "/v1/jobs/ada/why", "job.not_found", "there is no job ada")
    fake.on("GET", "/v1/agents/ada", agent)
    assert cli("why", "ada").out.splitlines() == lines
    assert cli("why", "ada", "--json").json == agent


def test_what_is_neither_job_nor_agent_is_not_found(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/jobs/bob/why", "job.not_found", "there is no job bob")
    fake.problem("GET", "/v1/agents/bob", "agent.not_found", "there is no agent 'bob'")
    ended = cli("why", "bob")
    assert (ended.code, ended.out) == (4, "")
    assert "there is no job bob" in ended.err
