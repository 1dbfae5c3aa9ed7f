"""What a person writes: `Actor`, its hooks, and the context through which it reaches the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from runtime.core.envelope import Envelope, Promise
from runtime.core.handlers import handles
from schemas.agents import Lifecycle
from schemas.base import AnyMessage, Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from runtime.clock import Clock
    from runtime.core.deadlines import Timer
    from runtime.core.incarnation import Incarnation
    from runtime.core.owned import TaskHandle
    from runtime.core.ref import Ref
    from runtime.core.spec import ChildSpec
    from runtime.core.system import ActorSystem

__all__ = ["LIFECYCLE", "Actor", "ActorContext", "Envelope", "Promise", "Terminated", "handles"]

LIFECYCLE: Final[dict[Lifecycle, frozenset[Lifecycle]]] = {
    "new": frozenset({"starting", "quarantined", "stopped"}),
    "starting": frozenset({"running", "stopping", "failed"}),
    "running": frozenset({"suspended", "stopping", "failed"}),
    "suspended": frozenset({"running", "stopping", "failed"}),
    "stopping": frozenset({"stopped", "starting", "backing_off", "quarantined"}),
    "failed": frozenset({"starting", "backing_off", "quarantined", "stopped"}),
    "backing_off": frozenset({"starting", "quarantined", "stopped"}),
    "quarantined": frozenset({"starting", "backing_off", "stopped"}),
    "stopped": frozenset({"starting"}),
}
"""Which state may follow which. `backing_off` is any wait for a start; a person alone leaves `quarantined`."""


class Terminated(Message, type="actor.terminated"):
    """A watched incarnation has ended: `stop`, `restart`, `shutdown`, `crash`, `quarantine` or `zombie`.

    It says nothing about the cell, which may be starting its next incarnation.
    """

    name: str
    incarnation: int
    reason: str


class Actor:
    """Base of every actor: state of its own, one message at a time.

    The runtime makes the object anew at each start, sets `ctx`, and calls the hooks below. None of them is needed for
    correctness: a process may die between any two lines.
    """

    ctx: ActorContext

    async def on_start(self) -> None:
        """Get ready; messages wait meanwhile. An error is a crash, or quarantine where the configuration is wrong."""

    async def on_stop(self, reason: str) -> None:
        """Say goodbye: *reason* is "stop", "restart", "shutdown" or "crash". Bounded by the child's `shutdown`."""

    async def after_handler(self, envelope: Envelope, result: Any) -> Any:
        """Hold the reply: what this returns is what the asker gets, and it leaves only when this has returned."""
        return result

    async def on_handler_error(self, envelope: Envelope, error: Exception) -> None:
        """Clean up after a handler that raised or was cut off, before the asker hears of it."""

    async def after_batch(self) -> None:
        """Do once what would be dear to do for each message: the mailbox is empty, or 512 messages have passed."""

    def blame(self, envelope: Envelope) -> str | None:
        """Return the id of the durable message that a crash on *envelope* is counted against."""
        return None

    def reply_later(self) -> Promise:
        """Take the reply slot of the message being handled; what the handler returns is then ignored."""
        return self.ctx.reply_later()


class ActorContext:
    """What one incarnation of an actor may ask of the runtime. Of no use once that incarnation has ended."""

    __slots__ = ("_life",)

    def __init__(self, life: Incarnation) -> None:
        self._life = life

    @property
    def name(self) -> str:
        """The cell's name."""
        return self._life.cell.name

    @property
    def ref(self) -> Ref:
        """A ref to this very actor."""
        return self._life.cell.ref

    @property
    def incarnation(self) -> int:
        """Which start of the cell this is, from 1."""
        return self._life.number

    @property
    def clock(self) -> Clock:
        """The system's clock."""
        return self._life.cell.system.clock

    @property
    def system(self) -> ActorSystem:
        """The system this actor lives in."""
        return self._life.cell.system

    @property
    def envelope(self) -> Envelope | None:
        """The message being handled, with its sender and deadline."""
        return self._life.envelope

    def actor(self, name: str) -> Ref:
        """Return a ref to the actor called *name*. Raises `NoSuchActor`."""
        return self._life.cell.system.ref(name)

    def watch(self, ref: Ref) -> None:
        """Ask for exactly one `Terminated` when the present incarnation of *ref* ends, or now if none will come.

        Where *ref* is between two incarnations, the next one is watched.
        """
        self._life.watch(ref)

    def after(self, delay: float, message: AnyMessage) -> Timer:
        """Send *message* to this actor in *delay* seconds, on the signal lane; called off when the instance ends."""
        return self._life.after(delay, message)

    def start(self, work: Callable[..., Awaitable[Any]], *args: Any, name: str) -> TaskHandle:
        """Run *work* beside the handlers, owned by this instance: cancelled when it ends.

        An exception in it is this actor's crash. It may outlive the message that started it.
        """
        return self._life.start_task(work, args, name)

    async def spawn(self, spec: ChildSpec) -> Ref:
        """Start a child actor that is stopped with this instance.

        Raises `StartFailed` when a temporary one did not come up, ValueError when the name is taken.
        """
        return await self._life.spawn(spec)

    def reply_later(self) -> Promise:
        """Take the reply slot of the message being handled; see `Actor.reply_later`."""
        return self._life.promise()

    def last_told(self) -> list[AnyMessage]:
        """Take out what was told and will not be handled any more; for `on_stop` of an actor that must lose nothing.

        At a restart leave it where it is: the mailbox is kept.
        """
        return self._life.cell.mailbox.told()

    def stop_self(self) -> None:
        """End normally after the present handler; what follows is up to `ChildSpec.restart`."""
        self._life.cell.request_stop("stop")
