"""How each field of a submitted job becomes one of its row, and who has the last word: the job, its kind, its queue."""

from typing import Any

import pytest

from actors.kinds import Kinds
from runtime.errors import PayloadTooLarge, QueueDraining, RequestInvalid
from runtime.store.port import Edge, JobRow
from schemas.config import Settings
from schemas.jobs import MAX_PAYLOAD, NewJob, RetryPolicy

NOW = 1_700_000_000_000
SETTINGS = Settings.model_validate(
    {
        "kinds": {
            "plain": {"run": "jobs:plain"},
            "steady": {
                "run": "jobs:steady",
                "max_attempts": 7,
                "retry": {"base": "9s"},
                "limit_key": "gpu",
                "limit_max": 2,
                "heartbeat_timeout": "30s",
            },
        },
        "queues": {"own": {"max_attempts": 5, "retry": {"base": "3s", "factor": 1.0}}},
        "agents": {
            "ada": {"llm": {"provider": "scripted", "model": "echo"}},
            "bob": {"llm": {"provider": "scripted", "model": "echo"}, "max_attempts": 2},
        },
    }
)


def prepare(kind: str = "plain", **fields: Any) -> JobRow:
    return Kinds(SETTINGS).prepare(NewJob(kind=kind, **fields), "id-1", NOW)


def policy(row: JobRow) -> RetryPolicy:
    return RetryPolicy() if row.retry is None else RetryPolicy.model_validate_json(row.retry)


OWN = RetryPolicy(base_ms=1, factor=1.0)
OWN_WITH_ATTEMPTS = RetryPolicy(base_ms=1, factor=1.0, max_attempts=9)


@pytest.mark.parametrize(
    ("kind", "fields", "attempts", "base"),
    [
        ("plain", {}, 3, 1_000),
        ("plain", {"queue": "own"}, 5, 3_000),
        ("steady", {}, 7, 9_000),
        ("steady", {"queue": "own"}, 7, 9_000),
        ("plain", {"queue": "own", "max_attempts": 2}, 2, 3_000),
        ("plain", {"queue": "own", "retry": OWN}, 5, 1),
        ("steady", {"queue": "own", "retry": OWN}, 7, 1),
        ("plain", {"queue": "own", "retry": OWN_WITH_ATTEMPTS}, 9, 1),
        ("steady", {"retry": OWN_WITH_ATTEMPTS, "max_attempts": 4}, 4, 1),
    ],
)
def test_the_job_has_the_last_word_then_its_kind_then_its_queue(
    kind: str, fields: dict[str, Any], attempts: int, base: int
) -> None:
    row = prepare(kind, **fields)
    assert (row.max_attempts, policy(row).base_ms) == (attempts, base)


@pytest.mark.parametrize(("agent", "attempts"), [("ada", 5), ("bob", 2)])
def test_the_queue_of_an_agent_speaks_where_the_agent_does_not(agent: str, attempts: int) -> None:
    queues = dict.fromkeys(("agent:ada", "agent:bob"), SETTINGS.queues["own"])
    kinds = Kinds(SETTINGS.model_copy(update={"queues": queues}))
    args = {"agent": agent, "message": {"text": "hi"}}
    assert kinds.prepare(NewJob(kind="agent.message", args=args), "id-1", NOW).max_attempts == attempts


def test_times_become_points_in_time() -> None:
    row = prepare(delay_ms=250, deadline_ms=9_000)
    assert (row.execute_after, row.deadline_at) == (NOW + 250, NOW + 9_000)
    assert prepare(run_at=NOW + 77).execute_after == NOW + 77
    assert prepare().deadline_at is None


def test_the_limit_of_a_kind_is_its_jobs_unless_they_have_their_own() -> None:
    assert (prepare("steady").limit_key, prepare("steady").limit_max) == ("gpu", 2)
    own = prepare("steady", limit_key="mine")
    assert (own.limit_key, own.limit_max) == ("mine", 1)
    assert (prepare().limit_key, prepare().limit_max) == (None, 1)


def test_times_per_attempt_come_from_the_kind_unless_the_job_says() -> None:
    row = prepare("steady")
    assert (row.heartbeat_ms, row.timeout_ms) == (30_000, 300_000)
    row = prepare("steady", heartbeat_ms=500, timeout_ms=900)
    assert (row.heartbeat_ms, row.timeout_ms) == (500, 900)


def test_the_rest_is_kept_as_it_was_given() -> None:
    row = prepare(
        unique="word",
        key="k",
        tags=("b", "a", "b"),
        parent="id-0",
        depends_on=({"job": "id-7"}, {"job": "id-8", "on_failure": "hold"}),
        tokens=12,
        priority=3,
        data={"z": 1},
    )
    assert (row.unique, row.key, row.tags, row.parent, row.tokens) == ("word", "k", ("b", "a"), "id-0", 12)
    assert row.depends_on == (Edge("id-7", "cancel"), Edge("id-8", "hold"))
    assert (row.priority, row.data) == (3, '{"z":1}')


def test_an_edge_that_is_named_twice_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="twice"):
        prepare(depends_on=({"job": "id-7"}, {"job": "id-7", "on_failure": "run"}))


@pytest.mark.parametrize("field", ["args", "data"])
def test_what_is_too_large_is_refused_at_the_door(field: str) -> None:
    with pytest.raises(PayloadTooLarge):
        prepare(**{field: {"x": "x" * MAX_PAYLOAD}})


def test_a_queue_that_is_drained_takes_nothing_until_it_is_not() -> None:
    kinds = Kinds(SETTINGS)
    kinds.drain("own", "ada")
    for job in (NewJob(kind="plain", queue="own"), NewJob(kind="plain", queue="own", delay_ms=5)):
        with pytest.raises(QueueDraining, match="ada"):
            kinds.prepare(job, "id-1", NOW)
    kinds.prepare(NewJob(kind="plain"), "id-1", NOW)
    kinds.use(SETTINGS)
    with pytest.raises(QueueDraining):
        kinds.prepare_batch((NewJob(kind="plain", queue="own"),), lambda: "id-1", NOW)
    kinds.drain("own", None)
    kinds.prepare(NewJob(kind="plain", queue="own"), "id-1", NOW)
