"""The kinds of job: what each takes, where it runs, and how a submitted job becomes a row."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from pydantic import Field, ValidationError

from runtime.errors import AgentNotFound, MessageNotPublic, PayloadTooLarge, RequestInvalid, UnknownKind
from runtime.store.port import JobRow
from schemas.agents import Say
from schemas.base import MESSAGE_TYPES, Model
from schemas.config import AgentSettings, KindSettings, Settings
from schemas.jobs import MAX_PAYLOAD, Lane, NewJob, RetryPolicy

AGENT_MESSAGE: Final = "agent.message"
DEFAULT_QUEUE: Final = "default"
DEFAULT_TIMEOUT_MS: Final = 300_000


class SleepArgs(Model):
    """`sleep`: wait this long."""

    seconds: float = Field(ge=0, le=86_400, strict=False)


class ShellArgs(Model):
    """`shell`: run a command given as a list of words. It is never shell text: name a shell if you want one."""

    argv: tuple[str, ...] = Field(min_length=1, max_length=1000)
    cwd: str | None = None
    env: dict[str, str] = Field(default_factory=dict, description="added to the few variables a child may see")
    stdin: str = ""


class MessageArgs(Model):
    """`agent.message`: a durable message for an agent; plain words are `agent.say`."""

    agent: str
    type: str = Say.TYPE
    message: dict[str, Any] = Field(default_factory=dict)


USUAL: Final = RetryPolicy()


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    user_code  it runs the user's code inside the daemon, so it can bring the daemon down
    instant    it is done in one step, so there is nothing to cancel or to wait for
    """

    name: str
    lane: Lane
    queue: str = DEFAULT_QUEUE
    timeout_ms: int | None = DEFAULT_TIMEOUT_MS
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    args: type[Model] | None = None
    run: str | None = None
    user_code: bool = False
    instant: bool = False

    @cached_property
    def retry_text(self) -> str | None:
        """The policy as it is kept with a job; nothing where it is the usual one."""
        return None if self.retry == USUAL else self.retry.model_dump_json()


BUILT_IN: Final = (
    Kind("echo", "loop", instant=True),
    Kind("sleep", "loop", timeout_ms=None, args=SleepArgs),
    Kind("shell", "child", args=ShellArgs),
)


class Kinds:
    """The kinds that the configuration in force knows; pure but for the configuration it is given."""

    def __init__(self, settings: Settings) -> None:
        self._kinds: dict[str, Kind] = {}
        self._agents: Mapping[str, AgentSettings] = {}
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Know what *settings* define from now on."""
        self._kinds = {kind.name: kind for kind in BUILT_IN}
        self._kinds |= {name: of_user(name, kind) for name, kind in settings.kinds.items()}
        self._agents = settings.agents

    def names(self) -> tuple[str, ...]:
        """Return every kind's name, agents' messages among them."""
        return (*sorted(self._kinds), AGENT_MESSAGE)

    def get(self, name: str) -> Kind | None:
        """Return the kind called *name*."""
        return self._kinds.get(name)

    def prepare(self, job: NewJob, job_id: str, now: int, *, inside: bool = False) -> JobRow:
        """Return the row of a submitted job. Refuses at the door: UnknownKind, AgentNotFound, RequestInvalid,
        PayloadTooLarge.
        """
        if job.kind == AGENT_MESSAGE:
            return self._prepare_message(job, job_id, now, inside=inside)
        kind = self._kinds.get(job.kind)
        if kind is None:
            raise UnknownKind(f"there is no kind {job.kind!r}; known: {', '.join(self.names())}", known=self.names())
        if job.queue is not None and job.queue.startswith("agent:"):
            raise RequestInvalid(
                f"the queue {job.queue} takes messages for its agent only; submit {AGENT_MESSAGE} instead"
            )
        if kind.args is not None:
            checked(kind.args, job.args, f"the arguments of {job.kind}")
        return row(job, job_id, now, kind, job.queue or kind.queue)

    def _prepare_message(self, job: NewJob, job_id: str, now: int, *, inside: bool) -> JobRow:
        args: MessageArgs = checked(MessageArgs, job.args, "the message")
        agent = self._agents.get(args.agent)
        if agent is None:
            known = sorted(self._agents)
            raise AgentNotFound(f"there is no agent {args.agent!r}; there are: {', '.join(known)}", known=known)
        conversation = "main"
        message = MESSAGE_TYPES.get(args.type)
        if message is not None:
            if not message.DURABLE:  # what actors tell each other must not be forged by a job
                raise RequestInvalid(f"the message {args.type} is not durable, so it cannot be a job")
            if not (inside or message.PUBLIC):
                raise MessageNotPublic(f"the message {args.type} is not public; only actors may send it")
            named = getattr(checked(message, args.message, f"the message {args.type}"), "conversation", "main")
            conversation = named if isinstance(named, str) else "main"
        kind = Kind(
            AGENT_MESSAGE,
            "agent",
            timeout_ms=None,
            retry=RetryPolicy(max_attempts=agent.max_attempts),
            user_code=agent.actor is not None,
        )
        return row(job, job_id, now, kind, f"agent:{args.agent}", conversation)


def of_user(name: str, settings: KindSettings) -> Kind:
    """Return the kind that a table of the configuration defines."""
    return Kind(
        name,
        "loop" if settings.in_loop else "child",
        queue=settings.queue,
        timeout_ms=settings.timeout,
        retry=settings.retry_policy(),
        run=settings.run,
        user_code=settings.in_loop,
    )


def checked(model: type[Any], value: Mapping[str, Any], what: str) -> Any:
    """Return *value* as *model*. Raises RequestInvalid that names every place, and never quotes what was sent."""
    try:
        return model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        faults = [
            {"loc": list(fault["loc"]), "msg": fault["msg"], "type": fault["type"]}
            for fault in error.errors(include_input=False, include_url=False)
        ]
        places = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}" for fault in faults)
        raise RequestInvalid(f"{what} are not valid: {places}", errors=faults) from None


# Made once: json.dumps with other than its defaults makes a new encoder at each call.
encode_sorted: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


def json_text(value: Any, what: str) -> str:
    """Return *value* as JSON that every store takes: equal values are equal text. Raises RequestInvalid."""
    try:
        text = encode_sorted(value)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestInvalid(f"{what} cannot be written as JSON: {type(error).__name__}") from None
    return text


def row(job: NewJob, job_id: str, now: int, kind: Kind, queue: str, conversation: str | None = None) -> JobRow:
    """Lay a job out as a row; what the job does not say comes from its kind."""
    args = json_text(job.args, "the arguments")
    if (size := len(args.encode())) > MAX_PAYLOAD:
        raise PayloadTooLarge(f"the arguments have {size} bytes; at most {MAX_PAYLOAD} are taken")
    return JobRow(
        id=job_id,
        kind=kind.name,
        queue=queue,
        lane=kind.lane,
        args=args,
        priority=job.priority,
        execute_after=now + job.delay_ms,
        max_attempts=job.max_attempts or kind.retry.max_attempts,
        timeout_ms=job.timeout_ms or kind.timeout_ms,
        retry=kind.retry_text,
        key=job.key,
        data=json_text(job.data, "the data") if job.data else None,
        conversation=conversation,
        user_code=kind.user_code,
    )
