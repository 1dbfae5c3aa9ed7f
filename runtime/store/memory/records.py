"""Changes to anything but jobs: workers, queues, schedules, agents, conversations, events, settings."""

from dataclasses import replace
from typing import Final

from runtime.errors import VersionConflict
from runtime.store.memory.attempts import Attempts
from runtime.store.memory.base import Base, check_json
from runtime.store.port import (
    MAX_FIRES,
    AgentRow,
    AppendEvents,
    AppendMessages,
    FireRow,
    FireSchedule,
    Heartbeat,
    Inserted,
    MessageRow,
    PruneEvents,
    PutAgent,
    PutQueue,
    PutSchedule,
    PutSetting,
    PutWorkers,
    RemoveSchedule,
    RemoveWorkers,
    SaveState,
    StateRow,
)

FORGET_WORKER_MS: Final = 86_400_000


class Records(Attempts, Base):
    """What is kept beside the jobs."""

    # -- workers and queues ------------------------------------------------------------------------------------------

    def put_workers(self, change: PutWorkers) -> None:
        for worker in list(self._workers.values()):
            if worker.boot != change.boot and worker.status != "offline":
                worker = replace(worker, status="offline")
                self._workers.put(worker.id, worker)
            if worker.status == "offline" and worker.last_heartbeat_at < change.now - FORGET_WORKER_MS:
                self._workers.put(worker.id, None)
        for worker in change.workers:
            self._workers.put(worker.id, worker)

    def heartbeat(self, change: Heartbeat) -> None:
        for worker_id, status in change.beats:
            worker = self._workers.get(worker_id)
            if worker is not None and worker.boot == change.boot:
                self._workers.put(worker_id, replace(worker, status=status, last_heartbeat_at=change.now))
        for job in [self._jobs[seq] for seq in self._jobs.active]:
            if job.boot == change.boot and job.seq not in change.silent:
                self._jobs.change(job, lease_until=change.lease_until)

    def remove_workers(self, change: RemoveWorkers) -> None:
        for worker_id in change.ids:
            self._workers.put(worker_id, None)

    def put_queue(self, change: PutQueue) -> None:
        if change.row.rate is not None:
            check_json(change.row.rate)
        self._queues.put(change.row.name, change.row)

    # -- schedules ---------------------------------------------------------------------------------------------------

    def put_schedule(self, change: PutSchedule) -> None:
        check_json(change.row.job)
        self._schedules.put(change.row.name, change.row)

    def remove_schedule(self, change: RemoveSchedule) -> bool:
        there = change.name in self._schedules
        self._schedules.put(change.name, None)
        self._fires.put(change.name, None)
        return there

    def fire(self, change: FireSchedule) -> Inserted | None:
        row, by_hand = self._schedules.get(change.name), change.outcome == "triggered"
        known = self._fires.get(change.name, ())
        if row is None or (not by_hand and change.fire_at <= row.high_mark):
            return None
        if any(fire.fire_at == change.fire_at for fire in known):
            return None
        inserted = None if change.job is None else self._insert_one(change.job, change.now)
        refused = inserted is not None and (inserted.conflict or inserted.unknown is not None)
        job = None if inserted is None or refused else inserted.id
        outcome = "refused" if refused else change.outcome
        fires = sorted((*known, FireRow(change.name, change.fire_at, job, outcome, change.now)), key=_fire_at)
        self._fires.put(change.name, tuple(fires[-MAX_FIRES:]))
        if not by_hand:
            mark = max(row.high_mark, change.fire_at)
            row = replace(row, next_at=change.next_at, high_mark=mark, updated_at=change.now)
        if job is not None:
            row = replace(row, last_at=change.fire_at, last_job=job, updated_at=change.now)
            self._emit(change.now, "schedule.fired", change.name, {"fire_at": change.fire_at, "job": job})
        else:
            self._emit(change.now, "schedule.skipped", change.name, {"fire_at": change.fire_at, "outcome": outcome})
        self._schedules.put(change.name, row)
        return inserted

    # -- agents ------------------------------------------------------------------------------------------------------

    def put_agent(self, change: PutAgent) -> None:
        self._agents.put(change.name, AgentRow(change.name, change.desired, change.observed, change.reason, change.now))

    def save_state(self, change: SaveState) -> int:
        check_json(change.state)
        row = self._states.get(change.agent)
        version = 0 if row is None else row.version
        if version != change.expected:
            raise VersionConflict(f"the state of {change.agent} is at version {version}, not {change.expected}")
        if row is not None and row.boot == change.boot and row.incarnation > change.incarnation:
            raise VersionConflict(f"incarnation {change.incarnation} of {change.agent} was replaced")
        self._states.put(
            change.agent,
            StateRow(
                change.agent,
                change.state,
                change.schema_version,
                version + 1,
                change.boot,
                change.incarnation,
                change.now,
            ),
        )
        return version + 1

    def append_messages(self, change: AppendMessages) -> None:
        for message in change.messages:
            check_json(message)
        key = (change.agent, change.conversation)
        known = self._messages.get(key, ())
        said = enumerate(change.messages, len(known) + 1)
        self._messages.put(key, known + tuple(MessageRow(n, change.now, change.job, body) for n, body in said))
        self._used.put(key, (change.now, self._next("use")))

    # -- events and settings -----------------------------------------------------------------------------------------

    def append_events(self, change: AppendEvents) -> None:
        for type_, subject, data in change.events:
            self._emit(change.now, type_, subject, check_json(data))

    def prune_events(self, change: PruneEvents) -> int:
        earlier = [offset for offset in sorted(self._events) if offset <= self._committed]
        going = earlier[: max(0, len(earlier) - change.keep)]
        for offset in going:
            self._events.put(offset, None)
        return len(going)

    def put_setting(self, change: PutSetting) -> None:
        check_json(change.value)
        self._settings.put(change.name, change.value)


def _fire_at(row: FireRow) -> int:
    return row.fire_at
