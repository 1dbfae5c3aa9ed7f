"""What a change needs while it is applied: the connection, the next numbers, and the events that will be told."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, overload

from schemas.events import Event

EventRow: TypeAlias = tuple[int, int, str, str, dict[str, Any]]


def columns(count: int) -> str:
    """Return the SQL that takes the first *count* values out of each array that `json_each` yields."""
    return ", ".join(f"value ->> {number}" for number in range(count))


INSERT_EVENTS: Final = (
    f"""INSERT INTO events ("offset", at, type, subject, data) SELECT {columns(5)} FROM json_each(?)"""
)


class Told(Sequence[Event]):
    """The events of one transaction; each is made when somebody looks at it, and mostly nobody does."""

    def __init__(self, rows: list[EventRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | list[Event]:
        return [event_of(row) for row in self._rows[index]] if isinstance(index, slice) else event_of(self._rows[index])

    def __iter__(self) -> Iterator[Event]:
        return map(event_of, self._rows)


def event_of(row: EventRow) -> Event:
    offset, at, kind, subject, data = row
    return Event.model_construct(offset=offset, at=at, type=kind, subject=subject, data=data)


class Transaction:
    """One open transaction on the writer's thread. Numbers are handed out here, since there is only one writer."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.sql = connection
        self.events: list[EventRow] = []
        self.next_seq = last_number(connection, "jobs") + 1
        self.next_offset = last_number(connection, "events") + 1

    def begin(self) -> None:
        """Start anew after a commit."""
        self.events = []

    def mark(self) -> tuple[int, int, int]:
        """Return where numbers and events stand, for `back_to`."""
        return self.next_seq, self.next_offset, len(self.events)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Take numbers and events back with the savepoint that was undone."""
        self.next_seq, self.next_offset, count = mark
        del self.events[count:]

    def take_seq(self, count: int) -> int:
        """Reserve *count* job numbers; return the first."""
        first = self.next_seq
        self.next_seq += count
        return first

    def tell(self, rows: list[tuple[str, str, dict[str, Any]]], now: int) -> None:
        """Keep events (type, subject, data) and have them told after the commit."""
        if not rows:
            return
        numbered = [(offset, now, *row) for offset, row in enumerate(rows, self.next_offset)]
        self.next_offset += len(rows)
        self.events += numbered
        self.sql.execute(INSERT_EVENTS, (compact(numbered),))


def last_number(connection: sqlite3.Connection, table: str) -> int:
    """Return the highest number *table* ever gave out."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    return int(row[0]) if row else 0


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def compact(value: Any) -> str:
    """Return *value* as short JSON text."""
    return encode(value)
