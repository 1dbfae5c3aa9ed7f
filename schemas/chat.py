"""The model's vocabulary: messages of a conversation, what was used, and the parts of a streamed answer."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Model

Role = Literal["system", "user", "assistant", "tool"]


class ToolCall(Model):
    """A model's wish to call a tool; `arguments` is the JSON text exactly as it was sent."""

    id: str
    name: str
    arguments: str


class ChatMessage(Model):
    """One message of a conversation."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Usage(Model):
    """Tokens that a call used; `estimated` where the provider did not say."""

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    estimated: bool = False


class ChatRequest(Model):
    """What an agent asks of a model."""

    model: str
    messages: tuple[ChatMessage, ...]
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)


class TextPart(Model):
    """A piece of the answer."""

    kind: Literal["text"] = "text"
    text: str


class ReasoningPart(Model):
    """A piece of what the model thought aloud, kept apart from the answer."""

    kind: Literal["reasoning"] = "reasoning"
    text: str


class ToolCallPart(Model):
    """A whole tool call, put together from its pieces."""

    kind: Literal["tool_call"] = "tool_call"
    call: ToolCall


class UsagePart(Model):
    """What the call used."""

    kind: Literal["usage"] = "usage"
    usage: Usage


class StopPart(Model):
    """The terminal mark: a stream without one was cut."""

    kind: Literal["stop"] = "stop"
    reason: Literal["stop", "length", "tool_calls", "content_filter"] = "stop"


ChatPart = Annotated[TextPart | ReasoningPart | ToolCallPart | UsagePart | StopPart, Field(discriminator="kind")]
