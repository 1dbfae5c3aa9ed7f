"""Error codes and exit codes: plain data, so that the command line can read it without loading pydantic.

A code is stable for ever. Each has the HTTP status it travels with, whether trying again unchanged may help, the exit
code of the command line, and a hint: what to do next.
"""

from typing import Final, NamedTuple

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NOT_RUNNING: Final = 3
EXIT_NOT_FOUND: Final = 4
EXIT_ROOT_EXHAUSTED: Final = 70
EXIT_TEMPORARY: Final = 75
EXIT_DENIED: Final = 77
EXIT_CONFIG: Final = 78
EXIT_TIMEOUT: Final = 124
EXIT_INTERRUPTED: Final = 130


class Code(NamedTuple):
    """What a code means: HTTP status, whether to try again, exit code, a short title and a hint."""

    status: int
    retryable: bool
    exit: int
    title: str
    hint: str


CODES: Final[dict[str, Code]] = {
    # requests
    "request.invalid": Code(400, False, EXIT_USAGE, "The request is not valid", "Mend what `data.errors` names."),
    "request.malformed": Code(400, False, EXIT_USAGE, "The request cannot be read", "Send HTTP/1.1 with a JSON body."),
    "request.too_large": Code(
        413, False, EXIT_USAGE, "The request is too large", "A body may have 1 MiB, headers 16 KiB."
    ),
    "request.timeout": Code(
        408, True, EXIT_TEMPORARY, "The request did not arrive in time", "Send it within 5 seconds."
    ),
    "request.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such path", "See GET /v1/openapi.json."),
    "request.method": Code(405, False, EXIT_USAGE, "The path has no such method", "See GET /v1/openapi.json."),
    "request.denied": Code(403, False, EXIT_DENIED, "Not allowed", "Do it yourself, as the daemon's own user."),
    "request.overloaded": Code(503, True, EXIT_TEMPORARY, "Too many connections", "Try again shortly."),
    "request.cancelled": Code(499, True, EXIT_INTERRUPTED, "The caller left", "Send it again if it is still wanted."),
    "message.unknown_type": Code(404, False, EXIT_NOT_FOUND, "No such message type", "See `data.known`."),
    "message.not_public": Code(403, False, EXIT_DENIED, "This message type is internal", "See `data.known`."),
    "message.unhandled": Code(400, False, EXIT_FAILED, "The actor has no handler for this", "See `data.known`."),
    # actors
    "actor.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such actor", "`understudy ps` shows all."),
    "actor.stopped": Code(503, True, EXIT_TEMPORARY, "The actor has stopped", "`understudy ps` tells its state."),
    "actor.crashed": Code(
        500, True, EXIT_FAILED, "The actor crashed on this message", "`understudy logs` has the traceback."
    ),
    "actor.quarantined": Code(
        409,
        False,
        EXIT_FAILED,
        "The actor is quarantined",
        "`understudy agents show NAME` says why; mend it, then `understudy reload`.",
    ),
    "actor.mailbox_full": Code(503, True, EXIT_TEMPORARY, "The mailbox is full", "Try again shortly."),
    "actor.timeout": Code(
        504, True, EXIT_TIMEOUT, "No answer in time", "`understudy ps` shows what the actor is doing."
    ),
    "actor.start_failed": Code(
        503, True, EXIT_TEMPORARY, "The actor does not start", "`understudy logs` has the reason."
    ),
    # daemon
    "daemon.not_running": Code(503, True, EXIT_NOT_RUNNING, "The daemon is not running", "Start it: understudy up"),
    "daemon.already_running": Code(
        409, False, EXIT_FAILED, "A daemon already runs on this home", "`understudy status` shows it."
    ),
    "daemon.draining": Code(503, True, EXIT_TEMPORARY, "The daemon is stopping", "Try again when it is back."),
    "daemon.starting": Code(503, True, EXIT_TEMPORARY, "The daemon is starting", "Try again in a second."),
    "daemon.version": Code(
        409,
        False,
        EXIT_FAILED,
        "Daemon and command line do not fit",
        "Restart the daemon: understudy down; understudy up",
    ),
    "daemon.shadowed": Code(
        500, False, EXIT_CONFIG, "Another package shadows ours", "Install understudy in an environment of its own."
    ),
    "daemon.home": Code(500, False, EXIT_CONFIG, "The state directory cannot be used", "See the detail."),
    "daemon.failed": Code(500, False, EXIT_FAILED, "The daemon failed", "`understudy logs` has the reason."),
    # agents
    "agent.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such agent", "`understudy agents ls` shows all."),
    "agent.state_unreadable": Code(
        409,
        False,
        EXIT_FAILED,
        "The saved state of the agent cannot be read",
        "Mend the class or the row in agent_states, then `understudy reload`.",
    ),
    "agent.busy": Code(
        409, True, EXIT_TEMPORARY, "The agent is busy in this conversation", "Try again later, or use --when-busy."
    ),
    "agent.exists": Code(
        409, False, EXIT_FAILED, "There is an agent of this name", "Use another name, or `agents edit`."
    ),
    "agent.from_config": Code(
        409,
        False,
        EXIT_FAILED,
        "The agent is defined in the configuration",
        "Change it there, then `understudy reload`.",
    ),
    "agent.invalid": Code(
        400, False, EXIT_USAGE, "The agent's settings cannot be used", "Mend what `data.errors` names."
    ),
    "agent.wait_cycle": Code(
        409,
        False,
        EXIT_FAILED,
        "Agents would wait for one another",
        "`data.path` names them; have one answer by itself.",
    ),
    "agent.hops": Code(
        409,
        False,
        EXIT_FAILED,
        "Passed on too often",
        "`data.path` names the agents; `max_hops` under [runtime] is the limit.",
    ),
    "agent.budget": Code(
        402, False, EXIT_FAILED, "The budget is spent", "Raise `data.limit` under [agents.NAME.budget]."
    ),
    "agent.output_invalid": Code(
        502, False, EXIT_FAILED, "The answer does not fit its schema", "`understudy runs show ID` has the answers."
    ),
    "conversation.not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such conversation", "`understudy agents show NAME` lists them."
    ),
    "conversation.exists": Code(409, False, EXIT_FAILED, "There is a conversation of this name", "Use another name."),
    "approval.not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such approval", "`understudy approvals ls` shows those that wait."
    ),
    "approval.answered": Code(
        409, False, EXIT_FAILED, "The approval waits no more", "`understudy approvals show ID` tells what became of it."
    ),
    "approval.invalid": Code(
        403, False, EXIT_DENIED, "The approval does not cover this call", "The agent has to ask again."
    ),
    "approval.grant_not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such standing permission", "`understudy approvals grants` shows all."
    ),
    "run.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such run", "`understudy runs ls` shows the latest."),
    "provider.not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such provider", "`understudy providers ls` shows all."
    ),
    # tools
    "tool.failed": Code(502, False, EXIT_FAILED, "The tool failed", "`understudy runs show ID` has the call."),
    "tool.denied": Code(
        403, False, EXIT_DENIED, "The agent may not do this", "See `tools` and `permissions` of the agent."
    ),
    "tool.unknown": Code(404, False, EXIT_NOT_FOUND, "There is no such tool", "See `data.known`."),
    "tool.invalid": Code(
        400, False, EXIT_FAILED, "The arguments do not fit the tool", "`data.errors` names what is wrong."
    ),
    "tool.timeout": Code(504, True, EXIT_TIMEOUT, "The tool took too long", "Give it less to do, or more time."),
    "mcp.unavailable": Code(
        503, True, EXIT_TEMPORARY, "The MCP server is not up", "`understudy ps` and `understudy logs` tell why."
    ),
    # jobs
    "job.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such job", "`understudy jobs ls` shows the latest."),
    "job.unknown_kind": Code(
        404,
        False,
        EXIT_NOT_FOUND,
        "There is no such kind of job",
        "See `data.known`; define it under [kinds.NAME] in config.toml.",
    ),
    "job.key_conflict": Code(
        409, False, EXIT_FAILED, "This key was used with other arguments", "Use another key, or the same arguments."
    ),
    "job.payload_too_large": Code(
        413, False, EXIT_USAGE, "The arguments are too large", "Put the data in a file and pass its path."
    ),
    "job.result_too_large": Code(
        413, False, EXIT_FAILED, "The result is too large", "Write it to a file and return its path."
    ),
    "job.too_late": Code(409, False, EXIT_FAILED, "The job had already ended", "`understudy jobs show ID` tells how."),
    "job.not_retryable": Code(
        409, False, EXIT_FAILED, "The job cannot be retried in this state", "Only failed and cancelled jobs can."
    ),
    "job.failed": Code(
        500,
        False,
        EXIT_FAILED,
        "The job failed",
        "`understudy jobs show ID` has the error; `understudy jobs retry ID` runs it again.",
    ),
    "job.timeout": Code(
        504, True, EXIT_TIMEOUT, "The attempt took too long", "Raise --timeout, or make the job smaller."
    ),
    "job.deadline": Code(
        504,
        False,
        EXIT_TIMEOUT,
        "The job was not done by its deadline",
        "Give it more time with --deadline, or more workers.",
    ),
    "job.cancelled": Code(
        409, False, EXIT_FAILED, "The job was cancelled", "`understudy jobs retry ID` runs it again."
    ),
    "job.crashed": Code(
        500, True, EXIT_FAILED, "The job's process died", "`understudy jobs logs ID` has its last output."
    ),
    "job.poison": Code(
        500,
        False,
        EXIT_FAILED,
        "The job crashed its process too often",
        "Mend the code, then `understudy jobs retry ID`.",
    ),
    "job.lease_lost": Code(
        409, False, EXIT_FAILED, "Another attempt owns this job now", "Nothing to do: the newer attempt counts."
    ),
    "job.step_repeated": Code(
        409,
        False,
        EXIT_FAILED,
        "Two steps of one attempt have the same name",
        "Give each step a name of its own; in a loop put the number into it.",
    ),
    "job.step_ambiguous": Code(
        409,
        False,
        EXIT_FAILED,
        "Nobody knows whether a step was done",
        "Find out whether it took effect; `understudy jobs resume ID` or `understudy jobs retry ID` runs it again.",
    ),
    "job.step_unfit": Code(
        413,
        False,
        EXIT_FAILED,
        "The output of a step cannot be kept",
        "Return what JSON can say, at most 1 MiB; write more to a file and return its path.",
    ),
    "job.too_many_steps": Code(
        409,
        False,
        EXIT_FAILED,
        "The job has too many steps",
        "Do more in one step, or share the work out to more jobs.",
    ),
    "job.unknown_parent": Code(
        404, False, EXIT_NOT_FOUND, "There is no job to depend on", "`understudy jobs ls` shows the latest."
    ),
    "job.cycle": Code(
        400, False, EXIT_USAGE, "These jobs wait for one another", "Take out one of the edges that `data.path` names."
    ),
    "job.batch_invalid": Code(
        400, False, EXIT_USAGE, "The batch is not valid", "Give each `ref` once, and name only those of the batch."
    ),
    "job.signal_refused": Code(
        409, False, EXIT_FAILED, "The job takes no signal", "`understudy jobs show ID` tells how it stands."
    ),
    "job.signal_timeout": Code(
        504,
        True,
        EXIT_TIMEOUT,
        "The signal did not come in time",
        "Send it with `understudy jobs signal ID NAME`, then `understudy jobs retry ID`.",
    ),
    "job.dependency": Code(
        409,
        False,
        EXIT_FAILED,
        "A job that this one depends on did not complete",
        "`understudy why ID` names it, and says how both are taken back.",
    ),
    "job.not_pausable": Code(
        409, False, EXIT_FAILED, "The job can no longer be held", "`understudy jobs show ID` tells how it ended."
    ),
    "queue.draining": Code(
        503, True, EXIT_TEMPORARY, "The queue takes no new jobs", "`understudy queues resume QUEUE` opens it again."
    ),
    "worker.not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such worker", "`understudy workers ls` shows all."
    ),
    "pool.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such pool", "See `data.known`."),
    "queue.not_found": Code(404, False, EXIT_NOT_FOUND, "There is no such queue", "See `data.known`."),
    # schedules
    "schedule.invalid": Code(
        400,
        False,
        EXIT_USAGE,
        "The schedule is not valid",
        'Write cron = "minute hour day month weekday" and tz = "Europe/Berlin".',
    ),
    "schedule.not_found": Code(
        404, False, EXIT_NOT_FOUND, "There is no such schedule", "`understudy schedules ls` shows all."
    ),
    "schedule.exists": Code(
        409, False, EXIT_FAILED, "There is a schedule of this name", "Use another name, or replace it on purpose."
    ),
    "schedule.from_config": Code(
        409,
        False,
        EXIT_FAILED,
        "The schedule is defined in the configuration",
        "Change [schedules.NAME] in config.toml, then `understudy reload`.",
    ),
    # store
    "store.full": Code(
        507, True, EXIT_TEMPORARY, "The disk is full", "Free some space; nothing was lost, reading goes on."
    ),
    "store.read_only": Code(
        503,
        True,
        EXIT_TEMPORARY,
        "The database cannot be written",
        "Check the permissions and the mount of the home directory.",
    ),
    "store.busy": Code(
        503, True, EXIT_TEMPORARY, "The database is locked by another program", "Close the other program."
    ),
    "store.failed": Code(503, True, EXIT_TEMPORARY, "The database failed", "`understudy doctor` checks it."),
    "store.rejected": Code(
        500,
        False,
        EXIT_FAILED,
        "The database refuses what was to be written",
        "Nothing of it was written. This is a fault of ours; `understudy logs --level error` has more.",
    ),
    "store.newer": Code(
        409,
        False,
        EXIT_CONFIG,
        "The database was written by a newer version",
        "Install that version, or name another UNDERSTUDY_HOME.",
    ),
    "store.mismatch": Code(
        409,
        False,
        EXIT_CONFIG,
        "The database is not the one this home had",
        "Put the file back, or remove state.json if you meant it.",
    ),
    "store.corrupt": Code(
        500, False, EXIT_CONFIG, "The database is damaged", "Keep the file; restore a backup into the home directory."
    ),
    # models
    "llm.auth": Code(
        502, False, EXIT_FAILED, "The provider refused the key", "Check the key that [providers.NAME] api_key names."
    ),
    "llm.rate_limited": Code(
        503,
        True,
        EXIT_TEMPORARY,
        "The provider's rate limit is reached",
        "It is tried again after the time the provider named.",
    ),
    "llm.overloaded": Code(503, True, EXIT_TEMPORARY, "The provider is overloaded or failing", "It is tried again."),
    "llm.unreachable": Code(
        503, True, EXIT_TEMPORARY, "The provider cannot be reached", "Check base_url and the network."
    ),
    "llm.timeout": Code(
        504,
        True,
        EXIT_TEMPORARY,
        "The provider did not answer in time",
        "It is tried again; see [providers.NAME] timeouts.",
    ),
    "llm.cut": Code(
        502,
        True,
        EXIT_TEMPORARY,
        "The answer was cut off",
        "It is tried again; the part that came is in `data.partial`.",
    ),
    "llm.protocol": Code(
        502,
        False,
        EXIT_FAILED,
        "The provider's answer cannot be understood",
        "Is base_url that of an API of the provider's `type`?",
    ),
    "llm.request": Code(
        502, False, EXIT_FAILED, "The provider refused the request", "See the detail; is the model's name right?"
    ),
    "llm.context": Code(
        502, False, EXIT_FAILED, "The conversation is too long for the model", "Start a new one with --conversation."
    ),
    "llm.too_large": Code(
        502, False, EXIT_FAILED, "The answer is larger than the limit", "See [providers.NAME] max_bytes."
    ),
    "llm.unknown_provider": Code(
        404, False, EXIT_CONFIG, "There is no such provider", "Define it under [providers.NAME] in config.toml."
    ),
    "llm.local_missing": Code(
        503,
        False,
        EXIT_FAILED,
        "The local model is not installed",
        "Install it: pip install 'understudy[local]' and a model file, or use another provider.",
    ),
    "llm.unexpected": Code(
        500, False, EXIT_FAILED, "The script has no answer for this", "Add a step to the script file."
    ),
    # configuration
    "config.invalid": Code(
        400,
        False,
        EXIT_CONFIG,
        "The configuration has mistakes",
        "`understudy config check` shows each with its place.",
    ),
    "config.not_found": Code(
        404, False, EXIT_CONFIG, "There is no configuration file", "Name one with -c FILE or $UNDERSTUDY_CONFIG."
    ),
    "config.unsafe": Code(
        403, False, EXIT_CONFIG, "Others could change the configuration", "Run the command that the detail names."
    ),
    "config.load_failed": Code(
        400, False, EXIT_CONFIG, "Code that the configuration names cannot be loaded", "See the detail."
    ),
    "secret.unavailable": Code(400, False, EXIT_CONFIG, "A secret cannot be had", "See the detail."),
    # events
    "events.expired": Code(
        410, False, EXIT_FAILED, "These events are no longer kept", "Start again from `data.oldest`."
    ),
    "events.lagged": Code(
        409, True, EXIT_TEMPORARY, "The subscriber was too slow", "Ask again with since= the last one seen."
    ),
    # last resort
    "internal": Code(
        500,
        True,
        EXIT_FAILED,
        "Something went wrong inside",
        "`understudy logs` has the details under this request id.",
    ),
}
