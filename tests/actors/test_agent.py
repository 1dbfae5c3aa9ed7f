"""The built-in agent: what it asks the model, what it streams and writes, how a turn fails, waits, is cut off or
stops.
"""

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from actors.prompt import persona
from actors.turn import GRAIN
from runtime.errors import LlmAuth, LlmOverloaded, LlmRateLimited, LlmTimeout, LlmUnreachable, StoreError, StoreFull
from runtime.stateful import AgentState
from runtime.store import port
from schemas.agents import Say
from schemas.chat import ChatPart, ChatRequest, ReasoningPart, StopPart, TextPart, Usage, UsagePart
from schemas.config import AgentSettings
from schemas.events import Event

CONFIG = """
    [runtime]
    pool = 1
    child_pool = 1
    drain = "20s"
    [agents.ada]
    role = "a mathematician"
    goal = "Prove it."
    backstory = "You wrote the first program."
    instructions = "Be brief."
    llm = { provider = "scripted", model = "m1", temperature = 0.5, max_tokens = 64, extra = { seed = 1 } }
    run_timeout = "60s"
    idle_timeout = "10s"
    context_messages = 4
    concurrency = 2
"""
LLM = {"provider": "scripted", "model": "m1"}


class Played:
    """A model that plays the parts the test gave it, one list a call; a number is a pause, an error is raised."""

    name = "scripted"

    def __init__(self) -> None:
        self.plays: deque[list[ChatPart | Exception | float]] = deque()
        self.asked: list[ChatRequest] = []
        self.open = self.most = 0
        self.closed = False

    def answers(self, *texts: str, pause: float = 0.0) -> None:
        """Play *texts* as the pieces of one answer, each after *pause* seconds."""
        parts: list[Any] = [one for text in texts for one in (pause, TextPart(text=text))]
        self.plays.append([*parts, UsagePart(usage=Usage(input_tokens=7, output_tokens=len(texts))), StopPart()])

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        self.asked.append(request)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield self._parts(self.plays.popleft())
        finally:
            self.open -= 1

    async def _parts(self, play: list[ChatPart | Exception | float]) -> AsyncIterator[ChatPart]:
        for one in play:
            if isinstance(one, float):
                await anyio.sleep(one)
            elif isinstance(one, Exception):
                raise one
            else:
                yield one

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def ada(whole: Any) -> Any:
    """The whole tree with one agent whose model the test plays."""

    @asynccontextmanager
    async def run(*plays: str, **more: Any) -> AsyncIterator[Any]:
        model = Played()
        for text in plays:
            model.answers(text)

        def change(house: Any) -> None:
            house.models._providers["scripted"] = model

        async with whole(**({"config": CONFIG, "change": change} | more)) as s:
            s.model = model
            yield s
            assert model.open == 0

    return run


async def at_work(s: Any, job: str, calls: int = 1) -> None:
    """Wait until *job* is active and so many calls of the model are under way."""
    await s.until(job, "active")
    with anyio.fail_after(3600):
        while s.model.open < calls:
            await anyio.sleep(0.001)


async def conversation(s: Any, name: str = "main") -> list[tuple[str, str]]:
    kept = [json.loads(body) for body in await s.disk.messages("ada", name)]
    return [(one["role"], one["content"]) for one in kept]


async def heard(s: Any, job: str, *, until: str) -> list[Event]:
    """Follow a job until an event of a type; return all that was told."""
    told: list[Event] = []
    with anyio.fail_after(3600), s.house.bus.subscribe(subject=job) as news:
        while not told or told[-1].type != until:
            await news.wait()
            told += news.take()
    return told


# -- a turn that goes well ---------------------------------------------------------------------------------------------


