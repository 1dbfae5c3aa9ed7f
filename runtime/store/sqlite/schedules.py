"""How changes to schedules are applied: kept, forgotten, and each tick dealt with once."""

from typing import Final

from runtime.store.port import MAX_FIRES, FireSchedule, Inserted, InsertJobs, PutSchedule, RemoveSchedule
from runtime.store.sqlite.inserts import insert_jobs
from runtime.store.sqlite.transaction import Transaction

SCHEDULE_COLUMNS: Final = (
    "name, cron, tz, job, catchup, overlap, by, next_at, high_mark, last_at, last_job, created_at, updated_at"
)


def put_schedule(tx: Transaction, change: PutSchedule) -> None:
    """Keep the row; an UPSERT and no REPLACE, for a replaced row would take its fires with it."""
    row = change.row
    names = SCHEDULE_COLUMNS.split(", ")
    values = [getattr(row, name) for name in names]
    kept = [*names, "paused", "paused_by_hand"]
    tx.sql.execute(
        f"INSERT INTO schedules ({', '.join(kept)}) VALUES ({', '.join('?' * len(kept))})"
        f" ON CONFLICT (name) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in kept[1:])}",
        (*values, row.paused, row.paused_by_hand),
    )


def remove_schedule(tx: Transaction, change: RemoveSchedule) -> bool:
    return tx.sql.execute("DELETE FROM schedules WHERE name = ?", (change.name,)).rowcount > 0


def fire_schedule(tx: Transaction, change: FireSchedule) -> Inserted | None:
    by_hand = change.outcome == "triggered"
    row = tx.sql.execute("SELECT high_mark FROM schedules WHERE name = ?", (change.name,)).fetchone()
    if row is None or (not by_hand and change.fire_at <= row[0]) or is_dealt_with(tx, change):
        return None
    inserted, job, outcome = None, None, change.outcome
    if change.job is not None:
        (inserted,) = insert_jobs(tx, InsertJobs((change.job,), change.now))
        if inserted.conflict or inserted.unknown:
            outcome = "refused"
        else:
            job = inserted.id
    note_tick(tx, change, job, outcome)
    if not by_hand:
        tx.sql.execute(
            "UPDATE schedules SET next_at = ?, high_mark = max(high_mark, ?), updated_at = ? WHERE name = ?",
            (change.next_at, change.fire_at, change.now, change.name),
        )
    if job is not None:
        tx.sql.execute(
            "UPDATE schedules SET last_at = ?, last_job = ?, updated_at = ? WHERE name = ?",
            (change.fire_at, job, change.now, change.name),
        )
        tx.tell([("schedule.fired", change.name, {"fire_at": change.fire_at, "job": job})], change.now)
    else:
        tx.tell([("schedule.skipped", change.name, {"fire_at": change.fire_at, "outcome": outcome})], change.now)
    return inserted


def is_dealt_with(tx: Transaction, change: FireSchedule) -> bool:
    return bool(
        tx.sql.execute(
            "SELECT 1 FROM schedule_fires WHERE name = ? AND fire_at = ?", (change.name, change.fire_at)
        ).fetchall()
    )


def note_tick(tx: Transaction, change: FireSchedule, job: str | None, outcome: str) -> None:
    """Keep the tick on record, and no more than the newest `MAX_FIRES` of its schedule."""
    tx.sql.execute(
        "INSERT INTO schedule_fires (name, fire_at, job, outcome, at) VALUES (?, ?, ?, ?, ?)",
        (change.name, change.fire_at, job, outcome, change.now),
    )
    tx.sql.execute(
        """DELETE FROM schedule_fires WHERE name = ?1 AND fire_at <= (
             SELECT fire_at FROM schedule_fires WHERE name = ?1 ORDER BY fire_at DESC LIMIT 1 OFFSET ?2)""",
        (change.name, MAX_FIRES),
    )
