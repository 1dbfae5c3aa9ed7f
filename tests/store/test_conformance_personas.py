"""Every store: agents that were defined at run time."""

from typing import Any

import pytest

from runtime.errors import StoreError
from runtime.store.port import PersonaRow, PutAgent, PutPersona, RemovePersona, SaveState


async def test_personas_are_kept_and_told_by_name(desk: Any) -> None:
    assert await desk.store.personas() == ()
    assert await desk.one(PutPersona("eve", '{"a":1}', desk.now)) is None
    await desk.one(PutPersona("bob", "{}", desk.now + 1))
    bob, eve = await desk.store.personas()
    assert bob == PersonaRow("bob", "{}", desk.now + 1, desk.now + 1)
    assert eve == PersonaRow("eve", '{"a":1}', desk.now, desk.now)


async def test_one_that_is_put_again_is_the_new_one_and_as_old_as_it_was(desk: Any) -> None:
    await desk.one(PutPersona("eve", '{"a":1}', desk.now))
    await desk.one(PutPersona("eve", '{"b":2}', desk.now + 9))
    assert await desk.store.personas() == (PersonaRow("eve", '{"b":2}', desk.now, desk.now + 9),)


async def test_settings_that_are_no_json_are_refused(desk: Any) -> None:
    await desk.one(PutPersona("eve", "{}", desk.now))
    before = await desk.dump()
    for name in ("eve", "bob"):
        with pytest.raises(StoreError):
            await desk.one(PutPersona(name, "{no", desk.now))
    assert await desk.dump() == before


async def test_one_is_forgotten_once_and_what_it_did_stays(desk: Any) -> None:
    await desk.one(PutPersona("bob", "{}", desk.now))
    await desk.one(PutPersona("eve", "{}", desk.now))
    await desk.one(PutAgent("bob", "running", "running", None, desk.now))
    await desk.one(SaveState("bob", '{"n":1}', 1, expected=0, boot="b", incarnation=1, now=desk.now))
    await desk.say("main", "a", agent="bob")
    await desk.note("door", "4711", agent="bob")
    assert await desk.one(RemovePersona("bob")) is True
    assert [row.name for row in await desk.store.personas()] == ["eve"]
    assert (await desk.store.state("bob")).state == '{"n":1}'
    assert await desk.said("main", agent="bob") == "a"
    assert await desk.remembered(agent="bob") == ["door"]
    before = await desk.dump()
    assert await desk.one(RemovePersona("bob")) is False
    assert await desk.dump() == before


async def test_one_that_comes_back_is_new(desk: Any) -> None:
    await desk.one(PutPersona("eve", "{}", desk.now))
    await desk.one(RemovePersona("eve"))
    await desk.one(PutPersona("eve", "{}", desk.now + 5))
    assert await desk.store.personas() == (PersonaRow("eve", "{}", desk.now + 5, desk.now + 5),)


async def test_personas_are_there_after_a_new_start(desk: Any) -> None:
    await desk.one(PutPersona("eve", '{"ü":1}', desk.now))
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    assert await desk.store.personas() == (PersonaRow("eve", '{"ü":1}', desk.now, desk.now),)
