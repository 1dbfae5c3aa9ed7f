"""The shape of config.toml: every section, key, default and limit; times are read as text and kept in milliseconds."""

import math
import re
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.base import Model, Name
from schemas.jobs import Rate, RetryPolicy, Tag
from schemas.tools import Permission, ToolName

BUILTIN_PROVIDERS: Final = ("local", "scripted")
"""Providers that need no table: a model in a process of our own, and the deterministic one."""

BUILTIN_KINDS: Final = ("echo", "shell", "sleep")
"""Kinds of job that are always there and may not be defined again."""

MESSAGE_KINDS: Final = ("agent.message",)
"""Kinds of job that are always there and that an agent runs."""

GENERAL_POOLS: Final = ("loop", "child")
"""The two pools that are always there and serve every queue that has no pool of its own."""

PROVIDER_TYPES: Final = ("openai", "anthropic", "local", "scripted")

SECRET_SCHEMES: Final = ("env", "file", "cred", "cmd", "keyring", "vault")
"""What a secret's reference may begin with; `runtime.secrets.resolve` says which can be used now."""

OPENAI_URL: Final = "https://api.openai.com/v1"
ANTHROPIC_URL: Final = "https://api.anthropic.com"

_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_LONGEST: Final = 3650 * 86_400_000


def parse_duration(value: object) -> int:
    """Return the milliseconds that *value* means: text ("250ms", "30s", "5m", "2h", "7d") or a number of seconds.

    At most ten years. A fault is a `PydanticCustomError`, which pydantic reports at the value's place.
    """
    ms = math.nan
    if isinstance(value, str):
        if found := _DURATION.fullmatch(value.strip()):
            ms = float(found[1]) * _UNITS[found[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        ms = value * 1000.0 if abs(value) <= _LONGEST else math.inf
    if math.isnan(ms):
        raise PydanticCustomError("duration", 'write a time like "30s" (units: ms, s, m, h, d)')
    if not 0 <= ms <= _LONGEST:
        raise PydanticCustomError("duration", "a time is between 0 and 3650 days")
    return round(ms)


def _not_zero(ms: int) -> int:
    if ms < 1:
        raise PydanticCustomError("duration", 'a time must be at least "1ms" here')
    return ms


_DURATION_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)$"},
            {"type": "number", "minimum": 0},
        ],
        "description": 'a time such as "30s", or a number of seconds',
    }
)

Pause: TypeAlias = Annotated[int, BeforeValidator(parse_duration), _DURATION_SCHEMA]
"""A time that may be zero, in milliseconds once it is read."""

Duration: TypeAlias = Annotated[int, BeforeValidator(parse_duration), AfterValidator(_not_zero), _DURATION_SCHEMA]
"""A time of at least 1 ms, in milliseconds once it is read."""


def _reference(value: str) -> str:
    scheme, colon, rest = value.partition(":")
    if not (colon and rest and scheme in SECRET_SCHEMES):
        raise PydanticCustomError("secret_literal", "a secret is named here, never written out")
    return value


SecretRef: TypeAlias = Annotated[str, AfterValidator(_reference)]
"""Where a secret is to be found (`env:NAME`, `file:/path`), never the secret."""


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound, parts = False, urlsplit("")
    if not sound:
        raise PydanticCustomError("url", 'write an address like "https://host/v1"')
    if parts.username is not None or parts.password is not None:
        raise PydanticCustomError("url_secret", "no name or password inside the address; use api_key")
    if parts.query or parts.fragment:
        raise PydanticCustomError("url", "the address may have no ? or # part")
    return value.rstrip("/")


Url: TypeAlias = Annotated[str, AfterValidator(_url)]
"""An http or https address without a final slash and without credentials."""


def _new_kind(value: str) -> str:
    if value in BUILTIN_KINDS:
        raise PydanticCustomError("builtin_kind", f"the kind `{value}` is built in; give yours another name")
    return value


KindName: TypeAlias = Annotated[Name, AfterValidator(_new_kind)]


def _new_pool(value: str) -> str:
    if value in GENERAL_POOLS:
        key = "pool" if value == "loop" else "child_pool"
        raise PydanticCustomError(
            "general_pool", f"the pool `{value}` is always there; its size is `{key}` under [runtime]"
        )
    return value


PoolName: TypeAlias = Annotated[Name, AfterValidator(_new_pool)]

