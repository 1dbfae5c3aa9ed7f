"""Tools as agents and people see them: what a tool may do again, who must be asked, approvals, notes."""

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field

from schemas.base import Ack, Millis, Model, Request

Effect = Literal["pure", "idempotent", "verify", "ask_human", "tell_model"]
"""What becomes of a call that was begun and of which nobody knows how it ended (the daemon died): `pure` and
`idempotent` run again (an idempotent one with the same key), `verify` asks the tool whether it happened, `ask_human`
asks a person, `tell_model` tells the model that the outcome is unknown and does not run it again."""

Permission = Literal["allow", "ask", "deny"]

Trait = Literal["private", "untrusted", "outward"]
"""What a tool brings into a run: data that is nobody else's business, words of strangers, a way out. A run that would
hold all three asks a person."""

ApprovalStatus = Literal["pending", "allowed", "denied", "expired", "used", "void"]
"""used: the call it allowed was begun; void: its run ended before anybody answered."""

ToolName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:/-]{0,127}$")]

BUILTIN_TOOLS: Final = (
    *("files.read", "files.write", "files.list", "files.search", "git.status", "git.diff", "git.log", "git.show"),
    *("shell", "http.fetch", "remember", "recall", "agents.ask", "agents.tell", "jobs.submit", "jobs.await"),
    "results.read",
)
"""The tools that are always there. Others are `module:function`, or `SERVER/tool` of an MCP server."""

MAX_RESULT_CHARS: Final = 200_000
"""Characters of a tool's result that are kept at all."""


class ApprovalView(Model):
    """A question to a person: may this agent call this tool with these arguments, once?"""

    id: str
    agent: str
    run: str = Field(description="the job of the turn that waits")
    conversation: str
    tool: str
    arguments: dict[str, Any]
    digest: str = Field(description="SHA-256 of the canonical arguments that were asked for")
    why: str = Field(default="", description="why a person is asked")
    status: ApprovalStatus
    asked_at: Millis
    expires_at: Millis
    answered_at: Millis | None = None
    answered_by: str | None = None
    reason: str | None = Field(default=None, description="what the person said; the model reads it")
    edited: dict[str, Any] | None = Field(default=None, description="the arguments the person put in place")
    always: bool = False


class ListApprovals(Request[tuple[ApprovalView, ...]], type="approval.list", public=True):
    """Show approvals, newest first."""

    status: ApprovalStatus | None = None
    agent: str | None = None
    limit: int = Field(default=100, ge=1, le=1000)


class GetApproval(Request[ApprovalView], type="approval.get", public=True):
    """Show one approval."""

    id: str


class AnswerApproval(Request[ApprovalView], type="approval.answer", public=True):
    """Allow or deny a call. With `arguments` the call is made with these instead; with `always` the agent may make
    exactly this call (tool and arguments) from now on without asking.
    """

    id: str
    allow: bool
    always: bool = False
    arguments: dict[str, Any] | None = None
    reason: str | None = Field(default=None, max_length=2000)
    by: str = Field(default="a person", max_length=200)


class GrantView(Model):
    """A call that an agent may make without asking, because a person said `--always`."""

    agent: str
    tool: str
    arguments: dict[str, Any]
    digest: str
    at: Millis
    by: str


class ListGrants(Request[tuple[GrantView, ...]], type="approval.grants", public=True):
    """Show what agents may do without asking, because a person said so."""

    agent: str | None = None


class RevokeGrant(Request[Ack], type="approval.revoke", public=True):
    """Have an agent ask again."""

    agent: str
    tool: str
    digest: str


class PinnedTools(Model):
    """The tools of an MCP server as they are taken from now on, and which of them a person had not seen so before."""

    tools: tuple[str, ...]
    changed: tuple[str, ...] = ()


class PinTools(Request[PinnedTools], type="tool.pin", public=True):
    """Take the tools of an MCP server as they are now; it is for the server's own actor, `mcp:NAME`."""


class NoteView(Model):
    """Something an agent remembers."""

    key: str
    text: str
    at: Millis
