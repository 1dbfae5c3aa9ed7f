"""The calls of tools in a turn: what is permitted, who is asked, what is made once, and what the model is told of
it.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from actors.budget import Budget
from actors.ledger import Ledger
from runtime import log
from runtime.attempt_record import kept
from runtime.errors import ApprovalInvalid, ToolError, ToolInvalid
from runtime.store import port
from runtime.tools.tool import Tool, Toolbox, ToolContext, ToolResult, canonical, cut, digest_of, wire_name
from schemas.chat import ChatMessage, ToolCall
from schemas.config import AgentSettings
from schemas.jobs import JobView
from schemas.tools import MAX_RESULT_CHARS

if TYPE_CHECKING:
    from actors.turn import Scene

TRIFECTA: Final = frozenset({"private", "untrusted", "outward"})
"""What no run may hold at once without a person: what is nobody else's business, words of strangers, and a way out."""

UNKNOWN: Final = (
    "An earlier try of this call was interrupted and nobody knows whether it took effect. It was not made again. Look "
    "whether it did before you call it anew."
)
MAX_DEPTH: Final = 64
"""How deep the arguments of a call may be nested."""

MAX_TRIES: Final = 3
"""How often a call is begun that was interrupted each time."""
GIVEN_UP: Final = f"This call was interrupted {MAX_TRIES} times. It is not made again."

AGAIN: Final = "an earlier try of this call was interrupted; it may have taken effect already"

