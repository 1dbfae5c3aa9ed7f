"""`@handles`: which method answers which message type, read from the annotation."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

F = TypeVar("F", bound=Callable[..., Any])
MARK: Final = "__handled_types__"

SYNC: Final = 0
ASYNC: Final = 1
STREAM: Final = 2

Route = tuple[int, Callable[..., Any]]


@dataclass(slots=True)
class Table:
    """What an actor class does with each message type, and which hooks it has; worked out once a class."""

    routes: dict[type, Route] = field(default_factory=dict)
    known: tuple[str, ...] = ()
    guarded: bool = False
    """Whether anything of it may suspend while a message is handled, so that it must be possible to cut it off."""
    starts: bool = False
    stops: bool = False
    holds: bool = False
    batches: bool = False

    def route(self, message_type: type) -> Route | None:
        """Return the route of a type that has none of its own: that of its nearest base class, found once."""
        for base in message_type.__mro__[1:]:
            found = self.routes.get(base)
            if found is not None:
                self.routes[message_type] = found
                return found
        return None


class _Later:
    """An annotation that could not be read yet: it names a class defined further down."""

    def __init__(self, text: str, method: Callable[..., Any], names: dict[str, Any]) -> None:
        self.text, self.method, self.names = text, method, names

    def read(self) -> Any:
        return eval(self.text, self.method.__globals__, self.names)  # noqa: S307  # an annotation in the actor's source


def handles(method: F) -> F:
    """Mark *method* as the handler of the message type (or the union of types) that annotates its first parameter.

    A plain method answers at once, an async method when it returns, an async generator streams. Raises TypeError when
    there is no such parameter or no annotation.
    """
    parameters = list(inspect.signature(method).parameters.values())
    if len(parameters) < 2 or parameters[1].annotation is inspect.Parameter.empty:
        raise TypeError(f"{method.__qualname__} needs a parameter annotated with its message type")
    annotation = parameters[1].annotation
    if isinstance(annotation, str):
        annotation = _read(annotation, method)
    setattr(method, MARK, annotation)
    return method


def _read(text: str, method: Callable[..., Any]) -> Any:
    # Message classes made inside a function are found only in the frames around the class body.
    names: dict[str, Any] = {}
    for depth in (3, 2):
        try:
            names |= sys._getframe(depth).f_locals  # noqa: SLF001  # the documented way to the caller's names
        except ValueError:
            continue
    later = _Later(text, method, names)
    try:
        return later.read()
    except NameError:
        return later


def _types(annotation: Any) -> tuple[type, ...]:
    if isinstance(annotation, _Later):
        annotation = annotation.read()
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(one for member in typing.get_args(annotation) for one in _types(member))
    if not isinstance(annotation, type):
        raise TypeError(f"{annotation!r} is no message type")
    return (annotation,)


_TABLES: WeakKeyDictionary[type, Table] = WeakKeyDictionary()


def table_of(cls: type, base: type) -> Table:
    """Return the table of *cls*, an actor class; *base* is the class whose hooks do nothing."""
    table = _TABLES.get(cls)
    if table is None:
        table = _TABLES[cls] = _build(cls, base)
    return table


def _build(cls: type, base: type) -> Table:
    table = Table(
        starts=cls.on_start is not base.on_start,  # type: ignore[attr-defined]  # an Actor, defined above this file
        stops=cls.on_stop is not base.on_stop,  # type: ignore[attr-defined]
        holds=cls.after_handler is not base.after_handler,  # type: ignore[attr-defined]
        batches=cls.after_batch is not base.after_batch,  # type: ignore[attr-defined]
    )
    for message_type, name in _methods(cls).items():
        method = getattr(cls, name)
        table.routes[message_type] = (_kind(method), method)
    table.known = tuple(sorted(getattr(one, "TYPE", one.__name__) for one in table.routes))
    suspends = any(kind is not SYNC for kind, _ in table.routes.values())
    table.guarded = suspends or table.holds or table.batches
    return table


def _methods(cls: type) -> dict[type, str]:
    """Map message types to method names; a subclass's method replaces the one of its name, and may change its type."""
    found: dict[type, str] = {}
    for one in reversed(cls.__mro__):
        own: dict[type, str] = {}
        for name, method in vars(one).items():
            annotation = getattr(method, MARK, None)
            if annotation is None:
                continue
            found = {kept: by for kept, by in found.items() if by != name}
            for message_type in _types(annotation):
                if message_type in own:
                    raise TypeError(
                        f"{one.__qualname__} handles {message_type.__name__} twice: {own[message_type]}, {name}"
                    )
                own[message_type] = name
        found |= own
    return found


def _kind(method: Callable[..., Any]) -> int:
    if inspect.isasyncgenfunction(method):
        return STREAM
    return ASYNC if inspect.iscoroutinefunction(method) else SYNC
