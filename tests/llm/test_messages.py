"""The Messages dialect: what we write of a conversation, of tools, and of a schema for the answer."""

import json
from typing import Any

import pytest

from runtime.errors import LlmRequest
from runtime.llm.messages import ANSWER, MAX_TOKENS, WRAPPED, encode, form
from schemas.chat import ChatMessage, ChatRequest, Native, ToolCall, ToolSpec

ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {"x": {"type": "number"}}})
NOW = ToolSpec(name="now")
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def wire(*messages: ChatMessage, **more: Any) -> dict[str, Any]:
    found = messages or (ChatMessage(role="user", content="hello"),)
    body = json.loads(encode(ChatRequest(model="m", messages=found, **more)))
    assert isinstance(body, dict)
    return body


def say(role: Any, text: str = "", **more: Any) -> ChatMessage:
    return ChatMessage(role=role, content=text, **more)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def test_a_plain_request_has_what_the_dialect_demands_and_nothing_more() -> None:
    assert wire() == {
        "model": "m",
        "messages": [{"role": "user", "content": [text("hello")]}],
        "max_tokens": MAX_TOKENS,
        "stream": True,
    }


def test_a_conversation_with_tools_is_written_as_the_dialect_has_it() -> None:
    calls = (ToolCall(id="a", name="add", arguments='{"x": 1}'), ToolCall(id="b", name="now", arguments=""))
    body = wire(
        say("system", "Be brief."),
        say("user", "Add.", name="ann"),
        say("assistant", "I will.", tool_calls=calls),
        say("tool", "2", tool_call_id="a"),
        say("tool", "no clock", tool_call_id="b", failed=True),
        say("user", "Well?"),
        say("system", "It is late."),
    )
    assert body["system"] == "Be brief.\n\nIt is late."
    assert body["messages"] == [
        {"role": "user", "content": [text("Add.")]},
        {
            "role": "assistant",
            "content": [
                text("I will."),
                {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "2"},
                {"type": "tool_result", "tool_use_id": "b", "content": "no clock", "is_error": True},
                text("Well?"),
            ],
        },
    ]


def test_roles_alternate_whatever_came_in_a_row() -> None:
    body = wire(say("user", "one"), say("user", "two"), say("assistant", "a"), say("assistant", "b"), say("user", "c"))
    assert [(m["role"], [b["text"] for b in m["content"]]) for m in body["messages"]] == [
        ("user", ["one", "two"]),
        ("assistant", ["a", "b"]),
        ("user", ["c"]),
    ]


def test_results_come_before_words_that_were_said_meanwhile() -> None:
    call = ToolCall(id="a", name="now", arguments="{}")
    body = wire(say("assistant", tool_calls=(call,)), say("user", "hurry"), say("tool", "noon", tool_call_id="a"))
    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_result", "text"]


def test_blank_text_is_left_out_for_it_is_refused() -> None:
    body = wire(say("system", " "), say("user", "a"), say("assistant", "\n"), say("user", "b"))
    assert body["messages"] == [{"role": "user", "content": [text("a"), text("b")]}]
    assert "system" not in body


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", "7", "[" * 100_000])
def test_arguments_that_are_no_object_are_shown_as_they_were(arguments: str) -> None:
    body = wire(say("assistant", tool_calls=(ToolCall(id="a", name="add", arguments=arguments),)))
    assert body["messages"][0]["content"][0]["input"] == {"INVALID_JSON": arguments}


def test_ids_of_another_provider_are_put_into_letters_that_are_allowed_on_both_sides() -> None:
    call = ToolCall(id="fc.1:é", name="add", arguments="{}")
    body = wire(say("assistant", tool_calls=(call,)), say("tool", "2", tool_call_id="fc.1:é"))
    assert body["messages"][0]["content"][0]["id"] == "fc_1__"
    assert body["messages"][1]["content"][0]["tool_use_id"] == "fc_1__"


def test_settings_have_their_own_words_here() -> None:
    body = wire(temperature=1.5, max_tokens=9, stop=("x",), extra={"top_k": 5, "stream": False, "max_tokens": 1})
    assert (body["temperature"], body["max_tokens"], body["stop_sequences"]) == (1.0, 9, ["x"])
    assert (body["top_k"], body["stream"]) == (5, True)
    assert wire(extra={"max_tokens": 8192})["max_tokens"] == 8192


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(LlmRequest):
        wire(extra={"x": object()})


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (None, None),
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("add", {"type": "tool", "name": "add"}),
    ],
)
def test_tools_and_the_choice_among_them(choice: str | None, sent: dict[str, Any] | None) -> None:
    body = wire(tools=(ADD, NOW), tool_choice=choice)
    assert body["tools"] == [
        {"name": "add", "description": "Adds.", "input_schema": ADD.parameters},
        {"name": "now", "input_schema": {"type": "object"}},
    ]
    assert body.get("tool_choice") == sent


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert not {"tools", "tool_choice"} & wire(tool_choice="none").keys()


