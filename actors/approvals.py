"""What people are asked by agents, and what they answer."""

import json
from typing import Any

from actors.company import Company
from runtime.core.actor import Actor, handles
from runtime.errors import ApprovalAnswered, ApprovalNotFound, GrantNotFound, ToolInvalid
from runtime.store import port
from runtime.tools.tool import canonical, digest_of
from schemas.base import Ack
from schemas.tools import (
    AnswerApproval,
    ApprovalView,
    GetApproval,
    GrantView,
    ListApprovals,
    ListGrants,
    RevokeGrant,
)


class Approvals(Actor):
    """The part of `system` that knows approvals. An answer and the wake-up of the run that waits are one commit."""

    house: Company

    @handles
    async def approvals(self, message: ListApprovals) -> tuple[ApprovalView, ...]:
        await expire(self.house)
        rows = await self.house.store.approvals(status=message.status, agent=message.agent, limit=message.limit)
        return tuple(approval_view(row) for row in rows)

    @handles
    async def one_approval(self, message: GetApproval) -> ApprovalView:
        await expire(self.house)
        return approval_view(await self._approval(message.id))

    @handles
    async def answer(self, message: AnswerApproval) -> ApprovalView:
        row = await self._approval(message.id)
        edited = digest = None
        if message.allow and message.arguments is not None:
            self._check(row, message.arguments)
            edited = canonical(message.arguments)
            digest = digest_of(edited)
        change = port.AnswerApproval(
            message.id,
            message.allow,
            self.house.clock.now(),
            message.by,
            reason=message.reason,
            arguments=edited,
            digest=digest,
            always=message.always and message.allow,
        )
        answered, now = (await self.house.store.commit((change,)))[0]
        if not answered:
            raise ApprovalAnswered(f"approval {message.id} is {now.status}", status=now.status)
        return approval_view(now)

    def _check(self, row: port.ApprovalRow, arguments: dict[str, Any]) -> None:
        """Refuse arguments that the tool would not take, while the person is here to mend them. Raises ToolInvalid."""
        settings = self.house.loaded.settings.agents.get(row.agent)
        tool = None if settings is None else self.house.toolroom.toolbox(settings).tools.get(row.tool)
        if tool is not None and canonical(tool.check(arguments)) != canonical(arguments):
            filled = canonical(tool.check(arguments))
            raise ToolInvalid(f"write the arguments as they will be used: {filled}", arguments=json.loads(filled))

    @handles
    async def grants(self, message: ListGrants) -> tuple[GrantView, ...]:
        return tuple(
            GrantView(
                agent=row.agent,
                tool=row.tool,
                arguments=json.loads(row.arguments),
                digest=row.digest,
                at=row.at,
                by=row.by,
            )
            for row in await self.house.store.grants(message.agent)
        )

    @handles
    async def revoke(self, message: RevokeGrant) -> Ack:
        there = (await self.house.store.commit((port.RevokeGrant(message.agent, message.tool, message.digest),)))[0]
        if not there:
            raise GrantNotFound(f"{message.agent} has no standing permission of that kind for {message.tool}")
        return Ack()

    async def _approval(self, approval: str) -> port.ApprovalRow:
        row = await self.house.store.approval(approval)
        if row is None:
            raise ApprovalNotFound(f"there is no approval {approval}", id=approval)
        return row


async def expire(house: Company) -> None:
    """Have what nobody can answer any more say so; not while the store takes no writes, for this is only a look."""
    if house.store_trouble is None:
        await house.store.commit((port.ExpireApprovals(house.clock.now()),))


async def pending_of(agent: str, house: Company, limit: int = 100) -> tuple[port.ApprovalRow, ...]:
    """Return what *agent* waits for a person for."""
    await expire(house)
    return await house.store.approvals(status="pending", agent=agent, limit=limit)


def approval_view(row: port.ApprovalRow) -> ApprovalView:
    """Return an approval as it is shown."""
    return ApprovalView(
        id=row.id,
        agent=row.agent,
        run=row.job,
        conversation=row.conversation,
        tool=row.tool,
        arguments=json.loads(row.arguments),
        digest=row.digest,
        why=row.why,
        status=row.status,  # type: ignore[arg-type]  # the store's own table says the same
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        answered_at=row.answered_at,
        answered_by=row.answered_by,
        reason=row.reason,
        edited=None if row.edited is None else json.loads(row.edited),
        always=row.always,
    )