async def test_an_answer_is_streamed_then_written_with_the_end_of_its_job(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("Four", ", of course.", pause=1.0)
        s.model.plays[0].insert(0, ReasoningPart(text="hm"))
        with s.house.bus.subscribe() as news:
            job = await s.say("ada", "2 + 2?")
            view = await s.until(job)
            told = [(e.type, e.data.get("text")) for e in news.take() if e.subject == job]
        assert told == [
            ("job.enqueued", None),
            ("job.started", None),
            ("turn.started", None),
            ("turn.reasoning", "hm"),
            ("turn.token", "Four"),
            ("turn.token", ", of course."),
            ("job.step", None),
            ("job.completed", None),
        ]
        assert (view.status, view.attempts) == ("completed", 1)
        assert view.result == {
            "text": "Four, of course.",
            "conversation": "main",
            "usage": {"input_tokens": 7, "output_tokens": 2},
            "model": "m1",
            "calls": 1,
        }
        assert await conversation(s) == [("user", "2 + 2?"), ("assistant", "Four, of course.")]
        (written,) = [c for c in s.disk.commits if any(isinstance(one, port.AppendMessages) for one in c)]
        assert {type(one) for one in written} == {port.AppendMessages, port.FinishJobs}
        await s.caught_up()
        assert await s.counts() == await s.true_counts()


async def test_the_model_is_asked_with_persona_settings_history_and_the_new_words(ada: Any) -> None:
    async with ada() as s:
        for n in range(4):
            s.model.answers(f"a{n}")
            await s.until(await s.say("ada", f"q{n}"))
        last = s.model.asked[-1]
        assert (last.model, last.temperature, last.max_tokens, last.extra) == ("m1", 0.5, 64, {"seed": 1})
        system, *rest = [(message.role, message.content) for message in last.messages]
        assert system[0] == "system"
        assert system[1].startswith("You are a mathematician.")
        assert rest == [
            ("user", "q1"),
            ("assistant", "a1"),
            ("user", "q2"),
            ("assistant", "a2"),
            ("user", "q3"),
        ]  # context_messages = 4, and what was said now


async def test_each_conversation_has_a_history_of_its_own(ada: Any) -> None:
    async with ada() as s:
        for talk in ("a", "b"):
            s.model.answers(f"in {talk}")
            await s.until(await s.say("ada", "hi", talk))
        assert len(s.model.asked[1].messages) == 2
        assert await conversation(s, "a") == [("user", "hi"), ("assistant", "in a")]
        assert await s.disk.conversations("ada") == ("b", "a")


async def test_the_saved_state_is_in_the_request(ada: Any, furnish: Any) -> None:
    async with ada() as s:
        disk = s.disk
        state = AgentState(current_project="Apollo", current_goal="land", general_notes="no fuel")
        await disk.commit([port.SaveState("ada", state.model_dump_json(), 1, 0, "boot-0", 1, s.house.clock.now())])
        await s.system.restart_child("agent:ada")
        s.model.answers("ok")
        await s.until(await s.say("ada", "go"))
        system = s.model.asked[0].messages[0].content
        assert "Current project: Apollo\nCurrent goal: land\nNotes: no fuel\nBe brief." in system


def test_a_persona_holds_what_is_set_and_its_rules_come_last() -> None:
    bare = AgentSettings.model_validate({"llm": LLM})
    assert persona(bare, AgentState()) == ""
    full = AgentSettings.model_validate(
        {"llm": LLM, "role": "an echo", "goal": "Repeat.", "backstory": "A cave.", "instructions": "Loudly."}
    )
    assert persona(full, AgentState(general_notes="n")) == (
        "You are an echo.\nYour goal: Repeat.\nA cave.\nNotes: n\nLoudly."
    )


async def test_usage_that_the_model_did_not_tell_is_estimated_and_marked(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([TextPart(text="x" * 40), StopPart()])
        view = await s.until(await s.say("ada", "hi"))
        assert view.result["usage"]["estimated"]
        assert view.result["usage"]["output_tokens"] == 10


async def test_nobody_pays_for_tokens_that_nobody_follows(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("a", "b")
        before = await s.disk.event_bounds()
        job = await s.say("ada", "hi")
        await s.until(job)
        kinds = [event.type for event in await s.disk.events(after=before[1], subject=job)]
        assert kinds == ["job.enqueued", "job.started", "job.step", "job.completed"]


# -- concurrency -------------------------------------------------------------------------------------------------------


async def test_conversations_are_answered_side_by_side_up_to_the_limit(ada: Any) -> None:
    async with ada() as s:
        began = s.house.clock.now()
        for _ in range(3):
            s.model.answers("ok", pause=5.0)
        jobs = [await s.say("ada", "hi", talk) for talk in "abc"]
        for job in jobs:
            assert (await s.until(job)).status == "completed"
        assert s.model.most == 2
        assert 10_000 <= s.house.clock.now() - began <= 10_000 + GRAIN * 1000


async def test_messages_of_one_conversation_are_answered_in_turn(ada: Any) -> None:
    async with ada() as s:
        for n in range(3):
            s.model.answers(f"a{n}", pause=1.0)
        jobs = [await s.say("ada", f"q{n}") for n in range(3)]
        for job in jobs:
            await s.until(job)
        assert s.model.most == 1
        assert await conversation(s) == [pair for n in range(3) for pair in (("user", f"q{n}"), ("assistant", f"a{n}"))]


async def test_an_agent_can_be_looked_at_while_a_turn_runs(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("ok", pause=9.0)
        job = await s.say("ada", "hi")
        await anyio.sleep(1)
        assert s.system.cell("agent:ada").mailbox == 0
        assert s.house.workers["agent:ada"] == 1
        await s.until(job)


# -- a turn that fails -------------------------------------------------------------------------------------------------


async def test_trouble_with_the_provider_is_tried_again_and_is_no_crash(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([LlmOverloaded("busy")])
        s.model.plays.append([TextPart(text="ha"), LlmUnreachable("gone")])
        s.model.answers("at last")
        view = await s.until(await s.say("ada", "hi"))
        assert (view.status, view.attempts, view.result["text"]) == ("completed", 3, "at last")
        assert await conversation(s) == [("user", "hi"), ("assistant", "at last")]
        assert s.system.cell("agent:ada").restarts == 0


async def test_a_message_that_no_attempt_answers_fails_and_leaves_no_words(ada: Any) -> None:
    async with ada() as s:
        for _ in range(3):
            s.model.plays.append([LlmOverloaded("busy")])
        view = await s.until(await s.say("ada", "hi"))
        assert (view.status, view.reason, view.error.code) == ("failed", "exhausted", "llm.overloaded")
        assert await conversation(s) == []
        await s.caught_up()
        assert await s.counts() == await s.true_counts()


async def test_a_refused_key_fails_at_once(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([LlmAuth("no")])
        view = await s.until(await s.say("ada", "hi"))
        assert (view.status, view.reason, view.attempts) == ("failed", "permanent", 1)


async def test_a_rate_limit_waits_as_the_provider_wishes_and_costs_no_attempt(ada: Any) -> None:
    async with ada() as s:
        began = s.house.clock.now()
        for _ in range(5):
            s.model.plays.append([LlmRateLimited("slow down", retry_after=30.0)])
        s.model.answers("ok")
        view = await s.until(await s.say("ada", "hi"))
        assert (view.status, view.attempts) == ("completed", 1)
        assert s.house.clock.now() - began == 150_000


async def test_an_answer_without_an_end_is_cut_and_tried_again(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([TextPart(text="half an ans")])
        s.model.answers("whole")
        view = await s.until(await s.say("ada", "hi"))
        assert (view.attempts, view.result["text"]) == (2, "whole")
        assert view.history[0].error is not None
        assert view.history[0].error.code == "llm.cut"


async def test_a_silent_model_is_given_up_after_the_idle_time(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([TextPart(text="well"), 100.0])
        job = await s.say("ada", "hi", max_attempts=1)
        began = s.house.clock.now()
        view = await s.until(job)
        assert (view.status, view.reason, view.error.code) == ("failed", "timeout", "llm.timeout")
        assert view.error.data["which"] == "idle"
        assert 10_000 <= s.house.clock.now() - began <= 10_000 + GRAIN * 1000


async def test_a_model_that_talks_without_end_is_given_up_after_the_run_time(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([one for _ in range(100) for one in (5.0, TextPart(text="bla "))])
        job = await s.say("ada", "hi", max_attempts=1)
        began = s.house.clock.now()
        view = await s.until(job)
        assert (view.status, view.reason, view.error.code) == ("failed", "timeout", "job.timeout")
        assert "run_timeout" in view.error.detail
        assert s.house.clock.now() - began == 60_000


async def test_a_models_own_timeout_is_told_as_its_own(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([LlmTimeout("no first byte", which="first_byte")])
        view = await s.until(await s.say("ada", "hi", max_attempts=1))
        assert view.error.data["which"] == "first_byte"


async def test_a_bug_in_the_provider_fails_the_turn_and_not_the_agent(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([ZeroDivisionError("oops")])
        view = await s.until(await s.say("ada", "hi", max_attempts=1))
        assert (view.status, view.error.detail) == ("failed", "ZeroDivisionError: oops")
        assert s.system.cell("agent:ada").restarts == 0


async def test_only_words_are_for_this_agent(ada: Any) -> None:
    async with ada() as s:
        args = {"agent": "ada", "type": "demo.tomorrow", "message": {}}
        view = await s.until((await s.submit("agent.message", args=args)).id)
        assert (view.status, view.reason, view.error.code) == ("failed", "permanent", "message.unknown_type")


# -- the store in the way ----------------------------------------------------------------------------------------------


async def test_a_step_is_committed_once_though_its_commit_was_refused(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("first", pause=1.0)
        s.model.answers("second")
        job = await s.say("ada", "hi")
        await at_work(s, job)
        s.disk.refuses = StoreFull("no space left")
        await anyio.sleep(5)
        s.disk.refuses = None
        view = await s.until(job)
        assert (view.status, view.result["text"]) == ("completed", "second")
        assert await conversation(s) == [("user", "hi"), ("assistant", "second")]
        await anyio.sleep(60)
        assert await s.counts() == await s.true_counts()


async def test_a_step_is_committed_once_though_nobody_heard_of_it(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("first", pause=1.0)
        job = await s.say("ada", "hi")
        await s.until(job, "active")
        s.disk.unheard = port.AppendMessages
        view = await s.until(job)
        assert (view.status, view.result["text"]) == ("completed", "first")
        await anyio.sleep(60)
        assert await conversation(s) == [("user", "hi"), ("assistant", "first")]
        assert len(s.model.asked) == 1
        assert await s.counts() == await s.true_counts()


async def test_an_answer_whose_lease_was_lost_is_not_written(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("too late", pause=5.0)
        s.model.answers("in time")
        job = await s.say("ada", "hi")
        await at_work(s, job)
        await s.disk.commit([port.RecoverJobs("boot-1", s.house.clock.now(), worker="agent:ada")])
        await anyio.sleep(60)
        assert ("assistant", "too late") not in await conversation(s)
        assert s.heard("actor.crashed") == []


# -- ends from outside -------------------------------------------------------------------------------------------------


async def test_a_wish_ends_a_turn_at_once_and_hangs_up_on_the_model(ada: Any) -> None:
    async with ada() as s:
        s.model.plays.append([TextPart(text="well"), 9.0])
        job = await s.say("ada", "hi")
        await s.until(job, "active")
        await anyio.sleep(1)
        assert s.model.open == 1
        began = s.house.clock.now()
        assert (await s.cancel(job)).outcome == "requested"
        view = await s.until(job)
        assert (view.status, view.reason, s.house.clock.now() - began) == ("cancelled", "user", 0)
        assert s.model.open == 0
        assert await conversation(s) == []
        s.model.answers("next")
        assert (await s.until(await s.say("ada", "again"))).result["text"] == "next"


async def test_a_wish_for_one_turn_leaves_the_others_alone(ada: Any) -> None:
    async with ada() as s:
        for _ in range(2):
            s.model.answers("ok", pause=5.0)
        one, two = await s.say("ada", "hi", "a"), await s.say("ada", "hi", "b")
        await s.until(two, "active")
        await s.cancel(one)
        assert (await s.until(one)).status == "cancelled"
        assert (await s.until(two)).status == "completed"


async def test_a_stop_lets_turns_end_and_writes_their_answers(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("before", "the end", pause=2.0)
        job = await s.say("ada", "hi")
        await at_work(s, job)
        disk = s.disk
        s.house.draining = True
        s.system.stop()
        await anyio.sleep(10)
        s.system.stop()
    await disk.open()
    assert (await disk.job(job)).status == "completed"
    assert len(await disk.messages("ada", "main")) == 2


async def test_a_job_that_is_claimed_while_the_agent_stops_does_not_cost_the_turns_it_still_takes(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("the end", pause=5.0)
        job = await s.say("ada", "hi", "a")
        await at_work(s, job)
        disk = s.disk
        disk.takes = 1.0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(s.say, "ada", "hi", "b")
            await anyio.sleep(0.5)  # it is being added and claimed now
            s.house.draining = True
            s.system.stop()
        await anyio.sleep(20)
    await disk.open()
    assert (await disk.job(job)).status == "completed"
    ((late,),) = [claim for claim in disk.claimed if claim and claim[0].id != job]
    view = await disk.job(late.id)
    assert (view.status, view.attempts) == ("pending", 0)


async def test_an_answer_is_kept_though_another_turn_outlasts_the_drain(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("short", pause=3.0)
        s.model.answers("long", pause=9.0)
        s.model.plays[1] = [one for _ in range(20) for one in (5.0, TextPart(text="bla "))]
        short, long = await s.say("ada", "hi", "a"), await s.say("ada", "hi", "b")
        await at_work(s, long, 2)
        disk, clock, began = s.disk, s.house.clock, s.house.clock.now()
        s.house.draining = True
        s.system.stop()
        await anyio.sleep(30)
    assert clock.now() - began == 30_000
    await disk.open()
    assert (await disk.job(short)).status == "completed"
    view = await disk.job(long)
    assert (view.status, view.attempts) == ("pending", 0)


async def test_a_turn_that_was_cut_off_is_taken_up_at_the_next_start(ada: Any) -> None:
    async with ada(config=CONFIG.replace('"20s"', '"0s"')) as s:
        s.model.answers("never", pause=5.0)
        job = await s.say("ada", "hi")
        await s.until(job, "active")
        disk = s.disk
        s.system.stop()
        await anyio.sleep(10)
    async with ada("now", boot="boot-2", disk=disk) as s:
        view = await s.until(job)
        assert (view.status, view.attempts) == ("completed", 1)


async def test_a_stop_commits_the_answers_it_can_though_one_of_them_has_lost_its_lease(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("lost", pause=3.0)
        s.model.answers("kept", pause=3.0)
        lost, kept = await s.say("ada", "hi", "a"), await s.say("ada", "hi", "b")
        await at_work(s, kept, 2)
        lease = (await s.disk.job(lost)).history[0]
        disk = s.disk
        s.house.draining = True
        s.system.stop()
        await anyio.sleep(1)
        seq = 1
        fence = port.Lease(seq=seq, id=lost, epoch=lease.epoch, worker="agent:ada", boot="boot-1")
        now = s.house.clock.now()
        (ended,) = await disk.commit([port.FinishJobs((port.Finish(fence, "failed", "permanent"),), now)])
        assert ended[0] is not None
        await anyio.sleep(20)
    await disk.open()
    assert (await disk.job(kept)).status == "completed"
    assert (await disk.job(lost)).status == "failed"


async def test_a_refusing_store_at_the_stop_loses_an_answer_and_nothing_else(ada: Any) -> None:
    async with ada() as s:
        s.model.answers("lost", pause=3.0)
        job = await s.say("ada", "hi")
        await s.until(job, "active")
        disk = s.disk
        disk.refuses = StoreError("gone")
        s.house.draining = True
        s.system.stop()
        await anyio.sleep(30)
    disk.refuses = None
    await disk.open()
    assert (await disk.job(job)).status == "active"  # the next start takes it back


def test_plain_words_are_what_an_agent_takes() -> None:
    assert Say(text="x").conversation == "main"
