"""A ref: the name of a cell as a thing to send to. Refs never hold instances, so they survive every restart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from anyio import get_cancelled_exc_class

from runtime.core.envelope import Asked
from runtime.core.owned import CURRENT
from runtime.core.stream import Channel
from schemas.base import AnyMessage, Request

if TYPE_CHECKING:
    from runtime.core.cell import Cell

R = TypeVar("R")

PATIENCE = 30.0
"""Seconds a tell waits for room where it names no deadline."""


class Ref:
    """An address. Sending is for the loop's own thread only."""

    __slots__ = ("_cell", "_mailbox", "name")

    def __init__(self, cell: Cell) -> None:
        self.name = cell.name
        self._cell = cell
        self._mailbox = cell.mailbox

    def __repr__(self) -> str:
        return f"Ref({self.name!r})"

    @property
    def cell(self) -> Cell:
        """The runtime's record behind this address."""
        return self._cell

    def tell_nowait(self, message: AnyMessage, *, sender: str | None = None) -> None:
        """Put *message* in the mailbox at once. Raises `MailboxFull`, `ActorStopped` or `ActorQuarantined`.

        A type that may be lost (`drop_oldest`) never raises `MailboxFull`: an older one of its sort makes room.
        """
        if sender is None and (life := CURRENT.get()) is not None:
            sender = life.name
        mailbox = self._mailbox
        item = (message, sender, mailbox.time(), None)
        queue = mailbox.queue
        if len(queue) < mailbox.room:
            queue.append(item)
            if mailbox.idle is not None:
                mailbox.wake()
        else:
            mailbox.put_or_refuse(item)

    async def tell(self, message: AnyMessage, *, sender: str | None = None, deadline: float | None = None) -> None:
        """Put *message* in the mailbox; where it is full, do what the message's type says.

        *deadline* is a point in the loop's monotonic time: the wait for room ends there with `MailboxFull` (30 s from
        now where none is given), and a message that is still unhandled then is not handled any more. A cancelled wait
        leaves nothing behind. An actor that fills its own mailbox is refused at once. Raises also `ActorStopped` and
        `ActorQuarantined`.
        """
        if sender is None and (life := CURRENT.get()) is not None:
            sender = life.name
        mailbox = self._mailbox
        item = (message, sender, mailbox.time(), deadline)
        queue = mailbox.queue
        if len(queue) < mailbox.room:
            queue.append(item)
            if mailbox.idle is not None:
                mailbox.wake()
        elif message.OVERFLOW == "wait":
            await self._cell.put(item, item[2] + PATIENCE if deadline is None else deadline)
        else:
            mailbox.put_or_refuse(item)

    async def ask(self, request: Request[R], *, timeout: float = 30.0, sender: str | None = None) -> R:
        """Send *request* and return its answer within *timeout* seconds, or within those of the message being handled.

        Raises `AskTimeout` (it says what the callee was doing), `ActorStopped`, `ActorQuarantined`, `MailboxFull`,
        `UnhandledMessage`, `ActorCrashed`, or the error of ours that the handler raised. Cancelling calls the work off.
        """
        cell, mailbox = self._cell, self._mailbox
        now = mailbox.time()
        deadline = now + timeout
        if (life := CURRENT.get()) is not None:
            sender = sender or life.name
            deadline = life.shortened(deadline)
        system = cell.system
        reply = system.loop.slot()
        envelope = Asked(request, sender, now, deadline, reply, cell)
        queue = mailbox.queue
        if len(queue) < mailbox.room:
            queue.append(envelope)
            if mailbox.idle is not None:
                mailbox.wake()
        else:
            await cell.put_request(envelope)
        deadlines = system.deadlines
        deadlines.add(deadline, envelope)
        try:
            return await reply  # type: ignore[no-any-return]  # the handler's word; Request[R] names the type
        except get_cancelled_exc_class():
            cell.call_off(envelope)
            raise
        finally:
            deadlines.forget()

    @asynccontextmanager
    async def stream(self, request: Request[Any], *, timeout: float | None = None) -> AsyncIterator[AsyncIterator[Any]]:
        """Send *request*, read its answers one by one: `async with ref.stream(...) as parts: async for part in parts`.

        The handler is at most 64 items ahead, then it waits. Leaving the block calls the handler off. *timeout* in
        seconds bounds the whole stream. Raises what `ask` raises, while reading.
        """
        cell = self._cell
        now = self._mailbox.time()
        life = CURRENT.get()
        deadline = now + timeout if timeout is not None else float("inf")
        if life is not None:
            deadline = life.shortened(deadline)
        channel = Channel(cell.system.loop.slot)
        until = None if deadline == float("inf") else deadline
        envelope = Asked(request, life.name if life is not None else None, now, until, channel, cell)
        await cell.put_request(envelope)
        if until is not None:
            cell.system.deadlines.add(until, envelope)
        try:
            yield channel
        finally:
            cell.call_off(envelope)
            if until is not None:
                cell.system.deadlines.forget()
