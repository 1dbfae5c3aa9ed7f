"""Models in other dialects: a table of type anthropic, and vectors from the model in a process of its own."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from actors import models as module
from actors.models import LocalSeat, Models
from runtime.clock import VirtualClock
from runtime.errors import LlmError, LlmUnreachable, LocalModelMissing
from runtime.llm.anthropic import AnthropicProvider
from runtime.llm.openai import OpenAIProvider
from runtime.secrets import Redactor
from schemas.chat import Embedded, EmbedRequest
from schemas.config import LocalProvider, Settings

KEY = "sk-canary-0123456789"
SEA = EmbedRequest(model="m", texts=("the sea",))


async def test_a_table_of_type_anthropic_makes_that_dialect_with_its_key_kept_out_of_logs(tmp_path: Path) -> None:
    redactor = Redactor()
    settings = Settings.model_validate({"providers": {"anthropic": {"api_key": "env:KEY"}}})
    made = Models(settings, tmp_path, redactor, VirtualClock(), {"KEY": KEY})._make(
        "anthropic", settings.provider("anthropic")
    )
    assert isinstance(made, AnthropicProvider)
    assert repr(made) == "<AnthropicProvider anthropic https://api.anthropic.com>"
    assert KEY not in redactor.text(KEY)
    with pytest.raises(LlmError, match="no embeddings"):
        await made.embed(SEA)
    await made.close()


async def test_vectors_wait_for_the_server_as_words_do(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = Embedded(vectors=((1.0,),))

    async def embed(self: OpenAIProvider, request: EmbedRequest) -> Embedded:
        assert request == SEA
        return vectors

    monkeypatch.setattr(OpenAIProvider, "embed", embed)
    seat = LocalSeat("local", LocalProvider(), VirtualClock())
    got: list[Any] = []

    async def ask() -> None:
        got.append(await seat.embed(SEA))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            assert not got
            seat.came_up("http://127.0.0.1:9/v1", "key")
    assert got == [vectors]
    await seat.close()


async def test_without_a_server_there_are_no_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    seat = LocalSeat("local", LocalProvider(), VirtualClock())
    monkeypatch.setattr(module, "READY_WITHIN", 0.01)
    with pytest.raises(LlmUnreachable):
        await seat.embed(SEA)
    seat.went_down(LocalModelMissing("no file"))
    with pytest.raises(LocalModelMissing, match="no file"):
        await seat.embed(SEA)
