"""What a person does in the first five minutes, against the real daemon and with the real command line."""

import json
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon


def test_a_submitted_shell_job_prints_its_result(daemon: Any) -> None:
    done = daemon.cli("jobs", "submit", "shell", "--arg", 'argv=["echo","hello"]', "--wait", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"] == {"exit_code": 0, "stdout": "hello\n", "stderr": "", "dropped": 0}


def test_a_job_can_be_shown_and_its_lines_read(daemon: Any) -> None:
    job = daemon.run("shell", args={"argv": ["sh", "-c", "echo one; echo two >&2"]})

    shown = json.loads(daemon.cli("jobs", "show", job["id"], "--json").stdout)
    lines = daemon.cli("jobs", "logs", job["id"]).stdout

    assert (shown["status"], shown["attempts"], shown["history"][0]["outcome"]) == ("completed", 1, "completed")
    assert "one" in lines
    assert "two" in lines


def test_a_failed_job_tells_why_and_exits_with_1(daemon: Any) -> None:
    done = daemon.cli("jobs", "submit", "shell", "--arg", 'argv=["false"]', "--max-attempts", "1", "--wait")

    assert done.returncode == 1
    assert "exit code 1" in done.stderr + done.stdout


def test_a_pending_job_is_cancelled_and_retried(daemon: Any) -> None:
    job = daemon.cli("jobs", "submit", "echo", "--arg", "n=1", "--delay", "1h").stdout.strip()

    assert daemon.cli("jobs", "cancel", job).returncode == 0
    assert daemon.job(job)["status"] == "cancelled"
    assert daemon.cli("jobs", "cancel", job).returncode == 1
    assert daemon.cli("jobs", "retry", job).returncode == 0
    assert daemon.ended(job)["result"] == {"n": 1}
    assert daemon.cli("jobs", "retry", job).returncode != 0


def test_the_same_key_adds_nothing_and_other_arguments_are_refused(daemon: Any) -> None:
    first = daemon.submit("echo", args={"n": 1}, key="once")

    assert daemon.submit("echo", args={"n": 1}, key="once") == first
    with pytest.raises(WireError) as refused:
        daemon.submit("echo", args={"n": 2}, key="once")
    assert refused.value.code == "job.key_conflict"


def test_an_agent_answers_word_by_word(daemon: Any) -> None:
    done = daemon.cli("ask", "echo", "--json", "--conversation", "words", "some words")

    parts = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [part["kind"] for part in (parts[0], parts[-1])] == ["accepted", "done"]
    assert "".join(part["text"] for part in parts if part["kind"] == "token") == parts[-1]["text"]
    assert "some words" in parts[-1]["text"]


def test_an_unknown_agent_is_told_with_those_there_are(daemon: Any) -> None:
    done = daemon.cli("ask", "ekko", "hello")

    assert done.returncode == 4
    assert "echo" in done.stderr


def test_the_tree_and_the_workers_are_shown(daemon: Any) -> None:
    tree = daemon.cli("ps").stdout
    workers = json.loads(daemon.cli("workers", "ls", "--json").stdout)

    assert all(name in tree for name in ("store", "queue", "agent:echo", "worker:loop-1"))
    assert {worker["id"] for worker in workers if worker["lane"] == "child"} == {"worker:child-1", "worker:child-2"}


def test_events_are_replayed_from_where_one_left_off(daemon: Any) -> None:
    job = daemon.run("echo", args={"n": 3})["id"]
    told = [event for event in daemon.events("job.*") if event["subject"] == job]
    since = told[0]["offset"]

    later = daemon.cli("events", "--since", str(since), "--types", "job.*", "--json").stdout.splitlines()

    assert [event["type"] for event in told] == ["job.enqueued", "job.started", "job.completed"]
    again = [json.loads(line) for line in later]
    assert [event["type"] for event in again if event["subject"] == job] == ["job.started", "job.completed"]
    assert all(event["offset"] > since for event in again)


def test_status_counts_what_there_is(daemon: Any) -> None:
    daemon.run("echo")
    status = json.loads(daemon.cli("status", "--json").stdout)

    assert status["pid"] == daemon.pid
    assert status["health"] == "ok", status["reasons"]
    assert status["queues"]["default"]["completed"] >= 1


def test_an_unknown_kind_is_refused_at_the_door(daemon: Any) -> None:
    done = daemon.cli("jobs", "submit", "resize")

    assert done.returncode != 0
    assert "shell" in done.stderr
