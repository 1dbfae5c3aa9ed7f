"""The Messages dialect, the model's half: its events to our parts. Nothing here does I/O."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from runtime.errors import LlmCut, LlmProtocol, LlmTooLarge
from runtime.llm.faults import quote
from runtime.llm.messages import ANSWER, DIALECT, WRAPPED, form, wire_call
from runtime.llm.provider import estimate_usage
from runtime.llm.shape import MAX_TOOL_CALLS, as_count, as_dict, as_str, is_object, native, parse, parse_whole
from schemas.chat import (
    ChatPart,
    ChatRequest,
    ReasoningPart,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)

StopReason = Literal["stop", "length", "tool_calls", "content_filter"]

_REASONS: Final[dict[str, StopReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # the server put its own tools aside: there is more to come, so it is not whole
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_ASKED: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(slots=True)
class _Call:
    """A `tool_use` block, whole or still arriving."""

    id: str
    name: str
    given: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def written(self) -> bool:
        """Whether the arguments are certainly whole: none at all may be some that never came."""
        return bool(self.given) or is_object("".join(self.pieces))

    @property
    def arguments(self) -> str:
        """The JSON text as far as it came; a block may also bring it whole at its start."""
        written = "".join(self.pieces)
        if written or not self.ended:
            return written
        return json.dumps(self.given, ensure_ascii=False, separators=(",", ":"))


class Reader:
    """Reads the data of one answer's events and yields parts; afterwards `finish` yields what ends it.

    Events and blocks of kinds that we do not know are skipped, as the dialect asks of its readers. Tokens written to
    and read from the provider's cache count as input. Raises `LlmProtocol` for what is no event, and what an error
    event stands for.
    """

    def __init__(self, request: ChatRequest, *, secret: str | None = None) -> None:
        self.secret = secret
        self.begun = self.done = False
        self._request = request
        self._form = form(request)
        self._text: list[str] = []
        self._aside: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._blocks: dict[int, dict[str, Any]] = {}  # of text and thoughts, with lists of the pieces of what grows
        self._counts: dict[str, int] = {}
        self._reason: StopReason | None = None
        self._takers: dict[str, Callable[[dict[str, Any]], Iterator[ChatPart]]] = {
            "message_start": self._start,
            "content_block_start": self._open,
            "content_block_delta": self._delta,
            "content_block_stop": self._close,
            "message_delta": self._end,
            "message_stop": self._stop,
        }

    @property
    def partial(self) -> str:
        """The text so far."""
        return "".join(self._text or self._aside)

    @property
    def finished(self) -> bool:
        """Whether the terminal mark came: a stop reason or `message_stop`."""
        return self.done or self._reason is not None

    def feed(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts in one event's data."""
        event = parse(data, self.secret)
        kind = event.get("type")
        if not isinstance(kind, str):
            said = quote(data.decode(errors="replace"), self.secret)
            raise LlmProtocol(f"this is no event of a message: {said}")
        self.begun = True
        taker = self._takers.get(kind)
        if taker is not None:
            yield from taker(event)

    def feed_whole(self, data: bytes) -> Iterator[ChatPart]:
        """Yield the parts of a `message`: the answer of a server that does not stream."""
        whole = parse_whole(data, self.secret)
        if whole.get("type") != "message" or not isinstance(whole.get("content"), list):
            raise LlmProtocol("the answer is JSON but no message")
        yield from self._start({"message": whole})
        for index, block in enumerate(whole["content"]):
            yield from self._open({"index": index, "content_block": block})
            yield from self._close({"index": index})
        yield from self._end({"delta": whole})
        self.done = True

    def finish(self) -> Iterator[ChatPart]:
        """Yield the tool calls, the usage and the terminal mark; raise `LlmCut` where the answer never ended."""
        if not self.finished:
            raise LlmCut("the answer was cut before its end")
        calls = list(self._whole_calls())
        if not self._text:
            yield from self._say("".join(self._aside))
        for call in calls:
            yield ToolCallPart(call=call)
        yield from self._native(calls)
        yield UsagePart(usage=self._usage())
        reason = self._reason or "stop"
        if reason in ("stop", "tool_calls"):
            # The answer in its tool's place is no call: it ends the turn as words do.
            reason = "tool_calls" if calls else "stop"
        yield StopPart(reason=reason)

    # -- events --------------------------------------------------------------------------------------------------------

    def _start(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        self._count(as_dict(event.get("message"), "message").get("usage"))
        return iter(())

    def _open(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        block = as_dict(event.get("content_block"), "a block")
        kind = block.get("type")
        if kind == "text":
            self._blocks[_index(event)] = {"type": kind, "text": []}
            yield from self._words(self._grown(event, "text", block))
        elif kind == "thinking":
            self._blocks[_index(event)] = {"type": kind, "thinking": [], "signature": []}
            self._grown(event, "signature", block)
            yield from _think(self._grown(event, "thinking", block))
        elif kind == "redacted_thinking":
            self._blocks[_index(event)] = {"type": kind, "data": as_str(block.get("data") or "", "data")}
        elif kind == "tool_use":
            if len(self._calls) >= MAX_TOOL_CALLS:
                raise LlmTooLarge(f"the answer calls more than {MAX_TOOL_CALLS} tools", limit=MAX_TOOL_CALLS)
            given = as_dict(block.get("input") or {}, "input")
            call = _Call(as_str(block.get("id") or "", "id"), as_str(block.get("name"), "name"), given)
            self._calls[_index(event)] = call

    def _delta(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        delta = as_dict(event.get("delta"), "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            yield from self._words(self._grown(event, "text", delta))
        elif kind == "thinking_delta":
            yield from _think(self._grown(event, "thinking", delta))
        elif kind == "signature_delta":
            self._grown(event, "signature", delta)
        elif kind == "input_json_delta":
            call = self._calls.get(_index(event))
            if call is not None:  # else the server's own tool, or a block whose start never came
                piece = as_str(delta.get("partial_json") or "", "partial_json")
                call.pieces.append(piece)
                if self._answers(call) and self._form == "object":
                    yield from self._say(piece)

    def _close(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        call = self._calls.get(_index(event))
        if call is None or call.ended:
            return
        call.ended = True
        if not self._answers(call):
            return
        if self._form == "wrapped":
            yield from self._say(_unwrapped(call.arguments))
        elif not "".join(call.pieces):
            yield from self._say(call.arguments)

    def _end(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        self._count(event.get("usage"))
        reason = as_dict(event.get("delta") or {}, "delta").get("stop_reason")
        if reason:
            self._reason = _REASONS.get(as_str(reason, "stop_reason"), "stop")
        return iter(())

    def _stop(self, event: dict[str, Any]) -> Iterator[ChatPart]:
        self.done = True
        return iter(())

    # -- what they come to ---------------------------------------------------------------------------------------------

    def _grown(self, event: dict[str, Any], key: str, grows: dict[str, Any]) -> str:
        """Return the piece of text in *grows*, which is also a piece of the event's block."""
        piece = as_str(grows.get(key) or "", key)
        block = self._blocks.get(_index(event), {})
        if key in block:  # else its start never came
            block[key].append(piece)
        return piece

    def _native(self, calls: list[ToolCall]) -> Iterator[ChatPart]:
        """Yield the message as it came, where thoughts are a part of it. An answer in its tool's place is not in it: it
        ends the turn, and stands in the conversation as words.
        """
        if all(block["type"] == "text" for block in self._blocks.values()) or (self._form != "text" and not calls):
            return
        if self._reason not in (None, "stop", "tool_calls"):
            return  # it stopped short, maybe within a thought
        made = {call.id: call for call in calls}
        content: dict[int, dict[str, Any]] = {
            index: {key: "".join(value) if isinstance(value, list) else value for key, value in block.items()}
            for index, block in self._blocks.items()
        }
        content |= {index: wire_call(made[call.id]) for index, call in self._calls.items() if call.id in made}
        said = [content[index] for index in sorted(content)]
        yield from native(
            DIALECT, self._request.model, [one for one in said if one["type"] != "text" or one["text"].strip()]
        )

    def _words(self, text: Any) -> Iterator[ChatPart]:
        if self._form == "text":
            yield from self._say(text)
        else:
            # Words around an answer that has to fit a schema would spoil it; they count where it does not come.
            self._aside.append(as_str(text or "", "text"))

    def _say(self, text: Any) -> Iterator[ChatPart]:
        text = as_str(text or "", "text")
        if text:
            self._text.append(text)
            yield TextPart(text=text)

    def _answers(self, call: _Call) -> bool:
        return self._form != "text" and call.name == ANSWER

    def _whole_calls(self) -> Iterator[ToolCall]:
        """Yield the calls; half a call at the end of an answer that stopped short is none, for nobody may make it."""
        for number, call in enumerate(self._calls.values()):
            arguments = call.arguments
            if self._reason in ("length", "content_filter") and not call.written:
                continue
            if not is_object(arguments) and (self._reason is None or not call.ended):
                raise LlmCut("the answer was cut within a tool call")
            if not self._answers(call):
                yield ToolCall(id=call.id or f"call_{number}", name=call.name, arguments=arguments)

    def _count(self, usage: Any) -> None:
        """Take the counts that are told: each is a total so far, and the last one told stands."""
        if isinstance(usage, dict):
            told = {key: as_count(usage.get(key)) for key in (*_ASKED, "output_tokens")}
            self._counts |= {key: count for key, count in told.items() if count is not None}

    def _usage(self) -> Usage:
        if "input_tokens" not in self._counts or "output_tokens" not in self._counts:
            return estimate_usage(self._request, self.partial)
        asked = sum(self._counts.get(key, 0) for key in _ASKED)
        return Usage(input_tokens=asked, output_tokens=self._counts["output_tokens"])


def _think(text: Any) -> Iterator[ChatPart]:
    text = as_str(text or "", "thinking")
    if text:
        yield ReasoningPart(text=text)


def _index(event: dict[str, Any]) -> int:
    index = as_count(event.get("index"))
    if index is None:
        raise LlmProtocol("a block of the answer has no number")
    return index


def _unwrapped(arguments: str) -> str:
    """Return the answer within the tool's arguments; as it is where it holds none, for the schema's check to refuse."""
    try:
        return json.dumps(json.loads(arguments)[WRAPPED], ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError, KeyError, TypeError):
        return arguments
