"""The models that agents speak with: providers made from the configuration, and the local model's process."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from runtime import log
from runtime.clock import Clock
from runtime.core.actor import Actor
from runtime.errors import LlmError, LlmUnreachable, LocalModelMissing
from runtime.llm.anthropic import AnthropicProvider
from runtime.llm.guarded import Guarded, GuardView
from runtime.llm.local import find_model, server_argv
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import Deadlines, Provider
from runtime.llm.scripted import ScriptedProvider
from runtime.sandbox.parent import Command, child_env, spawn
from runtime.secrets import Redactor, Secret, resolve
from schemas.chat import ChatPart, ChatRequest, Embedded, EmbedRequest
from schemas.config import AnthropicProvider as AnthropicSettings
from schemas.config import LocalProvider, PriceSettings, ProviderSettings, Settings, Timeouts
from schemas.config import OpenAIProvider as OpenAISettings

READY_WITHIN: Final = 120.0
"""Seconds until a local model must have loaded; a large one on a slow disk takes its time."""

logger = log.get(__name__)


class Models:
    """The providers that the configuration in force names; each is made when it is first asked for."""

    def __init__(
        self, settings: Settings, folder: Path, redactor: Redactor, clock: Clock, environ: dict[str, str]
    ) -> None:
        self._settings, self._folder, self._redactor, self._clock, self._environ = (
            settings,
            folder,
            redactor,
            clock,
            environ,
        )
        self._providers: dict[str, Provider] = {}
        self.local: dict[str, LocalSeat] = {
            name: LocalSeat(name, found, clock)
            for name in local_names(settings)
            if isinstance(found := settings.provider(name), LocalProvider)
        }

    async def use(self, settings: Settings, changed: tuple[str, ...]) -> None:
        """Go by *settings* from now on; providers in *changed* are made anew."""
        self._settings = settings
        for name in changed:
            provider = self._providers.pop(name, None)
            if provider is not None:
                await provider.close()

    def get(self, name: str) -> Provider:
        """Return the provider called *name*. Raises SecretUnavailable where its key cannot be had."""
        provider = self._providers.get(name)
        if provider is None:
            settings = self._settings.provider(name)
            made = self._make(name, settings)
            provider = self._providers[name] = Guarded(made, settings.limits, settings.cache, self._clock)
        return provider

    def prices(self, name: str) -> dict[str, PriceSettings]:
        """Return what the models of a provider cost, by name."""
        return self._settings.provider(name).prices

    def view(self, name: str) -> GuardView | None:
        """Return how a provider stands; None where nobody has used it yet."""
        provider = self._providers.get(name)
        return provider.view() if isinstance(provider, Guarded) else None

    def _make(self, name: str, settings: ProviderSettings) -> Provider:
        if isinstance(settings, OpenAISettings | AnthropicSettings):
            key = None if settings.api_key is None else resolve(settings.api_key, self._environ)
            if key is not None:
                self._redactor.register(key)
            kind = OpenAIProvider if isinstance(settings, OpenAISettings) else AnthropicProvider
            return kind(
                name,
                settings.base_url,
                None if key is None else key.reveal(),
                deadlines=deadlines(settings.timeouts),
                max_bytes=settings.max_bytes,
                clock=self._clock,
            )
        if isinstance(settings, LocalProvider):
            return self.local.setdefault(name, LocalSeat(name, settings, self._clock))
        return ScriptedProvider(name, self._folder / settings.dir, self._clock)

    async def close(self) -> None:
        """Let go of every connection."""
        for provider in self._providers.values():
            await provider.close()


def local_names(settings: Settings) -> list[str]:
    """Return the local providers that some agent speaks with."""
    used = {agent.llm.provider for agent in settings.agents.values() if agent.llm is not None}
    return sorted(name for name in used if isinstance(settings.provider(name), LocalProvider))


def deadlines(timeouts: Timeouts) -> Deadlines:
    return Deadlines(
        timeouts.connect / 1000, timeouts.first_byte / 1000, timeouts.between / 1000, timeouts.total / 1000
    )


class LocalSeat:
    """A provider whose server is a process of ours: whoever asks before it is up waits, whoever asks in vain is told
    why.
    """

    def __init__(self, name: str, settings: LocalProvider, clock: Clock) -> None:
        self.name, self.settings, self._clock = name, settings, clock
        self._up = anyio.Event()
        self._server: OpenAIProvider | None = None
        self.trouble: LlmError | None = None

    def came_up(self, url: str, key: str) -> None:
        """The server answers at *url*."""
        settings = self.settings
        self._server = OpenAIProvider(
            self.name, url, key, deadlines=deadlines(settings.timeouts), max_bytes=settings.max_bytes, clock=self._clock
        )
        self.trouble = None
        self._up.set()

    def went_down(self, trouble: LlmError | None) -> None:
        """The server is gone; with *trouble* it will not come back by itself."""
        self._server, self.trouble = None, trouble
        if trouble is not None:
            self._up.set()
        elif self._up.is_set():
            self._up = anyio.Event()

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        """See `runtime.llm.provider.Provider`."""
        async with (await self._serving()).stream(request) as parts:
            yield parts

    async def embed(self, request: EmbedRequest) -> Embedded:
        """See `runtime.llm.provider.Provider`."""
        return await (await self._serving()).embed(request)

    async def _serving(self) -> OpenAIProvider:
        """Return the server once it is up; raise what keeps it from that."""
        with anyio.move_on_after(READY_WITHIN):
            await self._up.wait()
        if self.trouble is not None:
            raise type(self.trouble)(self.trouble.detail)
        if self._server is None:
            raise LlmUnreachable(f"the local model {self.settings.model} is not up yet", retry_after=1.0)
        return self._server

    async def close(self) -> None:
        """Let go of the connections; the process belongs to its actor."""
        if self._server is not None:
            await self._server.close()


class LocalModel(Actor):
    """Keeps the local model's server running: a child process behind a guard, restarted like any actor that crashes."""

    def __init__(self, seat: LocalSeat, redactor: Redactor) -> None:
        self.seat, self.redactor = seat, redactor

    async def on_start(self) -> None:
        try:
            settings = self.seat.settings
            model = find_model(settings.model)
            argv = server_argv(model, alias=settings.model, threads=settings.threads, context=settings.context)
        except LocalModelMissing as missing:  # nothing a restart would mend; who asks is told how to get it
            logger.warning("local_model_missing", provider=self.seat.name, reason=missing.detail)
            self.seat.went_down(missing)
            return
        self.ctx.start(self._serve, tuple(argv), name="server")

    async def _serve(self, argv: tuple[str, ...]) -> None:
        key = secrets.token_urlsafe(32)
        self.redactor.register(Secret(key))
        said = bytearray()

        def hear(stream: str, data: bytes) -> None:
            if stream == "stdout":
                said.extend(data)
                if b"\n" in said:
                    self._heard(bytes(said).partition(b"\n")[0], key)
                    said.clear()
            else:
                logger.debug("local_model_said", provider=self.seat.name, text=data.decode(errors="replace")[:2000])

        try:
            command = Command(argv, env=child_env(allow=("LD_LIBRARY_PATH",)), stdin=key.encode() + b"\n")
            async with spawn(command, on_output=hear, keep_stdin_open=True) as child:
                await child.go()
                ended = await child.wait()
        finally:
            self.seat.went_down(None)
        raise LocalModelDied(f"the local model's server ended: code {ended.code}, signal {ended.signal}")

    def _heard(self, line: bytes, key: str) -> None:
        said: dict[str, Any] = json.loads(line)
        self.seat.came_up(said["url"] + "/v1", key)
        logger.info("local_model_ready", provider=self.seat.name, model=self.seat.settings.model)


class LocalModelDied(Exception):
    """The server's process is gone: a crash of its actor, which the supervisor answers with a restart."""
