"""The scripted model as a provider: what it plays, in which order, and how it says that it was not told."""

import json
from typing import Any

import pytest

from actors.testkit import ScriptedModel
from runtime.errors import LlmOverloaded, LlmRateLimited, LlmUnexpected
from runtime.llm.provider import Provider, complete
from schemas.chat import ChatMessage, ChatRequest, EmbedRequest, TextPart, ToolCallPart, Usage


def asks(text: str) -> ChatRequest:
    return ChatRequest(model="m", messages=(ChatMessage(role="user", content=text),))


async def parts(model: ScriptedModel, text: str = "hello") -> list[Any]:
    async with model.stream(asks(text)) as found:
        return [part async for part in found]


async def said(model: Provider, text: str = "hello") -> str:
    return (await complete(model, asks(text)))[0]


async def test_it_plays_in_order_word_by_word_and_remembers_what_it_was_asked() -> None:
    model = ScriptedModel().says("one  and\n two ").says("three", times=2)
    first = await parts(model, "a")
    assert [part.text for part in first if isinstance(part, TextPart)] == ["one", "  and", "\n two", " "]
    assert [await said(model, text) for text in "bc"] == ["three", "three"]
    assert [request.messages[0].content for request in model.asked] == ["a", "b", "c"]
    model.assert_done()


async def test_it_calls_tools_with_ids_that_are_always_the_same() -> None:
    model = ScriptedModel().calls("files.read", {"path": "ü"}, ("tools:add", "{broken"), text="I look.").calls("x")
    found = await parts(model)
    calls = [part.call for part in found if isinstance(part, ToolCallPart)]
    assert [(call.id, call.name) for call in calls] == [("call_1", "files_read"), ("call_2", "tools_add")]
    assert (json.loads(calls[0].arguments), calls[1].arguments) == ({"path": "ü"}, "{broken")
    assert found[0].text == "I"
    assert found[-2].usage == Usage(input_tokens=10, output_tokens=5)
    assert found[-1].reason == "tool_calls"
    assert (await parts(model))[0].call.id == "call_3"


async def test_it_fails_before_its_answer_or_in_the_middle_of_it() -> None:
    model = ScriptedModel().fails(LlmOverloaded).fails(LlmRateLimited("slow", retry_after=2), after="so far")
    with pytest.raises(LlmOverloaded):
        await said(model)
    async with model.stream(asks("a")) as found:
        assert [(await anext(found)).text for _ in range(2)] == ["so", " far"]
        with pytest.raises(LlmRateLimited, match="slow"):
            await anext(found)


async def test_what_is_bound_to_a_condition_waits_for_it() -> None:
    model = ScriptedModel().matches("weather").says("rain").says("anything")
    model.matches(lambda request: request.model == "other").says("never", times=None)
    assert [await said(model, text) for text in ("hello", "the weather?")] == ["anything", "rain"]
    model.assert_done()
    assert model.left == []


async def test_what_it_was_not_told_is_an_error_and_remembered() -> None:
    model = ScriptedModel().matches("weather").says("rain")
    with pytest.raises(LlmUnexpected, match=r"call 1 .*'hello'; left is: says\('rain'\)"):
        await said(model)
    assert model.unexpected == [asks("hello")]
    with pytest.raises(AssertionError, match="1 times"):
        model.assert_done()


async def test_what_is_left_is_told() -> None:
    model = ScriptedModel().says("a", times=3).calls("b", {"c": 1}).fails(LlmOverloaded("d")).hangs()
    await said(model)
    with pytest.raises(AssertionError) as raised:
        model.assert_done()
    for words in ("says('a') x 2", "calls(b: {'c': 1})", "LlmOverloaded('d')", "hangs()"):
        assert words in str(raised.value)
    assert "1 calls, 4 plays left" in repr(model)


async def test_who_waits_for_a_call_that_never_comes_is_told() -> None:
    model = ScriptedModel()
    with pytest.raises(AssertionError, match="called 0 times, not 1"):
        await model.called(within=5)


async def test_usage_and_vectors_are_the_same_every_time() -> None:
    model = ScriptedModel(usage=Usage(input_tokens=1)).says("a").says("b", usage=Usage(output_tokens=7), delay=60)
    assert [(await complete(model, asks("x")))[1] for _ in range(2)] == [Usage(input_tokens=1), Usage(output_tokens=7)]
    request = EmbedRequest(model="m", texts=("a", "b", "a"))
    first, second, third = (await model.embed(request)).vectors
    assert first == third != second
