"""`config check`: what the daemon would say about a configuration, without starting it."""

import sys
from subprocess import call

import click

from runtime.cli.lazy import LazyGroup


@click.group(
    cls=LazyGroup, lazy={"check": ("runtime.cli.config", "check", "Show every mistake with its file, line and column.")}
)
def config() -> None:
    """Look at the configuration."""


def check_argv(file: str | None) -> list[str]:
    """Return the command that checks a configuration; in a process of its own, since it loads what the daemon loads."""
    return [sys.executable, "-P", "-m", "runtime.config_check", *([file] if file else [])]


@click.command()
@click.option("-c", "--config", "file", metavar="FILE", help="Else $UNDERSTUDY_CONFIG, else ./config.toml.")
def check(file: str | None) -> int:
    """Show every mistake with its file, line and column, and what is named and not there: code, programs, keys.

    Loads your code, as the daemon would. Exit code 0 if there is no mistake, 78 otherwise; a warning is none.
    """
    sys.stdout.flush()
    return call(check_argv(file))
