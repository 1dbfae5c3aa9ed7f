"""From a path to an operation: the table of operations, split into segments once."""

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from runtime.control.replies import Refusal
from schemas.operations import Operation


class Match(NamedTuple):
    """The operation that a request means, and what its path holds."""

    operation: Operation
    path: dict[str, str]


class Routes:
    """Finds the operation of a path and a method."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._fixed: dict[bytes, dict[str, Match]] = {}
        self._open: dict[int, list[tuple[tuple[str, ...], dict[str, Operation]]]] = {}
        for operation in operations:
            if "{" in operation.path:
                self._add_open(operation)
            else:
                self._fixed.setdefault(operation.path.encode(), {})[operation.method] = Match(operation, {})

    def _add_open(self, operation: Operation) -> None:
        pattern = tuple(operation.path.split("/"))
        known = self._open.setdefault(len(pattern), [])
        for other, methods in known:
            if other == pattern:
                methods[operation.method] = operation
                return
        known.append((pattern, {operation.method: operation}))

    def find(self, method: str, raw_path: bytes) -> Match:
        """Return what *method* on *raw_path* means; a name in the path may hold a quoted `/`.

        Raises `Refusal`: no such path, or no such method there.
        """
        fixed = self._fixed.get(raw_path)
        if fixed is not None:
            return fixed.get(method) or _no_method(method, fixed)
        segments = raw_path.decode("ascii", "replace").split("/")
        for pattern, methods in self._open.get(len(segments), ()):
            path = _fit(pattern, segments)
            if path is not None:
                return Match(methods[method], path) if method in methods else _no_method(method, methods)
        raise Refusal("request.not_found", "There is no such path.")


def _fit(pattern: tuple[str, ...], segments: list[str]) -> dict[str, str] | None:
    path = {}
    for wanted, segment in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            if not segment:
                return None
            path[wanted[1:-1]] = unquote(segment)
        elif wanted != segment:
            return None
    return path


def _no_method(method: str, allowed: Iterable[str]) -> Match:
    names = ", ".join(sorted(allowed))
    raise Refusal("request.method", f"{method} is not one of: {names}.", headers=[(b"allow", names.encode())])