Reference: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$")]
"""`module:name`, looked for in the folder of the configuration first, then among what is installed."""

Strings: TypeAlias = Annotated[tuple[str, ...], Field(strict=False)]
"""A TOML array of text."""


class RuntimeSettings(Model):
    """`[runtime]`: how the daemon works; all of it needs a new start to change."""

    max_hops: int = Field(
        default=8, ge=1, le=100, description="how far a word may be passed on from agent to agent before it is refused"
    )
    lease: Duration = Field(default=30_000, description="how long a job belongs to a worker that is not heard of")
    heartbeat: Duration = Field(
        default_factory=lambda data: min(10_000, max(1, data["lease"] // 3)),
        description="how often a worker is heard of; a third of the lease, at most 10s, unless given",
    )
    drain: Pause = Field(default=30_000, description="how long running work may take to end when the daemon stops")
    grace: Pause = Field(default=5_000, description="how long a process has between the request to end and its kill")
    reconcile: Duration = Field(default=15_000, description="how often the queue compares memory with the database")
    pool: int | None = Field(default=None, ge=1, le=10_000, description="in-loop workers; 4 for each core unless given")
    child_pool: int | None = Field(
        default=None, ge=1, le=1_000, description="jobs in processes of their own at once; one a core unless given"
    )
    max_active: int | None = Field(
        default=None, ge=1, le=100_000, description="jobs that run at once, all queues together, agents' turns left out"
    )
    durability: Literal["full", "relaxed"] = Field(
        default="full",
        description="full: what was acknowledged survives a power loss; relaxed: it survives a crash only",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged"
    )

    @field_validator("heartbeat")
    @classmethod
    def _beats_twice_a_lease(cls, value: int, info: ValidationInfo) -> int:
        lease = info.data.get("lease")
        if lease is not None and value > lease // 2:
            raise PydanticCustomError(
                "heartbeat", "a heartbeat is at most half of the lease, else live workers lose jobs"
            )
        return value


WhenBusy: TypeAlias = Literal["enqueue", "steer", "interrupt", "reject", "rollback"]
"""What becomes of words for a conversation in which a turn runs: they wait; the running turn takes them in at its next
step; it is ended and what it did is kept, then they are answered; they are refused; it is ended as if it had never
been."""


class Timeouts(Model):
    """The four deadlines of a model call."""

    connect: Duration = Field(default=10_000, description="until there is a connection")
    first_byte: Duration = Field(default=60_000, description="from the request to the first byte of the answer")
    between: Duration = Field(default=60_000, description="between two pieces of the answer")
    total: Duration = Field(default=600_000, description="the whole call")


class LimitSettings(Model):
    """What all agents of a provider share: how many calls at once and a minute, and what a failed call is answered
    with.
    """

    concurrency: int | None = Field(default=None, ge=1, le=10_000, description="calls at once")
    requests_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000, description="calls that may start a minute"
    )
    tokens_per_minute: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="tokens a minute, by their estimates and then as they were"
    )
    retries: int = Field(
        default=2, ge=0, le=20, description="how often a call is repeated that failed before its answer"
    )
    retry_base: Pause = Field(
        default=500, description="the first wait between two tries; each next one is twice as long"
    )
    retry_cap: Pause = Field(
        default=20_000, description="the longest wait within a call; a provider that asks for more has the run put off"
    )
    breaker_failures: int = Field(
        default=5, ge=1, le=1000, description="failures in a row after which nobody is sent there for a while"
    )
    breaker_pause: Duration = Field(default=15_000, description="for how long; then one call is let through to try")


class PriceSettings(Model):
    """What a model costs, for a million tokens, in whatever currency your budgets are in."""

    input: float = Field(default=0.0, ge=0, le=1_000_000, description="for a million tokens that it reads")
    output: float = Field(default=0.0, ge=0, le=1_000_000, description="for a million tokens that it writes")


class _Provider(Model):
    """What every provider's table may hold."""

    limits: LimitSettings = Field(default_factory=LimitSettings, description="what all agents of it share")
    prices: dict[str, PriceSettings] = Field(
        default_factory=dict, description='what its models cost, by name; "*" is for all others'
    )
    cache: Pause = Field(
        default=0, description="how long an answer is given again to exactly the same request; 0 is never"
    )


