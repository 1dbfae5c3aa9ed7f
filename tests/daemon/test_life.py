"""The daemon's own life: starts, second starts, stale sockets, stops, restarts and reloads."""

import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.daemon


@pytest.fixture
def fresh(full: Any) -> Iterator[Any]:
    """A daemon of the test's own, not yet started."""
    made = full()
    yield made
    made.close()


def test_a_conversation_is_kept_over_a_restart(fresh: Any) -> None:
    fresh.start()
    assert fresh.cli("ask", "echo", "first").returncode == 0

    fresh.restart()
    assert fresh.cli("ask", "echo", "second").returncode == 0

    kept = fresh.call("GET", "/v1/agents/echo/conversations/main")
    assert [line["role"] for line in kept] == ["user", "assistant"] * 2
    assert [line["content"] for line in kept if line["role"] == "user"] == ["first", "second"]


def test_a_job_that_ran_when_the_daemon_stopped_runs_again_and_its_attempt_does_not_count(
    fresh: Any, wait_until: Any
) -> None:
    fresh.config = fresh.file.read_text().replace('drain = "5s"', 'drain = "100ms"').replace('"1s"', '"100ms"')
    fresh.write(fresh.config)
    fresh.start()
    job = fresh.submit("shell", args={"argv": ["sh", "-c", "test -e go || sleep 600"]})
    wait_until("it runs", lambda: fresh.job(job)["status"] == "active")

    assert fresh.stop() == 0
    fresh.assert_alone()
    (fresh.folder / "go").touch()
    fresh.start()

    assert fresh.ended(job)["attempts"] == 1


def test_a_second_daemon_is_refused_and_the_first_goes_on(fresh: Any) -> None:
    fresh.start()
    second = fresh.spawn()

    assert second.wait(20) != 0
    assert f"pid {fresh.pid}" in fresh.log()
    assert fresh.run("echo", args={"n": 1})["status"] == "completed"


def test_a_stale_socket_is_replaced(fresh: Any) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(fresh.home / "control.sock"))

    fresh.start()

    assert fresh.call("GET", "/v1/hello")["pid"] == fresh.pid


def test_down_leaves_no_process_and_no_socket(fresh: Any, wait_until: Any) -> None:
    fresh.start()
    job = fresh.submit("shell", args={"argv": ["sh", "-c", "trap '' TERM; setsid sleep 600 & sleep 600"]})
    wait_until("it runs", lambda: fresh.job(job)["status"] == "active")

    done = fresh.cli("down", "--now")

    assert done.returncode == 0, done.stderr
    assert fresh.await_end() == 0
    fresh.assert_alone()
    assert not (fresh.home / "control.sock").exists()
    with closing(sqlite3.connect(fresh.database)) as sql:
        assert sql.execute("SELECT status, attempts FROM jobs").fetchall() == [("pending", 0)]
    assert json.loads((fresh.home / "state.json").read_text())["clean"] is True


def test_up_detached_returns_when_it_is_ready_and_down_ends_it(fresh: Any) -> None:
    up = fresh.cli("up", "--detach", "-c", str(fresh.file), LC_UNDERSTUDY_TEST=fresh.token)
    assert up.returncode == 0, up.stderr
    pid = fresh.call("GET", "/v1/hello")["pid"]

    assert fresh.run("echo")["status"] == "completed"
    assert fresh.cli("down").returncode == 0
    assert not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text()


def test_a_mistake_in_the_configuration_is_shown_with_its_place_and_ends_with_78(fresh: Any) -> None:
    fresh.write(fresh.config + '[agents.other]\nrolle = "x"\n')
    process = fresh.spawn()

    assert process.wait(20) == 78
    assert "rolle" in fresh.log()
    assert "^^^^^" in fresh.log()


def test_a_reload_adds_removes_and_changes_agents(fresh: Any) -> None:
    fresh.start()
    fresh.ask("counter", "demo.add", n=5)
    fresh.write(
        fresh.file.read_text()
        .replace('role = "a counter"', 'role = "a calculator"')
        .replace("agents.echo", "agents.new")
    )

    done = json.loads(fresh.cli("reload", "--json").stdout)

    assert (done["added"], done["removed"], done["restarted"]) == (["new"], ["echo"], ["counter"])
    assert fresh.cli("ask", "new", "hello").returncode == 0
    assert fresh.cli("ask", "echo", "hello").returncode == 4
    assert fresh.agent("counter")["role"] == "a calculator"
    assert fresh.ask("counter", "demo.add", n=1) == 6
    assert fresh.ask("sibling", "demo.add", n=1) == 1


def test_a_mistake_at_a_reload_leaves_everything_as_it_was(fresh: Any) -> None:
    fresh.start()
    fresh.write(fresh.file.read_text().replace("agents.echo", "agents.new") + '\n[agents.bad]\nrolle = "x"\n')

    done = fresh.cli("reload")

    assert done.returncode == 78
    assert "^^^^^" in done.stderr
    assert fresh.cli("ask", "echo", "hello").returncode == 0
    assert fresh.agent("echo")["state"] == "running"
    assert fresh.call("GET", "/v1/status")["health"] == "ok"