logger = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Parked:
    """A call that waits: for a person's answer (the name of the signal), or for a part of the run (None); *until* in
    milliseconds UTC."""

    signal: str | None
    until: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call that can be made: the tool, its checked arguments, the step it is on record as, and its share of what the
    turn may still use."""

    step: str
    tool: Tool
    arguments: dict[str, Any]
    asked: ToolCall
    share: int = 1

    @property
    def text(self) -> str:
        """Its canonical arguments."""
        return canonical(self.arguments)


Inner = Callable[[Call], Awaitable["dict[str, Any] | Parked"]]


def traits_key(agent: str, conversation: str) -> str:
    """Return the setting that keeps what a conversation holds."""
    return f"traits/{agent}/{conversation}"


async def traits_of(store: port.Store, run: JobView) -> list[str]:
    """Return what the conversation of a run holds."""
    agent = run.queue.removeprefix("agent:")
    found: list[str] = json.loads(await store.setting(traits_key(agent, run.conversation or "main")) or "[]")
    return found


class Calls:
    """The calls of one turn.

    held  what they have brought into the run (`schemas.tools.Trait`)
    made  how many were made
    """

    def __init__(self, scene: "Scene", ledger: Ledger, budget: Budget) -> None:
        self.scene, self.ledger, self.budget = scene, ledger, budget
        self.held: set[str] = set()
        self.made = 0
        self._kept: frozenset[str] = frozenset()
        self._keeping = anyio.Lock()
        self.inner: Mapping[str, Inner] = {}

    def recorded(self, number: int, count: int) -> bool:
        """Tell whether all calls of an answer are on record."""
        return all(f"tool/{number}.{m}" in self.ledger.done for m in range(count))

    async def make(self, number: int, m: int, asked: ToolCall, share: int = 1) -> ChatMessage | Parked:
        """Make a call, or return what is on record of it. What is wrong with it the model is told; raises what ends the
        attempt."""
        step = f"tool/{number}.{m}"
        known = self.ledger.done.get(step)
        if known is not None:
            return await self._message(step, asked, known)
        tool = self.scene.toolbox.named(asked.name)
        if tool is None:
            return await self._refused(step, asked, self._nobody(asked.name))
        try:
            arguments = tool.check(parsed(asked.arguments))
        except ToolInvalid as error:
            return await self._refused(step, asked, error.detail)
        call = Call(step, tool, arguments, asked, share)
        made = await self._permitted(call)
        return made if isinstance(made, Parked) else await self._message(step, asked, made)

    def _nobody(self, name: str) -> str:
        toolbox = self.scene.toolbox
        for missing, why in toolbox.missing.items():
            if name in (missing, wire_name(missing)):
                return f"the tool {name} is not there now: {why}"
        known = ", ".join(sorted(wire_name(one) for one in toolbox.tools))
        return f"there is no tool {name}; you have: {known or 'none'}"

    async def _refused(self, step: str, asked: ToolCall, why: str) -> ChatMessage:
        output = {"name": asked.name, "arguments": asked.arguments, "text": why, "failed": True}
        self._tell(asked.name, asked.arguments, "failed", why)
        return await self._message(step, asked, await self.ledger.record(step, output))

    async def _message(self, step: str, asked: ToolCall, output: Mapping[str, Any]) -> ChatMessage:
        """Take in what a call came to."""
        self.made += 1
        tool = self.scene.toolbox.named(asked.name)
        if tool is not None:
            await self.hold({*tool.traits, *output.get("traits", ())})
        if spent := output.get("spent"):
            self.budget.count_spent(spent)
        return self.scene.shown(step, asked, output)

    async def remember(self) -> None:
        """Take up what the conversation has held so far."""
        known = await self.scene.house.store.setting(traits_key(self.scene.agent, self.scene.said.conversation))
        self._kept = frozenset(json.loads(known or "[]"))
        self.held.update(self._kept)

    async def hold(self, traits: Iterable[str]) -> None:
        """Have brought *traits* into the conversation, for good: what is cut from the prompt, or is a part of a summary
        by now, is still known.
        """
        self.held.update(traits)
        if self.held == self._kept:
            return
        name = traits_key(self.scene.agent, self.scene.said.conversation)
        async with self._keeping:  # calls end side by side, and the last one to be written knows of all
            held = frozenset(self.held)
            await self.scene.house.store.commit((port.PutSetting(name, json.dumps(sorted(held))),))
            self._kept = held

    # -- may it? -------------------------------------------------------------------------------------------------------

    async def _permitted(self, call: Call) -> dict[str, Any] | Parked:
        """Make a call that may be made; ask a person first where one has to be asked."""
        tool = call.tool
        permission = "ask" if tool.asks_always else self.scene.settings.permissions.get(tool.name, tool.permission)
        if permission == "deny":
            return await self._told(call, f"you may not use {tool.name}", failed=True)
        why = await self._why_ask(call, permission)
        begun = self.ledger.started.get(call.step)
        name = call.step
        if begun is not None:
            match tool.effect:
                case "tell_model":
                    return await self._told(call, UNKNOWN, failed=True)
                case "ask_human":
                    why, name = AGAIN, f"{call.step}/again/{begun}"
                case "verify" if tool.verify is not None:
                    try:
                        found = await tool.verify(self._context(call), call.arguments)
                    except Exception:
                        logger.exception("tool_not_verified", tool=tool.name, run=self.scene.job.id)
                        return await self._told(call, UNKNOWN, failed=True)
                    if found is not None:
                        return await self._told(call, found.text, failed=found.failed)
                case _:  # it may be made again, but not for ever: it may be what brings the daemon down
                    if sum(name.startswith(f"{call.step}/try/") for name in self.ledger.done) >= MAX_TRIES - 1:
                        return await self._told(call, GIVEN_UP, failed=True)
                    await self.ledger.record(f"{call.step}/try/{begun}", begun)
        if why is None:
            return await self._make(call)
        return await self._asked(call, name, why)

    async def _why_ask(self, call: Call, permission: str) -> str | None:
        """Return why a person has to be asked, None where nobody has."""
        traits = call.tool.traits
        held = self.held | traits
        if held >= TRIFECTA and (not self.held >= TRIFECTA or "outward" in traits):
            why = "this run would hold private data, words of strangers and a way out at once"
        elif permission == "ask":
            why = f"{call.tool.name} asks each time"
        else:
            return None
        digest = digest_of(call.text)
        grants = await self.scene.house.store.grants(self.scene.agent)
        granted = any((grant.tool, grant.digest) == (call.tool.name, digest) for grant in grants)
        return None if granted and not await self._denied(call) else why

    async def _denied(self, call: Call) -> bool:
        """Tell whether a person has said no to this very call, whatever was allowed for good since."""
        rows = await self.scene.house.store.approvals(job=self.scene.job.id, limit=1000)
        return any(row.status == "denied" and row.step.startswith(call.step) for row in rows)

    async def _asked(self, call: Call, name: str, why: str) -> dict[str, Any] | Parked:
        """Go by a person's answer; where there is none yet, wait for it without holding anything."""
        scene, now = self.scene, self.scene.house.clock.now()
        row = await self._ask(call, name, why, now)
        while row.status == "void":  # its run was cancelled while it waited, and a person has had it tried again
            name = f"{name}/{row.id}"
            row = await self._ask(call, name, why, now)
        if row.status == "pending" and now >= row.expires_at:
            await scene.house.store.commit((port.ExpireApprovals(now),))
            row = await scene.house.store.approval(row.id) or row
        match row.status:
            case "pending":
                about = {"id": row.id, "tool": row.tool, "arguments": call.arguments, "why": why}
                scene.tell("approval", about)
                return Parked(f"approval/{row.id}", row.expires_at)
            case "allowed" | "used":
                return await self._allowed(call, row)
            case "expired":
                return await self._told(call, "nobody answered in time, so this call was not allowed", failed=True)
        said = f": {row.reason}" if row.reason else ""
        return await self._told(call, f"a person did not allow this call{said}", failed=True)

    async def _ask(self, call: Call, name: str, why: str, now: int) -> port.ApprovalRow:
        scene = self.scene
        change = port.AskApproval(
            scene.job,
            scene.house.clock.new_id(),
            scene.agent,
            scene.said.conversation,
            name,
            call.tool.name,
            call.text,
            digest_of(call.text),
            why,
            now,
            now + scene.settings.approval_timeout,
        )
        row: port.ApprovalRow = kept((await scene.house.store.commit((change,)))[0])
        return row

    async def _allowed(self, call: Call, row: port.ApprovalRow) -> dict[str, Any]:
        """Make a call that a person allowed, with the arguments they put in place; it is looked at once more, now."""
        if row.edited is not None:
            try:
                call = Call(call.step, call.tool, call.tool.check(json.loads(row.edited)), call.asked, call.share)
            except ToolInvalid as error:
                return await self._told(
                    call, f"the arguments a person put in place do not fit: {error.detail}", failed=True
                )
        # Of what is about to be done, which the tool may have filled in otherwise than when the person looked.
        digest = digest_of(call.text)
        use = port.UseApproval(self.scene.job, row.id, row.step, call.tool.name, digest, self.scene.house.clock.now())
        try:
            made = await self._make(call, use)
        except ApprovalInvalid as error:  # it has expired meanwhile, or is for another call: nothing was done
            return await self._told(call, f"this call was not allowed: {error.detail}", failed=True)
        assert not isinstance(made, Parked)
        return made

    # -- made ----------------------------------------------------------------------------------------------------------

    async def _make(self, call: Call, *first: port.Change) -> dict[str, Any] | Parked:
        if (inner := self.inner.get(call.tool.name)) is not None:
            return await inner(call)
        context = self._context(call)
        await self.ledger.begin(call.step, first=first)
        self._tell(call.tool.name, call.arguments, "started")
        result = await self._run(call, context)
        output = self._output(call, result.text, failed=result.failed)
        self._tell(call.tool.name, call.arguments, "failed" if result.failed else "done", result.text)
        found: dict[str, Any] = await self.ledger.end(call.step, output)
        return found

    async def _run(self, call: Call, context: ToolContext) -> ToolResult:
        tool = call.tool
        try:
            with anyio.fail_after(tool.timeout):
                return await tool.run(context, call.arguments)
        except ToolError as error:
            return ToolResult(error.detail, failed=True)
        except TimeoutError:
            return ToolResult(f"{tool.name} took more than {tool.timeout:g} s and was ended", failed=True)
        except Exception as error:  # what a tool raises is for the model to know, and no crash of the agent
            logger.warning("tool_failed", tool=tool.name, agent=self.scene.agent, run=self.scene.job.id, exc_info=True)
            return ToolResult(f"{type(error).__name__}: {error}", failed=True)
        except anyio.get_cancelled_exc_class():
            await checkpoint_if_cancelled()
            return ToolResult(f"{tool.name} awaited something that was cancelled", failed=True)

    async def _told(self, call: Call, text: str, *, failed: bool) -> dict[str, Any]:
        """Record what the model is told without anything having been done."""
        self._tell(call.tool.name, call.arguments, "failed" if failed else "done", text)
        found: dict[str, Any] = await self.ledger.record(call.step, self._output(call, text, failed=failed))
        return found

    def _output(self, call: Call, text: str, *, failed: bool) -> dict[str, Any]:
        text = text.encode(errors="replace").decode()[:MAX_RESULT_CHARS]
        return {"name": call.tool.name, "arguments": call.arguments, "text": text, "failed": failed}

    def _context(self, call: Call) -> ToolContext:
        scene = self.scene
        return ToolContext(
            agent=scene.agent,
            run=scene.job.id,
            call=call.step,
            key=f"{scene.job.id}/{call.step}",
            workdir=scene.house.toolroom.workdir(scene.agent, scene.settings),
            clock=scene.house.clock,
            surroundings=scene.house.toolroom.surroundings(scene.agent),
            retried=call.step in self.ledger.started,
        )

    def _tell(self, name: str, arguments: Any, state: str, why: str = "") -> None:
        text = arguments if isinstance(arguments, str) else canonical(arguments)
        failed = {"text": why[:500]} if state == "failed" else {}
        self.scene.tell("tool", {"name": name, "arguments": text[:500], "state": state} | failed)


