"""Agents: their saved state, how they are shown, and what may be said to them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.base import Millis, Model, Request
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


class Say(Request[str], type="agent.say", public=True, durable=True):
    """Words for an agent. It is a job on the agent's own queue, so it survives the daemon; the answer is text."""

    text: str = Field(min_length=1, max_length=200_000)
    conversation: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")


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
    reason: str | None = Field(default=None, description="why it is quarantined or failing")


class AgentDetail(AgentView):
    """An agent with its persona, its saved state and its last error."""

    origin: str = Field(default="", description="file and line that define it")
    goal: str = ""
    backstory: str = ""
    temperature: float | None = None
    tools: tuple[str, ...] = ()
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


class Answered(Model):
    """How a turn ended: the whole text and what it used. It is the job's result."""

    text: str
    conversation: str
    usage: Usage = Field(default_factory=Usage)
    model: str = ""
