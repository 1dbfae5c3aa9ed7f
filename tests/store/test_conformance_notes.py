"""Every store: what an agent remembers, and what comes to its mind over some words."""

from typing import Any

import pytest

from runtime.store.port import NoteRow


async def test_notes_are_told_newest_first(desk: Any) -> None:
    assert await desk.store.notes("ada") == ()
    assert await desk.note("door", "4711") is True
    desk.now += 1
    assert await desk.note("car", "blue") is True
    assert await desk.store.notes("ada") == (NoteRow("car", "blue", desk.now), NoteRow("door", "4711", desk.now - 1))
    assert await desk.store.notes("ada", limit=1) == (NoteRow("car", "blue", desk.now),)


async def test_of_one_moment_the_last_written_is_the_newest(desk: Any) -> None:
    for key in ("b", "a", "c", "b"):
        await desk.note(key, "x")
    assert await desk.remembered() == ["b", "c", "a"]


async def test_a_note_takes_the_place_of_what_was_there(desk: Any) -> None:
    await desk.note("door", "4711")
    await desk.note("car", "blue")
    desk.now += 5
    assert await desk.note("door", "0815") is True
    assert await desk.store.notes("ada") == (NoteRow("door", "0815", desk.now), NoteRow("car", "blue", desk.now - 5))


async def test_a_note_is_forgotten_once(desk: Any) -> None:
    await desk.note("door", "4711")
    await desk.note("car", "blue")
    assert await desk.note("door", None) is True
    assert await desk.remembered() == ["car"]
    before = await desk.dump()
    assert await desk.note("door", None) is False
    assert await desk.note("car", None, agent="bob") is False
    assert await desk.dump() == before


async def test_every_agent_remembers_for_itself(desk: Any) -> None:
    await desk.note("door", "4711")
    await desk.note("door", "0815", agent="bob", keep=1)
    await desk.note("car", "blue", agent="bob", keep=1)
    assert await desk.remembered() == ["door"]
    assert await desk.remembered("door", agent="bob") == []
    assert await desk.remembered(agent="bob") == ["car"]


async def test_the_oldest_go_where_there_are_too_many(desk: Any) -> None:
    for n in range(5):
        desk.now += 1
        await desk.note(f"n{n}", "x", keep=3)
    assert await desk.remembered() == ["n4", "n3", "n2"]
    await desk.note("n2", "again", keep=3)
    await desk.note("n5", "x", keep=3)
    assert await desk.remembered() == ["n5", "n2", "n4"]
    await desk.note("n6", "x", keep=1)
    assert await desk.remembered() == ["n6"]
    await desk.note("n7", "x", keep=0)
    assert await desk.remembered() == []


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ((), ["street", "tea", "door", "car"]),
        (("blue",), ["door", "car"]),
        (("BLUE", "door"), ["door", "car"]),
        (("car", "colour", "blue"), ["car", "door"]),
        (("blue", "blue", "Blue", "tea"), ["tea", "door", "car"]),
        (("STRASSE",), ["street"]),
        (("grün",), ["tea"]),
        (("GRÜN",), ["tea"]),
        (("%",), []),
        (("nothing",), []),
        (("",), ["street", "tea", "door", "car"]),
        (("", "tea"), ["tea"]),
    ],
)
async def test_those_with_most_of_the_words_come_first(desk: Any, words: tuple[str, ...], keys: list[str]) -> None:
    notes = {"car": "its colour is blue", "door": "Blue, code 4711", "tea": "GRÜN", "street": "Lange Straße 1"}
    for key, text in notes.items():
        await desk.note(key, text)
    assert await desk.remembered(*words) == keys
    assert await desk.remembered(*words, limit=1) == keys[:1]


async def test_notes_are_there_after_a_new_start(desk: Any) -> None:
    for key in ("a", "b", "a"):
        await desk.note(key, f"of {key} ü")
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    await desk.note("c", "x")
    assert await desk.remembered() == ["c", "a", "b"]
