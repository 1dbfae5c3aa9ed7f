"""Agents: their saved state, how they are shown, and what may be said to them."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import Ack, Millis, Model, Name, Request
from schemas.chat import ChatMessage, Usage

WorkerStatus = Literal["idle", "busy", "offline", "error"]

Lifecycle = Literal[
    "new", "starting", "running", "stopping", "stopped", "suspended", "failed", "backing_off", "quarantined"
]
"""Where a cell stands; the table of moves is `runtime.core.actor.LIFECYCLE`."""


class AgentState(BaseModel):
    """What an agent keeps between messages; agents of your own add fields in a subclass, each with a default."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    current_project: str = ""
    current_goal: str = ""
    general_notes: str = ""


Talk: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")]
"""What a conversation may be called."""

Busy = Literal["enqueue", "steer", "interrupt", "reject", "rollback"]

STEER_TAG: Final = "steer"
"""The tag of words that a running turn may take in."""


class Chain(Model):
    """How a word came to an agent through other agents; made by the runtime and never taken from outside.

    path: the agents that passed it on, the first first; waiting: those of them that wait for the answer. hops: how
    often it was passed on. traits: what the runs on the way had brought in (`schemas.tools.Trait`), which comes with
    the word. tokens, cost: what is left for it to use, until: when its asker waits no more (milliseconds UTC); None:
    no limit.
    """

    path: Annotated[tuple[str, ...], Field(strict=False)] = ()
    waiting: Annotated[tuple[str, ...], Field(strict=False)] = ()
    hops: int = 0
    traits: Annotated[tuple[str, ...], Field(strict=False)] = ()
    tokens: int | None = None
    cost: int | None = None
    until: int | None = None


class Say(Request[str], type="agent.say", public=True, durable=True):
    """Words for an agent. It is a job on the agent's own queue, so it survives the daemon; the answer is text.

    when_busy: in place of the agent's own (`schemas.config.WhenBusy`), through the control socket only.
    """

    text: str = Field(min_length=1, max_length=200_000)
    conversation: Talk = "main"
    when_busy: Busy | None = None


class KeepPartial(Request[bool], type="agent.keep_partial"):
    """A turn is about to be cancelled to make room for other words: keep what it has done. Answers whether it runs."""

    job: str


class AgentView(Model):
    """An agent as it is listed."""

    name: str
    status: WorkerStatus
    state: Lifecycle
    role: str = ""
    provider: str = ""
    model: str = ""
    actor: str | None = None
    restarts: int = 0
    mailbox: int = 0
    pending: int = 0
    last_heartbeat_at: Millis | None = None
    reason: str | None = Field(default=None, description="why it is quarantined, failing or paused")


class AgentDetail(AgentView):
    """An agent with its persona, its saved state and its last error."""

    origin: str = Field(default="", description="file and line that define it")
    goal: str = ""
    backstory: str = ""
    temperature: float | None = None
    tools: tuple[str, ...] = ()
    missing_tools: dict[str, str] = Field(default_factory=dict, description="tools it should have and has not, and why")
    permissions: dict[str, str] = Field(default_factory=dict)
    workdir: str = ""
    when_busy: str = ""
    spent_today: dict[str, int] = Field(default_factory=dict, description="calls, input_tokens, output_tokens, cost")
    budget: dict[str, float] = Field(default_factory=dict, description="its limits, those that are set")
    runs: tuple[str, ...] = Field(default=(), description="turns that run or wait now")
    approvals: tuple[str, ...] = Field(default=(), description="approvals that wait for a person")
    saved: dict[str, Any] = Field(default_factory=dict, description="the row in agent_states, parsed")
    state_version: int = 0
    incarnation: int = 0
    conversations: tuple[str, ...] = ()
    last_error: str | None = None


class ListAgents(Request[tuple[AgentView, ...]], type="agent.list", public=True):
    """Show every agent."""


class GetAgent(Request[AgentDetail], type="agent.get", public=True):
    """Show one agent."""

    name: str


