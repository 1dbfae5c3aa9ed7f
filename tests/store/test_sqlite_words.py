"""The database takes the words of the tables in code, and no other."""

import sqlite3
from typing import Any, get_args

import pytest

from runtime.store.sqlite.migrate import migrate
from schemas.jobs import ENDED, REASONS, EdgeState, Lane, OnFailure, QueueState, Status
from schemas.schedules import Catchup, Overlap, TickOutcome

JOB = {
    "id": "x",
    "kind": "k",
    "queue": "q",
    "priority": 1,
    "rank": 1,
    "execute_after": 1,
    "max_attempts": 1,
    "created_at": 1,
    "updated_at": 1,
}
SCHEDULE = {
    "name": "s",
    "cron": "* * * * *",
    "tz": "UTC",
    "job": "{}",
    "catchup": "skip",
    "overlap": "allow",
    "by": "config",
    "high_mark": 0,
    "created_at": 1,
    "updated_at": 1,
}


@pytest.fixture
def sql() -> Any:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, 1)
    yield connection
    connection.close()


def taken(sql: sqlite3.Connection, table: str, row: dict[str, Any]) -> bool:
    """Tell whether the database takes a row; it is not kept."""
    sql.execute("BEGIN")
    try:
        sql.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    except sqlite3.IntegrityError:
        return False
    finally:
        sql.execute("ROLLBACK")
    return True


def test_a_status_has_the_reasons_of_the_table_and_no_other(sql: sqlite3.Connection) -> None:
    words: tuple[str | None, ...] = (None, "", *{word for words in REASONS.values() for word in words})
    found = set()
    for status in (*get_args(Status), "gone"):
        rest: dict[str, Any] = {"lane": "loop", "finished_at": 1 if status in ENDED else None}
        if status == "active":
            rest |= {"worker": "w", "boot": "b"}
        found |= {
            (status, word) for word in words if taken(sql, "jobs", JOB | rest | {"status": status, "reason": word})
        }
    assert found == {(status, word) for status in get_args(Status) for word in REASONS.get(status, (None,))}


def test_ended_means_a_time_and_active_means_an_owner(sql: sqlite3.Connection) -> None:
    job = JOB | {"lane": "loop"}
    assert not taken(sql, "jobs", job | {"status": "completed"})
    assert not taken(sql, "jobs", job | {"status": "pending", "finished_at": 1})
    assert not taken(sql, "jobs", job | {"status": "active", "worker": "w"})
    assert not taken(sql, "jobs", job | {"status": "pending", "worker": "w", "boot": "b"})


@pytest.mark.parametrize(
    ("table", "row", "column", "words"),
    [
        ("jobs", JOB | {"status": "pending"}, "lane", get_args(Lane)),
        ("queues", {"name": "q", "updated_at": 1}, "state", get_args(QueueState)),
        ("schedules", SCHEDULE, "catchup", get_args(Catchup)),
        ("schedules", SCHEDULE, "overlap", get_args(Overlap)),
        ("schedule_fires", {"name": "s", "fire_at": 1, "at": 1}, "outcome", get_args(TickOutcome)),
        ("job_deps", {"parent": 1, "child": 2}, "on_failure", get_args(OnFailure)),
        ("job_deps", {"parent": 1, "child": 2}, "state", get_args(EdgeState)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_column_takes_its_words(
    sql: sqlite3.Connection, table: str, row: dict[str, Any], column: str, words: tuple[str, ...]
) -> None:
    assert all(taken(sql, table, row | {column: word}) for word in words)
    assert not taken(sql, table, row | {column: "another"})


def test_no_job_waits_for_itself(sql: sqlite3.Connection) -> None:
    assert not taken(sql, "job_deps", {"parent": 1, "child": 1})
