"""`jobs submit-batch`: from a file or a pipe, as an array or as lines, and what is said of mistakes."""

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

JOBS = [
    {"ref": "a", "kind": "echo"},
    {"ref": "b", "kind": "echo", "depends_on": [{"job": "#a", "on_failure": "run"}]},
]
ANSWER = [{"id": f"0193-{n}", "status": "pending", "existing": False} for n in (1, 2)]
LINES = "\n\n".join(json.dumps(job) for job in JOBS) + "\n"


@pytest.mark.parametrize("text", [json.dumps(JOBS), json.dumps(JOBS, indent=2), LINES, f"\n  {LINES}"])
def test_an_array_and_lines_are_the_same(cli: Callable[..., Any], fake: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs").write_text(text)
    fake.on("POST", "/v1/jobs/batch", ANSWER)
    ended = cli("jobs", "submit-batch", "jobs")
    assert (ended.code, ended.out, ended.err) == (0, "0193-1\n0193-2\n", "")
    asked = fake.asked("POST", "/v1/jobs/batch")
    assert asked.body == {"jobs": JOBS}
    assert "Idempotency-Key" not in asked.headers


def test_a_batch_comes_through_a_pipe_under_a_key(cli: Callable[..., Any], fake: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(LINES))
    fake.on("POST", "/v1/jobs/batch", [ANSWER[0], ANSWER[1] | {"existing": True}])
    ended = cli("jobs", "submit-batch", "-", "--key", "night-1")
    assert ended.out == "0193-1\n0193-2\n"
    assert ended.err == "1 of 2 were there already: their key or their word was known\n"
    assert fake.asked("POST", "/v1/jobs/batch").headers["Idempotency-Key"] == "night-1"


def test_a_batch_answers_in_json(cli: Callable[..., Any], fake: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(LINES)
    fake.on("POST", "/v1/jobs/batch", ANSWER)
    assert cli("jobs", "submit-batch", "jobs", "--json").json == ANSWER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "error: There is nothing to submit\n  why: jobs has no jobs\n"),
        ("[]", "error: There is nothing to submit\n  why: jobs has no jobs\n"),
        ('{"kind": "echo"}\n{"kind"\n', "error: The batch is not JSON\n  why: jobs:2: Expecting ':' delimiter"),
        ('[{"kind": "echo"}', "error: The batch is not JSON\n  why: jobs: Expecting ',' delimiter"),
        (b"\xff", "error: The file cannot be read\n  why: jobs: 'utf-8' codec"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_place(
    cli: Callable[..., Any], fake: Any, tmp_path: Path, text: str | bytes, said: str
) -> None:
    (tmp_path / "jobs").write_bytes(text if isinstance(text, bytes) else text.encode())
    ended = cli("jobs", "submit-batch", "jobs")
    assert (ended.code, ended.out, fake.seen) == (2, "", [])
    assert ended.err.startswith(said)


def test_a_file_that_is_not_there_is_said_so(cli: Callable[..., Any], fake: Any) -> None:
    ended = cli("jobs", "submit-batch", "nowhere.json")
    assert ended.code == 2
    assert "nowhere.json" in ended.err


def test_a_circle_is_told_with_its_path(cli: Callable[..., Any], fake: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(LINES)
    detail = "these jobs wait for one another: a -> b -> a"
    fake.problem("POST", "/v1/jobs/batch", "job.cycle", detail, path=["a", "b", "a"])
    ended = cli("jobs", "submit-batch", "jobs")
    assert ended.code == 2
    assert ended.err == (
        f"error: These jobs wait for one another\n  why: {detail}\n  next: take one of these edges out of the file\n"
    )
