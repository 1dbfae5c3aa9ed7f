"""The store: commits as one step, its listeners, and which method applies which change."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from anyio.lowlevel import checkpoint

from runtime.store import port
from runtime.store.memory.agents import Agents
from runtime.store.memory.asking import Asking
from runtime.store.memory.records import Records
from runtime.store.memory.wishes import Wishes
from runtime.store.port import Change, EventListener, Move, MoveListener


class MemoryStore(Wishes, Records, Asking, Agents):
    """Everything in dictionaries. What was committed stays over `close` and `open`, as a file would.

    A commit yields to the loop once and is then applied in one go, so it is never seen half done; cancelled at that
    point it has not happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[EventListener] = []
        self._watchers: list[MoveListener] = []
        self._failure: tuple[Exception, bool] | None = None

    async def open(self) -> None:
        await checkpoint()
        self._open = True

    async def close(self) -> None:
        await checkpoint()
        self._open = False
        self._listeners.clear()
        self._watchers.clear()

    def listen(self, listener: EventListener) -> None:
        self._listeners.append(listener)

    def watch(self, listener: MoveListener) -> None:
        self._watchers.append(listener)

    def fail_next(self, error: Exception, *, applied: bool = False) -> None:
        """Make the next commit raise *error*; with *applied* only after it was kept: its acknowledgement was lost."""
        self._failure = (error, applied)

    async def commit(self, changes: Sequence[Change]) -> list[Any]:
        await checkpoint()
        self._check_open()
        failure, self._failure = self._failure, None
        if failure is not None and not failure[1]:
            raise failure[0]
        before = self._committed = self._last.get("event", 0)
        results, moves = self._apply(changes)
        for watcher in list(self._watchers) if moves else ():
            watcher(moves)
        news = [self._events[at] for at in range(before + 1, self._last.get("event", 0) + 1) if at in self._events]
        for listener in list(self._listeners) if news else ():
            listener(news)
        if failure is not None:
            raise failure[0]
        return results

    def _apply(self, changes: Sequence[Change]) -> tuple[list[Any], list[Move]]:
        self._jobs.moves.clear()
        try:
            results = [self._VERBS[type(change)](self, change) for change in changes]
            return results, tallied(self._jobs.moves)
        except BaseException:
            for undo in reversed(self._journal):
                undo()
            raise
        finally:
            self._journal.clear()

    _VERBS: ClassVar[dict[type[Change], Callable[["MemoryStore", Any], Any]]] = {
        port.InsertJobs: Records.insert,
        port.ClaimJobs: Records.claim,
        port.FinishJobs: Records.finish,
        port.RecordProcess: Records.record_process,
        port.SaveProgress: Records.save_progress,
        port.AppendLogs: Records.append_logs,
        port.BeginStep: Records.begin_step,
        port.EndStep: Records.end_step,
        port.SendSignal: Records.send_signal,
        port.TakeSignal: Records.take_signal,
        port.CancelJobs: Wishes.cancel,
        port.PauseJobs: Wishes.pause,
        port.ResumeJobs: Wishes.resume,
        port.RetryJobs: Wishes.retry,
        port.PromoteDue: Wishes.promote,
        port.ExpireJobs: Wishes.expire,
        port.ExpireLeases: Wishes.expire_leases,
        port.RepairJobs: Wishes.repair,
        port.ReleaseHeld: Wishes.release_held,
        port.RecoverJobs: Wishes.recover,
        port.DeleteEnded: Wishes.delete,
        port.PutWorkers: Records.put_workers,
        port.Heartbeat: Records.heartbeat,
        port.RemoveWorkers: Records.remove_workers,
        port.PutQueue: Records.put_queue,
        port.PutSchedule: Records.put_schedule,
        port.RemoveSchedule: Records.remove_schedule,
        port.FireSchedule: Records.fire,
        port.PutAgent: Records.put_agent,
        port.SaveState: Records.save_state,
        port.AppendMessages: Records.append_messages,
        port.AppendEvents: Records.append_events,
        port.PruneEvents: Records.prune_events,
        port.PutSetting: Records.put_setting,
        port.AbsorbJobs: Asking.absorb,
        port.AskApproval: Asking.ask,
        port.AnswerApproval: Asking.answer,
        port.UseApproval: Asking.use,
        port.ExpireApprovals: Asking.expire_approvals,
        port.RevokeGrant: Asking.revoke,
        port.ForkConversation: Agents.fork,
        port.PutPersona: Agents.put_persona,
        port.RemovePersona: Agents.remove_persona,
        port.PutNote: Agents.put_note,
    }


def tallied(moves: Sequence[Move]) -> list[Move]:
    """Return moves added up by where from and where to."""
    sums: dict[tuple[Any, ...], Move] = {}
    for move in moves:
        key = move[:4]
        known = sums.get(key)
        if known is None:
            sums[key] = move
            continue
        dues = [due for due in (known.due, move.due) if due is not None]
        sums[key] = known._replace(jobs=known.jobs + move.jobs, due=min(dues, default=None))
    return list(sums.values())
