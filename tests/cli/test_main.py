"""The command as a whole: help, usage errors, exit codes, what it imports, and how it behaves on a closed pipe."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.main import COMMANDS, run

HEAVY = ("pydantic", "httpx", "structlog", "starlette", "uvicorn", "anyio", "aiosqlite", "psutil", "asyncio")


def test_alone_it_shows_the_five_most_used_commands(cli: Callable[..., Any]) -> None:
    ended = cli()
    assert ended.code == 0
    assert ended.out.count("\n  understudy ") == 5
    assert ended.err == ""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(cli: Callable[..., Any], flag: str) -> None:
    ended = cli(flag)
    assert ended.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.out] == []


def test_every_command_and_subcommand_has_help(cli: Callable[..., Any]) -> None:
    groups = {
        "approvals": "ls show allow deny grants revoke",
        "runs": "ls show cancel",
        "agents": "ls show new edit pause resume restart rm fork export",
        "providers": "ls test",
        "tools": "pin",
        "jobs": "submit submit-batch ls show wait logs cancel retry pause resume signal graph dead",
        "queues": "ls pause drain resume set",
        "schedules": "ls show add rm trigger pause resume",
        "workers": "ls drain resume",
        "pools": "resize",
    }
    paths = [[name] for name in COMMANDS] + [[group, sub] for group in groups for sub in groups[group].split()]
    for path in paths:
        ended = cli(*path, "-h")
        assert (path, ended.code) == (path, 0)
        assert ended.out.startswith(f"Usage: understudy {' '.join(path)}")


def test_a_mistyped_command_is_answered_with_the_nearest(cli: Callable[..., Any]) -> None:
    ended = cli("statu")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.endswith("No such command 'statu'. Did you mean 'status'?\n")
    assert "Did you mean 'submit'?" in cli("jobs", "submi").err


def test_a_daemon_that_is_down_is_exit_code_3_on_every_command_that_needs_it(
    cli: Callable[..., Any], home: Path
) -> None:
    said = f"Daemon is not running (no socket at {home}/control.sock). Start it: understudy up\n"
    commands = [
        "status", "ps", "agents ls", "agents show a", "jobs ls", "jobs show 1", "jobs logs 1", "jobs logs 1 -f",
        "jobs cancel 1", "jobs retry 1", "jobs wait 1", "jobs submit echo", "jobs submit echo --wait", "workers ls",
        "workers drain 1", "pools resize loop 2", "queues ls", "queues pause q", "queues set q --max-active 2",
        "schedules ls", "schedules show s", "schedules add s --cron @daily echo", "schedules trigger s", "why 1",
        "jobs dead", "jobs graph 1", "jobs pause 1", "jobs resume --tag t", "jobs signal 1 go", "jobs wait 1 2",
        "approvals ls", "approvals show 1", "approvals allow 1", "approvals deny 1", "approvals grants",
        "approvals revoke a t d", "runs ls", "runs show 1", "runs cancel 1", "providers ls", "providers test p",
        "tools pin s", "agents new a", "agents edit a --role r", "agents pause a", "agents resume a",
        "agents restart a", "agents rm a --yes", "agents fork a b c", "agents export a", "why a", "why agent:a",
        "chat a", "events", "events -f", "reload", "ask a hello", "ask a hello --detach", "send queue x",
    ]  # fmt: skip
    for command in commands:
        ended = cli(*command.split())
        assert (command, ended.code, ended.out, ended.err) == (command, 3, "", said)
    ended = cli("down")
    assert (ended.code, ended.out, ended.err) == (3, "", said.removesuffix(" Start it: understudy up\n") + "\n")


def test_a_socket_that_nobody_listens_on_is_told_apart(cli: Callable[..., Any], home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(home / "control.sock"))
    ended = cli("status")
    assert ended.code == 3
    assert ended.err == f"Daemon is not running (nobody listens on {home}/control.sock). Start it: understudy up\n"


def test_another_version_of_the_daemon_is_warned_about_once(cli: Callable[..., Any], fake: Any) -> None:
    from runtime.cli.version import version_of_cli

    fake.version = "9.9.9"
    fake.on("GET", "/v1/hello", {"version": "9.9.9", "pid": 7})
    ended = cli("version")
    fix = "Restart it: understudy down; understudy up"
    assert ended.err == f"warning: the daemon is version 9.9.9, this command is {version_of_cli()}. {fix}\n"
    assert ended.out.endswith("daemon 9.9.9 (pid 7)\n")
    assert cli("version").err == ""


def test_version_without_a_daemon_is_still_a_version(cli: Callable[..., Any]) -> None:
    ended = cli("version", "--json")
    assert ended.code == 0
    assert ended.json["daemon"] is None
    assert cli("version").out.endswith("daemon not running\n")


def test_an_unexpected_error_is_one_line_and_says_how_to_see_more(
    cli: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.on("GET", "/v1/workers", [{"id": "no other field"}])
    ended = cli("workers", "ls")
    assert ended.code == 1
    assert ended.err == "error: Unexpected: KeyError: 'lane'\n  next: UNDERSTUDY_DEBUG=1 understudy ... shows where\n"
    monkeypatch.setenv("UNDERSTUDY_DEBUG", "1")
    with pytest.raises(KeyError):
        run(["workers", "ls"])


def test_no_command_loads_a_heavy_library(home: Path) -> None:
    code = (
        "import sys, pkgutil, importlib, runtime.cli\n"
        "for found in pkgutil.iter_modules(runtime.cli.__path__):\n"
        "    importlib.import_module('runtime.cli.' + found.name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_status_loads_no_other_command(home: Path) -> None:
    others = ("sqlite3", "shutil", "subprocess", "importlib.metadata", "runtime.cli.jobs")
    code = (
        "import sys\nfrom runtime.cli.main import run\ncode = run(['status'])\n"
        f"print(code, sorted(set({others!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3 []\n"


def test_a_closed_pipe_is_quiet(child: Callable[..., Any], fake: Any, make_job: Callable[..., Any]) -> None:
    fake.on("GET", "/v1/jobs", [make_job(id=f"0193-{n}") for n in range(5000)])
    read, write = os.pipe()
    os.close(read)
    process = child("jobs", "ls", stdout=write)
    os.close(write)
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")


def test_letters_that_the_locale_lacks_do_not_end_the_command(
    child: Callable[..., Any], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    fake.on("POST", "/v1/actors/a/tell", {"text": "日本"})
    out, err = child("send", "a", "t", "{}").communicate()
    assert (out, err) == ('{"text": "\\u65e5\\u672c"}\n', "")
