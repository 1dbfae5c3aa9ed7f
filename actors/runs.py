"""Runs of agents as people look at them: a run is the job of a turn, and its timeline is what is on record of it."""

import json
import re
import sys
from typing import Any, Final

from actors.budget import spent_by
from actors.company import Company
from actors.kinds import AGENT_MESSAGE
from runtime.core.actor import Actor, handles
from runtime.errors import RunNotFound
from runtime.store import port
from schemas.jobs import ENDED, CancelJob, Cancelled, JobFilter, JobView, StepView
from schemas.runs import CancelRun, GetRun, ListRuns, RunDetail, RunEntry, RunView

BRIEF: Final = 120
STEP: Final = re.compile(r"(model|tool|steer)/(.+)")


class Runs(Actor):
    """The part of `system` that knows runs."""

    house: Company

    @handles
    async def runs(self, message: ListRuns) -> tuple[RunView, ...]:
        queue = None if message.agent is None else f"agent:{message.agent}"
        where = JobFilter(kind=AGENT_MESSAGE, queue=queue, status=message.status)
        found = await self.house.store.jobs(where, before=message.before, limit=message.limit)
        whole = [await self.house.store.job(job.id) or job for job in found]  # a list has no words of a job
        return tuple(RunView(**brief(job)) for job in whole)

    @handles
    async def one_run(self, message: GetRun) -> RunDetail:
        job = await self._run(message.id)
        approvals = await self.house.store.approvals(job=job.id, limit=1000)
        result = job.result if isinstance(job.result, dict) else {}
        said = words(job)
        return RunDetail(
            **brief(job),
            said=said,
            answer=result.get("text"),
            error=job.error,
            spent=spent_by(job),
            timeline=timeline(job, approvals, said, result.get("text")),
            waits_for=waits_for(job, approvals),
        )

    @handles
    async def cancel_run(self, message: CancelRun) -> Cancelled:
        await self._run(message.id)
        found: Cancelled = await self.ctx.actor("queue").ask(CancelJob(id=message.id))
        await self._cancel_parts(message.id)
        return found

    async def _cancel_parts(self, run: str) -> None:
        """Cancel what a run has asked of others, and what these have: nobody waits for it any more."""
        for part in await self.house.store.children(run):
            if part.status not in ENDED:
                await self.ctx.actor("queue").ask(CancelJob(id=part.id))
                await self._cancel_parts(part.id)

    async def _run(self, run: str) -> JobView:
        job = await self.house.store.job(run)
        if job is None or job.name != AGENT_MESSAGE:
            raise RunNotFound(f"there is no run {run}", id=run)
        return job


def brief(job: JobView) -> dict[str, Any]:
    """Return what a list shows of a run."""
    return {
        "id": job.id,
        "agent": job.queue.removeprefix("agent:"),
        "conversation": job.conversation or "main",
        "status": job.status,
        "reason": job.reason,
        "text": words(job)[:BRIEF],
        "parent": job.parent,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
    }


def words(job: JobView) -> str:
    """Return what was said to the agent; nothing where the job was read without its arguments."""
    message = job.payload.get("message") if isinstance(job.payload, dict) else None
    return str(message.get("text", "")) if isinstance(message, dict) else ""


def timeline(
    job: JobView, approvals: tuple[port.ApprovalRow, ...], said: str, answer: str | None
) -> tuple[RunEntry, ...]:
    """Return what happened, in the order of time."""
    said_at, ended_at = (job.created_at, -1, 0, 0), (job.finished_at or 0, sys.maxsize, 0, 0)
    entries = {said_at: RunEntry(at=job.created_at, what="said", name=job.conversation or "main", text=said)}
    for step in job.steps:
        if (entry := entry_of(step)) is not None:
            entries[(step.started_at, *place_of(step.name), 1)] = entry
    entries |= {(row.asked_at, *place_of(row.step), 0): of_approval(row) for row in approvals}
    if job.finished_at is not None and answer is not None:
        entries[ended_at] = RunEntry(at=job.finished_at, what="answer", state=job.status, text=answer)
    elif job.finished_at is not None:
        told = job.error.detail if job.error is not None else job.reason or ""
        entries[ended_at] = RunEntry(at=job.finished_at, what="error", state=job.status, text=told)
    return tuple(entries[place] for place in sorted(entries))


def place_of(step: str) -> tuple[int, int]:
    """Return where a step stands among those of one moment: a model's answer, then the calls in it."""
    family, _, rest = step.partition("/")
    number, _, inner = rest.partition("/")[0].partition(".")
    first = {"steer": -2, "model": -1}.get(family, int(inner) if inner.isdigit() else 0)
    return int(number) if number.isdigit() else -1, first


def entry_of(step: StepView) -> RunEntry | None:
    """Return a step as a line of the timeline; None for what is only bookkeeping."""
    found = STEP.fullmatch(step.name)
    if found is None:
        return None
    output: Any = step.output
    ms = None if step.ended_at is None else step.ended_at - step.started_at
    if found[1] == "steer":
        said = " / ".join(str(args.get("message", {}).get("text", "")) for _, args in output or ())
        return RunEntry(at=step.started_at, what="steer", state="done", text=said)
    if "/try/" in step.name:
        return None
    if step.name.endswith("/sent"):
        return RunEntry(at=step.started_at, what="ask", name=found[2], state="sent", data=output or {})
    output = output if isinstance(output, dict) else {}
    state = step.state if not output.get("failed") else "failed"
    text = step.error or str(output.get("text", ""))
    if found[1] == "model":
        usage = {**output.get("usage", {}), "cached": output.get("cached", False)} if output else {}
        calls = ", ".join(f"{call['name']}({call['arguments'][:200]})" for call in output.get("calls", ()))
        return RunEntry(
            at=step.started_at,
            what="model",
            name=str(output.get("model", "")),
            state=state,
            text=text or calls,
            data=usage | ({"calls": calls} if calls else {}),
            ms=ms,
            cost=output.get("cost"),
        )
    arguments = {"arguments": output["arguments"]} if "arguments" in output else {}
    return RunEntry(
        at=step.started_at,
        what="tool",
        name=str(output.get("name", found[2])),
        state="unknown" if step.state == "started" and ms is None else state,
        text=text,
        data=arguments,
        ms=ms,
    )


def of_approval(row: port.ApprovalRow) -> RunEntry:
    """Return an approval as a line of the timeline."""
    about = {"id": row.id, "arguments": json.loads(row.arguments), "by": row.answered_by}
    return RunEntry(at=row.asked_at, what="approval", name=row.tool, state=row.status, text=row.why, data=about)


def waits_for(job: JobView, approvals: tuple[port.ApprovalRow, ...]) -> str | None:
    """Return what a run stands still for, in words."""
    pending = next((row for row in approvals if row.status == "pending"), None)
    if job.status == "waiting" and job.reason == "signal" and pending is not None:
        return f"a person: understudy approvals allow {pending.id}"
    if job.status == "waiting" and job.reason == "children":
        return "other agents or jobs it has asked"
    if job.status == "delayed":
        return f"another try ({job.reason})"
    if job.status == "pending":
        return "its turn"
    return "a person, who has held it" if job.status == "paused" else None
