"""What agents have spent."""

from dataclasses import replace

from runtime.store.memory.base import Base
from runtime.store.port import Charge


class Spending(Base):
    """A row a day and agent, without limits: these are the charge's."""

    def _passed(self, charge: Charge) -> str | None:
        """Return the name of the limit that the day's spending would pass with *charge*; None: it may be spent."""
        day = self._spending.get((charge.agent, charge.day), Charge(charge.agent, charge.day))
        tokens = day.input_tokens + day.output_tokens + charge.input_tokens + charge.output_tokens
        if charge.max_tokens is not None and tokens > charge.max_tokens:
            return "max_tokens"
        return "max_cost" if charge.max_cost is not None and day.cost + charge.cost > charge.max_cost else None

    def _spend(self, charge: Charge) -> None:
        """Add *charge* to what its agent has spent on its day, whatever its limits say."""
        day = self._spending.get((charge.agent, charge.day), Charge(charge.agent, charge.day))
        more = replace(
            day,
            calls=day.calls + charge.calls,
            input_tokens=day.input_tokens + charge.input_tokens,
            output_tokens=day.output_tokens + charge.output_tokens,
            cost=day.cost + charge.cost,
        )
        self._spending.put((charge.agent, charge.day), more)