def test_a_reload_that_names_code_that_is_not_there_changes_nothing(fresh: Any) -> None:
    fresh.start()
    fresh.write(
        fresh.file.read_text().replace("agents.echo", "agents.new") + '\n[agents.bad]\nactor = "nowhere:Nobody"\n'
    )

    done = fresh.cli("reload")

    assert done.returncode == 78
    assert "nowhere" in done.stderr
    assert fresh.agent("echo")["state"] == "running"


def test_sighup_reloads(fresh: Any, wait_until: Any) -> None:
    fresh.start()
    fresh.write(fresh.file.read_text().replace("agents.echo", "agents.new"))

    os.kill(fresh.pid, 1)

    names = wait_until("the new agent", lambda: "new" in {a["name"] for a in fresh.call("GET", "/v1/agents")})
    assert names


def test_an_agent_whose_code_is_missing_is_parked_alone(fresh: Any) -> None:
    fresh.write(fresh.file.read_text() + '\n[agents.bad]\nactor = "nowhere:Nobody"\n')
    fresh.start()

    bad = fresh.agent("bad")
    assert bad["state"] == "quarantined"
    assert "nowhere" in bad["reason"]
    assert fresh.call("GET", "/v1/status")["health"] == "degraded"
    assert fresh.run("echo")["status"] == "completed"


def test_an_emptied_database_is_refused_and_not_touched(fresh: Any) -> None:
    fresh.start()
    fresh.run("echo")
    assert fresh.stop() == 0
    fresh.database.write_bytes(b"")

    process: subprocess.Popen[bytes] = fresh.spawn()

    assert process.wait(20) != 0
    assert "database" in fresh.log().splitlines()[-2] + fresh.log().splitlines()[-1]


@pytest.mark.parametrize("what", ["somebody else's", "no database"])
def test_a_database_that_cannot_be_ours_is_told_in_a_few_lines_and_left_alone(fresh: Any, what: str) -> None:
    if what == "no database":
        fresh.database.write_bytes(b"nothing of ours" * 1000)
    else:
        with closing(sqlite3.connect(fresh.database)) as sql:
            sql.execute("CREATE TABLE theirs (n)")
            sql.commit()
    before = fresh.database.read_bytes()

    process = fresh.spawn()

    assert process.wait(20) == 78
    told = fresh.log()
    assert "error: The database is" in told
    assert "Traceback" not in told
    assert "actor_crashed" not in told
    assert fresh.database.read_bytes() == before
    fresh.database.unlink()


def test_a_paused_agent_says_so_wherever_it_is_shown(fresh: Any) -> None:
    fresh.start()
    assert "it is paused by" in fresh.call("POST", "/v1/agents/echo/pause", {"paused": True})["reason"]
    shown = {agent["name"]: agent["reason"] for agent in fresh.call("GET", "/v1/agents")}
    assert "it is paused by" in shown["echo"]
    assert fresh.call("POST", "/v1/agents/echo/pause", {"paused": False})["reason"] is None


def test_a_setting_that_no_agent_has_is_not_taken_back(fresh: Any) -> None:
    fresh.start()
    made = fresh.cli("agents", "new", "clerk", "--role", "a clerk", "--provider", "scripted", "--model", "echo")
    assert made.returncode == 0, made.stderr
    edited = fresh.cli("agents", "edit", "clerk", "--unset", "rolle")
    assert edited.returncode != 0
    assert "no setting 'rolle'; did you mean 'role'?" in edited.stderr


def test_the_version_is_told_as_other_programs_tell_it(fresh: Any) -> None:
    assert fresh.cli("--version").stdout == fresh.cli("version").stdout


def test_a_stop_that_waits_for_work_can_be_hurried(fresh: Any, wait_until: Any) -> None:
    fresh.config = fresh.file.read_text().replace('drain = "5s"', 'drain = "60s"')
    fresh.write(fresh.config)
    fresh.start()
    job = fresh.submit("shell", args={"argv": ["sleep", "600"]})
    wait_until("it runs", lambda: fresh.job(job)["status"] == "active")
    fresh.call("POST", "/v1/shutdown", {})
    wait_until("it drains", lambda: fresh.call("GET", "/v1/status")["health"] == "draining")

    hurried = fresh.cli("down", "--now")

    assert hurried.returncode == 0, hurried.stderr
    assert fresh.process.wait(20) == 0


def test_who_waits_for_a_job_that_says_nothing_is_answered_at_once_and_hears_that_it_is_not_forgotten(
    fresh: Any, wait_until: Any
) -> None:
    fresh.start()
    job = fresh.submit("sleep", args={"seconds": 600})
    wait_until("it runs", lambda: fresh.job(job)["status"] == "active")
    with closing(socket.socket(socket.AF_UNIX)) as line:
        line.settimeout(10)
        line.connect(str(fresh.home / "control.sock"))
        line.sendall(f"GET /v1/jobs/{job}/watch HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        heard = b""
        while b": ping" not in heard and b"event:" not in heard:
            heard += line.recv(4096)
    assert heard.startswith(b"HTTP/1.1 200")
