"""What stands on the stage in place of the real thing: models that a test plays, and tools that it gives."""

from collections.abc import Mapping
from typing import Any

from actors.company import Company
from actors.models import Models
from actors.toolroom import Toolroom
from runtime.errors import LlmUnexpected
from runtime.llm.provider import Provider
from runtime.tools.tool import Tool, Toolbox
from schemas.config import AgentSettings, ProviderSettings, ScriptedProvider


class PlayedModels(Models):
    """The providers of a configuration, each played by what the test gave for it; none of them uses a network, a key or
    a process. The guards around them (limits, cache, breaker) are the real ones.
    """

    def __init__(self, house: Company, given: Mapping[str, Provider], every: Provider | None) -> None:
        loaded = house.loaded
        super().__init__(loaded.settings, loaded.folder, house.redactor, house.clock, {})
        self.local.clear()
        self._given, self._every = given, every

    def _make(self, name: str, settings: ProviderSettings) -> Provider:
        found = self._given.get(name) or self._every
        if found is not None:
            return found
        if isinstance(settings, ScriptedProvider):
            return super()._make(name, settings)
        known = ", ".join(sorted(self._given)) or "none"
        raise LlmUnexpected(
            f"the stage has no model for the provider {name!r}: give models={{{name!r}: ...}} ({known})"
        )


class GivenTools(Toolroom):
    """The real tools, but for those that the test gave in their place."""

    def __init__(self, house: Company, given: Mapping[str, Tool]) -> None:
        loaded = house.loaded
        super().__init__(loaded.settings, loaded.folder, house.home, house.store, house.clock)
        self._given = given

    def toolbox(self, settings: AgentSettings) -> Toolbox:
        """See `actors.toolroom.Toolroom`."""
        box = super().toolbox(settings)
        for name in settings.tools:
            if name in self._given:
                box.tools[name] = self._given[name]
                box.missing.pop(name, None)
        return box


def without_servers(settings: Any) -> Any:
    """Return *settings* without MCP servers: they are processes and networks."""
    return settings.model_copy(update={"tools": settings.tools.model_copy(update={"mcp": {}})})
