"""A log of all that SQLite does to the disk: every write, truncation, sync and deletion, in one order.

It stands between SQLite and the file system as a VFS of its own, made by `ctypes` in the very library that the module
`sqlite3` uses. Nothing of the product changes: the VFS is the default one while it is registered. What is opened by the
"unix" VFS gets our table of methods, a copy of its own with three entries replaced; all else, reads, locks and shared
memory, goes straight to the original at its own speed.
"""

import _sqlite3
import ctypes
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

OK: Final = 0
CREATED: Final = 0x4  # SQLITE_OPEN_CREATE
NAME: Final = b"understudy-test-disk-log"


class Write(NamedTuple):
    """Bytes were written; they are on the disk after the next sync of their file, or before it, or in part."""

    file: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file was cut to a size."""

    file: int
    size: int


class Sync(NamedTuple):
    """All that was written to a file before is on the disk."""

    file: int


class SyncFailed(NamedTuple):
    """A sync was refused: what it was for may never come to the disk, even if a later sync succeeds."""

    file: int


class Link(NamedTuple):
    """A name of the folder leads to a file now, which is on the disk after the next `SyncFolder`."""

    name: str
    file: int


class Unlink(NamedTuple):
    """A name is gone."""

    name: str


class SyncFolder(NamedTuple):
    """All names of the folder are on the disk."""


class Note(NamedTuple):
    """Something that the program was told or has told, at this moment of the log."""

    fact: Any


Step: TypeAlias = Write | Truncate | Sync | SyncFailed | Link | Unlink | SyncFolder | Note


class DiskLog:
    """What happened to the files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.handles: dict[int, int] = {}
        """The number of the file that an open handle of SQLite's belongs to, by the handle's address."""
        self.refuse: Callable[[str], int] | None = None
        """Asked before each `write`, `cut` and `sync`; a code other than 0 is what SQLite is told instead."""
        self._names: dict[str, int] = {}
        self._files = 0

    def note(self, fact: Any) -> None:
        """Add a moment to the log."""
        self.steps.append(Note(fact))

    def end(self) -> None:
        """Log and refuse nothing any more."""
        self.refuse = None
        self.folder = Path()
        self.handles.clear()

    def died(self, moment: int, folder: Path) -> None:
        """Take back what came after a moment, as if the process had died then; go on in a copy of its files."""
        del self.steps[moment:]
        self._names.clear()
        for step in self.steps:
            if isinstance(step, Link):
                self._names[step.name] = step.file
            elif isinstance(step, Unlink):
                self._names.pop(step.name, None)
        self.folder = folder
        self.handles.clear()

    def file(self, path: str) -> int | None:
        """Return the number of a file of the folder, a new one where its name is new; None for any other path."""
        found = Path(path)
        if found.parent != self.folder:
            return None
        if found.name not in self._names:
            self._files += 1
            self._link(found.name, self._files)
        return self._names[found.name]

    def unlink(self, path: str) -> None:
        found = Path(path)
        if found.parent == self.folder and self._names.pop(found.name, None) is not None:
            self.steps.append(Unlink(found.name))

    def replaced(self, path: Path) -> None:
        """Note that a file of our own was written whole, synced, and renamed to *path*."""
        self._files += 1
        self.steps += [Write(self._files, 0, path.read_bytes()), Sync(self._files)]
        self._link(path.name, self._files)

    def sync_folder(self, path: str) -> None:
        if Path(path) == self.folder or Path(path).parent == self.folder:
            self.steps.append(SyncFolder())

    def _link(self, name: str, file: int) -> None:
        self._names[name] = file
        self.steps.append(Link(name, file))


# -- the shim ----------------------------------------------------------------------------------------------------------

_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
Open = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _pointer, _int, ctypes.POINTER(_int))
Delete = ctypes.CFUNCTYPE(_int, _pointer, ctypes.c_char_p, _int)
WriteAt = ctypes.CFUNCTYPE(_int, _pointer, _pointer, _int, _long)
Cut = ctypes.CFUNCTYPE(_int, _pointer, _long)
SyncFile = ctypes.CFUNCTYPE(_int, _pointer, _int)
OpenFolder = ctypes.CFUNCTYPE(_int, ctypes.c_char_p, ctypes.POINTER(_int))
SetCall = ctypes.CFUNCTYPE(_int, _pointer, ctypes.c_char_p, _pointer)
GetCall = ctypes.CFUNCTYPE(_pointer, _pointer, ctypes.c_char_p)


