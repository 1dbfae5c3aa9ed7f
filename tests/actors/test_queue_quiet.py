"""What the queue does while nothing can be done: it asks the store for nothing, and stands in nobody's way."""

from typing import Any

import anyio
import pytest

from runtime.store import port
from schemas.jobs import ChangeQueue, NewJob, Rate

pytestmark = pytest.mark.anyio

WRITER = '[agents.writer]\nactor = "writers:Writer"\n'


async def test_a_rate_with_room_is_no_reason_to_ask_for_a_waiting_conversation_again_and_again(stage: Any) -> None:
    async with stage(WRITER) as s:
        hand = await s.hand("agent:writer", lane="agent", queue="agent:writer", slots=2)
        await s.ask(ChangeQueue(name="agent:writer", rate=Rate(requests=100, per_ms=60_000)))
        await s.say("writer", "one")
        await s.say("writer", "two")
        first = await hand.takes(1)
        await s.caught_up()
        before = len(s.disk.written(port.ClaimJobs))
        await anyio.sleep(5)
        assert len(s.disk.written(port.ClaimJobs)) - before <= 2
        await hand.ends(first)
        assert (await hand.takes(2)).id != first.id


async def test_a_commit_of_another_goes_well_while_the_queue_is_down(stage: Any) -> None:
    async with stage() as s:
        await s.system.stop_child("queue")
        new_id, now = s.house.clock.new_id, s.house.clock.now()
        for job, status in ((NewJob(kind="echo"), "pending"), (NewJob(kind="echo", delay_ms=1000), "delayed")):
            row = s.house.prepare(job, new_id(), now)
            await s.house.store.commit([port.InsertJobs((row,), now)])
            assert (await s.stands(row.id))[0] == status
