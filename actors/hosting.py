"""Agents whose mind was written elsewhere: a class of yours, a program, an adapter of a framework. What surrounds a
turn is ours as ever: the job, the conversation, tools with their permissions and people, the record, the budget.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic import Field

from actors.agent import Agent
from actors.budget import Budget, cost_of, price_of
from actors.calls import Calls, Parked
from actors.ledger import Ledger
from actors.prompt import persona, public, repaired, user
from actors.runs import words
from actors.together import Together
from actors.turn import Drained, Result, Scene, brought_by
from runtime.attempt_record import StoreRecord
from runtime.backends.playing import playing
from runtime.backends.port import (
    AgentBackend,
    BackendEvent,
    Final,
    KeepsState,
    Note,
    Reasoning,
    Text,
    Used,
)
from runtime.backends.port import Turn as BackendTurn
from runtime.durable import Durable
from runtime.outcomes import OnAmbiguous, Suspended
from runtime.stateful import AgentState
from runtime.tools.tool import ToolResult
from schemas.agents import Answered
from schemas.chat import ChatMessage, ToolCall, Usage
from schemas.config import AgentSettings
from schemas.jobs import JobView


class Hosted:
    """One attempt at a turn of a backend. It is what `actors.turn.Turn` is for the built-in mind, and its context too
    (`runtime.backends.port.BackendContext`).
    """

    def __init__(self, scene: Scene, backend: AgentBackend) -> None:
        self.scene, self.backend = scene, backend
        house, settings = scene.house, scene.settings
        self.ledger = Ledger(scene.job, house.store, house.clock)
        prices = {} if settings.llm is None else house.models.prices(settings.llm.provider)
        self._prices = prices
        price = price_of(prices, "" if settings.llm is None else settings.llm.model)
        self.budget = Budget(scene.agent, settings, price, scene.chain, house.clock)
        self.calls = Calls(scene, self.ledger, self.budget)
        Together(scene, self.calls)
        record = StoreRecord(scene.job, house.store, house.clock, house.prepare, lambda: None)
        self._durable = Durable(scene.job.id, record)
        self._asked = self._used = 0
        self._model = ""
        self._said: list[ChatMessage] = []
        self._text: list[str] = []

    @property
    def so_far(self) -> tuple[ChatMessage, ...]:
        """The messages of what was done."""
        text = "".join(self._text)
        more = (ChatMessage(role="assistant", content=text + " [interrupted]"),) if text else ()
        return (*self._said, *more)

    async def run(self) -> Result:
        """Take the turn to its end. Raises what the backend does."""
        scene = self.scene
        if scene.house.draining:
            raise Drained
        await self.ledger.load()
        await self.calls.remember()
        await self.calls.hold(brought_by(scene.chain))
        limit = scene.settings.context_messages
        kept = await scene.house.store.messages(scene.agent, scene.said.conversation, limit=limit)
        line, _ = repaired([public(body) for body in kept])
        self._said = [user(scene.said.text)]
        turn = BackendTurn(
            run=scene.job.id,
            agent=scene.agent,
            conversation=scene.said.conversation,
            text=scene.said.text,
            history=line,
            attempt=scene.job.attempt,
            tools=tuple(tool.spec for tool in scene.toolbox.tools.values()),
            system=persona(scene.settings, scene.state),
            options=scene.settings.options,
        )
        final: Final | None = None
        async with playing(self.backend, turn, self) as events:
            async for event in events:
                if isinstance(event, Final):
                    final = event
                else:
                    await self._hear(event)
        assert final is not None  # `playing` sees to it
        return self._ended(final)

    def _ended(self, final: Final) -> Result:
        scene, spent = self.scene, self.budget.spent
        answered = Answered(
            text=final.text,
            conversation=scene.said.conversation,
            usage=Usage(input_tokens=spent.input_tokens, output_tokens=spent.output_tokens),
            model=self._model,
            calls=spent.calls,
            tools=self.calls.made,
            cost=spent.cost,
            output=final.output,
        )
        messages = (*self._said, ChatMessage(role="assistant", content=final.text))
        return Result(messages, answered, tuple(scene.changes))

    async def _hear(self, event: BackendEvent) -> None:
        match event:
            case Text():
                self._text.append(event.text)
                self.scene.tell("token", {"text": event.text})
            case Reasoning():
                self.scene.tell("reasoning", {"text": event.text})
            case Note():
                self.scene.tell(event.kind, event.data)
            case Used():
                await self._count(event)

    async def _count(self, used: Used) -> None:
        """Count what the backend says that a call of a model has used; it is charged once. Raises BudgetSpent."""
        step = f"model/{self._used}"
        self._used += 1
        self._model = used.model or self._model
        cost = cost_of(used.usage, price_of(self._prices, used.model))
        if step not in self.ledger.done and not used.replayed:
            reserved = self.budget.reserve(used.usage.input_tokens)
            await self.ledger.begin(step, charge=reserved)
            difference, cost = self.budget.settle(reserved, used.usage)
            output = {
                "text": "",
                "calls": [],
                "usage": used.usage.model_dump(),
                "stop": "stop",
                "model": used.model,
                "cost": cost,
            }
            await self.ledger.end(step, output, cost=cost / 1_000_000, charge=difference)
        else:
            self.budget.count(used.usage, cost)

    # -- what a backend may do -----------------------------------------------------------------------------------------

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> ToolResult:
        """See `runtime.backends.port.BackendContext`."""
        number = self._asked
        self._asked += 1
        call = ToolCall(id=f"call_{number}", name=name, arguments=json.dumps(arguments))
        found = await self.calls.make(0, number, call)
        if isinstance(found, Parked):
            raise Suspended(waits=found.signal or "", wait_until=found.until)
        return ToolResult(found.content, failed=found.failed)

    async def step(
        self, name: str, function: Callable[..., Any], *args: Any, on_ambiguous: OnAmbiguous = "retry"
    ) -> Any:
        """See `runtime.backends.port.BackendContext`."""
        return await self._durable.step(f"own/{name}", function, *args, on_ambiguous=on_ambiguous)

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """See `runtime.backends.port.BackendContext`."""
        self.scene.tell(kind, data)


class HostedState(AgentState):
    """The state of such an agent: the usual fields, and what its backend keeps."""

    backend: dict[str, Any] = Field(default_factory=dict)


class HostedAgent(Agent):
    """An agent whose mind is a backend."""

    State = HostedState

    def __init__(self, settings: AgentSettings, backend: AgentBackend) -> None:
        super().__init__(settings)
        self.backend = backend

    async def on_ready(self) -> None:
        if isinstance(self.backend, KeepsState) and self.state.backend:
            self.backend.restore(self.state.backend)

    def turn_of(self, scene: Scene) -> Hosted:
        return Hosted(scene, self.backend)

    def on_record(self, run: JobView) -> tuple[ChatMessage, ...]:
        return (user(words(run)),)  # what it thought by then is its own

    def on_answer(self) -> None:
        if isinstance(self.backend, KeepsState):
            self.state.backend = self.backend.state()
