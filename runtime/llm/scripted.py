"""The scripted model: it says what a file tells it to, with delays and failures, and always the same."""

import re
import tomllib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from pydantic import Field, ValidationError, field_validator, model_validator

from runtime.clock import Clock
from runtime.errors import LlmError, LlmUnexpected, LoadFailed
from runtime.llm.faults import sign
from schemas.base import Model
from schemas.chat import ChatPart, ChatRequest, StopPart, TextPart, Usage, UsagePart

ECHO: Final = "echo"
"""The model that needs no file: it repeats the last words of the user."""

MAX_SCRIPT_BYTES: Final = 1024 * 1024
MAX_SECONDS: Final = 3600.0

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")
_FAILURES: Final[dict[str, type[LlmError]]] = {kind.code: kind for kind in LlmError.__subclasses__()}


class Step(Model):
    """One thing the model may say: the first step that matches and is not used up is taken.

    With both `reply` and `error` the reply is streamed and then fails, as an answer that is cut. `delay` and
    `chunk_delay` are in seconds, `chunk` in words.
    """

    match: str | None = Field(default=None, description="a part of the last user message; without it any message fits")
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
        if self.reply is None and self.error is None:
            raise ValueError("a step needs a reply or an error")
        return self


class Script(Model):
    """The steps of one model, in the order in which they are tried."""

    steps: list[Step] = Field(min_length=1)


class ScriptedProvider:
    """A provider without a model. The model named `echo` repeats; any other name is a script file in *base_dir*.

    A file is read once; how often its steps were used is remembered as long as the provider lives. Without *base_dir*
    there is only `echo`. Tokens are words, marked as estimated. Waits follow the event loop's clock;
    *clock* is there because every provider is made with one.
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
        if step.reply is None:
            raise self._failure(step, "")
        async with aclosing(self._parts(step, step.reply, request)) as parts:
            yield parts

    async def close(self) -> None:
        """Nothing is held open."""

    def _choose(self, request: ChatRequest) -> Step:
        last = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        if request.model == ECHO:
            return Step(reply=last)
        for number, step in enumerate(self._script(request.model).steps):
            used = self._used.get((request.model, number), 0)
            if (step.match is None or step.match in last) and (step.times is None or used < step.times):
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
        asked = sum(len(message.content.split()) for message in request.messages)
        yield UsagePart(usage=Usage(input_tokens=asked, output_tokens=len(reply.split()), estimated=True))
        yield StopPart()

    def _failure(self, step: Step, partial: str) -> LlmError:
        assert step.error is not None
        kind = _FAILURES[step.error]
        return sign(kind("the script says so", retry_after=step.retry_after, partial=partial), self.name)


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
        raise LoadFailed(f"the script {file} cannot be read: {error}", file=str(file)) from error


def _read(file: Path) -> str:
    if file.stat().st_size > MAX_SCRIPT_BYTES:
        raise ValueError(f"it is larger than {MAX_SCRIPT_BYTES} bytes")
    return file.read_text(encoding="utf-8")


def _place(loc: tuple[int | str, ...]) -> str:
    """Write a place as it is in the file: `steps[2].delay`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or "the file"
