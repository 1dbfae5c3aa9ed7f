"""What holds a queue back: what a person has set goes before the configuration, and both are kept apart."""

import json
from dataclasses import replace
from typing import Any

from actors.rates import Bucket
from runtime.store.port import QueueRow
from schemas.config import Settings
from schemas.jobs import ChangeQueue, QueueView, Rate


def effective(name: str, settings: Settings, kept: QueueRow | None) -> QueueRow:
    """Return the row of a queue as it counts: the kept one, with the configuration where no person has set anything."""
    row = kept or QueueRow(name)
    config = settings.queues.get(name)
    more: dict[str, Any] = {}
    if "state" not in row.set_by_hand:
        paused = config is not None and config.paused
        more |= {"state": "paused" if paused else "running", "by": "config" if paused else None, "since": None}
    if "max_active" not in row.set_by_hand:
        more["max_active"] = None if config is None else config.max_active
    if "rate" not in row.set_by_hand:
        rate = None if config is None or config.rate is None else config.rate.rate()
        more["rate"] = None if rate is None else rate.model_dump_json()
    return replace(row, **more)


def changed(row: QueueRow, change: ChangeQueue, now: int) -> QueueRow:
    """Return the kept row of a queue after a person's change."""
    more: dict[str, Any] = {}
    if change.state is not None:
        more |= {"state": change.state, "by": change.by, "since": now}
    if change.max_active is not None:
        more["max_active"] = change.max_active or None
    if change.rate is not None:
        none = change.rate.requests is None and change.rate.tokens is None
        more |= {"rate": None if none else change.rate.model_dump_json(), "requests_left": None, "tokens_left": None}
    by_hand = {*row.set_by_hand, *(more.keys() & {"state", "max_active", "rate"})}
    return replace(row, **more, set_by_hand=tuple(sorted(by_hand)))


def rate_of(row: QueueRow) -> Rate | None:
    """Return the rate of a row."""
    return None if row.rate is None else Rate.model_validate_json(row.rate)


def bucket_of(row: QueueRow, now: int) -> Bucket | None:
    """Return the bucket of a row as it was left, filled up to *now*."""
    rate = rate_of(row)
    if rate is None:
        return None
    bucket = Bucket.full(rate, now)
    if row.filled_at is not None:
        bucket = Bucket(
            rate,
            min(bucket.requests, bucket.requests if row.requests_left is None else row.requests_left),
            min(bucket.tokens, bucket.tokens if row.tokens_left is None else row.tokens_left),
            min(row.filled_at, now),
        )
        bucket.fill(now)
    return bucket


def view_of(row: QueueRow, counts: dict[str, int]) -> QueueView:
    """Return a queue as it is shown; *row* is the effective one."""
    return QueueView(
        name=row.name,
        state=row.state,
        by=row.by,
        since=row.since,
        max_active=row.max_active,
        rate=None if row.rate is None else Rate(**json.loads(row.rate)),
        blocked_until=row.blocked_until,
        counts={status: count for status, count in counts.items() if count},
    )
