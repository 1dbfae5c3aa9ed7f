"""The scripted model: it says what a file tells it to, with delays and failures, and always the same."""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import anyio
from pydantic import Field, ValidationError, field_validator, model_validator

from runtime.clock import Clock
from runtime.errors import LlmError, LlmUnexpected, LoadFailed
from runtime.llm.faults import sign
from schemas.base import Model
from schemas.chat import (
    ChatPart,
    ChatRequest,
    Embedded,
    EmbedRequest,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)

ECHO: Final = "echo"
"""The model that needs no file: it repeats the last words of the user."""

DIMENSIONS: Final = 64
"""Numbers in a vector of `embed`."""

MAX_SCRIPT_BYTES: Final = 1024 * 1024
MAX_SECONDS: Final = 3600.0

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")
_FAILURES: Final[dict[str, type[LlmError]]] = {kind.code: kind for kind in LlmError.__subclasses__()}


class Call(Model):
    """A tool call that a step makes. Arguments that are text are sent as they are, e.g. to be broken JSON."""

    name: str = Field(min_length=1)
    arguments: dict[str, Any] | str = Field(default_factory=dict)

    @field_validator("arguments")
    @classmethod
    def _is_json(cls, arguments: dict[str, Any] | str) -> dict[str, Any] | str:
        if not isinstance(arguments, str):
            try:
                json.dumps(arguments, allow_nan=False)
            except (TypeError, ValueError) as error:  # TOML has dates and infinity
                raise ValueError(f"JSON cannot say this: {error}") from None
        return arguments


class Step(Model):
    """One thing the model may say: the first step that matches and is not used up is taken.

    With both `match` and `match_tool` both have to fit. The tools of `tool_calls` are called after the `reply`. With
    both `reply` and `error` the reply is streamed and then fails, as an answer that is cut. `delay` and `chunk_delay`
    are in seconds, `chunk` in words.
    """

    match: str | None = Field(default=None, description="a part of the last user message; without it any message fits")
    match_tool: str | None = Field(
        default=None, description="a part of a tool's result; fits only where results are what came last"
    )
    tool_calls: list[Call] = Field(default_factory=list, max_length=128)
    reply: str | None = None
    error: str | None = Field(default=None, description="a code, e.g. llm.rate_limited")
    retry_after: float | None = Field(default=None, ge=0, le=86_400)
    delay: float = Field(default=0.0, ge=0, le=MAX_SECONDS)
    chunk_delay: float = Field(default=0.0, ge=0, le=MAX_SECONDS)
    chunk: int = Field(default=1, ge=1)
    times: int | None = Field(default=None, ge=1)

    @field_validator("error")
    @classmethod
    def _known(cls, code: str | None) -> str | None:
        if code is not None and code not in _FAILURES:
            raise ValueError(f"no such failure; there are {', '.join(sorted(_FAILURES))}")
        return code

    @model_validator(mode="after")
    def _says_something(self) -> "Step":
        if self.reply is None and self.error is None and not self.tool_calls:
            raise ValueError("a step needs a reply or an error or tool calls")
        return self

    def fits(self, request: ChatRequest) -> bool:
        """Tell whether this may be said to *request*."""
        return (self.match is None or self.match in _last_words(request)) and (
            self.match_tool is None or any(self.match_tool in result for result in _last_results(request))
        )


class Script(Model):
    """The steps of one model, in the order in which they are tried."""

    steps: list[Step] = Field(min_length=1)


