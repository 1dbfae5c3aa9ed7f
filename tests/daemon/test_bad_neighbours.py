"""Jobs and agents that bring the daemon down: who is blamed, who is run alone, and that nobody else suffers."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon


@pytest.fixture
def fresh(full: Any) -> Iterator[Any]:
    """A started daemon of the test's own."""
    made = full()
    made.start()
    yield made
    made.close()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_that_ends_the_daemon_is_run_apart_from_then_on(fresh: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    neighbour = fresh.submit("pause", args={"path": str(tmp_path / "pause")})
    fresh.run("echo")
    bad = fresh.submit("exits", args={"path": str(path)}, delay_ms=200)  # else it is over before the answer has left
    assert fresh.await_end() == 7
    (tmp_path / "pause.go").touch()

    fresh.start()

    job = fresh.ended(bad)
    assert (job["status"], job["reason"], job["crashes"]) == ("failed", "poison", 3)
    pids = [int(line) for line in lines(path)]
    assert len(pids) == len(set(pids)) == 4
    assert fresh.pid not in pids
    assert fresh.ended(neighbour)["result"] == "went on"
    assert fresh.process.poll() is None


def test_a_kill_from_outside_poisons_nobody(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    job = fresh.submit("pause", args={"path": str(tmp_path / "pause")})
    for start in range(1, 5):
        wait_until("it runs", lambda start=start: len(lines(tmp_path / "pause")) == start)
        fresh.kill()
        fresh.start()
    (tmp_path / "pause.go").touch()

    view = fresh.ended(job)
    assert (view["status"], view["result"], view["crashes"], view["attempts"]) == ("completed", "went on", 0, 1)


def test_a_suspect_whose_agent_is_parked_holds_up_nobody_else(fresh: Any, tmp_path: Path) -> None:
    suspect = kill_with_a_message(fresh, tmp_path)
    fresh.write(fresh.file.read_text().replace("my_agents:Counter", "nowhere:Nobody", 1))

    fresh.start()

    assert fresh.agent("counter")["state"] == "quarantined"
    assert fresh.job(suspect)["status"] == "pending"
    assert fresh.run("echo", args={"n": 1})["status"] == "completed"
    assert fresh.run("agent.message", args=save("sibling"))["result"] == 1


def test_a_suspect_whose_agent_is_no_more_holds_up_nobody_else(fresh: Any, tmp_path: Path) -> None:
    kill_with_a_message(fresh, tmp_path)
    fresh.write(fresh.file.read_text().replace("[agents.counter]", "[agents.other]"))

    fresh.start()

    assert fresh.run("echo", args={"n": 1})["status"] == "completed"
    assert fresh.run("agent.message", args=save("sibling"))["result"] == 1


def test_a_suspect_that_is_cancelled_holds_up_nobody_else(fresh: Any, tmp_path: Path) -> None:
    suspect = kill_with_a_message(fresh, tmp_path)
    good = fresh.file.read_text()
    fresh.write(good.replace("my_agents:Counter", "nowhere:Nobody", 1))
    fresh.start()
    assert fresh.call("POST", f"/v1/jobs/{suspect}/cancel", {})["outcome"] == "cancelled"
    fresh.write(good)
    assert fresh.cli("reload").returncode == 0

    assert fresh.run("agent.message", args=save("counter"))["result"] == 1
    assert fresh.run("echo", args={"n": 1})["status"] == "completed"


def test_two_suspects_are_run_one_after_the_other(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    gates = [str(tmp_path / "one"), str(tmp_path / "two")]
    jobs = [
        fresh.submit("agent.message", args={"agent": agent, "type": "demo.wait", "message": {"path": gate}})
        for agent, gate in zip(("counter", "sibling"), gates, strict=True)
    ]
    wait_until("both run", lambda: [fresh.job(job)["status"] for job in jobs] == ["active", "active"])
    fresh.kill()
    fresh.start()

    wait_until("one runs", lambda: sorted(fresh.job(job)["status"] for job in jobs) == ["active", "pending"])
    held = fresh.submit("echo", args={"n": 1})
    Path(gates[0]).touch()
    Path(gates[1]).touch()

    assert [fresh.ended(job)["status"] for job in (*jobs, held)] == ["completed"] * 3


def kill_with_a_message(daemon: Any, tmp_path: Path) -> str:
    """Have the daemon die by a message for `counter`; return its job."""
    bomb = tmp_path / "bomb"
    bomb.touch()
    args = {"agent": "counter", "type": "demo.die", "message": {"path": str(bomb)}}
    job = str(daemon.submit("agent.message", args=args, delay_ms=200))  # else it is over before the answer has left
    assert daemon.await_end() == 9
    bomb.unlink()
    return job


def save(agent: str) -> dict[str, Any]:
    return {"agent": agent, "type": "demo.save", "message": {"n": 1}}


def test_the_daemon_is_killed_and_nothing_it_started_lives_on(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    script = f"setsid sleep 600 & trap '' TERM; echo $$ > {tmp_path / 'pid'}; sleep 600"
    fresh.submit("shell", args={"argv": ["sh", "-c", script]})
    fresh.submit("forever")
    wait_until("the command runs", lambda: lines(tmp_path / "pid"))
    wait_until("the function runs", lambda: len(fresh.call("GET", "/v1/jobs", status="active")) == 2)
    below = fresh.family()
    assert len(below) >= 4

    fresh.kill()

    wait_until("all are gone", lambda: not fresh.family(), 2.0)
    wait_until("they are buried, too", lambda: not [pid for pid in below if is_alive(pid)], 2.0)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stopped_guard_does_not_keep_its_command_alive_past_the_next_start(
    fresh: Any, tmp_path: Path, wait_until: Any
) -> None:
    """The next daemon ends what the guard could not, before the job runs again."""
    fresh.submit("shell", args={"argv": ["sh", "-c", f"echo $PPID $$ >> {tmp_path / 'pid'}; exec sleep 600"]})
    guard, command = map(int, wait_until("the command runs", lambda: lines(tmp_path / "pid"))[0].split())
    os.kill(guard, 19)
    fresh.kill()

    fresh.start()

    assert not is_alive(command)
    wait_until("it runs again", lambda: len(lines(tmp_path / "pid")) == 2)
    os.kill(guard, 18)


def test_three_failed_starts_end_in_safe_mode_that_can_be_asked(full: Any, wait_until: Any) -> None:
    """Three starts that failed by themselves: the fourth starts nobody of the user's, and says so."""
    made = full()
    (made.home / "boots.json").write_text('{"failed": 3}')
    made.process = made.spawn()
    health = wait_until("it has started", lambda: started(made), 20.0)

    assert health["health"] == "safe_mode"
    with pytest.raises(WireError):
        made.call("GET", "/readyz")
    made.close()


def started(daemon: Any) -> Any:
    try:
        health = daemon.call("GET", "/healthz")
    except WireError:
        return None
    return None if health["health"] == "starting" else health
