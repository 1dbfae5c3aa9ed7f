"""A model in memory that plays what a test gave it, and fails loudly at a call that the test did not foresee."""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import anyio

from runtime.errors import LlmError, LlmUnexpected
from runtime.llm.scripted import vector
from runtime.tools.tool import wire_name
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

USAGE: Final = Usage(input_tokens=10, output_tokens=5)
"""What each call uses unless the test says otherwise."""

WORD: Final = re.compile(r"\s*\S+|\s+")

Condition: TypeAlias = Callable[[ChatRequest], bool] | str
Arguments: TypeAlias = Mapping[str, Any] | str


@dataclass(slots=True)
class Play:
    """One thing the model will say; *left* is how often, None for ever."""

    left: int | None
    delay: float
    text: str = ""
    calls: tuple[tuple[str, Arguments], ...] = ()
    error: LlmError | None = None
    hangs: bool = False
    usage: Usage | None = None
    when: Condition | None = None

    def fits(self, request: ChatRequest) -> bool:
        """Tell whether it may be said to *request*."""
        if self.left == 0:
            return False
        if isinstance(self.when, str):
            return bool(request.messages) and self.when in request.messages[-1].content
        return self.when is None or self.when(request)

    def __str__(self) -> str:
        what = f"fails({self.error!r})" if self.error is not None else f"says({self.text!r})"
        what = "hangs()" if self.hangs else what
        if self.calls:
            what = "calls(" + ", ".join(f"{name}: {arguments}" for name, arguments in self.calls) + ")"
        return what if self.left in (1, None) else f"{what} x {self.left}"


class ScriptedModel:
    """A `runtime.llm.provider.Provider` that plays what it was given, in that order, each thing once.

    ```python
    model = ScriptedModel()
    model.calls("tools:pay", {"amount": 5}).says("It is paid.")
    model.matches("weather").says("Rain.", times=None)
    ```

    asked       every request, oldest first; their number is how many calls were made
    unexpected  those of them for which nothing fitted: each failed with `LlmUnexpected`

    Text comes word by word. Each call uses *usage* (10 tokens in, 5 out), and the ids of tool calls are `call_1`,
    `call_2` and so on, so two runs of a test are the same. Every method that adds something returns the model.
    """

    def __init__(self, name: str = "scripted", *, usage: Usage = USAGE) -> None:
        self.name = name
        self.usage = usage
        self.asked: list[ChatRequest] = []
        self.unexpected: list[ChatRequest] = []
        self._plays: list[Play] = []
        self._when: Condition | None = None
        self._calls = 0
        self._news = anyio.Event()

    def __repr__(self) -> str:
        return f"<ScriptedModel {self.name}: {len(self.asked)} calls, {len(self.left)} plays left>"

    # -- what it plays -------------------------------------------------------------------------------------------------

    def says(
        self, text: str, *, times: int | None = 1, delay: float = 0.0, usage: Usage | None = None
    ) -> "ScriptedModel":
        """Answer with *text*, *times* times (None: for ever), each after *delay* seconds of the event loop's time."""
        return self._add(Play(times, delay, text, usage=usage))

    def calls(
        self,
        tool: str,
        arguments: Arguments | None = None,
        *others: tuple[str, Arguments],
        text: str = "",
        times: int | None = 1,
        delay: float = 0.0,
        usage: Usage | None = None,
    ) -> "ScriptedModel":
        """Call *tool* (named as in the configuration), and *others* in the same answer, after saying *text*. Arguments
        that are text are sent as they are, e.g. to be broken JSON.
        """
        every = ((tool, {} if arguments is None else arguments), *others)
        return self._add(Play(times, delay, text, every, usage=usage))

    def fails(
        self, error: LlmError | type[LlmError], *, after: str = "", times: int | None = 1, delay: float = 0.0
    ) -> "ScriptedModel":
        """Fail with *error*, having said *after* first where that is given."""
        return self._add(Play(times, delay, after, error=error if isinstance(error, LlmError) else error()))

    def hangs(self, *, after: str = "", times: int | None = 1) -> "ScriptedModel":
        """Say *after* and then nothing more, until the agent loses patience or the daemon dies: `called` tells when it
        was reached.
        """
        return self._add(Play(times, 0.0, after, hangs=True))

    def matches(self, condition: Condition) -> "ScriptedModel":
        """Have what is added next played only to requests for which *condition* holds; a text must be a part of the
        last message. What does not fit is passed over and waits for its request.
        """
        self._when = condition
        return self

    def _add(self, play: Play) -> "ScriptedModel":
        play.when, self._when = self._when, None
        self._plays.append(play)
        return self

    # -- what a test looks at ------------------------------------------------------------------------------------------

    async def called(self, count: int = 1, *, within: float = 3600.0) -> ChatRequest:
        """Wait until *count* calls have been made in all; return the last of these. Raises AssertionError where they
        have not within so many seconds.
        """
        with anyio.move_on_after(within):
            while len(self.asked) < count:
                self._news = anyio.Event()
                await self._news.wait()
        if len(self.asked) < count:
            raise AssertionError(f"the model {self.name!r} was called {len(self.asked)} times, not {count}")
        return self.asked[count - 1]

    @property
    def left(self) -> list[str]:
        """What it was given and has not played, in words; not what it may play for ever."""
        return [str(play) for play in self._plays if play.left]

    def assert_done(self) -> None:
        """Raise AssertionError where a call came that nothing fitted, or where plays are left."""
        if self.unexpected:
            last = self.unexpected[-1].messages[-1]
            raise AssertionError(
                f"the model {self.name!r} was asked {len(self.unexpected)} times what it was not told of;"
                f" last: {last.role}: {last.content[:200]!r}"
            )
        if self.left:
            raise AssertionError(f"the model {self.name!r} was not asked for: {'; '.join(self.left)}")

    # -- Provider ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def stream(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[ChatPart]]:
        """Play what fits *request*. Raises LlmUnexpected where nothing does, and the failure of the play."""
        self.asked.append(request)
        self._news.set()
        play = self._choose(request)
        if play.delay:
            await anyio.sleep(play.delay)
        if play.error is not None and not play.text:
            raise play.error
        async with aclosing(self._parts(play)) as parts:
            yield parts

    async def embed(self, request: EmbedRequest) -> Embedded:
        """Return a vector for each text, always the same; texts that share words are near."""
        return Embedded(vectors=tuple(vector(text) for text in request.texts), usage=self.usage)

    async def close(self) -> None:
        """Nothing is held open."""

    def _choose(self, request: ChatRequest) -> Play:
        play = next((one for one in self._plays if one.fits(request)), None)
        if play is None:
            self.unexpected.append(request)
            said = request.messages[-1].content[:200] if request.messages else ""
            left = "; ".join(self.left) or "nothing"
            raise LlmUnexpected(f"call {len(self.asked)} of the model was not expected: {said!r}; left is: {left}")
        if play.left is not None:
            play.left -= 1
        return play

    async def _parts(self, play: Play) -> AsyncGenerator[ChatPart, None]:
        for word in WORD.findall(play.text):
            yield TextPart(text=word)
        if play.error is not None:
            raise play.error
        if play.hangs:
            await anyio.sleep_forever()
        for name, arguments in play.calls:
            self._calls += 1
            text = arguments if isinstance(arguments, str) else json.dumps(dict(arguments), ensure_ascii=False)
            yield ToolCallPart(call=ToolCall(id=f"call_{self._calls}", name=wire_name(name), arguments=text))
        yield UsagePart(usage=play.usage or self.usage)
        yield StopPart(reason="tool_calls" if play.calls else "stop")
