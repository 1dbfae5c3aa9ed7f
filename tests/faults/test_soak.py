"""Mixed work for a long time: memory, open files and the write-ahead log do not grow.

Slopes are measured by the median of the slopes between all pairs of samples after a warm-up (Theil and Sen), so that a
burst, a checkpoint or a slow second of the machine does not count.
"""

import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import psutil
import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon

MEBIBYTE = 1024 * 1024
WAL_LIMIT = 64 * MEBIBYTE
"""What the product lets its write-ahead log keep on the disk."""

CONFIG = """
[retention]
completed_max = 500
failed_max = 100

[queues.narrow]
max_active = 1

[kinds.pay]
run = "work:pay"
in_loop = true

[kinds.oops]
run = "work:oops"
in_loop = true
max_attempts = 2
retry = { base = "20ms" }

[kinds.child]
run = "work:child"
"""

WORK = """
async def pay(n, ctx):
    for step in ("one", "two"):
        await ctx.step(step, str, n)
    ctx.log(f"paid {n}")
    ctx.progress({"n": n})
    await ctx.submit("echo", {"n": n}, name="receipt")
    return n


async def oops():
    raise ValueError("broken on purpose")


def child(n):
    print("x" * 1000)
    return n
"""


SMALL_CACHE = """
import sys

if "actors" in sys.orig_argv:
    from runtime.store.sqlite import store

    wanted = store.wanted_pragmas
    store.wanted_pragmas = lambda *args, **more: wanted(*args, **more) | {"cache_size": -1000}
"""
"""SQLite's cache of pages fills up to its 64 MiB for the first half hour or so; it is kept small here, so that whatever
else grows is seen."""


class Sample(NamedTuple):
    """How large the daemon is at a moment, in seconds, bytes and open files."""

    at: float
    resident: int
    files: int
    log: int


def slope(points: list[tuple[float, float]]) -> float:
    """Return the growth a second that the middle of all pairs shows."""
    return statistics.median((b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2) if t > s)


def test_the_slope_does_not_heed_a_burst() -> None:
    chance = random.Random(1)
    flat = [(float(t), 100 + chance.random()) for t in range(100)]
    burst = [(t, value + (500 if 40 <= t < 50 else 0)) for t, value in flat]
    leak = [(t, value + t * 0.1) for t, value in burst]

    assert abs(slope(burst)) < 0.01
    assert slope(leak) == pytest.approx(0.1, abs=0.01)


class Load:
    """Some clients, each with a little of everything, one after the other."""

    def __init__(self, daemon: Any, clients: int, pause: float) -> None:
        self.daemon, self.pause = daemon, pause
        self.over = threading.Event()
        self.failures: list[BaseException] = []
        self.submitted = 0
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: int) -> None:
        chance = random.Random(client)
        last = self.daemon.submit("echo")
        try:
            while not self.over.is_set():
                last = self._deed(chance.choice(list(self._deeds(chance.randrange(1000), last)))) or last
                self.submitted += 1
                self.over.wait(self.pause)
        except (AssertionError, WireError, OSError) as error:
            self.failures.append(error)

    def _deed(self, deed: Callable[[], Any]) -> str | None:
        try:
            found = deed()
        except WireError as error:
            if error.code not in ("job.not_found", "job.unknown_parent"):  # retention was quicker
                raise
            return None
        return found if isinstance(found, str) else None

    def _deeds(self, n: int, last: str) -> Iterator[Callable[[], Any]]:
        submit, call = self.daemon.submit, self.daemon.call
        yield lambda: submit("echo", args={"n": n})
        yield lambda: submit("echo", args={"text": "x" * 5000}, priority=n % 1000)
        yield lambda: submit("echo", args={"n": n}, delay_ms=500)
        yield lambda: submit("echo", args={"n": n}, queue="narrow", limit_key=f"key-{n % 3}")
        yield lambda: submit("echo", args={"n": n}, depends_on=[{"job": last, "on_failure": "run"}])
        yield lambda: submit("pay", args={"n": n})
        yield lambda: submit("oops")
        yield lambda: submit("child", args={"n": n}) if n % 5 == 0 else None
        yield lambda: call("POST", f"/v1/jobs/{submit('echo', delay_ms=60_000)}/cancel", {})
        yield lambda: call("GET", f"/v1/jobs/{last}")
        yield lambda: call("GET", "/v1/jobs", limit=20)
        yield lambda: call("GET", "/v1/status")


