"""Every exception of the product as one tree: code, status and retry flag sit on the class.

Pydantic is imported when the first problem is built and not before: a child process pays 60 ms for it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from schemas.codes import CODES

if TYPE_CHECKING:
    from schemas.errors import ErrorClass, Problem


class UnderstudyError(Exception):
    """What every error of ours is. `code` is stable; `str(error)` is a sentence for a person.

    `data` holds facts for programs and never a secret. `retry_after` is in seconds.
    """

    code: ClassVar[str] = "internal"
    error_class: ClassVar[ErrorClass] = "permanent"

    def __init__(self, detail: str = "", *, retry_after: float | None = None, **data: Any) -> None:
        super().__init__(detail or CODES[self.code].title)
        self.data = data
        self.retry_after = retry_after

    @property
    def detail(self) -> str:
        """The sentence for a person."""
        return str(self.args[0])

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return CODES[self.code].retryable

    def problem(self, request_id: str | None = None) -> Problem:
        """Return this error in the shape in which it travels."""
        return problem(self.code, self.detail, request_id=request_id, retry_after=self.retry_after, data=self.data)


def problem(
    code: str,
    detail: str = "",
    *,
    request_id: str | None = None,
    retry_after: float | None = None,
    data: dict[str, Any] | None = None,
) -> Problem:
    """Build the `Problem` of *code*; status, title, hint and retry flag come from the table of codes."""
    from schemas.errors import Problem

    entry, detail = CODES[code], whole(detail)
    return Problem(
        code=code,
        title=entry.title,
        status=entry.status,
        detail=detail or entry.title,
        hint=entry.hint,
        retryable=entry.retryable,
        retry_after_ms=None if retry_after is None else int(retry_after * 1000),
        request_id=request_id,
        data=sayable(data) if data else {},
    )


def whole(text: str) -> str:
    """Return *text* with a question mark for each half of a character: no file and no socket could hold it."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def sayable(data: dict[str, Any]) -> dict[str, Any]:
    """Return *data* as JSON can say it, whatever an error of somebody's code brought along."""
    from pydantic_core import to_json

    try:
        to_json(data)
    except ValueError:
        try:
            said: dict[str, Any] = json.loads(whole(json.dumps(data, ensure_ascii=False, default=repr)))
        except (TypeError, ValueError, RecursionError):
            return {"unreadable": whole(repr(data)[:500])}
        return said
    return data


# -- actors ------------------------------------------------------------------------------------------------------------


class ActorError(UnderstudyError):
    """Something is wrong with the actor a message was meant for."""


class NoSuchActor(ActorError):
    """Nobody of that name was ever here."""

    code: ClassVar[str] = "actor.not_found"


class ActorStopped(ActorError):
    """The actor ended before it answered; the message was not handled."""

    code: ClassVar[str] = "actor.stopped"
    error_class: ClassVar[ErrorClass] = "transient"


class ActorCrashed(ActorError):
    """The handler raised; its supervisor decides what becomes of the actor."""

    code: ClassVar[str] = "actor.crashed"
    error_class: ClassVar[ErrorClass] = "bug"


class ActorQuarantined(ActorError):
    """The actor is parked with its mailbox until a person acts."""

    code: ClassVar[str] = "actor.quarantined"


class StartFailed(ActorError):
    """The actor's `on_start` raised or took too long."""

    code: ClassVar[str] = "actor.start_failed"
    error_class: ClassVar[ErrorClass] = "transient"


class MailboxFull(ActorError):
    """The mailbox has no room and the message's type does not wait."""

    code: ClassVar[str] = "actor.mailbox_full"
    error_class: ClassVar[ErrorClass] = "transient"


class AskTimeout(ActorError):
    """The deadline passed before the answer came; the work was called off."""

    code: ClassVar[str] = "actor.timeout"
    error_class: ClassVar[ErrorClass] = "timeout"


