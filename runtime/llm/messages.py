"""The Messages dialect, our half: a request to its JSON; `messages_reader` is the other half. No I/O in either."""

import json
import re
from typing import Any, Final, Literal

from runtime.llm.shape import native_of, write
from schemas.chat import ChatMessage, ChatRequest, ToolCall, ToolSpec

DIALECT: Final = "messages"

MAX_TOKENS: Final = 4096
"""How long an answer may be where nobody says: the dialect demands a number."""

ANSWER: Final = "final_answer"
"""The tool through which an answer comes that has to fit a schema."""

WRAPPED: Final = "answer"
"""The property of its arguments in which an answer comes that is no object."""

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")

Form = Literal["text", "object", "wrapped"]


def encode(request: ChatRequest) -> bytes:
    """Return *request* as the body of a streamed call; `extra` may set any other field but never the ones we own.

    System messages become the one `system` text, wherever they stand; names of speakers have no place here. Results of
    tools are a user's blocks, and messages of one role in a row are one message. What this very model said goes back as
    it came, with what it thought. Temperatures end at 1.

    `response_schema` goes as a tool of ours that the model is forced to call, for every model and every server of this
    dialect takes any schema there; what it is called with is the answer's text (see `form`). Beside other tools it may
    call either. With `thinking` nothing can be forced, so the choice stays the model's.

    Raises `LlmRequest` where `extra` holds something JSON cannot say.
    """
    body: dict[str, Any] = {"max_tokens": MAX_TOKENS, **request.extra}
    body |= {"model": request.model, "messages": _messages(request), "stream": True}
    system = "\n\n".join(m.content for m in request.messages if m.role == "system" and m.content.strip())
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = min(request.temperature, 1.0)
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    return write(body | _tools(request))


def form(request: ChatRequest) -> Form:
    """Return how an answer comes: `text`, an `object` that the tool `ANSWER` is called with, or `wrapped` in one.

    An answer in which the model has to call one of the other tools is not held to the schema.
    """
    if request.response_schema is None or (request.tools and request.tool_choice not in (None, "auto", "none")):
        return "text"
    return "object" if request.response_schema.get("type") == "object" else "wrapped"


def _tools(request: ChatRequest) -> dict[str, Any]:
    tools = [_tool(tool) for tool in request.tools]
    choice = _choice(request.tool_choice) if request.tools and request.tool_choice is not None else None
    if form(request) != "text":
        only = not request.tools or request.tool_choice == "none"
        choice = {"type": "tool", "name": ANSWER} if only else {"type": "any"}
        tools.append(_answer_tool(request))
        if _thinks(request):
            choice = {"type": "auto"}
    return ({"tools": tools} if tools else {}) | ({"tool_choice": choice} if choice else {})


def _tool(tool: ToolSpec) -> dict[str, Any]:
    schema = {"type": "object", **tool.parameters}
    wire: dict[str, Any] = {"name": tool.name, "input_schema": schema}
    return wire | ({"description": tool.description} if tool.description else {})


def _choice(choice: str) -> dict[str, Any]:
    words = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
    return words.get(choice) or {"type": "tool", "name": choice}


def _answer_tool(request: ChatRequest) -> dict[str, Any]:
    schema = request.response_schema or {}
    if form(request) == "wrapped":
        # What the schema refers to is looked for at the root.
        lifted: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        inner = {key: value for key, value in schema.items() if key not in lifted}
        schema = {"type": "object", "properties": {WRAPPED: inner}, "required": [WRAPPED], **lifted}
    return {"name": ANSWER, "description": "Give the final answer; this ends the turn.", "input_schema": schema}


def _thinks(request: ChatRequest) -> bool:
    thinking = request.extra.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") not in (None, "disabled")


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for message in request.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = native_of(message, DIALECT, request.model) or _blocks(message)
        if not blocks:
            continue
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += blocks
        else:
            merged.append({"role": role, "content": blocks})
    for one in merged:
        # Results come first, else the call before them counts as unanswered.
        one["content"].sort(key=lambda block: block["type"] != "tool_result")
    return merged


def _blocks(message: ChatMessage) -> list[dict[str, Any]]:
    """Return the content; blank text is left out, for the dialect refuses it."""
    if message.role == "system":
        return []
    if message.role == "tool":
        block = {"type": "tool_result", "tool_use_id": _id(message.tool_call_id or ""), "content": message.content}
        return [block | ({"is_error": True} if message.failed else {})]
    text = [{"type": "text", "text": message.content}] if message.content.strip() else []
    return text + [wire_call(call) for call in message.tool_calls]


def wire_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": _id(call.id), "name": call.name, "input": _input(call.arguments)}


def _input(arguments: str) -> dict[str, Any]:
    """Return the arguments as the object they must be; what is none is shown to the model as it wrote it."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


def _id(text: str) -> str:
    """Return an id, maybe of another provider's call, in the letters this dialect allows."""
    return _FOREIGN.sub("_", text)
