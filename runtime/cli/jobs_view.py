"""How a job looks: a row of the list, the whole of it, a line of its log, its result."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from runtime.cli.failure import Failure, from_problem
from runtime.cli.text import (
    ago,
    cell,
    dump,
    escape,
    fields,
    is_tty,
    paint,
    say,
    say_json,
    span,
    stamp,
    table,
    when,
    write,
)
from schemas.codes import CODES, EXIT_FAILED, EXIT_OK

LIST: Final = ("ID", "KIND", "QUEUE", "STATUS", "REASON", "ATTEMPTS", "PRIORITY", "CREATED", "UPDATED")
ATTEMPTS: Final = ("ATTEMPT", "EPOCH", "WORKER", "OUTCOME", "STARTED", "TOOK", "ERROR")
EDGES: Final = ("DEPENDS ON", "STATUS", "EDGE", "IF IT FAILS")
STEPS: Final = ("STEP", "STATE", "EPOCH", "STARTED", "TOOK", "COST", "OUTPUT")

OUTPUT: Final = 60
"""Columns that the output of a step may take in the table; --json has all of it."""


def row(job: dict[str, Any]) -> tuple[Any, ...]:
    """Return a job as a row of the list."""
    return (
        job["id"],
        job["name"],
        job["queue"],
        job["status"],
        job["reason"],
        f"{job['attempts']}/{job['max_attempts']}",
        job["priority"],
        ago(job["created_at"]),
        ago(job["updated_at"]),
    )


def detail(job: dict[str, Any]) -> str:
    """Return everything about a job; what it depends on, its steps and its attempts in tables below."""
    parts = [
        fields((*_standing(job), *_limits(job), *_times(job), *_words(job))),
        *_table(EDGES, (_edge(edge) for edge in job.get("depends_on", ()))),
        *_table(STEPS, (_step(step) for step in job.get("steps", ()) if not _is_ours(step["name"]))),
        *_table(ATTEMPTS, (_attempt(one) for one in job.get("history", ()))),
    ]
    return "\n\n".join(parts)


def _table(headers: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    found = list(rows)
    return [table(headers, found)] if found else []


def _standing(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    status = f"{job['status']} ({job['reason']})" if job.get("reason") else job["status"]
    asked = [word for word in ("cancel", "pause") if job.get(f"{word}_requested")]
    yield "id", job["id"]
    yield "kind", job["name"]
    yield "queue", job["queue"]
    yield "status", f"{status}, asked to {' and to '.join(asked)}" if asked else status
    yield "waits for", _waits(job)
    yield "attempts", f"{job['attempts']} of {job['max_attempts']}"
    yield "crashes", job.get("crashes") or None
    yield "snoozes", job.get("snoozes") or None
    yield "worker", job.get("worker")


def _waits(job: dict[str, Any]) -> str | None:
    if job["status"] != "waiting" or job.get("reason") not in ("signal", "children"):
        return None
    what = f"the signal {cell(job.get('waits_for'))}" if job["reason"] == "signal" else "its parts"
    return f"{what}, {when(job['wait_until'])}" if job.get("wait_until") else what


def _limits(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "priority", job["priority"]
    yield "tags", ", ".join(job.get("tags") or ())
    yield "part of", job.get("parent")
    yield "key", job.get("key")
    yield "unique", job.get("unique")
    yield "limit", f"{job['limit_key']}, {job['limit_max']} at once" if job.get("limit_key") else None
    yield "tokens", job.get("tokens") or None
    yield "conversation", job.get("conversation")
    yield "timeout", _span(job.get("timeout_ms"))
    yield "heartbeat", _span(job.get("heartbeat_ms"))


def _times(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "deadline", when(job.get("deadline_at"))
    yield "created", when(job["created_at"])
    yield "runs after", when(job["execute_after"]) if job["execute_after"] > job["created_at"] else None
    yield "started", when(job.get("started_at"))
    yield "finished", when(job.get("finished_at"))


def _words(job: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "arguments", _json(job.get("payload"))
    yield "data", _json(job.get("data"))
    yield "progress", _json(job.get("progress"))
    yield "result", _json(job.get("result"))
    yield "error", _error(job.get("error"))


def _span(ms: int | None) -> str | None:
    return None if ms is None else span(ms / 1000) if ms >= 1000 else f"{ms} ms"


def _edge(edge: dict[str, Any]) -> tuple[Any, ...]:
    return edge["job"], edge.get("status"), edge["state"], edge["on_failure"]


def _step(step: dict[str, Any]) -> tuple[Any, ...]:
    output = step.get("error") or (None if step.get("output") is None else dump(step["output"]))
    if output is not None and len(output) > OUTPUT:
        output = output[: OUTPUT - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return step["name"], step["state"], step["epoch"], ago(step["started_at"]), _took(step), step.get("cost"), output


def _is_ours(name: str) -> bool:
    """Tell whether a step only keeps until when a wait lasts; people see that elsewhere."""
    return name.startswith("~") and name.endswith("/until")


def _took(one: dict[str, Any]) -> str | None:
    ended = one.get("ended_at")
    return None if ended is None else f"{(ended - one['started_at']) / 1000:.1f} s"


def dead(job: dict[str, Any]) -> str:
    """Return a failed job with the error of each of its attempts."""
    head = (
        cell(job["id"]),
        cell(job["name"]),
        f"{paint('failed', 'red', sys.stdout)} ({cell(job.get('reason'))})",
        f"after {job['attempts']} of {job['max_attempts']} attempts",
        ago(job.get("finished_at")),
        f"on queue {cell(job['queue'])}",
    )
    attempts = [_dead_attempt(one) for one in job.get("history", ()) if one.get("error")]
    own = job.get("error")
    if own and not any(one["error"] == own for one in job.get("history", ()) if one.get("error")):
        attempts.append(("-", "-", ago(job.get("finished_at")), _brief(own)))
    lines = table(("ATTEMPT", "WORKER", "STARTED", "ERROR"), attempts).splitlines() if attempts else []
    return "\n".join(("  ".join(head), *(f"  {line}" for line in lines)))


def _dead_attempt(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["attempt"], one["worker"], ago(one["started_at"]), _brief(one["error"])


def _brief(error: dict[str, Any]) -> str:
    return f"{error['code']}: {error['detail']}"


def _json(value: Any) -> str | None:
    return None if value is None or value == {} else dump(value)


def _error(error: dict[str, Any] | None) -> str | None:
    if not error:
        return None
    return f"{error['code']}: {error['detail']}" + (f"\n{error['hint']}" if error.get("hint") else "")


def _attempt(one: dict[str, Any]) -> tuple[Any, ...]:
    error = one.get("error")
    return (
        one["attempt"],
        one["epoch"],
        one["worker"],
        one.get("outcome") or "running",
        ago(one["started_at"]),
        _took(one),
        error and _brief(error),
    )


def log_line(line: dict[str, Any]) -> str:
    """Return a line of a job's log: on a terminal with time and level, on a pipe as the job wrote it."""
    if not is_tty(sys.stdout):
        return str(line["text"])
    level = cell(line["level"])
    colour = {"error": "red", "warning": "yellow", "stderr": "yellow"}.get(level)
    return f"{stamp(line['at'])}  {paint(f'{level:<7}', colour, sys.stdout)}  {escape(line['text'], multiline=True)}"


