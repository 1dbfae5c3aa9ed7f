"""What an attempt has done, as it is kept in the store; and how a child process asks for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import anyio
from pydantic import ValidationError

from runtime.clock import Clock
from runtime.durable import Begun, Due, Record
from runtime.errors import JobNotFound, KeyConflict, LeaseLost, RequestInvalid, StepAmbiguous
from runtime.outcomes import JobResult
from runtime.store import port
from schemas.jobs import Claimed, NewJob

Prepare = Callable[[NewJob, str, int], port.JobRow]


@dataclass(slots=True)
class StoreRecord:
    """The `runtime.durable.Record` of one attempt: each call is one commit under its fence, or one read.

    Commits of many attempts are gathered by the store, so one at a time costs little. Nothing is read of what a job
    may change only through its attempts, so reads need no fence. `heard` is called at each: who records, lives.
    """

    job: Claimed
    store: port.Store
    clock: Clock
    prepare: Prepare
    heard: Callable[[], None]

    async def begin(self, name: str, retry: bool) -> Begun:
        begun = await self._commit(port.BeginStep(self.job, name, self.clock.now(), retry))
        return Begun(begun.verdict, begun.output)

    async def end(
        self, name: str, output: str | None = None, error: str | None = None, cost: float | None = None
    ) -> None:
        # Shielded: what a step did has been paid for, and would be in doubt if its end were not written.
        with anyio.CancelScope(shield=True):
            kept(await self._commit(port.EndStep(self.job, name, self.clock.now(), output, error, cost)))

    async def decided(self, name: str) -> bool:
        view = await self.store.job(self.job.id)
        if view is None:
            raise LeaseLost
        begun = next((step.epoch for step in view.steps if step.name == name), 0)
        # Only a person lets a job go on that was held or failed for good, and knows by the error over which step.
        return any(
            one.epoch > begun
            and one.error is not None
            and (one.error.code, one.error.data.get("step")) == (StepAmbiguous.code, name)
            for one in view.history
        )

    async def due(self, name: str, after_ms: int) -> Due:
        now = self.clock.now()
        begun = await self._record(name, str(now + after_ms))
        match begun.verdict:
            case "run":
                return Due("run", now + after_ms, now)
            case "done":
                return Due("done", int(begun.output or 0), now)
        return Due(begun.verdict)

    async def take(self, name: str, step: str) -> str | None:
        taken: port.SignalTaken = await self._commit(port.TakeSignal(self.job, name, step, self.clock.now()))
        return taken.payload

    async def note(self, step: str, output: str) -> None:
        await self._record(step, output)

    async def submit(self, name: str, job: dict[str, Any]) -> str:
        now = self.clock.now()
        new = new_job({**job, "key": f"{self.job.id}/{name}", "parent": self.job.id}, name)
        row = self.prepare(new, self.clock.new_id(), now)
        inserted: port.Inserted = (await self._commit(port.InsertJobs((row,), now, fence=self.job)))[0]
        if inserted.conflict:
            raise KeyConflict(f"the child {name!r} was submitted with other arguments before", key=row.key)
        if inserted.unknown is not None:
            raise JobNotFound(f"there is no job {inserted.unknown}, on which the child {name!r} depends")
        return inserted.id

    async def children(self) -> list[JobResult]:
        return [result_of(one) for one in await self.store.children(self.job.id)]

    async def parents(self) -> list[JobResult]:
        return [result_of(one) for one in await self.store.parents(self.job.id)]

    async def _record(self, name: str, output: str) -> port.StepBegun:
        """Begin and end a step in one commit, unless it is on record."""
        now = self.clock.now()
        changes = (port.BeginStep(self.job, name, now), port.EndStep(self.job, name, now, output))
        self.heard()
        return kept((await self.store.commit(changes))[0])  # type: ignore[no-any-return]  # the first change's result

    async def _commit(self, change: port.Change) -> Any:
        self.heard()
        return kept((await self.store.commit((change,)))[0])


def kept(result: Any) -> Any:
    """Return the result of a fenced write. Raises LeaseLost where it has none: nothing was written."""
    if result is None or result is False:
        raise LeaseLost
    return result


def result_of(row: port.ParentResult | port.ChildResult) -> JobResult:
    """Return a row as the job's code sees it."""
    result = None if row.result is None else json.loads(row.result)
    return JobResult(row.id, row.kind, row.status, result, None if row.error is None else json.loads(row.error))


def new_job(fields: dict[str, Any], name: str) -> NewJob:
    """Return what is submitted as the child *name*. Raises RequestInvalid, which never quotes what was given."""
    try:
        return NewJob.model_validate_json(json.dumps(fields, allow_nan=False))
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'all'}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise RequestInvalid(f"the child {name!r} is not valid: {places}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestInvalid(f"the child {name!r} cannot be written as JSON: {error}"[:500]) from None


# What a child process may ask, by the names of the record's methods, with the types of what it sends along.
QUESTIONS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "begin": {"name": (str,), "retry": (bool,)},
    "end": {"name": (str,), "output": (str, type(None)), "error": (str, type(None)), "cost": (int, float, type(None))},
    "decided": {"name": (str,)},
    "due": {"name": (str,), "after_ms": (int,)},
    "take": {"name": (str,), "step": (str,)},
    "note": {"step": (str,), "output": (str,)},
    "submit": {"name": (str,), "job": (dict,)},
    "children": {},
    "parents": {},
}


async def answer(record: Record, what: str, fields: dict[str, Any]) -> Any:
    """Answer a question of a child process with what JSON can say: a tuple as a list, a `JobResult` as its fields.

    Raises RequestInvalid where it is none (the user's code may write to that channel too), and what the record raises.
    """
    shape = QUESTIONS.get(what)
    if shape is None or shape.keys() != fields.keys():
        raise RequestInvalid(f"a job's process cannot ask {what[:50]!r} so")
    if wrong := [name for name, types in shape.items() if not isinstance(fields[name], types)]:
        raise RequestInvalid(f"a job's process asks {what!r} with a wrong {', '.join(wrong)}")
    found = await getattr(record, what)(**fields)
    if what in ("children", "parents"):
        return [[one.id, one.kind, one.status, one.result, one.error] for one in found]
    return found
