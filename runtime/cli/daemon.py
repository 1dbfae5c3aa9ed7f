"""One question to the daemon, or one stream from it; its problems become failures with an exit code."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from runtime.cli.failure import Failure, from_problem
from runtime.cli.text import note
from runtime.cli.version import version_of_cli
from runtime.control.wire import Cut, NotRunning, Part, Wire, WireError, quote, socket_path
from schemas.codes import EXIT_NOT_RUNNING, EXIT_TEMPORARY

TIMEOUT: Final = 30.0
"""Seconds the daemon gives an actor to answer, unless told otherwise; we wait a little longer, for its word on it."""

HELLO_TIMEOUT: Final = 2.0

_warned: set[str] = set()


Subject: TypeAlias = str | Callable[[str], str]


def get(path: str, *, subject: str = "", timeout: float = TIMEOUT + 5, **query: Any) -> Any:
    """Read something. Query values that are None are left out; *subject* is what a hint about an error speaks of."""
    return _call("GET", path, subject, timeout=timeout, query=query)


def post(
    path: str,
    body: Any = None,
    *,
    subject: str = "",
    headers: dict[str, str] | None = None,
    timeout: float = TIMEOUT + 5,
    patience: float | None = None,
) -> Any:
    """Ask for something to be done. *patience* is how long the actor may take, where that is more than usual."""
    query = None if patience is None else {"timeout": patience}
    timeout = timeout if patience is None else patience + 5
    return _call("POST", path, subject, timeout=timeout, body=body, headers=headers, query=query)


def hello() -> dict[str, Any]:
    """Return who answers on the socket."""
    answer = get("/v1/hello", timeout=HELLO_TIMEOUT)
    assert isinstance(answer, dict)
    return answer


@contextmanager
def stream(
    method: str, path: str, body: Any = None, *, subject: Subject = "", query: dict[str, Any] | None = None
) -> Iterator[Iterator[Part]]:
    """Open a stream and hand out its parts; leaving hangs up at once.

    A problem is raised as `Failure`, and `Cut` if the daemon goes away before the stream has ended.
    """
    with told(subject):
        wire = Wire(socket_path(os.environ))
        with wire.stream(method, path, body, query) as parts:
            _compare(wire.version)
            yield parts


@contextmanager
def told(subject: Subject = "") -> Iterator[None]:
    """Turn what the socket raises into what the person is told; `Cut` passes, its meaning is the command's.

    *subject* is what a hint speaks of, or a function that tells it by the code of the error.
    """
    try:
        yield
    except Cut:
        raise
    except NotRunning as error:
        raise not_running(error) from None
    except WireError as error:
        about = subject if isinstance(subject, str) else subject(error.code)
        raise from_problem(error.problem, subject=about) from None


def not_running(error: NotRunning) -> Failure:
    """Return the failure for a daemon that is down."""
    detail = str(error).replace("The daemon is not running", "Daemon is not running")
    return Failure(f"{detail} Start it: understudy up", code=EXIT_NOT_RUNNING, bare=True)


def without_start(failure: Failure) -> str:
    """Return that the daemon is down, for those who do not want it up."""
    return failure.what.partition(" Start it:")[0]


def _call(
    method: str,
    path: str,
    subject: str,
    *,
    timeout: float,
    body: Any = None,
    query: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Any:
    try:
        with told(subject):
            wire = Wire(socket_path(os.environ))
            try:
                return wire.call(method, path, body, query, headers, timeout)
            finally:
                _compare(wire.version)
    except Cut as error:
        hint = "understudy status" if method == "GET" else "see whether it was done before you send it again"
        raise Failure("The daemon went away before it answered", str(error), hint, code=EXIT_TEMPORARY) from None


def _compare(version: str | None) -> None:
    ours = version_of_cli()
    if version is None or version == ours or version in _warned:
        return
    _warned.add(version)
    note(
        f"warning: the daemon is version {version}, this command is {ours}. Restart it: understudy down; understudy up"
    )


def segment(name: str) -> str:
    """Return *name* as one segment of a path."""
    return quote(name)