class OpenAIProvider(_Provider):
    """A provider that speaks OpenAI's Chat Completions: OpenAI, Ollama, vLLM, llama.cpp, LM Studio, proxies."""

    type: Literal["openai"] = "openai"
    base_url: Url = Field(description="where it is, with the version: https://api.openai.com/v1")
    api_key: SecretRef | None = Field(default=None, description="a reference such as env:OPENAI_API_KEY, never the key")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="the four deadlines of a call")
    max_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, description="the largest answer that is read")


class AnthropicProvider(_Provider):
    """A provider that speaks Anthropic's Messages."""

    type: Literal["anthropic"] = "anthropic"
    base_url: Url = Field(default=ANTHROPIC_URL, description="where it is, without the version")
    api_key: SecretRef | None = Field(default=None, description="a reference such as env:ANTHROPIC_API_KEY")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="the four deadlines of a call")
    max_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, description="the largest answer that is read")


class LocalProvider(_Provider):
    """A model in a process of our own; it needs the extra `local`."""

    type: Literal["local"] = "local"
    model: str = Field(
        default="smollm2", min_length=1, description="the name of a shipped model, or a path to a GGUF file"
    )
    context: int = Field(
        default=8192, ge=256, description="tokens that fit into the model's window, all slots together"
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="threads that compute; one a core unless given"
    )
    timeouts: Timeouts = Field(
        default_factory=lambda: Timeouts(first_byte=300),  # seconds: a long prompt on a slow machine takes its time
        description="the four deadlines of a call",
    )
    max_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, description="the largest answer that is read")


class ScriptedProvider(_Provider):
    """The deterministic provider: it answers from a script, for tests and demonstrations."""

    type: Literal["scripted"] = "scripted"
    dir: str = Field(default=".", min_length=1, description="where scripts are, from the folder of the configuration")


AnyProvider: TypeAlias = OpenAIProvider | AnthropicProvider | LocalProvider | ScriptedProvider

ProviderSettings: TypeAlias = Annotated[AnyProvider, Field(discriminator="type")]


class LlmSettings(Model):
    """Which model an agent speaks with, and how."""

    provider: str = Field(min_length=1, description="local, scripted, or the name of a [providers.NAME] table")
    model: str = Field(min_length=1, description="the model's name at that provider")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is the likeliest word, more is freer")
    max_tokens: int | None = Field(default=None, ge=1, description="the longest answer")
    extra: dict[str, Any] = Field(default_factory=dict, description="sent to the provider as it is")

    @field_validator("provider")
    @classmethod
    def _is_defined(cls, value: str, info: ValidationInfo) -> str:
        # The loader hands in the names of the tables, so that the mistake is reported here, at the value.
        known = (info.context or {}).get("providers")
        if known is not None and value not in known:
            facts = {"given": value, "known": sorted(known)}
            raise PydanticCustomError("unknown_provider", "no provider of this name is defined", facts)
        return value


class BudgetSettings(Model):
    """What an agent may use; reserved before each call of a model and settled after it. Costs are in the currency of
    the prices.
    """

    run_calls: int = Field(default=25, ge=1, le=10_000, description="calls of the model within one turn")
    run_tokens: int | None = Field(default=None, ge=1, description="tokens of one turn, what it delegates included")
    run_cost: float | None = Field(default=None, ge=0, le=1_000_000_000, description="what one turn may cost")
    day_tokens: int | None = Field(default=None, ge=1, description="tokens of all turns of a day, UTC")
    day_cost: float | None = Field(default=None, ge=0, le=1_000_000_000, description="what all turns of a day may cost")


def _is_built_in(tool: str, info: ValidationInfo) -> str:
    """Refuse a built-in tool that nobody knows. Functions and tools of servers are looked for when they are needed."""
    known = (info.context or {}).get("tools")
    if known is not None and tool not in known and ":" not in tool and "/" not in tool:
        facts = {"given": tool, "known": sorted(known)}
        raise PydanticCustomError("unknown_tool", "there is no built-in tool of this name", facts)
    return tool


UsedTool: TypeAlias = Annotated[ToolName, AfterValidator(_is_built_in)]


