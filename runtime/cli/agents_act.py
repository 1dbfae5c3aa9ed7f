"""`agents new`, `edit`, `pause`, `resume`, `restart`, `rm`, `fork`: what a person changes about agents."""

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from runtime.cli import daemon
from runtime.cli.failure import Failure
from runtime.cli.params import json_option, json_value, quoted
from runtime.cli.text import cell, is_tty, note, say, say_json
from schemas.codes import EXIT_USAGE

F = TypeVar("F", bound=Callable[..., Any])

WORDS: Final = ("role", "goal", "backstory", "instructions")
LLM: Final = ("provider", "model")

_SETTINGS: Final = (
    click.option("--role", help="Who it is, in a few words."),
    click.option("--goal", help="What it is to achieve."),
    click.option("--backstory", help="Where it comes from, how it speaks."),
    click.option("--instructions", help="Rules it follows."),
    click.option("--provider", help="The provider of its model: local, or a [providers.NAME] of the configuration."),
    click.option("--model", help="The model's name at that provider."),
    click.option("--tool", "tools", multiple=True, metavar="TOOL", help="What it may use; may be given many times."),
    click.option(
        "--set",
        "pairs",
        multiple=True,
        metavar="KEY=JSON",
        help="Any other setting of [agents.NAME]; KEY may be one of a table, such as budget.day_cost.",
    ),
)


def settings_options(command: F) -> F:
    """Add the options that say how an agent is."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.command(
    epilog="Example: understudy agents new clerk --role clerk --provider local --model m --set budget.run_calls=5"
)
@click.argument("name")
@settings_options
@json_option
def new(name: str, as_json: bool, **options: Any) -> None:
    """Define the agent NAME. It is kept in the database, so it is there after a restart."""
    body = {"name": name, "settings": settings(options)}
    _tell(daemon.post("/v1/agents", body, subject=name), "defined", as_json=as_json)


@click.command(epilog="""Example: understudy agents edit clerk --set 'permissions={"fetch": "ask"}' --unset goal""")
@click.argument("name")
@settings_options
@click.option("--unset", multiple=True, metavar="KEY", help="Take a setting back to its default.")
@json_option
def edit(name: str, unset: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Change settings of an agent that was defined with `agents new`; what is not named stays.

    Tools that are given come in place of all that it has. Of a table, such as budget, only the keys that are given
    change.
    """
    changes = settings(options)
    for key in unset:
        if not _put(changes, key, None):
            raise click.UsageError(f"{key} is set and unset at once; say one of both.")
    if not changes:
        raise click.UsageError("Say what to change: --role, --model, --tool, --set KEY=JSON, --unset KEY, ...")
    body = {"settings": changes}
    _tell(daemon.post(_path(name, "edit"), body, subject=name), "changed", as_json=as_json)


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the options name, as the agent's table in config.toml would have them."""
    found: dict[str, Any] = {word: options[word] for word in WORDS if options[word] is not None}
    if llm := {word: options[word] for word in LLM if options[word] is not None}:
        found["llm"] = llm
    if options["tools"]:
        found["tools"] = list(options["tools"])
    for pair in options["pairs"]:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set needs KEY=JSON, not {pair}")
        if not _put(found, key, json_value(text, what=f"--set {key}", form=_form(key))):
            raise click.UsageError(f"{key} is set twice; say it once.")
    return found


def _form(key: str) -> Callable[[str], str]:
    return lambda text: f"--set {quoted(f'{key}={text}')}"


def _put(found: dict[str, Any], key: str, value: Any) -> bool:
    """Set KEY, or TABLE.KEY, unless something stands there. A key of a table may hold dots, as tools' names do."""
    table, dot, word = key.partition(".")
    inner = found.setdefault(table, {}) if dot else found
    word = word if dot else key
    if not isinstance(inner, dict) or word in inner:
        return False
    inner[word] = value
    return True


@click.command()
@click.argument("name")
@json_option
def pause(name: str, as_json: bool) -> None:
    """Have an agent begin no more turns, over restarts too. A turn that runs ends; words for it wait."""
    answer = daemon.post(_path(name, "pause"), {"paused": True}, subject=name)
    _tell(answer, "paused", as_json=as_json)
    if not as_json and is_tty(sys.stderr):
        note(f"let it go on: understudy agents resume {name}")


@click.command()
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Let a paused agent go on with what has waited for it."""
    _tell(daemon.post(_path(name, "pause"), {"paused": False}, subject=name), "resumed", as_json=as_json)


@click.command()
@click.argument("name")
@json_option
def restart(name: str, as_json: bool) -> None:
    """Start an agent anew, also one in quarantine. Turns that run are cut and run again; what is done is not redone."""
    _tell(daemon.post(_path(name, "restart"), {}, subject=name), "restarted", as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do it, without asking.")
@json_option
def rm(name: str, yes: bool, as_json: bool) -> None:
    """Forget an agent that was defined with `agents new`. Its conversations and its state stay for a new one."""
    if not yes:
        _ask(name)
    answer = daemon.post(_path(name, "remove"), {}, subject=name)
    say_json(answer) if as_json else say(f"{cell(name)} removed; its conversations stay")


def _ask(name: str) -> None:
    if not (is_tty(sys.stdin) and is_tty(sys.stderr)):
        raise Failure("Nothing was done: nobody is here to be asked", hint="add --yes to do it", code=EXIT_USAGE)
    click.confirm(f"Forget the agent {cell(name)}?", abort=True, err=True)


@click.command()
@click.argument("name")
@click.argument("source")
@click.argument("target")
@click.option("--keep", type=click.IntRange(0), help="Only the first so many messages.")
@json_option
def fork(name: str, source: str, target: str, keep: int | None, as_json: bool) -> None:
    """Begin the conversation TARGET of agent NAME with the messages of the conversation SOURCE."""
    body = {"source": source, **({} if keep is None else {"keep": keep})}
    number = daemon.post(_path(name, f"conversations/{daemon.segment(target)}/fork"), body, subject=name)
    if as_json:
        say_json({"conversation": target, "messages": number})
        return
    say(f"{cell(target)} begins with {number} {'message' if number == 1 else 'messages'} of {cell(source)}")
    if is_tty(sys.stderr):
        note(f"go on in it: understudy chat {name} --conversation {target}")


def _path(name: str, what: str) -> str:
    return f"/v1/agents/{daemon.segment(name)}/{what}"


def _tell(agent: dict[str, Any], done: str, *, as_json: bool) -> None:
    if as_json:
        say_json(agent)
        return
    say(f"{cell(agent['name'])} {done}, it is {cell(agent['status'])} ({cell(agent['state'])})")
    if agent.get("reason"):
        note(f"  why: {agent['reason']}")
