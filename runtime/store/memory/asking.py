"""What was said meanwhile, taken in; questions to people, and what a person has allowed for good."""

import json
from dataclasses import replace
from typing import Any

from runtime.errors import ApprovalInvalid, LeaseLost, StoreError
from runtime.store.memory.base import check_json
from runtime.store.memory.running import Running
from runtime.store.memory.tables import Step
from runtime.store.port import (
    AbsorbJobs,
    AnswerApproval,
    ApprovalRow,
    AskApproval,
    ExpireApprovals,
    GrantRow,
    RevokeGrant,
    UseApproval,
)
from runtime.store.rules import why_not


class Asking(Running):
    """What passes between a run and the people around it."""

    # -- what was said meanwhile ---------------------------------------------------------------------------------------

    def absorb(self, change: AbsorbJobs) -> str | None:
        job = self._held(change.fence)
        if job is None:
            return None
        step = self._steps.get((job.seq, change.step))
        if step is not None and step.state == "done":
            return step.output
        talk = [self._jobs[seq] for seq in self._jobs.talks.get((change.queue, change.conversation), ())]
        said = [one for one in talk if one.status == "pending" and change.tag in one.row.tags]
        if not said:
            return "[]"
        output = f"[{','.join(f'[{json.dumps(one.row.id)},{one.row.args}]' for one in said)}]"
        ended = self._end(said, "cancelled", "superseded", change.now, error=change.error)
        self._settle_ended(ended, change.now)
        self._steps.put((job.seq, change.step), Step("done", job.epoch, change.now, change.now, output))
        return output

    # -- approvals -----------------------------------------------------------------------------------------------------

    def _approval(self, approval_id: str) -> ApprovalRow | None:
        return next((row for row in self._approvals.values() if row.id == approval_id), None)

    def _put_approval(self, row: ApprovalRow) -> ApprovalRow:
        self._approvals.put((self._jobs.by_id[row.job], row.step), row)
        return row

    def _tell_approval(self, what: str, row: ApprovalRow, now: int, **facts: Any) -> None:
        about = {"agent": row.agent, "tool": row.tool, "run": row.job}
        self._emit(now, f"approval.{what}", row.id, about | facts)

    def ask(self, change: AskApproval) -> ApprovalRow | None:
        job = self._held(change.fence)
        if job is None:
            return None
        known = self._approvals.get((job.seq, change.step))
        if known is not None:
            return known
        if self._approval(change.id) is not None:
            raise StoreError(f"there is an approval {change.id} already", id=change.id)
        check_json(change.arguments)
        row = ApprovalRow(
            id=change.id,
            agent=change.agent,
            job=job.row.id,
            conversation=change.conversation,
            step=change.step,
            tool=change.tool,
            arguments=change.arguments,
            digest=change.digest,
            why=change.why,
            status="pending",
            asked_at=change.now,
            expires_at=change.expires_at,
        )
        self._put_approval(row)
        self._tell_approval("asked", row, change.now)
        return row

    def answer(self, change: AnswerApproval) -> tuple[bool, ApprovalRow] | None:
        row = self._approval(change.id)
        if row is None:
            return None
        if row.status == "pending":
            row = self._close(row, change.now)
        if row.status != "pending":
            return False, row
        if change.allow and change.arguments is not None:
            check_json(change.arguments)
            if change.digest is None:
                raise StoreError("arguments that a person put in place come with their digest", id=change.id)
            row = replace(row, edited=change.arguments, edited_digest=change.digest)
        row = replace(
            row,
            status="allowed" if change.allow else "denied",
            answered_at=change.now,
            answered_by=change.by,
            reason=change.reason,
            always=change.always and change.allow,
        )
        self._put_approval(row)
        if row.always:  # for the very call that the person saw last
            call = (row.agent, row.tool, row.edited_digest or row.digest)
            self._grants.put(call, GrantRow(*call, row.edited or row.arguments, change.by, change.now))
        self._tell_approval(row.status, row, change.now, by=change.by)
        # However many signals it has: a run must not wait for an answer that was given.
        job = self._jobs[self._jobs.by_id[row.job]]
        self._keep_signal(job, f"approval/{row.id}", "true" if change.allow else "false", change.now)
        return True, row

    def use(self, change: UseApproval) -> None:
        if self._held(change.fence) is None:
            raise LeaseLost(f"another attempt owns job {change.fence.id} now", job=change.fence.id)
        row = self._approval(change.id)
        wrong = why_not(row, change)
        if row is None or wrong is not None:
            raise ApprovalInvalid(f"approval {change.id} does not cover this call: {wrong}", id=change.id)
        if row.status == "allowed":
            self._put_approval(replace(row, status="used"))
            self._tell_approval("used", row, change.now)

    def expire_approvals(self, change: ExpireApprovals) -> tuple[str, ...]:
        pending = sorted((row for row in self._approvals.values() if row.status == "pending"), key=_id_of)
        over = [self._close(row, change.now) for row in pending]
        return tuple(row.id for row in over if row.status != "pending")

    def _close(self, row: ApprovalRow, now: int) -> ApprovalRow:
        """Have a pending approval say so where nobody can answer it any more."""
        late = row.expires_at <= now
        if not late and not self._jobs[self._jobs.by_id[row.job]].ended:
            return row
        row = self._put_approval(replace(row, status="expired" if late else "void"))
        self._tell_approval("expired", row, now, status=row.status)
        return row

    def revoke(self, change: RevokeGrant) -> bool:
        call = (change.agent, change.tool, change.digest)
        there = call in self._grants
        self._grants.put(call, None)
        return there


def _id_of(row: ApprovalRow) -> str:
    return row.id
