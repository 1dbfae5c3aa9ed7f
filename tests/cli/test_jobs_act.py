"""`jobs cancel`, `retry`, `pause`, `resume` by id and by filter, and `signal`, with their exit codes."""

import pty
import subprocess
from collections.abc import Callable
from os import close, write
from typing import Any

import pytest

ACT = "/v1/jobs/act"
SUBMITTED = {"id": "0193-a", "status": "pending", "existing": False}
ACTED = {"matched": 12, "done": 0, "left": {}, "more": False}


@pytest.mark.parametrize(
    ("action", "outcome", "code", "out"),
    [
        ("cancel", "cancelled", 0, "0193-a cancelled\n"),
        ("cancel", "requested", 0, "0193-a being ended\n"),
        ("cancel", "too_late", 1, ""),
        ("pause", "paused", 0, "0193-a paused\n"),
        ("pause", "requested", 0, "0193-a runs, and pauses at its next step\n"),
        ("pause", "unchanged", 0, "0193-a was paused already\n"),
        ("pause", "too_late", 1, ""),
        ("resume", "resumed", 0, "0193-a resumed, it is delayed\n"),
        ("resume", "unchanged", 0, "0193-a was not paused\n"),
        ("resume", "too_late", 1, ""),
    ],
)
def test_what_became_of_a_wish_is_told(
    cli: Callable[..., Any], fake: Any, action: str, outcome: str, code: int, out: str
) -> None:
    status = "completed" if outcome == "too_late" else "delayed"
    answer = {"id": "0193-a", "outcome": outcome, "status": status}
    fake.on("POST", f"/v1/jobs/0193-a/{action}", answer)
    ended = cli("jobs", action, "0193-a")
    assert (ended.code, ended.out) == (code, out)
    assert ("it is completed\n  next: understudy jobs show 0193-a\n" in ended.err) is (outcome == "too_late")
    as_json = cli("jobs", action, "0193-a", "--json")
    assert (as_json.code, as_json.json) == (code, answer)


def test_retry_prints_the_new_status(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs/0193-a/retry", SUBMITTED)
    assert cli("jobs", "retry", "0193-a").out == "0193-a pending\n"
    assert fake.asked("POST", "/v1/jobs/0193-a/retry").body == {}
    fake.problem("POST", "/v1/jobs/0193-b/retry", "job.not_retryable", "It is active.")
    ended = cli("jobs", "retry", "0193-b")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.endswith("  why: It is active.\n  next: Only failed and cancelled jobs can.\n")


def test_retry_takes_dependants_with_it(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs/0193-a/retry", SUBMITTED)
    cli("jobs", "retry", "0193-a", "--with-dependants")
    assert fake.asked("POST", "/v1/jobs/0193-a/retry").body == {"dependants": True}


def test_of_several_jobs_one_that_cannot_keeps_nobody_from_the_next(cli: Callable[..., Any], fake: Any) -> None:
    for job, outcome in (("1", "cancelled"), ("2", "too_late"), ("4", "requested")):
        answer = {"id": job, "outcome": outcome, "status": "completed"}
        fake.on("POST", f"/v1/jobs/{job}/cancel", answer)
    fake.problem("POST", "/v1/jobs/3/cancel", "job.not_found", "there is no job 3")
    ended = cli("jobs", "cancel", "1", "2", "3", "4")
    assert (ended.code, ended.out) == (4, "1 cancelled\n4 being ended\n")
    assert ended.err.count("error: ") == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("cancel",), "Name the jobs to cancel, or find them: --status"),
        (("cancel", "--yes"), "Name the jobs to cancel, or find them: --status"),
        (("pause", "0193-a", "--tag", "t"), "Name jobs, or filter them; not both."),
        (("retry", "--status", "lost"), "'lost' is not one of"),
    ],
)
def test_which_jobs_must_be_said_one_way(cli: Callable[..., Any], fake: Any, argv: tuple[str, ...], said: str) -> None:
    ended = cli("jobs", *argv)
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert said in ended.err


