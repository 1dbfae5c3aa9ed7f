"""Kinds of the user's own, in the loop and in children: how each way of ending is recorded."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.daemon


def test_a_function_runs_in_a_child_of_its_own(daemon: Any) -> None:
    assert daemon.run("add", args={"a": 1, "b": 2})["result"] == 3


def test_a_child_tells_progress_and_writes_to_the_log(daemon: Any) -> None:
    job = daemon.run("report")

    texts = [line["text"] for line in daemon.call("GET", f"/v1/jobs/{job['id']}/logs")]
    assert job["result"] == 1
    assert job["progress"] == {"half": True}
    assert sorted(texts) == ["printed", "so far so good"]


def test_an_in_loop_function_runs_in_the_daemon(daemon: Any) -> None:
    assert daemon.run("inside", args={"word": "hi"})["result"] == {"said": "hi", "pid": daemon.pid}


def test_arguments_that_do_not_fit_fail_for_good(daemon: Any) -> None:
    child = daemon.run("add", args={"a": 1})
    loop = daemon.run("inside", args={"words": 1})

    assert (child["status"], child["reason"], child["attempts"]) == ("failed", "permanent", 1)
    assert (loop["status"], loop["reason"], loop["attempts"]) == ("failed", "permanent", 1)


def test_a_function_that_raises_spends_its_attempts(daemon: Any) -> None:
    job = daemon.run("oops")

    assert (job["status"], job["reason"], job["attempts"]) == ("failed", "exhausted", 2)
    assert "KeyError" in job["error"]["detail"]


def test_retry_snooze_and_fail_do_what_they_say(daemon: Any, tmp_path: Path) -> None:
    again = daemon.submit("again", args={"path": str(tmp_path / "again")})
    nap = daemon.submit("nap", args={"path": str(tmp_path / "nap")})
    hopeless = daemon.submit("hopeless")

    assert (daemon.ended(again)["result"], daemon.job(again)["attempts"]) == ("second time", 2)
    assert (daemon.ended(nap)["result"], daemon.job(nap)["attempts"]) == ("awake", 1)
    failed = daemon.ended(hopeless)
    assert (failed["status"], failed["reason"]) == ("failed", "permanent")
    assert failed["error"]["data"] == {"code": "demo.hopeless"}


def test_a_timeout_ends_the_whole_tree(daemon: Any) -> None:
    argv = ["sh", "-c", "sleep 600 & sleep 600"]
    job = daemon.run("shell", args={"argv": argv}, timeout_ms=300, max_attempts=1)

    assert (job["status"], job["reason"]) == ("failed", "timeout")
    assert daemon.groups() == []


def test_a_running_tree_is_cancelled_with_all_its_children(daemon: Any, wait_until: Any, tmp_path: Path) -> None:
    hidden = tmp_path / "pid"
    script = f"setsid sleep 600 & echo $! > {hidden}; trap '' TERM; sleep 600"
    job = daemon.submit("shell", args={"argv": ["sh", "-c", script]})
    wait_until("the command runs", lambda: hidden.exists() and hidden.read_text().strip())

    assert daemon.call("POST", f"/v1/jobs/{job}/cancel", {})["outcome"] == "requested"
    assert daemon.ended(job)["status"] == "cancelled"
    wait_until("the one that hid is gone", lambda: not Path(f"/proc/{hidden.read_text().strip()}").exists(), 5.0)
    assert daemon.groups() == []


def test_a_child_that_kills_itself_three_times_is_poison(daemon: Any, tmp_path: Path) -> None:
    job = daemon.run("suicide", args={"path": str(tmp_path / "runs")})

    assert (job["status"], job["reason"], job["crashes"]) == ("failed", "poison", 3)
    assert len((tmp_path / "runs").read_text().splitlines()) == 3


def test_a_flood_of_jobs_is_run_to_its_end(daemon: Any) -> None:
    jobs = [daemon.submit("echo", args={"n": n}) for n in range(100)]

    assert [daemon.ended(job)["result"]["n"] for job in jobs] == list(range(100))


def test_a_job_in_the_loop_that_blocks_it_is_named_while_everything_can_be_asked(daemon: Any, wait_until: Any) -> None:
    job = daemon.submit("block", args={"seconds": 3})

    def blocked() -> Any:
        began = time.monotonic()
        status = daemon.call("GET", "/v1/status")
        assert time.monotonic() - began < 1.0
        return status["blocked"]

    found = wait_until("the daemon says who blocks it", blocked, 5.0)
    assert found["actor"].startswith("worker:loop-")
    assert "degraded" in daemon.cli("status").stdout
    assert daemon.ended(job)["result"] == "unblocked"
    wait_until("it is well again", lambda: daemon.call("GET", "/v1/status")["health"] == "ok", 5.0)


def test_a_child_does_not_see_the_daemons_own_variables(daemon: Any) -> None:
    seen = daemon.run("shell", args={"argv": ["env"], "env": {"EXTRA": "1"}})["result"]["stdout"].splitlines()

    assert "EXTRA=1" in seen
    assert not [line for line in seen if line.startswith("UNDERSTUDY_")]
    assert os.environ.get("PATH", "") in "\n".join(seen)
