"""The kinds of job: what each takes, where it runs, and how a submitted job becomes a row."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pydantic import Field, ValidationError

from actors import encoding
from runtime.errors import (
    AgentNotFound,
    BatchInvalid,
    JobCycle,
    MessageNotPublic,
    PayloadTooLarge,
    QueueDraining,
    RequestInvalid,
    UnderstudyError,
    UnknownKind,
)
from runtime.store.port import Edge, JobRow
from schemas.agents import Chain, Say
from schemas.base import MESSAGE_TYPES, Model
from schemas.config import AgentSettings, KindSettings, QueueSettings, Settings
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
    chain: Chain | None = None


USUAL: Final = RetryPolicy()


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    user_code  it runs the user's code inside the daemon, so it can bring the daemon down
    instant    it is done in one step, so there is nothing to cancel or to wait for
    per_process  so many of its jobs run in one process, one after another
    says       which of `max_attempts` and `retry` its table has; what it does not say, its queue may
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
    heartbeat_ms: int | None = None
    limit_key: str | None = None
    limit_max: int = 1
    per_process: int = 1
    says: frozenset[str] = frozenset()

    @cached_property
    def has_more(self) -> bool:
        """Whether its jobs get something that most jobs do not have."""
        return self.limit_key is not None or self.heartbeat_ms is not None

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
        self._queues: Mapping[str, QueueSettings] = {}
        self._draining: dict[str, str] = {}
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Know what *settings* define from now on."""
        self._kinds = {kind.name: kind for kind in BUILT_IN}
        self._kinds |= {name: of_user(name, kind) for name, kind in settings.kinds.items()}
        self._agents = settings.agents
        self._queues = settings.queues

    def names(self) -> tuple[str, ...]:
        """Return every kind's name, agents' messages among them."""
        return (*sorted(self._kinds), AGENT_MESSAGE)

    def get(self, name: str) -> Kind | None:
        """Return the kind called *name*."""
        return self._kinds.get(name)

    def drain(self, queue: str, by: str | None) -> None:
        """Take no new jobs for a queue that *by* drains; None: take them again."""
        self._draining.pop(queue, None)
        if by is not None:
            self._draining[queue] = by

    def _check_open(self, queue: str) -> None:
        if queue in self._draining:
            raise QueueDraining(f"the queue {queue} takes no new jobs: {self._draining[queue]} is draining it")

    def prepare(self, job: NewJob, job_id: str, now: int, *, inside: bool = False) -> JobRow:
        """Return the row of a submitted job. Refuses at the door: UnknownKind, AgentNotFound, RequestInvalid,
        PayloadTooLarge, QueueDraining.
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
        queue = job.queue or kind.queue
        if self._draining:
            self._check_open(queue)
        return row(job, job_id, now, kind, queue, config=self._queues.get(queue))

    def prepare_batch(
        self, jobs: Sequence[NewJob], new_id: Callable[[], str], now: int
    ) -> tuple[tuple[JobRow, ...], tuple[int, ...]]:
        """Return the rows of a batch, parents before what depends on them, and the place each had in the batch.

        A `#ref` becomes the id of the job of the batch with that ref. Refuses at the door, beside what `prepare`
        refuses: BatchInvalid (a ref twice, or one that is not there) and JobCycle.
        """
        ids = [new_id() for _ in jobs]
        places: dict[str, int] = {}
        for place, job in enumerate(jobs):
            if job.ref is not None:
                if job.ref in places:
                    raise BatchInvalid(f"the ref {job.ref!r} is there twice: jobs {places[job.ref]} and {place}")
                places[job.ref] = place
        order = in_order(jobs, places)
        rows = []
        for place in order:
            given = self._prepare_one(place, jobs[place], ids[place], now)
            if given.depends_on:
                given.depends_on = tuple(
                    replace(edge, parent=ids[places[edge.parent[1:]]]) if edge.parent[0] == "#" else edge
                    for edge in given.depends_on
                )
            if given.parent is not None and given.parent[0] == "#":
                given.parent = ids[places[given.parent[1:]]]
            rows.append(given)
        return tuple(rows), tuple(order)

    def _prepare_one(self, place: int, job: NewJob, job_id: str, now: int) -> JobRow:
        """Return the row of one job of a batch; what is refused names its place."""
        try:
            return self.prepare(job, job_id, now)
        except UnderstudyError as error:
            raise type(error)(f"job {place} of the batch: {error.detail}", **error.data) from None

    def payload(self, value: Any) -> str:
        """Return the payload of a signal as JSON text. Raises RequestInvalid, PayloadTooLarge."""
        return sized(json_text(value, "the payload"), "payload")

    def _prepare_message(self, job: NewJob, job_id: str, now: int, *, inside: bool) -> JobRow:
        args: MessageArgs = checked(MessageArgs, job.args, "the message")
        agent = self._agents.get(args.agent)
        if agent is None:
            known = sorted(self._agents)
            raise AgentNotFound(f"there is no agent {args.agent!r}; there are: {', '.join(known)}", known=known)
        if args.chain is not None and not inside:
            raise RequestInvalid("where a message has come from is written by the runtime and cannot be claimed")
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
            says=frozenset(agent.model_fields_set & {"max_attempts"}),
        )
        queue = f"agent:{args.agent}"
        self._check_open(queue)
        return row(job, job_id, now, kind, queue, conversation, config=self._queues.get(queue))


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
        heartbeat_ms=settings.heartbeat_timeout,
        limit_key=settings.limit_key,
        limit_max=settings.limit_max,
        per_process=settings.jobs_per_process,
        says=frozenset(settings.model_fields_set & {"max_attempts", "retry"}),
    )


def in_order(jobs: Sequence[NewJob], places: Mapping[str, int]) -> list[int]:
    """Return the places of a batch with parents first, else as given. Raises BatchInvalid, JobCycle."""
    if not any(job.depends_on or job.parent is not None for job in jobs):
        return list(range(len(jobs)))
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for place, job in enumerate(jobs):
        named = [edge.job for edge in job.depends_on] + ([job.parent] if job.parent is not None else [])
        refs = [name[1:] for name in named if name.startswith("#")]
        if missing := [ref for ref in refs if ref not in places]:
            raise BatchInvalid(f"job {place} names #{missing[0]}, and no job of the batch has that ref")
        if len(set(named)) != len(named):
            raise BatchInvalid(f"job {place} names one job twice")
        sorter.add(place, *(places[ref] for ref in refs))
    try:
        return list(sorter.static_order())
    except CycleError as error:
        path = [jobs[place].ref or str(place) for place in reversed(error.args[1])]
        raise JobCycle(f"these jobs wait for one another: {' -> '.join(path)}", path=path) from None


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


def json_text(value: Any, what: str) -> str:
    """Return *value* as JSON that every store takes: equal values are equal text. Raises RequestInvalid."""
    try:
        return encoding.in_order(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestInvalid(f"{what} cannot be written as JSON: {type(error).__name__}") from None


def sized(text: str, what: str) -> str:
    """Return JSON text that is not too large. Raises PayloadTooLarge."""
    if len(text) * 4 > MAX_PAYLOAD and (size := len(text.encode())) > MAX_PAYLOAD:
        raise PayloadTooLarge(f"there are {size} bytes of {what}; at most {MAX_PAYLOAD} are taken")
    return text


def row(
    job: NewJob,
    job_id: str,
    now: int,
    kind: Kind,
    queue: str,
    conversation: str | None = None,
    config: QueueSettings | None = None,
) -> JobRow:
    """Lay a job out as a row; what the job does not say comes from its kind, then from its queue."""
    due = now + job.delay_ms if job.run_at is None else job.run_at
    made = JobRow(  # by position: this is done for every job
        job_id,
        kind.name,
        queue,
        kind.lane,
        sized(json_text(job.args, "the arguments"), "arguments"),
        job.priority,
        due,
        job.max_attempts or kind.retry.max_attempts,
        kind.timeout_ms,
        kind.retry_text,
        job.key,
        sized(json_text(job.data, "the data"), "data") if job.data else None,
        conversation,
        kind.user_code,
    )
    if config is not None:
        of_queue(made, job, kind, config)
    if kind.has_more or not PLAIN.issuperset(job.model_fields_set):
        rarely(made, job, now, kind)
    return made


PLAIN: Final = frozenset({"kind", "args", "queue", "priority", "delay_ms", "run_at", "key", "max_attempts", "data"})
"""What most jobs are submitted with; anything else is looked at one by one."""


def of_queue(made: JobRow, job: NewJob, kind: Kind, config: QueueSettings) -> None:
    """Fill in what neither the job nor its kind says, and its queue does."""
    policy = kind.retry
    if config.max_attempts is not None and job.max_attempts is None and "max_attempts" not in kind.says:
        made.max_attempts = config.max_attempts
        policy = policy.model_copy(update={"max_attempts": config.max_attempts})
    if config.retry is not None and "retry" not in kind.says:
        wait = config.retry
        policy = policy.model_copy(
            update={"base_ms": wait.base, "factor": wait.factor, "max_ms": wait.max, "jitter": wait.jitter}
        )
    if policy is not kind.retry:
        made.retry = policy.model_dump_json()


def rarely(made: JobRow, job: NewJob, now: int, kind: Kind) -> None:
    """Fill in what few jobs have."""
    if job.retry is not None:
        made.retry = job.retry.model_dump_json()
        if "max_attempts" in job.retry.model_fields_set and job.max_attempts is None:
            made.max_attempts = job.retry.max_attempts
    if job.deadline_ms is not None:
        made.deadline_at = now + job.deadline_ms
    made.timeout_ms = job.timeout_ms or kind.timeout_ms
    made.heartbeat_ms = job.heartbeat_ms or kind.heartbeat_ms
    made.unique = job.unique
    made.tags = tuple(dict.fromkeys(job.tags))
    made.parent = job.parent
    made.depends_on = tuple(Edge(edge.job, edge.on_failure) for edge in job.depends_on)
    made.limit_key = job.limit_key or kind.limit_key
    made.limit_max = job.limit_max if job.limit_key is not None else kind.limit_max
    made.tokens = job.tokens
    if len({edge.parent for edge in made.depends_on}) != len(made.depends_on):
        raise RequestInvalid("depends_on names one job twice")