class UnhandledMessage(ActorError):
    """The actor is well but has no handler for this type."""

    code: ClassVar[str] = "message.unhandled"


class UnknownMessageType(UnderstudyError):
    """No message class has that name."""

    code: ClassVar[str] = "message.unknown_type"


class MessageNotPublic(UnderstudyError):
    """The type is internal and may not come from outside."""

    code: ClassVar[str] = "message.not_public"


class RestartLimitReached(ActorError):
    """A supervisor's child crashed once too often; the supervisor gives up and its own parent decides."""

    code: ClassVar[str] = "actor.crashed"


# -- requests ----------------------------------------------------------------------------------------------------------


class RequestInvalid(UnderstudyError):
    """The request is well-formed and wrong."""

    code: ClassVar[str] = "request.invalid"


class RequestTooLarge(UnderstudyError):
    """More bytes than the limit; refused before they were read."""

    code: ClassVar[str] = "request.too_large"


class RequestCancelled(UnderstudyError):
    """Whoever asked has left, so the work was called off."""

    code: ClassVar[str] = "request.cancelled"
    error_class: ClassVar[ErrorClass] = "cancelled"


class Denied(UnderstudyError):
    """The peer may not do this."""

    code: ClassVar[str] = "request.denied"


class Draining(UnderstudyError):
    """The daemon takes no new work because it is stopping."""

    code: ClassVar[str] = "daemon.draining"
    error_class: ClassVar[ErrorClass] = "transient"


class Starting(UnderstudyError):
    """The daemon is not ready yet."""

    code: ClassVar[str] = "daemon.starting"
    error_class: ClassVar[ErrorClass] = "transient"


class EventsExpired(UnderstudyError):
    """The replay was asked to begin before the oldest event that is kept."""

    code: ClassVar[str] = "events.expired"


# -- daemon ------------------------------------------------------------------------------------------------------------


class AlreadyRunning(UnderstudyError):
    """Another daemon holds the lock of this home."""

    code: ClassVar[str] = "daemon.already_running"


class HomeUnusable(UnderstudyError):
    """The state directory, its permissions or the socket's path cannot be used."""

    code: ClassVar[str] = "daemon.home"


class PackageShadowed(UnderstudyError):
    """A foreign package of one of our names is imported in place of ours."""

    code: ClassVar[str] = "daemon.shadowed"


# -- jobs --------------------------------------------------------------------------------------------------------------


class JobNotFound(UnderstudyError):
    """No job has that id."""

    code: ClassVar[str] = "job.not_found"


class AgentNotFound(UnderstudyError):
    """No agent has that name."""

    code: ClassVar[str] = "agent.not_found"


class UnknownKind(UnderstudyError):
    """Nothing is registered under that kind."""

    code: ClassVar[str] = "job.unknown_kind"


class KeyConflict(UnderstudyError):
    """The idempotency key exists with other arguments."""

    code: ClassVar[str] = "job.key_conflict"


class PayloadTooLarge(UnderstudyError):
    """The arguments of a job are over 256 KiB."""

    code: ClassVar[str] = "job.payload_too_large"


class ResultTooLarge(UnderstudyError):
    """The result of a job is over 1 MiB."""

    code: ClassVar[str] = "job.result_too_large"


class NotRetryable(UnderstudyError):
    """The job is in a state from which nobody retries it."""

    code: ClassVar[str] = "job.not_retryable"


class LeaseLost(UnderstudyError):
    """The attempt no longer owns the job; nothing it writes counts any more."""

    code: ClassVar[str] = "job.lease_lost"
    error_class: ClassVar[ErrorClass] = "lost"


class JobTimeout(UnderstudyError):
    """The attempt ran longer than its timeout."""

    code: ClassVar[str] = "job.timeout"
    error_class: ClassVar[ErrorClass] = "timeout"


class JobCrashed(UnderstudyError):
    """The job's own process died by a signal that was not ours."""

    code: ClassVar[str] = "job.crashed"
    error_class: ClassVar[ErrorClass] = "lost"


