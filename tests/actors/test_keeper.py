"""The keeper: what happens to actors is written down, and what cannot be written takes nobody down."""

from typing import Any

import anyio

from actors import keeper
from runtime.errors import StoreFull
from runtime.store import port
from schemas.system import Happened

CONFIG = """
    [runtime]
    pool = 1
    [agents.ada]
    llm = { provider = "scripted", model = "echo" }
"""


async def test_what_happens_to_agents_is_kept(whole: Any) -> None:
    async with whole(CONFIG) as s:
        store = s.system.ref("store")
        for kind, data in (("actor.started", {}), ("actor.quarantined", {"reason": "it broke"})):
            await store.tell(Happened(kind=kind, subject="agent:ada", data=data))
        await s.caught_up()
        (row,) = await s.disk.agents()
        assert (row.name, row.desired, row.observed, row.reason) == ("ada", "running", "quarantined", "it broke")
        kinds = [event.type for event in await s.disk.events(after=0, subject="agent:ada")]
        assert kinds == ["actor.started", "actor.quarantined"]


async def test_what_happens_to_others_is_an_event_and_no_agent(whole: Any) -> None:
    async with whole(CONFIG) as s:
        await s.system.ref("store").tell(Happened(kind="actor.started", subject="worker:loop-1", data={"at": object}))
        await s.caught_up()
        assert await s.disk.agents() == ()
        assert len(await s.disk.events(after=0, subject="worker:loop-1")) == 1


async def test_history_that_cannot_be_written_takes_nobody_down(whole: Any) -> None:
    async with whole(CONFIG) as s:
        s.disk.refuses = StoreFull("no space left")
        await s.system.ref("store").tell(Happened(kind="actor.started", subject="agent:ada", data={}))
        await anyio.sleep(2 * keeper.PRUNE_EVERY + 1)
        s.disk.refuses = None
        assert s.heard("actor.crashed") == []
        view = await s.until(await s.say("ada", "hi"))
        assert view.status == "completed"


async def test_the_oldest_events_are_forgotten_from_time_to_time(whole: Any) -> None:
    async with whole(CONFIG) as s:
        await anyio.sleep(keeper.PRUNE_EVERY + 1)
        assert s.disk.written(port.PruneEvents) == [port.PruneEvents(keeper.KEEP_EVENTS)]


async def test_what_the_store_tells_is_told_on(whole: Any) -> None:
    async with whole(CONFIG) as s:
        with s.house.bus.subscribe(("job.enqueued",)) as news:
            submitted = await s.submit()
            assert [event.subject for event in news.take()] == [submitted.id]
