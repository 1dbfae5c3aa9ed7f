"""The Messages dialect: what we can read of the events that its servers send."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LlmCut, LlmError, LlmProtocol, LlmTooLarge
from runtime.llm.messages import ANSWER, WRAPPED
from runtime.llm.messages_reader import Reader
from runtime.llm.shape import MAX_TOOL_CALLS
from schemas.chat import (
    ChatMessage,
    ChatPart,
    ChatRequest,
    Native,
    NativePart,
    ReasoningPart,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
    Usage,
    UsagePart,
)

HELLO = ChatRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}}
SCHEMA = HELLO.model_copy(update={"response_schema": PLACE})
LIST = HELLO.model_copy(update={"response_schema": {"type": "array"}})
STOP = {"type": "message_stop"}


def read(*events: Any, request: ChatRequest = HELLO) -> list[ChatPart]:
    reader = Reader(request)
    parts = [part for event in events for part in reader.feed(json.dumps(event).encode())]
    return parts + list(reader.finish())


def start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"type": "message", "content": [], "usage": usage}}


def opened(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def closed(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ended(reason: str | None, **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def call(name: str, *pieces: str, index: int = 0, given: Any = None) -> list[dict[str, Any]]:
    block = opened("tool_use", index, id=f"id{index}", name=name, input=given or {})
    return [block, *(delta("input_json_delta", index, partial_json=piece) for piece in pieces), closed(index)]


def as_it_came(*blocks: Any) -> NativePart:
    return NativePart(native=Native(dialect="messages", model="m", body=json.dumps(blocks, separators=(",", ":"))))


def natives(parts: list[ChatPart]) -> list[Any]:
    return [json.loads(part.native.body) for part in parts if isinstance(part, NativePart)]


def thought(index: int = 0, *pieces: str, signature: str = "s") -> list[dict[str, Any]]:
    told = [delta("thinking_delta", index, thinking=piece) for piece in pieces]
    return [opened("thinking", index), *told, delta("signature_delta", index, signature=signature), closed(index)]


def test_what_a_model_thought_between_its_words_and_calls_stays_in_its_place() -> None:
    parts = read(
        *thought(0, "first ", "this"),
        opened("text", 1),
        delta("text_delta", 1, text="  "),
        closed(1),
        *call("add", '{"x": 1}', index=2),
        *thought(3, "then that", signature="t"),
        *call("add", index=4),
        ended("tool_use"),
        STOP,
    )
    assert natives(parts) == [
        [
            {"type": "thinking", "thinking": "first this", "signature": "s"},
            {"type": "tool_use", "id": "id2", "name": "add", "input": {"x": 1}},
            {"type": "thinking", "thinking": "then that", "signature": "t"},
            {"type": "tool_use", "id": "id4", "name": "add", "input": {}},
        ]
    ]


def test_a_character_that_came_in_halves_is_whole_when_it_goes_back_and_half_a_one_does_not_go() -> None:
    whole = read(*thought(0, "\ud83d", "\ude00"), *call("add", "{}", index=1), ended("tool_use"), STOP)
    assert natives(whole)[0][0]["thinking"] == "\U0001f600"
    assert natives(read(*thought(0, "\ud83d"), *call("add", "{}", index=1), ended("tool_use"), STOP)) == []


@pytest.mark.parametrize("reason", ["max_tokens", "refusal"])
def test_thoughts_that_stopped_short_are_not_sent_back(reason: str) -> None:
    assert natives(read(*thought(0, "hm"), *call("add", "{}", index=1), ended(reason), STOP)) == []


def test_an_answer_in_the_place_of_its_tool_goes_back_as_words() -> None:
    answer = [*thought(0, "hm"), *call(ANSWER, '{"city": "Rome"}', index=1), ended("tool_use"), STOP]
    assert natives(read(*answer, request=SCHEMA)) == []


def test_words_come_as_they_are_said_and_thoughts_apart() -> None:
    parts = read(
        start(input_tokens=5, output_tokens=1),
        {"type": "ping"},
        opened("thinking", thinking=""),
        delta("thinking_delta", thinking="hm"),
        delta("signature_delta", signature="x"),
        closed(),
        opened("redacted_thinking", 1, data="x"),
        opened("text", 2, text=""),
        delta("text_delta", 2, text="Good "),
        delta("text_delta", 2, text="day"),
        delta("citations_delta", 2, citation={}),
        closed(2),
        {"type": "something_new", "index": "x"},
        ended("end_turn", output_tokens=7),
        STOP,
    )
    assert parts == [
        ReasoningPart(text="hm"),
        TextPart(text="Good "),
        TextPart(text="day"),
        as_it_came(
            {"type": "thinking", "thinking": "hm", "signature": "x"},
            {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "Good day"},
        ),
        UsagePart(usage=Usage(input_tokens=5, output_tokens=7)),
        StopPart(reason="stop"),
    ]


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    parts = read(
        *call("add", "", '{"x"', ": 1}"),
        *call("now", "", index=1),
        *call("add", index=2, given={"x": 2}),
        ended("tool_use"),
        STOP,
    )
    assert parts[:3] == [
        ToolCallPart(call=ToolCall(id="id0", name="add", arguments='{"x": 1}')),
        ToolCallPart(call=ToolCall(id="id1", name="now", arguments="{}")),
        ToolCallPart(call=ToolCall(id="id2", name="add", arguments='{"x":2}')),
    ]
    assert parts[-1] == StopPart(reason="tool_calls")


def test_arguments_that_the_model_itself_wrote_wrong_are_handed_on() -> None:
    assert read(*call("add", "{oops"), ended("tool_use"))[0] == ToolCallPart(
        call=ToolCall(id="id0", name="add", arguments="{oops")
    )


def test_tokens_of_the_providers_cache_are_input_and_the_last_count_told_stands() -> None:
    parts = read(
        start(input_tokens=1, cache_creation_input_tokens=20, cache_read_input_tokens=300, output_tokens=1),
        ended("end_turn", output_tokens=9, cache_read_input_tokens=301),
        STOP,
    )
    assert parts[0] == UsagePart(usage=Usage(input_tokens=322, output_tokens=9))


def test_counts_that_are_none_leave_an_estimate() -> None:
    odd: Any = {"input_tokens": True, "output_tokens": -1}
    parts = read(start(**odd), ended("end_turn"), STOP)
    assert isinstance(parts[0], UsagePart)
    assert parts[0].usage.estimated


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("refusal", "content_filter"),
        ("pause_turn", "length"),
        ("model_context_window_exceeded", "length"),
        ("of_next_year", "stop"),
        (None, "stop"),
    ],
)
def test_every_stop_reason_has_a_word_of_ours(word: str | None, reason: str) -> None:
    assert read(ended(word), STOP)[-1] == StopPart.model_validate({"reason": reason})


def test_a_stop_reason_is_end_enough() -> None:
    assert read(ended("end_turn"))[-1] == StopPart()


@pytest.mark.parametrize("events", [[], [start()], [opened("text", text="half")], [ended(None)]])
def test_without_a_mark_it_was_cut(events: list[Any]) -> None:
    with pytest.raises(LlmCut):
        read(*events)


def test_a_call_that_did_not_end_is_none() -> None:
    with pytest.raises(LlmCut):
        read(*call("add", '{"x"')[:-1], ended("tool_use"), STOP)


@pytest.mark.parametrize("pieces", [(), ('{"x"',)])
def test_half_a_call_at_the_limit_is_left_out(pieces: tuple[str, ...]) -> None:
    parts = read(*call("add", '{"x": 1}'), *call("add", *pieces, index=1), ended("max_tokens"), STOP)
    assert [part.call.id for part in parts if isinstance(part, ToolCallPart)] == ["id0"]
    assert parts[-1] == StopPart(reason="length")


def test_a_whole_message_is_as_good_as_a_stream() -> None:
    reader = Reader(HELLO)
    whole = {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "Adding."},
            {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }
    parts = [*reader.feed_whole(json.dumps(whole).encode()), *reader.finish()]
    assert parts == [
        ReasoningPart(text="hm"),
        TextPart(text="Adding."),
        ToolCallPart(call=ToolCall(id="a", name="add", arguments='{"x":1}')),
        as_it_came(*whole["content"]),
        UsagePart(usage=Usage(input_tokens=3, output_tokens=2)),
        StopPart(reason="tool_calls"),
    ]


def test_too_many_tool_calls_are_refused() -> None:
    with pytest.raises(LlmTooLarge):
        read(*[opened("tool_use", n, id=str(n), name="f") for n in range(MAX_TOOL_CALLS + 1)])


@pytest.mark.parametrize("event", [{"index": 1}, {"type": 7}, opened("tool_use", id="a"), {"type": "message_start"}])
def test_what_is_no_event_is_refused(event: Any) -> None:
    with pytest.raises(LlmProtocol):
        read(event)


# -- an answer that has to fit a schema --------------------------------------------------------------------------------


def test_the_answers_tool_is_the_text_and_no_call() -> None:
    parts = read(*call(ANSWER, "", '{"city": ', '"Oslo"}'), ended("tool_use"), STOP, request=SCHEMA)
    assert parts[:2] == [TextPart(text='{"city": '), TextPart(text='"Oslo"}')]
    assert [part.kind for part in parts[2:]] == ["usage", "stop"]
    assert parts[-1] == StopPart(reason="stop")


def test_an_answer_that_comes_at_once_is_text_as_well() -> None:
    parts = read(*call(ANSWER, given={"city": "Oslo"}), ended("tool_use"), request=SCHEMA)
    assert parts[0] == TextPart(text='{"city":"Oslo"}')


@pytest.mark.parametrize(
    ("arguments", "answer"), [(f'{{"{WRAPPED}": [1, "é"]}}', '[1,"é"]'), ('{"x": 1}', '{"x": 1}'), ("[", "[")]
)
def test_an_answer_that_is_no_object_is_unwrapped(arguments: str, answer: str) -> None:
    parts = read(*call(ANSWER, *arguments), ended("tool_use"), request=LIST)
    assert parts[0] == TextPart(text=answer)
    assert parts[-1] == StopPart(reason="stop")


def test_words_around_the_answer_do_not_spoil_it() -> None:
    parts = read(opened("text", text="Here:"), *call(ANSWER, "{}", index=1), ended("tool_use"), request=SCHEMA)
    assert [part.text for part in parts if isinstance(part, TextPart)] == ["{}"]


def test_words_without_the_answer_are_what_was_said() -> None:
    parts = read(opened("text", text="I "), delta("text_delta", text="refuse."), ended("refusal"), request=SCHEMA)
    assert parts[0] == TextPart(text="I refuse.")
    assert parts[-1] == StopPart(reason="content_filter")


def test_other_tools_may_be_called_instead() -> None:
    request = SCHEMA.model_copy(update={"tools": (ToolSpec(name="add"),)})
    parts = read(*call("add", '{"x": 1}'), ended("tool_use"), request=request)
    assert [part.kind for part in parts] == ["tool_call", "usage", "stop"]
    assert parts[-1] == StopPart(reason="tool_calls")


def test_half_an_answer_at_the_limit_says_so() -> None:
    parts = read(*call(ANSWER, '{"city": "Os'), ended("max_tokens"), request=SCHEMA)
    assert parts[0] == TextPart(text='{"city": "Os')
    assert parts[-1] == StopPart(reason="length")


def test_a_cut_answer_keeps_what_came() -> None:
    reader = Reader(SCHEMA)
    for event in [opened("text", text="Here: "), *call(ANSWER, '{"ci')[:-1]]:
        list(reader.feed(json.dumps(event).encode()))
    assert reader.partial == '{"ci'
    with pytest.raises(LlmCut):
        list(reader.finish())


# -- anything at all ---------------------------------------------------------------------------------------------------

WORDS = ["type", "index", "delta", "content_block", "message", "content", "text", "partial_json", "input", "id", "name"]
WORDS += ["usage", "input_tokens", "output_tokens", "stop_reason", "error", "thinking"]
KINDS = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message",
]
KINDS += ["message_stop", "text", "tool_use", "text_delta", "input_json_delta", "thinking_delta", "max_tokens", ANSWER]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(KINDS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=25,
)


@given(st.lists(JSON, max_size=5), st.sampled_from([HELLO, SCHEMA, LIST]))
def test_whatever_json_comes_it_is_read_or_refused_by_an_error_of_ours(values: list[Any], request: ChatRequest) -> None:
    for way in ("feed", "feed_whole"):
        reader = Reader(request)
        try:
            for value in values:
                list(getattr(reader, way)(json.dumps(value).encode()))
            parts = list(reader.finish())
        except LlmError:
            continue  # anything else would fail the test
        assert parts[-1].kind == "stop"