class JobFailed(UnderstudyError):
    """The job's code raised, or its command ended with an error."""

    code: ClassVar[str] = "job.failed"
    error_class: ClassVar[ErrorClass] = "transient"


class JobCancelled(UnderstudyError):
    """A person or a program asked the job to end."""

    code: ClassVar[str] = "job.cancelled"
    error_class: ClassVar[ErrorClass] = "cancelled"


class UnknownParent(UnderstudyError):
    """There is no job of the id that another is to depend on, or to be a part of."""

    code: ClassVar[str] = "job.unknown_parent"


class JobCycle(UnderstudyError):
    """Jobs of a batch wait for one another; `data["path"]` has their refs."""

    code: ClassVar[str] = "job.cycle"


class BatchInvalid(UnderstudyError):
    """A batch has a ref twice, or names one that it does not have."""

    code: ClassVar[str] = "job.batch_invalid"


class SignalRefused(UnderstudyError):
    """The job has ended, or too many signals wait for it already."""

    code: ClassVar[str] = "job.signal_refused"


class QueueDraining(UnderstudyError):
    """The queue runs what is in it and takes nothing new."""

    code: ClassVar[str] = "queue.draining"


class WorkerNotFound(UnderstudyError):
    """There is no worker of a pool with this name."""

    code: ClassVar[str] = "worker.not_found"


class PoolNotFound(UnderstudyError):
    """There is no pool of this name."""

    code: ClassVar[str] = "pool.not_found"


class StepRepeated(UnderstudyError):
    """A second step of the same name within one attempt: which of them is on record could not be told."""

    code: ClassVar[str] = "job.step_repeated"


class StepAmbiguous(UnderstudyError):
    """An earlier attempt began the step and did not live to say how it ended, and it must not be run twice."""

    code: ClassVar[str] = "job.step_ambiguous"


class StepUnfit(UnderstudyError):
    """A step's output is over 1 MiB, or nothing that JSON can say."""

    code: ClassVar[str] = "job.step_unfit"


class TooManySteps(UnderstudyError):
    """The job has 10,000 steps on record already."""

    code: ClassVar[str] = "job.too_many_steps"


# -- schedules ---------------------------------------------------------------------------------------------------------


class ScheduleInvalid(UnderstudyError):
    """The cron text or the time zone means nothing; `data["field"]` is `cron` or `tz`."""

    code: ClassVar[str] = "schedule.invalid"


class ScheduleNotFound(UnderstudyError):
    """There is no schedule of this name."""

    code: ClassVar[str] = "schedule.not_found"


class ScheduleExists(UnderstudyError):
    """There is a schedule of this name already."""

    code: ClassVar[str] = "schedule.exists"


class ScheduleFromConfig(UnderstudyError):
    """The configuration defines this schedule, so it is changed and removed there."""

    code: ClassVar[str] = "schedule.from_config"


# -- store -------------------------------------------------------------------------------------------------------------


class StoreError(UnderstudyError):
    """The database did not do it; unless a subclass says otherwise the outcome is unknown."""

    code: ClassVar[str] = "store.failed"
    error_class: ClassVar[ErrorClass] = "transient"


class StoreFull(StoreError):
    """No space is left; nothing was written."""

    code: ClassVar[str] = "store.full"


class StoreReadOnly(StoreError):
    """The database or its disk cannot be written; nothing was written."""

    code: ClassVar[str] = "store.read_only"


class StoreBusy(StoreError):
    """Another program holds the database's lock; nothing was written."""

    code: ClassVar[str] = "store.busy"


class StoreNewer(StoreError):
    """The database was written by a newer version and is not touched."""

    code: ClassVar[str] = "store.newer"
    error_class: ClassVar[ErrorClass] = "permanent"


class StoreMismatch(StoreError):
    """The database is not the one `state.json` describes."""

    code: ClassVar[str] = "store.mismatch"
    error_class: ClassVar[ErrorClass] = "permanent"


