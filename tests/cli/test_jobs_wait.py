"""Waiting for a job: its result and exit code, over restarts, until a timeout, until Ctrl-C."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.control.wire import Cut
from schemas.codes import EXIT_NOT_RUNNING

WATCH = "/v1/jobs/0193-a/watch"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.jobs_wait.RETRY_EVERY", 0.01)


def test_a_completed_job_prints_its_result(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    job = make_job(result={"n": 3})
    fake.stream("GET", WATCH, ("started", {"attempt": 1}), ("progress", {"value": 1}), ("done", {"job": job}))
    ended = cli("jobs", "wait", "0193-a")
    assert (ended.code, ended.out, ended.err) == (0, '{"n": 3}\n', "")
    assert cli("jobs", "wait", "0193-a", "--json").json == job


def test_a_shell_job_writes_its_own_output(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    result = {"exit_code": 0, "stdout": "\x1b[1mout\x1b[0m\n", "stderr": "warned"}
    fake.stream("GET", WATCH, ("done", {"job": make_job(name="shell", result=result)}))
    ended = cli("jobs", "wait", "0193-a")
    assert (ended.code, ended.out, ended.err) == (0, "\x1b[1mout\x1b[0m\n", "warned\n")


def test_an_answer_of_an_agent_is_text(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    result = {"text": "Hello", "conversation": "main"}
    fake.stream("GET", WATCH, ("done", {"job": make_job(name="agent.message", result=result)}))
    assert cli("jobs", "wait", "0193-a").out == "Hello\n"


def test_a_failed_job_is_exit_code_1_with_its_error(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], make_problem: Callable[..., Any]
) -> None:
    error = make_problem("job.failed", "exit code 3", stdout="partial\n", stderr="boom\n")
    fake.stream("GET", WATCH, ("done", {"job": make_job(name="shell", status="failed", error=error)}))
    ended = cli("jobs", "wait", "0193-a")
    assert (ended.code, ended.out) == (1, "partial\n")
    assert ended.err == (
        "boom\n"
        "error: The job failed\n"
        "  why: exit code 3\n"
        "  next: `understudy jobs show 0193-a` has the error; `understudy jobs retry 0193-a` runs it again.\n"
    )


def test_a_cancelled_job_is_exit_code_1(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    fake.stream("GET", WATCH, ("done", {"job": make_job(status="cancelled", reason="user")}))
    ended = cli("jobs", "wait", "0193-a")
    assert ended.code == 1
    assert ended.err == (
        "error: The job was cancelled\n  why: reason: user\n  next: `understudy jobs retry 0193-a` runs it again.\n"
    )


def test_submit_and_wait_names_the_job_on_stderr_and_prints_the_result(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    fake.on("POST", "/v1/jobs", {"id": "0193-a", "status": "pending"})
    fake.stream("GET", WATCH, ("done", {"job": make_job(result=7)}))
    ended = cli("jobs", "submit", "echo", "--wait")
    assert (ended.code, ended.out, ended.err) == (0, "7\n", "job 0193-a\n")


def test_a_daemon_that_is_started_again_is_waited_for(
    child: Callable[..., Any], fake: Any, make_job: Callable[..., Any], streams: Any
) -> None:
    def die_whole(handler: Any) -> None:
        # The socket is gone before the stream is, as with a daemon that is killed.
        fake.path.rename(fake.path.with_suffix(".away"))
        streams[1](handler)

    fake.stream("GET", WATCH, ("started", {"attempt": 1}), die_whole)
    fake.stream("GET", WATCH, ("done", {"job": make_job(result="late")}))
    process = child("jobs", "wait", "0193-a")
    assert process.stderr.readline() == "the daemon is away; waiting for it (Ctrl-C stops waiting, not the job)\n"
    fake.path.with_suffix(".away").rename(fake.path)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, '"late"\n', "")


def test_a_daemon_that_goes_before_the_job_has_said_anything_is_waited_for(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.stream("GET", WATCH, ("done", {"job": make_job(result="late")}))
    opened, ends = daemon.stream, [Cut({"detail": "it went"}), Failure("not running", code=EXIT_NOT_RUNNING)]

    def stream(*args: Any, **more: Any) -> Any:
        if ends:
            raise ends.pop(0)
        return opened(*args, **more)

    monkeypatch.setattr("runtime.cli.jobs_wait.daemon.stream", stream)
    ended = cli("jobs", "wait", "0193-a")
    assert (ended.code, ended.out) == (0, '"late"\n')
    assert ended.err == "the daemon is away; waiting for it (Ctrl-C stops waiting, not the job)\n"


def test_with_a_timeout_a_daemon_that_is_down_is_waited_for(cli: Callable[..., Any]) -> None:
    ended = cli("jobs", "wait", "0193-a", "--timeout", "100ms")
    assert ended.code == 124
    assert ended.err == (
        "the daemon is away; waiting for it (Ctrl-C stops waiting, not the job)\n"
        "error: Timed out\n"
        "  why: the job has not ended after 0.1 s; it goes on\n"
        "  next: understudy jobs wait 0193-a\n"
    )


def test_a_timeout_ends_the_waiting_and_not_the_job(cli: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.on("POST", "/v1/jobs", {"id": "0193-a", "status": "pending"})
    fake.stream("GET", WATCH, ("started", {"attempt": 1}), streams[0])
    ended = cli("jobs", "submit", "echo", "--wait", "--wait-timeout", "100ms")
    assert ended.code == 124
    assert [seen.path for seen in fake.seen] == ["/v1/jobs", WATCH]


def test_an_unknown_job_is_not_waited_for(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", WATCH, "job.not_found", "No job has the id 0193-a.")
    assert cli("jobs", "wait", "0193-a", "--timeout", "30s").code == 4


def test_a_daemon_that_stops_ends_the_stream_and_is_waited_for(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], make_problem: Callable[..., Any]
) -> None:
    fake.stream("GET", WATCH, ("error", make_problem("daemon.draining", "The daemon is stopping")))
    fake.stream("GET", WATCH, ("done", {"job": make_job(result=1)}))
    assert cli("jobs", "wait", "0193-a").out == "1\n"


def test_ctrl_c_stops_waiting_and_leaves_the_job(child: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.on("POST", "/v1/jobs", {"id": "0193-a", "status": "pending"})
    fake.stream("GET", WATCH, ("started", {"attempt": 1}), streams[0])
    process = child("jobs", "submit", "echo", "--wait")
    assert process.stderr.readline() == "job 0193-a\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err == (
        "interrupted; the job goes on\n  next: understudy jobs wait 0193-a, or end it: understudy jobs cancel 0193-a\n"
    )
