"""A start with a hundred thousand jobs waiting is as quick as one with none, and so is a new job."""

import time
from typing import Any

import pytest

pytestmark = pytest.mark.daemon

JOBS = 100_000
READY_WITHIN = 6.0
"""The goal is 2 s; slow machines get three times that here, and what it took is printed."""


def test_a_daemon_with_a_hundred_thousand_jobs_is_ready_at_once(
    tracing: Any, fill: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tracing.database, JOBS)

    took = tracing.start()

    with capsys.disabled():
        print(f"\nready with {JOBS} waiting jobs after {took:.2f} s")  # noqa: T201  # the measured figure
    assert took < READY_WITHIN
    began = time.monotonic()
    assert tracing.run("echo", args={"n": 1}, priority=0)["status"] == "completed"
    assert time.monotonic() - began < 5.0
    assert sum(tracing.call("GET", "/v1/status")["queues"]["default"].values()) >= JOBS


def test_a_kill_in_the_middle_of_a_backlog_loses_none_of_it(tracing: Any, fill: Any) -> None:
    fill(tracing.database, 5_000)
    tracing.start()
    for _ in range(3):
        tracing.kill()
        tracing.start()
    deadline = time.monotonic() + 40
    while (counts := tracing.call("GET", "/v1/status")["queues"]["default"]).get("completed", 0) < 5_000:
        assert time.monotonic() < deadline, counts

    assert tracing.stop() == 0
    assert tracing.rows("SELECT status, count(*) FROM jobs WHERE queue = 'default' GROUP BY 1") == [
        ("completed", 5_000)
    ]
    told = (
        "SELECT told.value ->> 2 FROM events, json_each(events.body) AS told WHERE told.value ->> 1 = 'job.completed'"
        " AND told.value ->> 2 IN (SELECT id FROM jobs WHERE queue = 'default')"
    )
    twice = f"{told} GROUP BY 1 HAVING count(*) > 1"
    assert len(tracing.rows(told)) == 5_000
    assert tracing.rows(twice) == []
