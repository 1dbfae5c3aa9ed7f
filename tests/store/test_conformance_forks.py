"""Every store: conversations that fork. What came before is shared, what comes after is not."""

from typing import Any

import pytest

from runtime.errors import ConversationExists
from runtime.store.port import ForkConversation, MessageRow, PutSetting


async def test_a_journal_tells_where_when_and_with_what_run_something_was_said(desk: Any) -> None:
    await desk.say("main", "a", "b", job="job-1")
    await desk.say("main", "c")
    at = desk.now
    rows = (
        MessageRow(1, at - 1, "job-1", '"a"'),
        MessageRow(2, at - 1, "job-1", '"b"'),
        MessageRow(3, at, None, '"c"'),
    )
    read = desk.store.journal
    assert await read("ada", "main") == rows
    assert await read("ada", "main", after=1) == rows[1:]
    assert await read("ada", "main", after=1, limit=1) == rows[1:2]
    assert await read("ada", "main", after=3) == ()
    assert await read("ada", "nothing") == ()
    assert await read("bob", "main") == ()


async def test_a_fork_begins_with_all_that_was_said_and_goes_its_own_way(desk: Any) -> None:
    await desk.say("main", "a", "b")
    assert await desk.fork("main", "side") == 2
    assert await desk.said("side") == "a b"
    await desk.say("side", "x", "y")
    await desk.say("main", "c")
    assert await desk.said("side") == "a b x y"
    assert await desk.said("main") == "a b c"
    assert [row.n for row in await desk.store.journal("ada", "side", after=1)] == [2, 3, 4]
    rows = await desk.store.journal("ada", "side")
    assert rows[:2] == (await desk.store.journal("ada", "main"))[:2]


@pytest.mark.parametrize(("keep", "begins"), [(0, ""), (1, "a"), (2, "a b"), (3, "a b c"), (99, "a b c"), (-1, "")])
async def test_a_fork_begins_with_as_many_as_are_kept(desk: Any, keep: int, begins: str) -> None:
    await desk.say("main", "a", "b", "c")
    assert await desk.fork("main", "side", keep) == len(begins.split())
    assert await desk.said("side") == begins
    assert "side" in await desk.store.conversations("ada")
    await desk.say("side", "x")
    assert await desk.said("side") == f"{begins} x".strip()
    assert await desk.said("main") == "a b c"


@pytest.mark.parametrize("keep", range(8))
async def test_a_fork_of_a_fork_of_a_fork_is_told_whole(desk: Any, keep: int) -> None:
    await desk.say("one", "a", "b", "c")
    await desk.fork("one", "two", 2)
    await desk.say("two", "d", "e")
    await desk.fork("two", "three")
    await desk.say("three", "f")
    await desk.fork("three", "four")
    await desk.say("four", "g")
    words = ["a", "b", "d", "e", "f", "g"]
    assert await desk.said("four") == " ".join(words)
    assert await desk.fork("four", "five", keep) == min(keep, 6)
    assert await desk.said("five") == " ".join(words[:keep])
    await desk.say("five", "x")
    assert await desk.said("five") == " ".join([*words[:keep], "x"])
    for after in range(7):
        for limit in range(4):
            rows = await desk.store.journal("ada", "four", after=after, limit=limit)
            assert [row.body.strip('"') for row in rows] == words[after : after + limit]


async def test_two_forks_of_one_place_know_nothing_of_each_other(desk: Any) -> None:
    await desk.say("main", "a")
    for name in ("x", "y"):
        await desk.fork("main", name, 1)
        await desk.say(name, name)
    assert (await desk.said("x"), await desk.said("y"), await desk.said("main")) == ("a x", "a y", "a")


async def test_there_is_no_fork_of_nothing(desk: Any) -> None:
    await desk.say("main", "a")
    before = await desk.dump()
    assert await desk.fork("nothing", "side") is None
    assert await desk.fork("main", "side", agent="bob") is None
    assert await desk.fork("nothing", "main") is None
    assert await desk.dump() == before


async def test_a_conversation_with_messages_is_not_written_over(desk: Any) -> None:
    await desk.say("main", "a")
    await desk.say("side", "x")
    before = await desk.dump()
    for target in ("side", "main"):
        with pytest.raises(ConversationExists):
            await desk.fork("main", target)
        fork = ForkConversation("ada", "main", target, desk.now, keep=0)
        with pytest.raises(ConversationExists):
            await desk.store.commit([PutSetting("before", "1"), fork])
    assert await desk.dump() == before


async def test_a_conversation_without_messages_becomes_a_fork(desk: Any) -> None:
    await desk.say("main", "a")
    await desk.say("empty")
    assert await desk.fork("main", "empty") == 1
    assert await desk.said("empty") == "a"
    await desk.fork("main", "nothing", 0)
    assert await desk.fork("main", "nothing") == 1
    assert await desk.said("nothing") == "a"


async def test_a_conversation_without_messages_is_forked_too(desk: Any) -> None:
    await desk.say("empty")
    assert await desk.fork("empty", "side") == 0
    assert await desk.fork("empty", "empty") == 0
    assert await desk.said("side") == ""
    await desk.say("side", "a")
    assert await desk.said("side") == "a"
    assert await desk.said("empty") == ""


async def test_a_fork_is_of_its_agent_and_the_last_used(desk: Any) -> None:
    await desk.say("main", "a")
    await desk.say("main", "b", agent="bob")
    await desk.say("other", "c")
    await desk.fork("main", "side")
    assert await desk.store.conversations("ada") == ("side", "other", "main")
    assert await desk.store.conversations("bob") == ("main",)
    assert await desk.fork("main", "side", agent="bob") == 1
    assert await desk.said("side", agent="bob") == "b"
    await desk.say("main", "d")
    assert await desk.store.conversations("ada") == ("main", "side", "other")


async def test_a_fork_in_the_commit_of_what_it_shares(desk: Any) -> None:
    await desk.say("main", "a")
    fork = ForkConversation("ada", "main", "one", desk.now)
    again = ForkConversation("ada", "one", "two", desk.now, keep=1)
    assert await desk.store.commit([fork, again]) == [1, 1]
    assert await desk.said("two") == "a"


async def test_a_fork_is_there_after_a_new_start(desk: Any) -> None:
    await desk.say("main", "a", "b", "c")
    await desk.fork("main", "side", 2)
    await desk.say("side", "x")
    before = await desk.everything()
    await desk.reopen()
    assert await desk.everything() == before
    await desk.say("side", "y")
    assert await desk.said("side") == "a b x y"
    assert await desk.fork("side", "third", 3) == 3
    assert await desk.said("third") == "a b x"
