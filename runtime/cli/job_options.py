"""The options that say what a job is, for `jobs submit` and for `schedules add`, and the job they make."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

from runtime.cli.params import AFTER, DURATION, WHEN, json_value, quoted

F = TypeVar("F", bound=Callable[..., Any])

CLASSES: Final = ("transient", "rate_limited", "timeout", "permanent", "lost", "dependency", "bug")
"""What an attempt's error may be of; `cancelled` is never tried again."""

_WHAT: Final = (
    click.option("--arg", "pairs", multiple=True, metavar="NAME=JSON", help="One argument; may be given many times."),
    click.option("--args", "whole", metavar="JSON", help="All arguments as one JSON object."),
    click.option("--queue", help="The queue; else the kind's own."),
    click.option("--priority", type=click.IntRange(0, 1000), help="Lower runs sooner; 100 if not given."),
    click.option("--tag", "tags", multiple=True, metavar="TAG", help="To find it by; may be given many times."),
    click.option("--limit-key", metavar="KEY", help="Jobs that share this key also share --limit-max."),
    click.option(
        "--limit-max", type=click.IntRange(1, 100_000), help="How many of the key run at once; 1 if not given."
    ),
    click.option("--tokens", type=click.IntRange(0), help="What it will use of its queue's rate in tokens."),
    click.option("--deadline", type=DURATION, help="The whole job fails unless it is done in this time."),
    click.option("--timeout", type=DURATION, help="How long one attempt may take."),
    click.option("--heartbeat", type=DURATION, help="An attempt that is silent for this long is ended."),
    click.option("--max-attempts", type=click.IntRange(1, 1000), help="How often it is tried."),
    click.option("--retry-base", type=DURATION, help="The first wait between two attempts."),
    click.option("--retry-factor", type=click.FloatRange(1), help="How much longer each next wait is."),
    click.option("--retry-max", type=DURATION, help="The longest wait between two attempts."),
    click.option("--retry-jitter", type=click.FloatRange(0, 1), help="The part of a wait that chance may take away."),
    click.option(
        "--retry-on", multiple=True, type=click.Choice(CLASSES), help="Errors that are tried again; repeat it."
    ),
)

_WHEN: Final = (
    click.option(
        "--after",
        "after",
        type=AFTER,
        multiple=True,
        metavar="ID[:POLICY]",
        help="Start when job ID has completed; POLICY if it does not: cancel (usual), run, hold.",
    ),
    click.option("--delay", type=DURATION, help="Not before this time has passed."),
    click.option("--at", type=WHEN, help="Not before this time: 18:30, 2027-01-31T18:30, or with a zone, +01:00 or Z."),
    click.option("--parent", metavar="ID", help="The job that this one is a part of."),
    click.option("--key", help="Idempotency key: the same key adds nothing a second time."),
    click.option("--unique", metavar="WORD", help="Add nothing while a job of the kind with this word has not ended."),
)


def _with(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def what_options(command: F) -> F:
    """Add the options of a job that may come again and again."""
    return _with(_WHAT)(command)


def when_options(command: F) -> F:
    """Add the options of a job that is submitted once."""
    return _with(_WHEN)(command)


def new_job(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return a new job as the daemon takes it; what was not said is left out."""
    if options.get("at") is not None and options.get("delay") is not None:
        raise click.UsageError("--at and --delay both say when it starts; give one of them.")
    if options["limit_max"] is not None and options["limit_key"] is None:
        raise click.UsageError("--limit-max needs --limit-key.")
    job = {
        "kind": kind,
        "args": arguments(options["pairs"], options["whole"]),
        **{name: options[name] for name in ("queue", "priority", "limit_key", "limit_max", "tokens", "max_attempts")},
        **{name: options.get(name) for name in ("key", "unique", "parent")},
        "run_at": options.get("at"),
        "tags": list(options["tags"]) or None,
        "depends_on": list(options.get("after", ())) or None,
        "retry": retry(options),
    }
    for name in ("delay", "deadline", "timeout", "heartbeat"):
        job[f"{name}_ms"] = ms(options.get(name))
    return {name: value for name, value in job.items() if value is not None}


def retry(options: dict[str, Any]) -> dict[str, Any] | None:
    """Return the retry policy, None where nothing was said of it."""
    policy = {
        "base_ms": ms(options["retry_base"]),
        "factor": options["retry_factor"],
        "max_ms": ms(options["retry_max"]),
        "jitter": options["retry_jitter"],
        "retry_on": list(options["retry_on"]) or None,
    }
    return {name: value for name, value in policy.items() if value is not None} or None


def ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def arguments(pairs: tuple[str, ...], whole: str | None) -> dict[str, Any]:
    """Return the arguments of a job; a single one wins over the object."""
    found: dict[str, Any] = {}
    if whole is not None:
        value = json_value(whole, what="--args", form=lambda text: f"--arg {quoted(f'NAME={text}')}")
        if not isinstance(value, dict):
            raise click.UsageError(f"--args must be a JSON object like '{{\"name\": 1}}', not {whole}")
        found.update(value)
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--arg needs NAME=JSON, not {pair}")
        found[name] = json_value(text, what=f"--arg {name}", form=_form(name))
    return found


def _form(name: str) -> Callable[[str], str]:
    return lambda text: f"--arg {quoted(f'{name}={text}')}"
