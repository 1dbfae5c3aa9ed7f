"""Reads settings from the environment, and shows the mistakes in them."""

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from runtime.config_report import Mistake, cover, dotted
from runtime.config_spans import Loc

PREFIX: Final = "UNDERSTUDY_"
NOT_SETTINGS: Final = frozenset({"UNDERSTUDY_HOME", "UNDERSTUDY_CONFIG", "UNDERSTUDY_HOST"})


class Variables:
    """Settings from the environment: `UNDERSTUDY_RUNTIME__LEASE=2s` stands for `runtime.lease`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.mistakes: list[Mistake] = []
        self._raw: dict[str, str] = {}
        self._locs: dict[str, Loc] = {}
        for name in sorted(environ):
            if not name.startswith(PREFIX) or name in NOT_SETTINGS:
                continue
            parts = name[len(PREFIX) :].lower().split("__")
            self._raw[name] = environ[name]
            if len(parts) < 2 or not all(parts):
                self.mistakes.append(self._unknown(name))
            else:
                self._locs[name] = tuple(parts)

    def apply(self, data: dict[str, Any], verbatim: Iterable[str]) -> dict[str, Any]:
        """Return *data* with the variables set in it; the text of those in *verbatim* is taken as it stands."""
        merged = copy.deepcopy(data)
        for name in self._locs:
            table, loc = merged, list[str | int]()
            *way, last = self._locs[name]
            for part in way:
                key = _spelled(table, str(part))
                inner = table.get(key)
                if not isinstance(inner, dict):
                    inner = table[key] = {}
                table = inner
                loc.append(key)
            key = _spelled(table, str(last))
            table[key] = self._raw[name] if name in verbatim else _value(self._raw[name])
            self._locs[name] = (*loc, key)
        return merged

    def sets(self, name: str, loc: Loc) -> bool:
        """Return whether *name* set what is at *loc*, or the value around it."""
        own = self._locs[name]
        return own == loc[: len(own)]

    def nearest(self, loc: Loc) -> tuple[str | None, int]:
        """Return the variable whose path shares most with *loc*, and how many keys of it."""
        shared = {name: _shared(own, loc) for name, own in self._locs.items()}
        name = max(shared, key=lambda one: (shared[one], -len(self._locs[one])), default=None)
        return name, shared.get(name or "", 0)

    def origins(self) -> dict[str, str]:
        """Return the variable's name for every path that one sets."""
        return {dotted(loc): f"${name}" for name, loc in self._locs.items()}

    @property
    def names(self) -> list[str]:
        """The variables that set something."""
        return list(self._locs)

    def mistake(self, name: str, code: str, text: str, loc: Loc, help_: str, *, by_key: bool) -> Mistake:
        """Return a mistake in the value of the variable *name*, or in its name, which is then all that is shown."""
        source = name if by_key else cover(f"{name}={self._raw[name]}".split("\n")[0])
        column = 1 if by_key else len(name) + 2
        width = max(1, len(source) - column + 1)
        return Mistake(
            file=f"${name}",
            line=0,
            column=column,
            width=width,
            code=code,
            message=cover(text),
            path=cover(dotted(loc)),
            hint=help_,
            source=source,
        )

    def _unknown(self, name: str) -> Mistake:
        text, help_ = f"{name} is no setting", "settings look like UNDERSTUDY_RUNTIME__LEASE=30s"
        return self.mistake(name, "unknown_variable", text, (), help_, by_key=True)


def _shared(one: Loc, other: Loc) -> int:
    """Return how many keys two paths have in common from the start."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _spelled(table: Mapping[str, Any], part: str) -> str:
    """Return the key of *table* that a variable's *part* means: `MY_AGENT` also stands for `my-agent`."""
    return next((key for key in table if re.sub(r"[-.]", "_", key.lower()) == part), part)


def _value(raw: str) -> Any:
    """Return *raw* read as one TOML value, or as text where it is none."""
    try:
        read = tomllib.loads(f"v = {raw}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw
    return read["v"] if read.keys() == {"v"} else raw
