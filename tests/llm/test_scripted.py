"""The scripted model does what its file says, on asyncio and on a clock that jumps."""

import math
from pathlib import Path
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from runtime.errors import LlmCut, LlmOverloaded, LlmRateLimited, LlmUnexpected, LoadFailed
from runtime.llm.provider import complete
from runtime.llm.scripted import DIMENSIONS, ScriptedProvider
from schemas.chat import (
    ChatMessage,
    ChatRequest,
    EmbedRequest,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param if request.param == "asyncio" else ("trio", {"clock": MockClock(autojump_threshold=0)})


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(text: str) -> ScriptedProvider:
        folder = tmp_path / "scripts"
        folder.mkdir()
        for file in (folder / "demo.toml", tmp_path / "secret.toml"):
            file.write_text(text, encoding="utf-8")
        return ScriptedProvider("scripted", folder)

    return write


async def test_echo_repeats_the_last_words_of_the_user_word_by_word(request_of: Any) -> None:
    text = "  to be,\nor not "
    async with ScriptedProvider("scripted").stream(request_of(text, model="echo")) as parts:
        got = [part async for part in parts]
    assert [part.text for part in got if isinstance(part, TextPart)] == ["  to ", "be,\n", "or ", "not "]
    assert got[-2:] == [
        UsagePart(usage=Usage(input_tokens=4, output_tokens=4, estimated=True)),
        StopPart(reason="stop"),
    ]


async def test_the_first_step_that_matches_and_is_left_is_taken(script: Any, request_of: Any) -> None:
    provider = script(
        """
        [[steps]]
        match = "weather"
        error = "llm.rate_limited"
        retry_after = 2
        times = 1
        [[steps]]
        match = "weather"
        reply = "Rain."
        times = 1
        [[steps]]
        reply = "What?"
        """
    )
    with pytest.raises(LlmRateLimited) as caught:
        await complete(provider, request_of("the weather?", model="demo.toml"))
    assert caught.value.retry_after == 2
    replies = [(await complete(provider, request_of("the weather?", model="demo.toml")))[0] for _ in range(3)]
    assert replies == ["Rain.", "What?", "What?"]


async def test_what_no_step_expects_is_an_error_that_quotes_it(script: Any, request_of: Any) -> None:
    provider = script('[[steps]]\nmatch = "a"\nreply = "b"')
    with pytest.raises(LlmUnexpected) as caught:
        await complete(provider, request_of("x" * 200, model="demo.toml"))
    assert "x" * 100 in caught.value.detail
    assert "x" * 101 not in caught.value.detail


async def test_a_reply_with_an_error_is_cut_after_its_words(script: Any, request_of: Any) -> None:
    provider = script('[[steps]]\nreply = "half an"\nerror = "llm.cut"')
    async with provider.stream(request_of(model="demo.toml")) as parts:
        assert [(await anext(parts)).text for _ in range(2)] == ["half ", "an"]
        with pytest.raises(LlmCut) as caught:
            await anext(parts)
    assert caught.value.data["partial"] == "half an"


async def test_chunks_hold_as_many_words_as_asked(script: Any, request_of: Any) -> None:
    provider = script('[[steps]]\nreply = "a b c d e"\nchunk = 2')
    async with provider.stream(request_of(model="demo.toml")) as parts:
        got = [part.text async for part in parts if isinstance(part, TextPart)]
    assert got == ["a b ", "c d ", "e"]


async def test_delays_pass_before_the_first_chunk_and_between_chunks(
    script: Any, request_of: Any, anyio_backend_name: str
) -> None:
    unit = 100.0 if anyio_backend_name == "trio" else 0.02
    provider = script(f'[[steps]]\nreply = "a b c"\ndelay = {3 * unit}\nchunk_delay = {unit}')
    started = anyio.current_time()
    async with provider.stream(request_of(model="demo.toml")) as parts:
        times = [(anyio.current_time() - started) / unit async for part in parts if isinstance(part, TextPart)]
    if anyio_backend_name == "trio":
        assert times == pytest.approx([3.0, 4.0, 5.0])
    assert [a >= b - 0.1 for a, b in zip(times, [3.0, 4.0, 5.0], strict=True)] == [True] * 3


async def test_a_failure_comes_after_its_delay(script: Any, request_of: Any) -> None:
    provider = script('[[steps]]\nerror = "llm.overloaded"\ndelay = 0.05')
    started = anyio.current_time()
    with pytest.raises(LlmOverloaded):
        await complete(provider, request_of(model="demo.toml"))
    assert anyio.current_time() - started >= 0.049


async def test_cancelling_ends_the_wait(script: Any, request_of: Any) -> None:
    provider = script('[[steps]]\nreply = "a b"\nchunk_delay = 3600')
    started = anyio.current_time()
    with anyio.move_on_after(0.05) as scope:
        await complete(provider, request_of(model="demo.toml"))
    assert scope.cancelled_caught
    assert anyio.current_time() - started < 3000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = []", "steps: List should have at least 1 item"),
        ("[[steps]]\nmatch = 'x'", r"steps\[0\]: .*a reply or an error"),
        ("[[steps]]\nreply = 'x'\n[[steps]]\nreply = 1", r"steps\[1\].reply: .*string"),
        ("[[steps]]\nreply = 'x'\nreplay = 'y'", r"steps\[0\].replay: Extra"),
        ("[[steps]]\nerror = 'llm.what'", r"steps\[0\].error: .*no such failure.*llm.rate_limited"),
        ("[[steps]]\nreply = 'x'\ndelay = -1", r"steps\[0\].delay"),
        ("[[steps]]\nreply = 'x'\ndelay = inf", r"steps\[0\].delay"),
        ("[[steps]]\ntool_calls = [{arguments = {}}]", r"steps\[0\].tool_calls\[0\].name"),
        ("[[steps]]\ntool_calls = [{name = 'a', arguments = {x = 1979-05-27}}]", "tool_calls.*JSON cannot say"),
        ("[[steps]]\ntool_calls = [{name = 'a', arguments = {x = inf}}]", "tool_calls.*JSON cannot say"),
        ("[[steps]\n", "line 1"),
    ],
)
async def test_a_script_with_a_mistake_says_where(script: Any, request_of: Any, text: str, said: str) -> None:
    with pytest.raises(LoadFailed, match=f"(?s)demo.toml.*{said}") as caught:
        await complete(script(text), request_of(model="demo.toml"))
    assert caught.value.data["file"].endswith("demo.toml")


