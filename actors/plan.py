"""Who may claim what: as many of each queue as its limits and the workers' room allow, queues taking turns."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from actors.company import Company
from actors.limits import bucket_of, effective
from actors.rates import Bucket
from actors.seats import Seat, Seats, pool_of
from actors.tally import Tally
from runtime.store.port import JobRow, QueueRow
from schemas.jobs import Lane

UNLIMITED = 1_000_000_000


class Share(NamedTuple):
    """What one claim may take: a job for each of *workers*, and with a rate no more tokens than these.

    arrived  how often jobs of the queue had become pending when this was planned
    rated    the queue has a rate, so what is left of it is to be kept
    """

    queue: str
    lane: Lane
    workers: tuple[str, ...]
    arrived: int
    rated: bool = False
    tokens: int | None = None
    full: bool = False


class Want(NamedTuple):
    """How many jobs of a queue may start by its own limits, whoever is there to run them."""

    queue: str
    lane: Lane
    pool: str
    most: int
    rated: bool = False
    tokens: int | None = None
    full: bool = False


class Room:
    """What is free while one plan is made: workers of each pool, and places under the cap of all together."""

    def __init__(self, seats: Seats, cap: int | None) -> None:
        self.idle = {pool: tuple(idle) for pool, idle in seats.idle.items() if idle}
        self.held: Counter[str] | None = None
        self._seats = seats
        self.left = UNLIMITED
        if cap is not None:
            self.held, at_work = seats.at_work()
            self.left = max(0, cap - at_work)

    def held_of(self, queue: str) -> int:
        """Return how many jobs of *queue* somebody holds."""
        if self.held is None:
            self.held, _ = self._seats.at_work()
        return self.held[queue]

    def take(self, pool: str, wanted: int, others: int) -> tuple[str, ...]:
        """Take workers of a pool, at most *wanted* and no more than leaves as many to each of *others* queues."""
        idle = self.idle.get(pool, ())
        count = max(0, min(wanted, self.left, -(-len(idle) // (1 + others))))
        taken, self.idle[pool] = idle[:count], idle[count:]
        self.left -= len(taken)
        return taken


class Planner:
    """Decides claims from what is in memory; it writes nothing and waits for nothing.

    pending, arrived  as `Tally` keeps them
    suspects  jobs that may have brought the daemon down, by id with their queue; resting: those that wait for anything
             but their turn
    coming   jobs that are added in the very commit of the claims: most of them are pending by then
    gated    (queue, lane) of which nothing could be claimed: not asked again until something of the queue moves
    look_at  when a queue that a rate or a provider holds back is worth another look, in milliseconds UTC
    """

    def __init__(self, house: Company, seats: Seats, tally: Tally, has_come_up: Callable[[str], bool]) -> None:
        self.house, self.seats, self._has_come_up = house, seats, has_come_up
        self.pending, self.arrived = tally.pending, tally.arrived
        self.coming: Counter[tuple[str, Lane]] = Counter()
        self.gated: set[tuple[str, Lane]] = set()
        self.rows: dict[str, QueueRow] = {}
        self.limits: dict[str, QueueRow] = {}
        self.buckets: dict[str, Bucket] = {}
        self.suspects: dict[str, str] = {}
        self.resting: set[str] = set()
        self.doubtful: set[str] = set()
        self.look_at: int | None = None
        self._pools: dict[tuple[str, Lane], str] = {}
        self._turn = 0

    def settings_changed(self) -> None:
        """Read the limits of the configuration anew."""
        self.limits.clear()
        self._pools.clear()
        self.gated.clear()
        now = self.house.clock.now()
        for name in list(self.buckets):
            self._renew_bucket(name, now)

    def row_changed(self, row: QueueRow) -> None:
        """A queue's row is another now."""
        old = self.limits.get(row.name)
        self.rows[row.name] = row
        self.limits.pop(row.name, None)
        self.open_gate(row.name)
        if old is not None and self.limit(row.name).rate != old.rate:
            self._renew_bucket(row.name, self.house.clock.now())

    def _renew_bucket(self, name: str, now: int) -> None:
        bucket, old = bucket_of(self.limit(name), now), self.buckets.pop(name, None)
        if bucket is not None:
            self.buckets[name] = old if old is not None and old.rate == bucket.rate else bucket

    def limit(self, queue: str) -> QueueRow:
        """Return the row of *queue* as it counts."""
        row = self.limits.get(queue)
        if row is None:
            row = effective(queue, self.house.loaded.settings, self.rows.get(queue))
            self.limits[queue] = row
        return row

    def bucket(self, queue: str, now: int) -> Bucket | None:
        """Return the bucket of *queue*, filled."""
        bucket = self.buckets.get(queue)
        if bucket is None:
            row = self.limit(queue)
            if row.rate is None:
                return None
            bucket = bucket_of(row, now)
            assert bucket is not None
            self.buckets[queue] = bucket
        bucket.fill(now)
        return bucket

    def open_gate(self, *queues: str) -> None:
        """Note that something of *queues* has moved: whoever waits in either lane of them may go on."""
        if self.gated:
            self.gated = {key for key in self.gated if key[0] not in queues}

    # -- the plan ----------------------------------------------------------------------------------------------------

    def expect(self, rows: Iterable[JobRow], now: int) -> None:
        """Reckon with jobs that are added by the next commit: one that somebody has room for starts with it."""
        self.coming = Counter(
            [(row.queue, row.lane) for row in rows if row.execute_after <= now and not row.depends_on]
        )

    def _waiting(self) -> list[tuple[str, Lane]]:
        keys = [key for key, count in self.pending.items() if count > 0]
        return keys + [key for key in self.coming if self.pending.get(key, 0) <= 0] if self.coming else keys

    def _count(self, queue: str, lane: Lane) -> int:
        return self.pending.get((queue, lane), 0) + self.coming[queue, lane]

    def plan(self, now: int, without: Collection[str] = ()) -> list[Share]:
        """Return the claims to make now, none of the queues *without*."""
        waiting = [key for key in self._waiting() if key not in self.gated]
        if not waiting:
            return []
        cut = self._turn % len(waiting)
        room = Room(self.seats, self.house.loaded.settings.runtime.max_active)
        alone = self._next_suspect()
        wanted = [
            want
            for queue, lane in waiting[cut:] + waiting[:cut]
            # Nothing else of the user's may run in the daemon beside a suspect, or the blame is a guess.
            if queue not in without and not (alone is not None and lane == "loop")
            if (want := self._wanted(queue, lane, now, room)).most > 0
        ]
        shares = self._shares(wanted, room, alone)
        self._turn += bool(shares)  # only what was handed out is a turn, else two looks a turn would favour one of two
        return shares

    def _shares(self, wanted: list[Want], room: Room, alone: str | None) -> list[Share]:
        """Deal out the room there is, to each queue of a pool as much as to the others."""
        others = Counter(want.pool for want in wanted)
        planned: dict[str, int] = {}  # both lanes of a queue share its limits
        shares: list[Share] = []
        for queue, lane, pool, most, rated, tokens, full in wanted:
            others[pool] -= 1
            if tokens is not None and queue in planned:
                continue  # the tokens are the other lane's, this once
            left = most - planned.get(queue, 0)
            if lane == "agent":
                workers = self._agent_room(queue, alone)[: max(0, left)]
            else:
                workers = room.take(pool, min(left, self._count(queue, lane)), others[pool])
            if workers:
                planned[queue] = planned.get(queue, 0) + len(workers)
                shares.append(Share(queue, lane, workers, self.arrived.get(queue, 0), rated, tokens, full))
        return shares

    def _pool(self, queue: str, lane: Lane) -> str:
        pool = self._pools.get((queue, lane))
        if pool is None:
            pool = queue if lane == "agent" else pool_of(queue, lane, self.house.loaded.settings.pools)
            self._pools[queue, lane] = pool
        return pool

    def _wanted(self, queue: str, lane: Lane, now: int, room: Room) -> Want:
        """Return how many jobs of *queue* may start now, and within which budget of tokens."""
        row = self.limits.get(queue) or self.limit(queue)
        pool = self._pool(queue, lane)
        if row.state == "paused":
            return Want(queue, lane, pool, 0)
        if row.blocked_until is not None and row.blocked_until > now:
            self._look(row.blocked_until)
            return Want(queue, lane, pool, 0)
        most = UNLIMITED if row.max_active is None else row.max_active - room.held_of(queue)
        if row.rate is None:
            return Want(queue, lane, pool, most)
        bucket = self.bucket(queue, now)
        assert bucket is not None
        starts = bucket.starts()
        if starts == 0:
            self._look(bucket.next_at(now))
        most = most if starts is None else min(most, starts)
        return Want(queue, lane, pool, most, True, bucket.budget(), bucket.is_full())

    def came_short(self, share: Share, now: int) -> None:
        """Note that a claim yielded less than it asked for: every conversation waits for its head, or the tokens that
        are left do not reach. It is not asked again until something of the queue moves, or there are more tokens.
        """
        if self.arrived.get(share.queue, 0) == share.arrived:
            self.gated.add((share.queue, share.lane))
            # What waits for anything but tokens moves when its turn comes; to look by the clock would be in vain.
            if share.tokens is not None and not self.buckets[share.queue].is_full():
                self._look(self.buckets[share.queue].next_at(now))

    def _look(self, at: int) -> None:
        if self.look_at is None or at < self.look_at:
            self.look_at = at

    # -- suspects ----------------------------------------------------------------------------------------------------

    def _next_suspect(self) -> str | None:
        """Return the queue whose suspect runs alone, now or next. One that cannot start at present holds up nobody."""
        for job, queue in self.suspects.items():
            if job in self.resting:
                continue
            seat = self.seats.get(queue)
            if seat is not None and job in seat.held:
                return queue
            waits = self.pending.get((queue, "agent"), 0) > 0 and (queue, "agent") not in self.gated
            if waits and self.limit(queue).state != "paused" and (seat is not None or self._has_come_up(queue)):
                return queue
        return None

    def _agent_room(self, queue: str, alone: str | None) -> tuple[str, ...]:
        seat = self.seats.get(queue)
        if seat is None or seat.name in self.doubtful:
            return ()
        room = min(seat.room, self._count(queue, "agent"))
        if alone is not None and seat.user_code:
            room = min(room, 1) if queue == alone and not self._user_code_runs() else 0
        return (seat.name,) * max(0, room)

    def _user_code_runs(self) -> bool:
        """Tell whether anything of the user's runs inside the daemon."""
        return any(seat.held and self._runs_user_code(seat) for seat in self.seats)

    def _runs_user_code(self, seat: Seat) -> bool:
        if seat.lane != "loop":
            return seat.user_code
        kinds = self.house.kinds
        found = [kinds.get(job.kind) for job in seat.held.values() if not job.suspect]  # suspects run in a child
        return any(kind is None or kind.user_code for kind in found)
