"""What is kept of queues beside their jobs: what a person has set, until when one is blocked, how full a bucket is."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from actors.entry import Entry
from actors.limits import changed, view_of
from actors.plan import Planner, Share
from runtime.core.actor import Promise
from runtime.errors import StoreError
from runtime.house import House
from runtime.store import port
from schemas.jobs import ChangeQueue

KEEP_LEVELS_EVERY: Final = 1000
"""Milliseconds between two writes of how full buckets are, where nothing is taken out of them."""


class Rows:
    """Rows of queues, and what of them has still to be written.

    What happened (a block, a level) counts at once and is written when it can be; what a person wishes counts once it
    is on the disk.
    """

    def __init__(self, house: House, planner: Planner, changed: Callable[[port.QueueRow], None]) -> None:
        self.house, self.planner, self._changed = house, planner, changed
        self.kept = planner.rows
        self._dirty: set[str] = set()
        self._wishes: list[tuple[ChangeQueue, Promise]] = []
        self._levels_at = 0

    def row(self, name: str) -> port.QueueRow:
        """Return what is kept of a queue."""
        return self.kept.get(name) or port.QueueRow(name)

    def wish(self, message: ChangeQueue, promise: Promise) -> None:
        """Note what a person wants changed."""
        self._wishes.append((message, promise))

    def wished(self) -> set[str]:
        """Return the queues that the next commit changes as a person wants: it starts nothing of them."""
        return {message.name for message, _ in self._wishes}

    def block(self, name: str, until: int) -> None:
        """Have nothing of a queue start before *until*: a provider asked for patience."""
        row = self.row(name)
        if row.blocked_until is None or row.blocked_until < until:
            self._set(replace(row, blocked_until=until))

    def clock_set_back(self, now: int, by: int) -> None:
        """Keep what is blocked from staying so for as long as the clock was set back."""
        for row in list(self.kept.values()):
            if row.blocked_until is not None and row.blocked_until > now + by:
                self._set(replace(row, blocked_until=row.blocked_until - by))

    def _set(self, row: port.QueueRow) -> None:
        self.kept[row.name] = row
        self._dirty.add(row.name)
        self._changed(row)

    # -- what is written ---------------------------------------------------------------------------------------------

    def entries(self, now: int, *, levels: bool) -> list[Entry]:
        """Return what is to be written now; with *levels* also how full the buckets are, where that is due."""
        if levels and self.planner.buckets and now - self._levels_at >= KEEP_LEVELS_EVERY:
            self._levels_at = now
            self._note_levels()
        wishes, self._wishes = self._wishes, []
        dirty, self._dirty = self._dirty, set()
        fresh = {name: self.row(name) for name in dirty}
        for message, _ in wishes:
            fresh[message.name] = changed(fresh.get(message.name) or self.row(message.name), message, now)
        promises: dict[str, list[Promise]] = {name: [] for name in fresh}
        for message, promise in wishes:
            promises[message.name].append(promise)
        return [
            Entry(
                port.PutQueue(row, now),
                partial(self._written, row, promises[name]),
                partial(self._not_written, name if name in dirty else None, promises[name]),
            )
            for name, row in fresh.items()
        ]

    def _note_levels(self) -> None:
        for name, bucket in self.planner.buckets.items():
            row = self.row(name)
            fresh = replace(row, requests_left=bucket.requests, tokens_left=bucket.tokens, filled_at=bucket.filled_at)
            if fresh != row:
                self.kept[name] = fresh
                self._dirty.add(name)

    def at_worst(self, share: Share, now: int) -> Entry:
        """Return the row of a queue with a rate as it is if a claim takes all it may. It is kept with the claim, so
        that after a crash in the next moment no more is started than the rate allows.
        """
        row, bucket = self.row(share.queue), self.planner.buckets[share.queue]
        row = replace(
            row,
            requests_left=bucket.requests - len(share.workers),
            tokens_left=bucket.tokens if share.tokens is None else min(0.0, bucket.tokens),
            filled_at=bucket.filled_at,
        )
        self.kept[share.queue] = row
        return Entry(port.PutQueue(row, now))

    def _written(self, row: port.QueueRow, promises: list[Promise], _: Any) -> None:
        if promises:
            self.kept[row.name] = row
            self._changed(row)
            view = view_of(self.planner.limit(row.name), self.house.counts.get(row.name, {}))
            for promise in promises:
                promise.resolve(view)

    def _not_written(self, dirty: str | None, promises: list[Promise], error: StoreError) -> None:
        if dirty is not None:
            self._dirty.add(dirty)
        for promise in promises:
            promise.fail(error)
