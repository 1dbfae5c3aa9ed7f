"""Answers that are given again: by the hash of the whole request, for a time, within bounds."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from runtime.clock import Clock
from schemas.chat import (
    ChatPart,
    ChatRequest,
    Embedded,
    EmbedRequest,
    NativePart,
    ReasoningPart,
    TextPart,
    ToolCallPart,
)

MAX_ENTRIES: Final = 1024
MAX_BYTES: Final = 32 * 1024 * 1024
"""What one cache holds at most; what was not asked for the longest goes first."""

LARGEST: Final = MAX_BYTES // 8
"""An answer larger than this is not kept, so that one cannot drive out all others."""

PART_BYTES: Final = 400
FLOAT_BYTES: Final = 32
"""What a part, and a number of a vector, take in memory beside their text."""

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    size: int
    until: float


class Cache(Generic[V]):
    """Values by key for *ttl* seconds, at most *max_entries* and *max_bytes*; a *ttl* of 0 keeps nothing."""

    def __init__(self, ttl: float, clock: Clock, *, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._ttl, self._clock, self._max_entries, self._max_bytes = ttl, clock, max_entries, max_bytes
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        self.bytes = 0
        self.hits = 0

    @property
    def on(self) -> bool:
        """Whether it keeps anything at all."""
        return self._ttl > 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str | None) -> V | None:
        """Return what is kept under *key*, unless its time is over; None is the key of nothing."""
        entry = None if key is None else self._entries.get(key)
        if entry is None or key is None:
            return None
        if self._clock.monotonic() >= entry.until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        self.hits += 1
        return entry.value

    def put(self, key: str | None, value: V, size: int) -> None:
        """Keep *value*, about *size* bytes, under *key*; what is older makes room. Too large a value is not kept."""
        if key is None or not self.on or size > self._max_bytes:
            return
        if key in self._entries:
            self._remove(key)
        self._entries[key] = _Entry(value, size, self._clock.monotonic() + self._ttl)
        self.bytes += size
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0

    def _remove(self, key: str) -> None:
        self.bytes -= self._entries.pop(key).size


def key_of(request: ChatRequest | EmbedRequest) -> str | None:
    """Return the SHA-256 of *request* as canonical JSON with its kind; None for one that JSON cannot say."""
    try:
        body = json.dumps(
            [type(request).__name__, request.model_dump()], sort_keys=True, separators=(",", ":"), allow_nan=False
        )
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(body.encode()).hexdigest()


def size_of(value: ChatPart | Embedded) -> int:
    """Return about how many bytes *value* takes in memory."""
    if isinstance(value, Embedded):
        return PART_BYTES + FLOAT_BYTES * sum(len(vector) for vector in value.vectors)
    if isinstance(value, TextPart | ReasoningPart):
        return PART_BYTES + len(value.text.encode(errors="replace"))
    if isinstance(value, ToolCallPart):
        return PART_BYTES + len(value.call.arguments.encode(errors="replace"))
    if isinstance(value, NativePart):
        return PART_BYTES + len(value.native.body)
    return PART_BYTES
