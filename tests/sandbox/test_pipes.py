"""Pipes to children: whole writes, lines of bounded length, and ends that are gone."""

import os

import anyio
import pytest

from runtime.sandbox.pipes import CHUNK, End


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    ends = End(reader), End(writer)
    yield ends
    for end in ends:
        end.close()


async def test_what_is_written_is_read_in_bounded_pieces(pipe):
    reader, writer = pipe
    pieces = []

    async def write() -> None:
        await writer.write(b"x" * 1_000_000)
        writer.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await reader.read_all(pieces.append)
    assert sum(map(len, pieces)) == 1_000_000
    assert max(map(len, pieces)) <= CHUNK


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\n\nlast", [b"one", b"", b"last"]),
        (b"123456789\n1234567\nx", [b"12345678", b"1234567", b"x"]),
        (b"1" * 200_000 + b"\nnext\n", [b"11111111", b"next"]),
    ],
)
async def test_lines_have_no_end_and_a_bounded_length(pipe, data, lines):
    reader, writer = pipe
    got = []

    async def write() -> None:
        await writer.write(data)
        writer.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await reader.read_lines(got.append, 8)
    assert got == lines


async def test_writing_to_nobody_is_an_error_or_a_no(pipe):
    reader, writer = pipe
    reader.close()
    with pytest.raises(anyio.BrokenResourceError):
        await writer.write(b"x")
    assert not writer.write_nowait(b"x")
    writer.close()
    with pytest.raises(anyio.ClosedResourceError):
        await writer.write(b"x")
    assert not writer.write_nowait(b"x")


async def test_a_full_pipe_makes_the_writer_wait_and_refuses_one_that_will_not(pipe):
    _, writer = pipe
    with anyio.move_on_after(0.05) as scope:
        await writer.write(b"x" * 1_000_000)
    assert scope.cancelled_caught
    assert not writer.write_nowait(b"x")
