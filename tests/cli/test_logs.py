"""`logs`: the file for people, its levels, its tail, and following it over a rotation."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

LINES = [
    {"timestamp": "2026-09-21T14:13:20Z", "level": "info", "event": "job_claimed", "job": "0193-a", "epoch": 2},
    {
        "timestamp": "2026-09-21T14:13:21Z",
        "level": "error",
        "event": "bad\x1b[2J",
        "exception": "Traceback\n  ValueError",
    },
]


def write(path: Path, *entries: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as sink:
        sink.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_lines_are_written_for_people(cli: Callable[..., Any], home: Path) -> None:
    write(home / "daemon.log", *LINES)
    with (home / "daemon.log").open("a") as sink:
        sink.write("Fatal Python error: \x07\n")
    assert cli("logs").out == (
        "2026-09-21T14:13:20Z  info      job_claimed  job=0193-a  epoch=2\n"
        "2026-09-21T14:13:21Z  error     bad\\x1b[2J\n"
        "    Traceback\n"
        "      ValueError\n"
        "Fatal Python error: \\x07\n"
    )


def test_level_tail_and_json(cli: Callable[..., Any], home: Path) -> None:
    write(home / "daemon.log", *LINES, LINES[0], LINES[0])
    assert cli("logs", "--level", "warning", "--json").json == LINES[1]
    assert cli("logs", "--tail", "1").out.count("job_claimed") == 1
    assert cli("logs", "--tail", "0").out == ""


def test_without_a_log_it_says_where_the_log_is(cli: Callable[..., Any], home: Path) -> None:
    ended = cli("logs")
    assert (ended.code, ended.out) == (4, "")
    assert ended.err.startswith(f"error: There is no log yet\n  why: there is no {home}/daemon.log\n  next: ")


def test_following_goes_on_over_a_rotation_and_leaves_nothing_out(child: Callable[..., Any], home: Path) -> None:
    log = home / "daemon.log"
    write(log, {"event": "one"})
    with log.open("a") as sink:
        sink.write('{"event": ')
    process = child("logs", "-f", "--json")
    assert json.loads(process.stdout.readline()) == {"event": "one"}
    with log.open("a") as sink:
        sink.write('"t\u00f6\u4e8c"}\n')
    assert json.loads(process.stdout.readline()) == {"event": "t\u00f6\u4e8c"}
    write(log, {"event": "three"})
    log.rename(home / "daemon.log.1")
    write(log, {"event": "four"})
    assert [json.loads(process.stdout.readline())["event"] for _ in range(2)] == ["three", "four"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")