class StoreCorrupt(StoreError):
    """The database file is damaged."""

    code: ClassVar[str] = "store.corrupt"
    error_class: ClassVar[ErrorClass] = "permanent"


class StoreRejected(StoreError):
    """The database refuses what was to be written for what is in it; nothing was written, and no later try will be."""

    code: ClassVar[str] = "store.rejected"
    error_class: ClassVar[ErrorClass] = "permanent"


class VersionConflict(StoreError):
    """A row was saved by somebody else since it was read; nothing was written."""

    code: ClassVar[str] = "store.failed"


# -- agents ------------------------------------------------------------------------------------------------------------


class StateUnreadable(UnderstudyError):
    """A saved state does not fit its class; only a person can mend it."""

    code: ClassVar[str] = "agent.state_unreadable"


class AgentBusy(UnderstudyError):
    """A turn runs in the conversation, and the agent refuses words meanwhile (`when_busy = "reject"`)."""

    code: ClassVar[str] = "agent.busy"
    error_class: ClassVar[ErrorClass] = "transient"


class AgentExists(UnderstudyError):
    """An agent of that name is there already."""

    code: ClassVar[str] = "agent.exists"


class AgentFromConfig(UnderstudyError):
    """The agent is defined in the configuration file, so it is changed there."""

    code: ClassVar[str] = "agent.from_config"


class AgentInvalid(UnderstudyError):
    """The settings of an agent cannot be used."""

    code: ClassVar[str] = "agent.invalid"


class WaitCycle(UnderstudyError):
    """Agents would wait for one another for ever; `data["path"]` names them."""

    code: ClassVar[str] = "agent.wait_cycle"


class TooManyHops(UnderstudyError):
    """A word was passed on from agent to agent too often; `data["path"]` names them."""

    code: ClassVar[str] = "agent.hops"


class BudgetSpent(UnderstudyError):
    """A limit of what an agent may use is reached; `data["limit"]` names it."""

    code: ClassVar[str] = "agent.budget"


class OutputInvalid(UnderstudyError):
    """The model's answer does not fit the schema it has to fit, repairs included."""

    code: ClassVar[str] = "agent.output_invalid"


class ConversationNotFound(UnderstudyError):
    """The agent has no conversation of that name."""

    code: ClassVar[str] = "conversation.not_found"


class ConversationExists(UnderstudyError):
    """The agent has a conversation of that name."""

    code: ClassVar[str] = "conversation.exists"


class ApprovalNotFound(UnderstudyError):
    """There is no approval of that id."""

    code: ClassVar[str] = "approval.not_found"


class ApprovalAnswered(UnderstudyError):
    """Somebody has answered already, or it has expired."""

    code: ClassVar[str] = "approval.answered"


class ApprovalInvalid(UnderstudyError):
    """An approval does not cover this call: other arguments, expired, used, or not allowed."""

    code: ClassVar[str] = "approval.invalid"


class GrantNotFound(UnderstudyError):
    """There is no such standing permission."""

    code: ClassVar[str] = "approval.grant_not_found"


class RunNotFound(UnderstudyError):
    """There is no run of that id."""

    code: ClassVar[str] = "run.not_found"


class ProviderNotFound(UnderstudyError):
    """There is no provider of that name."""

    code: ClassVar[str] = "provider.not_found"


# -- tools -------------------------------------------------------------------------------------------------------------


class ToolError(UnderstudyError):
    """A tool did not do what was asked. The model is told; it is never the agent's crash.

    `str(error)` is written for the model: what went wrong and what to do instead.
    """

    code: ClassVar[str] = "tool.failed"


class ToolDenied(ToolError):
    """The agent may not make this call."""

    code: ClassVar[str] = "tool.denied"


class ToolUnknown(ToolError):
    """There is no such tool, or its source is not there."""

    code: ClassVar[str] = "tool.unknown"


