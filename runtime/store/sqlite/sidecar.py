"""`state.json` beside the database: what the file must be, so that a swapped or emptied one is found out at start."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.errors import StoreMismatch


@dataclass(frozen=True, slots=True)
class Sidecar:
    """uuid of the database, its schema, a lower bound of the last job's number, and whether it was closed in order."""

    uuid: str
    schema: int
    last_seq: int
    clean: bool


def read(path: Path) -> Sidecar | None:
    """Return what is noted; None where nothing is. Raises StoreMismatch where it cannot be read."""
    try:
        return Sidecar(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise StoreMismatch(f"{path.name} cannot be read: {type(error).__name__}", file=str(path)) from error


def write(path: Path, sidecar: Sidecar) -> None:
    """Replace what is noted, whole or not at all."""
    scratch = path.with_suffix(".new")
    scratch.touch(mode=0o600)
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(asdict(sidecar), file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def check(noted: Sidecar, found: Sidecar) -> None:
    """Raise StoreMismatch where the database is not the one that was noted."""
    if found.uuid != noted.uuid:
        raise StoreMismatch("the database is not the one this home had (or an emptied file)", noted=noted.uuid)
    if found.last_seq < noted.last_seq:
        raise StoreMismatch(
            f"the database ends at job {found.last_seq}, but job {noted.last_seq} was once acknowledged:"
            " it is an older copy, or one without its -wal file"
        )
