"""The Chat Completions dialect: what we write, and what we can read of what others write."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LlmCut, LlmError, LlmTooLarge
from runtime.llm.completions import Reader, encode
from runtime.llm.shape import MAX_TOOL_CALLS
from schemas.chat import (
    ChatMessage,
    ChatPart,
    ChatRequest,
    Native,
    NativePart,
    StopPart,
    ToolCall,
    ToolCallPart,
    ToolSpec,
    UsagePart,
)

HELLO = ChatRequest(model="m", messages=(ChatMessage(role="user", content="hello"),))


def read(*chunks: Any) -> list[ChatPart]:
    reader = Reader(HELLO)
    parts = [part for chunk in chunks for part in reader.feed(json.dumps(chunk).encode())]
    return parts + list(reader.finish())


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": fields, "finish_reason": reason}]}


def test_a_conversation_with_tools_is_written_as_the_dialect_has_it() -> None:
    call = ToolCall(id="a", name="add", arguments='{"x": 1}')
    messages = (
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", content="2", tool_call_id="a"),
        ChatMessage(role="user", content="naïve ☃", name="ann"),
    )
    body = json.loads(encode(ChatRequest(model="m", messages=messages)))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "a"},
        {"role": "user", "content": "naïve ☃", "name": "ann"},
    ]
    assert not {"temperature", "max_tokens", "stop"} & body.keys()


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_what_a_model_thought_goes_back_to_it_in_the_field_it_came_in_and_to_nobody_else(field: str) -> None:
    parts = read(delta(**{field: "h"}), delta(**{field: "m"}), delta("stop", content="Hello."))
    (native,) = [part.native for part in parts if isinstance(part, NativePart)]
    assert native == Native(dialect="completions", model="m", body=json.dumps({field: "hm"}, separators=(",", ":")))
    said = ChatMessage(role="assistant", content="Hello.", native=native)
    for model, sent in (("m", {field: "hm"}), ("n", {})):
        body = json.loads(encode(ChatRequest(model=model, messages=(*HELLO.messages, said))))
        assert body["messages"][1] == {"role": "assistant", "content": "Hello.", **sent}


def test_extra_fields_are_passed_on_but_never_replace_ours() -> None:
    extra = {"top_p": 0.5, "stream": False, "model": "other", "messages": [], "stream_options": {"x": 1}}
    body = json.loads(encode(HELLO.model_copy(update={"extra": extra})))
    assert body["top_p"] == 0.5
    assert body["stream_options"] == {"x": 1}
    assert (body["stream"], body["model"], len(body["messages"])) == (True, "m", 1)


ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"x": {}}})


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("add", {"type": "function", "function": {"name": "add"}}),
    ],
)
def test_tools_and_the_choice_among_them(choice: str | None, sent: Any) -> None:
    request = HELLO.model_copy(update={"tools": (ADD, ToolSpec(name="now")), "tool_choice": choice})
    body = json.loads(encode(request))
    assert body["tools"] == [
        {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": ADD.parameters}},
        {
            "type": "function",
            "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}},
        },
    ]
    assert body.get("tool_choice") == sent


def test_without_tools_there_is_nothing_to_choose() -> None:
    body = json.loads(encode(HELLO.model_copy(update={"tool_choice": "none"})))
    assert not {"tools", "tool_choice", "response_format"} & body.keys()


def test_a_schema_for_the_answer_is_a_strict_one() -> None:
    schema = {"type": "object", "properties": {}}
    request = HELLO.model_copy(update={"response_schema": schema, "extra": {"response_format": {"type": "text"}}})
    assert json.loads(encode(request))["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": True},
    }


def test_that_a_call_failed_is_in_its_text_alone() -> None:
    message = ChatMessage(role="tool", content="no", tool_call_id="a", failed=True)
    body = json.loads(encode(ChatRequest(model="m", messages=(message,))))
    assert body["messages"] == [{"role": "tool", "content": "no", "tool_call_id": "a"}]


def pieces(*arguments: str) -> list[dict[str, Any]]:
    heads = [{"index": n, "id": f"id{n}", "function": {"name": "f", "arguments": a}} for n, a in enumerate(arguments)]
    return [delta(tool_calls=heads)]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_half_a_call_of_an_answer_that_stopped_short_is_left_out(reason: str) -> None:
    parts = read(*pieces("{}", '{"x": ', ""), delta(reason))
    assert [part.call.id for part in parts if isinstance(part, ToolCallPart)] == ["id0"]
    assert parts[-1] == StopPart.model_validate({"reason": reason})


def test_half_a_call_and_no_reason_is_a_cut() -> None:
    reader = Reader(HELLO)
    for chunk in pieces('{"x": '):
        list(reader.feed(json.dumps(chunk).encode()))
    list(reader.feed(b"[DONE]"))
    with pytest.raises(LlmCut):
        list(reader.finish())


def test_arguments_that_the_model_itself_wrote_wrong_are_handed_on() -> None:
    parts = read(*pieces("{oops"), delta("tool_calls"))
    assert parts[0] == ToolCallPart(call=ToolCall(id="id0", name="f", arguments="{oops"))


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_an_answer_that_calls_tools_says_so_whatever_the_server_says(reason: str) -> None:
    assert read(*pieces("{}"), delta(reason))[-1] == StopPart(reason="tool_calls")


def test_tool_calls_without_numbers_begin_with_their_ids() -> None:
    parts = read(
        delta(tool_calls=[{"id": "a", "function": {"name": "one", "arguments": "{"}}]),
        delta(tool_calls=[{"function": {"arguments": "}"}}]),
        delta("tool_calls", tool_calls=[{"id": "b", "function": {"name": "two", "arguments": "{}"}}]),
    )
    assert parts[:2] == [
        ToolCallPart(call=ToolCall(id="a", name="one", arguments="{}")),
        ToolCallPart(call=ToolCall(id="b", name="two", arguments="{}")),
    ]


def test_a_tool_call_without_an_id_gets_one() -> None:
    parts = read(delta("tool_calls", tool_calls=[{"index": 0, "function": {"name": "one"}}]))
    assert parts[0] == ToolCallPart(call=ToolCall(id="call_0", name="one", arguments=""))


@pytest.mark.parametrize(
    ("word", "reason"),
    [("length", "length"), ("content_filter", "content_filter"), ("function_call", "tool_calls"), ("end_turn", "stop")],
)
def test_every_finish_reason_has_a_word_of_ours(word: str, reason: str) -> None:
    assert read(delta(word))[-1] == StopPart.model_validate({"reason": reason})


def test_too_many_tool_calls_are_refused() -> None:
    calls = [{"index": n, "id": str(n), "function": {"name": "f"}} for n in range(MAX_TOOL_CALLS + 1)]
    with pytest.raises(LlmTooLarge):
        read(delta(tool_calls=calls))


WORDS = ["choices", "delta", "message", "content", "tool_calls", "function", "index", "id", "name", "arguments"]
WORDS += ["usage", "prompt_tokens", "completion_tokens", "finish_reason", "error", "code", "type", "object"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@given(JSON)
def test_whatever_json_comes_it_is_read_or_refused_by_an_error_of_ours(value: Any) -> None:
    data = json.dumps(value).encode()
    for way in ("feed", "feed_whole"):
        reader = Reader(HELLO)
        try:
            parts = list(getattr(reader, way)(data))
            assert all(part.kind in ("text", "reasoning") for part in parts)
            parts = list(reader.finish())
        except LlmError:
            continue  # anything else would fail the test
        assert parts[-1].kind == "stop"


def test_a_count_that_cannot_be_is_no_count() -> None:
    huge = {"prompt_tokens": 10**401, "completion_tokens": 1}
    parts = read(delta("stop", content="Hello."), {"choices": [], "usage": huge})
    assert [part.usage.estimated for part in parts if isinstance(part, UsagePart)] == [True]
