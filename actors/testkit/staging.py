"""A stage: a whole daemon in memory for a test, with models that the test plays."""

import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from actors.testkit.acting import Stage
from actors.testkit.boot import Plan
from actors.testkit.model import ScriptedModel
from actors.testkit.tools import as_tool, folder_of
from actors.testkit.virtual import hold_time
from runtime.llm.provider import Provider
from runtime.loader import USER_PACKAGE, use_folder
from runtime.tools.tool import Tool
from schemas.base import MESSAGE_TYPES

CONFIG: Final = "config.toml"


Models = Mapping[str, Provider] | ScriptedModel | None
Tools = Mapping[str, Tool | Callable[..., Any]]


@asynccontextmanager
async def stage(
    config: str | Path = "",
    models: Models = None,
    files: Mapping[str, str] | None = None,
    folder: Path | None = None,
    *,
    tools: Tools | None = None,
    servers: bool = False,
    strict: bool = True,
) -> AsyncIterator[Stage]:
    """Run a whole daemon in memory for the length of the block, without network, socket or database.

    config   the text of a config.toml, or the path of one that is there
    models   what plays each provider, by name; or one model for all of them. A provider that nobody plays fails
             (but for scripts of the scripted one); without any, all are played by one new `ScriptedModel`
    files    more files beside the configuration, by name
    folder   where they are written; without it in a folder that goes with the block
    tools    functions or tools in place of those that agents name (`{"shell": fake}`)
    servers  start the MCP servers of the configuration, too; for them use a loop with real time
    strict   fail at the start where an agent or one of its tools is not there, and at the end where a scripted model
             was asked what it did not expect, or has something left to say

    Modules are read anew for each stage, except those that the test has imported itself from the folder: the agents use
    the same ones. Raises ConfigInvalid, and AssertionError for what *strict* tells. Time is the event loop's: see
    `actors.testkit.virtual`.
    """
    with folder_of("stage") as home:
        path = placed(config, files or {}, folder or home / "files")
        given, every = played(models)
        kept = {name: as_tool(tool, name) for name, tool in (tools or {}).items()}
        plan = Plan(path, home, given, every, kept, servers)
        with hold_time(), modules_of(path.parent, home):
            found = Stage(plan, path.parent)
            failure: BaseException | None = None
            async with anyio.create_task_group() as tasks:
                try:
                    await found.up(tasks, strict=strict)
                    yield found
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001  # raised below: in here it would come out in a group
                    failure = error
                try:
                    await found.down()
                except AssertionError as error:
                    failure = failure or error
            if failure is not None:
                raise failure
        if strict:
            for model in {id(one): one for one in (every, *given.values())}.values():
                if isinstance(model, ScriptedModel):
                    model.assert_done()


def played(models: Models) -> tuple[Mapping[str, Provider], Provider | None]:
    """Return who plays the named providers, and who plays all others."""
    if models is None:
        return {}, ScriptedModel()
    if isinstance(models, Mapping):
        return models, None
    return {}, models


def placed(config: str | Path, files: Mapping[str, str], folder: Path) -> Path:
    """Return the path of the configuration; where it is text, write it and *files* into *folder*. Raises
    FileExistsError rather than replace a file that no stage has written.
    """
    if isinstance(config, Path):
        if files:
            raise ValueError("files are written beside a configuration that is text; this one is a path")
        return config.absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in {CONFIG: config, **files}.items():
        path = folder.resolve() / name
        if path.exists() and path not in _WRITTEN:
            raise FileExistsError(f"{path} is there and was not written by a stage: give its path, or another folder")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        path.chmod(0o600)  # code that others may change is not run
        _WRITTEN.add(path)
    return folder.resolve() / CONFIG


_WRITTEN: set[Path] = set()


@contextmanager
def modules_of(folder: Path, elsewhere: Path) -> Iterator[None]:
    """Have the user's modules come from *folder*, read anew; those that the test has imported from there itself are
    taken as they are, so that both mean the same classes and the same lists.
    """
    use_folder(elsewhere)
    use_folder(folder)
    for module in list(sys.modules.values()):
        name = name_in(folder, getattr(module, "__file__", None))
        if name is not None:
            sys.modules.setdefault(f"{USER_PACKAGE}.{name}", module)
    try:
        yield
    finally:
        use_folder(elsewhere)
        for word, kind in list(MESSAGE_TYPES.items()):
            if kind.__module__.startswith(f"{USER_PACKAGE}."):
                del MESSAGE_TYPES[word]  # a test may yet import the module itself, which declares it again


def name_in(folder: Path, file: str | None) -> str | None:
    """Return what the module in *file* is called for code in *folder*; None where it is not in there."""
    if not file or not file.endswith(".py"):
        return None
    where = next((root for root in (folder, folder.resolve()) if file.startswith(f"{root}/")), None)
    if where is None:
        return None
    parts = Path(file).relative_to(where).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None
