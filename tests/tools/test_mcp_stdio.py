"""What a server writes to its stdout, line by line: messages, greetings, and floods of neither."""

import math
from typing import Any

import anyio
import pytest
from mcp.shared.message import SessionMessage

from runtime.tools.mcp_link import McpEnded
from runtime.tools.mcp_stdio import BREATH, LINE, MAX_WAITING, STRAYS, STRAYS_TOLD, Lines, _read

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr("runtime.tools.mcp_stdio.logger.warning", lambda what, **_: told.append(what))
    return told


async def read(data: bytes) -> list[Any]:
    """Return the messages in *data*, which is all there ever is. Raises McpEnded."""
    lines = Lines()
    lines.feed(data)
    lines.end()
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](math.inf)
    with from_server:
        await _read(lines, to_session)
        return [message async for message in from_server]


async def test_what_is_no_message_is_passed_over_and_told_of(warnings: list[str]) -> None:
    assert len(await read(b"hello\n\n  \n" + PING + b"more\n" + PING)) == 2
    assert len(warnings) == 2


async def test_a_server_that_only_says_something_else_is_ended(warnings: list[str]) -> None:
    assert len(await read(b"x\n" * (STRAYS - 1) + PING + b"x\n" * (STRAYS - 1))) == 1
    with pytest.raises(McpEnded, match="no messages"):
        await read(b"x\n" * STRAYS)
    assert len(warnings) == 3 * STRAYS_TOLD


async def test_a_flood_of_messages_lets_others_have_their_turn(warnings: list[str]) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        await read((b"x\n" * (STRAYS - 1) + PING) * 10)
        assert turns >= 10 * STRAYS // BREATH - 1
        tasks.cancel_scope.cancel()


def test_lines_that_wait_take_so_much_room_and_no_more() -> None:
    lines = Lines()
    lines.feed(b"\n  \n" * 1_000_000)
    assert not lines._ready, "there is nothing in them"
    with pytest.raises(McpEnded, match="faster than"):
        lines.feed(b"x\n" * (MAX_WAITING // LINE))