class GetConversation(Request[tuple[ChatMessage, ...]], type="agent.conversation", public=True):
    """Show the last messages of a conversation, oldest first."""

    name: str
    conversation: str = "main"
    limit: int = Field(default=100, ge=1, le=1000)


class Kept(Model):
    """A message of a conversation with its place (from 1), its time and the run it came with."""

    n: int
    at: Millis
    run: str | None = None
    message: ChatMessage


class ExportConversation(Request[tuple[Kept, ...]], type="agent.export", public=True):
    """Show a conversation whole, from the first message with a place over `after`: `n`, `at`, `run` and the message."""

    name: str
    conversation: Talk = "main"
    after: int = Field(default=0, ge=0)
    limit: int = Field(default=1000, ge=1, le=1000)


class ForkConversation(Request[int], type="agent.fork", public=True):
    """Begin a conversation with the messages of another one, all or the first `keep`; answers how many it has."""

    name: str
    conversation: Talk
    source: Talk = "main"
    keep: int | None = Field(default=None, ge=0)


class NewAgent(Request[AgentView], type="agent.new", public=True):
    """Define an agent at run time; it is kept in the database. `settings` is what its table in config.toml would be."""

    name: Name
    settings: dict[str, Any]


class EditAgent(Request[AgentView], type="agent.edit", public=True):
    """Change some settings of an agent that was defined at run time; a value of null takes a setting back."""

    name: str
    settings: dict[str, Any]


class PauseAgent(Request[AgentView], type="agent.pause", public=True):
    """Have an agent begin no more turns, over restarts too, or with `paused` false go on. A turn that runs ends."""

    name: str
    paused: bool = True


class RestartAgent(Request[AgentView], type="agent.restart", public=True):
    """Start an agent anew, also one that is quarantined; its turns are cut and run again."""

    name: str


class RemoveAgent(Request[Ack], type="agent.remove", public=True):
    """Forget an agent that was defined at run time. Its conversations and its state stay and are there for a new
    one.
    """

    name: str


class AgentWhy(Model):
    """What an agent does now, in sentences: each with what to do about it, where there is something."""

    name: str
    status: WorkerStatus
    reasons: tuple[tuple[str, str], ...] = Field(
        description="(what is so, what to do next) each; the first weighs most"
    )


class WhyAgent(Request[AgentWhy], type="agent.why", public=True):
    """Tell what an agent does now, and why it does not do more."""

    name: str


class ProviderView(Model):
    """A provider of models as it stands. breaker: closed (calls go there), open (they are refused for a while),
    half_open (one is let through to try).
    """

    name: str
    type: str
    url: str = ""
    key: str = Field(default="", description="where its key comes from, never the key")
    agents: tuple[str, ...] = ()
    calls: int = 0
    failures: int = 0
    active: int = 0
    waiting: int = 0
    cache_hits: int = 0
    breaker: Literal["closed", "open", "half_open"] = "closed"
    last_error: str | None = None


class ListProviders(Request[tuple[ProviderView, ...]], type="provider.list", public=True):
    """Show every provider."""


class ProviderTested(Model):
    """How a small call went."""

    ok: bool
    model: str = ""
    text: str = ""
    first_ms: int | None = None
    total_ms: int | None = None
    usage: Usage | None = None
    error: str | None = None
    hint: str = ""


class TestProvider(Request[ProviderTested], type="provider.test", public=True):
    """Make one small call of a provider's model; without `model` that of an agent that uses it."""

    __test__ = False  # no test case, whatever a test runner makes of the name

    name: str
    model: str | None = None


class Answered(Model):
    """How a turn ended: the whole text and what it used, what it delegated included. It is the job's result.

    cut: the model was stopped by its max_tokens before it had come to an end.
    output: the answer as JSON, where the agent has an `output` schema. cost in millionths of the prices' currency.
    """

    text: str
    conversation: str
    usage: Usage = Field(default_factory=Usage)
    model: str = ""
    calls: int = 0
    tools: int = 0
    cost: int = 0
    output: Any = None
    cut: bool = False