@pytest.mark.parametrize("model", ["missing.toml", ".", "../secret.toml", "/etc/hostname"])
async def test_only_a_file_of_the_folder_is_a_script(script: Any, request_of: Any, model: str) -> None:
    with pytest.raises(LoadFailed, match=r"cannot be read|outside"):
        await complete(script('[[steps]]\nreply = "x"'), request_of(model=model))


async def test_without_a_folder_there_is_only_the_echo(request_of: Any) -> None:
    with pytest.raises(LoadFailed, match="echo"):
        await complete(ScriptedProvider("scripted"), request_of(model="demo.toml"))


async def test_a_huge_file_is_no_script(script: Any, request_of: Any) -> None:
    provider = script("# " + "x" * (1024 * 1024))
    with pytest.raises(LoadFailed, match="larger"):
        await complete(provider, request_of(model="demo.toml"))


AGENT = """
[[steps]]
match = "weather"
match_tool = "rain"
reply = "Take a coat."
[[steps]]
match_tool = "no station"
error = "llm.overloaded"
[[steps]]
match = "weather"
reply = "I look."
tool_calls = [{name = "weather", arguments = {city = "Oslo", days = [1, 2]}}, {name = "now"}]
[[steps]]
tool_calls = [{name = "weather", arguments = "{broken"}]
"""


def say(role: Any, text: str, **more: Any) -> ChatMessage:
    return ChatMessage(role=role, content=text, **more)


def conversation(*messages: ChatMessage) -> ChatRequest:
    return ChatRequest(model="demo.toml", messages=messages)


async def parts_of(provider: ScriptedProvider, *messages: ChatMessage) -> list[Any]:
    async with provider.stream(conversation(*messages)) as parts:
        return [part async for part in parts]


QUESTION = say("user", "the weather?")


async def test_a_step_may_call_tools_after_its_words(script: Any) -> None:
    assert await parts_of(script(AGENT), QUESTION) == [
        TextPart(text="I "),
        TextPart(text="look."),
        ToolCallPart(call=ToolCall(id="call_1_0", name="weather", arguments='{"city": "Oslo", "days": [1, 2]}')),
        ToolCallPart(call=ToolCall(id="call_1_1", name="now", arguments="{}")),
        UsagePart(usage=Usage(input_tokens=2, output_tokens=2 + 5 + 1, estimated=True)),
        StopPart(reason="tool_calls"),
    ]


async def test_the_ids_of_calls_are_the_same_again_and_others_later(script: Any) -> None:
    provider = script(AGENT)
    first, again = [await parts_of(provider, QUESTION) for _ in range(2)]
    assert first == again
    later = await parts_of(provider, QUESTION, say("assistant", "Rain."), QUESTION)
    assert not {part.call.id for part in first[2:4]} & {part.call.id for part in later[2:4]}


async def test_results_of_tools_are_matched_where_they_came_last(script: Any) -> None:
    provider = script(AGENT)
    calls = tuple(part.call for part in (await parts_of(provider, QUESTION))[2:4])
    asked = (QUESTION, say("assistant", "I look.", tool_calls=calls))
    results = (say("tool", "rain", tool_call_id=calls[0].id), say("tool", "noon", tool_call_id=calls[1].id))
    assert (await complete(provider, conversation(*asked, *results)))[0] == "Take a coat."
    # Somebody spoke since: what the tools said is old.
    assert (await parts_of(provider, *asked, *results, say("user", "and the weather now?")))[-1].reason == "tool_calls"
    # Nobody asked for the weather.
    other = conversation(say("user", "hm"), asked[1], say("tool", "rain", tool_call_id="x"))
    assert (await complete(provider, other))[2] == "tool_calls"
    with pytest.raises(LlmOverloaded):
        await complete(provider, conversation(*asked, say("tool", "no station", tool_call_id=calls[0].id)))


async def test_arguments_may_be_broken_on_purpose(script: Any) -> None:
    parts = await parts_of(script(AGENT), say("user", "anything"))
    assert parts[0] == ToolCallPart(call=ToolCall(id="call_1_0", name="weather", arguments="{broken"))


def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_vectors_are_always_the_same_and_of_unit_length() -> None:
    request = EmbedRequest(model="any", texts=("the sea", "The  sea", "", "the sea at night", "a motor"))
    embedded = await ScriptedProvider("scripted").embed(request)
    assert embedded == await ScriptedProvider("other").embed(request)
    assert {len(one) for one in embedded.vectors} == {DIMENSIONS}
    assert [math.hypot(*one) for one in embedded.vectors] == pytest.approx([1.0] * 5)
    assert embedded.usage == Usage(input_tokens=10, estimated=True)
    sea, same, empty, near, far = embedded.vectors
    assert sea == same
    assert empty not in (sea, near, far)
    assert dot(sea, near) > 0.5 > dot(sea, far)
