"""What a sound configuration names outside itself: code, scripts, models, programs and keys, and whether it is there.

It loads what the daemon would load, so it runs in a process of its own.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from runtime.config import find, load, placed, render
from runtime.config_spans import Loc
from runtime.errors import ConfigError, ConfigInvalid, LoadFailed, LocalModelMissing, SecretUnavailable, UnderstudyError
from runtime.llm.local import MODELS, find_model
from runtime.llm.scripted import ECHO, load_script
from runtime.loader import load_object
from runtime.sandbox.parent import child_env
from runtime.secrets import resolve
from runtime.stateful import StatefulActor
from runtime.tools.functions import load_tool
from schemas.codes import CODES, EXIT_OK, EXIT_USAGE
from schemas.config import AgentSettings, LocalProvider, ScriptedProvider, Settings


def main(arguments: list[str]) -> int:
    """Do what `config check` does: `[FILE]`. Mistakes and warnings go to stderr; returns the exit code (0, 2 or 78)."""
    if len(arguments) > 1:
        sys.stderr.write("usage: python -m runtime.config_check [FILE]\n")
        return EXIT_USAGE
    try:
        path = find(arguments[0] if arguments else None, os.environ)
        loaded = load(path)
        missing = list(absences(loaded.settings, loaded.folder, os.environ))
        warnings, mistakes = (
            placed(path, [one[:4] for one in missing if one.fatal is fatal]) for fatal in (False, True)
        )
    except ConfigError as error:
        why = render(error.data["mistakes"]) if isinstance(error, ConfigInvalid) else f"error: {error.detail}"
        sys.stderr.write(f"{why}\n")
        return CODES[error.code].exit
    shown = [text for text in (render(warnings, "warning"), render(mistakes)) if text]
    sys.stderr.write("\n\n".join(shown) + "\n" * bool(shown))
    if mistakes:
        return CODES[ConfigInvalid.code].exit
    warned = f", {counted(len(warnings), 'warning')}" if warnings else ""
    sys.stdout.write(f"{loaded.path}: no mistakes{warned}; {counted(len(loaded.settings.agents), 'agent')}\n")
    return EXIT_OK


def counted(count: int, noun: str) -> str:
    """Return "1 agent", "2 agents"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Absence(NamedTuple):
    """Something that is not there: where it is named, and what to do. A *fatal* one keeps an agent or a job from
    working wherever the daemon is started; the others depend on that.
    """

    loc: Loc
    code: str
    message: str
    hint: str
    fatal: bool = True


def absences(settings: Settings, folder: Path, environ: Mapping[str, str]) -> Iterator[Absence]:
    """Yield what *settings*, whose code lies in *folder*, name and what is not there."""
    for name, kind in settings.kinds.items():
        yield from _code(("kinds", name, "run"), lambda run=kind.run: _function(run, folder))  # type: ignore[misc]
    for name, agent in settings.agents.items():
        yield from _of_agent(("agents", name), agent, settings, folder, environ)
    for name, provider in settings.providers.items():
        if (key := getattr(provider, "api_key", None)) is not None:
            yield from _secret(("providers", name, "api_key"), key, environ)
    for name, server in settings.tools.mcp.items():
        loc = ("tools", "mcp", name)
        if find_spec("mcp") is None:
            yield Absence(loc, "extra_missing", "MCP needs an extra", "pip install 'understudy[mcp]'", fatal=False)
        if server.command:
            yield from _program((*loc, "command"), server.command[0], folder / (server.cwd or "."), environ)
        for table in ("env", "headers"):
            for key, reference in getattr(server, table).items():
                yield from _secret((*loc, table, key), reference, environ)


