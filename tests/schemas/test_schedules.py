"""What may be asked about schedules: the job that comes again and again, and who it is by."""

from typing import Any

import pytest
from pydantic import ValidationError

from schemas.jobs import Dependency, NewJob
from schemas.schedules import AddSchedule, GetSchedule


def add(**fields: Any) -> AddSchedule:
    return AddSchedule(**({"name": "s", "cron": "@daily", "job": NewJob(kind="echo")} | fields))


def test_a_schedule_is_added_with_a_name_a_time_and_a_job() -> None:
    asked = AddSchedule.model_validate_json('{"name": "s", "cron": "@daily", "job": {"kind": "echo"}}')
    assert asked == add()
    assert (asked.tz, asked.catchup, asked.overlap, asked.paused, asked.replace) == (
        "UTC",
        "one",
        "allow",
        False,
        False,
    )


@pytest.mark.parametrize(
    "fields",
    [{"run_at": 5}, {"key": "k"}, {"depends_on": (Dependency(job="j"),)}, {"parent": "p"}, {"ref": "r"}],
    ids=lambda fields: str(*fields),
)
def test_its_job_has_nothing_that_there_can_be_only_once(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="has no `"):
        add(job=NewJob(kind="echo", **fields))


@pytest.mark.parametrize(
    "fields",
    [{"name": "No"}, {"name": ""}, {"by": "config"}, {"catchup": "some"}, {"overlap": "one"}, {"cron": "x" * 201}],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        add(**fields)


def test_at_most_a_thousand_ticks_are_shown() -> None:
    with pytest.raises(ValidationError):
        GetSchedule(name="s", limit=1001)