def test_a_schema_goes_as_a_tool_that_must_be_called() -> None:
    body = wire(response_schema=PLACE)
    assert [(tool["name"], tool["input_schema"]) for tool in body["tools"]] == [(ANSWER, PLACE)]
    assert body["tool_choice"] == {"type": "tool", "name": ANSWER}


@pytest.mark.parametrize("choice", [None, "auto"])
def test_beside_other_tools_the_answer_is_one_of_them(choice: str | None) -> None:
    body = wire(response_schema=PLACE, tools=(ADD,), tool_choice=choice)
    assert [tool["name"] for tool in body["tools"]] == ["add", ANSWER]
    assert body["tool_choice"] == {"type": "any"}


def test_where_no_tool_may_be_called_only_the_answer_is_left() -> None:
    body = wire(response_schema=PLACE, tools=(ADD,), tool_choice="none")
    assert body["tool_choice"] == {"type": "tool", "name": ANSWER}


@pytest.mark.parametrize("choice", ["required", "add"])
def test_where_a_tool_must_be_called_no_answer_is_asked_for(choice: str) -> None:
    request = ChatRequest(model="m", messages=(), tools=(ADD,), tool_choice=choice, response_schema=PLACE)
    assert form(request) == "text"
    assert [tool["name"] for tool in json.loads(encode(request))["tools"]] == ["add"]


@pytest.mark.parametrize("thinking", [{"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}])
def test_nothing_is_forced_on_a_model_that_thinks(thinking: dict[str, Any]) -> None:
    assert wire(response_schema=PLACE, extra={"thinking": thinking})["tool_choice"] == {"type": "auto"}
    assert wire(response_schema=PLACE, extra={"thinking": {"type": "disabled"}})["tool_choice"]["type"] == "tool"


def test_an_answer_that_is_no_object_is_wrapped_in_one_and_its_definitions_stay_at_the_root() -> None:
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    sent = wire(response_schema=schema)["tools"][0]["input_schema"]
    assert sent == {
        "type": "object",
        "properties": {WRAPPED: {"type": "array", "items": {"$ref": "#/$defs/n"}}},
        "required": [WRAPPED],
        "$defs": {"n": {"type": "integer"}},
    }


THOUGHT = [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("Adding."), {"type": "tool_use", "id": "a"}]


@pytest.mark.parametrize(
    ("dialect", "model", "sent"), [("messages", "m", 3), ("messages", "n", 1), ("completions", "m", 1)]
)
def test_what_a_model_thought_goes_back_to_it_word_for_word_and_to_nobody_else(
    dialect: Any, model: str, sent: int
) -> None:
    native = Native(dialect=dialect, model=model, body=json.dumps(THOUGHT))
    said = say("assistant", "Adding.", native=native)
    found = wire(say("user", "Add."), said)["messages"][1]["content"]
    assert found == (THOUGHT if sent == 3 else [text("Adding.")])