class AgentSettings(Model):
    """`[agents.NAME]`: a persona with a model, an actor class of your own, or a program of your own."""

    role: str = Field(default="", max_length=10_000, description="who it is, in a few words")
    goal: str = Field(default="", max_length=10_000, description="what it is to achieve")
    backstory: str = Field(default="", max_length=50_000, description="where it comes from, how it speaks")
    instructions: str = Field(
        default="", max_length=100_000, description="rules it follows; they end the system message"
    )
    llm: LlmSettings | None = Field(default=None, description="the model it speaks with")
    tools: Annotated[tuple[UsedTool, ...], Field(strict=False)] = Field(
        default=(), description="what it may use, and nothing else: built-in tools, module:function, SERVER/tool of MCP"
    )
    permissions: dict[ToolName, Permission] = Field(
        default_factory=dict, description="for tools of `tools`: allow, ask (a person, each time), or deny"
    )
    workdir: str | None = Field(
        default=None, min_length=1, description="the folder its file tools see; one of its own in the state directory"
    )
    budget: BudgetSettings = Field(default_factory=BudgetSettings, description="what it may use")
    when_busy: WhenBusy = Field(
        default="enqueue", description="what becomes of words for a conversation in which a turn runs"
    )
    output: Reference | dict[str, Any] | None = Field(
        default=None, description="what an answer has to be: a pydantic model as module:Class, or a JSON Schema"
    )
    approval_timeout: Duration = Field(default=86_400_000, description="how long a person has to answer; then it is no")
    result_chars: int = Field(
        default=16_000, ge=200, le=200_000, description="characters of a tool's result that the model is shown at once"
    )
    context: Literal["recent", "summary"] = Field(
        default="recent", description="what of a long conversation is sent: the latest, or a summary and the latest"
    )
    context_tokens: int | None = Field(
        default=None, ge=256, description="tokens that the prompt may have; the oldest messages go first"
    )
    exec: Strings = Field(default=(), description="a program that is the agent, speaking JSON lines: argv, no shell")
    actor: Reference | None = Field(default=None, description="a class of yours in place of the built-in agent")
    options: dict[str, Any] = Field(default_factory=dict, description="handed to that class as it is")
    run_timeout: Duration = Field(default=1_800_000, description="the longest turn")
    idle_timeout: Duration = Field(default=120_000, description="the longest silence of the model within a turn")
    max_attempts: int = Field(default=3, ge=1, le=1000, description="how often a message is tried")
    context_messages: int = Field(default=40, ge=1, le=10_000, description="how many recent messages the model is sent")
    concurrency: int = Field(default=4, ge=1, le=1000, description="turns at once, each in another conversation")
    mailbox: int = Field(default=1000, ge=1, le=1_000_000, description="messages that may wait in memory")

    @model_validator(mode="after")
    def _has_a_mind(self) -> "AgentSettings":
        if self.llm is None and self.actor is None and not self.exec:
            raise PydanticCustomError(
                "agent_incomplete",
                "an agent needs `llm` (a model), `actor` (a class of yours) or `exec` (a program of yours)",
            )
        return self

    @model_validator(mode="after")
    def _permits_what_it_has(self) -> "AgentSettings":
        if loose := sorted(self.permissions.keys() - set(self.tools)):
            raise PydanticCustomError(
                "permissions", "`permissions` names {name}, which is not in `tools`", {"name": loose[0]}
            )
        if self.permissions.get("shell") == "allow":
            raise PydanticCustomError(
                "permissions", "`shell` always asks; a person may allow one call for good (--always)"
            )
        return self


class RetrySettings(Model):
    """How the waits between attempts grow."""

    base: Pause = Field(default=1_000, description="the first wait")
    factor: float = Field(default=2.0, ge=1, le=100, description="how much longer each next wait is")
    max: Pause = Field(default=300_000, description="the longest wait")
    jitter: float = Field(default=1.0, ge=0, le=1, description="the part of a wait that chance may take away")


