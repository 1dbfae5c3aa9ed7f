"""`workers` and `pools`: who works, who is to stop, and how many there are."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option
from runtime.cli.text import ago, cell, say, say_json, table
from schemas.codes import EXIT_NOT_RUNNING

LIST: Final = ("ID", "POOL", "LANE", "STATUS", "AGENT", "SERVES", "JOB", "HEARTBEAT")


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.workers", "ls", "List workers with the job that each runs."),
        "drain": ("runtime.cli.workers", "drain", "Have workers end their job and take no other."),
        "resume": ("runtime.cli.workers", "resume", "Have drained workers take jobs again."),
    },
)
def workers() -> None:
    """Look at the workers, drain them."""


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List workers with the job that each runs."""
    found = daemon.get("/v1/workers")
    if as_json:
        say_json(found)
    else:
        say(table(LIST, map(_row, found)))


def _row(worker: dict[str, Any]) -> tuple[Any, ...]:
    return (
        worker["id"],
        worker.get("pool"),
        worker["lane"],
        _status(worker),
        worker["agent"],
        ", ".join(worker.get("serves", ())),
        worker.get("job"),
        ago(worker["last_heartbeat_at"]),
    )


def _status(worker: dict[str, Any]) -> str:
    return f"{worker['status']}, draining" if worker.get("draining") else str(worker["status"])


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
def drain(ids: tuple[str, ...], as_json: bool) -> int:
    """Have workers end their job and take no other."""
    return _drain(ids, as_json=as_json, drain=True)


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@json_option
def resume(ids: tuple[str, ...], as_json: bool) -> int:
    """Have drained workers take jobs again."""
    return _drain(ids, as_json=as_json, drain=False)


def _drain(ids: tuple[str, ...], *, as_json: bool, drain: bool) -> int:
    found, code = [], 0
    for worker in ids:
        try:
            found.append(daemon.post(f"/v1/workers/{daemon.segment(worker)}/drain", {"drain": drain}, subject=worker))
        except Failure as failure:
            if len(ids) == 1 or failure.exit == EXIT_NOT_RUNNING:
                raise
            click.echo(failure.render(), err=True)
            code = failure.exit
            continue
        if not as_json:
            say(f"{cell(found[-1]['id'])} {_status(found[-1])}")
    if as_json:
        say_json(found[0] if len(ids) == 1 else found)
    return code


@click.group(
    cls=LazyGroup,
    lazy={"resize": ("runtime.cli.workers", "resize", "Give a pool another size, until the daemon stops.")},
)
def pools() -> None:
    """Change the number of workers while the daemon runs."""


@click.command()
@click.argument("name", metavar="POOL")
@click.argument("size", type=click.IntRange(0, 10_000))
@json_option
def resize(name: str, size: int, as_json: bool) -> None:
    """Give POOL (loop, child, or one of [pools.NAME]) another SIZE, until the daemon stops.

    Workers too many end after their job. To keep the size, write it into the configuration.
    """
    old = daemon.post(f"/v1/pools/{daemon.segment(name)}", {"size": size}, subject=name)
    if as_json:
        say_json({"name": name, "size": size, "before": old})
    else:
        say(f"{cell(name)} has {size} {'worker' if size == 1 else 'workers'}, it had {cell(old)}")
