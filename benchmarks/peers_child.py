"""One measurement of one peer, in a process of its own: `python -m benchmarks.peers_child huey enqueue 50 1000`.

Prints how many a second. The peers are set up to promise what we do, acknowledged means synced, and else as they come;
where they poll, they may poll a hundred times a second.
"""

import contextlib
import importlib
import logging
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

POLL = 0.01


def in_threads(threads: int, total: int, one: Callable[[int], Any]) -> float:
    """Run *one* *total* times from *threads* threads; return how many a second."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda n: n, range(threads)))  # the threads are there before the clock runs
        started = time.perf_counter()
        list(pool.map(one, range(total)))
        return total / (time.perf_counter() - started)


def wait_for(done: Callable[[], int], total: int) -> None:
    deadline = time.monotonic() + 300
    while done() < total:
        assert time.monotonic() < deadline, f"only {done()} of {total} jobs were done"
        time.sleep(0.002)


class Counter:
    """How often the no-op ran; safe from any thread."""

    def __init__(self) -> None:
        self.value = 0
        self.began = 0.0
        self._lock = threading.Lock()

    def up(self) -> int:
        with self._lock:
            if not self.value:
                self.began = time.perf_counter()
            self.value += 1
            return self.value


# -- huey --------------------------------------------------------------------------------------------------------------


def huey_of(folder: Path) -> tuple[Any, Any, Counter]:
    counter = Counter()
    library: Any = importlib.import_module("huey")
    huey = library.SqliteHuey(filename=str(folder / "huey.db"), fsync=True, timeout=60)

    def nothing(text: str) -> int:
        return counter.up()

    return huey, huey.task()(nothing), counter


def huey_enqueue(folder: Path, threads: int, total: int) -> float:
    huey, nothing, _ = huey_of(folder)
    rate = in_threads(threads, total, lambda _: nothing("hi"))
    assert huey.pending_count() == total
    return rate


def huey_process(folder: Path, workers: int, total: int) -> float:
    huey, nothing, counter = huey_of(folder)
    for _ in range(total):
        nothing("hi")
    consumer = huey.create_consumer(
        workers=workers, periodic=False, initial_delay=POLL, max_delay=POLL, check_worker_health=False
    )
    started = time.perf_counter()
    consumer.start()
    wait_for(lambda: counter.value, total)
    wait_for(huey.result_count, total)
    rate = total / (time.perf_counter() - started)
    consumer.stop(graceful=True)
    assert counter.value == total
    return rate


# -- DBOS --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def dbos_of(folder: Path) -> Iterator[tuple[Any, Any, Counter]]:
    counter = Counter()
    dbos: Any = importlib.import_module("dbos").DBOS
    url = f"sqlite:///{folder / 'dbos.db'}"
    dbos(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})

    def nothing(text: str) -> int:
        return counter.up()

    workflow = dbos.workflow()(nothing)
    dbos.launch()
    try:
        yield dbos, workflow, counter
    finally:
        dbos.destroy()


def dbos_enqueue(folder: Path, threads: int, total: int) -> float:
    with dbos_of(folder) as (dbos, nothing, _):
        rate = in_threads(threads, total, lambda _: dbos.enqueue_workflow("later", nothing, "hi"))
        assert counted(folder, "ENQUEUED") == total
        return rate


def dbos_process(folder: Path, workers: int, total: int) -> float:
    with dbos_of(folder) as (dbos, nothing, counter):
        for _ in range(total):
            dbos.enqueue_workflow("now", nothing, "hi")
        dbos.register_queue("now", worker_concurrency=workers, polling_interval_sec=POLL)
        wait_for(lambda: counter.value, total)
        wait_for(lambda: counted(folder, "SUCCESS"), total)
        rate = total / (time.perf_counter() - counter.began)  # it takes a second to notice a new queue
        assert counter.value == total
        return rate


def counted(folder: Path, status: str) -> int:
    with contextlib.closing(sqlite3.connect(folder / "dbos.db", timeout=60)) as sql:
        return int(sql.execute("SELECT count(*) FROM workflow_status WHERE status = ?", (status,)).fetchone()[0])


MEASURES: dict[tuple[str, str], Callable[[Path, int, int], float]] = {
    ("huey", "enqueue"): huey_enqueue,
    ("huey", "process"): huey_process,
    ("dbos", "enqueue"): dbos_enqueue,
    ("dbos", "process"): dbos_process,
}


def main() -> None:
    """Measure what the arguments say: a peer, enqueue or process, how many at once, how many in all."""
    peer, what, at_once, total = sys.argv[1:]
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        print(MEASURES[peer, what](Path(name), int(at_once), int(total)))


if __name__ == "__main__":
    main()
