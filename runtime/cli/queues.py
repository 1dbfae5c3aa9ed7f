"""`queues`: how they stand, and what a person changes about them."""

from collections.abc import Callable
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.lazy import LazyGroup
from runtime.cli.looking import COUNTED
from runtime.cli.params import DURATION, json_option, person
from runtime.cli.text import ago, cell, note, say, say_json, span, table

LIST: Final = ("QUEUE", "STATE", "BY", "MAX", "RATE", "BLOCKED", *(word.upper() for word in COUNTED))


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.queues", "ls", "List queues with what stands in each, and what holds it back."),
        "pause": ("runtime.cli.queues", "pause", "Let nothing of a queue start."),
        "drain": ("runtime.cli.queues", "drain", "Let a queue run what is in it, and refuse new jobs."),
        "resume": ("runtime.cli.queues", "resume", "Let a queue go on."),
        "set": ("runtime.cli.queues", "set_limits", "Change how many jobs of a queue run, and how fast they start."),
    },
)
def queues() -> None:
    """Look at queues, pause and drain them, set their limits. Changes are kept over restarts."""


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List queues with what stands in each, and what holds it back."""
    found = daemon.get("/v1/queues")
    if as_json:
        say_json(found)
    else:
        say(table(LIST, map(_row, found)))


def _row(queue: dict[str, Any]) -> list[Any]:
    counts = queue["counts"]
    until = queue.get("blocked_until")
    return [
        queue["name"],
        queue["state"],
        queue.get("by"),
        queue.get("max_active"),
        rate_text(queue.get("rate")),
        blocked(until),
        *(counts.get(word, 0) for word in COUNTED),
    ]


def blocked(until: int | None) -> str | None:
    """Return how long a provider holds a queue back; nothing once that is over."""
    told = ago(until)
    return told if told.startswith("in ") else None


def rate_text(rate: dict[str, Any] | None) -> str | None:
    """Return a rate in words: `2 jobs, 1000 tokens in 1 s`."""
    if not rate:
        return None
    parts = [f"{rate[unit]} {word}" for unit, word in (("requests", "jobs"), ("tokens", "tokens")) if rate.get(unit)]
    per = rate["per_ms"]
    return f"{', '.join(parts)} in {span(per / 1000) if per >= 1000 else f'{per} ms'}" if parts else None


def _changer(state: str, text: str) -> Callable[..., Any]:
    """Return the command that puts queues in a state."""

    @click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
    @json_option
    def change(names: tuple[str, ...], as_json: bool) -> None:
        found = [_change(name, {"state": state}) for name in names]
        if as_json:
            say_json(found[0] if len(found) == 1 else found)
            return
        for queue in found:
            _tell(queue)

    change.__doc__ = text
    return change


pause: Final = click.command("pause")(
    _changer("paused", "Let nothing of a queue start; what runs goes on. Kept over restarts.")
)
drain: Final = click.command("drain")(
    _changer("draining", "Let a queue run what is in it, and refuse new jobs. Kept over restarts.")
)
resume: Final = click.command("resume")(_changer("running", "Let a queue go on, and take new jobs again."))


@click.command("set")
@click.argument("name", metavar="QUEUE")
@click.option("--max-active", type=click.IntRange(0, 100_000), help="Jobs that run at once; 0 takes the limit away.")
@click.option("--rate-requests", type=click.IntRange(1, 1_000_000), help="Jobs that may start within --per.")
@click.option("--rate-tokens", type=click.IntRange(1), help="Tokens that they may use together within --per.")
@click.option("--per", type=DURATION, help="The time of the rate; 1m if not given.")
@click.option("--no-rate", is_flag=True, help="Take the rate away.")
@json_option
def set_limits(
    name: str,
    max_active: int | None,
    rate_requests: int | None,
    rate_tokens: int | None,
    per: float | None,
    no_rate: bool,
    as_json: bool,
) -> None:
    """Change how many jobs of a queue run at once, and how fast they start. What is not given stays."""
    change: dict[str, Any] = {} if max_active is None else {"max_active": max_active}
    rate = {"requests": rate_requests, "tokens": rate_tokens, "per_ms": None if per is None else round(per * 1000)}
    given = {unit: value for unit, value in rate.items() if value is not None}
    if no_rate and given:
        raise click.UsageError("--no-rate takes the rate away; it goes with no other word about it.")
    if given.keys() == {"per_ms"}:
        raise click.UsageError("--per needs --rate-requests or --rate-tokens.")
    if given or no_rate:
        change["rate"] = given
    if not change:
        raise click.UsageError("Say what to change: --max-active, --rate-requests, --rate-tokens or --no-rate.")
    queue = _change(name, change)
    if as_json:
        say_json(queue)
    else:
        _tell(queue)


def _change(name: str, change: dict[str, Any]) -> dict[str, Any]:
    return dict(daemon.post(f"/v1/queues/{daemon.segment(name)}", change | {"by": person()}, subject=name))


def _tell(queue: dict[str, Any]) -> None:
    limits = []
    if queue.get("max_active") is not None:
        limits.append(f"at most {queue['max_active']} at once")
    if rate := rate_text(queue.get("rate")):
        limits.append(f"at most {rate}")
    say(", ".join((f"{cell(queue['name'])} {cell(queue['state'])}", *limits)))
    if not queue["counts"]:
        note(f"no job has been on the queue {queue['name']} yet")
