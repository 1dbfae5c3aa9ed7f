"""`status`, `ps`, `version`: what the daemon looks like right now."""

import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.params import json_option
from runtime.cli.text import ago, cell, escape, fields, note, paint, say, say_json, span, table
from runtime.cli.version import python_version, version_of_cli
from schemas.codes import EXIT_NOT_RUNNING

COUNTED: Final = ("pending", "active", "delayed", "waiting", "paused", "completed", "failed", "cancelled")

HELD_TIMEOUT: Final = 1.0
"""Seconds that the actors have to tell which queues are held back."""


@click.command()
@json_option
def status(as_json: bool) -> None:
    """One screen: what runs, what waits, what is wrong."""
    view = daemon.get("/v1/status")
    if as_json:
        say_json(view)
        return
    say(_screen(view))
    for line in _held():
        say(f"{paint('held:', 'yellow', sys.stdout)} {line}")
    for reason in view.get("reasons", ()):
        say(f"{paint('warning:', 'yellow', sys.stdout)} {escape(reason)}")


def _held() -> Iterator[str]:
    """Give a line for each queue that is held back. The status must come, also where the actors cannot answer."""
    try:
        queues = daemon.get("/v1/queues", timeout=HELD_TIMEOUT)
    except Failure:
        return
    for queue in queues:
        name, state = cell(queue["name"]), queue["state"]
        if state != "running":
            who = "by the configuration" if queue.get("by") == "config" else f"by {cell(queue.get('by') or 'a person')}"
            since = f", {ago(queue['since'])}" if queue.get("since") is not None else ""
            yield f"{name} is {cell(state)} {who}{since}; understudy queues resume {name}"
        if ago(queue.get("blocked_until")).startswith("in "):
            yield f"{name} goes on {ago(queue['blocked_until'])}: a provider said 429"


def _screen(view: dict[str, Any]) -> str:
    health = paint(cell(view["health"]), "green" if view["health"] == "ok" else "red", sys.stdout)
    head = f"understudy {cell(view['version'])}  {health}  up {span(view['uptime'])}  pid {cell(view['pid'])}"
    body = fields(
        (
            ("home", view["home"]),
            ("config", view["config"]),
            ("durability", view["durability"]),
            ("loop lag", f"{view['loop_lag_ms']:.1f} ms"),
            ("blocked by", _blocked(view.get("blocked"))),
            ("agents", _counts(view["agents"])),
            ("workers", _counts(view["workers"])),
            ("repairs", _counts(view.get("repairs", {}))),
        )
    )
    rows = ([name, *(counts.get(word, 0) for word in COUNTED)] for name, counts in view["queues"].items())
    return "\n".join((head, "", body, "", table(("QUEUE", *(word.upper() for word in COUNTED)), rows)))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "none"


def _blocked(blocked: dict[str, Any] | None) -> str:
    return " ".join(f"{name}={cell(value)}" for name, value in blocked.items()) if blocked else ""


@click.command()
@json_option
def ps(as_json: bool) -> None:
    """Show the tree of actors: state, restarts, mailbox, what each is doing."""
    tree = daemon.get("/v1/ps")
    if as_json:
        say_json(tree)
        return
    headers = ("NAME", "STATE", "RESTARTS", "MAILBOX", "OLDEST", "HANDLED", "DOING", "REASON")
    say(table(headers, _branches(tree, 0)))


def _branches(actor: dict[str, Any], depth: int) -> Iterator[tuple[Any, ...]]:
    oldest, doing_for = actor.get("oldest"), actor.get("doing_for")
    doing = actor.get("doing")
    if doing and doing_for is not None:
        doing = f"{doing} ({span(doing_for)})"
    yield (
        "  " * depth + actor["name"],
        actor["state"],
        actor["restarts"],
        actor["mailbox"],
        None if oldest is None else span(oldest),
        actor.get("handled", 0),
        doing,
        actor.get("reason"),
    )
    for child in actor.get("children", ()):
        yield from _branches(child, depth + 1)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the version of the command line, and of the daemon if one runs."""
    hello = _hello()
    if as_json:
        shown = {"version": version_of_cli(), "python": python_version(), "daemon": hello and hello["version"]}
        say_json(shown)
        return
    say(f"understudy {version_of_cli()} (Python {python_version()})")
    say(f"daemon {cell(hello['version'])} (pid {cell(hello['pid'])})" if hello else "daemon not running")


def _hello() -> dict[str, Any] | None:
    try:
        return daemon.hello()
    except Failure as failure:
        if failure.exit != EXIT_NOT_RUNNING:
            note(failure.render())
        return None
