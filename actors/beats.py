"""Heartbeats and leases: who lives, which attempts were heard of, and what a jump of the clock means for them."""

import json
import math
from typing import Any, Final

from actors.company import Company
from actors.entry import Entry
from actors.seats import Seats
from runtime import log
from runtime.errors import StoreError
from runtime.store import port
from schemas.agents import WorkerStatus
from schemas.jobs import Fence

logger = log.get(__name__)

JUMP_MS: Final = 5_000
"""Wall and monotonic time that drift apart by more than this have been moved, or the machine slept."""


class Beats:
    """What is known of processes that run attempts, and of the workers' rows.

    An attempt in the loop lives as long as this loop runs. One in a process of its own has to be heard of, else its
    lease is left to run out.
    """

    def __init__(self, house: Company, seats: Seats) -> None:
        self.house, self.seats = house, seats
        self.begun: dict[int, int] = {}
        """The attempts in processes: seq and epoch."""
        self._heard: set[int] = set()
        self._drift = self._beat_at = 0.0

    def begin(self) -> None:
        """Take the clocks as they are."""
        self._beat_at = self.house.clock.monotonic()
        self._drift = self.house.clock.now() - self._beat_at * 1000

    # -- what is heard -----------------------------------------------------------------------------------------------

    def started(self, lease: Fence) -> None:
        """Note that an attempt has a process of its own."""
        self.begun[lease.seq] = lease.epoch
        self._heard.add(lease.seq)

    def heard(self, lease: Fence) -> None:
        """Note that the process of an attempt lives."""
        self._heard.add(lease.seq)

    def over(self, lease: Fence) -> None:
        """Forget an attempt."""
        if self.begun.get(lease.seq) == lease.epoch:
            del self.begun[lease.seq]

    # -- what is written ---------------------------------------------------------------------------------------------

    def jump(self, now: int) -> int:
        """Return by how many milliseconds the wall clock has gone another way than time since the last beat; 0 where
        that is nothing to speak of.
        """
        drift = now - self.house.clock.monotonic() * 1000
        jumped, self._drift = drift - self._drift, drift
        return round(jumped) if abs(jumped) > JUMP_MS else 0

    def entries(self, now: int, *, jumped: bool) -> list[Entry]:
        """Return the beat: leases renewed, then what is beyond its lease taken back.

        After a jump of the clock, and where this loop itself was held up for longer than a beat, nobody can have been
        heard: all leases are renewed first, and what is silent then is found by the next beat. A machine that slept
        must not lose what it runs to its own past.
        """
        runtime = self.house.loaded.settings.runtime
        monotonic = self.house.clock.monotonic()
        late = (monotonic - self._beat_at) * 1000 > runtime.heartbeat + min(JUMP_MS, runtime.lease / 4)
        self._beat_at = monotonic
        silent = () if jumped or late else tuple([seq for seq in self.begun if seq not in self._heard])
        heard, self._heard = self._heard, set()
        beats: tuple[tuple[str, WorkerStatus], ...] = tuple(
            [(seat.name, "busy" if seat.held else "idle") for seat in self.seats]
        )
        beat = port.Heartbeat(beats, self.house.boot, now, now + runtime.lease, silent)

        def failed(_: StoreError) -> None:  # who was heard has still to be told of, and time has gone by for all
            self._heard.update(heard)
            self._beat_at = -math.inf

        found = [Entry(beat, failed=failed)]
        if silent:
            found.append(Entry(port.ExpireLeases(self.house.boot, now), self._expired))
        return found

    def _expired(self, found: tuple[port.Lost, ...]) -> None:
        """End what lost its lease; it holds its worker until it has really ended, and nothing it says counts."""
        for lost in found:
            lease = lost.lease
            logger.warning("lease_expired", job=lease.id, worker=lease.worker, epoch=lease.epoch)
            self.over(lease)
            self.house.board.lose(lease.id, lease.epoch)

    def rows(self, now: int) -> Entry:
        """Return the change that writes down all workers, those that are away at present among them."""
        here = [self._row(seat, "busy" if seat.held else "idle", now) for seat in self.seats]
        away = [self._row(seat, status, at) for seat, status, at in self.seats.away.values()]
        return Entry(port.PutWorkers((*here, *away), self.house.boot, now))

    def _row(self, seat: Any, status: WorkerStatus, seen: int) -> port.WorkerRow:
        return port.WorkerRow(
            id=seat.name,
            agent=seat.queue.removeprefix("agent:") if seat.queue else None,
            lane=seat.lane,
            status=status,
            boot=self.house.boot,
            pid=self.house.pid,
            created_at=seat.since,
            last_heartbeat_at=seen,
            host=self.house.host,
            capabilities=json.dumps({"pool": seat.pool, "serves": seat.serves, "draining": seat.leaving}),
        )
