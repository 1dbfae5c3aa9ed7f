"""Reads config.toml: layers, checks, and every mistake with its place."""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from runtime.config_hints import hint, message
from runtime.config_report import Mistake, cover, dotted, render
from runtime.config_spans import Loc, Place, Span, nearest, scan
from runtime.config_variables import Variables
from runtime.cron import Cron
from runtime.errors import ConfigInvalid, ConfigNotFound, ScheduleInvalid
from runtime.trust import check_trust
from schemas.config import BUILTIN_KINDS, BUILTIN_PROVIDERS, MESSAGE_KINDS, PROVIDER_TYPES, Settings
from schemas.tools import BUILTIN_TOOLS

__all__ = ["Changes", "Loaded", "Mistake", "check_trust", "diff", "find", "load", "placed", "render"]

MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that holds. `folder` is where its code and scripts are; `origins` says where each key was set."""

    settings: Settings
    path: Path
    folder: Path
    origins: Mapping[str, str]

    def origin(self, path: str) -> str:
        """Return `file:line` or the variable that set *path* (`agents.assistant`), or "built-in"."""
        return self.origins.get(path, "built-in")


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between two configurations, by name; `needs_restart` are settings that a running daemon keeps."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.changed, self.providers, self.needs_restart))


def find(explicit: str | None, environ: Mapping[str, str]) -> Path:
    """Return the configuration file: *explicit* (from -c), else $UNDERSTUDY_CONFIG, else ./config.toml.

    Raises ConfigNotFound, which says what was tried. A named file that is missing is never replaced by the next choice.
    """
    named = environ.get("UNDERSTUDY_CONFIG")
    if explicit is not None:
        path, by = Path(explicit), "-c"
    elif named:
        path, by = Path(named), "$UNDERSTUDY_CONFIG"
    else:
        path, by = Path("config.toml"), "the current folder; neither -c nor $UNDERSTUDY_CONFIG is given"
    if path.is_file():
        return path
    raise ConfigNotFound(f"there is no file {path.absolute()} (tried: {by})", tried=[str(path.absolute())], by=by)


def load(path: Path, environ: Mapping[str, str] | None = None) -> Loaded:
    """Return what *path* and the variables in *environ* (default: this process's) configure.

    Raises ConfigNotFound; ConfigUnsafe where others could change it; ConfigInvalid with all mistakes at once in
    `data["mistakes"]`, ready for `render`. No error ever holds the value of a secret.
    """
    text = _read(path)
    document = _Document(str(path), text)
    data = document.parse()
    variables = Variables(os.environ if environ is None else environ)
    settings, errors = _validate(data, variables)
    mistakes = [*variables.mistakes, *(document.mistake(error, variables) for error in errors)]
    if settings is None or mistakes:
        raise _invalid(mistakes)
    return Loaded(settings, path.absolute(), path.absolute().parent, document.origins() | variables.origins())


def placed(path: Path, found: Iterable[tuple[Loc, str, str, str]]) -> list[Mistake]:
    """Return what was *found* at places of the sound file *path*, (where, code, message, hint) each, in its order.

    Raises ConfigNotFound, ConfigUnsafe and ConfigInvalid where the file has changed for the worse.
    """
    document = _Document(str(path), _read(path))
    document.parse()
    return _in_order(document.place(*one) for one in found)


def diff(old: Settings, new: Settings) -> Changes:
    """Return what a reload from *old* to *new* must do. Pure.

    `changed` are the agents whose own table changed; an agent whose provider changed is found by `providers`.
    """
    both = old.agents.keys() & new.agents.keys()
    restart = [f"runtime.{key}" for key in type(old.runtime).model_fields if _differs(old.runtime, new.runtime, key)]
    restart += [f"pools.{name}" for name in _changed(old.pools, new.pools)]
    restart += [f"tools.mcp.{name}" for name in _changed(old.tools.mcp, new.tools.mcp)]
    return Changes(
        added=tuple(sorted(new.agents.keys() - both)),
        removed=tuple(sorted(old.agents.keys() - both)),
        changed=tuple(sorted(name for name in both if old.agents[name] != new.agents[name])),
        providers=tuple(_changed(old.providers, new.providers)),
        needs_restart=tuple(restart),
    )


def _differs(old: object, new: object, key: str) -> bool:
    return bool(getattr(old, key) != getattr(new, key))


def _changed(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda one: (one["line"] == 0, one["line"], one["column"]))


def _invalid(mistakes: list[Mistake]) -> ConfigInvalid:
    ordered = _in_order(mistakes)
    first = ordered[0]
    place = f"{first['file']}:{first['line']}" if first["line"] else first["file"]
    more = f" (and {len(ordered) - 1} more)" if len(ordered) > 1 else ""
    return ConfigInvalid(f"{place}: {first['message']}{more}", mistakes=ordered)


def _read(path: Path) -> str:
    try:
        check_trust(path)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigNotFound(f"there is no file {path.absolute()}", tried=[str(path.absolute())]) from None
    except OSError as error:
        raise ConfigNotFound(f"{path.absolute()} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise _invalid([_whole_file(path, "too_large", "the file is larger than 1 MiB")])
    try:
        return raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _invalid([_whole_file(path, "encoding", "the file is not UTF-8", line)]) from None


def _whole_file(path: Path, code: str, text: str, line: int = 1) -> Mistake:
    return Mistake(file=str(path), line=line, column=1, width=1, code=code, message=text, path="", hint="", source="")


def _validate(data: dict[str, Any], variables: Variables) -> tuple[Settings | None, list[ErrorDetails]]:
    """Return the settings of *data* under *variables*, or None and what is wrong.

    A variable's text is first read as a TOML value; where the schema wants text after all (a model named `7`), its text
    is taken as it stands.
    """
    verbatim: set[str] = set()
    while True:
        merged = variables.apply(data, verbatim)
        try:
            return Settings.model_validate(merged, context=_known(merged)), []
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
        texts = [_loc(one) for one in errors if one["type"] == "string_type"]
        wanted = {name for name in variables.names if any(variables.sets(name, loc) for loc in texts)} - verbatim
        if not wanted:
            # That one field could not get its default because of another's mistake is no mistake of its own.
            return None, [one for one in errors if one["type"] != "default_factory_not_called"]
        verbatim |= wanted


def _known(merged: dict[str, Any]) -> dict[str, Any]:
    """Return what the schema is to check names, cron texts and time zones with."""

    def names(table: str) -> Iterable[str]:
        found = merged.get(table)
        return found if isinstance(found, dict) else ()

    return {
        "providers": {*BUILTIN_PROVIDERS, *names("providers")},
        "tools": BUILTIN_TOOLS,
        "kinds": {*BUILTIN_KINDS, *MESSAGE_KINDS, *names("kinds")},
        "cron": lambda text: _fault(text, "UTC"),
        "tz": lambda name: _fault("@daily", name),
    }


def _fault(cron: str, tz: str) -> str:
    """Return what is wrong with *cron* in *tz*; nothing where it is well."""
    try:
        Cron.parse(cron, tz)
    except ScheduleInvalid as error:
        return error.detail
    return ""


def _loc(error: ErrorDetails) -> Loc:
    """Return where in the data *error* is: without pydantic's marks for keys and for the members of a union."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"].startswith("union_tag"):
        return (*loc, "type")
    return (*loc[:2], *loc[3:]) if loc[:1] == ("providers",) and loc[2:3] and loc[2] in PROVIDER_TYPES else loc


class _Document:
    """The file's text, and where everything in it stands."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._spans: dict[Loc, Span] = {}

    def parse(self) -> dict[str, Any]:
        """Return the data. Raises ConfigInvalid where the text is no TOML."""
        try:
            data = tomllib.loads(self._text)
            self._spans = scan(self._text)
            return data
        except tomllib.TOMLDecodeError as error:
            fault, where = str(error), re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        except RecursionError:
            fault, where = "the values are nested too deeply", None
        line, column = self._end()
        if where is not None:
            fault = fault[: where.start()]
            line, column = (int(where[1]), int(where[2])) if where[1] else (line, column)
        raise _invalid([self._at(Place(line, column, 1), "toml", fault, (), "")])

    def origins(self) -> dict[str, str]:
        """Return `file:line` for every path of the file."""
        return {dotted(loc): f"{self._file}:{span.key.line}" for loc, span in self._spans.items()}

    def mistake(self, error: ErrorDetails, variables: Variables) -> Mistake:
        """Return *error* with its place: in the variable that caused it, else in the file."""
        loc, code = _loc(error), error["type"]
        text, help_ = message(error, loc), hint(error, loc)
        known = nearest(self._spans, loc)
        name, shared = variables.nearest(loc)
        # The value is to blame if it is there; else the key that should not be, or the table that lacks something.
        by_key = known != loc or code == "extra_forbidden" or error["loc"][-1] == "[key]"
        if name is not None and (shared > len(known) or variables.sets(name, loc)):
            by_key = code == "extra_forbidden" or not variables.sets(name, loc)
            return variables.mistake(name, code, text, loc, help_, by_key=by_key)
        if not known:
            return self._at(Place(1, 1, 1), code, text, loc, help_)
        span = self._spans[known]
        return self._at(span.key if by_key else span.value, code, text, loc, help_)

    def place(self, loc: Loc, code: str, text: str, help_: str) -> Mistake:
        """Return what is wrong with the value at *loc*, or with the nearest table that the file has."""
        known = nearest(self._spans, loc)
        if len(known) < (3 if loc[:2] == ("tools", "mcp") else 2):  # a variable has set it, or it comes with us
            return Mistake(
                file=self._file,
                line=0,
                column=1,
                width=1,
                code=code,
                message=cover(f"{dotted(loc)}: {text}"),
                path="",
                hint=help_,
                source="",
            )
        span = self._spans[known]
        return self._at(span.value if known == loc else span.key, code, text, loc, help_)

    def _at(self, place: Place, code: str, text: str, loc: Loc, help_: str) -> Mistake:
        return Mistake(
            file=self._file,
            line=place.line,
            column=place.column,
            width=place.width,
            code=code,
            message=cover(text),
            path=cover(dotted(loc)),
            hint=help_,
            source=self._lines[place.line - 1],
        )

    @cached_property
    def _lines(self) -> list[str]:
        return cover(self._text).split("\n")

    def _end(self) -> tuple[int, int]:
        lines = self._text.rstrip("\n").split("\n")
        return len(lines), len(lines[-1]) + 1
