"""The control socket in the file system: who may stand where, how it is bound and removed, and who is calling."""

import os
import socket
import stat
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from runtime.control.wire import CONNECT_TIMEOUT, MAX_SOCKET_PATH
from runtime.errors import AlreadyRunning, HomeUnusable

_PRIVATE: Final = 0o700
_OWN_PLACE: Final = "Put the socket into a directory of its own: set UNDERSTUDY_HOST or UNDERSTUDY_HOME."


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound socket that listens to nobody yet, and the file that it made."""

    socket: socket.socket
    path: Path
    file: tuple[int, int]

    def unlink(self) -> None:
        """Remove the file, unless somebody put another in its place."""
        try:
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.file:
                self.path.unlink()
        except FileNotFoundError:
            pass  # somebody was tidier


def bind(path: Path) -> Listener:
    """Bind a Unix socket at *path*: mode 0600, in a directory of mode 0700 that is ours.

    The caller holds the lock of this socket: that alone decides who may replace what is left of a dead daemon. Raises
    `HomeUnusable` with the reason, and `AlreadyRunning` if somebody answers at *path*.
    """
    path = path.absolute()
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise HomeUnusable(
            f"The socket path has {len(os.fsencode(path))} bytes and the system takes {MAX_SOCKET_PATH}: {path}. "
            "Name a shorter one with UNDERSTUDY_HOST."
        )
    _make_private(path.parent)
    _remove_stale(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
        made = path.lstat()
    except OSError as error:
        bound.close()
        raise HomeUnusable(f"The socket cannot be bound at {path}: {error.strerror}.") from error
    return Listener(bound, path, (made.st_dev, made.st_ino))


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise HomeUnusable(f"The directory {directory} cannot be made: {error.strerror}.") from error
    if found.st_uid != os.geteuid():
        raise HomeUnusable(f"The directory {directory} belongs to another user (uid {found.st_uid}). {_OWN_PLACE}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        _tighten(directory.resolve(), found.st_mode)


def _tighten(directory: Path, mode: int) -> None:
    # A daemon of root's with its socket in /run or /tmp, or of a person's in the home directory, must not lock out
    # everybody else from there.
    if mode & stat.S_ISVTX or len(directory.parts) <= 3 or directory == Path.home().resolve():
        raise HomeUnusable(f"The directory {directory} is shared with others. {_OWN_PLACE}")
    try:
        directory.chmod(_PRIVATE)
    except OSError as error:
        raise HomeUnusable(f"Others may enter {directory}: {error.strerror}. Run: chmod 700 {directory}") from error


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise HomeUnusable(f"{path} is not a socket. Move it away.")
    if _answers(path):
        raise AlreadyRunning(f"Somebody answers on {path}.")
    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True  # its backlog is full, so somebody listens
        except OSError as error:
            raise HomeUnusable(f"The socket {path} cannot be tried: {error.strerror}.") from error
        return True


def peer_of(peer: socket.socket) -> tuple[int, int]:
    """Return (pid, uid) of the process that connected *peer*, as the kernel recorded it then; pid 0 where it is not
    told.
    """
    if sys.platform == "linux":
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        pid, uid, _ = struct.unpack("iII", credentials)
        return int(pid), int(uid)
    # struct xucred of <sys/ucred.h>: version, uid, number of groups, 16 groups; the options LOCAL_PEERCRED (1) and
    # LOCAL_PEERPID (2) of SOL_LOCAL.
    _, uid = struct.unpack_from("II", peer.getsockopt(0, 1, struct.calcsize("IIh16I")))
    (pid,) = struct.unpack("i", peer.getsockopt(0, 2, struct.calcsize("i")))
    return int(pid), int(uid)


def is_ours(pid: int) -> bool:
    """Tell whether the process *pid* was started by this one, or by one that it started; also of one that has gone,
    which nobody can tell any more.
    """
    if pid == 0:
        return False
    try:
        return any(parent.pid == os.getpid() for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return True


def is_allowed(uid: int) -> bool:
    """Tell whether a process of *uid* may speak to the daemon: the daemon's own user and root."""
    return uid in (0, os.geteuid())
