"""A message on its way, with what the sender wants of it; and the promise of a reply that comes later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from runtime.core.directive import told
from runtime.errors import ActorCrashed, UnderstudyError

if TYPE_CHECKING:
    from runtime.core._port import Slot
    from runtime.core.cell import Cell
    from schemas.base import AnyMessage


Told: TypeAlias = "tuple[AnyMessage, str | None, float, float | None]"
"""A told message in the queue: message, sender, `at`, `deadline`. A bare tuple costs a quarter of an object."""


class Envelope:
    """A message with what came along. `at` and `deadline` are monotonic seconds; without a deadline it never
    expires.
    """

    __slots__ = ("at", "deadline", "message", "sender")

    reply: Slot | None = None
    promise: Promise | None = None

    def __init__(self, message: AnyMessage, sender: str | None, at: float, deadline: float | None) -> None:
        self.message = message
        self.sender = sender
        self.at = at
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message.TYPE!r}, sender={self.sender!r})"


class Asked(Envelope):
    """A message whose sender waits for the answer in `reply`."""

    __slots__ = ("cell", "promise", "reply")

    reply: Slot
    promise: Promise | None

    def __init__(
        self, message: AnyMessage, sender: str | None, at: float, deadline: float | None, reply: Slot, cell: Cell
    ) -> None:
        self.message = message
        self.sender = sender
        self.at = at
        self.deadline = deadline
        self.reply = reply
        self.promise = None
        self.cell = cell

    @property
    def over(self) -> bool:
        """Whether the asker has its answer or has left."""
        return self.reply.done()

    def due(self) -> None:
        """The asker has waited long enough."""
        self.cell.expire(self)


Item: TypeAlias = "Told | Asked"
"""What a queue holds."""


def opened(item: Item) -> Envelope:
    """Return *item* as an envelope."""
    return Envelope(*item) if isinstance(item, tuple) else item


class Promise:
    """A reply slot taken out of a handler: whoever holds it answers, once, at any later time.

    It is broken for its holder when the instance ends: the asker then hears `ActorStopped` or `ActorCrashed`.
    """

    __slots__ = ("_cell", "_envelope", "_open")

    def __init__(self, cell: Cell, envelope: Envelope, open_promises: set[Promise]) -> None:
        self._cell = cell
        self._envelope = envelope
        self._open = open_promises
        open_promises.add(self)

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer: the asker left, its time is up, or it was a tell."""
        reply = self._envelope.reply
        return reply is None or reply.done()

    def resolve(self, value: Any) -> None:
        """Answer the asker. Where it has left, the answer is a dead letter; after a tell it is nothing."""
        self._open.discard(self)
        answer(self._cell, self._envelope, value)

    def fail(self, error: Exception) -> None:
        """Answer with an error; one that is not ours reaches the asker as `ActorCrashed`."""
        self._open.discard(self)
        answer_error(self._cell, self._envelope, error)


def answer(cell: Cell, envelope: Envelope, value: Any) -> None:
    """Give *value* to whoever asked; a reply that comes too late is a dead letter."""
    reply = envelope.reply
    if reply is None:
        return
    if reply.done():
        cell.bury("late_reply", envelope)
    else:
        reply.set_result(value)


def answer_error(cell: Cell, envelope: Envelope, error: BaseException) -> None:
    """Give *error* to whoever asked, without its traceback; to one who has left already, nothing."""
    reply = envelope.reply
    if reply is None or reply.done():
        return
    if isinstance(error, UnderstudyError):
        reply.set_exception(error.with_traceback(None))
    else:
        detail = f"{cell.name} crashed on {envelope.message.TYPE}: {told(error)}"
        reply.set_exception(ActorCrashed(detail, actor=cell.name, error=type(error).__name__))
