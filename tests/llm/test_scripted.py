"""The scripted model does what its file says, on asyncio and on a clock that jumps."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from runtime.errors import LlmCut, LlmOverloaded, LlmRateLimited, LlmUnexpected, LoadFailed
from runtime.llm.provider import complete
from runtime.llm.scripted import ScriptedProvider
from schemas.chat import StopPart, TextPart, Usage, UsagePart


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
