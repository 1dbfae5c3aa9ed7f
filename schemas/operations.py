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
    max_body  bytes that its body may have, where that is more than usual
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
    max_body: int = 0


_REFUSED: Final = (
    "job.unknown_kind",
    "job.key_conflict",
    "job.payload_too_large",
    "queue.draining",
    "store.full",
    "daemon.draining",
)
"""Why a job is not taken in."""

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
        errors=(*_REFUSED, "job.unknown_parent"),
    ),
    Operation(
        "jobs.submit_many",
        "POST",
        "/v1/jobs/batch",
        "Submit jobs that may depend on one another: all of them or none",
        actor="queue",
        request="schemas.jobs:SubmitJobs",
        reply="schemas.jobs:Submitted",
        creates=True,
        errors=(*_REFUSED, "job.unknown_parent", "job.batch_invalid", "job.cycle"),
        max_body=16 * 1024 * 1024,
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
        "jobs.pause",
        "POST",
        "/v1/jobs/{id}/pause",
        "Hold a job: one that waits at once, one that runs at its next step",
        actor="queue",
        request="schemas.jobs:PauseJob",
        reply="schemas.jobs:Held",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.resume",
        "POST",
        "/v1/jobs/{id}/resume",
        "Let a held job go on",
        actor="queue",
        request="schemas.jobs:ResumeJob",
        reply="schemas.jobs:Held",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.signal",
        "POST",
        "/v1/jobs/{id}/signal",
        "Send a job a signal, which is kept until the job takes it",
        actor="queue",
        request="schemas.jobs:SignalJob",
        reply="schemas.jobs:Submitted",
        errors=("job.not_found", "job.signal_refused", "job.payload_too_large"),
    ),
    Operation(
        "jobs.act",
        "POST",
        "/v1/jobs/act",
        "Cancel, retry, pause or resume all jobs that a filter finds, or count them",
        actor="queue",
        request="schemas.jobs:ActOnJobs",
        reply="schemas.jobs:Acted",
    ),
    Operation(
        "jobs.why",
        "GET",
        "/v1/jobs/{id}/why",
        "Tell exactly why a job stands where it does",
        actor="system",
        request="schemas.jobs:WhyJob",
        reply="schemas.jobs:WhyView",
        errors=("job.not_found",),
    ),
    Operation(
        "jobs.graph",
        "GET",
        "/v1/jobs/{id}/graph",
        "Show the jobs that hang together with one",
        actor="system",
        request="schemas.jobs:ShowGraph",
        reply="schemas.jobs:GraphView",
        errors=("job.not_found",),
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
        "queues.change",
        "POST",
        "/v1/queues/{name}",
        "Pause, drain or resume a queue, or change its limits; kept over restarts",
        actor="queue",
        request="schemas.jobs:ChangeQueue",
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
        "workers.drain",
        "POST",
        "/v1/workers/{id}/drain",
        "Have a worker end its job and take no other, or take jobs again",
        actor="queue",
        request="schemas.jobs:DrainWorker",
        reply="schemas.jobs:WorkerView",
        errors=("worker.not_found",),
    ),
    Operation(
        "pools.resize",
        "POST",
        "/v1/pools/{name}",
        "Give a pool another size until the daemon stops; answers the old size",
        actor="queue",
        request="schemas.jobs:ResizePool",
        reply="builtins:int",
        errors=("pool.not_found",),
    ),
    Operation(
        "schedules.list",
        "GET",
        "/v1/schedules",
        "Show every schedule",
        actor="schedules",
        request="schemas.schedules:ListSchedules",
        reply="schemas.schedules:ScheduleView",
    ),
    Operation(
        "schedules.get",
        "GET",
        "/v1/schedules/{name}",
        "Show one schedule with its last ticks and the next ones",
        actor="schedules",
        request="schemas.schedules:GetSchedule",
        reply="schemas.schedules:ScheduleView",
        errors=("schedule.not_found",),
    ),
    Operation(
        "schedules.add",
        "POST",
        "/v1/schedules",
        "Add a schedule, or replace one that a person added",
        actor="schedules",
        request="schemas.schedules:AddSchedule",
        reply="schemas.schedules:ScheduleView",
        errors=("schedule.invalid", "schedule.exists", "schedule.from_config", "job.unknown_kind", "store.full"),
    ),
    Operation(
        "schedules.remove",
        "POST",
        "/v1/schedules/{name}/remove",
        "Forget a schedule that a person added; its jobs stay",
        actor="schedules",
        request="schemas.schedules:RemoveSchedule",
        reply="schemas.base:Ack",
        errors=("schedule.not_found", "schedule.from_config"),
    ),
    Operation(
        "schedules.trigger",
        "POST",
        "/v1/schedules/{name}/trigger",
        "Add the job of a schedule now, once",
        actor="schedules",
        request="schemas.schedules:TriggerSchedule",
        reply="schemas.jobs:Submitted",
        errors=("schedule.not_found", "job.unknown_kind"),
    ),
    Operation(
        "schedules.pause",
        "POST",
        "/v1/schedules/{name}/pause",
        "Have a schedule fire no more, or with `paused` false go on",
        actor="schedules",
        request="schemas.schedules:PauseSchedule",
        reply="schemas.schedules:ScheduleView",
        errors=("schedule.not_found",),
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
