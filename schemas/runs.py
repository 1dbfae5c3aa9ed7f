"""Runs: what a turn of an agent did, said, called and cost, as it is on record."""

from typing import Any, Literal

from pydantic import Field

from schemas.base import Millis, Model, Request
from schemas.errors import Problem
from schemas.jobs import Cancelled, Status


class Spent(Model):
    """What was used: calls of models, tokens, and money in millionths of the currency that prices are in."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0

    @property
    def tokens(self) -> int:
        """Both kinds of tokens together."""
        return self.input_tokens + self.output_tokens


class RunEntry(Model):
    """One line of a run's timeline."""

    at: Millis
    what: Literal["said", "model", "tool", "approval", "steer", "ask", "answer", "error"]
    name: str = Field(default="", description="the tool, the agent asked, the model")
    state: str = Field(default="", description="done, failed, started (no end is on record), pending, allowed, ...")
    text: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    ms: int | None = Field(default=None, description="how long it took")
    cost: int | None = None


class RunView(Model):
    """A run in a list."""

    id: str
    agent: str
    conversation: str
    status: Status
    reason: str | None = None
    text: str = Field(default="", description="the beginning of what was said to the agent")
    parent: str | None = Field(default=None, description="the run that asked for it")
    attempts: int = 0
    created_at: Millis
    finished_at: Millis | None = None


class RunDetail(RunView):
    """A run with its timeline."""

    said: str = ""
    answer: str | None = None
    error: Problem | None = None
    spent: Spent = Field(default_factory=Spent)
    timeline: tuple[RunEntry, ...] = ()
    waits_for: str | None = Field(default=None, description="what it stands still for, in words")


class ListRuns(Request[tuple[RunView, ...]], type="run.list", public=True):
    """Show runs of agents, newest first."""

    agent: str | None = None
    status: Status | None = None
    before: str | None = None
    limit: int = Field(default=50, ge=1, le=1000)


class GetRun(Request[RunDetail], type="run.get", public=True):
    """Show one run with its timeline."""

    id: str


class CancelRun(Request[Cancelled], type="run.cancel", public=True):
    """End a run; what it has done stays on record."""

    id: str
