"""Tools that reach beyond a turn: other agents, jobs, and what was cut from a result. What they do is part of the run's
record, so each is a step, and what has to be waited for is waited for without holding anything.
"""

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from actors.budget import spent_by
from actors.calls import Call, Calls, Parked, traits_of
from runtime.errors import RequestInvalid, TooManyHops, UnderstudyError, WaitCycle
from runtime.store import port
from runtime.tools.tool import ToolContext, ToolResult
from schemas.agents import Chain, Say
from schemas.jobs import ENDED, NewJob

if TYPE_CHECKING:
    from actors.turn import Scene

REPEATS: Final = 2
"""How often a word may come back to an agent that has passed it on already."""

PAGE: Final = 8_000

INSTEAD: Final = {"agent.message": "use agents.ask or agents.tell for agents", "shell": "use the tool shell"}


class Together:
    """The tools `agents.ask`, `agents.tell`, `jobs.submit`, `jobs.await` and `results.read` of one turn."""

    def __init__(self, scene: "Scene", calls: Calls) -> None:
        self.scene, self.calls, self.ledger = scene, calls, calls.ledger
        calls.inner = {
            "agents.ask": self.ask,
            "agents.tell": self.tell,
            "jobs.submit": self.submit,
            "jobs.await": self.wait,
            "results.read": self.read,
        }

    # -- agents --------------------------------------------------------------------------------------------------------

    async def ask(self, call: Call) -> dict[str, Any] | Parked:
        """Have another agent answer; its turn is a part of this run."""
        sent = self.ledger.done.get(f"{call.step}/sent")
        if sent is None:
            try:
                chain = self._chain(call, waits=True)
                row = self._words(call, chain, parent=self.scene.job.id)
            except UnderstudyError as error:
                return await self._no(call, error)
            sent = await self._send(call, row)
            self.scene.tell("ask", {"agent": call.arguments["agent"], "job": sent["job"]})
        return await self._answer(call, sent["job"])

    async def tell(self, call: Call) -> dict[str, Any]:
        """Tell another agent something and go on."""
        try:
            row = self._words(call, self._chain(call, waits=False), parent=None)
        except UnderstudyError as error:
            return await self._no(call, error)
        output = self._output(call, f"told; it is run {row.id}")
        now = self.scene.house.clock.now()
        return await self.ledger.record(call.step, output, port.InsertJobs((row,), now, fence=self.scene.job))  # type: ignore[no-any-return]

    def _chain(self, call: Call, *, waits: bool) -> Chain:
        """Return how the word comes to the other agent. Raises WaitCycle, TooManyHops, and refuses nobody else."""
        scene, chain = self.scene, self.scene.chain
        to, me = call.arguments["agent"], scene.agent
        waiting = (*chain.waiting, me) if waits else ()
        path = (*chain.path, me)
        if waits and to in waiting:
            circle = (*waiting[waiting.index(to) :], to)
            raise WaitCycle(f"these agents would wait for one another: {' -> '.join(circle)}", path=list(circle))
        whole = (*path, to)
        most = scene.house.loaded.settings.runtime.max_hops
        if chain.hops + 1 > most:
            raise TooManyHops(f"this was passed on {most} times: {' -> '.join(whole)}", path=list(whole))
        if path.count(to) > REPEATS:
            raise TooManyHops(f"this goes round in circles: {' -> '.join(whole)}", path=list(whole))
        tokens, cost = self.calls.budget.left()
        return Chain(
            path=path,
            waiting=waiting,
            hops=chain.hops + 1,
            traits=tuple(sorted(self.calls.held)),
            tokens=None if tokens is None else tokens // call.share,
            cost=None if cost is None else cost // call.share,
            until=chain.until,
        )

    def _words(self, call: Call, chain: Chain, parent: str | None) -> port.JobRow:
        house = self.scene.house
        now = house.clock.now()
        talk = re.sub(r"[^A-Za-z0-9_.:-]", "-", f"{self.scene.agent}.{self.scene.said.conversation}")[:128]
        words = {"text": call.arguments["message"], "conversation": talk}
        args = {
            "agent": call.arguments["agent"],
            "type": Say.TYPE,
            "message": words,
            "chain": chain.model_dump(mode="json", exclude_none=True),
        }
        left = None if chain.until is None else max(1, chain.until - now)
        job = NewJob(kind="agent.message", args=args, parent=parent, deadline_ms=left)
        return house.prepare(job, house.clock.new_id(), now)

    async def _answer(self, call: Call, job: str) -> dict[str, Any] | Parked:
        """Return how a part of this run ended, or wait for it."""
        children = await self.scene.house.store.children(self.scene.job.id)
        child = next((one for one in children if one.id == job), None)
        if child is not None and child.status not in ENDED:
            return Parked(None, self.scene.chain.until)
        view = await self.scene.house.store.job(job)
        held = [] if view is None else await traits_of(self.scene.house.store, view)
        if child is None or child.status != "completed":
            told = json.loads(child.error) if child is not None and child.error else {}
            why = told.get("detail") or (f"it was {child.status}" if child is not None else "it is gone")
            spent = None if view is None else spent_by(view).model_dump()  # though it brought no answer
            return await self._recorded(call, f"no answer: {why}", failed=True, spent=spent, traits=held)
        found = json.loads(child.result or "null")
        if not (isinstance(found, dict) and "text" in found):
            return await self._recorded(call, json.dumps(found, ensure_ascii=False), traits=held)
        usage = found.get("usage") or {}
        spent = {
            "calls": found.get("calls", 0),
            "input_tokens": usage.get("input_tokens", 0),
            "output_tokens": usage.get("output_tokens", 0),
            "cost": found.get("cost", 0),
        }
        return await self._recorded(call, str(found["text"]), spent=spent, traits=held)

    # -- jobs ----------------------------------------------------------------------------------------------------------

    async def submit(self, call: Call) -> dict[str, Any]:
        """Submit a job as a part of this run."""
        house, now = self.scene.house, self.scene.house.clock.now()
        kind, args = call.arguments["kind"], call.arguments.get("args") or {}
        try:
            if kind in INSTEAD:  # what asks a person as a tool does not run unasked as a job
                raise RequestInvalid(INSTEAD[kind])
            job = NewJob(kind=kind, args=args, parent=self.scene.job.id)
            row = house.prepare(job, house.clock.new_id(), now)
        except UnderstudyError as error:
            return await self._no(call, error)
        except ValueError as error:
            return await self._recorded(call, f"this cannot be submitted: {error}"[:500], failed=True)
        output = self._output(call, f"submitted as job {row.id}")
        return await self.ledger.record(call.step, output, port.InsertJobs((row,), now, fence=self.scene.job))  # type: ignore[no-any-return]

    async def wait(self, call: Call) -> dict[str, Any] | Parked:
        """Wait for a job that is a part of this run."""
        children = await self.scene.house.store.children(self.scene.job.id)
        if all(one.id != call.arguments["job"] for one in children):
            return await self._recorded(call, "there is no such job in this run", failed=True)
        return await self._answer(call, call.arguments["job"])

    # -- results -------------------------------------------------------------------------------------------------------

    async def read(self, call: Call) -> dict[str, Any]:
        """Show more of a result that was cut."""
        run, _, place = str(call.arguments["ref"]).rpartition("/")
        view = await self.scene.house.store.job(run)
        text: str | None = None
        held: list[str] = []
        if view is not None and view.queue == self.scene.job.queue:
            step = next((one for one in view.steps if one.name == f"tool/{place}" and one.output), None)
            text = None if step is None else step.output.get("text")
            held = await traits_of(self.scene.house.store, view)
        if text is None:
            return await self._recorded(call, "there is no such result", failed=True)
        offset = min(max(0, int(call.arguments.get("offset") or 0)), len(text))
        page = text[offset : offset + min(PAGE, max(100, self.scene.settings.result_chars - 200))]
        left = len(text) - offset - len(page)
        more = f"\n[{left} more characters from offset {offset + len(page)}]" if left else ""
        return await self._recorded(call, page + more, traits=held)

    # -- within --------------------------------------------------------------------------------------------------------

    async def _send(self, call: Call, row: port.JobRow) -> dict[str, Any]:
        now = self.scene.house.clock.now()
        change = port.InsertJobs((row,), now, fence=self.scene.job)
        return await self.ledger.record(f"{call.step}/sent", {"job": row.id}, change)  # type: ignore[no-any-return]

    async def _no(self, call: Call, error: UnderstudyError) -> dict[str, Any]:
        return await self._recorded(call, f"{error.code}: {error.detail}", failed=True)

    async def _recorded(
        self,
        call: Call,
        text: str,
        *,
        failed: bool = False,
        spent: dict[str, int] | None = None,
        traits: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Record what a call came to; *traits* come with it from another conversation."""
        output = self._output(call, text, failed=failed)
        if spent is not None:
            output["spent"] = spent
        if traits:
            output["traits"] = list(traits)
        return await self.ledger.record(call.step, output)  # type: ignore[no-any-return]

    def _output(self, call: Call, text: str, *, failed: bool = False) -> dict[str, Any]:
        return {"name": call.tool.name, "arguments": call.arguments, "text": text, "failed": failed}


async def elsewhere(context: ToolContext, arguments: dict[str, Any]) -> ToolResult:
    """These tools are run by the turn itself."""
    raise NotImplementedError


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _object(required: tuple[str, ...], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


DESCRIBED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "agents.ask": (
        "Ask another agent and get its answer. It knows nothing of this conversation: say all it needs.",
        _object(("agent", "message"), agent=_text("the agent's name"), message=_text("what to ask")),
    ),
    "agents.tell": (
        "Tell another agent something without waiting for an answer.",
        _object(("agent", "message"), agent=_text("the agent's name"), message=_text("what to tell")),
    ),
    "jobs.submit": (
        "Submit a job to the queue; answers its id. It is a part of this run.",
        _object(("kind",), kind=_text("the kind of job"), args={"type": "object", "description": "its arguments"}),
    ),
    "jobs.await": (
        "Wait until the jobs of this run have ended, and get the result of one.",
        _object(("job",), job=_text("its id")),
    ),
    "results.read": (
        "Read more of a result that was cut.",
        _object(
            ("ref",),
            ref=_text("as it stood where the result was cut"),
            offset={"type": "integer", "description": "the first character, from 0"},
        ),
    ),
}
"""The tools of this file: what a model is told of each, and its schema."""
