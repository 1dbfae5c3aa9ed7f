"""`make bench`: every benchmark, each beside its bare baseline in the same run; `--quick` for a smaller one."""

import argparse
import importlib
import os
import platform
import sqlite3
import sys

ROOMS = ("actors", "durable", "children", "control", "cli", "daemon", "agents", "peers")


def main() -> int:
    """Run the chosen rooms and print a table; the exit code is 1 where half a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"any of {', '.join(ROOMS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="a smaller run")
    options = parser.parse_args()
    unknown = sorted(set(options.rooms) - set(ROOMS))
    if unknown:
        parser.error(f"there is no room {', '.join(unknown)}; there are {', '.join(ROOMS)}")
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    print("| what | ours | limit | ratio | bar | |\n|---|--:|--:|--:|--:|---|", flush=True)
    short = 0
    for room in options.rooms or ROOMS:
        for row in importlib.import_module(f"benchmarks.{room}").measure(options.quick):
            print(row.as_table_line(), flush=True)
            short += not row.half_passed
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
