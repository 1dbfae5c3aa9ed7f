"""One turn of an agent: ask the model, run the tools it calls, tell it what came of them, until it answers.

Each call is a step on record (`actors.ledger`), so a turn that was cut off runs again from its top without making a
finished call twice. A turn only reads and reports; what it came to is committed by its agent.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from actors.budget import Budget, price_of
from actors.calls import Calls, Parked, shown
from actors.company import Company
from actors.ledger import LOST, Ledger
from actors.output import Output
from actors.prompt import SUMMARISE, Prompt, heard, repaired, user
from actors.together import Together
from runtime import log
from runtime.errors import LlmContext, LlmCut, LlmError, LlmTimeout, problem
from runtime.llm.guarded import Guarded
from runtime.llm.provider import estimate_usage
from runtime.llm.tokens import TokenMeter
from runtime.outcomes import Suspended
from runtime.stateful import AgentState
from runtime.store import port
from runtime.tools.tool import Toolbox, wire_name
from schemas.agents import STEER_TAG, Answered, Chain, Say
from schemas.chat import (
    ChatMessage,
    ChatRequest,
    Native,
    NativePart,
    ReasoningPart,
    StopPart,
    TextPart,
    ToolCall,
    ToolCallPart,
    Usage,
    UsagePart,
)
from schemas.config import AgentSettings
from schemas.jobs import Claimed

ASK: Final = "agents.ask"
ANSWER_ROOM: Final = 512
"""Tokens kept free for an answer where a prompt is cut to `context_tokens` and the agent names no `max_tokens`."""

Tell = Callable[[str, dict[str, Any]], None]

logger = log.get(__name__)


class Drained(Exception):
    """The daemon stops, and the turn stands at a step's boundary: it goes on after the next start."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said, as it is on record."""

    text: str
    calls: tuple[ToolCall, ...]
    usage: Usage
    stop: str
    native: Native | None = None

    @classmethod
    def of(cls, output: dict[str, Any]) -> "Said":
        """Return it as it stands on record."""
        calls = tuple(ToolCall.model_validate(call) for call in output["calls"])
        native = Native.model_validate(output["native"]) if "native" in output else None
        return cls(output["text"], calls, Usage.model_validate(output["usage"]), output["stop"], native)

    @property
    def message(self) -> ChatMessage:
        return ChatMessage(role="assistant", content=self.text, tool_calls=self.calls, native=self.native)


@dataclass(slots=True)
class Result:
    """What a turn came to: the messages that are added to its conversation, and the answer; *changes* are committed
    with them.
    """

    messages: tuple[ChatMessage, ...]
    answered: Answered
    changes: tuple[port.Change, ...] = ()


@dataclass(slots=True)
class Scene:
    """What a turn is given by its agent."""

    house: Company
    agent: str
    settings: AgentSettings
    state: AgentState
    job: Claimed
    said: Say
    chain: Chain
    toolbox: Toolbox
    output: Output | None
    tell: Tell
    changes: list[port.Change] = field(default_factory=list)

    def shown(self, step: str, asked: ToolCall, output: Mapping[str, Any]) -> ChatMessage:
        """Return what the model is shown of a call's result."""
        return shown(self.toolbox, self.settings, self.job.id, step, asked, output)


