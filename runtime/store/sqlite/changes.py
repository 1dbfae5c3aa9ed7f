"""Which function applies which change. A change that is missing here cannot be committed."""

from collections.abc import Callable
from typing import Any, Final

from runtime.store import port
from runtime.store.sqlite import (
    attempts,
    claims,
    finishes,
    inserts,
    records,
    retention,
    schedules,
    steps,
    timely,
    wishes,
)
from runtime.store.sqlite.transaction import Transaction

APPLY: Final[dict[type[Any], Callable[[Transaction, Any], Any]]] = {
    port.InsertJobs: inserts.insert_jobs,
    port.ClaimJobs: claims.claim_jobs,
    port.FinishJobs: finishes.finish_jobs,
    port.RecordProcess: attempts.record_process,
    port.SaveProgress: attempts.save_progress,
    port.AppendLogs: attempts.append_logs,
    port.BeginStep: steps.begin_step,
    port.EndStep: steps.end_step,
    port.SendSignal: steps.send_signal,
    port.TakeSignal: steps.take_signal,
    port.CancelJobs: wishes.cancel_jobs,
    port.PauseJobs: wishes.pause_jobs,
    port.ResumeJobs: wishes.resume_jobs,
    port.RetryJobs: wishes.retry_jobs,
    port.PromoteDue: timely.promote_due,
    port.ReleaseHeld: timely.release_held,
    port.ExpireJobs: timely.expire_jobs,
    port.ExpireLeases: timely.expire_leases,
    port.RepairJobs: timely.repair_jobs,
    port.RecoverJobs: timely.recover_jobs,
    port.DeleteEnded: retention.delete_ended,
    port.PutWorkers: records.put_workers,
    port.Heartbeat: records.heartbeat,
    port.RemoveWorkers: records.remove_workers,
    port.PutQueue: records.put_queue,
    port.PutSchedule: schedules.put_schedule,
    port.RemoveSchedule: schedules.remove_schedule,
    port.FireSchedule: schedules.fire_schedule,
    port.PutAgent: records.put_agent,
    port.SaveState: records.save_state,
    port.AppendMessages: records.append_messages,
    port.AppendEvents: records.append_events,
    port.PruneEvents: records.prune_events,
    port.PutSetting: records.put_setting,
}
