"""`jobs`: submit, ls, dead, show, logs, as they look and with their exit codes."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from schemas.jobs import NewJob

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
    options += ["--after=1", "--after=2:hold", "--deadline=2h", "--unique=u", "--tag=t", "--tag=s", "--parent=p"]
    options += ["--limit-key=x", "--limit-max=4", "--tokens=90", "--heartbeat=5s", "--retry-base=2s"]
    options += ["--retry-factor=1.5", "--retry-max=1m", "--retry-jitter=0", "--retry-on=timeout", "--retry-on=lost"]
    assert cli("jobs", "submit", "echo", "--args", '{"a": 1, "b": 2}', "--arg", "b=3", *options).code == 0
    sent = fake.asked("POST", "/v1/jobs").body
    assert NewJob.model_validate_json(json.dumps(sent)).kind == "echo"
    assert sent == {
        "kind": "echo",
        "args": {"a": 1, "b": 3},
        "queue": "q",
        "priority": 5,
        "delay_ms": 10_000,
        "key": "k",
        "max_attempts": 2,
        "timeout_ms": 250,
        "depends_on": [{"job": "1"}, {"job": "2", "on_failure": "hold"}],
        "deadline_ms": 7_200_000,
        "unique": "u",
        "tags": ["t", "s"],
        "parent": "p",
        "limit_key": "x",
        "limit_max": 4,
        "tokens": 90,
        "heartbeat_ms": 5000,
        "retry": {
            "base_ms": 2000,
            "factor": 1.5,
            "max_ms": 60_000,
            "jitter": 0.0,
            "retry_on": ["timeout", "lost"],
        },
    }


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2027-01-31T18:30", 1_801_420_200_000),
        ("2027-01-31T18:30Z", 1_801_420_200_000),
        ("2027-01-31T18:30+01:00", 1_801_416_600_000),
        ("2027-01-31", 1_801_353_600_000),
    ],
)
def test_a_time_is_sent_in_milliseconds(cli: Callable[..., Any], fake: Any, text: str, at: int) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED)
    assert cli("jobs", "submit", "echo", "--at", text).code == 0
    assert fake.asked("POST", "/v1/jobs").body["run_at"] == at


@pytest.mark.parametrize("text", ["9:05", "18:30", "00:00:01"])
def test_a_time_of_day_is_the_next_one(cli: Callable[..., Any], fake: Any, text: str) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED)
    before = time.time() * 1000
    assert cli("jobs", "submit", "echo", "--at", text).code == 0
    at = fake.asked("POST", "/v1/jobs").body["run_at"]
    assert before < at <= before + 86_401_000
    seconds = sum(int(part) * 60 ** (2 - place) for place, part in enumerate(text.split(":")))
    assert at % 86_400_000 == seconds * 1000  # the tests run in UTC


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
        (("--at", "tomorrow"), "'tomorrow' is not a time; write one like 18:30, 2027-01-31T18:30 or"),
        (("--at", "18:30", "--delay", "3s"), "--at and --delay both say when it starts; give one of them."),
        (("--after", "1:maybe"), "'1:maybe' is not ID or ID:POLICY, where POLICY is cancel, run or hold."),
        (("--limit-max", "3"), "--limit-max needs --limit-key."),
        (("--retry-on", "rain"), "'rain' is not one of 'transient',"),
    ],
)
def test_wrong_arguments_are_shown_with_the_right_form(
    cli: Callable[..., Any], fake: Any, argv: tuple[str, ...], said: str
) -> None:
    ended = cli("jobs", "submit", "echo", *argv)
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert said in " ".join(ended.err.split()) or said in ended.err


def test_a_known_word_is_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs", SUBMITTED | {"existing": True, "status": "active"})
    told = "a job with this word has not ended: nothing was added, the job is active\n"
    assert cli("jobs", "submit", "echo", "--unique", "u").err == told


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
    filters = "--status delayed --reason retry --queue q --kind k --tag t --parent 1 --limit-key x --limit 2"
    ended = cli("jobs", "ls", *filters.split())
    assert ended.out == (
        "ID      KIND   QUEUE    STATUS     REASON  ATTEMPTS  PRIORITY  CREATED    UPDATED\n"
        "0193-a  sleep  default  completed  -       1/3            100  2 min ago  3 s ago\n"
        "0193-b  shell  default  delayed    retry   1/3              5  2 min ago  3 s ago\n"
    )
    asked = {"status": "delayed", "reason": "retry", "queue": "q", "kind": "k", "tag": "t", "parent": "1"}
    asked |= {"limit_key": "x", "limit": "2"}
    assert fake.asked("GET", "/v1/jobs").query == {name: [value] for name, value in asked.items()}
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


def test_what_a_job_hangs_on_and_has_done_is_shown(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    step = {"state": "done", "epoch": 1, "started_at": NOW - 4000, "ended_at": NOW - 3500, "error": None, "cost": None}
    view = make_job(
        status="waiting",
        reason="signal",
        waits_for="approved",
        wait_until=NOW + 60_000,
        deadline_at=NOW + 120_000,
        pause_requested=True,
        tags=["t", "s"],
        parent="0193-p",
        limit_key="smtp",
        limit_max=2,
        worker="worker:child-1",
        finished_at=None,
        depends_on=[
            {"job": "0193-x", "on_failure": "cancel", "state": "satisfied", "status": "completed"},
            {"job": "0193-y", "on_failure": "hold", "state": "broken", "status": "failed"},
        ],
        steps=[
            step | {"name": "charge", "output": {"receipt": "x" * 80}, "cost": 0.25},
            step | {"name": "~signal/approved/1/until", "output": NOW},
            step | {"name": "mail", "state": "failed", "error": "no route", "output": None},
        ],
    )
    fake.on("GET", "/v1/jobs/0193-a", view)
    assert cli("jobs", "show", "0193-a").out == (
        "id         0193-a\n"
        "kind       sleep\n"
        "queue      default\n"
        "status     waiting (signal), asked to pause\n"
        "waits for  the signal approved, in 1 min (2026-09-21T14:14:20Z)\n"
        "attempts   1 of 3\n"
        "worker     worker:child-1\n"
        "priority   100\n"
        "tags       t, s\n"
        "part of    0193-p\n"
        "limit      smtp, 2 at once\n"
        "deadline   in 2 min (2026-09-21T14:15:20Z)\n"
        "created    2 min ago (2026-09-21T14:11:15Z)\n"
        "started    5 s ago (2026-09-21T14:13:15Z)\n"
        'arguments  {"seconds": 2}\n'
        "\n"
        "DEPENDS ON  STATUS     EDGE       IF IT FAILS\n"
        "0193-x      completed  satisfied  cancel\n"
        "0193-y      failed     broken     hold\n"
        "\n"
        "STEP    STATE   EPOCH  STARTED  TOOK   COST  OUTPUT\n"
        'charge  done        1  4 s ago  0.5 s  0.25  {"receipt": "' + "x" * 46 + "\N{HORIZONTAL ELLIPSIS}\n"
        "mail    failed      1  4 s ago  0.5 s  -     no route\n"
    )


def test_the_dead_letter_has_the_error_of_each_attempt(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], make_problem: Callable[..., Any]
) -> None:
    error = make_problem("job.failed", "the line is busy")
    attempt = {"epoch": 1, "attempt": 1, "worker": "w-1", "started_at": NOW - 9000, "ended_at": NOW, "error": error}
    last = attempt | {"attempt": 2, "started_at": NOW - 5000, "error": make_problem("job.crashed", "signal 9")}
    tried = make_job(status="failed", reason="exhausted", attempts=2, error=last["error"], history=[attempt, last])
    late = make_job(id="0193-b", status="failed", reason="deadline", attempts=0, history=[])
    fake.on("GET", "/v1/jobs", [tried, late])
    ended = cli("jobs", "dead", "--kind", "call", "--reason", "exhausted")
    assert ended.out == (
        "0193-a  sleep  failed (exhausted)  after 2 of 3 attempts  3 s ago  on queue default\n"
        "  ATTEMPT  WORKER  STARTED  ERROR\n"
        "        1  w-1     9 s ago  job.failed: the line is busy\n"
        "        2  w-1     5 s ago  job.crashed: signal 9\n"
        "\n"
        "0193-b  sleep  failed (deadline)  after 0 of 3 attempts  3 s ago  on queue default\n"
    )
    asked = {"status": ["failed"], "errors": ["true"], "kind": ["call"], "reason": ["exhausted"], "limit": ["20"]}
    assert fake.asked("GET", "/v1/jobs").query == asked
    assert cli("jobs", "dead", "--json").json == [tried, late]


def test_an_empty_dead_letter_is_said_to_be_empty(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/jobs", [])
    assert cli("jobs", "dead").out == "no job has failed\n"


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


def test_an_unknown_job_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/jobs/0193-x", "job.not_found", "No job has the id 0193-x.")
    assert cli("jobs", "show", "0193-x").code == 4
