"""Messages that nobody will handle: a bounded record with the reason of each."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

DeadReason = Literal["stopped", "mailbox_full", "expired", "late_reply", "unhandled_type", "quarantined", "cancelled"]
KEPT = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message or a reply that reached nobody. `at` is wall time in milliseconds."""

    reason: DeadReason
    type: str
    to: str
    sender: str | None
    at: int
    detail: str = ""


class DeadLetters:
    """The latest 1,000 dead letters, oldest first, and how many of each reason there ever were."""

    def __init__(self) -> None:
        self._letters: deque[DeadLetter] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()

    def add(self, letter: DeadLetter) -> None:
        """Record one; the oldest gives way when 1,000 are kept."""
        self._letters.append(letter)
        self.counts[letter.reason] += 1

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(list(self._letters))

    def __len__(self) -> int:
        return len(self._letters)
