"""When a schedule is due: cron text in a time zone, across the two nights a year in which clocks are changed."""

import difflib
import re
import zoneinfo
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Final

from cronsim import CronSim, CronSimError

from runtime.errors import ScheduleInvalid

MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS: Final = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31, L for the last day or LW for the last weekday",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 or SUN to SAT, 5L for the last Friday, MON#1 for the first Monday",
}
EXAMPLE: Final = '"30 3 * * *" is half past three at night, "*/5 * * * *" every five minutes'
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Cron:
    """Cron text in a time zone; all times are milliseconds UTC.

    A tick at a fixed time that does not exist, because clocks are put forward, comes as soon as there is a time again;
    one at a time that comes twice comes the first time. Where minute or hour begin with a star, ticks follow the time
    that really passes: none in the hour that does not exist, and twice as many in the one that comes twice.
    """

    text: str
    tz: str
    _fields: str = field(repr=False, compare=False)
    _zone: tzinfo = field(repr=False, compare=False)

    @staticmethod
    def parse(text: str, tz: str) -> "Cron":
        """Read *text* and *tz*. Raises ScheduleInvalid, with `data["field"]` cron or tz."""
        return _parse(text, tz)

    def after(self, at: int) -> int | None:
        """Return the first tick after *at*; None where none comes within fifty years."""
        return next(self.ticks(at), None)

    def ticks(self, at: int) -> Iterator[int]:
        """Give the ticks after *at*, each later than the one before."""
        last = at
        # What the library gives around a change of clocks may repeat, and may lie before the time it was given.
        for found in CronSim(self._fields, datetime.fromtimestamp(at // 1000, self._zone)):
            tick = round(found.timestamp()) * 1000
            if tick > last:
                yield tick
                last = tick

    def latest(self, after: int, until: int, most: int) -> list[int]:
        """Return the ticks past *after*, up to and with *until*, in order; where they are more, the latest *most*."""
        span = HOUR_MS
        while True:  # from ever further back, so that a year of minutes is not walked through for its last one
            begin = max(after, until - span)
            found: deque[int] = deque(maxlen=most)
            for tick in self.ticks(begin):
                if tick > until:
                    break
                found.append(tick)
            if begin == after or len(found) >= most:
                return list(found)
            span *= 8

    def upcoming(self, at: int, count: int) -> tuple[int, ...]:
        """Return the first *count* ticks after *at*."""
        return tuple(islice(self.ticks(at), count))

    def says(self) -> str:
        """Return the text in words, such as "At 03:30 every day"."""
        return CronSim(self._fields, datetime.fromtimestamp(0, UTC)).explain()


@lru_cache(maxsize=1024)
def _parse(text: str, tz: str) -> Cron:
    fields = _fields(text)
    zone = _zone(tz)
    try:
        CronSim(fields, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        raise _misread(text, fields, str(error)) from None
    return Cron(text, tz, fields, zone)


def _fields(text: str) -> str:
    """Return the five fields of *text*."""
    words = text.split()
    if len(words) == 1 and words[0].startswith("@"):
        known = MACROS.get(words[0].lower())
        if known is None:
            raise _invalid("cron", f"there is no {words[0]}; there are {', '.join(MACROS)}")
        return known
    if len(words) != 5:
        raise _invalid("cron", f"five fields are wanted (minute hour day month weekday), not {len(words)}: {EXAMPLE}")
    return " ".join(words)


def _misread(text: str, fields: str, fault: str) -> ScheduleInvalid:
    name = fault.removeprefix("Bad ")
    if name not in FIELDS:
        return _invalid("cron", f"this is no cron text: {EXAMPLE}")
    word = fields.split()[list(FIELDS).index(name)]
    if name == "day-of-month" and re.fullmatch(r"30|31", word):
        return _invalid("cron", f"{text!r} never comes: none of its months has a day {word}")
    allowed = f"{FIELDS[name]}; lists (1,15), ranges (9-17), steps (*/5) and * as well"
    return _invalid("cron", f"the {name.replace('-', ' ')} {word!r} is not understood: it is {allowed}")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name at all; the name of a folder
        known = sorted(zoneinfo.available_timezones())
    close = difflib.get_close_matches(name, known, 1, 0.5) or [one for one in known if name and name in one]
    more = f"did you mean {close[0]!r}?" if close else 'write one such as "Europe/Berlin", or "UTC"'
    raise _invalid("tz", f"there is no time zone {name!r}; {more}")


def _invalid(what: str, detail: str) -> ScheduleInvalid:
    return ScheduleInvalid(detail, field=what)
