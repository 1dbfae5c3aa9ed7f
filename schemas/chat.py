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


class ToolSpec(Model):
    """A tool as a model sees it; `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class Native(Model):
    """What a model said, in the form of its provider, where it also thought: many refuse to go on after a call of a
    tool unless they get back, word for word, what the model had thought before it.

    dialect, model: whose form it is, and nobody else is sent it. body: JSON text: of `messages` the blocks of the
    message, of `completions` the fields that it has besides our own.
    """

    dialect: Literal["messages", "completions"]
    model: str
    body: str


class ChatMessage(Model):
    """One message of a conversation. A message of role `tool` answers the call `tool_call_id`; `failed` where the
    call did not do what was asked. `native` is for the model's provider alone.
    """

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    failed: bool = False
    native: Native | None = None


MOST_TOKENS = 2**40
"""More than any call can use; what is told beyond it would only break the sums it goes into."""


class Usage(Model):
    """Tokens that a call used; `estimated` where the provider did not say."""

    input_tokens: int = Field(default=0, ge=0, le=4 * MOST_TOKENS)
    output_tokens: int = Field(default=0, ge=0, le=4 * MOST_TOKENS)
    estimated: bool = False


class ChatRequest(Model):
    """What an agent asks of a model.

    tool_choice: `auto`, `none`, `required`, or the name of a tool. response_schema: the JSON Schema that the answer has
    to fit, for providers that can hold a model to one.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: str | None = None
    response_schema: dict[str, Any] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)


class EmbedRequest(Model):
    """Texts to be turned into vectors."""

    model: str
    texts: tuple[str, ...] = Field(min_length=1, max_length=2048)


class Embedded(Model):
    """A vector for each text, in order, and what they used."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = Field(default_factory=Usage)


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


class NativePart(Model):
    """The whole answer in the form of its provider, where the model thought."""

    kind: Literal["native"] = "native"
    native: Native


class UsagePart(Model):
    """What the call used; `cached`: the answer came from our own cache and was not paid for again."""

    kind: Literal["usage"] = "usage"
    usage: Usage
    cached: bool = False


class StopPart(Model):
    """The terminal mark: a stream without one was cut."""

    kind: Literal["stop"] = "stop"
    reason: Literal["stop", "length", "tool_calls", "content_filter"] = "stop"


ChatPart = Annotated[
    TextPart | ReasoningPart | ToolCallPart | NativePart | UsagePart | StopPart, Field(discriminator="kind")
]
