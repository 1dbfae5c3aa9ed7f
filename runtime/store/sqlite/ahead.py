"""Room for the write-ahead log before SQLite asks for it: a sync of blocks that a file has already takes half the time.

While a log grows, each sync also has to write the file's new length to the disk's own journal. SQLite uses a log again
from its start once it is folded in, so this matters for the first megabytes after each start. What is added are zeros
after the end of the log: to SQLite they are no frames, as what is left over from an earlier round is none.
"""

import os
from pathlib import Path
from typing import Final

SMALLEST: Final = 512 * 1024
"""A log shorter than this is left alone: most stores of tests, and daemons that do little."""
STEP: Final = 1024 * 1024
LONGEST: Final = 17 * 1024 * 1024
"""A little over the length at which SQLite folds the log in (see `wal_autocheckpoint`)."""
SPARE: Final = 256 * 1024 * 1024
"""On a disk with less room than this nothing is taken before it is needed."""


class Ahead:
    """Keeps the log of the database at *path* longer than SQLite has written it. Used on the writer's thread alone.

    Whatever goes wrong here is let be: it costs speed and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(path.name + "-wal")
        self._file: int | None = None
        self._length = 0

    def keep(self) -> None:
        """Make the log longer where the last commit has used up what was there. Costs one look at its length."""
        try:
            if self._file is None:
                self._file = os.open(self._log, os.O_WRONLY | os.O_CLOEXEC)
            length = os.fstat(self._file).st_size
            if length > self._length and SMALLEST <= length < LONGEST:
                length += self._lengthen(self._file, length)
            self._length = length
        except OSError:
            self._length = LONGEST

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lengthen(self, file: int, length: int) -> int:
        disk = os.fstatvfs(file)
        if disk.f_bavail * disk.f_frsize < SPARE:
            return 0
        return os.pwrite(file, bytes(min(length, STEP)), length)