class KindSettings(Model):
    """`[kinds.NAME]`: a kind of job that runs a function of yours."""

    run: Reference = Field(description="the function, as module:function")
    in_loop: bool = Field(
        default=False, description="run it in the daemon's event loop: async functions that never block"
    )
    jobs_per_process: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="jobs that one process runs, one after another, before a new one takes its place",
    )
    timeout: Duration = Field(default=300_000, description="the longest attempt")
    max_attempts: int = Field(default=3, ge=1, le=1000, description="how often it is tried")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="how the waits between attempts grow")
    queue: Name = Field(default="default", description="where its jobs wait unless the submitter says otherwise")
    heartbeat_timeout: Duration | None = Field(
        default=None, description="an attempt that reports nothing for this long is ended as timed out"
    )
    limit_key: str | None = Field(
        default=None, min_length=1, max_length=255, description="jobs that share this key also share `limit_max`"
    )
    limit_max: int = Field(default=1, ge=1, le=100_000, description="how many jobs of the key may run at once")

    @model_validator(mode="after")
    def _has_processes_to_share(self) -> "KindSettings":
        if self.in_loop and self.jobs_per_process > 1:
            raise PydanticCustomError(
                "jobs_per_process",
                "`jobs_per_process` is for processes; with `in_loop` there are none, so take out one",
            )
        return self

    def retry_policy(self) -> RetryPolicy:
        """Return `max_attempts` and `retry` as the queue reads them."""
        wait = self.retry
        return RetryPolicy(
            max_attempts=self.max_attempts, base_ms=wait.base, factor=wait.factor, max_ms=wait.max, jitter=wait.jitter
        )


class RateSettings(Model):
    """How fast jobs of a queue may start; a bucket that is filled evenly and holds at most this much."""

    requests: int | None = Field(default=None, ge=1, le=1_000_000, description="jobs that may start within the time")
    tokens: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="tokens they may use together, by their estimates"
    )
    per: Duration = Field(default=60_000, ge=100, le=86_400_000, description="the time both are for")

    @model_validator(mode="after")
    def _limits_something(self) -> "RateSettings":
        if self.requests is None and self.tokens is None:
            raise PydanticCustomError("rate", "a rate needs `requests` or `tokens`")
        return self

    def rate(self) -> Rate:
        """Return the rate as the queue reads it."""
        return Rate(requests=self.requests, tokens=self.tokens, per_ms=self.per)


class RetentionSettings(Model):
    """How long jobs are kept after their end, and how many of them: all queues together but those with a table of their
    own. A job with the tag `keep` is kept for good."""

    completed: Duration = Field(default=7 * 86_400_000, description="how long completed and cancelled jobs are kept")
    completed_max: int = Field(
        default=50_000, ge=0, le=100_000_000, description="how many completed and how many cancelled ones at most"
    )
    failed: Duration = Field(default=30 * 86_400_000, description="how long failed jobs, the dead letter, are kept")
    failed_max: int | None = Field(default=None, ge=0, le=100_000_000, description="how many of them at most")


class QueueSettings(Model):
    """`[queues.NAME]`: limits of a queue, and what its jobs get that neither they nor their kind say."""

    max_active: int | None = Field(default=None, ge=1, le=100_000, description="jobs of this queue that run at once")
    paused: bool = Field(default=False, description="nothing of it starts")
    rate: RateSettings | None = Field(default=None, description="how fast its jobs may start")
    max_attempts: int | None = Field(default=None, ge=1, le=1000, description="for kinds that do not say")
    retry: RetrySettings | None = Field(default=None, description="for kinds that do not say")
    retention: RetentionSettings | None = Field(default=None, description="in place of [retention]")


class PoolSettings(Model):
    """`[pools.NAME]`: workers kept for some queues, so that nothing else takes their place. `loop` and `child` name
    the two pools that are always there and serve every queue."""

    lane: Literal["loop", "child"] = Field(
        default="child", description="loop: in the daemon's event loop; child: in processes of their own"
    )
    size: int = Field(ge=1, le=10_000, description="how many workers")
    queues: Annotated[tuple[Name, ...], Field(strict=False)] = Field(description="the queues they serve, and no other")

    @field_validator("queues")
    @classmethod
    def _serve_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise PydanticCustomError("pool_queues", "a pool is kept for one queue at least")
        return value


