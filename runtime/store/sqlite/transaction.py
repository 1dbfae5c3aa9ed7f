"""What a change needs while it is applied: the connection, the next numbers, and what will be told afterwards."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, overload

from pydantic_core import PydanticSerializationError, to_json

from runtime.store.port import Move
from schemas.events import Event
from schemas.jobs import Lane, Status

EventRow: TypeAlias = tuple[int, str, str, dict[str, Any]]
"""An event before it has its offset: (at, type, subject, data)."""

KNOWN_JOBS: Final = 1_000
"""Of so many jobs it is remembered how many steps they have; then it is counted anew."""

MAX_EVENTS_A_ROW: Final = 1_000
"""A transaction with more events than this keeps them in several rows, so that reading a few of them stays cheap."""


def columns(count: int) -> str:
    """Return the SQL that takes the first *count* values out of each array that `json_each` yields."""
    return ", ".join(f"value ->> {number}" for number in range(count))


class Told(Sequence[Event]):
    """The events of one transaction; each is made when somebody looks at it, and mostly nobody does."""

    def __init__(self, first: int, rows: list[EventRow]) -> None:
        self._first = first
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        if isinstance(index, slice):
            return [self._event(n) for n in range(len(self._rows))[index]]
        return self._event(range(len(self._rows))[index])

    def __iter__(self) -> Iterator[Event]:
        return map(self._event, range(len(self._rows)))

    def _event(self, n: int) -> Event:
        at, kind, subject, data = self._rows[n]
        return Event.model_construct(offset=self._first + n, at=at, type=kind, subject=subject, data=data)


class Mark(NamedTuple):
    """Where numbers, events and moves stood, to go back there."""

    next_seq: int
    next_offset: int
    events: int
    moves: int


class Transaction:
    """One open transaction on the writer's thread. Numbers are handed out here, since there is only one writer.

    edges: whether there may be any edge in the store. While there is none, nobody who ends a job looks for one.
    steps: how many steps a job has at most, by its number, of those jobs whose steps were counted. What is rolled back
    makes it too high and never too low.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.sql = connection
        self.events: list[EventRow] = []
        self.moves: list[Move] = []
        self.next_seq = last_number(connection) + 1
        self.next_offset = last_offset(connection) + 1
        self.edges = bool(connection.execute("SELECT 1 FROM job_deps LIMIT 1").fetchall())
        self.steps: dict[int, int] = {}

    def begin(self) -> None:
        """Start anew after a commit."""
        self.events = []
        self.moves = []

    def mark(self) -> Mark:
        """Return where numbers, events and moves stand, for `back_to`."""
        return Mark(self.next_seq, self.next_offset, len(self.events), len(self.moves))

    def back_to(self, mark: Mark) -> None:
        """Take numbers, events and moves back with what was undone."""
        self.next_seq, self.next_offset, events, moves = mark
        del self.events[events:]
        del self.moves[moves:]

    def take_seq(self, count: int) -> int:
        """Reserve *count* job numbers; return the first."""
        first = self.next_seq
        self.next_seq += count
        return first

    def steps_counted(self, seq: int, count: int) -> int:
        """Remember that a job has so many steps; return how many."""
        if len(self.steps) >= KNOWN_JOBS:
            self.steps.clear()
        self.steps[seq] = count
        return count

    def step_added(self, seq: int) -> None:
        """Remember that a job may have one step more."""
        if seq in self.steps:
            self.steps[seq] += 1

    def tell(self, rows: Iterable[tuple[str, str, dict[str, Any]]], now: int) -> None:
        """Have events (type, subject, data) kept with the transaction and told after it."""
        self.events += [(now, kind, subject, data) for kind, subject, data in rows]

    def moved(
        self, queue: str, lane: Lane, before: Status | None, after: Status | None, jobs: int = 1, due: int | None = None
    ) -> None:
        """Have it told after the commit that so many jobs moved; see `port.Move`."""
        self.moves.append(Move(queue, lane, before, after, jobs, due))

    def keep_events(self) -> None:
        """Write the events of the whole transaction; called once, just before its COMMIT."""
        for start in range(0, len(self.events), MAX_EVENTS_A_ROW):
            rows = self.events[start : start + MAX_EVENTS_A_ROW]
            self.sql.execute(
                "INSERT INTO events (first, count, at, body) VALUES (?, ?, ?, ?)",
                (self.next_offset, len(rows), rows[-1][0], body_of(rows)),
            )
            self.next_offset += len(rows)

    def told(self) -> Told:
        """Return the events that were kept."""
        return Told(self.next_offset - len(self.events), self.events)

    def tally(self) -> list[Move]:
        """Return the moves of the whole transaction, those that are alike as one."""
        if len(self.moves) < 2:
            return self.moves
        found: dict[tuple[str, Lane, Status | None, Status | None], tuple[int, int | None]] = {}
        for queue, lane, before, after, jobs, due in self.moves:
            count, first = found.get((queue, lane, before, after), (0, None))
            earliest = due if first is None else first if due is None else min(first, due)
            found[queue, lane, before, after] = count + jobs, earliest
        return [Move(*place, *what) for place, what in found.items()]


