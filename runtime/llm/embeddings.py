"""Embeddings as OpenAI-compatible servers have them, both ways. Nothing here does I/O."""

from collections.abc import Iterator
from typing import Any

from runtime.errors import LlmCut, LlmProtocol
from runtime.llm.provider import BYTES_PER_TOKEN
from runtime.llm.shape import as_count, as_dict, as_vector, parse_whole, write
from schemas.chat import ChatPart, Embedded, EmbedRequest, Usage


def encode_embed(request: EmbedRequest) -> bytes:
    """Return *request* as the body of a call. Raises `LlmRequest` where JSON cannot say it."""
    return write({"model": request.model, "input": list(request.texts), "encoding_format": "float"})


def decode_embed(data: bytes, request: EmbedRequest, *, secret: str | None = None) -> Embedded:
    """Return the vectors in the answer *data*, in the order of the texts.

    Raises `LlmProtocol` unless there is exactly one for each text, of finite numbers, all of one length; `LlmCut` for
    half an answer, and what an error object stands for.
    """
    answer = parse_whole(data, secret)
    if not isinstance(answer.get("data"), list):
        raise LlmProtocol("the answer is JSON but holds no embeddings")
    vectors = _in_order([as_dict(one, "an embedding") for one in answer["data"]], len(request.texts))
    if len({len(vector) for vector in vectors}) > 1:
        raise LlmProtocol("the embeddings of the answer differ in length")
    return Embedded(vectors=tuple(vectors), usage=_usage(answer.get("usage"), request))


def _in_order(rows: list[dict[str, Any]], wanted: int) -> list[tuple[float, ...]]:
    if len(rows) != wanted:
        raise LlmProtocol(f"the answer holds {len(rows)} embeddings for {wanted} texts")
    if all("index" not in row for row in rows):
        places: list[Any] = list(range(wanted))
    else:
        places = [as_count(row.get("index")) for row in rows]
    found = {place: as_vector(row.get("embedding"), "an embedding") for place, row in zip(places, rows, strict=True)}
    if found.keys() != set(range(wanted)):
        raise LlmProtocol("the embeddings of the answer are not numbered as the texts are")
    return [found[place] for place in range(wanted)]


def _usage(usage: Any, request: EmbedRequest) -> Usage:
    told = as_count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    if told is not None:
        return Usage(input_tokens=told)
    size = sum(len(text.encode(errors="replace")) for text in request.texts)
    return Usage(input_tokens=round(size / BYTES_PER_TOKEN), estimated=True)


class EmbedReader:
    """Takes the one document of an answer; `embedded` is what it held. See `runtime.llm.answer.Reader`."""

    def __init__(self, request: EmbedRequest, *, secret: str | None = None) -> None:
        self.secret = secret
        self.begun = self.done = False
        self.partial = ""
        self.embedded: Embedded | None = None
        self._request = request

    @property
    def finished(self) -> bool:
        """Whether the vectors are here."""
        return self.embedded is not None

    def feed(self, data: bytes) -> Iterator[ChatPart]:
        """Refuse: embeddings are never streamed."""
        raise LlmProtocol("embeddings came as a stream")

    def feed_whole(self, data: bytes) -> Iterator[ChatPart]:
        """Read the document."""
        self.embedded = decode_embed(data, self._request, secret=self.secret)
        self.done = True
        return iter(())

    def finish(self) -> Iterator[ChatPart]:
        """Raise `LlmCut` where nothing came."""
        if self.embedded is None:
            raise LlmCut("the answer is empty")
        return iter(())
