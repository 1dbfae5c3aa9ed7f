"""How a job looks: a row of the list, the whole of it, a line of its log, its result."""

import sys
from typing import Any, Final

import click

from runtime.cli.failure import from_problem
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
from schemas.codes import EXIT_FAILED, EXIT_OK

LIST: Final = ("ID", "KIND", "QUEUE", "STATUS", "REASON", "ATTEMPTS", "PRIORITY", "CREATED", "UPDATED")
ATTEMPTS: Final = ("ATTEMPT", "EPOCH", "WORKER", "OUTCOME", "STARTED", "TOOK", "ERROR")


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
    """Return everything about a job, its attempts in a table below."""
    status = f"{job['status']} ({job['reason']})" if job.get("reason") else job["status"]
    pairs = (
        ("id", job["id"]),
        ("kind", job["name"]),
        ("queue", job["queue"]),
        ("status", status),
        ("attempts", f"{job['attempts']} of {job['max_attempts']}"),
        ("crashes", job.get("crashes") or None),
        ("priority", job["priority"]),
        ("key", job.get("key")),
        ("worker", job.get("worker")),
        ("conversation", job.get("conversation")),
        ("timeout", span(job["timeout_ms"] / 1000) if job.get("timeout_ms") else None),
        ("created", when(job["created_at"])),
        ("runs after", when(job["execute_after"]) if job["execute_after"] > job["created_at"] else None),
        ("started", when(job.get("started_at"))),
        ("finished", when(job.get("finished_at"))),
        ("arguments", _json(job.get("payload"))),
        ("data", _json(job.get("data"))),
        ("progress", _json(job.get("progress"))),
        ("result", _json(job.get("result"))),
        ("error", _error(job.get("error"))),
    )
    attempts = [_attempt(one) for one in job.get("history", ())]
    return fields(pairs) + ("\n\n" + table(ATTEMPTS, attempts) if attempts else "")


def _json(value: Any) -> str | None:
    return None if value is None or value == {} else dump(value)


def _error(error: dict[str, Any] | None) -> str | None:
    if not error:
        return None
    return f"{error['code']}: {error['detail']}" + (f"\n{error['hint']}" if error.get("hint") else "")


def _attempt(one: dict[str, Any]) -> tuple[Any, ...]:
    ended = one.get("ended_at")
    took = f"{(ended - one['started_at']) / 1000:.1f} s" if ended is not None else None
    error = one.get("error")
    return (
        one["attempt"],
        one["epoch"],
        one["worker"],
        one.get("outcome") or "running",
        ago(one["started_at"]),
        took,
        error and f"{error['code']}: {error['detail']}",
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
        problem = job.get("error") or {"code": f"job.{job['status']}", "detail": f"reason: {cell(job.get('reason'))}"}
        click.echo(from_problem(problem, subject=job["id"]).render(), err=True)
    return EXIT_OK if ok else EXIT_FAILED


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
