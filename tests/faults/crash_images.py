"""What a disk may hold after the power went: a log of writes and syncs, replayed to any moment of it.

What was synced is there. Of what was written later any part may be there: nothing, all of it, what came before some
moment, any selection (a disk sorts its writes as it likes), and of a single write some of its sectors. Names of the
folder are kept in the order in which they were made, as journalling file systems do, but on their own: the last of
them may be missing while the data of their files is there.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from tests.faults.disk_log import Link, Note, Step, Sync, SyncFailed, SyncFolder, Truncate, Unlink, Write

SECTOR: Final = 512

Loss: TypeAlias = Literal["all", "none", "some", "torn"]
"""Which of the writes that were not synced are lost: all, none, a selection, or a selection with sectors of others."""

LOSSES: Final[tuple[Loss, ...]] = ("all", "none", "some", "torn")


class Image(NamedTuple):
    """The files that are found after a crash, and what the program had been told by then."""

    moment: int
    loss: Loss
    files: dict[str, bytes]
    known: tuple[Any, ...]

    def write(self, folder: Path) -> None:
        """Put the files into a new folder."""
        folder.mkdir(mode=0o700)
        for name, data in self.files.items():
            path = folder / name
            path.write_bytes(data)
            path.chmod(0o600)


class Disk:
    """A disk as the log tells of it: what is safe, and what is still under way, in order."""

    def __init__(self) -> None:
        self.known: list[Any] = []
        self._safe: dict[int, bytearray] = {}
        self._safe_names: dict[str, int] = {}
        self._open: list[Write | Truncate] = []
        self._open_names: list[Link | Unlink] = []

    def take(self, step: Step) -> None:
        """Go on by one step of the log."""
        match step:
            case Write() | Truncate():
                self._open.append(step)
            case Sync(file):
                for change in self._open:
                    if change.file == file:
                        alter(self._safe, change)
                self._open = [change for change in self._open if change.file != file]
            case SyncFailed(file):
                # Linux marks the pages clean all the same, so no later sync writes them: the worst that can happen.
                self._open = [change for change in self._open if change.file != file]
            case Link() | Unlink():
                self._open_names.append(step)
            case SyncFolder():
                for name in self._open_names:
                    rename(self._safe_names, name)
                self._open_names = []
            case Note(fact):
                self.known.append(fact)

    def crash(self, moment: int, loss: Loss, chance: random.Random) -> Image:
        """Return what is found when the power goes now."""
        files = {number: bytearray(data) for number, data in self._safe.items()}
        names = dict(self._safe_names)
        for change in self._survivors(loss, chance):
            alter(files, change)
        kept = {"all": 0, "none": len(self._open_names)}.get(loss, chance.randint(0, len(self._open_names)))
        for name in self._open_names[:kept]:
            rename(names, name)
        found = {name: bytes(files.get(number, b"")) for name, number in names.items()}
        return Image(moment, loss, found, tuple(self.known))

    def _survivors(self, loss: Loss, chance: random.Random) -> Iterator[Write | Truncate]:
        match loss:
            case "all":
                return
            case "none":
                yield from self._open
            case "some":
                yield from (change for change in self._open if chance.random() < 0.5)
            case "torn":
                # What was cut short is most often the last: a tail of the writes is missing, and its first one is torn.
                last = chance.randrange(len(self._open)) if self._open else 0
                for change in self._open[: last + 1]:
                    yield from torn(change, chance) if change is self._open[last] or chance.random() < 0.2 else [change]


def alter(files: dict[int, bytearray], change: Write | Truncate) -> None:
    """Apply a write or a truncation to the data of its file."""
    data = files.setdefault(change.file, bytearray())
    end = change.offset + len(change.data) if isinstance(change, Write) else change.size
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    if isinstance(change, Write):
        data[change.offset : end] = change.data
    else:
        del data[end:]


def rename(names: dict[str, int], change: Link | Unlink) -> None:
    """Apply a change of the folder."""
    if isinstance(change, Link):
        names[change.name] = change.file
    else:
        names.pop(change.name, None)


def torn(change: Write | Truncate, chance: random.Random) -> Iterator[Write | Truncate]:
    """Yield some sectors of a write; a truncation happens or does not."""
    if isinstance(change, Truncate):
        if chance.random() < 0.5:
            yield change
        return
    start = 0
    while start < len(change.data):
        stop = min(len(change.data), start + SECTOR - (change.offset + start) % SECTOR)
        if chance.random() < 0.5:
            yield Write(change.file, change.offset + start, change.data[start:stop])
        start = stop


def after(log: Sequence[Step]) -> Disk:
    """Return the disk as it is at the end of *log*."""
    disk = Disk()
    for step in log:
        disk.take(step)
    return disk


def images(log: Sequence[Step], seed: int, count: int | None = None) -> Iterator[Image]:
    """Yield crash images of *log*: each moment with each loss, or about *count* of them spread by *seed*.

    Every moment with no loss gives every prefix of the writes. The moments after a change of names are always taken.
    """
    chance = random.Random(seed)
    wanted = set(range(len(log) + 1))
    if count is not None and count // len(LOSSES) < len(log):
        named = {n + 1 for n, step in enumerate(log) if isinstance(step, Link | Unlink | SyncFolder)}
        wanted = named | set(chance.sample(range(len(log) + 1), max(0, count // len(LOSSES) - len(named))))
    disk = Disk()
    for moment in range(len(log) + 1):
        if moment in wanted:
            for loss in LOSSES:
                yield disk.crash(moment, loss, chance)
        if moment < len(log):
            disk.take(log[moment])
