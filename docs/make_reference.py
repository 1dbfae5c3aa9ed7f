"""Writes reference.md from the tables in the code: `python docs/make_reference.py`. A test holds the two together."""

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas import codes, config, jobs
from schemas.jobs import ENDED, MOVES, REASONS
from schemas.operations import OPERATIONS, Operation

TARGET: Final = Path(__file__).with_name("reference.md")

STATES: Final = {
    "pending": "may run now",
    "waiting": "waits for something other than time",
    "delayed": "waits for its time",
    "active": "is being run by a worker",
    "paused": "is held until somebody or something lets it go",
    "completed": "ended well; its result is kept",
    "failed": "ended badly and is kept with its error: the dead letter",
    "cancelled": "was called off",
}

WHY: Final = {
    ("waiting", "deps"): "jobs it depends on have not ended, or one of them failed and it is held over that",
    ("waiting", "limit"): "as many jobs of its key run as may",
    ("waiting", "signal"): "its code waits for a signal",
    ("waiting", "children"): "its code waits for the jobs that are a part of it",
    ("delayed", "scheduled"): "it was submitted with a delay",
    ("delayed", "retry"): "an attempt failed, and others are left",
    ("delayed", "snooze"): "its code asked to go on later; the attempt does not count",
    ("delayed", "rate_limit"): "a provider's rate limit; the attempt does not count",
    ("paused", "user"): "a person",
    ("paused", "hold"): "nobody knows its kind (it goes on when the configuration defines it), or a step of it is "
    "ambiguous (it goes on when a person resumes it)",
    ("failed", "exhausted"): "the last attempt failed",
    ("failed", "permanent"): "the error was one that no other attempt would mend",
    ("failed", "poison"): "it brought down its process, or the daemon, three times",
    ("failed", "timeout"): "the last attempt took too long",
    ("failed", "dependency"): "a job it depends on failed",
    ("failed", "deadline"): "it was not done by its deadline, wherever it stood",
    ("cancelled", "user"): "a person, a program, its own code, or a caller who hung up",
    ("cancelled", "deadline"): "it did not start in time",
    ("cancelled", "dependency"): "a job it depends on did not complete",
    ("cancelled", "superseded"): "words that steer: a turn that was running has taken them in",
}

RESERVED: Final = frozenset({("failed", "dependency"), ("cancelled", "deadline")})
"""Reasons that the database takes and nothing gives yet."""

LIMITS: Final = {
    "MAX_PAYLOAD": "bytes of a job's arguments, of its data, and of what a signal brings",
    "MAX_RESULT": "bytes of a job's result, and of the output of a step",
    "MAX_BATCH": "jobs of one batch",
    "MAX_EDGES": "jobs that one job depends on",
    "MAX_STEPS": "steps of one job; sleeps, waits and children count too",
    "MAX_SIGNALS": "signals of one job that it has not taken yet",
    "MAX_SNOOZES": "times that a job may ask to go on later; with the next one it fails",
    "MAX_LOG_LINES": "lines of a job's log that are kept, the last ones",
}

EXITS: Final = {
    "EXIT_OK": "it went well",
    "EXIT_FAILED": "it failed; stderr says why",
    "EXIT_USAGE": "wrong usage, or a request that is not valid",
    "EXIT_NOT_RUNNING": "the daemon is not running",
    "EXIT_NOT_FOUND": "there is no such thing",
    "EXIT_ROOT_EXHAUSTED": "the daemon gave up: a part that everything needs crashed too often (daemon only)",
    "EXIT_TEMPORARY": "not now; try again",
    "EXIT_DENIED": "not allowed",
    "EXIT_CONFIG": "the configuration or the installation is wrong",
    "EXIT_TIMEOUT": "the time was over",
    "EXIT_INTERRUPTED": "interrupted with Ctrl-C",
}

FILES: Final = {
    "understudy.db": "the database: jobs, states, conversations, events",
    "understudy.db-wal": "its write-ahead log while the daemon runs, or after a kill: part of the database",
    "understudy.db-shm": "SQLite's index of that log",
    "state.json": "which database belongs here, so that an emptied or older one is found out at start",
    "boots.json": "how many starts in a row failed by themselves; three make the next one start in safe mode",
    "daemon.log": "the log, a line of JSON for each event; `daemon.log.1` to `daemon.log.5` are older",
    "daemon.out": "what a daemon started with `--detach` printed",
    "work": "the folders that the file tools of agents see, one an agent that names none of its own",
    "lock": "held by the daemon that owns this home",
    "control.sock": "the control socket, unless `XDG_RUNTIME_DIR` or `UNDERSTUDY_HOST` puts it elsewhere",
    "control.sock.lock": "held by the daemon that owns this socket",
}

