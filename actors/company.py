"""The house as its actors know it: with the kinds of job, the models, and who runs what."""

from dataclasses import dataclass

from actors.kinds import Kinds
from actors.models import Models
from runtime.house import House


@dataclass(slots=True, kw_only=True)
class Company(House):
    """A house with its cast."""

    kinds: Kinds
    models: Models
