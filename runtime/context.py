"""What the running code is working for: the request, the actor and the job that log lines are marked with."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Context:
    """Who the current work is for; None where it is for nobody in particular."""

    request_id: str | None = None
    actor: str | None = None
    job: str | None = None


_NOBODY: Final = Context()
_current: ContextVar[Context] = ContextVar("understudy_context", default=_NOBODY)


def current() -> Context:
    """Return the context of the running task or thread."""
    return _current.get()


@contextmanager
def bind(*, request_id: str | None = None, actor: str | None = None, job: str | None = None) -> Iterator[Context]:
    """Set what is given for the length of a `with` block and keep the rest; tasks started inside inherit it."""
    given = {"request_id": request_id, "actor": actor, "job": job}
    context = replace(_current.get(), **{name: value for name, value in given.items() if value is not None})
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