class Vfs(ctypes.Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = [
        ("iVersion", _int),
        ("szOsFile", _int),
        ("mxPathname", _int),
        ("pNext", _pointer),
        ("zName", ctypes.c_char_p),
        ("pAppData", _pointer),
        ("xOpen", _pointer),
        ("xDelete", _pointer),
        *((name, _pointer) for name in ("xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym", "xDlClose")),
        *((name, _pointer) for name in ("xRandomness", "xSleep", "xCurrentTime", "xGetLastError")),
        ("xCurrentTimeInt64", _pointer),
        ("xSetSystemCall", _pointer),
        ("xGetSystemCall", _pointer),
        ("xNextSystemCall", _pointer),
    ]


class Methods(ctypes.Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = [
        ("iVersion", _int),
        *((name, _pointer) for name in ("xClose", "xRead", "xWrite", "xTruncate", "xSync", "xFileSize")),
        *((name, _pointer) for name in ("xLock", "xUnlock", "xCheckReservedLock", "xFileControl", "xSectorSize")),
        *((name, _pointer) for name in ("xDeviceCharacteristics", "xShmMap", "xShmLock", "xShmBarrier", "xShmUnmap")),
        *((name, _pointer) for name in ("xFetch", "xUnfetch")),
    ]


class Unreachable(Exception):
    """Why no log can be had from this build of Python."""


def library() -> Any:
    """Return the SQLite that `sqlite3` uses. Raises Unreachable."""
    # A symbol is looked for in the module and in all it was linked with; without a file it is part of the interpreter.
    found = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    try:
        found.sqlite3_vfs_find.restype = ctypes.POINTER(Vfs)
        found.sqlite3_libversion.restype = ctypes.c_char_p
        found.sqlite3_vfs_register.argtypes = [_pointer, _int]
        found.sqlite3_vfs_unregister.argtypes = [_pointer]
    except AttributeError as error:
        raise Unreachable(f"this Python hides the functions of its SQLite: {error}") from error
    if found.sqlite3_libversion().decode() != sqlite3.sqlite_version:
        raise Unreachable("the SQLite that was found is not the one that the module sqlite3 uses")
    return found


class Shim:
    """Our VFS on top of "unix". It is made once and kept for good: an open connection may still point at it."""

    def __init__(self) -> None:
        self.log: DiskLog | None = None
        self._library = library()
        unix = self._library.sqlite3_vfs_find(b"unix")
        if not unix or unix.contents.iVersion < 3:
            raise Unreachable('this SQLite has no VFS "unix" of the known form')
        self._unix = unix.contents
        self._original_open = Open(self._unix.xOpen)
        self._original_delete = Delete(self._unix.xDelete)
        self._tables: dict[int, Methods] = {}
        self._kept: list[Any] = []  # what C points at and Python must not let go
        self._vfs = Vfs.from_buffer_copy(self._unix)
        self._vfs.zName = NAME
        self._vfs.pNext = None
        self._vfs.xOpen = self._keep(Open(self._open))
        self._vfs.xDelete = self._keep(Delete(self._delete))
        original = GetCall(self._unix.xGetSystemCall)(ctypes.addressof(self._unix), b"openDirectory")
        self._original_folder = OpenFolder(original)
        self._open_folder = OpenFolder(self._folder)

    def register(self, log: DiskLog) -> None:
        """Make it the default VFS, and write into *log*. Raises Unreachable."""
        self.log = log
        self._library.sqlite3_vfs_register(ctypes.addressof(self._vfs), 1)
        self._set_folder_call(ctypes.cast(self._open_folder, _pointer))
        try:
            with closing(sqlite3.connect(f"file::memory:?vfs={NAME.decode()}", uri=True)):
                pass
        except sqlite3.OperationalError as error:
            self.unregister()
            raise Unreachable(f"the module sqlite3 does not see our VFS: {error}") from error

    def unregister(self) -> None:
        """Put things back as they were."""
        self.log = None
        self._set_folder_call(_pointer(None))
        self._library.sqlite3_vfs_unregister(ctypes.addressof(self._vfs))
        self._library.sqlite3_vfs_register(ctypes.addressof(self._unix), 1)

    def _set_folder_call(self, function: Any) -> None:
        SetCall(self._unix.xSetSystemCall)(ctypes.addressof(self._unix), b"openDirectory", function)

    def _keep(self, function: Any) -> Any:
        self._kept.append(function)
        return ctypes.cast(function, _pointer)

    def _open(self, _: int, name: int | None, file: int, flags: int, out: Any) -> int:
        code = int(self._original_open(ctypes.addressof(self._unix), name, file, flags, out))
        if self.log is None:
            return code
        self.log.handles.pop(file, None)  # its memory is used again
        number = self.log.file(os.fsdecode(ctypes.string_at(name))) if code == OK and name else None
        if number is not None:  # a file without a name is a scratch file of SQLite's
            self.log.handles[file] = number
            self._swap_methods(file)
        return code

    def _swap_methods(self, file: int) -> None:
        """Have the file use our table: a copy of its own, since a file's first word is the address of its table."""
        slot = ctypes.c_void_p.from_address(file)
        theirs = slot.value
        assert theirs is not None
        if theirs not in self._tables:
            self._tables[theirs] = self._table(Methods.from_address(theirs))
        slot.value = ctypes.addressof(self._tables[theirs])

    def _table(self, theirs: Methods) -> Methods:
        assert theirs.iVersion == 3, "a table of methods of an unknown form"
        ours = Methods.from_buffer_copy(theirs)
        write, cut, sync = WriteAt(theirs.xWrite), Cut(theirs.xTruncate), SyncFile(theirs.xSync)

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            if code := self._refused("write", file):
                return code
            code = int(write(file, data, size, offset))
            self._add(code, file, lambda number: Write(number, offset, ctypes.string_at(data, size)))
            return code

        def on_truncate(file: int, size: int) -> int:
            if code := self._refused("cut", file):
                return code
            code = int(cut(file, size))
            self._add(code, file, lambda number: Truncate(number, size))
            return code

        def on_sync(file: int, flags: int) -> int:
            if code := self._refused("sync", file):
                self._add(OK, file, SyncFailed)
                return code
            code = int(sync(file, flags))
            self._add(code, file, Sync)
            return code

        ours.xWrite, ours.xTruncate = self._keep(WriteAt(on_write)), self._keep(Cut(on_truncate))
        ours.xSync = self._keep(SyncFile(on_sync))
        return ours

    def _refused(self, deed: str, file: int) -> int:
        log = self.log
        return log.refuse(deed) if log is not None and log.refuse is not None and file in log.handles else OK

    def _add(self, code: int, file: int, step: Callable[[int], Step]) -> None:
        if code == OK and self.log is not None and file in self.log.handles:
            self.log.steps.append(step(self.log.handles[file]))

    def _delete(self, _: int, name: bytes, sync: int) -> int:
        code = int(self._original_delete(ctypes.addressof(self._unix), name, 0))
        if code == OK and self.log is not None:
            self.log.unlink(os.fsdecode(name))
            if sync:  # the folder was not synced in fact, since nothing here depends on it
                self.log.sync_folder(os.fsdecode(name))
        return code

    def _folder(self, name: bytes, out: Any) -> int:
        """SQLite opens a folder only in order to sync it; *name* is that of a file in it."""
        code = int(self._original_folder(name, out))
        if code == OK and self.log is not None:
            self.log.sync_folder(os.fsdecode(name))
        return code


_shim: Shim | None = None


@contextmanager
def recorded(folder: Path) -> Iterator[DiskLog]:
    """Log what SQLite does to the files of *folder*, in this process. Raises Unreachable where it cannot be had."""
    global _shim
    if _shim is None:
        _shim = Shim()
    log = DiskLog(folder)
    _shim.register(log)
    try:
        yield log
    finally:
        _shim.unregister()
