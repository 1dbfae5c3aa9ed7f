"""The keeper opens and closes the store, writes down what happens to actors, and forgets what has been kept enough."""

import json
from collections.abc import Iterator
from typing import Final

import anyio

from actors.company import Company
from runtime import log
from runtime.core.actor import Actor, handles
from runtime.errors import StoreError
from runtime.store import port
from schemas.base import Message
from schemas.config import RetentionSettings, Settings
from schemas.jobs import Status
from schemas.system import Happened

PRUNE_EVERY: Final = 300.0
KEEP_EVENTS: Final = 200_000

SWEEP_AFTER: Final = 10.0
"""Seconds after the start before the first sweep: what was left over at the last end has the disk for itself."""
SWEEP_EVERY: Final = 60.0
CHUNK: Final = 500
"""Jobs that one transaction forgets: the writer is held for some milliseconds."""
PAUSE: Final = 0.05
"""Seconds between two chunks or slices, in which everybody else may write."""
SLICE: Final = 200
"""Pages of the database given back at a time."""
SPARE_PAGES: Final = 2_000
"""Free pages (8 MiB) that are left for what is written next; giving them back would only have them taken again."""
LOG_BYTES: Final = 256 * 1024 * 1024
"""A write-ahead log larger than this is told of: something keeps it from being folded in."""

logger = log.get(__name__)


class Prune(Message, type="keeper.prune"):
    """It is time to forget the oldest events."""


class Sweep(Message, type="keeper.sweep"):
    """It is time to forget jobs that ended long ago."""


class Keeper(Actor):
    """First to come and last to go: while it stands, the store is open."""

    def __init__(self, house: Company) -> None:
        self.house = house
        self.noted: list[Happened] = []
        self.log_is_large = False

    async def on_start(self) -> None:
        try:
            await self.house.store.open()
        except StoreError as error:
            if error.error_class != "permanent":
                raise
            self.house.unusable = error  # nobody can do anything here, and a person is told in a few lines
            self.ctx.system.stop(now=True)
            await anyio.sleep_forever()
        self.house.store.listen(self.house.bus.publish)
        self.house.store.watch(self.house.moved)
        self.ctx.after(PRUNE_EVERY, Prune())
        self.ctx.after(SWEEP_AFTER, Sweep())

    async def on_stop(self, reason: str) -> None:
        await self.after_batch()
        await self.house.store.close()

    @handles
    def happened(self, message: Happened) -> None:
        self.noted.append(message)

    @handles
    async def prune(self, message: Prune) -> None:
        self.ctx.after(PRUNE_EVERY, message)
        try:
            await self.house.store.commit([port.PruneEvents(KEEP_EVENTS)])
        except StoreError as error:  # it can wait; to fall over it would take everybody down
            logger.warning("events_not_pruned", reason=error.detail)

    @handles
    def sweep(self, message: Sweep) -> None:
        self.ctx.start(self._sweep, name="sweep")  # beside the handlers: it takes its time

    async def _sweep(self) -> None:
        """Forget ended jobs, then give free pages back, chunk by chunk, until there is nothing left to do."""
        try:
            forgotten = await self._forget()
            await self._tidy()
            if forgotten:
                logger.info("jobs_forgotten", jobs=forgotten)
        except StoreError as error:  # it can wait for a minute
            logger.warning("not_swept", reason=error.detail)
        self.ctx.after(SWEEP_EVERY, Sweep())

    async def _forget(self) -> int:
        forgotten = 0
        for change in deletions(self.house.loaded.settings, self.house.clock.now()):
            found = CHUNK
            while found == CHUNK:
                (found,) = await self.house.store.commit([change])
                forgotten += found
                await anyio.sleep(PAUSE)
        return forgotten

    async def _tidy(self) -> None:
        tidied = await self.house.store.tidy(SLICE)
        while tidied.freed and tidied.free > SPARE_PAGES:
            await anyio.sleep(PAUSE)
            tidied = await self.house.store.tidy(SLICE)
        was_large, self.log_is_large = self.log_is_large, tidied.wal_bytes > LOG_BYTES
        if self.log_is_large and not was_large:
            logger.warning("write_ahead_log_is_large", mebibytes=tidied.wal_bytes // 2**20)

    async def after_batch(self) -> None:
        """Write down what was noted; a store that refuses loses these lines of history and nothing else."""
        noted, self.noted = self.noted, []
        if not noted:
            return
        now = self.house.clock.now()
        changes: list[port.Change] = [
            port.AppendEvents(tuple((n.kind, n.subject, json.dumps(n.data, default=str)) for n in noted), now)
        ]
        for one in noted:
            state = OBSERVED.get(one.kind)
            if state is not None and one.subject.startswith("agent:"):
                name = one.subject.removeprefix("agent:")
                changes.append(port.PutAgent(name, "running", state, one.data.get("reason"), now))
        try:
            await self.house.store.commit(changes)
        except StoreError as error:
            logger.warning("history_not_written", events=len(noted), reason=error.detail)


OBSERVED: Final = {
    "actor.started": "running",
    "actor.stopped": "stopped",
    "actor.crashed": "failed",
    "actor.quarantined": "quarantined",
}


def deletions(settings: Settings, now: int) -> Iterator[port.DeleteEnded]:
    """Give what may be forgotten by *settings*: for each queue that says so itself, then for all others."""
    own = {name: queue.retention for name, queue in settings.queues.items() if queue.retention is not None}
    for name, retention in own.items():
        yield from _of(retention, name, (), now)
    yield from _of(settings.retention, None, tuple(own), now)


def _of(
    retention: RetentionSettings, queue: str | None, without: tuple[str, ...], now: int
) -> Iterator[port.DeleteEnded]:
    rules: tuple[tuple[Status, int, int | None], ...] = (
        ("completed", retention.completed, retention.completed_max),
        ("cancelled", retention.completed, retention.completed_max),
        ("failed", retention.failed, retention.failed_max),
    )
    for status, age, keep in rules:
        yield port.DeleteEnded(status, queue, now - age, keep, CHUNK, without)
