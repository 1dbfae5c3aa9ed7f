"""Decides whether a file can be trusted: nobody but us and root may change it or put another in its place."""

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from runtime.errors import ConfigUnsafe


def check_trust(path: Path) -> None:
    """Raise ConfigUnsafe, with the command that mends it, where somebody else could change *path*.

    The file and the folder it lies in must belong to us or to root and be writable by nobody else (the user's own
    private group, where the system gives each user one, is nobody else); where *path* is
    a symbolic link, this holds for both ends. Folders further up do not count. Raises OSError where nothing is there.
    """
    real = path.resolve(strict=True)
    places = dict.fromkeys((real, real.parent, path.absolute().parent))
    fixes = [fix for place in places if (fix := _fix(place))]
    if fixes:
        raise ConfigUnsafe(
            f"{path} could be changed by others; run: {' && '.join(fix for _, fix in fixes)}",
            file=str(path),
            reasons=[reason for reason, _ in fixes],
            fix=" && ".join(fix for _, fix in fixes),
        )


def _fix(place: Path) -> tuple[str, str] | None:
    """Return what is wrong with *place* and the command against it; None where nothing is."""
    found, name = place.stat(), shlex.quote(str(place))
    if found.st_uid not in (0, os.getuid()):
        return f"{place} belongs to uid {found.st_uid}", f"sudo chown {os.getuid()} {name} && chmod go-w {name}"
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_private(found.st_gid)):
        return f"{place} may be written by its group or by everybody", f"chmod go-w {name}"
    return None


def _is_private(gid: int) -> bool:
    """Tell whether *gid* is our private group, which many systems give each user: then its members are ourselves."""
    try:
        us, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return us.pw_gid == gid and group.gr_name == us.pw_name and set(group.gr_mem) <= {us.pw_name}
