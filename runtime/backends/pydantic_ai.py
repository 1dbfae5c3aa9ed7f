"""An agent of Pydantic AI, supervised here. Needs the extra `pydantic-ai`.

    from pydantic_ai import Agent
    from runtime.backends.pydantic_ai import PydanticAIBackend

    clerk = PydanticAIBackend(Agent("openai:gpt-4.1-mini", instructions="Answer in one sentence."))

and in the configuration `actor = "my_module:clerk"`.
"""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream
from pydantic import TypeAdapter
from pydantic_ai import exceptions as theirs
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.tools import DeferredToolRequests, RunContext, ToolDefinition
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.toolsets.abstract import ToolsetTool
from pydantic_core import SchemaValidator, core_schema, to_json

from runtime.backends.port import BackendContext, BackendEvent, BackendUnusable, Turn
from runtime.backends.port import Final as FinalEvent
from runtime.backends.pydantic_ai_model import RecordedModel, Say, translated
from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmError,
    LlmOverloaded,
    LlmRateLimited,
    LlmRequest,
    LlmTimeout,
    LlmUnreachable,
    UnderstudyError,
)
from runtime.outcomes import Suspended
from schemas.chat import ToolSpec

if TYPE_CHECKING:
    from runtime.tools.tool import ToolResult

ID: Final = "understudy"
"""What our tools are called as a toolset."""
MAX_DETAIL: Final = 1000
"""Characters of an error of theirs that are told."""

_OBJECT: Final = SchemaValidator(core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema()))
_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class PydanticAIBackend:
    """The `runtime.backends.port.AgentBackend` of an agent of Pydantic AI.

    agent    keeps its model, instructions, output type and its own tools. It is told the configured persona as further
             instructions and has the agent's `tools` beside its own: by their permissions, with people asked, recorded.
             Its own tools are its own business: they run again when a turn does
    deps     makes the dependencies of a run from its turn
    streams  false for a model that cannot stream

    Each request of the model is a step, so a turn that runs again does not pay twice for a finished one. Our history
    goes before the prompt, which has Pydantic AI leave out `system_prompt`s from the second turn on: use
    `instructions`. An output that is not text is told as JSON, and as the `output` of the answer.

    A turn raises `LlmError`s for what the provider does, `BackendUnusable` where the agent is made wrong, gives up, or
    asks for deferred tools (give the tool to us instead, and set its permission to `ask`).
    """

    def __init__(
        self,
        agent: AbstractAgent[Any, Any],
        *,
        deps: Callable[[Turn], Any] | None = None,
        streams: bool = True,
    ) -> None:
        self._agent, self._deps, self._streams = agent, deps, streams

    async def run(self, turn: Turn, ctx: BackendContext) -> AsyncIterator[BackendEvent]:
        """Take a turn; see the class. Runs on asyncio."""
        send, receive = anyio.create_memory_object_stream[BackendEvent](0)
        answer: list[FinalEvent] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._answer, turn, ctx, send, answer)
            with receive:
                async for event in receive:
                    yield event
        yield answer[0]

    async def _answer(
        self, turn: Turn, ctx: BackendContext, send: MemoryObjectSendStream[BackendEvent], answer: list[FinalEvent]
    ) -> None:
        with send:
            try:
                answer.append(await self._ask(turn, ctx, send.send))
            except (theirs.AgentRunError, theirs.UserError, theirs.FallbackExceptionGroup) as error:
                raise _ours(error) from error

    async def _ask(self, turn: Turn, ctx: BackendContext, say: Say) -> FinalEvent:
        model = self._agent.model
        if model is None:
            raise BackendUnusable("the agent of Pydantic AI has no model")
        result = await self._agent.run(
            turn.text,
            message_history=translated(turn.history) or None,
            instructions=turn.system or None,
            model=RecordedModel(model, ctx, say, streams=self._streams),
            toolsets=[Tools(turn.tools, ctx)],
            deps=None if self._deps is None else self._deps(turn),
            infer_name=False,
        )
        return _final(result.output)


class Tools(AbstractToolset[Any]):
    """The tools of a turn, as Pydantic AI has them."""

    def __init__(self, specs: tuple[ToolSpec, ...], ctx: BackendContext) -> None:
        self._specs, self._ctx = specs, ctx
        self._calling = 0
        self._changed = anyio.Event()
        self._ending: BaseException | None = None

    @property
    def id(self) -> str:
        return ID

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Return all of them; arguments are checked where they are called."""
        return {
            spec.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=spec.name, description=spec.description, parameters_json_schema=_schema_of(spec)
                ),
                max_retries=3,
                args_validator=_OBJECT,
            )
            for spec in self._specs
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Call a tool. Raises `ToolFailed`, which the model reads; and what ends the turn, once the calls beside it
        have come to their end, for Pydantic AI cuts them off then.
        """
        result = await self._called(name, tool_args)
        if isinstance(result, BaseException):
            await self._quiet()
            self._ending = result
            raise result
        if result.failed:
            raise theirs.ToolFailed(result.text)
        return result.text

    async def _called(self, name: str, arguments: dict[str, Any]) -> "ToolResult | BaseException":
        """Return the result of a call, or what ends the turn; once it ends, no further call is begun."""
        if self._ending is not None:
            return self._ending
        self._calling += 1
        try:
            return await self._ctx.call_tool(name, arguments)
        except (Exception, Suspended) as error:  # noqa: BLE001  # raised when the others have ended
            return error
        finally:
            self._calling -= 1
            self._changed.set()

    async def _quiet(self) -> None:
        await anyio.lowlevel.checkpoint()  # those that were asked for in the same breath begin
        while self._calling:
            self._changed = anyio.Event()
            await self._changed.wait()


def _schema_of(spec: ToolSpec) -> dict[str, Any]:
    return spec.parameters or {"type": "object", "properties": {}}


def _final(output: Any) -> FinalEvent:
    if isinstance(output, str):
        return FinalEvent(text=output)
    if isinstance(output, DeferredToolRequests):
        raise BackendUnusable(
            "the agent of Pydantic AI defers tools, which is not supported: put them into `tools` with permission `ask`"
        )
    found = _ANY.dump_python(output, mode="json")
    return FinalEvent(text=to_json(found).decode(), output=found)


def _ours(error: Exception) -> UnderstudyError:
    """Return an error of theirs as one of ours."""
    detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL]
    match error:
        case theirs.FallbackExceptionGroup():
            last = error.exceptions[-1]
            return _ours(last) if isinstance(last, theirs.AgentRunError) else LlmOverloaded(detail)
        case theirs.ModelRateLimitError():
            return LlmRateLimited(detail, retry_after=error.retry_after)
        case theirs.ModelAuthenticationError():
            return LlmAuth(detail)
        case theirs.ModelContextWindowExceededError():
            return LlmContext(detail)
        case theirs.ModelRequestRejectedError() | theirs.ModelQuotaExceededError():
            return LlmRequest(detail)
        case theirs.ModelRequestTimeout() | theirs.ModelTimeoutError():
            return LlmTimeout(detail)
        case theirs.ModelConnectionError():
            return LlmUnreachable(detail)
        case theirs.ModelHTTPError():  # of a model that sorts its errors into none of the above
            return _of_status(error.status_code)(detail, retry_after=error.retry_after)
        case theirs.ModelAPIError():
            return LlmOverloaded(detail)
    return BackendUnusable(detail)


def _of_status(status: int) -> type[LlmError]:
    match status:
        case 429:
            return LlmRateLimited
        case 401 | 403:
            return LlmAuth
        case 408 | 409:
            return LlmOverloaded
    return LlmRequest if status < 500 else LlmOverloaded
