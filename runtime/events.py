"""The event bus: what was committed is told after the commit, what is only live (tokens, progress) at once."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import anyio

from runtime.errors import EventsExpired
from runtime.store.port import Store
from schemas.events import Event

BUFFER: Final = 1024
PAGE: Final = 500

Wanted = Callable[[Event], bool]


def wanted(types: tuple[str, ...] = (), subject: str | None = None) -> Wanted:
    """Return a filter: any of *types* (one may end in `*`; none means all), of *subject* where it is given."""
    exact = {t for t in types if not t.endswith("*")}
    heads = tuple(t[:-1] for t in types if t.endswith("*"))

    def matches(event: Event) -> bool:
        if subject is not None and event.subject != subject:
            return False
        return not types or event.type in exact or (bool(heads) and event.type.startswith(heads))

    return matches


class Subscription:
    """A bounded window on the bus. When its reader is too slow it forgets everything and says so once: `lagged` is
    true.
    """

    def __init__(self, matches: Wanted, limit: int = BUFFER) -> None:
        self._matches = matches
        self._limit = limit
        self._waiting: deque[Event] = deque()
        self._news: anyio.Event | None = None
        self.lagged = False

    def offer(self, event: Event) -> None:
        """Take *event* if it is wanted; never waits, so that a slow reader cannot hold up whoever tells."""
        if not self._matches(event):
            return
        if len(self._waiting) >= self._limit:
            self._waiting.clear()
            self.lagged = True
        self._waiting.append(event)
        if self._news is not None:
            self._news.set()

    def take(self) -> list[Event]:
        """Return what has come and forget it; empty when nothing has."""
        events = list(self._waiting)
        self._waiting.clear()
        return events

    async def wait(self) -> None:
        """Wait until there is something to take."""
        if not self._waiting and not self.lagged:
            self._news = anyio.Event()
            await self._news.wait()


class EventBus:
    """Tells events to whoever listens in this process. Subscriptions by subject are found without asking all the
    others.
    """

    def __init__(self) -> None:
        self._all: list[Subscription] = []
        self._by_subject: dict[str, list[Subscription]] = {}

    def publish(self, events: Sequence[Event]) -> None:
        """Tell *events* to all that want them, at once and in order."""
        if not self._all and not self._by_subject:
            return
        for event in events:
            for subscription in self._all:
                subscription.offer(event)
            for subscription in self._by_subject.get(event.subject, ()):
                subscription.offer(event)

    def listens(self, subject: str) -> bool:
        """Tell whether anybody follows *subject*: what nobody hears need not be made."""
        return bool(self._all) or subject in self._by_subject

    @contextmanager
    def subscribe(
        self, types: tuple[str, ...] = (), subject: str | None = None, limit: int = BUFFER
    ) -> Iterator[Subscription]:
        """Listen while the context is open."""
        subscription = Subscription(wanted(types, subject), limit)
        room = self._all if subject is None else self._by_subject.setdefault(subject, [])
        room.append(subscription)
        try:
            yield subscription
        finally:
            room.remove(subscription)
            if subject is not None and not room:
                del self._by_subject[subject]


@asynccontextmanager
async def follow(
    store: Store,
    bus: EventBus,
    *,
    since: int | None,
    types: tuple[str, ...] = (),
    subject: str | None = None,
    live: bool = True,
) -> AsyncIterator[AsyncIterator[Event]]:
    """Replay kept events past *since* (None: from now on), then go on live, without a gap and without a repeat.

    A reader too slow for the live window is served from the table again, so nothing kept is missed; events without an
    offset (tokens) may be. Raises EventsExpired where *since* is before what is kept.
    """
    with bus.subscribe(types, subject) as subscription:
        oldest, newest = await store.event_bounds()
        if since is not None and since < oldest - 1:
            raise EventsExpired(f"the oldest event that is kept is {oldest}", oldest=oldest)
        stream = events_after(store, subscription, newest if since is None else since, types, subject, live=live)
        try:
            yield stream
        finally:
            await stream.aclose()


async def events_after(
    store: Store, subscription: Subscription, cursor: int, types: tuple[str, ...], subject: str | None, *, live: bool
) -> AsyncGenerator[Event, None]:
    behind = True
    while True:
        while behind:
            page = await store.events(after=cursor, types=types, subject=subject, limit=PAGE)
            for event in page:
                yield event
                cursor = event.offset if event.offset is not None else cursor
            behind = len(page) == PAGE
        if not live:
            return
        await subscription.wait()
        if subscription.lagged:
            subscription.lagged, behind = False, True
            subscription.take()
            continue
        for event in subscription.take():
            if event.offset is None:
                yield event
            elif event.offset > cursor:
                yield event
                cursor = event.offset
