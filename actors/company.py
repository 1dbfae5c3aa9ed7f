"""The house as its actors know it: with the kinds of job, the models, and who runs what."""

from collections.abc import Callable
from dataclasses import dataclass, field

from actors.kinds import Kinds
from actors.models import Models
from actors.toolroom import Toolroom
from runtime.core.spec import ChildSpec
from runtime.house import House


@dataclass(slots=True, kw_only=True)
class Company(House):
    """A house with its cast.

    toolroom        where agents get their tools
    spec_of_worker  the child that worker number *n* of a pool is (house, pool, n)
    apart           jobs under which a process died that had run others before: the next attempt of each has one of its
                    own, so that it is certain whose crash it is
    """

    kinds: Kinds
    models: Models
    toolroom: Toolroom
    spec_of_worker: Callable[["Company", str, int], ChildSpec]
    apart: set[str] = field(default_factory=set)

    def troubles(self) -> list[str]:
        servers = [(f"the MCP server {name}", seat.trouble) for name, seat in self.toolroom.mcp.copy().items()]
        local = [
            (f"the local model of provider {name}", seat.trouble) for name, seat in self.models.local.copy().items()
        ]
        told = [(who, getattr(why, "detail", why)) for who, why in (*servers, *local) if why is not None]
        return [f"{who} is not up: {why}" for who, why in told]
