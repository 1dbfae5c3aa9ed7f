"""What the commands' options share: durations, JSON values, the --json flag, and text from stdin."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

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


DURATION: Final = Duration()


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


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


def quoted(text: str) -> str:
    """Return *text* in quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def from_stdin(text: str | None, *, missing: str) -> str:
    """Return *text*, or all of stdin for `-` or nothing; nothing on a terminal is a usage error saying *missing*."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        raise click.UsageError(missing)
    return sys.stdin.read()
