"""`jobs`: submit, ls, show, logs, cancel, retry, as they look and with their exit codes."""

from collections.abc import Callable
from typing import Any

import pytest

NOW = 1_790_000_000_000
SUBMITTED = {"id": "0193-a", "status": "pending", "existing": False}


def test_submit_prints_the_id_and_nothing_else(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED)
    ended = cli("jobs", "submit", "echo", "--arg", 'text="hi"', "--arg", "n=[1, 2]")
    assert (ended.code, ended.out, ended.err) == (0, "0193-a\n", "")
    assert fake.asked("POST", "/v1/jobs").body == {"kind": "echo", "args": {"text": "hi", "n": [1, 2]}}
    assert cli("jobs", "submit", "echo", "--json").json == SUBMITTED


def test_every_option_of_submit_reaches_the_daemon(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED)
    options = ["--queue=q", "--priority=5", "--delay=10s", "--key=k", "--max-attempts=2", "--timeout=250ms"]
    assert cli("jobs", "submit", "echo", "--args", '{"a": 1, "b": 2}', "--arg", "b=3", *options).code == 0
    assert fake.asked("POST", "/v1/jobs").body == {
        "kind": "echo",
        "args": {"a": 1, "b": 3},
        "queue": "q",
        "priority": 5,
        "delay_ms": 10_000,
        "key": "k",
        "max_attempts": 2,
        "timeout_ms": 250,
    }


def test_a_known_key_is_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED | {"existing": True, "status": "active"})
    ended = cli("jobs", "submit", "echo", "--key", "k")
    assert (ended.out, ended.err) == ("0193-a\n", "the key was known: nothing was added, the job is active\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ("--arg", "name=it's"),
            "--arg name is not JSON: it's\nA string needs its own quotes: --arg 'name=\"it'\\''s\"'",
        ),
        (("--arg", "name"), "--arg needs NAME=JSON, not name"),
        (("--arg", "=1"), "--arg needs NAME=JSON, not =1"),
        (("--args", "[1]"), "--args must be a JSON object like '{\"name\": 1}', not [1]"),
        (("--args", "{a}"), "--args is not JSON: {a}"),
        (("--delay", "soon"), "'soon' is not a time; write one like 250ms, 30s, 5m, 2h or 7d."),
        (("--wait-timeout", "3s"), "--wait-timeout needs --wait."),
    ],
)
def test_wrong_arguments_are_shown_with_the_right_form(
    cli: Callable[..., Any], fake: Any, argv: tuple[str, ...], said: str
) -> None:
    ended = cli("jobs", "submit", "echo", *argv)
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert said in ended.err


