"""How a run looks: a row of the list, and the whole of it as a timeline."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from runtime.cli.answer import ways_to_answer
from runtime.cli.text import ago, cell, columns, dump, fields, first_line, is_tty, money, table, took, when, width

LIST: Final = ("ID", "AGENT", "CONVERSATION", "STATUS", "REASON", "ATTEMPTS", "CREATED", "TOOK", "SAID")
TIMELINE: Final = ("TIME", "WHAT", "NAME", "STATE", "TOOK", "COST", "TEXT")

SAID: Final = 50
"""Columns that what was said may take in the list."""

MIN_TEXT: Final = 24
"""Columns that the text of a timeline gets at least, however narrow the terminal is."""

PIPED_TEXT: Final = 160
"""Columns that it gets where there is no terminal."""


def row(run: dict[str, Any]) -> tuple[Any, ...]:
    """Return a run as a row of the list."""
    return (
        run["id"],
        run["agent"],
        run["conversation"],
        run["status"],
        run.get("reason"),
        run.get("attempts", 0),
        ago(run["created_at"]),
        _lasted(run),
        first_line(run.get("text") or "", SAID),
    )


def _lasted(run: dict[str, Any]) -> str | None:
    ended = run.get("finished_at")
    return None if ended is None else took(max(0, ended - run["created_at"]))


def detail(run: dict[str, Any], approvals: Sequence[str] = ()) -> str:
    """Return everything about a run; *approvals* are the ids of those it waits for."""
    parts = [fields(_standing(run))]
    if run.get("timeline"):
        parts.append(timeline(run["timeline"], run["created_at"]))
    parts.append(f"total: {spent(run.get('spent') or {})}")
    parts.append("\n".join(_ahead(run, approvals)))
    return "\n\n".join(filter(None, parts))


def _standing(run: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "run", run["id"]
    yield "agent", run["agent"]
    yield "conversation", run["conversation"]
    yield "status", f"{run['status']} ({run['reason']})" if run.get("reason") else run["status"]
    yield "asked by", run.get("parent")
    yield "attempts", run.get("attempts") if run.get("attempts", 0) > 1 else None
    yield "began", when(run["created_at"])
    yield "ended", when(run.get("finished_at"))
    yield "took", _lasted(run)
    if error := run.get("error"):
        yield "error", f"{error['code']}: {error['detail']}" + (f"\n{error['hint']}" if error.get("hint") else "")


def timeline(entries: Sequence[dict[str, Any]], began: int) -> str:
    """Return what happened, a line each: how long after *began* (milliseconds), what, and the beginning of its text."""
    times = [offset(entry["at"] - began) for entry in entries]
    wide = max(map(len, times))
    heads = [(time.rjust(wide), *_head(entry)) for time, entry in zip(times, entries, strict=True)]
    room = PIPED_TEXT
    if is_tty(sys.stdout):
        taken = [max(map(width, (name, *(cell(head[n]) for head in heads)))) for n, name in enumerate(TIMELINE[:-1])]
        room = max(MIN_TEXT, columns() - sum(taken) - 2 * len(taken))
    return table(
        TIMELINE, [(*head, first_line(_text(entry), room)) for head, entry in zip(heads, entries, strict=True)]
    )


def _head(entry: dict[str, Any]) -> tuple[str | None, ...]:
    cost = entry.get("cost")
    return (
        entry["what"],
        entry.get("name"),
        entry.get("state"),
        took(entry.get("ms")),
        None if cost is None else money(cost),
    )


def _text(entry: dict[str, Any]) -> str:
    """Return what an entry says; of a call also what it was called with."""
    text, data = entry.get("text") or "", entry.get("data") or {}
    if entry["what"] in ("tool", "approval") and "arguments" in data:
        given = data["arguments"]
        given = given if isinstance(given, str) else dump(given)
        return f"{given} -> {text}" if text else given
    return text or (dump(data) if data else "")


def offset(ms: int) -> str:
    """Return a time after the beginning: `+0.4 s`, `+2:05 min`, `+1:02:05 h`."""
    ms = max(0, ms)
    seconds = ms // 1000
    if seconds < 60:
        return f"+{seconds}.{ms // 100 % 10} s"
    if seconds < 3600:
        return f"+{seconds // 60}:{seconds % 60:02d} min"
    return f"+{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} h"


def spent(used: dict[str, Any]) -> str:
    """Return what was used: calls of the model, tokens, cost in the currency of the prices."""
    calls, came, went = used.get("calls", 0), used.get("input_tokens", 0), used.get("output_tokens", 0)
    return (
        f"{calls:,} {'call' if calls == 1 else 'calls'}, {came + went:,} tokens ({came:,} in, {went:,} out), "
        f"cost {money(used.get('cost', 0))}"
    )


def _ahead(run: dict[str, Any], approvals: Sequence[str]) -> Iterator[str]:
    if run.get("waits_for"):
        yield f"waits for: {cell(run['waits_for'])}"
    yield from (f"next: {step}" for step in _steps(run, approvals))


def _steps(run: dict[str, Any], approvals: Sequence[str]) -> list[str]:
    """Return the commands that bring a run on."""
    job = cell(run["id"])
    if approvals:
        return [ways_to_answer(cell(approval)) for approval in approvals]
    match run["status"]:
        case "completed":
            return []
        case "failed" | "cancelled":
            return [f"understudy jobs retry {job}"]
        case "paused":
            return [f"understudy jobs resume {job}"]
        case "active":
            return [f"understudy jobs wait {job}"]
        case "waiting" if child := _child(run):
            return [f"understudy runs show {cell(child)}"]
    return [f"understudy why {job}"]


def _child(run: dict[str, Any]) -> str | None:
    """Return the run of another agent that was asked last and has not answered, where the timeline names it."""
    if run.get("reason") != "children":
        return None
    asked = [entry.get("data") or {} for entry in run.get("timeline", ()) if entry["what"] == "ask"]
    named = [str(data.get("run") or data.get("job")) for data in asked if data.get("run") or data.get("job")]
    return named[-1] if named else None
