"""Plays histories: `python -m tests.simulation --seeds 1000`; one that failed comes back with `--seed 17`."""

import argparse
import logging
import sys
import time
import traceback
from collections import Counter

import structlog

from tests.simulation import history
from tests.simulation.rules import Broken


def tell(text: str) -> None:
    """Show *text* at once: a long run is watched."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Play the histories that are asked for; a failing seed is printed with what brings it back."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play one history and tell about it")
    parser.add_argument("--seeds", type=int, default=50, help="how many histories")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--hours", type=float, default=24.0, help="virtual hours of each")
    parser.add_argument("--verbose", action="store_true", help="show the log")
    args = parser.parse_args()
    if not args.verbose:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seeds = range(args.start, args.start + args.seeds) if args.seed is None else [args.seed]
    began, failed, happened = time.monotonic(), list[int](), Counter[str]()
    for seed in seeds:
        try:
            world = history.play(seed, args.hours)
        except Exception as error:  # noqa: BLE001  # the next seed may tell more
            failed.append(seed)
            tell(
                "".join(
                    traceback.format_exception_only(error)
                    if isinstance(error, Broken)
                    else traceback.format_exception(error)
                )
            )
            continue
        happened.update(world.rules.counts)
        if args.seed is not None:
            tell(history.summary(world))
    tell(", ".join(f"{name} {count}" for name, count in sorted(happened.items())))
    took = time.monotonic() - began
    tell(f"{len(seeds)} histories of {args.hours:g} virtual hours in {took:.1f} s; {len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
