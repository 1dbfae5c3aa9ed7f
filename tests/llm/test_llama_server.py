"""The real thing: llama.cpp's server in a child process, and a small model that really answers."""

import json
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from runtime.errors import LlmAuth, LlmContext, LocalModelMissing
from runtime.llm.local import find_model, server_argv
from runtime.llm.openai import OpenAIProvider
from runtime.llm.provider import complete
from schemas.chat import StopPart, TextPart, UsagePart

pytestmark = pytest.mark.local_model


@pytest.fixture
async def local(local_server: Any) -> Any:
    provider = OpenAIProvider("local", local_server.url, local_server.key)
    yield provider
    await provider.close()


@pytest.fixture
def argv() -> list[str]:
    try:
        return server_argv(find_model("smollm2"), alias="smollm2")
    except LocalModelMissing as missing:
        pytest.skip(f"no local model here: {missing}")


async def test_real_words_are_streamed_with_their_usage(local: OpenAIProvider, request_of: Any) -> None:
    question = request_of("Tell me about the sea.", model="smollm2", temperature=0.0, max_tokens=40)
    async with local.stream(question) as parts:
        got = [part async for part in parts]
    words = [part.text for part in got if isinstance(part, TextPart)]
    assert len(words) > 3
    assert "sea" in "".join(words).lower()
    assert isinstance(got[-2], UsagePart)
    assert not got[-2].usage.estimated
    assert got[-2].usage.output_tokens >= len(words)
    assert isinstance(got[-1], StopPart)


async def test_call_after_call_is_answered(local: OpenAIProvider, request_of: Any) -> None:
    # This server promises to keep connections and drops them after a stream: a second call on one would fail.
    for _ in range(4):
        text, usage, _ = await complete(local, request_of("Count to five.", model="smollm2", max_tokens=4))
        assert text
        assert 1 <= usage.output_tokens <= 4


async def test_the_limit_of_tokens_is_the_reason_to_stop(local: OpenAIProvider, request_of: Any) -> None:
    question = request_of("Tell a long story.", model="smollm2", max_tokens=5)
    _, usage, reason = await complete(local, question)
    assert (usage.output_tokens, reason) == (5, "length")


async def test_a_wrong_key_is_refused(local_server: Any, request_of: Any) -> None:
    for key in ("wrong", None):
        provider = OpenAIProvider("local", local_server.url, key)
        with pytest.raises(LlmAuth):
            await complete(provider, request_of(model="smollm2"))
        await provider.close()


async def test_a_conversation_that_does_not_fit_is_told_so(local: OpenAIProvider, request_of: Any) -> None:
    with pytest.raises(LlmContext, match="context size"):
        await complete(local, request_of("word " * 9000, model="smollm2"))


async def test_hanging_up_frees_the_model_at_once(local: OpenAIProvider, request_of: Any) -> None:
    endless = request_of("Tell a story.", model="smollm2", max_tokens=3000, extra={"ignore_eos": True})
    short = request_of("Hi.", model="smollm2", max_tokens=2)
    # There are two slots: were these not freed, the short question would wait for thousands of tokens.
    with anyio.fail_after(30):
        for _ in range(4):
            async with local.stream(endless) as parts:
                assert isinstance(await anext(parts), TextPart)
        assert (await complete(local, short))[1].output_tokens == 2


async def test_only_its_health_is_open_to_everyone(local_server: Any) -> None:
    async with httpx.AsyncClient(base_url=local_server.url.removesuffix("/v1"), trust_env=False) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        for path in ("/v1/models", "/props", "/slots", "/metrics"):
            assert (await client.get(path, headers={"Origin": "http://evil.example"})).status_code == 401


def test_the_key_is_in_neither_arguments_nor_environment(local_server: Any) -> None:
    proc = Path("/proc") / str(local_server.pid)
    if not proc.exists():
        pytest.skip("no /proc on this system")
    for file in ("cmdline", "environ"):
        assert local_server.key.encode() not in (proc / file).read_bytes()


def test_the_end_of_stdin_ends_the_server_and_stdout_held_one_line(argv: list[str]) -> None:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(secrets.token_hex(16).encode() + b"\n")
        child.stdin.flush()
        first = child.stdout.readline()
        rest, _ = child.communicate(timeout=20)
    assert json.loads(first)["url"].startswith("http://127.0.0.1:")
    assert (rest, child.returncode) == (b"", 0)


def test_a_signal_ends_it_while_it_still_loads(argv: list[str]) -> None:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        child.stdin.write(b"key\n")
        child.stdin.flush()
        child.terminate()
        assert child.wait(5) == -signal.SIGTERM


def test_without_a_key_it_does_not_serve(argv: list[str]) -> None:
    ended = subprocess.run(argv, input=b"\n", capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (64, b"")
    assert b"API key" in ended.stderr


def test_a_broken_model_file_ends_it_with_a_reason(argv: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    argv[argv.index("--model") + 1] = str(broken)
    ended = subprocess.run(argv, input=b"key\n", capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout) == (65, b"")
    assert b"cannot serve" in ended.stderr