class ScheduleSettings(Model):
    """`[schedules.NAME]`: a job that is submitted again and again."""

    cron: str = Field(min_length=1, max_length=200, description='when: "minute hour day month weekday", or @daily')
    tz: str = Field(default="UTC", max_length=64, description='in which time zone, such as "Europe/Berlin"')
    kind: str = Field(min_length=1, max_length=64, description="the kind of job")
    args: dict[str, Any] = Field(default_factory=dict, description="its arguments")
    queue: Name | None = Field(default=None, description="where it waits, unless that of its kind")
    priority: int = Field(default=100, ge=0, le=1000, description="lower runs sooner")
    tags: Annotated[tuple[Tag, ...], Field(strict=False)] = Field(
        default=(), max_length=20, description="to find its jobs by"
    )
    catchup: Literal["skip", "one", "all"] = Field(
        default="one", description="ticks missed while the daemon was away: none, the latest, or every one"
    )
    overlap: Literal["allow", "skip"] = Field(
        default="allow", description="skip: no new job while the last one has not ended"
    )
    paused: bool = Field(default=False, description="it does not fire")

    @field_validator("cron", "tz")
    @classmethod
    def _comes(cls, value: str, info: ValidationInfo) -> str:
        # The loader hands in who can read it, for this layer knows pydantic and nothing else.
        read = (info.context or {}).get(info.field_name)
        if read is not None and (fault := read(value)):
            raise PydanticCustomError(f"schedule_{info.field_name}", "{fault}", {"fault": fault})
        return value

    @field_validator("kind")
    @classmethod
    def _is_defined(cls, value: str, info: ValidationInfo) -> str:
        known = (info.context or {}).get("kinds")
        if known is not None and value not in known:
            facts = {"given": value, "known": sorted(known)}
            raise PydanticCustomError("unknown_kind", "no kind of this name is defined", facts)
        return value


class McpSettings(Model):
    """`[tools.mcp.NAME]`: a server of tools that speaks MCP, as a program of ours or at an address. Needs the extra
    `mcp`."""

    command: Strings = Field(default=(), description="the program that is the server: argv, no shell")
    env: dict[str, SecretRef] = Field(default_factory=dict, description="its environment: references such as env:NAME")
    cwd: str | None = Field(default=None, min_length=1, description="where it runs; the folder of the configuration")
    url: Url | None = Field(default=None, description="the address of a server that speaks streamable HTTP")
    headers: dict[str, SecretRef] = Field(default_factory=dict, description="sent with each request: references")
    start_timeout: Duration = Field(default=30_000, description="how long it may take to come up")
    call_timeout: Duration = Field(default=120_000, description="how long one call may take")
    trust: bool = Field(default=False, description="its changed schemas are taken as they come, no person is asked")

    @model_validator(mode="after")
    def _is_somewhere(self) -> "McpSettings":
        if bool(self.command) == (self.url is not None):
            raise PydanticCustomError("mcp", "an MCP server has either `command` or `url`")
        return self


class ToolsSettings(Model):
    """`[tools]`: where tools come from beside the built-in ones."""

    mcp: dict[Name, McpSettings] = Field(default_factory=dict, description="servers that speak MCP")
    fetch_hosts: Strings = Field(
        default=(), description="hosts in private networks that http.fetch may reach all the same: name or name:port"
    )


class Settings(Model):
    """The whole of config.toml."""

    runtime: RuntimeSettings = Field(default_factory=RuntimeSettings, description="how the daemon works")
    agents: dict[Name, AgentSettings] = Field(default_factory=dict, description="who is there to be asked")
    providers: dict[Name, ProviderSettings] = Field(default_factory=dict, description="where models are")
    tools: ToolsSettings = Field(default_factory=ToolsSettings, description="where tools come from")
    kinds: dict[KindName, KindSettings] = Field(default_factory=dict, description="jobs that run functions of yours")
    queues: dict[Name, QueueSettings] = Field(default_factory=dict, description="limits of queues")
    pools: dict[PoolName, PoolSettings] = Field(default_factory=dict, description="workers kept for some queues")
    schedules: dict[Name, ScheduleSettings] = Field(default_factory=dict, description="jobs that come again and again")
    retention: RetentionSettings = Field(default_factory=RetentionSettings, description="how long ended jobs are kept")

    @field_validator("providers", mode="before")
    @classmethod
    def _fill_in_by_name(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: _named(name, table) for name, table in value.items()}

    def provider(self, name: str) -> AnyProvider:
        """Return the settings of provider *name*; a built-in one needs no table. KeyError otherwise."""
        if name in self.providers:
            return self.providers[name]
        if name == "local":
            return LocalProvider()
        if name == "scripted":
            return ScriptedProvider()
        raise KeyError(name)


def _named(name: str, table: object) -> object:
    """Return the provider's *table* with the type that its name implies, and OpenAI's own address for `openai`."""
    if not isinstance(table, dict):
        return table
    filled = {"type": name if name in (*BUILTIN_PROVIDERS, "anthropic") else "openai"} | table
    return {"base_url": OPENAI_URL} | filled if name == "openai" and filled["type"] == "openai" else filled
