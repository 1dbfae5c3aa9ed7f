"""Decompression in small pieces, so that a few kilobytes can never become a few gigabytes in memory."""

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from runtime.errors import LlmProtocol

PIECE: Final = 64 * 1024
"""The largest piece that is handed out at a time, in bytes."""

_PLAIN: Final = frozenset({"", "identity"})
_ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})


class Inflater:
    """Undoes one content encoding. httpx would inflate a whole network read at once, whatever comes out of it.

    We ask for no encoding at all; gzip and deflate are understood because some proxies compress unasked. Raises
    `LlmProtocol` for any other, and for bytes that are not what they are said to be.
    """

    def __init__(self, encoding: str) -> None:
        encoding = encoding.strip().lower()
        if encoding not in _PLAIN | _ZLIB:
            raise LlmProtocol(f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
        # 32 + 15: zlib and gzip headers are told apart by themselves.
        self._zlib = zlib.decompressobj(47) if encoding in _ZLIB else None

    def feed(self, raw: bytes) -> Iterable[bytes]:
        """Return what *raw* holds in pieces of at most `PIECE` bytes; the caller counts and may stop at any piece."""
        if self._zlib is not None:
            return self._inflated(self._zlib, raw)
        if len(raw) <= PIECE:
            return (raw,)
        return (raw[at : at + PIECE] for at in range(0, len(raw), PIECE))

    def _inflated(self, decompressor: "zlib._Decompress", raw: bytes) -> Iterator[bytes]:
        while raw and not decompressor.eof:
            try:
                piece = decompressor.decompress(raw, PIECE)
            except zlib.error:
                raise LlmProtocol("the answer cannot be decompressed") from None
            raw = decompressor.unconsumed_tail
            if piece:
                yield piece
