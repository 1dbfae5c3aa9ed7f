"""`status` and `ps` as they look, word for word, and JSON as it came."""

import threading
from collections.abc import Callable
from typing import Any

NOW = 1_790_000_000_000
STATUS = {
    "pid": 4711,
    "version": "0.1.0",
    "uptime": 125.4,
    "health": "ok",
    "reasons": [],
    "home": "/home/ada/.local/state/understudy",
    "config": "/home/ada/config.toml",
    "boot": "b-1",
    "durability": "full",
    "agents": {"idle": 2, "busy": 1, "error": 0},
    "workers": {},
    "queues": {"default": {"pending": 3, "active": 1, "completed": 120}, "agent:assistant": {}},
    "loop_lag_ms": 0.34,
    "blocked": None,
}
TREE = {
    "name": "root",
    "kind": "supervisor",
    "state": "running",
    "restarts": 0,
    "incarnation": 1,
    "mailbox": 0,
    "handled": 0,
    "children": [
        {
            "name": "agent:assistant",
            "kind": "actor",
            "state": "quarantined",
            "restarts": 12,
            "incarnation": 13,
            "mailbox": 4,
            "handled": 1033,
            "oldest": 61.2,
            "doing": "agent.say",
            "doing_for": 3.2,
            "reason": "ValueError: bad\x1b[2Jstate",
            "children": [],
        }
    ],
}


def test_status_is_one_screen(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/status", STATUS)
    ended = cli("status")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        "understudy 0.1.0  ok  up 2 min  pid 4711\n"
        "\n"
        "home        /home/ada/.local/state/understudy\n"
        "config      /home/ada/config.toml\n"
        "durability  full\n"
        "loop lag    0.3 ms\n"
        "agents      2 idle, 1 busy\n"
        "workers     none\n"
        "repairs     none\n"
        "\n"
        "QUEUE            PENDING  ACTIVE  DELAYED  WAITING  PAUSED  COMPLETED  FAILED  CANCELLED\n"
        "default                3       1        0        0       0        120       0          0\n"
        "agent:assistant        0       0        0        0       0          0       0          0\n"
    )


def test_status_names_what_is_wrong_and_who_blocks(cli: Callable[..., Any], fake: Any) -> None:
    blocked = {"actor": "agent:slow", "message": "agent.say"}
    fake.on("GET", "/v1/status", STATUS | {"health": "degraded", "reasons": ["disk\x07 full"], "blocked": blocked})
    lines = cli("status").out.splitlines()
    assert lines[0] == "understudy 0.1.0  degraded  up 2 min  pid 4711"
    assert "blocked by  actor=agent:slow message=agent.say" in lines
    assert lines[-1] == "warning: disk\\x07 full"


def test_status_tells_repairs_and_which_queues_are_held_back(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/status", STATUS | {"repairs": {"counts": 1, "deps_released": 2}})
    queue: dict[str, Any] = {"state": "running", "by": None, "since": None, "blocked_until": None, "counts": {}}
    queues = [
        queue | {"name": "api", "blocked_until": NOW + 12_000},
        queue | {"name": "default", "blocked_until": NOW - 12_000},
        queue | {"name": "mail", "state": "paused", "by": "ada", "since": NOW - 180_000},
        queue | {"name": "slow", "state": "paused", "by": "config"},
    ]
    fake.on("GET", "/v1/queues", queues)
    lines = cli("status").out.splitlines()
    assert "repairs     1 counts, 2 deps_released" in lines
    assert lines[-3:] == [
        "held: api goes on in 12 s: a provider said 429",
        "held: mail is paused by ada, 3 min ago; understudy queues resume mail",
        "held: slow is paused by the configuration; understudy queues resume slow",
    ]


def test_status_comes_also_where_the_actors_do_not_answer(cli: Callable[..., Any], fake: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("runtime.cli.looking.HELD_TIMEOUT", 0.1)
    fake.on("GET", "/v1/status", STATUS)
    free = threading.Event()
    fake.answers["GET", "/v1/queues"] = [lambda handler: free.wait(20)]
    try:
        ended = cli("status")
    finally:
        free.set()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("understudy 0.1.0  ok")


def test_reading_commands_pass_json_on_unchanged(cli: Callable[..., Any], fake: Any) -> None:
    queue = {"name": "default", "state": "running", "counts": {"pending": 1}}
    worker = {"id": "child-1", "agent": None, "lane": "child", "status": "idle", "job": None, "last_heartbeat_at": NOW}
    for argv, path, value in (
        (["status"], "/v1/status", STATUS),
        (["ps"], "/v1/ps", TREE),
        (["queues", "ls"], "/v1/queues", [queue]),
        (["workers", "ls"], "/v1/workers", [worker]),
    ):
        fake.on("GET", path, value)
        ended = cli(*argv, "--json")
        assert (ended.code, ended.json, ended.err) == (0, value, "")
        assert ended.out.count("\n") == 1


def test_ps_is_a_tree(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/ps", TREE)
    assert cli("ps").out == (
        "NAME               STATE        RESTARTS  MAILBOX  OLDEST  HANDLED  DOING            REASON\n"
        "root               running             0        0  -             0  -                -\n"
        "  agent:assistant  quarantined        12        4  1 min      1033  agent.say (3 s)  "
        "ValueError: bad\\x1b[2Jstate\n"
    )


def test_on_a_terminal_there_is_colour_and_foreign_text_is_harmless(terminal: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/ps", TREE)
    shown = terminal("ps")
    assert "\x1b[31mquarantined\x1b[0m" in shown
    assert "\x1b[2J" not in shown


def test_no_color_is_honoured_on_a_terminal(terminal: Callable[..., Any], fake: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    fake.on("GET", "/v1/ps", TREE)
    assert "\x1b" not in terminal("ps")
