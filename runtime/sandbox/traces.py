"""What a function may leave behind in its process. One that left something is the last to run there."""

import os
import signal
import sys
import threading
import time
from typing import Any, Final

from runtime.sandbox.wire import DeafThread

THREADS_WITHIN: Final = 0.5
"""Seconds that threads have to end after the function: those of an event loop's pool are a little late."""

HANDLED: Final = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


class Traces:
    """The process as it is before a function runs: what a module started when it was imported belongs to it."""

    def __init__(self) -> None:
        self._threads = set(threading.enumerate())
        self._rest = surroundings()

    def are_gone(self) -> bool:
        """Tell whether all is as it was: no thread more, no child, and nothing of what `surroundings` tells changed."""
        return surroundings() == self._rest and self._no_threads() and no_children() and no_strays()

    def _no_threads(self) -> bool:
        until = time.monotonic() + THREADS_WITHIN
        for thread in set(threading.enumerate()) - self._threads:
            if not isinstance(thread, DeafThread):
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    return False
        return True


def surroundings() -> tuple[Any, ...]:
    """Return what a function could change for the one after it: folder, environment, streams, signals, alarms."""
    try:
        folder = os.getcwd()  # noqa: PTH109  # a plain text is all that is compared
    except OSError:  # it is gone
        folder = ""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    handlers = [signal.getsignal(number) for number in HANDLED]
    return folder, os.environ.copy(), streams, handlers, signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def no_children() -> bool:
    """Tell whether no child process is left; those that are dead already are buried."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def no_strays() -> bool:
    """Tell whether our guard has no child but us: orphans of ours fall to it. True where the system does not tell."""
    guard = os.getppid()
    try:
        with open(f"/proc/{guard}/task/{guard}/children", "rb") as file:  # noqa: PTH123  # done after each job
            return file.read().split() == [b"%d" % os.getpid()]
    except OSError:
        return True