VARIABLES: Final = {
    "UNDERSTUDY_HOME": "the home directory; else `$XDG_STATE_HOME/understudy`, else `~/.local/state/understudy`",
    "UNDERSTUDY_CONFIG": "the configuration, where `-c` does not name one; else `./config.toml`",
    "UNDERSTUDY_HOST": "the control socket, as a path or `unix:///path`; else `control.sock` in `UNDERSTUDY_HOME` if "
    "that is set, else in `$XDG_RUNTIME_DIR/understudy`, else in the home directory",
    "UNDERSTUDY_SECTION__KEY": "any setting: `UNDERSTUDY_RUNTIME__LEASE=10s` stands for `lease` in `[runtime]`",
    "UNDERSTUDY_DEBUG": "set, the command line shows a traceback where something unexpected happens",
}

SECTIONS: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("[runtime]", config.RuntimeSettings),
    ("[agents.NAME]", config.AgentSettings),
    ("[agents.NAME] llm", config.LlmSettings),
    ("[providers.NAME], type openai", config.OpenAIProvider),
    ("[providers.NAME], type local", config.LocalProvider),
    ("[providers.NAME], type scripted", config.ScriptedProvider),
    ("[providers.NAME] timeouts", config.Timeouts),
    ("[kinds.NAME]", config.KindSettings),
    ("[kinds.NAME] retry", config.RetrySettings),
    ("[queues.NAME]", config.QueueSettings),
    ("[queues.NAME] rate", config.RateSettings),
    ("[pools.NAME]", config.PoolSettings),
    ("[schedules.NAME]", config.ScheduleSettings),
    ("[retention]", config.RetentionSettings),
)


def reference() -> str:
    """Return the whole page."""
    parts = (
        [
            "# Reference",
            "",
            "Written by `docs/make_reference.py` from the tables in the code. Change them, then run it.",
        ],
        ["## States of a job", "", *states(), "", *diagram()],
        ["## Reasons", "", "Those in brackets are known to the database, and nothing gives them yet.", "", *reasons()],
        ["## Limits of a job", "", *limits()],
        ["## Settings", "", *settings()],
        ["## Operations", "", *operations()],
        ["## Error codes", "", *errors()],
        ["## Exit codes", "", *exits()],
        ["## Files in the home directory", "", *plain(("file", "what it is"), FILES)],
        ["## Environment variables", "", *plain(("variable", "what it sets"), VARIABLES)],
    )
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Give the lines of a Markdown table."""
    titles = list(head)
    yield f"| {' | '.join(titles)} |"
    yield f"|{'|'.join('---' for _ in titles)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def plain(head: tuple[str, str], rows: dict[str, str]) -> Iterator[str]:
    return table(head, ((f"`{name}`", meaning) for name, meaning in rows.items()))


def states() -> Iterator[str]:
    """Give each state with its meaning and where it may go; only a person's retry leaves an ended one."""

    def row(state: Any) -> tuple[str, ...]:
        moves = ", ".join(f"`{to}`" for to in MOVES if to in MOVES[state])
        return f"`{state}`", STATES[state], "yes" if state in ENDED else "", moves or "nothing else"

    return table(("state", "the job", "ended", "may become"), map(row, MOVES))


def diagram() -> Iterator[str]:
    """Draw the moves; a job begins in the first three, or ends at once over a job that it depends on."""
    yield "Every move there is, and no other: the database refuses them too."
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield "    direction LR"
    for state in ("pending", "waiting", "delayed", "cancelled"):
        yield f"    [*] --> {state}"
    for state, moves in MOVES.items():
        for to in MOVES:
            if to in moves:
                yield f"    {state} --> {to}{': retry by hand' if state in ENDED else ''}"
    yield "    completed --> [*]"
    yield "```"


def limits() -> Iterator[str]:
    return table(("limit", "of"), ((f"{getattr(jobs, name):,}", told) for name, told in LIMITS.items()))


def reasons() -> Iterator[str]:
    def row(state: str, reason: str) -> tuple[str, ...]:
        told = WHY[state, reason]
        return f"`{state}`", f"`{reason}`", f"({told})" if (state, reason) in RESERVED else told

    found = [(state, reason) for state, of in REASONS.items() for reason in of]
    return table(("state", "reason", "because of"), (row(*one) for one in found))


