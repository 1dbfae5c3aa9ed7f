"""The tools `git.status`, `git.diff`, `git.log` and `git.show`: reading, in the agent's own repository, and nothing
that the repository's configuration would have git run.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio.to_thread

from runtime.errors import ToolError, ToolInvalid
from runtime.tools.commands import MAX_OUTPUT, run
from runtime.tools.inside import parts_of
from runtime.tools.schema import mistakes
from runtime.tools.tool import Tool, ToolContext, ToolResult

# What a repository could name to be run, and what would wait for somebody.
SAFE: Final = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat", "-c", "diff.external="),
    *("-c", "protocol.allow=never", "-c", "core.attributesFile=/dev/null", "-c", "log.showSignature=false"),
    *("-c", "color.status=false", "-c", "column.ui=never", "-c", "safe.bareRepository=explicit"),
    # Files anywhere that a repository could name to be read.
    *("-c", "core.excludesFile=/dev/null", "-c", "diff.orderFile=/dev/null", "-c", "log.mailmap=false"),
    *("-c", "mailmap.file=/dev/null"),
    *("--no-pager", "--no-optional-locks", "--literal-pathspecs"),
)
ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_ATTR_NOSYSTEM": "1",
    # Stronger than `protocol.*` of the repository: what a partial clone lacks is not fetched.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
}
# A submodule has a configuration of its own, so none is entered.
SHALLOW: Final = "--ignore-submodules=all"
PLAIN: Final = ("--no-ext-diff", "--no-textconv", "--no-color", SHALLOW, "--submodule=short")
REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@{}~^-]{0,199}")
TIMEOUT: Final = 30.0
MAX_LOOKED: Final = 100_000
"""Files of what git keeps that are looked at."""
# What git says of a wrong file often quotes it, and a link can make any file one of git's.
HARMLESS: Final = re.compile(
    r"fatal: (?:ambiguous argument|bad revision|bad object|invalid object name|not a git repository|unknown revision"
    r"|your current branch|detected dubious ownership|no such path|path '|log for )"
)

PATH: Final[dict[str, Any]] = {"type": "string", "description": "only this file or folder"}
REV: Final[dict[str, Any]] = {"type": "string", "description": "a commit, branch or tag"}


def git_tools() -> dict[str, Tool]:
    """Return the four tools by name."""
    return {
        "git.status": _tool(
            "git.status", "What has changed in your repository.", {}, ("status", "--short", "--branch", SHALLOW)
        ),
        "git.diff": _tool(
            "git.diff", "What has changed, line by line.", {"revision": REV, "path": PATH}, ("diff", *PLAIN)
        ),
        "git.log": _tool(
            "git.log",
            "The latest commits.",
            {"revision": REV, "path": PATH, "count": {"type": "integer", "minimum": 1, "maximum": 100}},
            ("log", "--no-color", "--date=iso", "--format=%h %ad %an: %s"),
        ),
        # With a format of ours, for one of the repository's could have signatures checked by a program.
        "git.show": _tool(
            "git.show", "One commit.", {"revision": REV, "path": PATH}, ("show", *PLAIN, "--format=medium")
        ),
    }


def _tool(name: str, words: str, properties: dict[str, Any], command: tuple[str, ...]) -> Tool:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        wrong = mistakes(arguments, schema)
        if not wrong and not REVISION.fullmatch(arguments.get("revision", "HEAD")):
            wrong = ["revision: is none that git knows"]
        if wrong:
            raise ToolInvalid("; ".join(wrong), errors=wrong)
        return arguments

    async def look(ctx: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        await _own(ctx.workdir)
        words = [*command]
        if name == "git.log":
            words.append(f"--max-count={arguments.get('count', 20)}")
        if "revision" in arguments:
            words.append(arguments["revision"])
        if name != "git.status":
            words.append("--")  # so that nothing before it is taken for a path
        if "path" in arguments:
            words.append("/".join(parts_of(arguments["path"])) or ".")
        return ToolResult(await _git(ctx.workdir, *words, extra=await _without_filters(ctx.workdir)) or "(nothing)")

    return Tool(name, words, schema, look, check, effect="pure", traits=frozenset({"private"}), timeout=TIMEOUT)


async def _own(folder: Path) -> None:
    """Raises ToolError unless the repository is the agent's own: its files and all that git keeps of it lie in the
    agent's folder.
    """
    places = await _git(folder, "rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
    if not _inside(folder, places.splitlines()):
        raise ToolError("your folder is no repository")
    await anyio.to_thread.run_sync(_check_files, folder, places.splitlines()[1:], abandon_on_cancel=True)


def _inside(folder: Path, places: list[str]) -> bool:
    top = folder.resolve()
    return len(places) == 3 and all((top / place).resolve().is_relative_to(top) for place in places)


def _check_files(folder: Path, places: list[str]) -> None:
    """Raises ToolError where a file of those that git keeps lies elsewhere: by a link, or as git's own setting."""
    top, looked = folder.resolve(), 0
    for place in {(top / place).resolve() for place in places}:
        for at, folders, files in os.walk(place):
            looked += len(folders) + len(files)
            if looked > MAX_LOOKED:
                raise ToolError("the repository has too many files of its own; have it packed: git gc")
            for name in (*folders, *files):
                path = Path(at, name)
                if path.is_symlink() and not path.resolve().is_relative_to(top):
                    told = path.relative_to(place)
                    raise ToolError(
                        f"{told} of the repository is a link that leads out of your folder, so it is not read"
                    )
        if (place / "objects" / "info" / "alternates").exists():
            raise ToolError(
                "the repository borrows objects of another one (objects/info/alternates), so it is not read; to have"
                " its own: git repack -a -d, and remove that file"
            )


async def _without_filters(folder: Path) -> dict[str, str]:
    """Return the environment in which the filters that the configuration names do nothing: even a look at what has
    changed would run them.
    """
    ended, out, _ = await run(
        ("git", *SAFE, "config", "--includes", "--null", "--name-only", "--get-regexp", r"^filter\."),
        folder,
        ENVIRONMENT,
    )
    if ended.code not in (0, 1):  # 1: there are none
        raise ToolError("the repository's configuration cannot be read")
    if "\ufffd" in out:  # such a name could not be told to git
        raise ToolError("the repository's configuration is no text")
    if len(out.encode()) >= MAX_OUTPUT // 2:  # some may have been left out
        raise ToolError("the repository's configuration is too large")
    names = sorted({key.rpartition(".")[0] for key in out.split("\0") if key.count(".") > 1})
    off = [(f"{name}.{what}", "") for name in names for what in ("clean", "smudge", "process")]
    off += [(f"{name}.required", "false") for name in names]
    told = {"GIT_CONFIG_COUNT": str(len(off))}
    for number, (key, value) in enumerate(off):
        told |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return told


async def _git(folder: Path, *words: str, extra: Mapping[str, str] | None = None) -> str:
    ended, out, err = await run(("git", *SAFE, *words), folder, {**ENVIRONMENT, **(extra or {})})
    if ended.code != 0:
        told = next((line for line in err.splitlines() if HARMLESS.match(line)), "git cannot read the repository")
        raise ToolError(told[:500])
    return out
