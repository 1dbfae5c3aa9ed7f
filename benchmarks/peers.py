"""Two durable queues that need no server either, in the same run: huey and DBOS, on SQLite with every commit synced.

`make peers` installs them into a folder of their own (`.venv/peers`), so that nothing else ever imports them; without
that folder this room says so and measures nothing. `limit` is the peer here. The bar is to be as quick, but for one
thing at a time beside huey: there it follows from our bars beside the bare baseline, which is as quick as huey.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import durable
from benchmarks.row import Row

FOLDER = Path(sys.prefix) / "peers"


class Round(NamedTuple):
    """Something to measure: how many at once, how many jobs for us, huey and DBOS, and our bar beside huey."""

    what: str
    at_once: int
    ours: int
    huey: int
    dbos: int
    bar: float


ROUNDS = (
    Round("enqueue", 1, 400, 400, 200, 0.67),
    Round("enqueue", 50, 5000, 1000, 200, 1.0),
    Round("process", 1, 500, 500, 60, 0.8),
    Round("process", 10, 4000, 2000, 200, 1.0),
    Round("process", 50, 5000, 2000, 400, 1.0),
)
OURS = {"enqueue": durable.enqueue, "process": durable.process}
NAMES = {"enqueue": "enqueue, {} at once", "process": "no-op jobs, concurrency {}"}


def peer(name: str, what: str, at_once: int, total: int) -> float:
    """Return how many a second a peer does, in a process of its own."""
    argv = [sys.executable, "-m", "benchmarks.peers_child", name, what, str(at_once), str(total)]
    done = subprocess.run(
        argv, env=os.environ | {"PYTHONPATH": str(FOLDER)}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{name} failed: {done.stderr[-2000:]}"
    return float(done.stdout.split()[-1])


def measure(quick: bool) -> Iterator[Row]:
    """Measure ours and each peer, one after the other."""
    if not (FOLDER / ".ready").exists():
        print("peers: not installed, so not measured; `make peers` does both", file=sys.stderr, flush=True)
        return
    scale = 1 if quick else 4
    for one in ROUNDS:
        ours, _ = asyncio.run(OURS[one.what](one.at_once, one.ours * scale))
        for name, total, bar in (("huey", one.huey, one.bar), ("dbos", one.dbos, 1.0)):
            theirs = peer(name, one.what, one.at_once, total * scale)
            yield Row(f"peers: {NAMES[one.what].format(one.at_once)}, beside {name}", ours, theirs, bar)
