"""One heap of deadlines for the whole system: asks, timers, backoffs and stop bounds all wait here."""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Protocol


class Due(Protocol):
    """What can be put under a deadline."""

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more, so that the heap may forget it."""
        ...

    def due(self) -> None:
        """The deadline has passed."""
        ...


class Deadlines:
    """Calls `due()` on what was added, in order of time. Ended entries are dropped once they are the larger half."""

    __slots__ = ("_armed", "_dead", "_heap", "_order", "_time", "_wake_at")

    def __init__(self, time: Callable[[], float], wake_at: Callable[[float], None]) -> None:
        self._time = time
        self._wake_at = wake_at
        self._heap: list[tuple[float, int, Due]] = []
        self._order = count().__next__
        self._armed = math.inf
        self._dead = 0

    def add(self, when: float, item: Due) -> None:
        """Put *item* under the deadline *when*, in the loop's monotonic seconds."""
        heapq.heappush(self._heap, (when, self._order(), item))
        if when < self._armed:
            self._armed = when
            self._wake_at(when)

    def forget(self) -> None:
        """Count one entry as ended; it stays in the heap until sweeping out pays."""
        self._dead += 1
        if self._dead > 64 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if not entry[2].over]
            heapq.heapify(self._heap)
            self._dead = 0

    def sweep(self) -> None:
        """Call everything that is due, then ask to be woken for the next."""
        self._armed = -math.inf  # what is added by those called below is covered by the arming at the end
        now = self._time()
        try:
            while self._heap and self._heap[0][0] <= now:
                item = heapq.heappop(self._heap)[2]
                if not item.over:
                    item.due()
        finally:
            self._arm()  # whatever happened: no other deadline may be lost for it

    def _arm(self) -> None:
        while self._heap and self._heap[0][2].over:
            heapq.heappop(self._heap)
        self._armed = self._heap[0][0] if self._heap else math.inf
        if self._heap:
            self._wake_at(self._armed)

    def __len__(self) -> int:
        return len(self._heap)


class Timer:
    """Something that will be done later, unless it is cancelled first."""

    __slots__ = ("_deadlines", "_do")

    def __init__(self, deadlines: Deadlines, when: float, do: Callable[[], object]) -> None:
        self._deadlines = deadlines
        self._do: Callable[[], object] | None = do
        deadlines.add(when, self)

    @property
    def over(self) -> bool:
        """Whether it has fired or was cancelled."""
        return self._do is None

    def cancel(self) -> None:
        """Call it off; a second call, or one after it fired, changes nothing."""
        if self._do is not None:
            self._do = None
            self._deadlines.forget()

    def due(self) -> None:
        """Fire."""
        do, self._do = self._do, None
        if do is not None:
            do()