class ScriptedProvider:
    """A provider without a model. The model named `echo` repeats; any other name is a script file in *base_dir*.

    A file is read once; how often its steps were used is remembered as long as the provider lives. Without *base_dir*
    there is only `echo`. Tokens are words, marked as estimated. The ids of tool calls are made of their place in the
    conversation, so they are the same whenever it is. Waits follow the event loop's clock; *clock* is there because
    every provider is made with one.
    """

    def __init__(self, name: str, base_dir: Path | None = None, clock: Clock | None = None) -> None:
        self.name = name
        self._base_dir = base_dir
        self._scripts: dict[str, Script] = {}
        self._used: dict[tuple[str, int], int] = {}

    def __repr__(self) -> str:
        return f"<ScriptedProvider {self.name}>"

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        """Stream what the script says to *request*.

        Raises `LoadFailed` for a script that cannot be used, `LlmUnexpected` where no step fits, and on entering or
        after its reply whatever failure the step names.
        """
        step = self._choose(request)
        if step.delay:
            await anyio.sleep(step.delay)
        if step.reply is None and step.error is not None:
            raise self._failure(step, "")
        async with aclosing(self._parts(step, step.reply or "", request)) as parts:
            yield parts

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Return `vector` of each text, whatever the model is called."""
        words = sum(len(text.split()) for text in request.texts)
        usage = Usage(input_tokens=words, estimated=True)
        return Embedded(vectors=tuple(vector(text) for text in request.texts), usage=usage)

    async def close(self) -> None:
        """Nothing is held open."""

    def _choose(self, request: ChatRequest) -> Step:
        last = _last_words(request)
        if request.model == ECHO:
            return Step(reply=last)
        for number, step in enumerate(self._script(request.model).steps):
            used = self._used.get((request.model, number), 0)
            if step.fits(request) and (step.times is None or used < step.times):
                self._used[request.model, number] = used + 1
                return step
        detail = f"no step of {request.model!r} is left for the message {last[:100]!r}"
        raise sign(LlmUnexpected(detail), self.name)

    def _script(self, model: str) -> Script:
        if model not in self._scripts:
            self._scripts[model] = load_script(model, self._base_dir)
        return self._scripts[model]

    async def _parts(self, step: Step, reply: str, request: ChatRequest) -> AsyncGenerator[ChatPart, None]:
        words = _WORD.findall(reply)
        for at in range(0, len(words), step.chunk):
            if at and step.chunk_delay:
                await anyio.sleep(step.chunk_delay)
            yield TextPart(text="".join(words[at : at + step.chunk]))
        if step.error is not None:
            raise self._failure(step, reply)
        calls = _calls(step, request)
        for call in calls:
            yield ToolCallPart(call=call)
        asked = sum(len(message.content.split()) for message in request.messages)
        told = len(reply.split()) + sum(len(call.arguments.split()) for call in calls)
        yield UsagePart(usage=Usage(input_tokens=asked, output_tokens=told, estimated=True))
        yield StopPart(reason="tool_calls" if calls else "stop")

    def _failure(self, step: Step, partial: str) -> LlmError:
        assert step.error is not None
        kind = _FAILURES[step.error]
        return sign(kind("the script says so", retry_after=step.retry_after, partial=partial), self.name)


def vector(text: str) -> tuple[float, ...]:
    """Return the unit vector of *text*: the sum of one of chance for each word, so texts that share words are near."""
    sums = [0.0] * DIMENSIONS
    for word in text.lower().split() or [""]:
        for place, byte in enumerate(hashlib.shake_256(word.encode(errors="replace")).digest(DIMENSIONS)):
            sums[place] += byte - 127.5
    length = math.hypot(*sums)
    return tuple(one / length for one in sums)


def _last_words(request: ChatRequest) -> str:
    return next((message.content for message in reversed(request.messages) if message.role == "user"), "")


def _last_results(request: ChatRequest) -> list[str]:
    """Return the results of tools at the end of the conversation; none where somebody spoke since."""
    last = takewhile(lambda message: message.role == "tool", reversed(request.messages))
    return [message.content for message in last]


def _calls(step: Step, request: ChatRequest) -> list[ToolCall]:
    return [
        ToolCall(
            id=f"call_{len(request.messages)}_{number}",
            name=call.name,
            arguments=call.arguments
            if isinstance(call.arguments, str)
            else json.dumps(call.arguments, ensure_ascii=False),
        )
        for number, call in enumerate(step.tool_calls)
    ]


def load_script(model: str, base_dir: Path | None) -> Script:
    """Return the script in the file called *model*, which must be within *base_dir*.

    Raises `LoadFailed` with the file and every mistake in it.
    """
    if base_dir is None:
        raise LoadFailed(f"the scripted model {model!r} needs a folder of scripts; without one there is only {ECHO!r}")
    file = (base_dir / model).resolve()
    if not file.is_relative_to(base_dir.resolve()):
        raise LoadFailed(f"the script {model!r} lies outside {base_dir}", file=str(file))
    try:
        return Script.model_validate(tomllib.loads(_read(file)))
    except ValidationError as error:
        mistakes = [f"{_place(one['loc'])}: {one['msg']}" for one in error.errors(include_url=False)]
        raise LoadFailed(f"the script {file}: {'; '.join(mistakes)}", file=str(file), mistakes=mistakes) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise LoadFailed(f"the script {file} cannot be read: {why}", file=str(file)) from error


def _read(file: Path) -> str:
    if file.stat().st_size > MAX_SCRIPT_BYTES:
        raise ValueError(f"it is larger than {MAX_SCRIPT_BYTES} bytes")
    return file.read_text(encoding="utf-8")


def _place(loc: tuple[int | str, ...]) -> str:
    """Write a place as it is in the file: `steps[2].delay`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or "the file"
