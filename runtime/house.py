"""What every part of one running daemon shares, and what it publishes for the control thread to read."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.attempt import Board
from runtime.clock import Clock
from runtime.config import Loaded
from runtime.errors import StoreError
from runtime.events import EventBus
from runtime.secrets import Redactor
from runtime.store.port import JobRow, Move, Store
from schemas.jobs import NewJob


@dataclass(slots=True, kw_only=True)
class House:
    """The parts of one running daemon.

    boot           random for each start: with a worker's name it is who owns an attempt
    loaded         the configuration in force; a reload replaces it
    prepare        makes the row of a submitted job, or refuses it (job, id, now)
    board          the attempts that run in this daemon
    counts         jobs by queue and status, kept by the queue actor
    workers        how many jobs each worker holds, kept by the queue actor
    repairs        how often each thing had to be put right since the start; nothing, where all is well
    on_moves       who is told by the store which jobs moved: the queue that lives now
    store_trouble  why the store refuses writes, None while it takes them
    unusable       why the store could not even be opened, where to try again cannot help
    draining       the daemon stops: nothing new is taken in and nothing more is started
    """

    boot: str
    home: Path
    store: Store
    bus: EventBus
    clock: Clock
    redactor: Redactor
    loaded: Loaded
    prepare: Callable[[NewJob, str, int], JobRow]
    board: Board = field(default_factory=Board)
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    started_at: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    repairs: dict[str, int] = field(default_factory=dict)
    on_moves: Callable[[Sequence[Move]], None] | None = None
    store_trouble: str | None = None
    unusable: StoreError | None = None
    draining: bool = False

    def troubles(self) -> list[str]:
        """Return what does not work although the configuration names it, a sentence each. Any thread may ask."""
        return []

    def count(self, queue: str, status: str, change: int) -> None:
        """Note that *change* more jobs of *queue* have *status*. Other threads only ever copy the result."""
        of_queue = self.counts.setdefault(queue, {})
        of_queue[status] = of_queue.get(status, 0) + change

    def moved(self, moves: Sequence[Move]) -> None:
        """Tell the queue which jobs moved."""
        if self.on_moves is not None:
            self.on_moves(moves)
