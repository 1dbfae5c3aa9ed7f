"""The one table of operations: from it come the routes, the OpenAPI document, the client and the reference.

Plain data without pydantic, types named by string (`module:Class`), so that the command line can read it in no time.
"""

from typing import Final, Literal, NamedTuple

Method = Literal["GET", "POST"]
Served = Literal["snapshot", "actor", "stream", "generic"]


class Operation(NamedTuple):
    """One thing that can be asked of the daemon.

    served    snapshot: answered by the control thread from what was published, even while a handler blocks the actors;
              actor: `request` is built from path, query and body and asked of `actor`;
              stream: answered by parts, server-sent events or NDJSON; generic: any public message for any actor
    request   the message's class; its fields come from the path, then the query (GET) or the body (POST)
    body      the field of the request that the whole body is, where it is not the request itself
    creates   takes an `Idempotency-Key`
    """

    name: str
    method: Method
    path: str
    summary: str
    served: Served = "actor"
    actor: str = ""
    request: str = ""
    reply: str = ""
    part: str = ""
    body: str = ""
    creates: bool = False
    errors: tuple[str, ...] = ()
    limit_per_second: int = 0


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "hello",
        "GET",
        "/v1/hello",
        "Who answers, and which API versions it speaks",
        "snapshot",
        reply="schemas.system:Hello",
    ),
    Operation("health", "GET", "/healthz", "Whether the daemon lives", "snapshot", reply="schemas.system:HealthView"),
    Operation(
        "ready", "GET", "/readyz", "Whether the daemon takes work", "snapshot", reply="schemas.system:HealthView"
    ),
    Operation("openapi", "GET", "/v1/openapi.json", "This table as an OpenAPI document", "snapshot"),
    Operation(
        "status",
        "GET",
        "/v1/status",
        "One screen: what runs, what waits, what is wrong",
        "snapshot",
        reply="schemas.system:StatusView",
    ),
    Operation(
        "ps",
        "GET",
        "/v1/ps",
        "The tree of actors with mailboxes and restarts",
        "snapshot",
        reply="schemas.system:ActorView",
    ),
    Operation(
        "shutdown",
        "POST",
        "/v1/shutdown",
        "Stop the daemon in order",
        actor="system",
        request="schemas.system:Shutdown",
        reply="schemas.base:Ack",
    ),
    Operation(
        "reload",
        "POST",
        "/v1/reload",
        "Read the configuration again",
        actor="system",
        request="schemas.system:Reload",
        reply="schemas.system:Reloaded",
        errors=("config.invalid", "config.unsafe"),
    ),
    Operation(
        "agents.list",
        "GET",
        "/v1/agents",
        "Show every agent",
        actor="system",
        request="schemas.agents:ListAgents",
        reply="schemas.agents:AgentView",
    ),
    Operation(
        "agents.get",
        "GET",
        "/v1/agents/{name}",
        "Show one agent",
        actor="system",
        request="schemas.agents:GetAgent",
        reply="schemas.agents:AgentDetail",
        errors=("agent.not_found",),
    ),
    Operation(
        "agents.conversation",
        "GET",
        "/v1/agents/{name}/conversations/{conversation}",
        "Show the last messages of a conversation",
        actor="system",
        request="schemas.agents:GetConversation",
        reply="schemas.chat:ChatMessage",
        errors=("agent.not_found",),
    ),
    Operation(
        "agents.ask",
        "POST",
        "/v1/agents/{name}/ask",
        "Say something to an agent and stream its answer",
        "stream",
        request="schemas.agents:Say",
        part="schemas.events:StreamPart",
        creates=True,
        errors=("agent.not_found", "store.full", "daemon.draining"),
    ),
    Operation(
        "jobs.submit",
        "POST",
        "/v1/jobs",
        "Submit a job; answered when it is on the disk",
        actor="queue",
        request="schemas.jobs:SubmitJob",
        reply="schemas.jobs:Submitted",
        body="job",
        creates=True,
        errors=("job.unknown_kind", "job.key_conflict", "job.payload_too_large", "store.full", "daemon.draining"),
    ),
    Operation(
        "jobs.list",
        "GET",
        "/v1/jobs",
        "Show jobs, newest first",
        actor="system",
        request="schemas.jobs:ListJobs",
        reply="schemas.jobs:JobView",
    ),
    Operation(
        "jobs.get",
        "GET",
        "/v1/jobs/{id}",
        "Show one job with its attempts",
        actor="system",
        request="schemas.jobs:GetJob",
        reply="schemas.jobs:JobView",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.logs",
        "GET",
        "/v1/jobs/{id}/logs",
        "Show what a job wrote",
        actor="system",
        request="schemas.jobs:GetJobLogs",
        reply="schemas.jobs:LogLine",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.watch",
        "GET",
        "/v1/jobs/{id}/watch",
        "Follow a job to its end: progress, logs, the answer of an agent, the result",
        "stream",
        part="schemas.events:StreamPart",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.cancel",
        "POST",
        "/v1/jobs/{id}/cancel",
        "End a job, whatever it does",
        actor="queue",
        request="schemas.jobs:CancelJob",
        reply="schemas.jobs:Cancelled",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.retry",
        "POST",
        "/v1/jobs/{id}/retry",
        "Run a failed or cancelled job again",
        actor="queue",
        request="schemas.jobs:RetryJob",
        reply="schemas.jobs:Submitted",
        errors=("job.not_found", "job.not_retryable"),
    ),
    Operation(
        "queues.list",
        "GET",
        "/v1/queues",
        "Show every queue",
        actor="system",
        request="schemas.jobs:ListQueues",
        reply="schemas.jobs:QueueView",
    ),
    Operation(
        "workers.list",
        "GET",
        "/v1/workers",
        "Show every worker",
        actor="system",
        request="schemas.jobs:ListWorkers",
        reply="schemas.jobs:WorkerView",
    ),
    Operation(
        "events",
        "GET",
        "/v1/events",
        "Replay what happened since a cursor, then follow",
        "stream",
        part="schemas.events:Event",
        errors=("events.expired",),
    ),
    Operation(
        "actors.ask",
        "POST",
        "/v1/actors/{name}/ask",
        "Ask any actor a public message: {type, message, timeout}",
        "generic",
        creates=True,
        errors=("actor.not_found", "message.unknown_type", "message.not_public", "actor.timeout"),
    ),
    Operation(
        "actors.tell",
        "POST",
        "/v1/actors/{name}/tell",
        "Tell any actor a public message: {type, message}",
        "generic",
        creates=True,
        errors=("actor.not_found", "message.unknown_type", "message.not_public"),
    ),
)
