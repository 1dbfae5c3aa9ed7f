"""How an attempt takes into itself what was said to its agent meanwhile."""

import json
from typing import Final

from runtime.store.port import AbsorbJobs
from runtime.store.sqlite.edges import read, settle_ended
from runtime.store.sqlite.moving import AMONG, end, facts, seqs
from runtime.store.sqlite.steps import done_step, keep_step, owned
from runtime.store.sqlite.transaction import Transaction

# By the index jobs_order: the plus signs keep the planner from those that tell less.
SAID: Final = """
  queue = :queue AND conversation = :conversation AND finished_at IS NULL AND conversation IS NOT NULL
  AND +status = 'pending' AND +lane = 'agent'
  AND EXISTS (SELECT 1 FROM job_tags WHERE tag = :tag AND job_tags.seq = jobs.seq)"""
ARGS: Final = """
  SELECT json_group_array(json_array(seq, args)) FROM job_data WHERE seq IN (SELECT value FROM json_each(?))"""
KEEP_ERROR: Final = f"UPDATE job_data SET error = :error WHERE {AMONG}"


def absorb_jobs(tx: Transaction, change: AbsorbJobs) -> str | None:
    if owned(tx, change.fence) is None:
        return None
    known = done_step(tx, change.fence.seq, change.step)
    if known is not None:
        return known[0]
    said = facts(tx, SAID, queue=change.queue, conversation=change.conversation, tag=change.tag)
    if not said:
        return "[]"
    args = dict(read(tx, ARGS, [job.seq for job in said]))
    # Put together as text: nothing in the arguments is read or written anew.
    output = f"[{','.join(f'[{json.dumps(job.id)},{args[job.seq]}]' for job in said)}]"
    tx.sql.execute(KEEP_ERROR, {"error": change.error, "seqs": seqs(said)})
    end(tx, said, "cancelled", "superseded", change.now)
    settle_ended(tx, [(job.seq, "cancelled", job.limit_key, job.parent) for job in said], change.now)
    keep_step(tx, change.fence, change.step, output, change.now)
    return output
