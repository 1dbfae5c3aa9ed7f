"""Work that outlives the daemon: dependencies, steps, signals, schedules, queues and retention over kill -9."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.store.port import PutSchedule
from runtime.store.sqlite.store import SqliteStore

pytestmark = pytest.mark.daemon

WORK = '''
import os
import signal
import time
from pathlib import Path

import anyio


def note(path, line):
    with Path(path).open("a") as file:
        file.write(line + "\\n")
        file.flush()
        os.fsync(file.fileno())
    return line


def steps(path, ctx):
    """Two steps, and a wait for a file between them."""
    note(path, f"run {os.getpid()}")
    one = ctx.step("one", note, path, "one")
    note(path, "between")
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    return [one, ctx.step("two", note, path, "two")]


async def steps_inside(path, ctx):
    """The same in the daemon's own loop."""
    note(path, f"run {os.getpid()}")
    one = await ctx.step("one", note, path, "one")
    note(path, "between")
    while not Path(path + ".go").exists():
        await anyio.sleep(0.01)
    return [one, await ctx.step("two", note, path, "two")]


def cut_off(path, ctx):
    """The process dies within its step, the first time."""
    def body(key):
        note(path, key)
        if not Path(path + ".go").exists():
            Path(path + ".go").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return key

    return ctx.step("pay", body, ctx.step_key("pay"))


def patient(path, ctx):
    note(path, f"run {os.getpid()}")
    return [ctx.wait_signal("go"), ctx.wait_signal("go")]


def sleeper(path, ctx):
    note(path, f"run {os.getpid()}")
    ctx.sleep(2, name="nap")
    return "awake"


def family(path, ctx):
    note(path, f"run {os.getpid()}")
    for part in ("x", "y"):
        ctx.submit("held", {"path": path, "word": part}, name=part)
    return sorted(child.result for child in ctx.wait_children())


def held(path, word):
    note(path, word)
    while not Path(path + ".go").exists():
        time.sleep(0.01)
    return word


def frozen(path, ctx):
    """The first attempt stops itself, as on a machine that hangs; a later one goes through."""
    note(path, f"run {os.getpid()}")
    if ctx.epoch == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        note(path, "woken")
    return ctx.epoch
