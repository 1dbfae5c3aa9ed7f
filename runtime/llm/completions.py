"""The Chat Completions dialect, both ways: our request to its JSON, its chunks to our parts. Nothing here does I/O."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from runtime.errors import LlmCut, LlmProtocol, LlmTooLarge
from runtime.llm.faults import quote
from runtime.llm.provider import estimate_usage
from runtime.llm.shape import (
    MAX_TOOL_CALLS,
    as_count,
    as_dict,
    as_list,
    as_str,
    is_object,
    native,
    native_of,
    parse,
    parse_whole,
    write,
)
from schemas.chat import (
    ChatMessage,
    ChatPart,
    ChatRequest,
    ReasoningPart,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
    Usage,
    UsagePart,
)

StopReason = Literal["stop", "length", "tool_calls", "content_filter"]

DIALECT: Final = "completions"

THOUGHTS: Final = ("reasoning_content", "reasoning")
"""The fields in which servers tell what a model thought. Which one a server uses, that one it wants back."""

SCHEMA_NAME: Final = "answer"
"""What the schema of an answer is called where the dialect wants a name."""

_REASONS: Final[dict[str, StopReason]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def encode(request: ChatRequest) -> bytes:
    """Return *request* as the body of a streamed call; `extra` may set any other field but never the ones we own.

    What this very model thought goes back to it. `response_schema` goes as a strict `json_schema`; `failed` has no word
    in this dialect, the text says it. Raises `LlmRequest` where `extra` holds something JSON cannot say.
    """
    body: dict[str, Any] = {"stream_options": {"include_usage": True}, **request.extra}
    body |= {
        "model": request.model,
        "messages": [_message(message, request.model) for message in request.messages],
        "stream": True,
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        # Where there is nothing to choose from, the word alone is refused.
        if request.tool_choice is not None:
            body["tool_choice"] = _chosen(request.tool_choice)
    if request.response_schema is not None:
        schema = {"name": SCHEMA_NAME, "schema": request.response_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return write(body)


def _tool(tool: ToolSpec) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _chosen(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _message(message: ChatMessage, model: str) -> dict[str, Any]:
    wire: dict[str, Any] = native_of(message, DIALECT, model) or {}
    wire |= {"role": message.role, "content": message.content}
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        # The field's own form of "nothing but tool calls"; some proxies refuse empty text.
        wire["content"] = message.content or None
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return wire


@dataclass(slots=True)
class _Call:
    """A tool call that is still arriving."""

    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Reader:
    """Reads the data of one answer's events and yields parts; afterwards `finish` yields what ends it.

    Tolerates what servers really send: `content` null, no choices, usage on any chunk, no `[DONE]` after a finish
    reason. Raises `LlmProtocol` for what is not a chunk, and what an error object stands for.
    """

    def __init__(self, request: ChatRequest, *, secret: str | None = None) -> None:
        self.done = False
        self.begun = False
        self._request = request
        self.secret = secret
        self._text: list[str] = []
        self._thoughts: dict[str, list[str]] = {}
        self._calls: list[_Call] = []
        self._usage: Usage | None = None
        self._reason: StopReason | None = None

    @property
    def partial(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def finished(self) -> bool:
        """Whether the terminal mark came: a finish reason or `[DONE]`."""
        return self.done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts in one event's data."""
        if data.strip() == b"[DONE]":
            self.done = True
            return
        chunk = parse(data, self.secret)
        self.begun = True
        if "choices" not in chunk and "usage" not in chunk:
            said = quote(data.decode(errors="replace"), self.secret)
            raise LlmProtocol(f"this is no chunk of a chat completion: {said}")
        self._take_usage(chunk.get("usage"))
        choice = next(iter(as_list(chunk.get("choices"), "choices")), None)
        if choice is not None:
            yield from self._choice(as_dict(choice, "a choice"), "delta")

    def feed_whole(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts of a `chat.completion`: the answer of a server that does not stream."""
        whole = parse_whole(data, self.secret)
        choices = whole.get("choices")
        if not isinstance(choices, list) or not choices or not as_dict(choices[0], "a choice").get("message"):
            raise LlmProtocol("the answer is JSON but no chat completion")
        self._take_usage(whole.get("usage"))
        self.done = True
        yield from self._choice(choices[0], "message")

    def finish(self) -> Iterator[ChatPart]:
        """Yield the tool calls, the usage and the terminal mark; raise `LlmCut` where the answer never ended."""
        if not self.finished:
            raise LlmCut("the answer was cut before its end")
        calls = list(self._whole_calls())
        for call in calls:
            yield ToolCallPart(call=call)
        if self._thoughts:
            thoughts = {field: "".join(pieces) for field, pieces in self._thoughts.items()}
            yield from native(DIALECT, self._request.model, thoughts)
        yield UsagePart(usage=self._usage or estimate_usage(self._request, self.partial))
        # Some servers say "stop" to an answer that calls tools.
        yield StopPart(reason="tool_calls" if calls and self._reason in (None, "stop") else self._reason or "stop")

    def _whole_calls(self) -> Iterator[ToolCall]:
        """Yield the calls; half a call at the end of an answer that stopped short is none, for nobody may make it."""
        for number, call in enumerate(self._calls):
            arguments = "".join(call.arguments)
            if not is_object(arguments):
                if self._reason is None and arguments:
                    raise LlmCut("the answer was cut within a tool call")
                if self._reason in ("length", "content_filter"):
                    continue
            yield ToolCall(id=call.id or f"call_{number}", name=call.name, arguments=arguments)

    def _choice(self, choice: dict[str, Any], key: str) -> Iterator[ChatPart]:
        delta = as_dict(choice.get(key) or {}, key)
        field, thought = next(((one, delta[one]) for one in THOUGHTS if delta.get(one)), ("", ""))
        if thought:
            self._thoughts.setdefault(field, []).append(as_str(thought, "reasoning"))
            yield ReasoningPart(text=thought)
        text = as_str(delta.get("content") or "", "content")
        if text:
            self._text.append(text)
            yield TextPart(text=text)
        for piece in as_list(delta.get("tool_calls"), "tool_calls"):
            self._take_call(as_dict(piece, "a tool call"))
        reason = choice.get("finish_reason")
        if reason:
            # Every server has its own word for a plain end ("eos", "end_turn"); what we do not know is one.
            self._reason = _REASONS.get(as_str(reason, "finish_reason"), "stop")

    def _take_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        asked, told = as_count(usage.get("prompt_tokens")), as_count(usage.get("completion_tokens"))
        if asked is not None and told is not None:
            self._usage = Usage(input_tokens=asked, output_tokens=told)

    def _take_call(self, piece: dict[str, Any]) -> None:
        call = self._call_of(piece)
        function = as_dict(piece.get("function") or {}, "function")
        call.id = as_str(piece.get("id") or call.id, "id")
        call.name = as_str(function.get("name") or call.name, "name")
        call.arguments.append(as_str(function.get("arguments") or "", "arguments"))

    def _call_of(self, piece: dict[str, Any]) -> _Call:
        index = piece.get("index")
        if not isinstance(index, int):
            # Servers that number nothing begin each call with its id.
            starts = bool(piece.get("id")) or not self._calls
            index = len(self._calls) if starts else self._calls[-1].index
        for call in self._calls:
            if call.index == index:
                return call
        if len(self._calls) >= MAX_TOOL_CALLS:
            raise LlmTooLarge(f"the answer calls more than {MAX_TOOL_CALLS} tools", limit=MAX_TOOL_CALLS)
        self._calls.append(_Call(index))
        return self._calls[-1]
