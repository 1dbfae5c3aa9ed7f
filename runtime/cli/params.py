"""What the commands' options share: durations, times, edges, filters, JSON values, --json, and text from stdin."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

STATUSES: Final = ("pending", "waiting", "delayed", "active", "paused", "completed", "failed", "cancelled")
POLICIES: Final = ("cancel", "run", "hold")

_UNITS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")


class Duration(click.ParamType[float]):
    """A length of time such as `250ms`, `30s`, `5m`, `2h`, `7d` or a number of seconds, as seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a time; write one like 250ms, 30s, 5m, 2h or 7d.", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class When(click.ParamType[int]):
    """A time such as `18:30` (the next one) or `2027-01-31T18:30`, here unless it names a zone, as milliseconds UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return milliseconds since 1970."""
        if isinstance(value, int):
            return value
        from datetime import datetime, time, timedelta  # most commands never need them

        text = str(value).strip()
        try:
            if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text):
                now = datetime.now().astimezone()
                at = datetime.combine(
                    now.date(), time.fromisoformat(text if text[1] != ":" else f"0{text}")
                ).astimezone()
                at = at if at > now else (at.replace(tzinfo=None) + timedelta(days=1)).astimezone()
            else:
                at = datetime.fromisoformat(text)
                at = at.astimezone() if at.tzinfo is None else at
            return round(at.timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is not a time; write one like 18:30, 2027-01-31T18:30 or 2027-01-31T18:30Z.", param, ctx
            )


class After(click.ParamType[dict[str, str]]):
    """A job that must end first, `ID` or `ID:POLICY`."""

    name = "edge"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """Return an edge as the daemon takes it."""
        if isinstance(value, dict):
            return value
        job, colon, policy = str(value).partition(":")
        if not job or (colon and policy not in POLICIES):
            self.fail(f"{value!r} is not ID or ID:POLICY, where POLICY is cancel, run or hold.", param, ctx)
        return {"job": job, "on_failure": policy} if policy else {"job": job}


DURATION: Final = Duration()
WHEN: Final = When()
AFTER: Final = After()


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


_FILTERS: Final = (
    click.option("--status", type=click.Choice(STATUSES), help="Only those in this status."),
    click.option("--reason", help="Only those for this reason, such as deps, retry or exhausted."),
    click.option("--queue", help="Only those on this queue."),
    click.option("--kind", help="Only those of this kind."),
    click.option("--tag", help="Only those with this tag."),
    click.option("--parent", metavar="ID", help="Only the parts of this job."),
    click.option("--limit-key", metavar="KEY", help="Only those of this key."),
)
FILTERS: Final = ("status", "reason", "queue", "kind", "tag", "parent", "limit_key")


def filter_options(command: F) -> F:
    """Add the options that say which jobs; their names are `FILTERS`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def json_value(text: str, *, what: str, form: Callable[[str], str]) -> Any:
    """Parse JSON from the command line.

    What is not JSON is a usage error; *form* shows how the same text is written as a JSON string, in shell quotes.
    """
    try:
        return json.loads(text)
    except ValueError:
        raise click.UsageError(
            f"{what} is not JSON: {text}\nA string needs its own quotes: {form(json.dumps(text, ensure_ascii=False))}"
        ) from None


def person() -> str:
    """Return who gives the command, as the machine knows them."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return "a person"


def quoted(text: str) -> str:
    """Return *text* in quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def from_stdin(text: str | None, *, missing: str) -> str:
    """Return *text*, or all of stdin for `-` or nothing; nothing on a terminal is a usage error saying *missing*."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise click.UsageError(missing)
    return read_stdin()


def read_stdin() -> str:
    """Return all of stdin. A usage error where it is not UTF-8, which nothing here could take."""
    text = sys.stdin.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"line {text.count(chr(10), 0, error.start) + 1}"
        raise click.UsageError(
            f"what came in is not UTF-8 ({where}); convert it first: iconv -f LATIN1 -t UTF-8"
        ) from None
    return text
