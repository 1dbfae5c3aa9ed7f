"""The actor that keeps its state: a handler works on a draft, and draft, answered job and all it sent are one commit.

```python
from runtime.stateful import AgentState, StatefulActor, handles
from schemas.base import Request

class Add(Request[int], type="demo.add", public=True):
    n: int

class Counter(StatefulActor):
    class State(AgentState):
        total: int = 0

    state: State

    @handles
    def add(self, message: Add) -> int:
        self.state.total += message.n
        return self.state.total
```

The reply leaves when the new state is on the disk. A handler that raises leaves the state as it was last committed. A
durable message (`durable=True` on its class, or `understudy ask`) is a job on the actor's own queue: state and job
end in one commit, so it takes effect once however often it is tried.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from anyio import get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled
from pydantic import BaseModel, TypeAdapter, ValidationError

from runtime.attempt import CANCELLED, STOPPED, outcome_of, seconds_for, tell_surely, too_late
from runtime.core.actor import Actor, Envelope, handles
from runtime.core.handlers import ASYNC, table_of
from runtime.errors import (
    ActorStopped,
    LoadFailed,
    NoSuchActor,
    RequestInvalid,
    ResultTooLarge,
    StateUnreadable,
    UnhandledMessage,
    UnknownMessageType,
)
from runtime.house import House
from runtime.outcomes import Outcome as Said
from runtime.store import port
from schemas.agents import AgentState, Answered, Say
from schemas.base import MESSAGE_TYPES, Message
from schemas.jobs import (
    MAX_RESULT,
    Claimed,
    Fence,
    JobEnded,
    JobSettled,
    NewJob,
    Outcome,
    RunJob,
    WorkerReady,
)

__all__ = ["AgentState", "StatefulActor", "handles"]

MAX_STATE: Final = 1024 * 1024
ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class StatefulActor(Actor):
    """Base of agents of your own, and of the built-in one.

    State          a pydantic model with a default for each field; `self.state` is the draft during a handler
    STATE_VERSION  raise it when the shape of State changes
    UPGRADES       how a state of version n becomes one of version n + 1
    slots          how many durable messages it takes at once
    options        the `options` table of the agent's configuration

    A state that cannot be read quarantines this actor alone, and is never deleted.
    """

    State: type[BaseModel] = AgentState
    STATE_VERSION: ClassVar[int] = 1
    UPGRADES: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    USER_CODE: ClassVar[bool] = True

    state: Any
    house: House
    options: Mapping[str, Any]
    slots: int = 1

    def place(self, house: House, options: Mapping[str, Any]) -> "StatefulActor":
        """Give a new instance its house and its options; the runtime does this before `on_start`."""
        self.house, self.options = house, options
        return self

    # -- what a subclass may use -------------------------------------------------------------------------------------

    async def on_ready(self) -> None:
        """Get ready, with the saved state in `self.state`. What it changes there is committed with the first
        message.
        """

    def submit(self, job: NewJob) -> str:
        """Send a job with this step's commit; return its id. Raises what submitting raises (UnknownKind,
        RequestInvalid).
        """
        if job.key is not None:  # whether a key is known shows only when it is too late to tell the handler
            raise RequestInvalid("a job that is sent with a step takes no key: the step takes effect once as it is")
        now = self.house.clock.now()
        row = self.house.prepare(job, self.house.clock.new_id(), now)
        self._step.append(port.InsertJobs((row,), now))
        return row.id

    def emit(self, kind: str, **data: Any) -> None:
        """Tell an event with this step's commit; its type becomes `agent.KIND`."""
        self._step.append(
            port.AppendEvents(((f"agent.{kind}", self.ctx.name, json.dumps(data)),), self.house.clock.now())
        )

    def also(self, *changes: port.Change) -> None:
        """Have *changes* committed with this step."""
        self._step += changes

    # -- life --------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        self._step: list[port.Change] = []
        row = await self.house.store.state(self.agent)
        self._version = row.version if row else 0
        self.state = self._read(row)
        self._saved = self.state.model_dump_json() if row else ""
        await self.on_ready()
        self._good = self.state.model_dump_json()
        await self.ctx.actor("queue").tell(
            WorkerReady(
                worker=self.ctx.name,
                lane="agent",
                queue=self.ctx.name,
                slots=self.slots,
                user_code=self.USER_CODE,
                incarnation=self.ctx.incarnation,
            )
        )

    @property
    def agent(self) -> str:
        """The agent's name, without the `agent:` of its cell."""
        return self.ctx.name.removeprefix("agent:")

    def _read(self, row: port.StateRow | None) -> Any:
        try:
            return self.State() if row is None else self.State.model_validate(self._upgraded(row))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'state'}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            )
            if row is None:
                raise LoadFailed(f"{type(self).__name__}.State needs a default for each field: {faults}") from None
            raise StateUnreadable(
                f"the saved state of {self.agent} does not fit {type(self).__name__}.State: {faults}"
            ) from None

    def _upgraded(self, row: port.StateRow) -> dict[str, Any]:
        """Return the saved state in the shape of today."""
        if row.schema_version > self.STATE_VERSION:
            raise StateUnreadable(
                f"the saved state of {self.agent} has version {row.schema_version},"
                f" this code knows {self.STATE_VERSION}"
            )
        state: dict[str, Any] = json.loads(row.state)
        for version in range(row.schema_version, self.STATE_VERSION):
            upgrade = self.UPGRADES.get(version)
            if upgrade is None:
                raise StateUnreadable(
                    f"{type(self).__name__}.UPGRADES does not say how state {version} becomes {version + 1}"
                )
            try:
                state = upgrade(state)
            except Exception as error:  # code of the user's; a restart would only raise it again
                raise StateUnreadable(
                    f"{type(self).__name__}.UPGRADES[{version}] raised {type(error).__name__}: {error}"
                ) from error
        return state

    # -- one commit for a step ---------------------------------------------------------------------------------------

    async def after_handler(self, envelope: Envelope, result: Any) -> Any:
        try:
            await self._commit()
        except Exception as error:
            if isinstance(envelope.message, RunJob):  # its handler went well and so reported nothing
                await self._report(envelope.message.job, outcome_of(error))
            raise
        return result

    async def on_handler_error(self, envelope: Envelope, error: Exception) -> None:
        """Drop the draft: the state is again what it was after the last good step."""
        self._step = []
        self.state = self.State.model_validate_json(self._good)

    async def _commit(self) -> None:
        """Write the draft, if it differs, and whatever else this step wants; memory follows the disk, not the other
        way.
        """
        state, changes = self.state.model_dump_json(), self._step
        self._step = []
        changed = state != self._saved and (self._version > 0 or state != self.State().model_dump_json())
        if changed:
            if len(state) > MAX_STATE:
                raise RequestInvalid(
                    f"the state of {self.agent} would have {len(state)} characters; at most {MAX_STATE} are kept"
                )
            changes = [self._save(state), *changes]
        if not changes:
            self._good = state
            return
        results = await self.house.store.commit(changes)
        self._good = state
        if changed:
            self._version, self._saved = results[0], state
        await self._tell_queue(changes)

    def _save(self, state: str) -> port.SaveState:
        return port.SaveState(
            agent=self.agent,
            state=state,
            schema_version=self.STATE_VERSION,
            expected=self._version,
            boot=self.house.boot,
            incarnation=self.ctx.incarnation,
            now=self.house.clock.now(),
        )

    async def _tell_queue(self, changes: list[port.Change]) -> None:
        """The queue did not see this commit; what moved it hears from the store, and here that there is room again."""
        queue = self.ctx.actor("queue")
        for change in changes:
            if isinstance(change, port.FinishJobs):
                for finish in change.finishes:
                    await tell_surely(queue, JobSettled(finish.fence))

    # -- durable messages --------------------------------------------------------------------------------------------

    def blame(self, envelope: Envelope) -> str | None:
        """A crash over a durable message spends the message's attempts, and counts once against the actor."""
        return envelope.message.job.id if isinstance(envelope.message, RunJob) else None

    @handles
    async def run(self, message: RunJob) -> None:
        """Handle a durable message: the job ends in the commit of the state it changed."""
        if message.incarnation not in (0, self.ctx.incarnation):
            return
        job = message.job
        outcome: Outcome | None = STOPPED
        try:
            with self.house.board.running(job, seconds_for(job, self.house.clock.now())) as attempt:
                if attempt.ending:  # the wish was here before us
                    await checkpoint_if_cancelled()
                reply = await self._answer(job)
                self.also(self._completed(job, reply))
                outcome = None
            if attempt.cancelled or attempt.timed_out:
                outcome = CANCELLED if attempt.cancelled else too_late(job, self.house.clock.now())
                await self.on_handler_error(self._envelope(), RuntimeError("cancelled"))
        except Said as said:  # a word about its job (Retry, Snooze, Fail, Cancel) is no crash of the actor
            outcome = outcome_of(said)
            await self.on_handler_error(self._envelope(), said)
        except Exception as error:
            outcome = outcome_of(error)
            raise
        except get_cancelled_exc_class() as stray:
            if self.ctx.system.loop.is_cancelled():
                raise
            crash = RuntimeError("the handler awaited something that was cancelled")
            outcome = outcome_of(crash)
            raise crash from stray
        finally:
            if outcome is not None:
                await self._report(job, outcome)

    def _envelope(self) -> Envelope:
        envelope = self.ctx.envelope
        assert envelope is not None
        return envelope

    async def _report(self, lease: Fence, outcome: Outcome) -> None:
        try:
            await tell_surely(self.ctx.actor("queue"), JobEnded(lease, outcome))
        except (ActorStopped, NoSuchActor):
            return  # the queue is gone; when it is back it takes the job from the database

    async def _answer(self, job: Claimed) -> Any:
        """Return what the handler of the message inside *job* returns."""
        message = decode(job)
        table = table_of(type(self), Actor)
        route = table.routes.get(type(message)) or table.route(type(message))
        if route is None:
            known = table.known
            raise UnhandledMessage(
                f"{self.agent} has no handler for {message.TYPE}", known=[k for k in known if k != RunJob.TYPE]
            )
        kind, method = route
        return await method(self, message) if kind == ASYNC else method(self, message)

    def _completed(self, job: Claimed, reply: Any) -> port.FinishJobs:
        if json.loads(job.args).get("type", Say.TYPE) == Say.TYPE:
            reply = Answered(text="" if reply is None else str(reply), conversation=job.conversation or "main")
        result = ANY.dump_json(reply)
        if len(result) > MAX_RESULT:
            raise ResultTooLarge(f"the result has {len(result)} bytes; at most {MAX_RESULT} are kept")
        finish = port.Finish(job, "completed", result=result.decode())
        return port.FinishJobs((finish,), self.house.clock.now(), strict=True)


def decode(job: Claimed) -> Message:
    """Return the message inside an agent's job. Raises UnknownMessageType, RequestInvalid."""
    args = json.loads(job.args)
    name = args.get("type", Say.TYPE)
    message_type = MESSAGE_TYPES.get(name)
    if message_type is None:
        raise UnknownMessageType(f"there is no message type {name!r}", type=name)
    try:
        return message_type.model_validate_json(json.dumps(args.get("message", {})))
    except ValidationError as error:
        raise RequestInvalid(f"the message {name} is not valid: {error.error_count()} mistakes", type=name) from None
