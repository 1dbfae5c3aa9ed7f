"""What is kept of agents beside their states: conversations that fork, agents defined at run time, notes; and how this
and what is theirs besides is read.
"""

from runtime.errors import ConversationExists
from runtime.store.memory.base import check_json
from runtime.store.memory.reads import Reads
from runtime.store.port import (
    ApprovalRow,
    Charge,
    ForkConversation,
    GrantRow,
    MessageRow,
    NoteRow,
    PersonaRow,
    PutNote,
    PutPersona,
    RemovePersona,
)
from runtime.store.rules import best


class Agents(Reads):
    """Changes first, reads after them."""

    def fork(self, change: ForkConversation) -> int | None:
        source, target = (change.agent, change.source), (change.agent, change.target)
        if source not in self._used:
            return None
        if self._messages.get(target):
            raise ConversationExists(f"{change.agent} has a conversation {change.target!r} already")
        shared = self._messages.get(source, ())
        if change.keep is not None:
            shared = shared[: max(change.keep, 0)]
        self._messages.put(target, shared)
        self._used.put(target, (change.now, self._next("use")))
        return len(shared)

    def put_persona(self, change: PutPersona) -> None:
        check_json(change.settings)
        known = self._personas.get(change.name)
        since = change.now if known is None else known.created_at
        self._personas.put(change.name, PersonaRow(change.name, change.settings, since, change.now))

    def remove_persona(self, change: RemovePersona) -> bool:
        there = change.name in self._personas
        self._personas.put(change.name, None)
        return there

    def put_note(self, change: PutNote) -> bool:
        key = (change.agent, change.key)
        there = key in self._notes
        self._notes.put(key, None)
        if change.text is None:
            return there
        self._notes.put(key, (self._next("note"), NoteRow(change.key, change.text, change.now)))
        for note in self._notes_of(change.agent)[max(change.keep, 0) :]:
            self._notes.put((change.agent, note.key), None)
        return True

    def _notes_of(self, agent: str) -> list[NoteRow]:
        """The notes of an agent, newest first."""
        mine = ((n, note) for (owner, _), (n, note) in self._notes.items() if owner == agent)
        return [note for _, note in sorted(mine, key=_number, reverse=True)]

    # -- read ----------------------------------------------------------------------------------------------------------

    async def journal(
        self, agent: str, conversation: str, *, after: int = 0, limit: int = 1000
    ) -> tuple[MessageRow, ...]:
        await self._reading()
        first = max(after, 0)
        return self._messages.get((agent, conversation), ())[first : first + limit]

    async def approvals(
        self, *, status: str | None = None, agent: str | None = None, job: str | None = None, limit: int = 100
    ) -> tuple[ApprovalRow, ...]:
        await self._reading()
        found = [
            row
            for row in self._approvals.values()
            if status in (None, row.status) and agent in (None, row.agent) and job in (None, row.job)
        ]
        return tuple(sorted(found, key=_id_of, reverse=True))[:limit]

    async def approval(self, approval_id: str) -> ApprovalRow | None:
        await self._reading()
        return next((row for row in self._approvals.values() if row.id == approval_id), None)

    async def grants(self, agent: str | None = None) -> tuple[GrantRow, ...]:
        await self._reading()
        return tuple(sorted((row for row in self._grants.values() if agent in (None, row.agent)), key=_place_of))

    async def spent(self, agent: str, *, since: str = "") -> tuple[Charge, ...]:
        await self._reading()
        days = sorted(day for who, day in self._spending if who == agent and day >= since)
        return tuple(self._spending[agent, day] for day in days)

    async def personas(self) -> tuple[PersonaRow, ...]:
        await self._reading()
        return tuple(self._personas[name] for name in sorted(self._personas))

    async def notes(self, agent: str, *, words: tuple[str, ...] = (), limit: int = 20) -> tuple[NoteRow, ...]:
        await self._reading()
        return best(self._notes_of(agent), words, limit)


def _number(pair: tuple[int, NoteRow]) -> int:
    return pair[0]


def _id_of(row: ApprovalRow) -> str:
    return row.id


def _place_of(row: GrantRow) -> tuple[str, str, int, str]:
    return row.agent, row.tool, row.at, row.digest
