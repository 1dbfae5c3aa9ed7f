"""`workers` and `pools`: who works, who is to stop, and how many there are."""

from collections.abc import Callable
from typing import Any

NOW = 1_790_000_000_000
WORKER = {
    "id": "worker:big-1",
    "agent": None,
    "lane": "child",
    "status": "busy",
    "draining": False,
    "serves": ["renders", "films"],
    "pool": "big",
    "job": "0193-a",
    "created_at": NOW,
    "last_heartbeat_at": NOW,
}
AGENT = WORKER | {
    "id": "agent:echo", "lane": "agent", "pool": "agent", "status": "idle", "agent": "echo", "serves": [], "job": None,
    "last_heartbeat_at": NOW - 9000,
}  # fmt: skip


def test_workers_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/workers", [WORKER | {"draining": True}, AGENT])
    assert cli("workers", "ls").out == (
        "ID            POOL   LANE   STATUS          AGENT  SERVES          JOB     HEARTBEAT\n"
        "worker:big-1  big    child  busy, draining  -      renders, films  0193-a  0 s ago\n"
        "agent:echo    agent  agent  idle            echo   -               -       9 s ago\n"
    )


def test_workers_are_drained_and_resumed(cli: Callable[..., Any], fake: Any) -> None:
    path = "/v1/workers/worker:big-1/drain"
    fake.on("POST", path, WORKER | {"draining": True})
    fake.on("POST", path, WORKER)
    assert cli("workers", "drain", "worker:big-1").out == "worker:big-1 busy, draining\n"
    assert cli("workers", "resume", "worker:big-1").out == "worker:big-1 busy\n"
    assert [seen.body for seen in fake.seen] == [{"drain": True}, {"drain": False}]
    assert cli("workers", "drain", "worker:big-1", "--json").json == WORKER


def test_an_unknown_worker_keeps_nobody_from_the_others(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/workers/nobody/drain", "worker.not_found", "there is no worker 'nobody'", known=["w"])
    fake.on("POST", "/v1/workers/worker:big-1/drain", WORKER | {"draining": True})
    ended = cli("workers", "drain", "nobody", "worker:big-1")
    assert (ended.code, ended.out) == (4, "worker:big-1 busy, draining\n")
    assert "known: w" in ended.err


def test_a_pool_is_given_another_size(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/pools/loop", 8)
    assert cli("pools", "resize", "loop", "6").out == "loop has 6 workers, it had 8\n"
    assert fake.asked("POST", "/v1/pools/loop").body == {"size": 6}
    assert cli("pools", "resize", "loop", "1", "--json").json == {"name": "loop", "size": 1, "before": 8}


def test_an_unknown_pool_is_answered_with_those_there_are(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/pools/lop", "pool.not_found", "there is no pool 'lop'", known=["loop", "child"])
    ended = cli("pools", "resize", "lop", "6")
    assert (ended.code, ended.out) == (4, "")
    assert "known: loop, child" in ended.err
