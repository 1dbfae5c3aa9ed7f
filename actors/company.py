"""The house as its actors know it: with the kinds of job, the models, and who runs what."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """

    kinds: Kinds
    models: Models
    toolroom: Toolroom
    spec_of_worker: Callable[["Company", str, int], ChildSpec]
