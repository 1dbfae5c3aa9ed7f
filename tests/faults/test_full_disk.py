"""A disk without room: refused and said so, reads go on, and the same daemon recovers when there is room again."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon

BIG = "x" * 100_000


def refusal(daemon: Any, tries: int = 200) -> WireError:
    """Submit until it is refused, first large jobs and then small ones: what the write-ahead log has room for is still
    taken, and as long as that is anything at all the daemon is well again within a second."""
    refused: WireError | None = None
    for text in (BIG, ""):
        refused = first_refusal(daemon, text, tries)
    assert refused is not None
    return refused


def first_refusal(daemon: Any, text: str, tries: int) -> WireError:
    for n in range(tries):
        try:
            daemon.submit("echo", args={"text": text}, key=f"{len(text)}-{n}", delay_ms=3_600_000)
        except WireError as error:
            return error
    raise AssertionError("it was never refused")


def fill_up(path: Path) -> None:
    """Write until there is no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 65536):
                pass
        except OSError:
            return


@pytest.fixture
def cramped(tracing: Any, small_disk: Path) -> Iterator[Any]:
    """A started daemon whose home is on the small disk."""
    tracing.home = small_disk
    tracing.start()
    yield tracing
    tracing.close()


def test_a_full_disk_refuses_and_the_same_daemon_recovers(
    cramped: Any, small_disk: Path, tmp_path: Path, wait_until: Any
) -> None:
    go = tmp_path / "go"
    argv = ["sh", "-c", f"while ! test -e {go}; do sleep 0.05; done; echo went on"]
    running = cramped.submit("shell", args={"argv": argv})
    wait_until("it runs", lambda: cramped.job(running)["status"] == "active")
    kept = cramped.run("echo", args={"n": 1})["id"]
    fill_up(small_disk / "filler")

    error = refusal(cramped)

    assert (error.code, error.problem["status"], error.problem["retryable"]) == ("store.full", 507, True)
    assert cramped.job(kept)["status"] == "completed"
    assert cramped.events("job.completed")
    assert cramped.call("GET", "/readyz")["health"] == "degraded"
    assert "no space" in cramped.cli("status").stdout
    go.touch()
    pid = cramped.pid

    (small_disk / "filler").unlink()

    job = cramped.ended(running)
    assert (job["status"], job["attempts"], job["result"]["stdout"]) == ("completed", 1, "went on\n")
    wait_until("it is well again", lambda: cramped.call("GET", "/readyz")["health"] == "ok", 5.0)
    assert cramped.run("echo", args={"n": 2})["status"] == "completed"
    assert cramped.call("GET", "/v1/hello")["pid"] == pid


def test_actors_that_cannot_save_refuse_and_are_not_parked(
    cramped: Any, small_disk: Path, wait_until: Callable[..., Any]
) -> None:
    assert cramped.ask("counter", "demo.add", n=1) == 1
    fill_up(small_disk / "filler")
    refusal(cramped)

    for _ in range(10):
        with pytest.raises(WireError) as told:
            cramped.ask("counter", "demo.add", n=1, note=BIG)
        assert told.value.code in ("store.full", "actor.stopped"), told.value.problem

    assert cramped.agent("counter")["state"] != "quarantined"
    (small_disk / "filler").unlink()
    wait_until("it is well again", lambda: cramped.call("GET", "/readyz")["health"] == "ok", 5.0)
    wait_until("it is up", lambda: cramped.agent("counter")["state"] == "running", 5.0)
    assert cramped.ask("counter", "demo.add", n=1) == 2


def test_a_durable_message_survives_a_full_disk(
    cramped: Any, small_disk: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    message = {"agent": "counter", "type": "demo.save", "message": {"n": 5, "note": BIG}}
    job = cramped.submit("agent.message", args=message, delay_ms=1500)
    fill_up(small_disk / "filler")
    refusal(cramped)
    wait_until("it is due", lambda: cramped.job(job)["execute_after"] < now_of(cramped), 5.0)

    (small_disk / "filler").unlink()

    assert cramped.ended(job, 30)["result"] == 5
    assert cramped.ask("counter", "demo.add", n=0) == 5


def now_of(daemon: Any) -> int:
    status = daemon.call("GET", "/v1/status")
    return int(daemon.call("GET", "/v1/hello")["started_at"] + status["uptime"] * 1000)


def test_a_file_that_may_not_grow_is_refused_and_recovered_from(tracing: Any, wait_until: Any) -> None:
    """What a quota does; this works without the right to mount."""
    tracing.start()
    size = max(path.stat().st_size for path in tracing.home.iterdir()) + 300_000
    resource.prlimit(tracing.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    error = refusal(tracing)

    assert error.problem["retryable"] is True
    assert tracing.call("GET", "/readyz")["health"] == "degraded"
    resource.prlimit(tracing.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until("it is well again", lambda: tracing.call("GET", "/readyz")["health"] == "ok", 5.0)
    assert tracing.run("echo", args={"n": 2})["status"] == "completed"
    assert os.getpgid(tracing.pid)


def test_a_home_that_was_full_at_the_start_is_refused_in_words(tracing: Any, small_disk: Path) -> None:
    tracing.home = small_disk
    fill_up(small_disk / "filler")
    process = tracing.spawn()

    assert process.wait(20) not in (0, None)
    last = [line for line in tracing.log().splitlines() if "root_exhausted" in line]
    assert "no space left" in last[0]
    assert not [line for line in tracing.log().splitlines() if line.startswith(("Traceback", "  File"))]


def test_a_daemon_on_a_full_disk_stops_in_order(cramped: Any, small_disk: Path) -> None:
    kept = cramped.run("echo", args={"n": 1})["id"]
    fill_up(small_disk / "filler")
    refusal(cramped)

    assert cramped.stop() == 0

    (small_disk / "filler").unlink()
    cramped.start()
    assert cramped.job(kept)["status"] == "completed"