def shown(
    toolbox: Toolbox, settings: AgentSettings, run: str, step: str, asked: ToolCall, output: Mapping[str, Any]
) -> ChatMessage:
    """Return what a model is shown of a call's result, by what is on record of it."""
    tool = toolbox.named(asked.name)
    text = cut(output["text"], settings.result_chars, f"{run}/{step.removeprefix('tool/')}")
    name = asked.name if tool is None else tool.name
    return ChatMessage(role="tool", name=name, tool_call_id=asked.id, content=text, failed=output["failed"])


def deeper_than(levels: int, value: Any) -> bool:
    """Tell whether *value*, out of JSON, is nested deeper than so many levels: what shows it later has its limits."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not layer:
            return False
    return any(isinstance(one, dict | list) for one in layer)


def parsed(arguments: str) -> dict[str, Any]:
    """Return the arguments a model sent. Raises ToolInvalid."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        raise ToolInvalid("the arguments are not JSON; send one object") from None
    if not isinstance(found, dict):
        raise ToolInvalid("the arguments are no JSON object")
    if deeper_than(MAX_DEPTH, found):
        raise ToolInvalid(f"the arguments are nested deeper than {MAX_DEPTH} levels")
    # Half a character, which JSON can name and no file can hold, becomes a question mark.
    return json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))  # type: ignore[no-any-return]