def _of_agent(
    loc: Loc, agent: AgentSettings, settings: Settings, folder: Path, environ: Mapping[str, str]
) -> Iterator[Absence]:
    if (actor := agent.actor) is not None:
        yield from _code((*loc, "actor"), lambda: _actor(actor, folder))
    if isinstance(output := agent.output, str):
        yield from _code((*loc, "output"), lambda: _model(output, folder))
    for place, tool in enumerate(agent.tools):
        if ":" in tool and "/" not in tool:
            yield from _code((*loc, "tools", place), lambda tool=tool: load_tool(tool, folder))  # type: ignore[misc]
        elif "/" in tool and (server := tool.partition("/")[0]) not in settings.tools.mcp:
            text = f"there is no MCP server {server!r}"
            yield Absence((*loc, "tools", place), "mcp_missing", text, f"define it under [tools.mcp.{server}]")
    if agent.exec:
        yield from _program((*loc, "exec"), agent.exec[0], folder, environ)
    if agent.workdir is not None and not (folder / agent.workdir).is_dir():
        text = f"there is no folder {folder / agent.workdir}"
        yield Absence((*loc, "workdir"), "folder_missing", text, "it is made, empty, when it is needed", fatal=False)
    if agent.llm is not None and agent.actor is None and not agent.exec:
        yield from _mind((*loc, "llm"), agent.llm.provider, agent.llm.model, settings, folder)


def _mind(loc: Loc, provider: str, model: str, settings: Settings, folder: Path) -> Iterator[Absence]:
    match settings.provider(provider):
        case ScriptedProvider(dir=scripts) if model != ECHO:
            yield from _code((*loc, "model"), lambda: load_script(model, folder / scripts))
        case LocalProvider() if find_spec("xllamacpp") is None:
            fix = "pip install 'understudy[local]'"
            yield Absence((*loc, "provider"), "extra_missing", "local models need an extra", fix, fatal=False)
        case LocalProvider(model=file):
            if file in MODELS and model != file:
                text = f"the provider {provider!r} runs {file!r}, whatever a request names; not {model!r}"
                hint = f"name {file!r} here, or set `model` under [providers.{provider}] to the path of a .gguf file"
                yield Absence((*loc, "model"), "model_ignored", text, hint, fatal=False)
            where = ("providers", provider, "model") if provider in settings.providers else (*loc, "model")
            try:
                find_model(file)
            except LocalModelMissing as error:
                yield Absence(where, "model_missing", error.detail, "", fatal=False)


def _code(loc: Loc, load: Callable[[], Any]) -> Iterator[Absence]:
    try:
        load()
    except UnderstudyError as error:
        yield Absence(loc, "code_unusable", error.detail, "")


def _function(reference: str, folder: Path) -> None:
    if not callable(load_object(reference, folder)):
        raise LoadFailed(f"{reference} is no function")


def _actor(reference: str, folder: Path) -> None:
    found = load_object(reference, folder)
    if not (isinstance(found, type) and issubclass(found, StatefulActor)) and not callable(getattr(found, "run", None)):
        raise LoadFailed(f"{reference} is neither derived from runtime.stateful.StatefulActor nor a backend with `run`")


def _model(reference: str, folder: Path) -> None:
    found = load_object(reference, folder)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise LoadFailed(f"{reference} is no pydantic model")


def _program(loc: Loc, program: str, folder: Path, environ: Mapping[str, str]) -> Iterator[Absence]:
    """Look for *program* as a child that is started in *folder* would find it."""
    path = child_env(environ).get("PATH")
    if shutil.which(str(folder / program) if "/" in program else program, path=path) is None:
        where = f"{folder / program} is not there, or is no program" if "/" in program else "it is not on PATH"
        yield Absence(loc, "program_missing", f"{program!r} cannot be started: {where}", HOW_PROGRAM)


HOW_PROGRAM: Final = "install it, or name it by its whole path; one beside the configuration begins with ./"


def _secret(loc: Loc, reference: str, environ: Mapping[str, str]) -> Iterator[Absence]:
    try:
        resolve(reference, environ)
    except SecretUnavailable as error:
        yield Absence(loc, "secret_missing", f"{error.detail}", "the daemon looks where it is started", fatal=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
