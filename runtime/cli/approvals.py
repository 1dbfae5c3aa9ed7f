"""`approvals`: what agents ask a person for; allow it, deny it, and what they need not ask for any more."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.answer import ways_to_answer
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import json_option, person, read_stdin
from runtime.cli.text import ago, cell, dump, escape, fields, first_line, is_tty, note, say, say_json, table, when

LIST: Final = ("ID", "AGENT", "TOOL", "ARGUMENTS", "STATUS", "ASKED", "EXPIRES")
GRANTS: Final = ("AGENT", "TOOL", "DIGEST", "SINCE", "BY", "ARGUMENTS")
STATUSES: Final = ("pending", "allowed", "denied", "expired", "used", "void")

ARGUMENTS: Final = 60
"""Columns that arguments may take in a table; `show` and --json have all of them."""


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.approvals", "ls", "List what waits for an answer."),
        "show": ("runtime.cli.approvals", "show", "Show one approval with all its arguments."),
        "allow": ("runtime.cli.approvals", "allow", "Let the agent make the call."),
        "deny": ("runtime.cli.approvals", "deny", "Refuse the call."),
        "grants": ("runtime.cli.approvals", "grants", "List calls that agents may make without asking."),
        "revoke": ("runtime.cli.approvals", "revoke", "Have an agent ask again."),
    },
)
def approvals() -> None:
    """What agents ask a person for: allow it or deny it."""


@click.command()
@click.option("--all", "everything", is_flag=True, help="Those that are answered or over as well.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those in this status; `pending` if not given.")
@click.option("--agent", help="Only those of this agent.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many.")
@json_option
def ls(everything: bool, status: str | None, agent: str | None, limit: int, as_json: bool) -> None:
    """List what agents ask a person for, newest first: what waits for an answer, unless told otherwise."""
    if everything and status is not None:
        raise click.UsageError("--all shows every status; it goes with no --status.")
    wanted = None if everything else status or "pending"
    found = daemon.get("/v1/approvals", status=wanted, agent=agent, limit=limit)
    if as_json:
        say_json(found)
        return
    say(table(LIST, map(_row, found)))
    if wanted == "pending" and is_tty(sys.stderr):
        note("answer one: understudy approvals allow ID, or deny ID" if found else "nothing waits for a person")


def _row(approval: dict[str, Any]) -> tuple[Any, ...]:
    return (
        approval["id"],
        approval["agent"],
        approval["tool"],
        first_line(dump(approval["arguments"]), ARGUMENTS),
        approval["status"],
        ago(approval["asked_at"]),
        ago(approval["expires_at"]),
    )


@click.command()
@click.argument("approval_id", metavar="ID")
@json_option
def show(approval_id: str, as_json: bool) -> None:
    """Show one approval: which call, with which arguments, why a person is asked, and what was answered."""
    approval = daemon.get(_path(approval_id), subject=approval_id)
    if as_json:
        say_json(approval)
        return
    say(_detail(approval))
    if approval["status"] == "pending":
        say(f"\nnext: {ways_to_answer(cell(approval['id']))}")


def _detail(approval: dict[str, Any]) -> str:
    edited = approval.get("edited")
    answered = when(approval.get("answered_at"))
    by = approval.get("answered_by")
    return fields(
        (
            ("id", approval["id"]),
            ("status", approval["status"]),
            ("agent", approval["agent"]),
            ("tool", approval["tool"]),
            ("arguments", dump(approval["arguments"], pretty=True)),
            ("why", approval.get("why")),
            ("run", approval["run"]),
            ("conversation", approval["conversation"]),
            ("asked", when(approval["asked_at"])),
            ("expires", when(approval["expires_at"])),
            ("answered", f"{answered} by {cell(by)}" if answered and by else answered),
            ("said", approval.get("reason")),
            ("with", None if edited is None else dump(edited, pretty=True)),
            ("always", "yes, this call needs no asking any more" if approval.get("always") else None),
            ("digest", approval["digest"]),
        )
    )


@click.command(epilog="""Example: understudy approvals allow ID --edit '{"path": "draft.txt"}'""")
@click.argument("approval_id", metavar="ID")
@click.option("--always", is_flag=True, help="From now on this agent may make exactly this call without asking.")
@click.option("--edit", metavar="JSON|-|@FILE", help="Make the call with these arguments instead.")
@click.option("--reason", help="What you say to it; the model reads it.")
@json_option
def allow(approval_id: str, always: bool, edit: str | None, reason: str | None, as_json: bool) -> None:
    """Let the agent make the call, once. Its run goes on, also where the daemon was started again meanwhile."""
    body = {
        **({"always": True} if always else {}),
        **({} if edit is None else {"arguments": _edited(edit)}),
    }
    approval = _answer(approval_id, allow=True, reason=reason, more=body)
    if as_json:
        say_json(approval)
        return
    often = "from now on, with these arguments, without asking" if always else "once"
    say(f"{cell(approval['id'])} allowed: {cell(approval['agent'])} may call {cell(approval['tool'])} {often}")
    _show_run(approval)


@click.command()
@click.argument("approval_id", metavar="ID")
@click.option("--reason", help="Why not; the model reads it.")
@json_option
def deny(approval_id: str, reason: str | None, as_json: bool) -> None:
    """Refuse the call. The model is told so, and goes on without it."""
    approval = _answer(approval_id, allow=False, reason=reason)
    if as_json:
        say_json(approval)
        return
    say(f"{cell(approval['id'])} denied: {cell(approval['agent'])} may not call {cell(approval['tool'])}")
    _show_run(approval)


def _answer(approval_id: str, *, allow: bool, reason: str | None, more: dict[str, Any] | None = None) -> dict[str, Any]:
    said = {} if reason is None else {"reason": reason}
    body = {"allow": allow, **said, **(more or {}), "by": person()}
    return dict(daemon.post(_path(approval_id), body, subject=approval_id))


def _edited(given: str) -> dict[str, Any]:
    text = given
    try:
        if given == "-":
            text = read_stdin()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"--edit: {given[1:]}: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no UTF-8
        raise click.UsageError(f"--edit is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError("--edit must be a JSON object: the arguments of the call, by name.")
    return value


def _show_run(approval: dict[str, Any]) -> None:
    if is_tty(sys.stderr):
        note(f"its run: understudy runs show {approval['run']}")


def _path(approval_id: str) -> str:
    return f"/v1/approvals/{daemon.segment(approval_id)}"


@click.command()
@click.option("--agent", help="Only those of this agent.")
@json_option
def grants(agent: str | None, as_json: bool) -> None:
    """List calls that agents may make without asking, because a person said --always."""
    found = daemon.get("/v1/grants", agent=agent)
    if as_json:
        say_json(found)
        return
    say(table(GRANTS, map(_grant, found)))
    if found and is_tty(sys.stderr):
        note("have it ask again: understudy approvals revoke AGENT TOOL DIGEST")


def _grant(grant: dict[str, Any]) -> tuple[Any, ...]:
    arguments = first_line(dump(grant["arguments"]), ARGUMENTS)
    return grant["agent"], grant["tool"], grant["digest"], ago(grant["at"]), grant["by"], arguments


@click.command()
@click.argument("agent")
@click.argument("tool")
@click.argument("digest")
@json_option
def revoke(agent: str, tool: str, digest: str, as_json: bool) -> None:
    """Have AGENT ask again before it calls TOOL with the arguments of DIGEST (see `approvals grants`)."""
    answer = daemon.post("/v1/grants/revoke", {"agent": agent, "tool": tool, "digest": digest}, subject=agent)
    say_json(answer) if as_json else say(f"{escape(agent)} asks again before it calls {escape(tool)} like that")
