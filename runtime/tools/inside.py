"""Files inside one folder: every step of a path is opened from the one before it, and no link is followed, so that
no path leads out, whoever changes the folder meanwhile.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from runtime.errors import ToolError

FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DEEPEST: Final = 64


def parts_of(path: str) -> tuple[str, ...]:
    """Return the steps of a path as an agent writes it. Raises ToolError where it leads out."""
    if "\0" in path:
        raise ToolError("a path holds no NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ToolError("a path is text") from None
    pure = PurePosixPath(path)
    if pure.is_absolute():
        raise ToolError(f"{path!r} is absolute; paths begin in your folder")
    steps = tuple(step for step in pure.parts if step != ".")
    if ".." in steps:
        raise ToolError(f"{path!r} leads out of your folder")
    if len(steps) > DEEPEST:
        raise ToolError("the path is too deep")
    return steps


@contextmanager
def folder(root: Path, steps: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
    """Give the descriptor of the folder that *steps* lead to. Raises ToolError."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps:
            if make:
                try:
                    os.mkdir(step, 0o755, dir_fd=fd)
                except FileExistsError:
                    pass
            inner = opened(step, FOLDER, fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def opened(name: str, flags: int, at: int, mode: int = 0o644) -> int:
    """Open one name in a folder. Raises ToolError with what is wrong, in words for the agent."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=at)
    except FileNotFoundError:
        raise ToolError(f"there is no {name!r}") from None
    except (NotADirectoryError, OSError) as error:
        if is_link(name, at):
            raise ToolError(f"{name!r} is a link; links are not followed") from None
        raise ToolError(f"{name!r}: {os.strerror(error.errno or 0)}") from None


def is_link(name: str, at: int) -> bool:
    """Tell whether a name in a folder is a link."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
    except OSError:
        return False


@contextmanager
def regular(name: str, at: int) -> Iterator[int]:
    """Give the descriptor of an ordinary file. Raises ToolError for a folder, a device, a pipe."""
    fd = opened(name, os.O_RDONLY, at)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ToolError(f"{name!r} is no ordinary file")
        yield fd
    finally:
        os.close(fd)
