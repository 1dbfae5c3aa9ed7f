"""The control socket as the command line uses it: where it is, one call, one stream; standard library only."""

import http.client
import json
import os
import socket
import struct
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from schemas.codes import CODES

MAX_SOCKET_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that the kernel takes for the path of a Unix socket."""

CONNECT_TIMEOUT: Final = 2.0
CALL_TIMEOUT: Final = 35.0
"""A little more than the daemon's own 30 seconds, so that its answer and not our impatience is what people see."""

SILENCE: Final = 60.0
"""Seconds without a byte after which a stream counts as dead; the daemon sends a ping every 15."""

Part = tuple[str, Any, int | None]
"""One part of a stream: kind, data, id."""


class WireError(Exception):
    """The daemon refused or failed; `problem` is what it said (see `schemas.errors.Problem` for the fields)."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "unknown error"))
        self.problem = dict(problem)

    @property
    def code(self) -> str:
        """The stable code of the error; `internal` where there was none."""
        return str(self.problem.get("code") or "internal")


class NotRunning(WireError):
    """Nobody listens on the socket; nothing was sent."""


class Cut(WireError):
    """The connection ended before the answer was whole: the daemon died, or was stopped, meanwhile."""


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the directory of the daemon's state: `$UNDERSTUDY_HOME`, else the XDG state directory of the user."""
    if environ.get("UNDERSTUDY_HOME"):
        return Path(environ["UNDERSTUDY_HOME"]).expanduser()
    if _is_absolute(environ.get("XDG_STATE_HOME")):
        return Path(environ["XDG_STATE_HOME"]) / "understudy"
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    return home / ".local" / "state" / "understudy"


def socket_path(environ: Mapping[str, str]) -> Path:
    """Return where the control socket is.

    `$UNDERSTUDY_HOST` (`unix:///path` or a path), else `$UNDERSTUDY_HOME/control.sock`, else
    `$XDG_RUNTIME_DIR/understudy/control.sock`, else `control.sock` in the state directory. Raises `WireError`
    (`request.invalid`) for a host that is no Unix socket.
    """
    host = environ.get("UNDERSTUDY_HOST")
    if host:
        return _host_path(host)
    if not environ.get("UNDERSTUDY_HOME") and _is_absolute(environ.get("XDG_RUNTIME_DIR")):
        return Path(environ["XDG_RUNTIME_DIR"]) / "understudy" / "control.sock"
    return state_dir(environ) / "control.sock"


def _host_path(host: str) -> Path:
    scheme, mark, rest = host.partition("://")
    if not mark:
        return Path(host).expanduser()
    if scheme == "unix" and rest.startswith("/"):
        return Path(urllib.parse.unquote(rest))
    raise WireError(_problem("request.invalid", f"UNDERSTUDY_HOST must be unix:///PATH or a path, not {host!r}."))


def _is_absolute(value: str | None) -> bool:
    # The XDG specification: a relative path in one of its variables is to be ignored.
    return bool(value) and str(value).startswith("/")


def quote(segment: str) -> str:
    """Return *segment* as one segment of a path (a name may hold `/`)."""
    return urllib.parse.quote(segment, safe=":@")


