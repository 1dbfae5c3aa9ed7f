"""An actor that remembers what it was told and asked, for a test to look at."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import anyio

from runtime.core.actor import Actor, handles
from schemas.base import AnyMessage, Message, PlainMessage

M = TypeVar("M", bound=AnyMessage)

WITHIN = 30.0


class Probe(Actor):
    """Takes every message. *replies* says by type what is answered: a value, an error to raise, or a function of the
    message; what it does not name is answered with None.

    told, asked  the messages, in order; those that came with `ask` are in `asked`
    seen         both
    """

    def __init__(self, replies: Mapping[type[AnyMessage], Any] | None = None) -> None:
        self.replies = dict(replies or {})
        self.told: list[AnyMessage] = []
        self.asked: list[AnyMessage] = []
        self.seen: list[AnyMessage] = []
        self._fresh: list[AnyMessage] = []
        self._news = anyio.Event()

    @handles
    def hear(self, message: Message | PlainMessage) -> Any:
        """Note *message* and answer as told to."""
        envelope = self.ctx.envelope
        waits = envelope is not None and envelope.reply is not None
        (self.asked if waits else self.told).append(message)
        self.seen.append(message)
        self._fresh.append(message)
        self._news.set()
        return self._reply(message)

    def _reply(self, message: AnyMessage) -> Any:
        base = next((base for base in type(message).__mro__ if base in self.replies), None)
        reply = None if base is None else self.replies[base]
        if isinstance(reply, Exception):
            raise reply
        return reply(message) if callable(reply) else reply

    async def next(self, kind: type[M], *, within: float = WITHIN) -> M:
        """Return the first message of *kind* that `next` has not returned yet, waiting for it if need be. Raises
        AssertionError after *within* seconds, and says what has come.
        """
        with anyio.move_on_after(within):
            while True:
                found = next((one for one in self._fresh if isinstance(one, kind)), None)
                if found is not None:
                    self._fresh = [one for one in self._fresh if one is not found]
                    return cast("M", found)
                self._news = anyio.Event()
                await self._news.wait()
        came = ", ".join(one.TYPE for one in self.seen) or "nothing"
        raise AssertionError(f"no {kind.__name__} came within {within:g} s; what came: {came}")