def settings() -> Iterator[str]:
    """Give one table a section; a time is text like "30s" or a number of seconds."""
    yield 'A time is text such as `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"7d"`, or a number of seconds.'
    for title, model in SECTIONS:
        paragraph = " ".join((model.__doc__ or "").partition("\n\n")[0].split())
        about = paragraph.removeprefix(f"`{title}`: ")
        yield from ("", f"### `{title}`", "", *wrap(about[:1].upper() + about[1:], 120), "")
        filled: dict[str, Any] = {}
        rows = []
        for name, field in model.model_fields.items():
            rows.append((f"`{name}`", type_of(field), default_of(name, field, filled), field.description or ""))
        yield from table(("key", "value", "default", "meaning"), rows)
        if model is config.OpenAIProvider:
            yield from ("", f"For the provider called `openai`, `base_url` is `{config.OPENAI_URL}` unless given.")


def type_of(field: FieldInfo) -> str:
    """Return what a field takes, in a word or two, with its bounds."""
    if is_time(field):
        return "time"
    return " ".join(part for part in (word_of(field.annotation), bounds(field)) if part)


def is_time(field: FieldInfo) -> bool:
    """Tell whether a field is a time, or a time or nothing."""
    inner = [mark for kind in get_args(field.annotation) for mark in getattr(kind, "__metadata__", ())]
    return any(getattr(mark, "func", None) is config.parse_duration for mark in [*field.metadata, *inner])


def word_of(kind: Any) -> str:
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", dict: "table", tuple: "list"}
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{word}"`' for word in get_args(kind))
    if get_origin(kind) is UnionType:
        return word_of(next(one for one in get_args(kind) if one is not type(None)))
    kind = get_origin(kind) or kind
    return "table" if isinstance(kind, type) and issubclass(kind, BaseModel) else words.get(kind, "text")


def bounds(field: FieldInfo) -> str:
    found = {name: getattr(mark, name) for mark in field.metadata for name in ("ge", "le") if hasattr(mark, name)}
    match found:
        case {"ge": low, "le": high}:
            return f"{low} to {high}"
        case {"ge": low}:
            return f"from {low}"
    return ""


def default_of(name: str, field: FieldInfo, filled: dict[str, Any]) -> str:
    """Return a field's default as it would be written; *filled* holds those of the fields above, and gets this one."""
    if field.is_required():
        return "required"
    value = filled[name] = field.get_default(call_default_factory=True, validated_data=filled)
    return shown(value, time=is_time(field))


def shown(value: Any, *, time: bool = False) -> str:
    if value is None or value in ({}, (), ""):
        return ""
    if isinstance(value, BaseModel):
        usual = type(value)()
        changed = [name for name in type(value).model_fields if getattr(value, name) != getattr(usual, name)]
        return ", ".join(f"{name} = {shown(getattr(value, name), time=True)}" for name in changed)
    if time:
        return f'`"{duration(value)}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def duration(ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def operations() -> Iterator[str]:
    yield "`GET /v1/openapi.json` has the same with every field. Those marked with * take an `Idempotency-Key`."
    yield ""
    yield from table(
        ("operation", "request", "answer", "what it does"),
        (
            (f"`{op.name}`" + ("*" if op.creates else ""), f"`{op.method} {op.path}`", answer(op), op.summary)
            for op in OPERATIONS
        ),
    )


def answer(operation: Operation) -> str:
    """Return what comes back: one thing, a list, or a stream of parts."""
    if operation.part:
        return f"stream of `{operation.part.partition(':')[2]}`"
    if not operation.reply:
        return ""
    several = operation.request and get_origin(class_of(operation.request).reply_type()) is tuple
    return ("list of " if several else "") + f"`{operation.reply.partition(':')[2]}`"


def class_of(name: str) -> Any:
    module, _, word = name.partition(":")
    return getattr(importlib.import_module(module), word)


def errors() -> Iterator[str]:
    yield "Each travels as `application/problem+json` with `code`, `title`, `detail`, `hint`, `retryable` and `data`."
    yield ""
    rows = (
        (f"`{name}`", str(code.status), "yes" if code.retryable else "", str(code.exit), f"{code.title}. {code.hint}")
        for name, code in codes.CODES.items()
    )
    yield from table(("code", "HTTP", "try again", "exit", "what it means, and what to do"), rows)


def exits() -> Iterator[str]:
    return table(("code", "what happened"), ((str(getattr(codes, name)), told) for name, told in EXITS.items()))


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