class Wire:
    """The way to one daemon. `version` is what its last answer said it is (None before the first)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version: str | None = None

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> Any:
        """Send one request and return the JSON of its answer (None where there is none).

        *path* is already quoted (see `quote`); values of *query* that are None are left out, lists are repeated.
        *timeout* is in seconds, for each wait for bytes. Raises `WireError` with the daemon's problem, `NotRunning` if
        nobody listens, `Cut` if the connection ends before the answer does.
        """
        connection = _Connection(self.path, timeout)
        try:
            response = self._send(connection, method, path, body, query, headers or {})
            with response:
                return _json(self.path, _read(self.path, response))
        finally:
            connection.close()

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = SILENCE,
    ) -> Iterator[Iterator[Part]]:
        """Open a stream and hand out its parts; leaving closes the socket at once, which tells the daemon.

        The iterator ends after `done`; an `error` part is raised as `WireError`, and a stream that ends without either
        as `Cut`. *timeout* is in seconds without a byte. Raises like `call` where no stream begins.
        """
        connection = _Connection(self.path, timeout)
        accept = {"Accept": "application/x-ndjson", **(headers or {})}
        try:
            response = self._send(connection, method, path, body, query, accept)
            with response:  # it keeps the descriptor where the answer is the connection's last
                yield _parts(self.path, response)
        finally:
            connection.hang_up()

    def _send(
        self,
        connection: "_Connection",
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        payload = None if body is None else json.dumps(body).encode()
        kind = {} if payload is None else {"Content-Type": "application/json"}
        try:
            connection.connect()
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent: the answer is there
                connection.request(method, path + _query(query), payload, {**kind, **headers})
            response = connection.getresponse()
        except TimeoutError:
            raise _late(self.path) from None
        except (http.client.HTTPException, OSError) as error:
            raise _cut(self.path, error) from None
        self.version = response.headers.get("Understudy-Version", self.version)
        if response.status >= 400:
            raise WireError(_refusal(self.path, response))
        return response


def call(
    method: str,
    path: str,
    body: Any = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = CALL_TIMEOUT,
) -> Any:
    """`Wire.call` on the daemon that the environment names."""
    return Wire(socket_path(os.environ)).call(method, path, body, query, headers, timeout)


@contextmanager
def stream(
    method: str,
    path: str,
    body: Any = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = SILENCE,
) -> Iterator[Iterator[Part]]:
    """`Wire.stream` on the daemon that the environment names."""
    with Wire(socket_path(os.environ)).stream(method, path, body, query, headers, timeout) as parts:
        yield parts


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("understudy")
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        if len(os.fsencode(self._path)) > MAX_SOCKET_PATH:
            detail = f"The socket path is longer than {MAX_SOCKET_PATH} bytes: {self._path}. Set UNDERSTUDY_HOST."
            raise WireError(_problem("daemon.home", detail))
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A full backlog makes connect() of a socket with a Python timeout fail at once; with the kernel's it waits.
        limit = struct.pack("@ll", int(CONNECT_TIMEOUT), int(CONNECT_TIMEOUT % 1 * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self.sock.connect(str(self._path))
        except BlockingIOError:
            raise _late(self._path) from None
        except PermissionError:
            raise WireError(_problem("request.denied", f"Not allowed to connect to {self._path}.")) from None
        except OSError as error:
            raise NotRunning(_absent(self._path, error)) from None
        self.sock.settimeout(self._seconds)

    def hang_up(self) -> None:
        """Close the socket under a response that is still being read."""
        if self.sock is not None:
            with suppress(OSError):  # the other side was quicker
                self.sock.shutdown(socket.SHUT_RDWR)
        self.close()


def _query(query: Mapping[str, Any] | None) -> str:
    pairs = [(name, value) for name, value in (query or {}).items() if value is not None]
    plain = {name: str(value).lower() if isinstance(value, bool) else value for name, value in pairs}
    return "?" + urllib.parse.urlencode(plain, doseq=True) if plain else ""


def _read(path: Path, response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except TimeoutError:
        raise _late(path) from None
    except (http.client.HTTPException, OSError) as error:
        raise _cut(path, error) from None


def _json(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        raise WireError(_problem("daemon.version", f"What answers on {path} does not speak JSON.")) from None


def _refusal(path: Path, response: http.client.HTTPResponse) -> dict[str, Any]:
    problem = _json(path, _read(path, response))
    if isinstance(problem, dict) and "code" in problem:
        return problem
    return _problem("daemon.version", f"What answers on {path} is not Understudy (status {response.status}).")


def _parts(path: Path, response: http.client.HTTPResponse) -> Iterator[Part]:
    try:
        while line := response.readline():
            if line.isspace():
                continue  # a ping
            if not line.endswith(b"\n"):
                break
            kind, data, number = _part(path, line)
            if kind == "error":
                raise WireError(data)
            yield kind, data, number
            if kind == "done":
                return
    except TimeoutError:
        raise _late(path) from None
    except (http.client.HTTPException, OSError) as error:
        raise _cut(path, error) from None
    raise _cut(path, None)


def _part(path: Path, line: bytes) -> Part:
    part = _json(path, line)
    if isinstance(part, dict) and isinstance(part.get("data"), dict):
        return str(part.get("kind")), part["data"], part.get("id")
    raise WireError(_problem("daemon.version", f"What answers on {path} does not send streams of ours."))


def _problem(code: str, detail: str) -> dict[str, Any]:
    entry = CODES[code]
    return {
        "code": code,
        "title": entry.title,
        "status": entry.status,
        "detail": detail,
        "hint": entry.hint,
        "retryable": entry.retryable,
        "data": {},
    }


def _absent(path: Path, error: OSError) -> dict[str, Any]:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _problem("daemon.not_running", f"The daemon is not running (no socket at {path}).")
    return _problem("daemon.not_running", f"The daemon is not running (nobody listens on {path}).")


def _late(path: Path) -> WireError:
    return WireError(_problem("actor.timeout", f"No answer in time on {path}."))


def _cut(path: Path, error: Exception | None) -> Cut:
    why = f" ({type(error).__name__})" if error is not None else ""
    return Cut(_problem("daemon.not_running", f"The connection to {path} ended before the answer was whole{why}."))
