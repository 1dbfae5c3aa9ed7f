"""The built-in agent: a persona with a model, whose turns are child tasks; it stays answerable and alone commits."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from actors.company import Company
from actors.output import Output
from actors.retrace import retrace
from actors.turn import Drained, Result, Scene, Turn
from runtime.attempt import CANCELLED, STOPPED, Attempt, outcome_of, outcome_of_suspension, seconds_for, too_late
from runtime.core.actor import Envelope, handles
from runtime.errors import ActorStopped, UnderstudyError, UnhandledMessage, problem
from runtime.outcomes import Suspended
from runtime.stateful import AgentState, StatefulActor, decode
from runtime.store import port
from schemas.agents import Chain, KeepPartial, Say
from schemas.base import PlainMessage
from schemas.chat import ChatMessage
from schemas.config import AgentSettings
from schemas.events import Event
from schemas.jobs import Claimed, JobView, Outcome, RunJob


class OneTurn(Protocol):
    """One attempt at a turn: `run` takes it to its end, or raises what ends the attempt; `so_far` is what it did."""

    scene: Scene

    @property
    def so_far(self) -> tuple[ChatMessage, ...]:
        """The messages of what was done, each call with a result."""
        ...

    async def run(self) -> Result:
        """Take the turn to its end."""
        ...


@dataclass(slots=True)
class TurnEnded(PlainMessage, type="agent.turn_ended"):
    """A turn of this agent has come to its end; what remains is to commit it. result None: it was interrupted, and the
    *messages* of what it did by then are kept."""

    job: Claimed
    conversation: str
    messages: tuple[ChatMessage, ...]
    result: Result | None


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
        self._running: dict[str, OneTurn | None] = {}
        self._keep: set[str] = set()  # turns that are interrupted, and of which is kept what they did
        self._over: set[str] = set()  # runs that were ended while they waited, whose next attempt was on its way then

    @handles
    async def run(self, message: RunJob) -> None:
        """Begin a turn and be free for the next message."""
        if message.incarnation not in (0, self.ctx.incarnation):
            return
        self._turns += 1
        self._running[message.job.id] = None
        self.ctx.start(self._turn, message.job, name=f"turn {message.job.conversation}")

    @handles
    async def keep_partial(self, message: KeepPartial) -> bool:
        """Keep what a run has done that is about to be cancelled. One that waits ends here and now, with the same
        commit: were it to go on in between, it would say the same once more.
        """
        if message.job in self._answered:  # it comes to its end by itself
            return False
        run = None if message.job in self._running else await self.house.store.job(message.job)
        if run is None or run.status == "active":
            self._keep.add(message.job)
            return True
        if run.status != "waiting":
            return False
        now = self.house.clock.now()
        kept = self._append(run.id, run.conversation or "main", self.on_record(run))
        _, (cancelled,) = await self.house.store.commit((kept, port.CancelJobs((run.id,), now)))
        if cancelled.outcome == "requested":
            self._over.add(run.id)
        return True

    @handles
    def turn_ended(self, message: TurnEnded) -> None:
        job, now, result = message.job, self.house.clock.now(), message.result
        self._answered.pop(job.id, None)
        if message.messages:
            self.also(self._append(job.id, message.conversation, message.messages))
        if result is None:
            error = CANCELLED.error
            assert error is not None
            finish = port.Finish(job, "cancelled", "user", error=error.model_dump_json())
        else:
            self.on_answer()
            self.also(*result.changes)
            finish = port.Finish(job, "completed", result=result.answered.model_dump_json(exclude_defaults=True))
        self.also(port.FinishJobs((finish,), now, strict=True))

    def _append(self, job: str, conversation: str, messages: tuple[ChatMessage, ...]) -> port.AppendMessages:
        lines = tuple(one.model_dump_json(exclude_defaults=True) for one in messages)
        return port.AppendMessages(self.agent, conversation, lines, job, self.house.clock.now())

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
            with self.house.board.running(job, seconds_for(job, self.house.clock.now())) as attempt:
                if attempt.ending:  # the wish was here before us
                    await checkpoint_if_cancelled()
                outcome = CANCELLED if job.id in self._over else await self._attempt(job, attempt)
            if attempt.timed_out:
                outcome = too_late(job, self.house.clock.now())
            if attempt.cancelled:
                outcome = CANCELLED
                if job.id in self._keep - self._over and await self._keep_partial(job):
                    outcome = None
        finally:
            self._turns -= 1
            self._turn_over.set()
            self._running.pop(job.id, None)
            self._keep.discard(job.id)
            self._over.discard(job.id)
            if outcome is not None:
                await self._report(job, outcome)

    async def _attempt(self, job: Claimed, attempt: Attempt) -> Outcome | None:
        """Return how the turn failed or that it waits, or None: it ended well and is on its way to be committed."""
        try:
            said = decode(job)
            if not isinstance(said, Say):
                raise UnhandledMessage(f"{self.agent} takes {Say.TYPE} only, not {said.TYPE}", known=[Say.TYPE])
            self._tell(job, "started", {"attempt": job.attempt})
            await self.house.toolroom.ready(self.settings)
            turn = self._running[job.id] = self.turn_of(self._scene(job, said))
            with anyio.fail_after(self.settings.run_timeout / 1000):
                result = await turn.run()
        except Suspended as suspended:
            return outcome_of_suspension(suspended.says)
        except Drained:
            return STOPPED
        except TimeoutError:
            limit = self.settings.run_timeout / 1000
            why = problem("job.timeout", f"the turn took more than {limit:g} s, which is the agent's run_timeout")
            return Outcome(ok=False, error=why, error_class="timeout")
        except Exception as error:  # noqa: BLE001  # a turn's failure is its job's outcome and never the agent's crash
            return outcome_of(error)
        if attempt.wished:
            return CANCELLED
        await self._hand_in(TurnEnded(job, said.conversation, result.messages, result))
        return None

    async def _keep_partial(self, job: Claimed) -> bool:
        """Have what an interrupted turn did kept in its conversation; False where it did nothing."""
        turn, run = self._running.get(job.id), await self.house.store.job(job.id)
        recorded = self.on_record(run) if run is not None and run.steps else ()
        done = max(() if turn is None else turn.so_far, recorded, key=len)  # it may not have taken up its record yet
        if not done:
            return False
        await self._hand_in(TurnEnded(job, job.conversation or "main", done, None))
        return True

    def on_record(self, run: JobView) -> tuple[ChatMessage, ...]:
        """Return the messages of what is on record of a run that stands still."""
        return retrace(run, self.settings, self.house.toolroom.toolbox(self.settings))

    async def _hand_in(self, ended: TurnEnded) -> None:
        self._answered[ended.job.id] = ended
        with suppress(ActorStopped):  # then `on_stop` commits it
            await self.ctx.ref.tell(ended)

    def turn_of(self, scene: Scene) -> OneTurn:
        """Return the turn that is to be taken."""
        return Turn(scene)

    def on_answer(self) -> None:
        """Change `self.state` as a turn's answer wants it; it is committed with the answer."""

    def _scene(self, job: Claimed, said: Say) -> Scene:
        """Return what a turn is given. Raises LoadFailed."""
        settings, house = self.settings, self.house
        output = None if settings.output is None else Output.of(settings.output, house.loaded.folder)
        chain = json.loads(job.args).get("chain")
        return Scene(
            house=house,
            agent=self.agent,
            settings=settings,
            state=self.state,
            job=job,
            said=said,
            chain=Chain() if chain is None else Chain.model_validate(chain),
            toolbox=house.toolroom.toolbox(settings),
            output=output,
            tell=lambda kind, data: self._tell(job, kind, data),
        )

    def _tell(self, job: Claimed, kind: str, data: dict[str, Any]) -> None:
        """Tell whoever follows the job; nobody else pays for it."""
        bus = self.house.bus
        if bus.listens(job.id):
            bus.publish([Event(at=self.house.clock.now(), type=f"turn.{kind}", subject=job.id, data=data)])
