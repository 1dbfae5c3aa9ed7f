"""What people ask of providers: how they stand, and whether one answers."""

from typing import Final

import anyio

from actors.company import Company
from runtime.core.actor import Actor, Promise, handles
from runtime.errors import ProviderNotFound, UnderstudyError
from runtime.llm.provider import complete
from schemas.agents import ListProviders, ProviderTested, ProviderView, TestProvider
from schemas.chat import ChatMessage, ChatRequest
from schemas.codes import CODES
from schemas.config import BUILTIN_PROVIDERS, AnthropicProvider, OpenAIProvider

WITHIN: Final = 25.0
"""Seconds that a test may take: less than a person's command waits."""


class Providers(Actor):
    """The part of `system` that knows providers."""

    house: Company

    @handles
    def providers(self, message: ListProviders) -> tuple[ProviderView, ...]:
        settings = self.house.loaded.settings
        used = {agent.llm.provider for agent in settings.agents.values() if agent.llm is not None}
        names = sorted({*settings.providers, *used})
        return tuple(self._provider(name) for name in names)

    def _provider(self, name: str) -> ProviderView:
        settings = self.house.loaded.settings
        table, view = settings.provider(name), self.house.models.view(name)
        return ProviderView(
            name=name,
            type=table.type,
            url=table.base_url if isinstance(table, OpenAIProvider | AnthropicProvider) else "",
            key=(table.api_key or "") if isinstance(table, OpenAIProvider | AnthropicProvider) else "",
            agents=tuple(
                sorted(
                    agent for agent, one in settings.agents.items() if one.llm is not None and one.llm.provider == name
                )
            ),
            calls=view.calls if view else 0,
            failures=view.failures if view else 0,
            active=view.active if view else 0,
            waiting=view.waiting if view else 0,
            cache_hits=view.cache_hits if view else 0,
            breaker=view.breaker if view else "closed",
            last_error=view.last_error if view else None,
        )

    @handles
    def test_provider(self, message: TestProvider) -> None:
        """Make a small call beside the handlers: a provider that is slow holds up nobody who asks something else."""
        settings = self.house.loaded.settings
        known = {*settings.providers, *BUILTIN_PROVIDERS}
        if message.name not in known:
            raise ProviderNotFound(
                f"there is no provider {message.name!r}; there are: {', '.join(sorted(known))}", known=sorted(known)
            )
        self.ctx.start(self._try, message, self.reply_later(), name=f"test {message.name}")

    async def _try(self, message: TestProvider, promise: Promise) -> None:
        model = message.model or self._model_of(message.name)
        if model is None:
            hint = "name one: --model M"
            promise.resolve(ProviderTested(ok=False, error="no agent uses it, so no model is known", hint=hint))
            return
        request = ChatRequest(
            model=model, messages=(ChatMessage(role="user", content="Say hello in one word."),), max_tokens=16
        )
        began = anyio.current_time()
        try:
            with anyio.fail_after(WITHIN):
                text, usage, _ = await complete(self.house.models.get(message.name), request)
        except TimeoutError:
            promise.resolve(ProviderTested(ok=False, model=model, error=f"no answer within {WITHIN:g} s"))
        except UnderstudyError as error:
            promise.resolve(ProviderTested(ok=False, model=model, error=error.detail, hint=CODES[error.code].hint))
        else:
            took = round((anyio.current_time() - began) * 1000)
            promise.resolve(ProviderTested(ok=True, model=model, text=text[:200], total_ms=took, usage=usage))

    def _model_of(self, provider: str) -> str | None:
        """Return the model of some agent that uses *provider*."""
        agents = self.house.loaded.settings.agents.values()
        return next((one.llm.model for one in agents if one.llm is not None and one.llm.provider == provider), None)
