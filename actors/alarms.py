"""When the queue is to look again: at what comes due in the database, and at queues that a rate or a provider holds."""

from collections.abc import Callable
from typing import Any, Final

from actors.entry import Entry
from runtime.core.deadlines import Timer
from runtime.house import House
from runtime.store import port
from schemas.base import Message

LONGEST: Final = 60.0
"""Seconds after which the wall clock is looked at in any case: it may have been set."""
IN_VAIN: Final = 1.0
"""Seconds until what is due and could not be moved is looked at again."""


class Tick(Message, type="queue.tick"):
    """Something is due: `what` says which."""

    what: str


class Alarms:
    """One alarm for all that comes due, and one for what is held back for a while.

    next_due  when something of the database is due, in milliseconds UTC; None: nothing is
    asks      whether it has to be asked of the database, because what was due has been moved
    """

    def __init__(self, house: House, after: Callable[[float, Message], Timer]) -> None:
        self.house, self._after = house, after
        self.next_due: int | None = None
        self.asks = False
        self._moved = 0
        self._due: Timer | None = None
        self._look: Timer | None = None
        self._look_at = 0

    def heard(self, due: int | None) -> None:
        """Note that something comes due."""
        if due is not None and (self.next_due is None or due < self.next_due):
            self.next_due = due
            self.arm()

    def arm(self, overdue: float = 0.0) -> None:
        """Set the alarm for what is due next; for what is due already, *overdue* seconds from now."""
        if self.next_due is not None:
            wait = (self.next_due - self.house.clock.now()) / 1000
            wait = wait if wait > 0 else overdue
            if self._due is not None:
                self._due.cancel()
            self._due = self._after(min(wait, LONGEST), Tick(what="due"))

    def look_at(self, at: int) -> None:
        """Set the alarm for another look at what is held back; an earlier one stays, for it is somebody else's."""
        if self._look is not None and not self._look.over:
            if self._look_at <= at:
                return
            self._look.cancel()
        self._look_at = at
        wait = max(1, at - self.house.clock.now()) / 1000
        self._look = self._after(min(wait, LONGEST), Tick(what="look"))

    async def ask(self) -> None:
        """Ask the database what is due next. Raises StoreError."""
        old, self.next_due = self.next_due, None  # what is told from now on may be too late for the answer
        try:
            found = await self.house.store.next_due()
        except BaseException:  # no alarm is set for what is overdue: it would ring at once, and again
            if old is not None and (self.next_due is None or old < self.next_due):
                self.next_due = old
            raise
        self.asks = False
        if found is not None and (self.next_due is None or found < self.next_due):
            self.next_due = found
        self.arm(0.0 if self._moved else IN_VAIN)
        self._moved = 0

    def entries(self, now: int, again: Callable[[Any], None]) -> list[Entry]:
        """Return the changes that move what is due now; *again* is called where they fail."""
        if self.next_due is None or self.next_due > now:
            self.arm()
            return []
        self.asks = True
        return [
            Entry(port.PromoteDue(now), self._promoted, again),
            Entry(port.ExpireJobs(now), self._ended),
        ]

    def _promoted(self, found: tuple[Any, ...]) -> None:
        self._moved += len(found)

    def _ended(self, count: int) -> None:
        self._moved += count
