"""Which version of the product this is."""

import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

_RECORD: Final = re.compile(r"understudy-([^-]+)\.dist-info")


@cache
def version_of_cli() -> str:
    """Return the installed version.

    Read from the name of the installation's record: the library that is meant for this takes as long to import as the
    rest of a command, and is asked only where the record has another form.
    """
    for folder in sys.path:
        try:
            names = [path.name for path in Path(folder).glob("understudy-*.dist-info")]
        except OSError:
            continue
        for name in names:
            if found := _RECORD.fullmatch(name):
                return found[1]
    return str(import_module("importlib.metadata").version("understudy"))


def python_version() -> str:
    """Return the version of the interpreter."""
    return ".".join(str(number) for number in sys.version_info[:3])