def measured(daemon: Any, seconds: float, every: float, load: Load) -> list[Sample]:
    """Return samples of a daemon at work."""
    process = psutil.Process(daemon.pid)
    wal = daemon.database.with_name(f"{daemon.database.name}-wal")
    samples: list[Sample] = []
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds and not load.failures:
        size = wal.stat().st_size if wal.exists() else 0
        samples.append(Sample(now, process.memory_info().rss, process.num_fds(), size))
        load.over.wait(every)
    return samples


@pytest.fixture
def worked(new_daemon: Callable[..., Any], base: str) -> Any:
    """A started daemon that has done each kind of work once."""
    made = new_daemon(base + CONFIG, modules={"work": WORK, "sitecustomize": SMALL_CACHE})
    made.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(made.folder), os.environ.get("PYTHONPATH"))))
    made.start()
    for kind in ("pay", "child"):
        assert made.run(kind, args={"n": 1})["status"] == "completed"
    return made


def judge(daemon: Any, samples: list[Sample], bytes_an_hour: float) -> str:
    """Assert that nothing grows after the warm-up; return the figures in words."""
    kept = samples[len(samples) // 4 :]
    resident = slope([(sample.at, sample.resident) for sample in kept]) * 3600
    files = slope([(sample.at, sample.files) for sample in kept]) * 3600
    log = max(sample.log for sample in samples)
    told = (
        f"resident {samples[-1].resident / MEBIBYTE:.1f} MiB, {resident / MEBIBYTE:+.2f} MiB an hour;"
        f" {samples[-1].files} open files, {files:+.2f} an hour; write-ahead log at most {log / MEBIBYTE:.1f} MiB"
    )
    assert resident < bytes_an_hour, told
    assert abs(files) < 5, told
    assert log <= WAL_LIMIT, told
    status = daemon.call("GET", "/v1/status")
    assert status["health"] == "ok", status
    assert not any(status.get("repairs", {}).values()), status
    return told


def test_a_short_while_of_mixed_work_leaves_nothing_open(worked: Any) -> None:
    """Too short to tell of memory; what leaks with every job or request shows all the same."""
    with Load(worked, clients=2, pause=0.0) as load:
        samples = measured(worked, 8.0, 0.15, load)
    assert not load.failures, load.failures
    assert load.submitted > 200

    kept = samples[len(samples) // 3 :]
    grown = statistics.median(s.resident for s in kept[-10:]) - statistics.median(s.resident for s in kept[:10])

    assert grown < 16 * MEBIBYTE, f"{grown / MEBIBYTE:.1f} MiB in {load.submitted} deeds"
    assert abs(slope([(s.at, s.files) for s in kept])) < 0.5
    assert max(s.log for s in samples) <= WAL_LIMIT


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_long_mixed_work_is_flat(worked: Any, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = 60 * pytestconfig.getoption("--soak-minutes")
    with Load(worked, clients=4, pause=0.05) as load:
        samples = measured(worked, seconds, max(1.0, seconds / 500), load)
    assert not load.failures, load.failures

    told = judge(worked, samples, bytes_an_hour=4 * MEBIBYTE if seconds >= 3600 else 3600 / seconds * 4 * MEBIBYTE)

    with capsys.disabled():
        print(f"\n{load.submitted} deeds in {seconds / 60:.0f} minutes: {told}")  # noqa: T201  # the measured figures