def test_without_yes_nothing_is_done_and_the_number_is_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", ACT, ACTED | {"more": True})
    ended = cli("jobs", "cancel", "--tag", "demo", "--queue", "mail")
    assert (ended.code, ended.out) == (2, "")
    said = "error: Nothing was done: the filter finds 12 jobs or more to cancel\n  next: add --yes to do it\n"
    assert ended.err == said
    asked = fake.asked("POST", ACT)
    assert asked.body == {"action": "cancel", "where": {"queue": "mail", "tag": "demo"}, "dry_run": True}


def test_where_nothing_is_found_there_is_nothing_to_ask(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", ACT, ACTED | {"matched": 0})
    ended = cli("jobs", "pause", "--parent", "0193-a")
    assert (ended.code, ended.out, ended.err) == (0, "no job is found by that\n", "")


def test_with_yes_it_is_done(cli: Callable[..., Any], fake: Any) -> None:
    acted = {"matched": 1203, "done": 1200, "left": {"completed": 2, "active": 1}, "more": True}
    fake.on("POST", ACT, acted)
    ended = cli("jobs", "retry", "--status", "failed", "--reason", "exhausted", "--yes", "--with-dependants")
    assert (ended.code, ended.out) == (0, "1,200 jobs taken back\n")
    assert ended.err == ("left as they were: 2 completed, 1 active\nthere are more; say it again for the next ones\n")
    where = {"status": "failed", "reason": "exhausted"}
    asked = fake.asked("POST", ACT)
    assert asked.body == {"action": "retry", "where": where, "dependants": True}
    assert asked.query == {"timeout": ["600.0"]}
    assert cli("jobs", "cancel", "--kind", "k", "--yes", "--json").json == acted


@pytest.mark.parametrize(("answer", "code", "done"), [("y\n", 0, True), ("n\n", 130, False), ("\n", 130, False)])
def test_on_a_terminal_it_asks(child: Callable[..., Any], fake: Any, answer: str, code: int, done: bool) -> None:
    fake.on("POST", ACT, ACTED)
    fake.on("POST", ACT, ACTED | {"done": 12})
    ours, theirs = pty.openpty()
    process = child("jobs", "cancel", "--tag", "t", stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
    close(theirs)
    write(ours, answer.encode())
    assert process.wait(20) == code
    close(ours)
    assert process.stdout.read() == ("12 jobs cancelled\n" if done else "")
    assert [seen.body.get("dry_run") for seen in fake.seen] == [True, None] if done else [True]


def test_a_signal_is_sent_with_what_it_brings(cli: Callable[..., Any], fake: Any) -> None:
    path = "/v1/jobs/0193-a/signal"
    fake.on("POST", path, SUBMITTED | {"status": "waiting"})
    ended = cli("jobs", "signal", "0193-a", "approved", "--payload", '{"by": "ada"}')
    assert (ended.code, ended.out) == (0, "0193-a has the signal approved, it is waiting\n")
    assert fake.asked("POST", path).body == {"name": "approved", "payload": {"by": "ada"}}


def test_a_signal_may_bring_nothing(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/jobs/0193-a/signal", SUBMITTED)
    assert cli("jobs", "signal", "0193-a", "go", "--json").json == SUBMITTED
    assert fake.asked("POST", "/v1/jobs/0193-a/signal").body == {"name": "go"}


def test_a_payload_that_is_no_json_is_shown_with_the_right_form(cli: Callable[..., Any], fake: Any) -> None:
    ended = cli("jobs", "signal", "0193-a", "go", "--payload", "ada")
    assert ended.code == 2
    assert "A string needs its own quotes: --payload '\"ada\"'" in ended.err


def test_a_job_that_takes_no_signal_says_why(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/jobs/0193-a/signal", "job.signal_refused", "job 0193-a takes no signal: it is failed")
    ended = cli("jobs", "signal", "0193-a", "go")
    assert ended.code == 1
    assert ended.err.endswith("it is failed\n  next: `understudy jobs show 0193-a` tells how it stands.\n")
