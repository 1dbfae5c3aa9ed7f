"""Waiting for several jobs at once: a line for each as it ends, one exit code, progress on a terminal."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from runtime.cli.bars import Bars, bar, cut, meter


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.cli.jobs_wait.RETRY_EVERY", 0.01)


def test_each_job_is_told_as_it_ends(cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    for job in ("1", "2"):
        fake.stream(
            "GET", f"/v1/jobs/{job}/watch", ("progress", {"progress": 0.5}), ("done", {"job": make_job(id=job)})
        )
    ended = cli("jobs", "wait", "1", "2", "1")
    assert (ended.code, ended.err) == (0, "")
    assert sorted(ended.out.splitlines()) == ["1 completed", "2 completed"]


def test_json_has_the_jobs_in_the_order_they_were_named(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    jobs = [make_job(id=str(n)) for n in range(40)]  # more than are followed at the same moment
    for job in jobs:
        fake.stream("GET", f"/v1/jobs/{job['id']}/watch", ("done", {"job": job}))
    assert cli("jobs", "wait", *(job["id"] for job in jobs), "--json").json == jobs


def test_one_that_failed_makes_the_exit_code_1_and_says_why(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], make_problem: Callable[..., Any]
) -> None:
    broken = make_job(id="2", status="failed", reason="exhausted", error=make_problem("job.failed", "no route"))
    late = make_job(id="3", status="failed", reason="deadline")
    for job in (make_job(id="1"), broken, late):
        fake.stream("GET", f"/v1/jobs/{job['id']}/watch", ("done", {"job": job}))
    ended = cli("jobs", "wait", "1", "2", "3")
    assert ended.code == 1
    assert sorted(ended.out.splitlines()) == ["1 completed", "2 failed", "3 failed"]
    assert "error: 2: The job failed\n  why: no route\n" in ended.err
    assert "error: 3: The job was not done by its deadline\n  why: reason: deadline\n" in ended.err


def test_an_unknown_job_keeps_nobody_from_the_others(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    fake.stream("GET", "/v1/jobs/1/watch", ("done", {"job": make_job(id="1")}))
    fake.problem("GET", "/v1/jobs/2/watch", "job.not_found", "there is no job 2")
    ended = cli("jobs", "wait", "1", "2")
    assert (ended.code, ended.out) == (4, "1 completed\n")


def test_a_daemon_that_goes_away_is_waited_for_and_told_of_once(
    cli: Callable[..., Any], fake: Any, make_job: Callable[..., Any], streams: Any
) -> None:
    _, die = streams
    for job in ("1", "2"):
        path = f"/v1/jobs/{job}/watch"
        fake.stream("GET", path, ("started", {}), die)
        fake.stream("GET", path, ("done", {"job": make_job(id=job)}))
    ended = cli("jobs", "wait", "1", "2")
    assert ended.code == 0
    assert "the daemon is away; waiting for it" in ended.err


def test_the_time_to_wait_ends_and_the_jobs_go_on(cli: Callable[..., Any], fake: Any, streams: Any) -> None:
    hold, _ = streams
    for job in ("1", "2"):
        fake.stream("GET", f"/v1/jobs/{job}/watch", hold)
    ended = cli("jobs", "wait", "1", "2", "--timeout", "100ms")
    assert ended.code == 124
    assert "2 of 2 jobs have not ended after 0.1 s; they go on" in ended.err


def test_ctrl_c_ends_the_waiting_and_no_job(child: Callable[..., Any], fake: Any, streams: Any) -> None:
    hold, _ = streams
    for job in ("1", "2"):
        fake.stream("GET", f"/v1/jobs/{job}/watch", lambda handler: handler.server.play.hung_up.set(), hold)
    process = child("jobs", "wait", "1", "2")
    assert fake.hung_up.wait(20)
    process.send_signal(signal.SIGINT)
    code, said = process.wait(20), process.stderr.read()
    assert said == "interrupted; 2 go on\n  next: understudy jobs wait with the same ids goes on waiting\n"
    assert code == 130


def test_on_a_terminal_there_are_bars_that_are_gone_at_the_end(
    terminal: Callable[..., Any], fake: Any, make_job: Callable[..., Any]
) -> None:
    told = {"progress": {"done": 1, "of": 4, "what": "fetching"}}
    for job in ("1", "2"):
        fake.stream("GET", f"/v1/jobs/{job}/watch", ("progress", told), ("done", {"job": make_job(id=job)}))
    shown = terminal("jobs", "wait", "1", "2")
    assert "1  [######..................]  25%  1 of 4  fetching\n" in shown
    assert "0 of 2 ended  [........................]   0%\n" in shown
    last = shown.rpartition("\x1b[0J")[2]
    assert last == ""  # nothing of a bar stays
    assert "1 completed\n" in shown
    assert "2 completed\n" in shown


def test_one_job_has_a_bar_too(terminal: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    parts = ("progress", {"progress": 0.5}), ("done", {"job": make_job(result=7)})
    fake.stream("GET", "/v1/jobs/0193-a/watch", *parts)
    assert terminal("jobs", "wait", "0193-a") == ("0193-a  [############............]  50%\n\x1b[1A\x1b[0J7\n")


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ({"done": 1, "of": 2}, "[############............]  50%  1 of 2"),
        ({"done": 9, "of": 3, "what": "x"}, "[########################] 100%  9 of 3  x"),
        ({"percent": 25}, "[######..................]  25%"),
        (0.25, "[######..................]  25%"),
        ({"done": 1, "of": 0}, '{"done": 1, "of": 0}'),
        ("half\x1b[2J way", "half\\x1b[2J way"),
        ([1, 2], "[1, 2]"),
        (7, "7"),
        (True, "True"),
        (3.5, "3.5"),
    ],
)
def test_progress_is_shown_as_it_was_told(progress: Any, line: str) -> None:
    assert bar(progress) == line


def test_a_bar_has_an_end_and_a_line_fits() -> None:
    assert meter(-1).endswith("  0%")
    assert meter(7).endswith("100%")
    assert cut("x" * 100, 10) == "x" * 10


def test_off_a_terminal_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(3)
    bars.show("1", 0.5)
    bars.end("1")
    bars.draw()
    bars.clear()
    assert capsys.readouterr() == ("", "")
