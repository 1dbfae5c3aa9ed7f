"""The port for agents that were written elsewhere: one turn goes in, events come out, the rest is ours.

An `AgentBackend` is a mind in place of the built-in loop: a class of yours, a program (`runtime.backends.process`), or
an adapter of a framework (`runtime.backends.pydantic_ai`). What surrounds it stays: the job, the conversation, the
permissions, the approvals, the budget, the supervision.

Replay. After a crash, a failed attempt, or a wait for a person, `run` is called again from the top with the same turn;
only `attempt` has grown. What it did by `BackendContext.call_tool` and `BackendContext.step` is on record and is not
done again: steps are found by their name, tool calls by their order, so the same turn has to lead to the same calls in
the same order. What lies outside of both is done again.

Suspension. `call_tool` and `step` may raise `runtime.outcomes.Suspended`, a `BaseException`: somebody has to be waited
for, the attempt is given back and holds nothing meanwhile. Let it pass. Calls that run beside it should come to their
end first, for one that is cut off may have taken effect without anybody knowing.
"""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from pydantic import Field

from runtime.errors import JobFailed
from runtime.outcomes import OnAmbiguous
from schemas.base import Model
from schemas.chat import ChatMessage, ToolSpec, Usage
from schemas.errors import ErrorClass

if TYPE_CHECKING:
    from runtime.tools.tool import ToolResult


class BackendFailed(JobFailed):
    """The backend did not answer, and may if it is asked again: it died, or said that it failed for now."""

    error_class: ClassVar[ErrorClass] = "transient"


class BackendUnusable(JobFailed):
    """The backend does not keep to the port, or says that no further attempt will help."""

    error_class: ClassVar[ErrorClass] = "permanent"


class Turn(Model):
    """What is said to an agent, and what it needs to answer.

    run      the id of the run, the same for every attempt
    text     what was said
    history  the conversation before it, oldest first
    attempt  which attempt this is, from 1
    tools    what may be called, by the names to call them by
    system   who the agent is, in words for a system message; empty where nothing is configured
    options  the agent's `options` of the configuration, as they are
    """

    run: str
    agent: str
    conversation: str
    text: str
    history: tuple[ChatMessage, ...] = ()
    attempt: int = Field(default=1, ge=1)
    tools: tuple[ToolSpec, ...] = ()
    system: str = ""
    options: dict[str, Any] = Field(default_factory=dict)


class Text(Model):
    """A piece of the answer, for whoever looks on."""

    text: str


class Reasoning(Model):
    """A piece of what was thought aloud; it is shown and not kept."""

    text: str


class Used(Model):
    """What one call of a model used. `replayed`: it is on record from an earlier attempt and was not paid for again."""

    usage: Usage
    model: str
    replayed: bool = False


class Note(Model):
    """Something to be told to whoever follows the run; `kind` is a word of the backend's own."""

    kind: str
    data: dict[str, Any] = Field(default_factory=dict)


class Final(Model):
    """The answer, and the end of the turn: nothing after it counts. `output` is what JSON can say, where the answer is
    more than words.
    """

    text: str
    output: Any = None


BackendEvent: TypeAlias = Text | Reasoning | Used | Note | Final


class BackendContext(Protocol):
    """What a backend may do in a turn. Several calls may run side by side; of no use once the turn has ended."""

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> "ToolResult":
        """Call a tool of the agent's, once: by its permissions, with a person asked where one has to be, on record.

        Calls are numbered in the order in which they are begun, which is before this first waits. What is wrong with a
        call (no such tool, arguments that do not fit, denied, failed) is a result with `failed`. Raises Suspended,
        LeaseLost, StoreError. A call that is cancelled may have taken effect.
        """
        ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        on_ambiguous: OnAmbiguous = "retry",
    ) -> Any:
        """Call `function(*args)`, which may be async, unless its output is on record; return the output as JSON has it.

        As `runtime.outcomes.AsyncJobContext.step`, which says what *on_ambiguous* does: names are used once in an
        attempt, an output has at most 1 MiB of JSON.
        """
        ...

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Tell whoever follows the run; never waits, and is lost where nobody does."""
        ...


class AgentBackend(Protocol):
    """A mind. One object serves all turns of an agent, several at once where they are in different conversations.

    Who runs it does so by `runtime.backends.playing.playing`, which gives it a task of its own: so scopes and task
    groups may be open where it yields.
    """

    def run(self, turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        """Take a turn (write it as an async generator); the last event is a `Final`.

        What it raises ends the attempt and never the agent: an error of ours by its class (`BackendFailed` is tried
        again, `BackendUnusable` is not), anything else as a mistake of the code. Cancelled, it ends all it has begun.
        """
        ...


@runtime_checkable
class KeepsState(Protocol):
    """What a backend may have beside `run`: a state of the agent's that outlives the daemon.

    It is JSON of at most 1 MiB. It changes when a turn gives its `Final`, and not before, for a turn that is cut off
    never was. Of turns that run at once in different conversations the last one to end has the word.
    """

    def state(self) -> dict[str, Any]:
        """Return what is to be kept; asked when a turn has ended, and committed with it."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what was kept; called before the first turn, and not at all where nothing was kept."""
        ...