'''

CONFIG = """
[kinds.steps]
run = "work:steps"

[kinds.steps_inside]
run = "work:steps_inside"
in_loop = true

[kinds.cut_off]
run = "work:cut_off"
retry = { base = "20ms" }

[kinds.patient]
run = "work:patient"

[kinds.sleeper]
run = "work:sleeper"

[kinds.family]
run = "work:family"

[kinds.held]
run = "work:held"

[kinds.frozen]
run = "work:frozen"
"""

SCHEDULE = """
[schedules.often]
cron = "* * * * *"
kind = "echo"
catchup = "all"
overlap = "allow"

[schedules.latest]
cron = "* * * * *"
kind = "echo"
catchup = "one"

[schedules.forgetful]
cron = "* * * * *"
kind = "echo"
catchup = "skip"
"""

MINUTE = 60_000


@pytest.fixture
def make(full: Any) -> Iterator[Callable[[str], Any]]:
    """Make a started daemon of the test's own, with more of a configuration."""
    made: list[Any] = []

    def build(more: str = "", runtime: str = "") -> Any:
        one = full(CONFIG + more)
        one.write(one.file.read_text().replace("[runtime]\n", f"[runtime]\n{runtime}\n", 1), work=WORK)
        made.append(one)
        one.start()
        return one

    yield build
    for one in made:
        one.close()


@pytest.fixture
def fresh(make: Any) -> Any:
    """A started daemon of the test's own."""
    return make()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def kill_and_start(daemon: Any) -> None:
    daemon.kill()
    daemon.start()


# -- dependencies ------------------------------------------------------------------------------------------------------


def test_a_job_waits_for_others_over_a_kill(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    path = tmp_path / "held"
    first = fresh.submit("held", args={"path": str(path), "word": "first"})
    wait_until("it runs", lambda: lines(path))
    done = fresh.cli("jobs", "submit", "echo", "--arg", "n=1", "--after", first)
    assert done.returncode == 0, done.stderr
    second = done.stdout.split()[-1]
    third = fresh.cli("jobs", "submit", "echo", "--arg", "n=2", "--after", f"{second}:run").stdout.split()[-1]

    kill_and_start(fresh)

    assert [fresh.job(job)["reason"] for job in (second, third)] == ["deps", "deps"]
    assert first in fresh.cli("why", second).stdout
    Path(f"{path}.go").touch()
    assert fresh.ended(third)["result"] == {"n": 2}
    started = {event["subject"]: event["offset"] for event in fresh.events("job.started")}
    ended = {event["subject"]: event["offset"] for event in fresh.events("job.completed")}
    assert ended[first] < started[second] < ended[second] < started[third]


def test_a_failed_parent_cancels_holds_or_lets_go(fresh: Any) -> None:
    parent = fresh.submit("hopeless", delay_ms=300)
    cancelled, held, run = (
        fresh.submit("echo", depends_on=[{"job": parent, "on_failure": policy}]) for policy in ("cancel", "hold", "run")
    )

    assert fresh.ended(run)["status"] == "completed"
    view = fresh.ended(cancelled)
    assert (view["status"], view["reason"]) == ("cancelled", "dependency")
    assert fresh.job(held)["status"] == "waiting"
    assert fresh.cli("jobs", "resume", held).returncode == 0
    assert fresh.ended(held)["status"] == "completed"


# -- steps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["steps", "steps_inside"])
def test_a_recorded_step_does_not_run_again_after_a_kill(
    fresh: Any, tmp_path: Path, wait_until: Any, kind: str
) -> None:
    path = tmp_path / "steps"
    job = fresh.submit(kind, args={"path": str(path)})
    for run in (1, 2, 3):
        wait_until("it is between its steps", lambda run=run: Counter(lines(path))["between"] == run)
        kill_and_start(fresh)
    Path(f"{path}.go").touch()

    view = fresh.ended(job)

    assert (view["status"], view["result"]) == ("completed", ["one", "two"])
    assert Counter(lines(path))["one"] == Counter(lines(path))["two"] == 1
    assert [(step["name"], step["state"]) for step in view["steps"]] == [("one", "done"), ("two", "done")]


def test_a_step_that_was_cut_off_runs_again_with_the_same_key(fresh: Any, tmp_path: Path) -> None:
    path = tmp_path / "pay"

    view = fresh.run("cut_off", args={"path": str(path)})

    assert (view["status"], view["crashes"]) == ("completed", 1)
    assert lines(path) == [f"{view['id']}/pay"] * 2


# -- waits -------------------------------------------------------------------------------------------------------------


def test_signals_are_kept_over_a_kill(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    job = fresh.submit("patient", args={"path": str(tmp_path / "patient")})
    wait_until("it waits", lambda: fresh.job(job)["reason"] == "signal")

    kill_and_start(fresh)
    assert fresh.job(job)["reason"] == "signal"
    assert fresh.cli("jobs", "signal", job, "go", "--payload", '"one"').returncode == 0
    fresh.kill()
    fresh.start()
    assert fresh.cli("jobs", "signal", job, "go", "--payload", '"two"').returncode == 0

    view = fresh.ended(job)
    assert (view["result"], view["attempts"]) == (["one", "two"], 1)


def test_a_sleep_ends_when_it_was_to_over_a_kill(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    path = tmp_path / "sleeper"
    job = fresh.submit("sleeper", args={"path": str(path)})
    wait_until("it sleeps", lambda: fresh.job(job)["reason"] == "snooze")
    due = fresh.job(job)["execute_after"]

    kill_and_start(fresh)

    view = fresh.ended(job)
    assert (view["result"], view["attempts"], len(lines(path))) == ("awake", 1, 2)
    assert due <= view["finished_at"] < due + 3000


def test_parts_of_a_job_are_added_once_over_a_kill(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    path = tmp_path / "family"
    job = fresh.submit("family", args={"path": str(path)})
    wait_until("its parts run", lambda: {"x", "y"} <= set(lines(path)))

    kill_and_start(fresh)
    Path(f"{path}.go").touch()

    assert fresh.ended(job)["result"] == ["x", "y"]
    parts = fresh.call("GET", "/v1/jobs", parent=job)
    assert sorted(part["status"] for part in parts) == ["completed", "completed"]


# -- schedules ---------------------------------------------------------------------------------------------------------


async def wind_back(path: Path, minutes: int) -> int:
    """Have every schedule of a stopped daemon be late; return the time of the last tick that was dealt with."""
    store = SqliteStore(path)
    await store.open()
    late = 0
    for row in await store.schedules():
        late = row.high_mark // MINUTE * MINUTE - minutes * MINUTE
        await store.commit([PutSchedule(replace(row, high_mark=late, next_at=late + MINUTE))])
    await store.close()
    return late


def test_ticks_that_were_missed_are_made_up_for_once_over_kills(make: Any, wait_until: Any) -> None:
    daemon = make(SCHEDULE)
    assert daemon.stop() == 0
    late = asyncio.run(wind_back(daemon.database, 30))

    daemon.start()
    for _ in range(2):
        kill_and_start(daemon)

    def fired(name: str) -> list[int]:
        return [e["data"]["fire_at"] for e in daemon.events("schedule.fired") if e["subject"] == name]

    wait_until("all are made up for", lambda: len(fired("often")) >= 30)
    ticks = fired("often")
    assert ticks == [late + MINUTE * n for n in range(1, len(ticks) + 1)]
    assert 1 <= len(fired("latest")) <= 3, "the latest tick, and what came meanwhile"
    assert len(fired("forgetful")) <= 2, "only what came meanwhile"
    jobs = [e["data"]["job"] for e in daemon.events("schedule.fired")]
    assert len(set(jobs)) == len(jobs)
    assert {daemon.ended(job)["status"] for job in jobs} == {"completed"}


# -- queues, retention -------------------------------------------------------------------------------------------------


def test_a_paused_queue_stays_paused_over_a_kill(fresh: Any) -> None:
    assert fresh.cli("queues", "pause", "default").returncode == 0
    job = fresh.submit("echo", args={"n": 1})

    kill_and_start(fresh)

    other = fresh.submit("echo", args={"n": 2})
    assert "paused" in fresh.cli("why", job).stdout
    assert [fresh.job(one)["status"] for one in (job, other)] == ["pending", "pending"]
    assert fresh.cli("queues", "resume", "default").returncode == 0
    assert [fresh.ended(one)["status"] for one in (job, other)] == ["completed", "completed"]


def test_what_ended_long_ago_is_forgotten_unless_it_is_needed(make: Any, wait_until: Any) -> None:
    daemon = make("\n[retention]\ncompleted_max = 3\n")
    kept = daemon.submit("echo", args={"n": 0}, tags=["keep"])
    parent = daemon.submit("echo", args={"n": 0})
    waits = daemon.submit("echo", depends_on=[{"job": parent}], delay_ms=600_000)
    jobs = [daemon.submit("echo", args={"n": n}) for n in range(20)]
    daemon.ended(jobs[-1])

    def left() -> set[str]:
        return {job["id"] for job in daemon.call("GET", "/v1/jobs", limit=100)}

    wait_until("the first are forgotten", lambda: len(left()) <= 7, 30.0)
    assert {kept, waits, jobs[-1]} <= left()
    assert jobs[0] not in left()


# -- blame -------------------------------------------------------------------------------------------------------------


def test_neighbours_of_a_child_that_kills_itself_notice_nothing(fresh: Any, tmp_path: Path) -> None:
    bad = fresh.submit("suicide", args={"path": str(tmp_path / "bad")})
    good = [fresh.submit("add", args={"a": n, "b": 1}) for n in range(6)]

    for n, job in enumerate(good):
        view = fresh.ended(job)
        assert (view["result"], view["attempts"], view["crashes"]) == (n + 1, 1, 0)
    view = fresh.ended(bad)
    assert (view["status"], view["reason"], view["crashes"]) == ("failed", "poison", 3)
    assert fresh.process.poll() is None


def test_innocents_of_every_lane_live_through_a_storm_of_kills(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    gate = tmp_path / "gate"
    child = fresh.submit("held", args={"path": str(gate), "word": "child"})
    loop = fresh.submit("pause", args={"path": str(gate)})
    script = f"echo shell >> {gate}; while ! test -e {gate}.go; do sleep 0.02; done"
    shell = fresh.submit("shell", args={"argv": ["sh", "-c", script]})
    for run in range(1, 6):
        wait_until("all run", lambda run=run: all(count >= run for count in seen(gate)))
        kill_and_start(fresh)
    Path(f"{gate}.go").touch()

    for job in (child, loop, shell):
        view = fresh.ended(job)
        assert (view["status"], view["crashes"], view["attempts"]) == ("completed", 0, 1)


def seen(gate: Path) -> tuple[int, int, int]:
    """How often the child, the shell and the job in the loop, which writes a pid, have begun."""
    counts = Counter("pid" if line.isdigit() else line for line in lines(gate))
    return counts["child"], counts["shell"], counts["pid"]


def test_the_death_of_a_worker_process_is_noticed_at_once(fresh: Any, tmp_path: Path, wait_until: Any) -> None:
    path = tmp_path / "held"
    job = fresh.submit("steps", args={"path": str(path)}, retry={"base_ms": 0})
    pid = int(wait_until("it runs", lambda: lines(path))[0].split()[1])
    wait_until("it is between its steps", lambda: "between" in lines(path))

    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until("it runs again", lambda: len({line for line in lines(path) if line.startswith("run")}) == 2, 3.0)
    noticed = time.monotonic() - began

    assert noticed < 1.0
    Path(f"{path}.go").touch()
    assert (fresh.ended(job)["status"], fresh.job(job)["crashes"]) == ("completed", 1)


def test_a_process_that_hangs_past_its_lease_can_change_nothing_any_more(
    make: Any, tmp_path: Path, wait_until: Any
) -> None:
    daemon = make(runtime='lease = "1s"\nheartbeat = "200ms"')
    path = tmp_path / "frozen"
    job = daemon.submit("frozen", args={"path": str(path)})
    pid = int(wait_until("it runs", lambda: lines(path))[0].split()[1])

    view = daemon.ended(job)
    before = daemon.call("GET", f"/v1/jobs/{job}")
    if Path(f"/proc/{pid}").exists():
        os.kill(pid, signal.SIGCONT)
    wait_until("the first process is gone", lambda: not Path(f"/proc/{pid}").exists(), 10.0)

    assert (view["status"], view["result"], view["attempts"]) == ("completed", 2, 2)
    assert daemon.call("GET", f"/v1/jobs/{job}") == before
    assert [event["type"] for event in daemon.events("job.*") if event["subject"] == job].count("job.completed") == 1
