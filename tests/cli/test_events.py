"""`events`: lines, JSON, the cursor, and what an interrupted stream says."""

import os
import signal
from collections.abc import Callable
from typing import Any

NOW = 1_790_000_000_000
ENDED = {"offset": 41, "at": NOW, "type": "job.completed", "subject": "0193-a", "data": {"attempt": 1, "x": "a b\n"}}
TOKEN: dict[str, Any] = {"offset": None, "at": NOW, "type": "agent.token", "subject": "agent:echo", "data": {}}


def test_events_are_lines_from_the_beginning(cli: Callable[..., Any], fake: Any) -> None:
    fake.stream("GET", "/v1/events", ("event", ENDED, 41), ("lagged", {}), ("event", TOKEN), ("done", {}))
    ended = cli("events", "--types", "job.*")
    assert ended.out == (
        "      41  14:13:20  job.completed         0193-a  attempt=1 x=a b\\n\n"
        "       -  14:13:20  agent.token           agent:echo\n"
    )
    assert ended.err == "some events were skipped here: this reader was too slow. They are kept: see --since\n"
    assert fake.asked("GET", "/v1/events").query == {"since": ["0"], "types": ["job.*"], "follow": ["false"]}


def test_json_is_one_event_a_line(cli: Callable[..., Any], fake: Any) -> None:
    fake.stream("GET", "/v1/events", ("event", ENDED, 41), ("done", {}))
    assert cli("events", "--json", "--since", "40").json == ENDED
    assert fake.asked("GET", "/v1/events").query["since"] == ["40"]


def test_a_stream_that_is_cut_says_how_to_go_on(cli: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.stream("GET", "/v1/events", ("event", ENDED, 41), streams[1])
    ended = cli("events", "-f")
    assert ended.code == 75
    assert ended.err == "error: The daemon went away\n  next: understudy events -f --since 41\n"
    assert "since" not in fake.asked("GET", "/v1/events").query


def test_events_that_are_gone_say_where_to_begin(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/events", "events.expired", "Kept from 900 on.", oldest=900)
    ended = cli("events", "--since", "3")
    assert ended.code == 1
    assert ended.err.endswith("  why: Kept from 900 on.\n  next: Start again from 900.\n")


def test_without_since_the_oldest_that_are_kept_are_the_beginning(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/events", "events.expired", "Kept from 41 on.", oldest=41)
    fake.stream("GET", "/v1/events", ("event", ENDED, 41), ("done", {}))
    assert cli("events", "--json").json == ENDED
    assert [seen.query["since"] for seen in fake.seen] == [["0"], ["40"]]


def test_ctrl_c_ends_following_without_a_word(child: Callable[..., Any], fake: Any, streams: Any) -> None:
    fake.stream("GET", "/v1/events", ("event", ENDED, 41), streams[0])
    process = child("events", "-f")
    assert os.read(process.stdout.fileno(), 8) == b"      41"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert fake.hung_up.wait(10)
