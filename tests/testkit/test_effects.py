"""One handler run alone, probes, and single calls of tools."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import anyio
import pytest

from actors.testkit import Notes, Probe, as_tool, run_one, run_tool
from runtime.errors import (
    ActorCrashed,
    AskTimeout,
    LoadFailed,
    RequestInvalid,
    StateUnreadable,
    ToolDenied,
    UnhandledMessage,
)
from runtime.outcomes import Retry
from runtime.stateful import AgentState, StatefulActor, handles
from runtime.store import port
from runtime.tools.functions import tool
from runtime.tools.tool import ToolContext
from schemas.agents import Say
from schemas.base import Message, Request
from schemas.jobs import NewJob, WorkerReady


class Take(Request[int], type="testkit_effects.take", durable=True):
    n: int


class Count(Request[int], type="testkit_effects.count"):
    pass


class Note(Message, type="testkit_effects.note"):
    text: str


class Fall(Request[int], type="testkit_effects.fall"):
    how: str


class Shelf(StatefulActor):
    class State(AgentState):
        left: int = 10

    STATE_VERSION = 2
    UPGRADES: ClassVar[Any] = {1: lambda old: {"left": old["amount"]}}

    state: Any

    @handles
    def take(self, message: Take) -> int:
        self.state.left -= message.n
        if self.state.left < self.options.get("low", 0):
            self.submit(NewJob(kind="order", args={"n": message.n}, tags=("shelf",)))
            self.submit(NewJob(kind="agent.message", args={"agent": "writer", "message": {"text": "order"}}))
            self.emit("low", left=self.state.left)
        return int(self.state.left)

    @handles
    async def count(self, message: Count) -> AsyncIterator[int]:
        for n in range(self.state.left):
            yield n

    @handles
    def note(self, message: Note) -> None:
        self.also(port.PutSetting("note", json.dumps(message.text)))

    @handles
    async def said(self, message: Say) -> str:
        return str(await self.ctx.actor("agent:writer").ask(message))

    @handles
    async def fall(self, message: Fall) -> int:
        self.state.left = -1
        self.submit(NewJob(kind="never"))
        match message.how:
            case "retry":
                raise Retry(5)
            case "wait":
                await anyio.sleep_forever()
            case "refuse":
                raise RequestInvalid("no")
        raise ValueError("broken")


async def test_a_handler_has_a_reply_a_state_jobs_and_events() -> None:
    found = await run_one(Shelf, Take(n=9), options={"low": 5})
    assert (found.reply, found.state.left, found.error) == (1, 1, None)
    assert [(job.kind, job.tags) for job in found.submitted] == [("order", ("shelf",)), ("agent.message", ())]
    assert found.events == (("agent.low", {"left": 1}),)
    assert {type(change) for change in found.changes} == {port.SaveState, port.InsertJobs, port.AppendEvents}
    assert found.ok() is found


@pytest.mark.parametrize("state", [{"left": 3}, Shelf.State(left=3)])
async def test_it_begins_with_the_state_that_was_given(state: Any) -> None:
    assert (await run_one(Shelf, Take(n=1), state)).reply == 2
    assert (await run_one(Shelf, Count(), state)).reply == (0, 1, 2)


async def test_an_old_state_is_upgraded_and_one_that_fits_not_is_an_error() -> None:
    assert (await run_one(Shelf, Take(n=1), {"amount": 3}, state_version=1)).reply == 2
    assert (await run_one(Shelf, Count(), {"amount": 2}, state_version=1)).state.left == 2
    found = await run_one(Shelf, Take(n=1), {"other": 3})
    assert isinstance(found.error, StateUnreadable)
    assert found.changes == ()


async def test_a_message_without_a_reply_and_other_changes() -> None:
    found = await run_one(Shelf, Note(text="x"))
    assert (found.reply, found.changes) == (None, (port.PutSetting("note", '"x"'),))


@pytest.mark.parametrize(("how", "error"), [("", ValueError), ("retry", Retry), ("refuse", RequestInvalid)])
async def test_a_handler_that_raises_changes_nothing(how: str, error: type[Exception]) -> None:
    found = await run_one(Shelf, Fall(how=how), {"left": 3})
    assert isinstance(found.error, error)
    assert (found.reply, found.submitted, found.changes, found.state.left) == (None, (), (), 3)
    with pytest.raises(error):
        found.ok()


async def test_a_handler_that_takes_too_long_or_is_not_there() -> None:
    assert isinstance((await run_one(Shelf, Fall(how="wait"), within=5)).error, AskTimeout)
    assert isinstance((await run_one(Shelf, WorkerReady(worker="x", lane="loop"))).error, UnhandledMessage)


async def test_other_actors_are_played_by_probes() -> None:
    writer = Probe({Say: lambda message: message.text.upper()})
    found = await run_one(Shelf, Say(text="abc"), actors={"agent:writer": writer})
    assert found.reply == "ABC"
    assert await writer.next(Say) == Say(text="abc")
    assert (len(writer.asked), len(writer.told)) == (1, 0)
    found = await run_one(Shelf, Say(text="abc"), actors={"agent:writer": Probe({Request: RequestInvalid("no")})})
    assert isinstance(found.error, RequestInvalid)
    found = await run_one(Shelf, Say(text="abc"), actors={"agent:writer": Probe({Say: KeyError("no")})})
    assert isinstance(found.error, ActorCrashed)


async def test_a_probe_waits_for_what_comes_and_tells_what_came_instead() -> None:
    queue = Probe()

    async def waits() -> None:
        ready = await queue.next(WorkerReady)
        assert ready.worker == "agent:shelf"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waits)
        await run_one(Shelf, Take(n=1), actors={"queue": queue})
    assert len(queue.told) == len(queue.seen) == 1
    with pytest.raises(AssertionError, match=r"no WorkerReady came within 1 s; what came: worker\.ready"):
        await queue.next(WorkerReady, within=1)


# -- tools -------------------------------------------------------------------------------------------------------------


@tool(name="save", timeout=5)
async def save(name: str, ctx: ToolContext, n: int = 2) -> dict[str, Any]:
    """Save something."""
    (ctx.workdir / name).write_text("x" * n)
    await ctx.surroundings.remember("last", name)
    return {"agent": ctx.agent, "retried": ctx.retried, "there": sorted(path.name for path in ctx.workdir.iterdir())}


async def refuses() -> str:
    raise ToolDenied("not here")


async def breaks() -> str:
    raise KeyError("oh")


async def test_a_tool_is_called_as_an_agent_would(tmp_path: Any) -> None:
    notes = Notes()
    found = await run_tool(save, {"name": "a"}, agent="ada", retried=True, surroundings=notes)
    assert (found.text, found.failed) == ('{"agent": "ada", "retried": true, "there": ["a"]}', False)
    assert notes.kept == {"last": "a"}
    assert await notes.recall("LAST thing", 5) == [("last", "a")]
    assert not (await run_tool(as_tool(save), {"name": "b", "n": 4}, workdir=tmp_path)).failed
    assert (tmp_path / "b").read_text() == "xxxx"


@pytest.mark.parametrize(
    ("function", "arguments", "told"),
    [
        (save, {}, "name"),
        (save, {"name": "a", "m": 1}, "m"),
        (refuses, {}, "not here"),
        (breaks, {}, "KeyError: 'oh'"),
    ],
)
async def test_what_goes_wrong_in_a_tool_is_a_result(function: Any, arguments: Any, told: str) -> None:
    found = await run_tool(function, arguments)
    assert found.failed
    assert told in found.text


async def test_a_tool_that_takes_too_long_is_ended_and_no_time_is_lost() -> None:
    @tool(timeout=600)
    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    assert (await run_tool(slow)).text == "slow took more than 600 s and was ended"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_time_stands_still_while_a_plain_function_works() -> None:
    @tool(timeout=0.1)
    def busy() -> str:
        time.sleep(0.2)  # real time, in a thread
        return "done"

    assert (await run_tool(busy)).text == "done"


async def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(LoadFailed):
        await run_tool(lambda *args: args)


async def test_notes_are_forgotten() -> None:
    notes = Notes()
    await notes.remember("a", "b")
    await notes.remember("a", None)
    assert await notes.recall("a", 1) == []