class Turn:
    """One attempt at a turn. `run` raises what ends the attempt; what was done by then is on record, and `so_far`
    has the messages of it.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        settings, house = scene.settings, scene.house
        assert settings.llm is not None
        self.provider = house.models.get(settings.llm.provider)
        self.meter = self.provider.meter if isinstance(self.provider, Guarded) else TokenMeter()
        self.ledger = Ledger(scene.job, house.store, house.clock)
        price = price_of(house.models.prices(settings.llm.provider), settings.llm.model)
        self.budget = Budget(scene.agent, settings, price, scene.chain, house.clock)
        self.calls = Calls(scene, self.ledger, self.budget)
        Together(scene, self.calls)
        self.prompt: Prompt
        self._specs = tuple(tool.spec for tool in scene.toolbox.tools.values())
        self._lost_text = ""
        self._number = 0

    async def run(self) -> Result:
        """Take the turn to its end."""
        await self.ledger.load()
        for step, output in self.ledger.done.items():
            if LOST in step:
                self._count(output)
        await self._begin()
        number = 0
        while True:
            self._number = number
            if f"model/{number}" not in self.ledger.done or f"steer/{number}" in self.ledger.done:
                await self._absorb(
                    f"steer/{number}"
                )  # else they came later: the model had not heard them when it spoke
            said = await self._ask_model(number)
            self.prompt.said.append(said.message)
            if said.calls:
                self.prompt.said += await self._run_tools(number, said.calls)
            elif not await self._absorb(f"steer/{number}.end"):
                return await self._ended(said, number)
            number += 1

    @property
    def so_far(self) -> tuple[ChatMessage, ...]:
        """The messages of what was done, each call with a result."""
        if not hasattr(self, "prompt"):
            return ()
        said = [*self.prompt.said, *self._results()]
        if self._lost_text:
            said.append(ChatMessage(role="assistant", content=self._lost_text + " [interrupted]"))
        return repaired(said)[0]

    def _results(self) -> Iterator[ChatMessage]:
        """Yield the results of those calls beside which another did not come to its end."""
        last = self.prompt.said[-1]
        for m, call in enumerate(last.tool_calls):
            step = f"tool/{self._number}.{m}"
            if step in self.ledger.done:
                yield self.scene.shown(step, call, self.ledger.done[step])

    # -- before and after --------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        scene = self.scene
        history, summary = await self._history()
        line, mended = repaired(history)
        if mended:
            logger.warning(
                "conversation_repaired", agent=scene.agent, conversation=scene.said.conversation, mended=mended
            )
            about = json.dumps({"conversation": scene.said.conversation, "mended": mended})
            scene.changes.append(
                port.AppendEvents((("agent.repaired", f"agent:{scene.agent}", about),), scene.house.clock.now())
            )
        self.prompt = Prompt(scene.settings, scene.state, line, summary)
        self.prompt.said.append(heard(scene.said, scene.chain))
        await self.calls.remember()
        await self.calls.hold(self._traits(line))

    def _traits(self, line: Sequence[ChatMessage]) -> set[str]:
        """Return what earlier calls have brought into this conversation."""
        tools = self.scene.toolbox.tools
        names = {message.name for message in line if message.role == "tool" and message.name is not None}
        found: set[str] = set()
        for name in names & tools.keys():
            found |= tools[name].traits
        return found | brought_by(self.scene.chain)

    async def _history(self) -> tuple[list[ChatMessage], str]:
        """Return the messages that are sent along, and a summary of those before them."""
        scene = self.scene
        settings, store, talk = scene.settings, scene.house.store, scene.said.conversation
        if settings.context == "recent":
            kept = await store.messages(scene.agent, talk, limit=settings.context_messages)
            return [ChatMessage.model_validate_json(body) for body in kept], ""
        name = f"summary/{scene.agent}/{talk}"
        found = json.loads(await store.setting(name) or "{}")
        upto, text = int(found.get("upto", 0)), str(found.get("text", ""))
        rows = await store.journal(scene.agent, talk, after=upto, limit=1000)
        messages = [ChatMessage.model_validate_json(row.body) for row in rows]
        if len(rows) > settings.context_messages:
            count = len(messages) - max(1, settings.context_messages // 2)
            while True:
                self.prompt = Prompt(settings, scene.state, repaired(messages[:count])[0], text)
                request = self.prompt.request(more=(user(SUMMARISE),))
                try:
                    text = (await self._call("model/summary", request, quiet=True)).text
                    break
                except LlmContext:
                    if count == 1:
                        raise
                    count //= 2  # the rest is for the next turn
            upto, messages = rows[count - 1].n, messages[count:]
            scene.changes.append(port.PutSetting(name, json.dumps({"upto": upto, "text": text})))
        return messages, text

    async def _ended(self, said: Said, number: int) -> Result:
        scene = self.scene
        assert scene.settings.llm is not None
        output = None
        if scene.output is not None:
            said, output = await self._fitting(said, number)
        spent = self.budget.spent
        usage = Usage(
            input_tokens=spent.input_tokens, output_tokens=spent.output_tokens, estimated=said.usage.estimated
        )
        answered = Answered(
            text=said.text,
            conversation=scene.said.conversation,
            usage=usage,
            model=scene.settings.llm.model,
            calls=spent.calls,
            tools=self.calls.made,
            cost=spent.cost,
            output=output,
            cut=said.stop == "length",
        )
        return Result(self.so_far, answered, tuple(scene.changes))

    # -- what was said meanwhile ---------------------------------------------------------------------------------------

    async def _absorb(self, step: str) -> bool:
        """Take in what was said to steer this turn; return whether there was something."""
        scene, ledger = self.scene, self.ledger
        if step not in ledger.done:
            if not scene.house.counts.get(scene.job.queue, {}).get("pending"):
                return False
            change = port.AbsorbJobs(
                scene.job,
                step,
                scene.job.queue,
                scene.said.conversation,
                STEER_TAG,
                problem("job.cancelled", "another run has taken it in", data={"into": scene.job.id}).model_dump_json(),
                scene.house.clock.now(),
            )
            ledger.done[step] = json.loads(await ledger.absorb(change))
        words = [args["message"]["text"] for _, args in ledger.done[step]]
        self.prompt.said += [user(text) for text in words]
        for text in words:
            scene.tell("steer", {"text": text})
        return bool(words)

    # -- the model -----------------------------------------------------------------------------------------------------

    async def _ask_model(self, number: int) -> Said:
        output = self.scene.output
        schema = output.schema if output is not None and not self._specs else None
        return await self._call(f"model/{number}", self.prompt.request(self._specs, schema=schema))

    async def _fitting(self, said: Said, number: int) -> tuple[Said, Any]:
        """Return the answer in the shape it has to have, by whatever way this model can be held to it.

        Its first answer may fit already. Else it is asked for the shape alone: by the provider's own means, then by a
        tool it has to call, then by words; what does not fit is given back to it twice at most. Raises OutputInvalid.
        """
        output = self.scene.output
        assert output is not None
        talk: list[ChatMessage] = []  # not a part of the conversation: only its end is
        for n, way in enumerate(output.ways(said.text)):
            if way is None:
                self.prompt.said[-1] = said.message
                return said, output.value
            asked = (*talk, user(way.words))
            request = self.prompt.request(way.tools, tool_choice=way.choice, schema=way.schema, more=asked)
            try:
                found = await self._call(f"model/{number}.{n}", request, quiet=True)
            except LlmError as error:
                if not output.refused(way, error):
                    raise
                continue
            said = Said(way.text_of(found.text, found.calls), (), found.usage, found.stop)
            talk = [*asked, said.message]
            output.offer(said.text)
        raise output.misfit()

    async def _call(self, step: str, request: ChatRequest, *, quiet: bool = False) -> Said:
        """Make a call of the model, or return what is on record of it. What does not fit its window is cut, then."""
        ledger = self.ledger
        if step in ledger.done:
            return self._known(ledger.done[step])
        if self.scene.house.draining:
            raise Drained
        request = self._cut(request)
        tokens = self.meter.estimate(request)
        if step in ledger.started:
            await ledger.lose(step, self._lost(*self.budget.lost(tokens)))
        while True:
            charge = self.budget.reserve(tokens)
            await ledger.begin(step, charge=charge)
            try:
                return await self._paid(step, request, charge, quiet=quiet)
            except LlmContext:
                if quiet or not self.prompt.halve():
                    raise
                logger.info("context_cut", agent=self.scene.agent, run=self.scene.job.id)
                request = self.prompt.request(request.tools, schema=request.response_schema)
                tokens = self.meter.estimate(request)

    def _cut(self, request: ChatRequest) -> ChatRequest:
        settings = self.scene.settings
        if settings.context_tokens is None:
            return request
        room = settings.context_tokens - (request.max_tokens or ANSWER_ROOM)
        fitted = self.meter.fit(request.model, request.messages, max(1, room), request.tools)
        return request.model_copy(update={"messages": fitted.kept}) if fitted.dropped else request

    async def _paid(self, step: str, request: ChatRequest, charge: port.Charge, *, quiet: bool) -> Said:
        """Call the provider, and put on record what came and what it cost, or that nothing did."""
        self._lost_text = ""
        heard = Heard(self.scene.tell, quiet=quiet)
        try:
            async with self.provider.stream(request) as parts:
                await heard.all_of(parts, self.scene.settings.idle_timeout / 1000)
        except BaseException as error:
            self._lost_text = "" if quiet else "".join(heard.text)
            used = heard.usage or (estimate_usage(request, heard.whole + heard.unsaid) if heard.began else None)
            await self._failed(step, error, charge, used)
            raise
        if not heard.stopped:
            cut_off = LlmCut("the answer has no end", partial=heard.whole)
            await self._failed(step, cut_off, charge, estimate_usage(request, heard.whole))
            raise cut_off
        usage = heard.usage or estimate_usage(request, heard.whole)
        paid = Usage() if heard.cached else usage
        difference, cost = self.budget.settle(charge, paid)
        output = {
            "text": heard.whole,
            "calls": [call.model_dump() for call in heard.calls],
            "usage": paid.model_dump(),
            "stop": heard.stopped,
            "model": request.model,
            "cost": cost,
            "cached": heard.cached,
        }
        if heard.native is not None:
            output["native"] = heard.native.model_dump()
        await self.ledger.end(step, output, cost=cost / 1_000_000, charge=difference)
        return Said(heard.whole, tuple(heard.calls), usage, heard.stopped, heard.native)

    async def _failed(self, step: str, error: BaseException, charge: port.Charge, used: Usage | None) -> None:
        """Put on record that a call failed, and what it has used all the same: later attempts count it too."""
        if used is None:
            await self.ledger.fail(step, error, charge=self.budget.release(charge))
            return
        difference, cost = self.budget.settle(charge, used)
        await self.ledger.fail(step, error, charge=difference, lost=self._lost(used, cost))

    def _lost(self, used: Usage, cost: int) -> dict[str, Any]:
        llm = self.scene.settings.llm
        assert llm is not None
        return {"usage": used.model_dump(), "model": llm.model, "cost": cost}

    def _count(self, output: dict[str, Any]) -> None:
        self.budget.count(Usage.model_validate(output["usage"]), output["cost"])

    def _known(self, output: dict[str, Any]) -> Said:
        self._count(output)
        return Said.of(output)

    # -- the tools -----------------------------------------------------------------------------------------------------

    async def _run_tools(self, number: int, calls: tuple[ToolCall, ...]) -> list[ChatMessage]:
        """Make the calls side by side. Where one waits for a person or another agent, the attempt is given back once
        the others have ended, and the turn goes on from the record when there is an answer.
        """
        if self.scene.house.draining and not self.calls.recorded(number, len(calls)):
            raise Drained
        found: dict[int, ChatMessage | Parked] = {}
        ending: list[BaseException] = []
        share = self._share(calls)

        async def one(m: int, call: ToolCall) -> None:
            try:
                found[m] = await self.calls.make(number, m, call, share)
            except (Exception, Suspended) as error:  # noqa: BLE001  # the others come to their end: what they do is paid for
                ending.append(error)

        async with anyio.create_task_group() as tasks:
            for m, call in enumerate(calls):
                tasks.start_soon(one, m, call)
        if ending:
            raise ending[0]
        parked = [each for each in found.values() if isinstance(each, Parked)]
        if parked:
            raise self._wait_for(parked)
        return [each for m in range(len(calls)) if isinstance(each := found[m], ChatMessage)]

    def _share(self, calls: tuple[ToolCall, ...]) -> int:
        """Return among how many what is left of the budget is divided: those who are asked side by side."""
        return max(1, sum(call.name in (ASK, wire_name(ASK)) for call in calls))

    def _wait_for(self, parked: Sequence[Parked]) -> Suspended:
        """Return what gives the attempt back: people are waited for first, one after another, then parts of the run."""
        for each in parked:
            if each.signal is not None:
                return Suspended(waits=each.signal, wait_until=each.until)
        until = [each.until for each in parked if each.until is not None]
        return Suspended(waits="", wait_until=min(until, default=None))


GRAIN: Final = 0.1
"""By how many seconds more than the idle time a model may be silent."""


class Heard:
    """What has come of an answer so far."""

    def __init__(self, tell: Tell, *, quiet: bool) -> None:
        self.text: list[str] = []
        self.unsaid = ""
        self.began = False
        self.calls: list[ToolCall] = []
        self.native: Native | None = None
        self.usage: Usage | None = None
        self.cached = False
        self.stopped = ""
        self._half = ""
        self._tell: Tell = (lambda kind, data: None) if quiet else tell

    @property
    def whole(self) -> str:
        return "".join(self.text)

    async def all_of(self, parts: Any, idle: float) -> None:
        """Hear every part. Raises LlmTimeout after *idle* seconds without one."""
        # One scope whose end moves on now and then: to move it at each part would cost as much as to hear the part.
        moved = anyio.current_time()
        with anyio.CancelScope(deadline=moved + idle + GRAIN) as scope:
            async for part in parts:
                self.hear(part)
                now = anyio.current_time()
                if now - moved > GRAIN:
                    moved = now
                    scope.deadline = now + idle + GRAIN
        if scope.cancelled_caught:
            raise LlmTimeout(f"the model was silent for {idle:g} s", which="idle")

    def _joined(self, text: str) -> str:
        """Return what came with the half of a character that came before; half a one at its end waits for the other."""
        text, self._half = self._half + text, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return whole_characters(text)

    def hear(self, part: Any) -> None:
        self.began = True
        match part:
            case TextPart():
                text = part.text if part.text.isascii() and not self._half else self._joined(part.text)
                if text:
                    self.text.append(text)
                    self._tell("token", {"text": text})
            case ReasoningPart():
                text = whole_characters(part.text)
                self.unsaid += text
                self._tell("reasoning", {"text": text})
            case ToolCallPart():
                call = part.call
                self.unsaid += call.arguments
                given = {"id": call.id, "name": call.name, "arguments": call.arguments}
                self.calls.append(ToolCall(**{key: whole_characters(text) for key, text in given.items()}))
            case NativePart():
                self.native = part.native
            case UsagePart():
                self.usage, self.cached = part.usage, part.cached
            case StopPart():
                self.stopped = part.reason


def whole_characters(text: str) -> str:
    """Return *text* as it can be written down: the halves of a character are joined, and one that is alone is replaced.
    JSON can say half a character, and some providers cut an emoji in two.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def brought_by(chain: Chain) -> set[str]:
    """Return what a word brings into a run: that of another agent is untrusted, and brings what its sender held."""
    return {*chain.traits, "untrusted"} if chain.path else set()
