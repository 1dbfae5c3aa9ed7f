"""The built-in agent: a persona with a model, whose turns are child tasks; it stays answerable and alone commits."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from actors.company import Company
from runtime.attempt import CANCELLED, STOPPED, Attempt, outcome_of
from runtime.core.actor import Envelope, handles
from runtime.errors import ActorStopped, LlmCut, LlmTimeout, UnderstudyError, UnhandledMessage
from runtime.llm.provider import estimate_usage
from runtime.stateful import AgentState, StatefulActor, decode
from runtime.store import port
from schemas.agents import Answered, Say
from schemas.base import PlainMessage
from schemas.chat import ChatMessage, ChatRequest, ReasoningPart, StopPart, TextPart, Usage, UsagePart
from schemas.config import AgentSettings
from schemas.events import Event
from schemas.jobs import Claimed, Outcome, RunJob


@dataclass(slots=True)
class TurnEnded(PlainMessage, type="agent.turn_ended"):
    """A turn of this agent has its answer; what remains is to commit it."""

    job: Claimed
    said: str
    answered: Answered


class Agent(StatefulActor):
    """Answers with a model. A message is a job; its turn runs beside the handlers, so the agent can always be asked.

    One turn a conversation at a time (the queue sees to it), up to `concurrency` over different conversations. State,
    answer, conversation and the end of the job are one commit; a turn that fails or is cut off leaves nothing behind
    but its error.
    """

    USER_CODE: ClassVar[bool] = False
    State = AgentState

    house: Company

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.slots = settings.concurrency
        self._turns = 0
        self._turn_over = anyio.Event()
        self._answered: dict[str, TurnEnded] = {}  # turns with an answer that is not on the disk yet

    @handles
    async def run(self, message: RunJob) -> None:
        """Begin a turn and be free for the next message."""
        if message.incarnation not in (0, self.ctx.incarnation):
            return
        self._turns += 1
        self.ctx.start(self._turn, message.job, name=f"turn {message.job.conversation}")

    @handles
    def turn_ended(self, message: TurnEnded) -> None:
        job, now = message.job, self.house.clock.now()
        self._answered.pop(job.id, None)
        line = (
            ChatMessage(role="user", content=message.said),
            ChatMessage(role="assistant", content=message.answered.text),
        )
        self.also(
            port.AppendMessages(
                agent=self.agent,
                conversation=message.answered.conversation,
                messages=tuple(one.model_dump_json(exclude_defaults=True) for one in line),
                job=job.id,
                now=now,
            ),
            port.FinishJobs(
                (port.Finish(job, "completed", result=message.answered.model_dump_json()),), now, strict=True
            ),
        )

    async def on_stop(self, reason: str) -> None:
        """Let turns come to their end, as far as the time to drain goes: what was answered was paid for."""
        if reason in ("crash", "restart"):
            return
        while True:  # each answer is written as it comes: the time to drain may end before the last turn does
            for answered in list(self._answered.values()):
                await self._commit_late(answered)
            if not self._turns:
                return
            self._turn_over = anyio.Event()
            await self._turn_over.wait()

    async def _commit_late(self, answered: TurnEnded) -> None:
        self.turn_ended(answered)
        try:
            await self._commit()
        except UnderstudyError as error:
            await self._report(answered.job, outcome_of(error))

    async def on_handler_error(self, envelope: Envelope, error: Exception) -> None:
        """A step that could not be committed: its job goes back by the rules, and is not left hanging."""
        await super().on_handler_error(envelope, error)
        if isinstance(envelope.message, TurnEnded):
            await self._report(envelope.message.job, outcome_of(error))

    # -- a turn ------------------------------------------------------------------------------------------------------

    async def _turn(self, job: Claimed) -> None:
        outcome: Outcome | None = STOPPED
        try:
            with self.house.board.running(job) as attempt:
                if attempt.ending:  # the wish was here before us
                    await checkpoint_if_cancelled()
                outcome = await self._attempt(job, attempt)
            if attempt.cancelled:
                outcome = CANCELLED
        finally:
            self._turns -= 1
            self._turn_over.set()
            if outcome is not None:
                await self._report(job, outcome)

    async def _attempt(self, job: Claimed, attempt: Attempt) -> Outcome | None:
        """Return how the turn failed, or None: it ended well and is on its way to be committed."""
        try:
            said = decode(job)
            if not isinstance(said, Say):
                raise UnhandledMessage(f"{self.agent} takes {Say.TYPE} only, not {said.TYPE}", known=[Say.TYPE])
            self._tell(job, "started", {"attempt": job.attempt})
            with anyio.fail_after(self.settings.run_timeout / 1000):
                answered = await self._think(job, said)
        except TimeoutError:
            limit = self.settings.run_timeout / 1000
            return outcome_of(LlmTimeout(f"the turn took more than {limit:g} s", which="run"))
        except Exception as error:  # noqa: BLE001  # a turn's failure is its job's outcome and never the agent's crash
            return outcome_of(error)
        if attempt.wished:
            return CANCELLED
        ended = self._answered[job.id] = TurnEnded(job, said.text, answered)
        with suppress(ActorStopped):  # then `on_stop` commits it
            await self.ctx.ref.tell(ended)
        return None

    async def _think(self, job: Claimed, said: Say) -> Answered:
        """Stream one answer of the model."""
        llm = self.settings.llm
        assert llm is not None
        provider = self.house.models.get(llm.provider)
        request = await self._request(said)
        text: list[str] = []
        usage: Usage | None = None
        stopped = False
        async with provider.stream(request) as parts:
            while (part := await self._next(parts)) is not None:
                if isinstance(part, TextPart):
                    text.append(part.text)
                    self._tell(job, "token", {"text": part.text})
                elif isinstance(part, ReasoningPart):
                    self._tell(job, "reasoning", {"text": part.text})
                elif isinstance(part, UsagePart):
                    usage = part.usage
                elif isinstance(part, StopPart):
                    stopped = True
        whole = "".join(text)
        if not stopped:
            raise LlmCut("the answer has no end", partial=whole)
        usage = usage or estimate_usage(request, whole)
        return Answered(text=whole, conversation=said.conversation, usage=usage, model=llm.model)

    async def _next(self, parts: Any) -> Any:
        """Return the next part, None at the end. Raises LlmTimeout after `idle_timeout` without one."""
        limit = self.settings.idle_timeout / 1000
        try:
            with anyio.fail_after(limit):
                return await anext(parts, None)
        except TimeoutError:
            raise LlmTimeout(f"the model was silent for {limit:g} s", which="idle") from None

    async def _request(self, said: Say) -> ChatRequest:
        """Return what the model is asked: the persona, the recent conversation, and what was said now."""
        llm = self.settings.llm
        assert llm is not None
        kept = await self.house.store.messages(self.agent, said.conversation, limit=self.settings.context_messages)
        history = tuple(ChatMessage.model_validate_json(body) for body in kept)
        system = persona(self.settings, self.state)
        return ChatRequest(
            model=llm.model,
            messages=(
                *((ChatMessage(role="system", content=system),) if system else ()),
                *history,
                ChatMessage(role="user", content=said.text),
            ),
            temperature=llm.temperature,
            max_tokens=llm.max_tokens,
            extra=llm.extra,
        )

    def _tell(self, job: Claimed, kind: str, data: dict[str, Any]) -> None:
        """Tell whoever follows the job; nobody else pays for it."""
        bus = self.house.bus
        if bus.listens(job.id):
            bus.publish([Event(at=self.house.clock.now(), type=f"turn.{kind}", subject=job.id, data=data)])


def persona(settings: AgentSettings, state: AgentState) -> str:
    """Return the system message: who the agent is, what it works on, and its rules last."""
    parts = [
        f"You are {settings.role}." if settings.role else "",
        f"Your goal: {settings.goal}" if settings.goal else "",
        settings.backstory,
        f"Current project: {state.current_project}" if state.current_project else "",
        f"Current goal: {state.current_goal}" if state.current_goal else "",
        f"Notes: {state.general_notes}" if state.general_notes else "",
        settings.instructions,
    ]
    return "\n".join(part for part in parts if part)