class ToolInvalid(ToolError):
    """The arguments do not fit the tool's schema."""

    code: ClassVar[str] = "tool.invalid"


class ToolTimeout(ToolError):
    """The call took too long."""

    code: ClassVar[str] = "tool.timeout"
    error_class: ClassVar[ErrorClass] = "timeout"


class McpUnavailable(ToolError):
    """The MCP server is not up."""

    code: ClassVar[str] = "mcp.unavailable"
    error_class: ClassVar[ErrorClass] = "transient"


# -- models ------------------------------------------------------------------------------------------------------------


class LlmError(UnderstudyError):
    """A model provider failed. It is never the actor's crash and never spends a restart."""

    code: ClassVar[str] = "llm.overloaded"
    error_class: ClassVar[ErrorClass] = "transient"


class LlmAuth(LlmError):
    """401 or 403."""

    code: ClassVar[str] = "llm.auth"
    error_class: ClassVar[ErrorClass] = "permanent"


class LlmRateLimited(LlmError):
    """429; `retry_after` holds the provider's wish in seconds where it named one."""

    code: ClassVar[str] = "llm.rate_limited"
    error_class: ClassVar[ErrorClass] = "rate_limited"


class LlmOverloaded(LlmError):
    """408, 409 or 5xx."""

    code: ClassVar[str] = "llm.overloaded"


class LlmUnreachable(LlmError):
    """No connection, or it broke before the first byte."""

    code: ClassVar[str] = "llm.unreachable"


class LlmTimeout(LlmError):
    """One of the four deadlines passed: connect, first byte, between chunks, total."""

    code: ClassVar[str] = "llm.timeout"
    error_class: ClassVar[ErrorClass] = "timeout"


class LlmCut(LlmError):
    """The stream ended without its terminal mark; `data["partial"]` is what came."""

    code: ClassVar[str] = "llm.cut"


class LlmProtocol(LlmError):
    """What came back is not the protocol."""

    code: ClassVar[str] = "llm.protocol"
    error_class: ClassVar[ErrorClass] = "permanent"


class LlmRequest(LlmError):
    """The provider refused the request as wrong (4xx)."""

    code: ClassVar[str] = "llm.request"
    error_class: ClassVar[ErrorClass] = "permanent"


class LlmContext(LlmError):
    """The conversation does not fit the model's window."""

    code: ClassVar[str] = "llm.context"
    error_class: ClassVar[ErrorClass] = "permanent"


class LlmTooLarge(LlmError):
    """The answer passed the byte cap."""

    code: ClassVar[str] = "llm.too_large"
    error_class: ClassVar[ErrorClass] = "permanent"


class LlmUnexpected(LlmError):
    """The scripted model was asked something its script does not hold."""

    code: ClassVar[str] = "llm.unexpected"
    error_class: ClassVar[ErrorClass] = "permanent"


class LocalModelMissing(LlmError):
    """The extra `local` or the model file is not there."""

    code: ClassVar[str] = "llm.local_missing"
    error_class: ClassVar[ErrorClass] = "permanent"


# -- configuration -----------------------------------------------------------------------------------------------------


class ConfigError(UnderstudyError):
    """The configuration cannot be used."""

    code: ClassVar[str] = "config.invalid"


class ConfigInvalid(ConfigError):
    """The file has mistakes; `data["mistakes"]` lists each with its place."""

    code: ClassVar[str] = "config.invalid"


class ConfigNotFound(ConfigError):
    """The named file does not exist."""

    code: ClassVar[str] = "config.not_found"


class ConfigUnsafe(ConfigError):
    """Somebody else could change the file, or code that it names."""

    code: ClassVar[str] = "config.unsafe"


class LoadFailed(ConfigError):
    """Code that the configuration names cannot be imported or is not what it should be."""

    code: ClassVar[str] = "config.load_failed"


class SecretUnavailable(ConfigError):
    """A secret's reference leads nowhere."""

    code: ClassVar[str] = "secret.unavailable"
