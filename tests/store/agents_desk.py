"""What a test does to a store about agents: questions to people, money, forks, personas, notes."""

import json
from itertools import count
from typing import Any

from runtime.store.port import (
    AbsorbJobs,
    AnswerApproval,
    AppendMessages,
    ApprovalRow,
    AskApproval,
    BeginStep,
    Charge,
    EndStep,
    ExpireApprovals,
    ForkConversation,
    PutNote,
    PutPersona,
    RemovePersona,
    RevokeGrant,
    Store,
    UseApproval,
)

AGENT = "agent:ada"
DAY = "2026-11-22"
HOUR = 3_600_000


class AgentDesk:
    """The part of the desk that is about agents; the rest of it is in `conftest`."""

    store: Store
    now: int

    def __init__(self) -> None:
        self._approval_ids = count(1)

    async def one(self, change: Any) -> Any:
        """Commit one change alone and return its result."""
        (result,) = await self.store.commit([change])
        return result

    # -- approvals -----------------------------------------------------------------------------------------------------

    def question(self, fence: Any, step: str = "ask/1", **fields: Any) -> AskApproval:
        """A question that an hour is given for."""
        given = {"agent": "ada", "conversation": "main", "tool": "shell", "arguments": '{"a":1}', "digest": "d1"}
        given |= {"id": f"approval-{next(self._approval_ids):04d}", "why": "it asks each time"}
        times = {"now": self.now, "expires_at": self.now + HOUR}
        return AskApproval(fence=fence, step=step, **(given | times | fields))

    async def ask(self, fence: Any, step: str = "ask/1", **fields: Any) -> Any:
        return await self.one(self.question(fence, step, **fields))

    async def answer(self, row: ApprovalRow, allow: bool = True, **fields: Any) -> Any:
        return await self.one(AnswerApproval(**({"id": row.id, "allow": allow, "now": self.now, "by": "me"} | fields)))

    def using(self, fence: Any, row: ApprovalRow, **fields: Any) -> UseApproval:
        """The use of an approval as it was asked for."""
        given = {
            "id": row.id,
            "step": row.step,
            "tool": row.tool,
            "digest": row.edited_digest or row.digest,
            "now": self.now,
        }
        return UseApproval(fence=fence, **(given | fields))

    async def use(self, fence: Any, row: ApprovalRow, **fields: Any) -> None:
        assert await self.one(self.using(fence, row, **fields)) is None

    async def expire(self) -> tuple[str, ...]:
        return tuple(await self.one(ExpireApprovals(self.now)))

    async def approval(self, row: ApprovalRow) -> ApprovalRow:
        """Return an approval as it stands now."""
        found = await self.store.approval(row.id)
        assert found is not None
        return found

    # -- the rest ------------------------------------------------------------------------------------------------------

    def charge(self, **fields: Any) -> Charge:
        return Charge(**({"agent": "ada", "day": DAY} | fields))

    def absorbing(self, fence: Any, step: str = "steer/1", **fields: Any) -> AbsorbJobs:
        given = {"queue": AGENT, "conversation": "main", "tag": "steer", "now": self.now}
        problem = {
            "code": "job.cancelled",
            "title": "Cancelled",
            "status": 409,
            "detail": "another run has taken it in",
        }
        return AbsorbJobs(fence=fence, step=step, **({"error": json.dumps(problem)} | given | fields))

    async def absorb(self, fence: Any, step: str = "steer/1", **fields: Any) -> Any:
        """Return what an attempt took in, as Python values."""
        text = await self.one(self.absorbing(fence, step, **fields))
        return text if text is None else json.loads(text)

    async def say(self, conversation: str, *texts: str, agent: str = "ada", job: str | None = None) -> None:
        """Append messages, a millisecond after what was there."""
        self.now += 1
        await self.one(AppendMessages(agent, conversation, tuple(json.dumps(t) for t in texts), job, self.now))

    async def said(self, conversation: str, *, agent: str = "ada") -> str:
        """Return what was said, in one line; the two ways to read it agree."""
        texts = [json.loads(body) for body in await self.store.messages(agent, conversation)]
        rows = await self.store.journal(agent, conversation)
        assert [json.loads(row.body) for row in rows] == texts
        assert [row.n for row in rows] == list(range(1, len(texts) + 1))
        return " ".join(texts)

    async def fork(self, source: str, target: str, keep: int | None = None, *, agent: str = "ada") -> Any:
        self.now += 1
        return await self.one(ForkConversation(agent, source, target, self.now, keep))

    async def note(self, key: str, text: str | None, *, agent: str = "ada", **fields: Any) -> Any:
        return await self.one(PutNote(agent, key, text, self.now, **fields))

    async def remembered(self, *words: str, agent: str = "ada", **fields: Any) -> list[str]:
        """Return the keys of the notes that are told."""
        return [note.key for note in await self.store.notes(agent, words=words, **fields)]


async def about_agents(store: Store, names: list[str]) -> dict[str, Any]:
    """Return all that can be read of agents, to be compared."""
    talks = sorted({(name, talk) for name in names for talk in await store.conversations(name)})
    return {
        "talks": [await store.conversations(name) for name in names],
        "messages": {talk: await store.messages(*talk) for talk in talks},
        "journals": {talk: await store.journal(*talk) for talk in talks},
        "approvals": await store.approvals(limit=1000),
        "grants": await store.grants(),
        "spent": [await store.spent(name) for name in names],
        "personas": await store.personas(),
        "notes": [await store.notes(name, limit=1000) for name in names],
    }


async def a_busy_office(desk: Any, running: Any) -> dict[str, Any]:
    """Give an attempt one of everything that is about agents; return the changes that touch all of it."""
    await desk.begin(running, "paid", charge=desk.charge(calls=1, cost=5))
    await desk.insert(desk.talk(tags=("steer",)))
    asked, allowed, late = [await desk.ask(running, f"ask/{n}") for n in range(2)] + [
        await desk.ask(running, "ask/late", expires_at=desk.now + 1)
    ]
    await desk.answer(allowed, always=True)
    await desk.say("main", "a", "b")
    await desk.one(PutPersona("eve", "{}", desk.now))
    await desk.note("door", "4711")
    now = desk.now + 10
    answer = AnswerApproval(asked.id, True, now, "me", "well", '{"a":2}', "d2", always=True)
    return {
        "begin charged": BeginStep(running, "model/1", now=now, charge=desk.charge(calls=1)),
        "end charged": EndStep(running, "paid", now=now, output="1", charge=desk.charge(cost=-3)),
        "absorb": desk.absorbing(running),
        "ask": desk.question(running, "ask/new"),
        "answer": answer,
        "use": desk.using(running, allowed, now=now),
        "expire approvals": ExpireApprovals(late.expires_at),
        "revoke": RevokeGrant("ada", "shell", "d1"),
        "fork": ForkConversation("ada", "main", "side", now, keep=1),
        "persona": PutPersona("eve", '{"llm":"x"}', now),
        "note": PutNote("ada", "door", "4712", now, keep=1),
        "no note": PutNote("ada", "door", None, now),
        "no persona": RemovePersona("eve"),
    }
