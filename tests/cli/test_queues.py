"""`queues`: how they look, and what reaches the daemon of a change."""

import os
import pwd
from collections.abc import Callable
from typing import Any

import pytest

from schemas.jobs import ChangeQueue

NOW = 1_790_000_000_000
ME = pwd.getpwuid(os.getuid()).pw_name
QUEUE = {
    "name": "mail",
    "state": "running",
    "by": None,
    "since": None,
    "max_active": None,
    "rate": None,
    "blocked_until": None,
    "counts": {"failed": 2},
}


def test_queues_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    rate = {"requests": 2, "tokens": 1000, "per_ms": 1000}
    held = QUEUE | {"name": "api", "state": "paused", "by": "ada", "max_active": 3, "rate": rate, "counts": {}}
    fake.on("GET", "/v1/queues", [held | {"blocked_until": NOW + 12_000}, QUEUE | {"blocked_until": NOW - 1}])
    assert cli("queues", "ls").out == (
        "QUEUE  STATE    BY   MAX  RATE                       BLOCKED  PENDING  ACTIVE  DELAYED  WAITING  PAUSED"
        "  COMPLETED  FAILED  CANCELLED\n"
        "api    paused   ada  3    2 jobs, 1000 tokens in 1 s  in 12 s        0       0        0        0       0"
        "          0       0          0\n"
        "mail   running  -    -    -                           -              0       0        0        0       0"
        "          0       2          0\n"
    ).replace("RATE                       BLOCKED", "RATE                        BLOCKED")
    assert len(cli("queues", "ls", "--json").json) == 2


@pytest.mark.parametrize(("command", "state"), [("pause", "paused"), ("drain", "draining"), ("resume", "running")])
def test_queues_are_paused_drained_and_resumed(cli: Callable[..., Any], fake: Any, command: str, state: str) -> None:
    for name in ("mail", "agent:ada"):
        fake.on("POST", f"/v1/queues/{name}", QUEUE | {"name": name, "state": state})
    ended = cli("queues", command, "mail", "agent:ada")
    assert (ended.code, ended.out, ended.err) == (0, f"mail {state}\nagent:ada {state}\n", "")
    assert fake.asked("POST", "/v1/queues/mail").body == {"state": state, "by": ME}
    assert cli("queues", command, "mail", "--json").json["state"] == state


def test_a_queue_that_nobody_has_used_is_pointed_out(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/queues/mial", QUEUE | {"name": "mial", "state": "paused", "counts": {}})
    ended = cli("queues", "pause", "mial")
    assert (ended.out, ended.err) == ("mial paused\n", "no job has been on the queue mial yet\n")


@pytest.mark.parametrize(
    ("options", "body"),
    [
        (("--max-active", "5"), {"max_active": 5}),
        (("--max-active", "0"), {"max_active": 0}),
        (("--rate-requests", "3", "--per", "10s"), {"rate": {"requests": 3, "per_ms": 10_000}}),
        (("--rate-tokens", "90"), {"rate": {"tokens": 90}}),
        (("--no-rate", "--max-active", "1"), {"max_active": 1, "rate": {}}),
    ],
)
def test_limits_are_set(cli: Callable[..., Any], fake: Any, options: tuple[str, ...], body: dict[str, Any]) -> None:
    fake.on("POST", "/v1/queues/mail", QUEUE)
    assert cli("queues", "set", "mail", *options).code == 0
    asked = fake.asked("POST", "/v1/queues/mail").body
    assert asked == body | {"by": ME}
    assert ChangeQueue(name="mail", **asked).by == ME


def test_limits_are_told_as_they_are_now(cli: Callable[..., Any], fake: Any) -> None:
    rate = {"requests": 3, "tokens": None, "per_ms": 500}
    fake.on("POST", "/v1/queues/mail", QUEUE | {"max_active": 5, "rate": rate})
    assert cli("queues", "set", "mail", "--max-active", "5").out == (
        "mail running, at most 5 at once, at most 3 jobs in 500 ms\n"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Say what to change: --max-active, --rate-requests, --rate-tokens or --no-rate."),
        (("--per", "1s"), "--per needs --rate-requests or --rate-tokens."),
        (("--no-rate", "--rate-tokens", "1"), "--no-rate takes the rate away; it goes with no other word about it."),
    ],
)
def test_half_a_limit_is_refused(cli: Callable[..., Any], fake: Any, options: tuple[str, ...], said: str) -> None:
    ended = cli("queues", "set", "mail", *options)
    assert (ended.code, fake.seen) == (2, [])
    assert said in " ".join(ended.err.split())
