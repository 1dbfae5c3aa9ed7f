"""The command `understudy`: the table of its commands, and the one place where a failure becomes an exit code."""

import os
import sys
from typing import Final

import click

from runtime.cli.failure import Failure
from runtime.cli.lazy import LazyGroup
from runtime.cli.text import note, say
from schemas.codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

COMMANDS: Final = {
    "up": ("runtime.cli.lifecycle", "up", "Start the daemon, here or in the background."),
    "down": ("runtime.cli.lifecycle", "down", "Stop the daemon and wait until it is gone."),
    "reload": ("runtime.cli.lifecycle", "reload", "Read the configuration again."),
    "status": ("runtime.cli.looking", "status", "One screen: what runs, what waits, what is wrong."),
    "ask": ("runtime.cli.ask", "ask", "Say something to an agent and stream its answer."),
    "chat": ("runtime.cli.chat", "chat", "Talk with an agent on the terminal."),
    "approvals": ("runtime.cli.approvals", "approvals", "What agents ask a person for: allow it or deny it."),
    "runs": ("runtime.cli.runs", "runs", "What agents did, said, called and spent."),
    "send": ("runtime.cli.send", "send", "Send any actor a public message."),
    "why": ("runtime.cli.why", "why", "Why a job or an agent is not moving, and what to do."),
    "ps": ("runtime.cli.looking", "ps", "The tree of actors with mailboxes and restarts."),
    "agents": ("runtime.cli.agents", "agents", "List, show, define, change, pause and fork agents."),
    "providers": ("runtime.cli.providers", "providers", "List providers of models, try one."),
    "tools": ("runtime.cli.tools", "tools", "Accept the tools of an MCP server as they are."),
    "jobs": ("runtime.cli.jobs", "jobs", "Submit, find, follow, hold, cancel and retry jobs."),
    "queues": ("runtime.cli.queues", "queues", "List queues, pause, drain and limit them."),
    "schedules": ("runtime.cli.schedules", "schedules", "Jobs that come again and again."),
    "workers": ("runtime.cli.workers", "workers", "List workers, drain them."),
    "pools": ("runtime.cli.workers", "pools", "Change the number of workers while the daemon runs."),
    "events": ("runtime.cli.events", "events", "What happened, and with -f what happens."),
    "logs": ("runtime.cli.logs", "logs", "The daemon's own log."),
    "config": ("runtime.cli.config", "config", "Check the configuration."),
    "doctor": ("runtime.cli.doctor", "doctor", "Look for what is wrong, and say how to mend it."),
    "version": ("runtime.cli.looking", "version", "The version of the command line and of the daemon."),
}

SHORT_HELP: Final = """\
Understudy: a supervised home for LLM agents.

  understudy up                       start the daemon (Ctrl-C stops it)
  understudy status                   what runs, what waits, what is wrong
  understudy ask assistant "Hello"    ask an agent; its answer streams
  understudy jobs submit KIND --wait  run a job and see its result
  understudy logs -f                  follow the daemon's log

All commands: understudy -h"""


@click.group(
    cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--version", is_flag=True, help="Show the version, as `understudy version` does.")
@click.pass_context
def root(ctx: click.Context, version: bool) -> None:
    """Run and watch a supervised home for LLM agents.

    Every reading command takes --json. Data goes to stdout, everything else to stderr.

    Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 daemon not running, 4 not found, 75 try again, 77 denied,
    78 bad configuration, 124 timed out, 130 interrupted.
    """
    if version:
        from runtime.cli.looking import version as shows

        ctx.invoke(shows)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        say(SHORT_HELP)


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        # A locale that cannot write a letter must not end a command that has done its work.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper at this point
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # one that came while another failure was being told
        code = EXIT_INTERRUPTED
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; whatever it raises is told on stderr in a line or three.

    A reader that closed the pipe (`| head`) is click's affair: it ends the process with 1 and without a word.
    """
    try:
        code = root.main(argv, prog_name="understudy", standalone_mode=False)
        return code if isinstance(code, int) else EXIT_OK
    except Failure as failure:
        if told := failure.render():
            click.echo(told.removesuffix("\n"), err=True)
        return failure.exit
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        note("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("UNDERSTUDY_DEBUG"):
            raise
        what = f"Unexpected: {type(error).__name__}: {error}"
        click.echo(Failure(what, hint="UNDERSTUDY_DEBUG=1 understudy ... shows where").render(), err=True)
        return EXIT_FAILED
