"""Embeddings: what is asked, and in which order the vectors are handed out."""

import json
from typing import Any

import pytest

from runtime.errors import LlmCut, LlmProtocol, LlmRateLimited
from runtime.llm.embeddings import decode_embed, encode_embed
from runtime.llm.openai import OpenAIProvider
from schemas.chat import Embedded, EmbedRequest, Usage

TWO = EmbedRequest(model="m", texts=("naïve", "sea"))


def answer(*rows: Any, **more: Any) -> bytes:
    return json.dumps({"object": "list", "data": list(rows), **more}).encode()


def row(index: int | None, *numbers: float) -> dict[str, Any]:
    return {"embedding": list(numbers)} | ({} if index is None else {"index": index})


def test_the_texts_go_as_they_are() -> None:
    sent = json.loads(encode_embed(TWO))
    assert sent == {"model": "m", "input": ["naïve", "sea"], "encoding_format": "float"}


@pytest.mark.parametrize(
    "rows", [(row(0, 1, 0.5), row(1, 2, 3)), (row(1, 2, 3), row(0, 1, 0.5)), (row(None, 1, 0.5), row(None, 2, 3))]
)
def test_vectors_are_in_the_order_of_the_texts(rows: Any) -> None:
    found = decode_embed(answer(*rows, usage={"prompt_tokens": 9, "total_tokens": 9}), TWO)
    assert found == Embedded(vectors=((1.0, 0.5), (2.0, 3.0)), usage=Usage(input_tokens=9))


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": -1}, {"prompt_tokens": "9"}])
def test_what_nobody_counted_is_estimated(usage: Any) -> None:
    found = decode_embed(answer(row(0, 1), row(1, 2), usage=usage), TWO)
    assert found.usage == Usage(input_tokens=2, estimated=True)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{}",
        b'{"data": {}}',
        answer(),
        answer(row(0, 1)),
        answer(row(0, 1), row(1, 1), row(2, 1)),
        answer(row(0, 1), row(0, 1)),
        answer(row(0, 1), row(None, 1)),
        answer(row(0, 1), row(-1, 1)),
        answer(row(0, 1), {"index": True, "embedding": [1]}),
        answer(row(0, 1), row(1)),
        answer(row(0, 1), row(1, 1, 2)),
        answer(row(0, 1), {"index": 1, "embedding": None}),
        answer(row(0, 1), {"index": 1, "embedding": "AACAPw=="}),
        answer(row(0, 1), {"index": 1, "embedding": [True]}),
        answer(row(0, 1), row(1, float("inf"))),
        answer(row(0, 1), row(1, 10**400)),
        answer(row(0, 1), "x"),
    ],
)
def test_vectors_that_cannot_be_those_are_refused(data: bytes) -> None:
    with pytest.raises(LlmProtocol):
        decode_embed(data, TWO)


@pytest.mark.parametrize("data", [b"", b" ", b'{"data": [{"index": 0, "embedd', b'{"data": [{"index": 0}'])
def test_half_an_answer_was_cut(data: bytes) -> None:
    with pytest.raises(LlmCut):
        decode_embed(data, TWO)


def test_an_error_is_what_it_says() -> None:
    with pytest.raises(LlmRateLimited):
        decode_embed(b'{"error": {"type": "rate_limit_error", "message": "slow down"}}', TWO)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
async def test_they_come_over_the_wire(play: Any, kind: str) -> None:
    async def part(call: Any) -> None:
        await call.head(kind=kind)
        await call.send(answer(row(1, 2, 3), row(0, 1, 0.5), usage={"prompt_tokens": 9}))

    stage = await play(part)
    provider = OpenAIProvider("acme", stage.url, "sk-1")
    found = await provider.embed(TWO)
    await provider.close()
    assert found.vectors == ((1.0, 0.5), (2.0, 3.0))
    call = stage.calls[0]
    assert call.line == "POST /v1/embeddings HTTP/1.1"
    assert call.headers["authorization"] == "Bearer sk-1"
    assert call.json["input"] == ["naïve", "sea"]
