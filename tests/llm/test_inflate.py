"""Compressed bytes come out in small pieces, whole or cut."""

import zlib
from collections.abc import Callable

import pytest

from runtime.errors import LlmProtocol
from runtime.llm.inflate import PIECE, Inflater

TEXT = b"to be or not to be " * 50_000


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", " GZIP ", "deflate"])
def test_every_piece_is_small_and_nothing_is_lost(encoding: str, squeeze: Callable[[bytes], bytes]) -> None:
    wire = {"gzip": squeeze, "deflate": zlib.compress}.get(encoding.strip().lower(), bytes)(TEXT)
    pieces = list(Inflater(encoding).feed(wire))
    assert max(map(len, pieces)) <= PIECE
    assert b"".join(pieces) == TEXT


def test_what_follows_the_compressed_data_is_ignored(squeeze: Callable[[bytes], bytes]) -> None:
    inflater = Inflater("gzip")
    assert b"".join(inflater.feed(squeeze(b"all") + b"rest")) == b"all"
    assert list(inflater.feed(b"more")) == []


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_what_was_not_asked_for_is_refused(encoding: str) -> None:
    with pytest.raises(LlmProtocol, match="encoded as"):
        Inflater(encoding)