def test_an_unknown_kind_is_answered_with_those_there_are(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/jobs", "job.unknown_kind", "Nothing runs 'ech'.", known=["echo", "shell"])
    ended = cli("jobs", "submit", "ech")
    assert ended.code == 4
    assert ended.err == (
        "error: There is no such kind of job\n"
        "  why: Nothing runs 'ech'.\n"
        "  why: known: echo, shell\n"
        "  next: Define it under [kinds.NAME] in config.toml.\n"
    )


def test_validation_errors_name_each_field(cli: Callable[..., Any], fake: Any) -> None:
    errors = [{"loc": ["job", "queue"], "msg": "String should match pattern", "type": "x"}]
    fake.problem("POST", "/v1/jobs", "request.invalid", "1 field is wrong", errors=errors)
    ended = cli("jobs", "submit", "echo", "--queue", "No")
    assert ended.code == 2
    assert ended.err == (
        "error: The request is not valid\n  why: 1 field is wrong\n  why: job.queue: String should match pattern\n"
    )


def test_jobs_are_a_table(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    waiting = make_job(id="0193-b", name="shell", status="delayed", reason="retry", priority=5)
    fake.on("GET", "/v1/jobs", [make_job(), waiting])
    ended = cli("jobs", "ls", "--status", "delayed", "--queue", "q", "--kind", "k", "--limit", "2")
    assert ended.out == (
        "ID      KIND   QUEUE    STATUS     REASON  ATTEMPTS  PRIORITY  CREATED    UPDATED\n"
        "0193-a  sleep  default  completed  -       1/3            100  2 min ago  3 s ago\n"
        "0193-b  shell  default  delayed    retry   1/3              5  2 min ago  3 s ago\n"
    )
    asked = {"status": ["delayed"], "queue": ["q"], "kind": ["k"], "limit": ["2"]}
    assert fake.asked("GET", "/v1/jobs").query == asked
    assert cli("jobs", "ls", "--json").json == [make_job(), waiting]


def test_one_job_is_shown_with_its_attempts(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], make_problem: Callable[..., Any]
) -> None:
    error = make_problem("job.crashed", "killed by signal 9")
    attempt = {"epoch": 1, "attempt": 1, "worker": "child-1", "started_at": NOW - 5000, "ended_at": NOW - 3400}
    history = [attempt | {"outcome": "crashed", "error": error}]
    view = make_job(status="failed", reason="exhausted", error=error, history=history, result={"a": "\x1b"})
    fake.on("GET", "/v1/jobs/0193-a", view)
    assert cli("jobs", "show", "0193-a").out == (
        "id         0193-a\n"
        "kind       sleep\n"
        "queue      default\n"
        "status     failed (exhausted)\n"
        "attempts   1 of 3\n"
        "priority   100\n"
        "created    2 min ago (2026-09-21T14:11:15Z)\n"
        "started    5 s ago (2026-09-21T14:13:15Z)\n"
        "finished   3 s ago (2026-09-21T14:13:17Z)\n"
        'arguments  {"seconds": 2}\n'
        'result     {"a": "\\u001b"}\n'
        "error      job.crashed: killed by signal 9\n"
        "           `understudy jobs logs ID` has its last output.\n"
        "\n"
        "ATTEMPT  EPOCH  WORKER   OUTCOME  STARTED  TOOK   ERROR\n"
        "      1      1  child-1  crashed  5 s ago  1.6 s  job.crashed: killed by signal 9\n"
    )
    assert cli("jobs", "show", "0193-a", "--json").json == view


def test_logs_come_as_the_job_wrote_them(cli: Callable[..., Any], fake: Any) -> None:
    lines = [{"n": n, "at": NOW, "level": "info", "text": f"line {n}"} for n in (1, 2)]
    fake.on("GET", "/v1/jobs/0193-a/logs", lines)
    assert cli("jobs", "logs", "0193-a", "--tail", "2").out == "line 1\nline 2\n"
    assert fake.asked("GET", "/v1/jobs/0193-a/logs").query == {"tail": ["2"]}
    assert cli("jobs", "logs", "0193-a", "--json").json == lines


def test_following_logs_leaves_out_no_line_and_prints_none_twice(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    line = [{"n": n, "at": NOW, "level": "info", "text": f"line {n}"} for n in range(7)]
    path = "/v1/jobs/0193-a/logs"
    # Asked before the stream (1), with its opening (2), after a gap in it (4, 5), and at the end (6).
    for found in ([line[1]], [], [line[2]], [], [line[4], line[5]], [], [line[6]], []):
        fake.on("GET", path, found)
    seen = [("log", line[n]) for n in (1, 2, 3, 5, 5)]
    fake.stream("GET", "/v1/jobs/0193-a/watch", *seen, ("done", {"job": make_job()}))
    ended = cli("jobs", "logs", "0193-a", "-f")
    assert ended.out == "".join(f"line {n}\n" for n in range(1, 7))
    assert ended.err == "the job is completed\n"


@pytest.mark.parametrize(
    ("outcome", "code", "out", "err"),
    [
        ("cancelled", 0, "0193-a cancelled\n", ""),
        ("requested", 0, "0193-a being ended\n", ""),
        (
            "too_late",
            1,
            "",
            "error: The job had already ended\n  why: it is completed\n  next: understudy jobs show 0193-a\n",
        ),
    ],
)
def test_cancel_tells_what_became_of_it(
    cli: Callable[..., Any], fake: Any, outcome: str, code: int, out: str, err: str
) -> None:
    answer = {"id": "0193-a", "outcome": outcome, "status": "completed"}
    fake.on("POST", "/v1/jobs/0193-a/cancel", answer)
    ended = cli("jobs", "cancel", "0193-a", "--reason", "changed my mind")
    assert (ended.code, ended.out, ended.err) == (code, out, err)
    assert fake.asked("POST", "/v1/jobs/0193-a/cancel").body == {"reason": "changed my mind"}
    as_json = cli("jobs", "cancel", "0193-a", "--json")
    assert (as_json.code, as_json.json) == (code, answer)


def test_retry_prints_the_new_status(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs/0193-a/retry", SUBMITTED)
    assert cli("jobs", "retry", "0193-a").out == "0193-a pending\n"
    fake.problem("POST", "/v1/jobs/0193-b/retry", "job.not_retryable", "It is active.")
    ended = cli("jobs", "retry", "0193-b")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.endswith("  why: It is active.\n  next: Only failed and cancelled jobs can.\n")


def test_an_unknown_job_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/jobs/0193-x", "job.not_found", "No job has the id 0193-x.")
    assert cli("jobs", "show", "0193-x").code == 4
