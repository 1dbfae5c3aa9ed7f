"""`schedules`: how they look, and what reaches the daemon."""

import json
import os
import pwd
from collections.abc import Callable
from typing import Any

import pytest

from schemas.schedules import AddSchedule

NOW = 1_790_000_000_000
ME = pwd.getpwuid(os.getuid()).pw_name
SCHEDULE = {
    "name": "nightly",
    "cron": "30 3 * * *",
    "tz": "Europe/Berlin",
    "says": "At 03:30",
    "job": {"kind": "shell", "args": {"argv": ["true"]}},
    "catchup": "one",
    "overlap": "skip",
    "by": "config",
    "paused": False,
    "paused_by_hand": False,
    "next_at": NOW + 3_600_000,
    "last_at": NOW - 60_000,
    "last_job": "0193-a",
    "trouble": None,
    "created_at": NOW,
    "updated_at": NOW,
    "upcoming": [],
    "ticks": [],
}


def test_schedules_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    paused = SCHEDULE | {"name": "b", "paused": True, "next_at": None, "last_at": None, "by": "ada", "tz": "UTC"}
    odd = SCHEDULE | {"name": "c", "trouble": "there is no kind 'shell'"}
    fake.on("GET", "/v1/schedules", [SCHEDULE, paused, odd])
    ended = cli("schedules", "ls")
    assert ended.out == (
        "NAME     STATE    CRON        TZ             KIND   NEXT    LAST       BY\n"
        "nightly  on       30 3 * * *  Europe/Berlin  shell  in 1 h  1 min ago  config\n"
        "b        paused   30 3 * * *  UTC            shell  -       -          ada\n"
        "c        trouble  30 3 * * *  Europe/Berlin  shell  in 1 h  1 min ago  config\n"
    )
    assert ended.err == "warning: c: its job would be refused: there is no kind 'shell'\n"
    assert cli("schedules", "ls", "--json").json == [SCHEDULE, paused, odd]


def test_one_schedule_is_shown_with_its_ticks(cli: Callable[..., Any], fake: Any) -> None:
    tick = {"fire_at": NOW - 60_000, "outcome": "fired", "job": "0193-a", "at": NOW - 59_000}
    upcoming = [NOW + 3_600_000, NOW + 90_000_000]
    fake.on("GET", "/v1/schedules/nightly", SCHEDULE | {"ticks": [tick], "upcoming": upcoming})
    assert cli("schedules", "show", "nightly", "--ticks", "3").out == (
        "name          nightly\n"
        "cron          30 3 * * *\n"
        "time zone     Europe/Berlin\n"
        "in words      At 03:30\n"
        "state         on\n"
        "missed ticks  one\n"
        "overlap       skip\n"
        "defined by    config\n"
        'job           {"kind": "shell", "args": {"argv": ["true"]}}\n'
        "next          in 1 h (2026-09-21T15:13:20Z)\n"
        "              in 1 d (2026-09-22T15:13:20Z)\n"
        "last          1 min ago (2026-09-21T14:12:20Z)\n"
        "last job      0193-a\n"
        "\n"
        "TICK                              OUTCOME  JOB     DEALT WITH\n"
        "1 min ago (2026-09-21T14:12:20Z)  fired    0193-a  59 s ago\n"
    )
    assert fake.asked("GET", "/v1/schedules/nightly").query == {"limit": ["3"]}


def test_a_schedule_is_added_with_its_job(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/schedules", SCHEDULE)
    options = ["--cron", "30 3 * * *", "--tz", "Europe/Berlin", "--catchup=all", "--overlap=skip", "--paused"]
    job = ["shell", "--arg", 'argv=["true"]', "--queue=q", "--tag=t", "--delay=5s", "--unique=u", "--timeout=1m"]
    ended = cli("schedules", "add", "nightly", *options, "--replace", *job)
    assert (ended.code, ended.out) == (0, "nightly next in 1 h, At 03:30\n")
    asked = fake.asked("POST", "/v1/schedules").body
    assert AddSchedule.model_validate_json(json.dumps(asked)).name == "nightly"
    assert asked == {
        "name": "nightly",
        "cron": "30 3 * * *",
        "tz": "Europe/Berlin",
        "catchup": "all",
        "overlap": "skip",
        "paused": True,
        "replace": True,
        "by": ME,
        "job": {
            "kind": "shell",
            "args": {"argv": ["true"]},
            "queue": "q",
            "tags": ["t"],
            "delay_ms": 5000,
            "unique": "u",
            "timeout_ms": 60_000,
        },
    }


def test_a_wrong_cron_is_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/schedules", "schedule.invalid", "the minute '61' is not understood", field="cron")
    ended = cli("schedules", "add", "odd", "--cron", "61 * * * *", "echo")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: The schedule is not valid\n  why: the minute '61' is not understood\n")


def test_a_schedule_needs_its_times(cli: Callable[..., Any], fake: Any) -> None:
    ended = cli("schedules", "add", "odd", "echo")
    assert (ended.code, fake.seen) == (2, [])
    assert "Missing option '--cron'" in ended.err


def test_a_schedule_is_triggered_and_forgotten(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("POST", "/v1/schedules/nightly/trigger", {"id": "0193-a", "status": "pending", "existing": False})
    fake.on("POST", "/v1/schedules/nightly/remove", {})
    assert cli("schedules", "trigger", "nightly").out == "0193-a\n"
    assert cli("schedules", "rm", "nightly").out == "nightly removed\n"


@pytest.mark.parametrize(("command", "paused", "told"), [("pause", True, "paused"), ("resume", False, "next in 1 h")])
def test_a_schedule_is_paused_and_goes_on(
    cli: Callable[..., Any], fake: Any, command: str, paused: bool, told: str
) -> None:
    fake.on("POST", "/v1/schedules/nightly/pause", SCHEDULE | {"paused": paused})
    assert cli("schedules", command, "nightly").out == f"nightly {told}, At 03:30\n"
    assert fake.asked("POST", "/v1/schedules/nightly/pause").body == {"paused": paused}


def test_a_schedule_of_the_configuration_is_changed_there(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("POST", "/v1/schedules/nightly/remove", "schedule.from_config", "it is defined in the configuration")
    ended = cli("schedules", "rm", "nightly")
    assert ended.code == 1
    assert "Change [schedules.NAME] in config.toml, then `understudy reload`." in ended.err
