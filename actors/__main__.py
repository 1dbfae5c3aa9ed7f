"""`understudyd`: reads the configuration and runs the daemon with our cast on it."""

import argparse
import os
import sys
from pathlib import Path

from runtime.loader import check_shadowing


def main(argv: list[str] | None = None) -> int:
    """Run the daemon in the foreground; return its exit code. Errors are told in a few lines, never as a traceback."""
    options = parse(sys.argv[1:] if argv is None else argv)
    from runtime.errors import ConfigInvalid, UnderstudyError
    from schemas.codes import CODES

    try:
        check_shadowing()
        return serve(options.config, console=not options.quiet)
    except ConfigInvalid as error:
        from runtime.config_report import render

        sys.stderr.write(render(error.data["mistakes"]) + "\n")
        return CODES[error.code].exit
    except UnderstudyError as error:
        entry = CODES[error.code]
        sys.stderr.write(f"error: {entry.title}: {error.detail}\n  {entry.hint}\n")
        return entry.exit


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="understudyd", description="The Understudy daemon, in the foreground.")
    parser.add_argument("-c", "--config", metavar="FILE", help="else $UNDERSTUDY_CONFIG, else ./config.toml")
    parser.add_argument("--quiet", action="store_true", help="log to the file in the state directory only")
    return parser.parse_args(argv)


def serve(config: str | None, *, console: bool) -> int:
    import actors.tree
    from runtime import config as configuration
    from runtime import daemon

    path: Path = configuration.find(config, os.environ)
    return daemon.run(configuration.load(path), actors.tree, console=console)


if __name__ == "__main__":
    sys.exit(main())
