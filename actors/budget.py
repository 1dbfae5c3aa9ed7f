"""What a turn may use: reserved before each call of a model, settled after it, for the turn and for the agent's day."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from runtime.clock import Clock
from runtime.errors import BudgetSpent
from runtime.store.port import Charge
from schemas.agents import Chain
from schemas.chat import Usage
from schemas.config import AgentSettings, PriceSettings
from schemas.jobs import JobView
from schemas.runs import Spent

MILLION: Final = 1_000_000
UNSAID_ANSWER: Final = 1_000
"""Tokens that an answer is taken to have before it is there, where the agent names no `max_tokens`."""

FREE: Final = PriceSettings()


def price_of(prices: dict[str, PriceSettings], model: str) -> PriceSettings:
    """Return what *model* costs; nothing where nobody has said."""
    return prices.get(model) or prices.get("*") or FREE


def cost_of(usage: Usage, price: PriceSettings) -> int:
    """Return what a call cost in millionths of the prices' currency: so many units for a million tokens are as many
    millionths for one."""
    return math.ceil(usage.input_tokens * price.input + usage.output_tokens * price.output)


def micros(units: float | None) -> int | None:
    """Return an amount of money in millionths."""
    return None if units is None else round(units * MILLION)


def day_of(now: int) -> str:
    """Return the day of a time in milliseconds, UTC."""
    return datetime.fromtimestamp(now / 1000, UTC).date().isoformat()


class Budget:
    """What one turn has used, and may still use.

    Limits of the turn are counted here, from what is on record; limits of the day are counted by the store, which sees
    all turns of the agent. A turn that another agent asked for also has what is left of the asker's.
    """

    def __init__(self, agent: str, settings: AgentSettings, price: PriceSettings, chain: Chain, clock: Clock) -> None:
        self._agent, self._limits, self._price, self._clock = agent, settings.budget, price, clock
        self._max_answer = settings.llm.max_tokens if settings.llm is not None else None
        self.max_tokens = _least(settings.budget.run_tokens, chain.tokens)
        self.max_cost = _least(micros(settings.budget.run_cost), chain.cost)
        self.spent = Spent()

    def reserve(self, input_tokens: int) -> Charge:
        """Return what the next call is taken to cost at most, to be charged in advance. Raises BudgetSpent where the
        turn may not make it.
        """
        usage = Usage(input_tokens=input_tokens, output_tokens=self._max_answer or UNSAID_ANSWER, estimated=True)
        cost = cost_of(usage, self._price)
        if self.spent.calls >= self._limits.run_calls:
            raise self._over("run_calls", f"{self.spent.calls} calls of the model in one turn")
        tokens = self.spent.tokens + usage.input_tokens + usage.output_tokens
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise self._over("run_tokens", f"{tokens} tokens with the next call; {self.max_tokens} are allowed")
        if self.max_cost is not None and self.spent.cost + cost > self.max_cost:
            raise self._over(
                "run_cost", f"{units(self.spent.cost + cost)} with the next call; {units(self.max_cost)} is allowed"
            )
        return self._charge(usage, cost, calls=1, limited=True)

    def settle(self, reserved: Charge, usage: Usage) -> tuple[Charge, int]:
        """Count what a call has used; return the difference to what was charged in advance, and its cost."""
        cost = cost_of(usage, self._price)
        self.count(usage, cost)
        difference = Charge(
            reserved.agent,
            reserved.day,
            input_tokens=usage.input_tokens - reserved.input_tokens,
            output_tokens=usage.output_tokens - reserved.output_tokens,
            cost=cost - reserved.cost,
        )
        return difference, cost

    def release(self, reserved: Charge) -> Charge:
        """Return what takes a charge in advance back: the call was not made, or was not paid for."""
        return Charge(
            reserved.agent,
            reserved.day,
            -reserved.calls,
            -reserved.input_tokens,
            -reserved.output_tokens,
            -reserved.cost,
        )

    def lost(self, input_tokens: int) -> tuple[Usage, int]:
        """Count a call of which nobody knows how it ended as if all that was reserved for it had been used; return
        that, and what it costs.
        """
        usage = Usage(input_tokens=input_tokens, output_tokens=self._max_answer or UNSAID_ANSWER, estimated=True)
        cost = cost_of(usage, self._price)
        self.count(usage, cost)
        return usage, cost

    def count(self, usage: Usage, cost: int, calls: int = 1) -> None:
        """Count what a call, or a turn that was delegated, has used."""
        spent = self.spent
        self.spent = Spent(
            calls=spent.calls + calls,
            input_tokens=spent.input_tokens + usage.input_tokens,
            output_tokens=spent.output_tokens + usage.output_tokens,
            cost=spent.cost + cost,
        )

    def count_spent(self, spent: Mapping[str, int]) -> None:
        """Count what a turn of another agent has used for this one."""
        usage = Usage(input_tokens=spent["input_tokens"], output_tokens=spent["output_tokens"])
        self.count(usage, spent["cost"], spent["calls"])

    def left(self) -> tuple[int | None, int | None]:
        """Return how many tokens and how much money are left for others to use; None: there is no limit."""
        tokens = None if self.max_tokens is None else max(0, self.max_tokens - self.spent.tokens)
        return tokens, None if self.max_cost is None else max(0, self.max_cost - self.spent.cost)

    def _charge(self, usage: Usage, cost: int, *, calls: int, limited: bool) -> Charge:
        return Charge(
            self._agent,
            day_of(self._clock.now()),
            calls,
            usage.input_tokens,
            usage.output_tokens,
            cost,
            max_tokens=self._limits.day_tokens if limited else None,
            max_cost=micros(self._limits.day_cost) if limited else None,
        )

    def _over(self, limit: str, why: str) -> BudgetSpent:
        return BudgetSpent(f"the budget of {self._agent} is spent ({limit}): {why}", limit=limit)


def spent_by(job: JobView) -> Spent:
    """Return what a run has used, by its record."""
    calls = read = written = cost = 0
    for step in job.steps:
        output = step.output if isinstance(step.output, dict) else {}
        if step.name.startswith("model/") and output:
            usage = output.get("usage", {})
            calls += 1
            read += usage.get("input_tokens", 0)
            written += usage.get("output_tokens", 0)
            cost += output.get("cost", 0)
        elif spent := output.get("spent"):
            calls += spent["calls"]
            read += spent["input_tokens"]
            written += spent["output_tokens"]
            cost += spent["cost"]
    return Spent(calls=calls, input_tokens=read, output_tokens=written, cost=cost)


def units(cost: int) -> str:
    """Return a cost as people write it."""
    return f"{cost / MILLION:.6f}".rstrip("0").rstrip(".")


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
