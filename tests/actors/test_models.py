"""The models: which provider a name stands for, what a reload closes, and the seat of a model in a process of its
own.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from actors.models import LocalSeat, Models, deadlines, local_names
from runtime.clock import VirtualClock
from runtime.errors import LlmUnreachable, LocalModelMissing, SecretUnavailable
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import Deadlines, complete
from runtime.llm.scripted import ScriptedProvider
from runtime.secrets import Redactor
from schemas.chat import ChatMessage, ChatRequest
from schemas.config import LocalProvider, Settings, Timeouts

KEY = "sk-canary-0123456789"
ASK = ChatRequest(model="echo", messages=(ChatMessage(role="user", content="hello there"),))


def settings(**tables: Any) -> Settings:
    return Settings.model_validate(tables)


def speaker(provider: str) -> dict[str, Any]:
    return {"llm": {"provider": provider, "model": "m"}}


@pytest.fixture
def models(tmp_path: Path) -> Any:
    def make(found: Settings, **environ: str) -> Models:
        return Models(found, tmp_path, Redactor(), VirtualClock(), environ)

    return make


CLOUD = {"cloud": {"base_url": "https://host/v1", "api_key": "env:KEY"}}


async def test_a_provider_is_made_when_it_is_first_asked_for_and_kept(models: Any) -> None:
    found = models(settings(providers=CLOUD), KEY=KEY)
    provider = found.get("cloud")
    assert isinstance(provider.inner, OpenAIProvider)
    assert found.get("cloud") is provider
    await found.close()


async def test_a_key_is_known_to_the_redactor_before_anything_can_log_it(tmp_path: Path) -> None:
    redactor = Redactor()
    found = Models(settings(providers=CLOUD), tmp_path, redactor, VirtualClock(), {"KEY": KEY})
    found.get("cloud")
    assert KEY not in redactor.text(f"Bearer {KEY}")
    await found.close()


def test_a_key_that_is_not_there_is_told_when_it_is_needed_and_not_before(models: Any) -> None:
    found = models(settings(providers=CLOUD))
    with pytest.raises(SecretUnavailable):
        found.get("cloud")


async def test_the_scripted_provider_needs_no_table(models: Any) -> None:
    provider = models(settings()).get("scripted")
    assert isinstance(provider.inner, ScriptedProvider)
    assert (await complete(provider, ASK))[0] == "hello there"


async def test_scripts_are_looked_for_beside_the_configuration(models: Any, tmp_path: Path) -> None:
    (tmp_path / "plays").mkdir()
    (tmp_path / "plays" / "m.toml").write_text('[[steps]]\nreply = "from the file"\n')
    found = models(settings(providers={"play": {"type": "scripted", "dir": "plays"}}))
    request = ASK.model_copy(update={"model": "m.toml"})
    assert (await complete(found.get("play"), request))[0] == "from the file"


async def test_a_changed_provider_is_closed_and_made_anew_and_the_others_stay(models: Any) -> None:
    before = settings(providers={"a": {"base_url": "https://a/v1"}, "b": {"base_url": "https://b/v1"}})
    found = models(before)
    old, same = found.get("a"), found.get("b")
    after = settings(providers={"a": {"base_url": "https://c/v1"}, "b": {"base_url": "https://b/v1"}})
    await found.use(after, ("a",))
    assert found.get("a") is not old
    assert found.get("b") is same
    with pytest.raises(Exception, match="closed"):
        await complete(old, ASK)
    await found.close()


async def test_a_provider_that_is_gone_is_closed_and_not_made_again(models: Any) -> None:
    found = models(settings(providers=CLOUD), KEY=KEY)
    found.get("cloud")
    await found.use(settings(), ("cloud",))
    with pytest.raises(KeyError):
        found.get("cloud")


def test_only_local_models_that_somebody_speaks_with_get_a_process() -> None:
    found = settings(
        agents={"a": speaker("local"), "b": speaker("big"), "c": speaker("scripted"), "d": {"actor": "m:D"}},
        providers={"big": {"type": "local", "model": "/m.gguf"}, "idle": {"type": "local"}},
    )
    assert local_names(found) == ["big", "local"]


def test_deadlines_are_seconds() -> None:
    timeouts = Timeouts.model_validate({"connect": "1s", "first_byte": "2s", "between": "300ms", "total": "4m"})
    assert deadlines(timeouts) == Deadlines(1.0, 2.0, 0.3, 240.0)


# -- a seat ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def seat(monkeypatch: pytest.MonkeyPatch) -> LocalSeat:
    """A seat whose server, once up, says where it is."""

    class Here:
        def __init__(self, name: str, url: str, key: str, **_: Any) -> None:
            self.url = url

        @asynccontextmanager
        async def stream(self, request: ChatRequest) -> AsyncIterator[str]:
            yield self.url

        async def close(self) -> None:
            """Nothing is held open."""

    monkeypatch.setattr("actors.models.OpenAIProvider", Here)
    return LocalSeat("local", LocalProvider(), VirtualClock())


async def where(seat: LocalSeat) -> Any:
    async with seat.stream(ASK) as url:
        return url


async def test_whoever_asks_before_the_model_is_up_waits_for_it(seat: LocalSeat) -> None:
    found: list[str] = []

    async def ask() -> None:
        found.append(await where(seat))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.sleep(50)
        assert found == []
        seat.came_up("http://here/v1", "key")
    assert found == ["http://here/v1"]
    await seat.close()


async def test_a_wait_for_the_model_has_an_end_and_is_worth_another_try(seat: LocalSeat) -> None:
    began = anyio.current_time()
    with pytest.raises(LlmUnreachable) as caught:
        await where(seat)
    assert anyio.current_time() - began == pytest.approx(120)
    assert caught.value.retry_after == 1.0


async def test_a_model_that_went_down_is_waited_for_again(seat: LocalSeat) -> None:
    seat.came_up("http://old/v1", "key")
    seat.went_down(None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(where, seat)
        await anyio.sleep(1)
        seat.came_up("http://new/v1", "key")
    assert await where(seat) == "http://new/v1"


async def test_a_model_that_cannot_come_up_tells_everyone_why_at_once(seat: LocalSeat) -> None:
    seat.went_down(LocalModelMissing("no such file"))
    began = anyio.current_time()
    for _ in range(2):
        with pytest.raises(LocalModelMissing, match="no such file"):
            await where(seat)
    assert anyio.current_time() == began


async def test_a_missing_model_leaves_its_actor_well(whole: Any) -> None:
    config = """
        [runtime]
        pool = 1
        [providers.big]
        type = "local"
        model = "/nowhere/model.gguf"
        [agents.ada]
        llm = { provider = "big", model = "big" }
    """
    async with whole(config) as s:
        assert s.system.cell("model:big").state == "running"
        view = await s.until(await s.say("ada", "hi"))
        assert (view.status, view.reason, view.error.code) == ("failed", "permanent", "llm.local_missing")
