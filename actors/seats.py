"""Who works: a seat for each worker, with what it holds, and who of each pool has room."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Final

from runtime.core.ref import Ref
from schemas.agents import WorkerStatus
from schemas.config import PoolSettings
from schemas.jobs import Claimed, Lane, WorkerReady

GENERAL: Final[tuple[Lane, ...]] = ("loop", "child")
"""The pools that are always there, each named like its lane; they serve every queue that no other pool is kept for."""


class Seat:
    """A worker as the queue sees it: how many jobs it may hold and which it holds.

    leaving  it is given nothing more: it has gone, it is drained, or its pool has become smaller
    status   how it stands once it has gone
    """

    __slots__ = (
        *("held", "incarnation", "lane", "leaving", "name", "number", "pool", "queue", "ref", "serves"),
        *("since", "slots", "status", "user_code"),
    )

    def __init__(self, ready: WorkerReady, ref: Ref, number: int, now: int) -> None:
        self.name, self.lane, self.queue = ready.worker, ready.lane, ready.queue
        self.pool = ready.pool or ready.lane
        self.serves = ready.serves
        self.slots, self.user_code, self.incarnation = ready.slots, ready.user_code, ready.incarnation
        self.ref, self.number, self.since = ref, number, now
        self.leaving = False
        self.status: WorkerStatus = "offline"
        self.held: dict[str, Claimed] = {}

    @property
    def room(self) -> int:
        return 0 if self.leaving else self.slots - len(self.held)


class Seats:
    """All seats by name, and those of each pool that hold nothing, the longest idle first.

    away       seats whose worker has gone and may come back: how it stands (offline, error), and since when
    drained    workers that a person takes out of service; their next incarnation stays out of it
    dismissed  workers of which their pool has too many: each is stopped for good as soon as it holds nothing
    """

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._given = 0
        self.idle: dict[str, deque[str]] = {lane: deque() for lane in GENERAL}
        self.drained: set[str] = set()
        self.dismissed: set[str] = set()
        self.away: dict[str, tuple[Seat, WorkerStatus, int]] = {}
        self.get = self._seats.get

    def __iter__(self) -> Iterator[Seat]:
        return iter(self._seats.values())

    def take(self, ready: WorkerReady, ref: Ref, now: int) -> Seat:
        """Give a worker that has come up its seat."""
        self._given += 1
        self.away.pop(ready.worker, None)
        seat = self._seats[ready.worker] = Seat(ready, ref, self._given, now)
        seat.leaving = seat.name in self.drained or seat.name in self.dismissed
        if seat.lane != "agent" and not seat.leaving:
            self.idle.setdefault(seat.pool, deque()).append(seat.name)
        return seat

    def give_nothing_more(self, seat: Seat) -> None:
        """Hand no more jobs to a worker; what it holds it may end."""
        seat.leaving = True
        idle = self.idle.get(seat.pool)
        if seat.lane != "agent" and idle is not None and seat.name in idle:
            idle.remove(seat.name)

    def give_again(self, seat: Seat) -> None:
        """Hand jobs to a worker again."""
        seat.leaving = False
        if seat.lane != "agent" and not seat.held and seat.name not in self.idle[seat.pool]:
            self.idle[seat.pool].append(seat.name)

    def remove(self, name: str) -> Seat | None:
        """Take a seat away with all it holds."""
        seat = self._seats.pop(name, None)
        if seat is not None:
            self.give_nothing_more(seat)
        return seat

    def forget(self, name: str) -> None:
        """Know nothing more of a worker whose seat was removed: another may have its name one day."""
        self.away.pop(name, None)
        self.drained.discard(name)
        self.dismissed.discard(name)

    def hold(self, seat: Seat, job: Claimed) -> None:
        """Note that a worker holds a job now."""
        seat.held[job.id] = job
        if seat.lane != "agent" and not seat.leaving:  # who leaves while a claim is written is not idle any more
            self.idle[seat.pool].remove(seat.name)

    def release(self, seat: Seat, job: Claimed) -> None:
        """Note that a worker has room again."""
        del seat.held[job.id]
        if seat.lane != "agent" and not seat.leaving:
            self.idle[seat.pool].append(seat.name)

    def at_work(self) -> tuple[Counter[str], int]:
        """Return how many jobs of each queue are held, and how many of all but agents' are."""
        of_queue: Counter[str] = Counter()
        in_pools = 0
        for seat in self._seats.values():
            for job in seat.held.values():
                of_queue[job.queue] += 1
                in_pools += seat.lane != "agent"
        return of_queue, in_pools


def pool_of(queue: str, lane: Lane, pools: Mapping[str, PoolSettings]) -> str:
    """Return the pool whose workers run jobs of *queue* in *lane*: one that is kept for it, else the general one."""
    for name, pool in pools.items():
        if pool.lane == lane and queue in pool.queues:
            return name
    return lane
