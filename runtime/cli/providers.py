"""`providers`: how the ways to the models stand, and one small call to try one."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option
from runtime.cli.text import cell, first_line, say, say_json, table, took
from schemas.codes import EXIT_FAILED, EXIT_OK

LIST: Final = (
    *("PROVIDER", "TYPE", "BREAKER", "ACTIVE", "WAITING", "CALLS", "FAILURES", "CACHED"),
    *("AGENTS", "KEY", "URL", "LAST ERROR"),
)

PATIENCE: Final = 300.0
"""Seconds that a call may take: a model may have to be loaded first."""

ERROR: Final = 60
"""Columns that the last error may take in the table; --json has all of it."""


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.providers", "ls", "List providers: calls, failures, whether they are held back."),
        "test": ("runtime.cli.providers", "test", "Make one small call."),
    },
)
def providers() -> None:
    """List providers of models, try one."""


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List providers: calls, failures, whether they are held back (BREAKER open: calls are refused for a while)."""
    found = daemon.get("/v1/providers")
    say_json(found) if as_json else say(table(LIST, map(_row, found)))


def _row(provider: dict[str, Any]) -> tuple[Any, ...]:
    return (
        provider["name"],
        provider["type"],
        provider.get("breaker"),
        *(provider.get(name, 0) for name in ("active", "waiting", "calls", "failures", "cache_hits")),
        ", ".join(provider.get("agents", ())),
        provider.get("key"),
        provider.get("url"),
        first_line(provider.get("last_error") or "", ERROR),
    )


@click.command()
@click.argument("name")
@click.option("--model", help="Which model; else that of an agent that uses the provider.")
@json_option
def test(name: str, model: str | None, as_json: bool) -> int:
    """Make one small call of a provider's model, and tell how it went. Exit code 1 if it failed.

    It is a real call: it costs what a call of a few words costs.
    """
    body = {} if model is None else {"model": model}
    tested = daemon.post(f"/v1/providers/{daemon.segment(name)}/test", body, subject=name, patience=PATIENCE)
    if as_json:
        say_json(tested)
        return EXIT_OK if tested["ok"] else EXIT_FAILED
    if not tested["ok"]:
        what = f"The provider {name} did not answer"
        raise Failure(what, tested.get("error") or "", (tested.get("hint") or "").replace("`", ""))
    say(_told(name, tested))
    return EXIT_OK


test.__test__ = False  # type: ignore[attr-defined]  # no test case, whatever a test runner makes of the name


def _told(name: str, tested: dict[str, Any]) -> str:
    usage = tested.get("usage") or {}
    first, total = took(tested.get("first_ms")), took(tested.get("total_ms"))
    times = ", ".join(f"{what} {time}" for what, time in (("first word after", first), ("whole after", total)) if time)
    tokens = f"{usage.get('input_tokens', 0)} tokens in, {usage.get('output_tokens', 0)} out" if usage else ""
    head = f"{cell(name)} ok: {cell(tested.get('model'))}"
    lines = ["; ".join(filter(None, (head, times, tokens)))]
    if tested.get("text"):
        lines.append(f"  it said: {first_line(tested['text'], 200)}")
    return "\n".join(lines)
