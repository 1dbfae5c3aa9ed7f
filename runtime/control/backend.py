"""What the control room needs of the daemon, and what it takes from clients."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from schemas.agents import Say
from schemas.base import Message
from schemas.events import StreamPart
from schemas.system import ActorView, HealthView, Hello, StatusView

Parts: TypeAlias = AbstractAsyncContextManager[AsyncIterator[StreamPart]]


class Backend(Protocol):
    """What the control room needs of the daemon.

    The snapshots are called in the control thread and must not block; the others run on the actors' loop.
    """

    def hello(self) -> Hello:
        """Who answers."""
        ...

    def health(self) -> HealthView:
        """Whether the daemon lives and takes work."""
        ...

    def status(self) -> StatusView:
        """One screen."""
        ...

    def tree(self) -> ActorView:
        """The actors."""
        ...

    async def ask(self, actor: str, message: Message, *, timeout: float, key: str | None) -> Any:
        """Return the actor's answer: a model, a tuple of models, a plain JSON value or None. Durable messages to an
        agent become jobs in there. Raises `UnderstudyError`.
        """
        ...

    async def tell(self, actor: str, message: Message, *, key: str | None) -> Any:
        """Hand the message over and return what there is to say about it. Raises `UnderstudyError`."""
        ...

    def chat(self, agent: str, say: Say, *, key: str | None, detach: bool) -> Parts:
        """Say something and hand out the parts of the answer; leaving early cancels the job unless *detach*."""
        ...

    def watch(self, job: str) -> Parts:
        """Hand out what a job does until it ends; leaving changes nothing."""
        ...

    def events(self, *, since: int | None, types: tuple[str, ...], subject: str | None, follow: bool) -> Parts:
        """Hand out what happened after *since*, then, with *follow*, what happens."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What the control socket takes. Sizes are in bytes, times in seconds."""

    connections: int = 128
    headers: int = 16 * 1024
    body: int = 1024 * 1024
    request: float = 5.0
    keep_alive: float = 75.0
    ping: float = 15.0
