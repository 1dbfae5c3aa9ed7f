"""The keeper opens and closes the store, and writes down what happens to actors."""

import json
from typing import Final

from actors.company import Company
from runtime import log
from runtime.core.actor import Actor, handles
from runtime.errors import StoreError
from runtime.store import port
from schemas.base import Message
from schemas.system import Happened

PRUNE_EVERY: Final = 300.0
KEEP_EVENTS: Final = 200_000

logger = log.get(__name__)


class Prune(Message, type="keeper.prune"):
    """It is time to forget the oldest events."""


class Keeper(Actor):
    """First to come and last to go: while it stands, the store is open."""

    def __init__(self, house: Company) -> None:
        self.house = house
        self.noted: list[Happened] = []

    async def on_start(self) -> None:
        await self.house.store.open()
        self.house.store.listen(self.house.bus.publish)
        self.ctx.after(PRUNE_EVERY, Prune())

    async def on_stop(self, reason: str) -> None:
        await self.after_batch()
        await self.house.store.close()

    @handles
    def happened(self, message: Happened) -> None:
        self.noted.append(message)

    @handles
    async def prune(self, message: Prune) -> None:
        self.ctx.after(PRUNE_EVERY, message)
        try:
            await self.house.store.commit([port.PruneEvents(KEEP_EVENTS)])
        except StoreError as error:  # it can wait; to fall over it would take everybody down
            logger.warning("events_not_pruned", reason=error.detail)

    async def after_batch(self) -> None:
        """Write down what was noted; a store that refuses loses these lines of history and nothing else."""
        noted, self.noted = self.noted, []
        if not noted:
            return
        now = self.house.clock.now()
        changes: list[port.Change] = [
            port.AppendEvents(tuple((n.kind, n.subject, json.dumps(n.data, default=str)) for n in noted), now)
        ]
        for one in noted:
            state = OBSERVED.get(one.kind)
            if state is not None and one.subject.startswith("agent:"):
                name = one.subject.removeprefix("agent:")
                changes.append(port.PutAgent(name, "running", state, one.data.get("reason"), now))
        try:
            await self.house.store.commit(changes)
        except StoreError as error:
            logger.warning("history_not_written", events=len(noted), reason=error.detail)


OBSERVED: Final = {
    "actor.started": "running",
    "actor.stopped": "stopped",
    "actor.crashed": "failed",
    "actor.quarantined": "quarantined",
}