def show_end(job: dict[str, Any], *, as_json: bool) -> int:
    """Print how a job ended, its result to stdout and its error to stderr; return the exit code."""
    ok = job["status"] == "completed"
    if as_json:
        say_json(job)
        return EXIT_OK if ok else EXIT_FAILED
    if job["name"] == "shell":
        error = job.get("error") or {}
        _show_output(job["result"] if isinstance(job.get("result"), dict) else error.get("data") or {})
    elif ok:
        _show_result(job)
    if not ok:
        click.echo(failure_of(job).render(), err=True)
    return EXIT_OK if ok else EXIT_FAILED


def failure_of(job: dict[str, Any]) -> Failure:
    """Return why a job did not complete, with what to do next."""
    problem = job.get("error")
    if not problem:
        by_reason = f"job.{job.get('reason')}"
        code = by_reason if by_reason in CODES else f"job.{job['status']}"
        problem = {"code": code, "detail": f"reason: {cell(job.get('reason'))}"}
    return from_problem(problem, subject=job["id"])


def _show_output(output: dict[str, Any]) -> None:
    if output.get("stdout"):
        write(str(output["stdout"]))
    if output.get("stderr"):
        text = str(output["stderr"])
        click.echo(escape(text, multiline=True) if is_tty(sys.stderr) else text, nl=False, err=True, color=True)
        if not text.endswith("\n"):
            click.echo(err=True)


def _show_result(job: dict[str, Any]) -> None:
    result = job.get("result")
    if job["name"] == "agent.message" and isinstance(result, dict) and "text" in result:
        write(str(result["text"]))
        say("")
    elif result is not None:
        say_json(result)
