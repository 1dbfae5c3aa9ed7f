"""How many jobs stand where: kept from what the store tells, whoever moved them, and compared with the database."""

from collections.abc import Sequence
from typing import Final

from runtime.house import House
from runtime.store.port import Move
from schemas.jobs import ENDED, Lane, Status

TRIES: Final = 5
"""How often the database is counted anew because jobs moved while it was counted."""


class Tally:
    """The counts of the house, and what is pending of each queue and lane.

    arrived   how often jobs of a queue became pending: whether there is something new since an earlier look
    """

    def __init__(self, house: House) -> None:
        self.house = house
        self.pending: dict[tuple[str, Lane], int] = {}
        self.arrived: dict[str, int] = {}
        self._told = 0

    def take(self, moves: Sequence[Move]) -> tuple[bool, int | None]:
        """Count *moves*; return whether something became pending, and the earliest time at which one is due."""
        count, pending = self.house.count, self.pending
        due: int | None = None
        runnable = False
        self._told += 1
        for queue, lane, before, after, jobs, at in moves:
            if before is not None:
                count(queue, before, -jobs)
                if before == "pending":
                    pending[queue, lane] = pending.get((queue, lane), 0) - jobs
            if after is not None:
                count(queue, after, jobs)
                if after == "pending":
                    pending[queue, lane] = pending.get((queue, lane), 0) + jobs
                    self.arrived[queue] = self.arrived.get(queue, 0) + 1
                    runnable = True
            if at is not None and (due is None or at < due):
                due = at
        return runnable, due

    async def load(self) -> None:
        """Count everything anew. Raises StoreError."""
        found = await self._counted(ended=True)
        self.house.counts.clear()
        self.pending.clear()
        for (queue, lane, status), count in found[0].items():
            self.house.count(queue, status, count)
            if status == "pending":
                self.pending[queue, lane] = count

    async def compare(self) -> list[tuple[str, str, int]]:
        """Return by how much each count of living jobs differs from the database; nothing where it cannot be told
        because jobs move all the time. Raises StoreError.
        """
        found, quiet = await self._counted(ended=False)
        if not quiet:
            return []
        by = {(q, s): -n for q, of in self.house.counts.items() for s, n in of.items() if s not in ENDED}
        waiting = {(queue, f"pending in {lane}"): -n for (queue, lane), n in self.pending.items()}
        for (queue, lane, status), count in found.items():
            by[queue, status] = by.get((queue, status), 0) + count
            if status == "pending":
                key = (queue, f"pending in {lane}")
                waiting[key] = waiting.get(key, 0) + count
        return [(*key, n) for key, n in (by | waiting).items() if n]

    async def _counted(self, *, ended: bool) -> tuple[dict[tuple[str, Lane, Status], int], bool]:
        """Return what the database counts, and whether nothing moved meanwhile.

        What is read may be told of a moment later. A commit that comes after it is not: once it has returned,
        everything that was read has been told.
        """
        store = self.house.store
        tries = 0
        while True:
            told = self._told
            tries += 1
            found = await store.counts(ended=False)
            if ended:
                found |= await store.counts(ended=True)
            await store.commit([])
            if self._told == told or tries == TRIES:
                return found, self._told == told
