"""The Chat Completions dialect: what we write, and what we can read of what others write."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import LlmError, LlmTooLarge
from runtime.llm.completions import MAX_TOOL_CALLS, Reader, encode
from schemas.chat import ChatMessage, ChatPart, ChatRequest, StopPart, ToolCall, ToolCallPart

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


def test_extra_fields_are_passed_on_but_never_replace_ours() -> None:
    extra = {"top_p": 0.5, "stream": False, "model": "other", "messages": [], "stream_options": {"x": 1}}
    body = json.loads(encode(HELLO.model_copy(update={"extra": extra})))
    assert body["top_p"] == 0.5
    assert body["stream_options"] == {"x": 1}
    assert (body["stream"], body["model"], len(body["messages"])) == (True, "m", 1)


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
    for feed in (Reader(HELLO).feed, Reader(HELLO).feed_whole):
        try:
            parts = list(feed(data))
        except LlmError:
            continue  # anything else would fail the test
        assert all(part.kind in ("text", "reasoning") for part in parts)
