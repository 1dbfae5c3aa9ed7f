"""Tests of this agent: no network, no daemon, no waiting. `python -m pytest -q`."""

from pathlib import Path

import desk
import pytest

from actors.testkit import ScriptedModel, run_one, run_tool
from runtime.errors import LlmOverloaded, RequestInvalid

pytest_plugins = ["actors.testkit.fixtures"]

CONFIG = Path("config.toml")


@pytest.fixture(autouse=True)
def nothing_paid():
    desk.PAID.clear()


async def test_the_tool_alone(virtual_time):
    assert (await run_tool(desk.invoice, {"number": 7})).text == "invoice 7 is over 25"
    assert (await run_tool(desk.invoice, {"number": "seven"})).failed


async def test_the_actor_alone(virtual_time):
    found = await run_one(desk.Till, desk.Take(amount=450), options={"limit": 100})
    assert found.reply == 50
    assert found.state.money == 50
    assert found.events == (("agent.low", {"money": 50}),)

    found = await run_one(desk.Till, desk.Take(amount=450), state={"money": 10})
    assert isinstance(found.error, RequestInvalid)
    assert found.state.money == 10


async def test_it_looks_before_it_pays_and_asks_a_person(stage):
    model = ScriptedModel()
    model.calls("desk:invoice", {"number": 7}).calls("desk:pay", {"number": 7}).says("It is paid.")
    async with stage(CONFIG, model) as s:
        run = await s.say("desk", "Pay invoice 7.")
        asked = await s.approval(run)
        assert desk.PAID == {}
        await s.allow(asked)
        assert (await s.answer(run)).text == "It is paid."
        assert list(desk.PAID.values()) == [25]
        assert model.asked[1].messages[-1].content == "invoice 7 is over 25"


async def test_no_is_told_to_the_model(stage):
    model = ScriptedModel().calls("desk:pay", {"number": 8}).matches("too much").says("Then not.")
    async with stage(CONFIG, model) as s:
        run = await s.say("desk", "Pay invoice 8.")
        await s.deny(await s.approval(run), "that is too much")
        assert (await s.answer(run)).text == "Then not."
    assert desk.PAID == {}


async def test_a_crash_pays_nothing_twice(stage):
    model = ScriptedModel().calls("desk:pay", {"number": 7}).hangs()
    async with stage(CONFIG, model) as s:
        run = await s.say("desk", "Pay invoice 7.")
        await s.allow(await s.approval(run))
        await model.called(2)  # the money is paid, and the model thinks about its answer
        model.says("It is paid.")
        await s.crash()
        assert (await s.answer(run)).text == "It is paid."
        assert list(desk.PAID.values()) == [25]
        assert len(model.asked) == 3  # the first call was not made again


async def test_a_provider_that_is_busy_is_tried_again(stage):
    model = ScriptedModel().fails(LlmOverloaded, times=2).says("Good day.")
    async with stage(CONFIG, model) as s:
        assert (await s.answer(await s.say("desk", "Hello!"))).text == "Good day."


async def test_what_the_till_told_outlives_a_crash(stage):
    async with stage(CONFIG) as s:
        await s.end(await s.send("till", desk.Take(amount=450)))
        await s.crash()
        assert (await s.state("till"))["money"] == 50
        assert [event.data for event in await s.events("agent.low")] == [{"money": 50}]
