"""A bounded mailbox with a signal lane: what a sender may put in, who waits for room, and what the actor takes out."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runtime.errors import ActorError, MailboxFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.core._port import Slot
    from runtime.core.envelope import Asked, Envelope, Item
    from schemas.base import AnyMessage


class Waiting:
    """A sender who waits for room."""

    __slots__ = ("item", "slot")

    def __init__(self, item: Item, slot: Slot) -> None:
        self.item = item
        self.slot = slot


class Mailbox:
    """Two lanes in front of one actor. It belongs to the cell and survives every restart.

    `room` is what a sender compares the length with: the limit, or 0 while the gate is closed or others wait before
    it, so that one look decides. `gate` makes the error for senders while the cell takes nothing. Signals come from the
    runtime alone and are bounded by what was asked for (one per watch, one per timer).
    """

    __slots__ = ("gate", "idle", "limit", "lost", "name", "queue", "room", "signals", "time", "waiting")

    def __init__(self, name: str, limit: int, lost: Callable[[Item], None], time: Callable[[], float]) -> None:
        self.name = name
        self.time = time
        self.limit = self.room = limit
        self.lost = lost
        self.queue: deque[Item] = deque()
        self.signals: deque[Item] | None = None
        self.waiting: deque[Waiting] | None = None
        self.idle: Slot | None = None
        self.gate: Callable[[], ActorError] | None = None

    def put(self, item: Item) -> bool:
        """Take *item* in; return whether there was room. Raises what the gate says.

        Senders who wait come first: a newcomer finds no room while there are any.
        """
        if len(self.queue) < self.room:
            self.queue.append(item)
            if self.idle is not None:
                self.wake()
            return True
        if self.gate is not None:
            raise self.gate()
        return False

    def put_or_refuse(self, item: Item) -> None:
        """Take *item* in, or make room where its type may be lost, or raise `MailboxFull`."""
        if self.put(item):
            return
        if message_of(item).OVERFLOW != "drop_oldest":
            raise self.full()
        self._drop_oldest_for(item)

    def _drop_oldest_for(self, item: Item) -> None:
        # Only what may be lost gives way; where nothing of that sort waits, the newcomer itself is what may be lost.
        for place, old in enumerate(self.queue):
            if message_of(old).OVERFLOW == "drop_oldest":
                del self.queue[place]
                self.queue.append(item)
                self.lost(old)
                return
        self.lost(item)

    def full(self) -> MailboxFull:
        """Return the error for a sender who finds no room."""
        return MailboxFull(f"the mailbox of {self.name} holds {len(self.queue)} of {self.limit}", actor=self.name)

    def signal(self, item: Item) -> None:
        """Put *item* in the lane that user messages cannot delay."""
        if self.signals is None:
            self.signals = deque()
        self.signals.append(item)

    def wake(self) -> None:
        """End the actor's idle wait."""
        slot, self.idle = self.idle, None
        if slot is not None and not slot.done():
            slot.set_result(None)

    def wait(self, item: Item, slot: Slot) -> Waiting:
        """Join the senders who wait for room; *slot* is filled when *item* has been taken in."""
        if self.waiting is None:
            self.waiting = deque()
        sender = Waiting(item, slot)
        self.waiting.append(sender)
        self.room = 0
        return sender

    def leave(self, sender: Waiting) -> None:
        """Forget a sender who waits no longer; whoever was taken in meanwhile stays in."""
        if self.waiting and sender in self.waiting:
            self.waiting.remove(sender)
            self._open_room()

    def admit(self) -> None:
        """Let waiting senders in, first come first served, as far as there is room."""
        while self.waiting and len(self.queue) < self.limit:
            sender = self.waiting.popleft()
            if not sender.slot.done():
                self.queue.append(sender.item)
                sender.slot.set_result(None)
        self._open_room()
        if self.idle is not None and self.queue:
            self.wake()

    def _open_room(self) -> None:
        self.room = 0 if self.waiting or self.gate is not None else self.limit

    def discard(self, item: Asked) -> bool:
        """Take *item* out before it is handled; return whether it was still there."""
        try:
            self.queue.remove(item)
        except ValueError:
            return False
        if self.waiting:
            self.admit()
        return True

    def close(self, gate: Callable[[], ActorError]) -> None:
        """Refuse senders from now on, those who wait included."""
        self.gate = gate
        self.room = 0
        while self.waiting:
            slot = self.waiting.popleft().slot
            if not slot.done():
                slot.set_exception(gate())

    def open(self) -> None:
        """Take messages again."""
        self.gate = None
        self._open_room()

    def told(self) -> list[AnyMessage]:
        """Take out every message that nobody waits for an answer to."""
        items = list(self.queue)
        self.queue.clear()
        self.queue.extend(item for item in items if not isinstance(item, tuple))
        if self.waiting:
            self.admit()
        return [item[0] for item in items if isinstance(item, tuple)]

    def emptied(self) -> list[Item]:
        """Take everything out, signals included: the cell has ended."""
        rest = list(self.queue)
        self.queue.clear()
        self.signals = None
        return rest


def message_of(item: Item | Envelope) -> AnyMessage:
    """Return the message in *item*."""
    return item[0] if isinstance(item, tuple) else item.message