def last_number(connection: sqlite3.Connection, table: str = "jobs") -> int:
    """Return the highest number *table* ever gave out."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) if row else 0


def last_offset(connection: sqlite3.Connection) -> int:
    """Return the offset of the newest event; 0 where there was none."""
    row = connection.execute("SELECT first + count - 1 FROM events ORDER BY first DESC LIMIT 1").fetchone()
    return int(row[0]) if row else 0


class Bulk:
    """A statement for many rows: *before*, then `VALUES (?, ...), ...`, then *after*.

    Of `executemany`, `json_each` and this, this costs least: no JSON is parsed, and sqlite3 takes and gives back
    Python's lock at every row it steps over, so that a statement a row waits for the event loop each time and a
    statement a batch once. There is a text for each power of two, so that few are ever prepared; the places that are
    left over are NULL, and the statement must do nothing for a row whose first value is NULL.

    shared: how many values (`?1`, `?2`, ...) the whole statement has beside its rows. The rows' columns are `column1`,
    `column2`, ...
    """

    MOST: Final = 256

    def __init__(self, width: int, before: str, after: str = "", *, shared: int = 0) -> None:
        self._width = width
        self._before = before
        self._after = after
        self._shared = shared
        self._texts: dict[int, str] = {}

    def run(self, sql: sqlite3.Connection, rows: list[Any], *shared: Any) -> int:
        """Run it for *rows*, whose values follow one another in one list; return how many rows it changed."""
        most = self.MOST * self._width
        if len(rows) <= most:
            return self._run(sql, rows, shared)
        return sum(self._run(sql, rows[start : start + most], shared) for start in range(0, len(rows), most))

    def _run(self, sql: sqlite3.Connection, rows: list[Any], shared: tuple[Any, ...]) -> int:
        if not rows:
            return 0
        size = 1 << (len(rows) // self._width - 1).bit_length()
        text = self._texts.get(size) or self._text(size)
        missing = size * self._width - len(rows)
        return sql.execute(text, [*shared, *rows, *[None] * missing] if missing else [*shared, *rows]).rowcount

    def _text(self, size: int) -> str:
        numbers = iter(range(self._shared + 1, self._shared + 1 + size * self._width))
        places = ", ".join(f"({', '.join(f'?{next(numbers)}' for _ in range(self._width))})" for _ in range(size))
        text = self._texts[size] = f"{self._before} (VALUES {places}) {self._after}"
        return text


def body_of(rows: list[EventRow]) -> str:
    """Return events as JSON text, whatever is in them: one that cannot be written must not fail its neighbours."""
    try:
        return to_json(rows).decode()  # takes a third of the time of the other
    except (PydanticSerializationError, ValueError):
        return compact(rows).encode("utf-8", "replace").decode()


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def compact(value: Any) -> str:
    """Return *value* as short JSON text."""
    return encode(value)
