"""How many tokens a request is before anybody counted them, and which messages have to go so that it fits."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runtime.llm.provider import BYTES_PER_TOKEN
from schemas.chat import ChatMessage, ChatRequest, EmbedRequest, ToolSpec, Usage

LIGHTEST: Final = 1.0
HEAVIEST: Final = 8.0
"""Between how many bytes a token may be said to weigh, whatever a provider reports."""

LEARNING: Final = 0.25
"""How much a new observation counts against all before it."""

MESSAGE_BYTES: Final = 16
"""What a message or a tool weighs beside its text: its role, its name, the marks around it."""

UNKNOWN_OUTPUT: Final = 256.0
"""Tokens that an answer is expected to have where none of the model's was seen."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` did: kept and dropped, each in their order; `fits` is False where even the least is too much."""

    kept: tuple[ChatMessage, ...]
    dropped: tuple[ChatMessage, ...]
    tokens: int
    fits: bool


class TokenMeter:
    """Estimates tokens from bytes, with a ratio for each model that follows what providers report.

    It knows nothing of tokenizers: expect 5 % to 20 % off, so leave room. It lives as long as its provider and is not
    stored.
    """

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}
        self._outputs: dict[str, float] = {}

    def ratio(self, model: str) -> float:
        """Return the bytes of a token of *model*, between 1 and 8; 4 where nothing is known."""
        return self._ratios.get(model, BYTES_PER_TOKEN)

    def estimate(self, request: ChatRequest | EmbedRequest) -> int:
        """Return how many tokens *request* has that the model has to read; the answer's are not among them."""
        return math.ceil(weigh(request) / self.ratio(request.model))

    def reserve(self, request: ChatRequest | EmbedRequest) -> int:
        """Return the tokens of *request* with those of the answer that is to be expected, at most `max_tokens`."""
        asked = self.estimate(request)
        if isinstance(request, EmbedRequest):
            return asked
        answer = self._outputs.get(request.model, UNKNOWN_OUTPUT)
        return asked + math.ceil(answer if request.max_tokens is None else min(answer, request.max_tokens))

    def learn(self, request: ChatRequest | EmbedRequest, usage: Usage) -> None:
        """Take in what *request* used as its provider counted it; estimates teach nothing."""
        if usage.estimated:
            return
        model = request.model
        if usage.input_tokens:
            seen = min(HEAVIEST, max(LIGHTEST, weigh(request) / usage.input_tokens))
            self._ratios[model] = _follow(self.ratio(model), seen)
        if usage.output_tokens:
            known = self._outputs.get(model)
            seen = float(usage.output_tokens)
            self._outputs[model] = seen if known is None else _follow(known, seen)

    def fit(self, model: str, messages: Sequence[ChatMessage], limit: int, tools: Sequence[ToolSpec] = ()) -> Fitted:
        """Drop what has to go so that *messages* and *tools* are at most *limit* tokens of *model*; see `fit`."""
        offered = tuple(tools)
        return fit(messages, limit, lambda kept: self.estimate(ChatRequest(model=model, messages=kept, tools=offered)))


def fit(messages: Sequence[ChatMessage], limit: int, estimate: Callable[[tuple[ChatMessage, ...]], int]) -> Fitted:
    """Drop the oldest of *messages* until *estimate* says that the rest is at most *limit* tokens.

    System messages, the last message of the user and the last message of all stay, whatever they weigh. A message with
    tool calls goes together with all its results and stays together with them; a result whose call is not among
    *messages* goes always, as no provider takes it. Fewer messages must never be estimated to be more.
    """
    groups, strays = _groups(messages)
    fewest, most = 0, len(groups)

    def rest(count: int) -> tuple[ChatMessage, ...]:
        gone = strays.union(*groups[:count])
        return tuple(message for at, message in enumerate(messages) if at not in gone)

    while fewest < most:
        middle = (fewest + most) // 2
        if estimate(rest(middle)) <= limit:
            most = middle
        else:
            fewest = middle + 1
    gone = strays.union(*groups[:fewest])
    kept = rest(fewest)
    dropped = tuple(message for at, message in enumerate(messages) if at in gone)
    tokens = estimate(kept)
    return Fitted(kept, dropped, tokens, tokens <= limit)


def _groups(messages: Sequence[ChatMessage]) -> tuple[list[set[int]], set[int]]:
    """Return the places of what may be dropped, oldest first, each as what must go together; and those of strays."""
    groups: list[set[int]] = []
    strays: set[int] = set()
    callers: dict[str | None, set[int]] = {}
    for at, message in enumerate(messages):
        if message.role == "tool":
            caller = callers.get(message.tool_call_id)
            if caller is None:
                strays.add(at)
            else:
                caller.add(at)
        elif message.role != "system":
            group = {at}
            groups.append(group)
            # Small models number their calls anew in each answer: a result belongs to the latest call of its id.
            callers.update((call.id, group) for call in message.tool_calls)
    asked = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    last = max((at for group in groups for at in group), default=-1)
    return [group for group in groups if asked not in group and last not in group], strays


def weigh(request: ChatRequest | EmbedRequest) -> int:
    """Return the bytes that a model has to read for *request*, about."""
    if isinstance(request, EmbedRequest):
        return sum(_bytes(text) + MESSAGE_BYTES for text in request.texts)
    told = sum(_weigh_message(message) for message in request.messages)
    asked = max((at for at, message in enumerate(request.messages) if message.role == "user"), default=0)
    # What was thought before the last words of the user is sent along, and left unread by most.
    told += sum(len(message.native.body) for message in request.messages[asked:] if message.native is not None)
    offered = sum(
        _bytes(tool.name) + _bytes(tool.description) + _json_bytes(tool.parameters) + MESSAGE_BYTES
        for tool in request.tools
    )
    return told + offered + (0 if request.response_schema is None else _json_bytes(request.response_schema))


def _weigh_message(message: ChatMessage) -> int:
    calls = sum(_bytes(call.name) + _bytes(call.arguments) + MESSAGE_BYTES for call in message.tool_calls)
    return _bytes(message.content) + calls + MESSAGE_BYTES


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _json_bytes(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=str).encode(errors="replace"))


def _follow(known: float, seen: float) -> float:
    return known + LEARNING * (seen - known)
