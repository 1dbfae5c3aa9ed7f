"""What hangs on other jobs: edges as they are added, and what an ended job releases or takes with it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from runtime.store.port import Inserted, InsertJobs, JobRow
from runtime.store.sqlite.moving import AMONG, Facts, end, facts, go_on, wake
from runtime.store.sqlite.transaction import Transaction, columns, compact
from schemas.jobs import ENDED, EdgeState, OnFailure, Status

Ended: TypeAlias = tuple[int, Status, str | None, int | None]
"""A job that has just ended: (seq, status, limit_key, seq of its parent)."""


# -- added -------------------------------------------------------------------------------------------------------------


class Newcomer(NamedTuple):
    """A job that is to be added: where it begins to stand, and what it hangs on, by seq.

    edges: (seq of the parent, policy, state).
    """

    seq: int
    row: JobRow
    status: Status
    reason: str | None
    parent: int | None = None
    edges: tuple[tuple[int, OnFailure, EdgeState], ...] = ()


class Known:
    """What the store knows of a batch's words: its ids, keys and unique words, and those that the batch adds."""

    def __init__(self, tx: Transaction, jobs: Sequence[JobRow]) -> None:
        named = {edge.parent for job in jobs for edge in job.depends_on} | {job.parent for job in jobs if job.parent}
        keys = [(job.kind, job.key) for job in jobs if job.key is not None]
        uniques = [(job.kind, job.unique) for job in jobs if job.unique is not None]
        self.jobs: dict[str, tuple[int, Status]] = {
            job_id: (seq, status) for job_id, seq, status in read(tx, FIND_IDS, sorted(named))
        }
        self.keys: dict[tuple[str, str | None], tuple[str, Status, int, str]] = {
            (kind, key): (job_id, status, seq, args)
            for kind, key, job_id, status, seq, args in read(tx, FIND_KEYS, keys)
        }
        self.uniques: dict[tuple[str, str | None], tuple[str, Status, int]] = {
            (kind, word): (job_id, status, seq) for kind, word, job_id, status, seq in read(tx, FIND_UNIQUES, uniques)
        }

    def refusal(self, job: JobRow) -> Inserted | None:
        """Return why *job* is not added, if so: it is there already, or hangs on a job that is not."""
        if job.key is not None and (older := self.keys.get((job.kind, job.key))):
            job_id, status, seq, args = older
            if args != job.args:
                return Inserted(job_id, status, conflict=True)
            return self._is_there(job, job_id, status, seq)
        if job.unique is not None and (held := self.uniques.get((job.kind, job.unique))):
            return self._is_there(job, *held)
        needed = [edge.parent for edge in job.depends_on] + ([] if job.parent is None else [job.parent])
        unknown = next((name for name in needed if name not in self.jobs), None)
        return None if unknown is None else Inserted(job.id, "pending", unknown=unknown)

    def _is_there(self, job: JobRow, older: str, status: Status, seq: int) -> Inserted:
        """Answer that *job* is there already; what hangs on it in this batch hangs on the older one."""
        self.jobs[job.id] = (seq, status)
        return Inserted(older, status, existing=True)

    def add(self, newcomer: Newcomer) -> None:
        """Have the rest of the batch know *newcomer*."""
        row, status, seq = newcomer.row, newcomer.status, newcomer.seq
        self.jobs[row.id] = (seq, status)
        if row.key is not None:
            self.keys[row.kind, row.key] = (row.id, status, seq, row.args)
        if row.unique is not None and status not in ENDED:
            self.uniques[row.kind, row.unique] = (row.id, status, seq)


FIND_IDS: Final = """
  SELECT json_group_array(json_array(id, seq, status)) FROM jobs WHERE id IN (SELECT value FROM json_each(?))"""
FIND_KEYS: Final = """
  SELECT json_group_array(json_array(kind, jobs.key, jobs.id, status, seq, args)) FROM json_each(?) AS wanted
  CROSS JOIN jobs ON kind = wanted.value ->> 0 AND jobs.key = wanted.value ->> 1 JOIN job_data USING (seq)"""
FIND_UNIQUES: Final = """
  SELECT json_group_array(json_array(kind, unique_key, jobs.id, status, seq)) FROM json_each(?) AS wanted
  CROSS JOIN jobs ON kind = wanted.value ->> 0 AND unique_key = wanted.value ->> 1 AND finished_at IS NULL"""


def read(tx: Transaction, query: str, wanted: Sequence[Any]) -> list[Any]:
    """Return what a query of one JSON text finds for *wanted*; it is not asked where nothing is wanted."""
    if not wanted:
        return []
    found: list[Any] = json.loads(tx.sql.execute(query, (compact(wanted),)).fetchall()[0][0])
    return found


def admit(tx: Transaction, change: InsertJobs) -> tuple[list[Inserted], list[Newcomer]]:
    """Decide about every job of a batch, in order: what is answered, and what is to be added with which number.

    Nothing is written. Where one is refused and *whole* was asked for, nobody is to be added.
    """
    known = Known(tx, change.jobs)
    results: list[Inserted] = []
    newcomers: list[Newcomer] = []
    for job in change.jobs:
        refused = known.refusal(job)
        if refused is None:
            newcomer = stand(tx.take_seq(1), job, known, change.now)
            known.add(newcomer)
            newcomers.append(newcomer)
        results.append(refused or Inserted(job.id, newcomers[-1].status))
    if change.whole and any(result.conflict or result.unknown for result in results):
        tx.next_seq -= len(newcomers)
        return results, []
    return results, newcomers


def stand(seq: int, job: JobRow, known: Known, now: int) -> Newcomer:
    """Return where a new job begins: its edges come first, then time."""
    edges: dict[int, tuple[int, OnFailure, EdgeState]] = {}
    doomed = False
    for edge in job.depends_on:
        parent, status = known.jobs[edge.parent]
        state = settled(status, edge.on_failure)
        doomed = doomed or (state == "broken" and edge.on_failure == "cancel")
        edges.setdefault(parent, (parent, edge.on_failure, state))
    parent_seq = None if job.parent is None else known.jobs[job.parent][0]
    places: tuple[Status, str | None] = ("pending", None)
    if doomed:
        places = ("cancelled", "dependency")
    elif any(state in ("open", "broken") for _, _, state in edges.values()):
        places = ("waiting", "deps")
    elif job.execute_after > now:
        places = ("delayed", "scheduled")
    return Newcomer(seq, job, *places, parent_seq, tuple(edges.values()))


def settled(status: Status, on_failure: OnFailure) -> EdgeState:
    """Return how an edge stands whose parent stands as *status*."""
    if status not in ENDED:
        return "open"
    if status == "completed":
        return "satisfied"
    return "ignored" if on_failure == "run" else "broken"


INSERT_EDGES: Final = f"INSERT INTO job_deps (child, parent, on_failure, state) SELECT {columns(4)} FROM json_each(?)"
INSERT_TAGS: Final = f"INSERT OR IGNORE INTO job_tags (tag, seq) SELECT {columns(2)} FROM json_each(?)"


def insert_edges(tx: Transaction, newcomers: Sequence[Newcomer]) -> None:
    """Write the edges and tags of jobs whose rows were just written."""
    edges = [(newcomer.seq, *edge) for newcomer in newcomers for edge in newcomer.edges]
    if edges:
        edges.sort(key=lambda edge: (edge[1], edge[0]))  # as the table is ordered: each page is touched once
        tx.sql.execute(INSERT_EDGES, (compact(edges),))
        tx.edges = True
    tags = [(tag, newcomer.seq) for newcomer in newcomers for tag in newcomer.row.tags]
    if tags:
        tx.sql.execute(INSERT_TAGS, (compact(tags),))


# -- settled -----------------------------------------------------------------------------------------------------------


def settle_ended(tx: Transaction, ended: Iterable[Ended], now: int) -> None:
    """Give everybody what the end of jobs means to them, in as many statements for one job as for ten thousand.

    To be called when their rows are written. Their edges are settled: dependants go on, hold, or are cancelled with
    all that hangs on them in turn. Then the next jobs of their limit keys come, and parents that waited for the last
    of their children.
    """
    told = list(ended)
    parents = {parent for _, _, _, parent in told if parent is not None}
    if tx.edges:
        gone = settle_edges(tx, told, now)
        parents.update(job.parent for job in gone if job.parent is not None)
    free_keys(tx, (key for _, _, key, _ in told if key is not None), now)
    wake_parents(tx, parents, now)


# How many open edges jobs have, and the children that may go on when these are settled.
OPEN_EDGES: Final = """
  SELECT json_array(count(*), json_group_array(child) FILTER (WHERE ?2 OR on_failure = 'run')) FROM job_deps
  WHERE parent IN (SELECT value FROM json_each(?1)) AND state = 'open'"""
SETTLE: Final = """
  UPDATE job_deps SET state = CASE WHEN ?2 THEN 'satisfied' WHEN on_failure = 'run' THEN 'ignored' ELSE 'broken' END
  WHERE parent IN (SELECT value FROM json_each(?1)) AND state = 'open'"""
# Who can go on: it waits for edges, and none of them holds it. (The plus sign keeps the planner from walking over all
# that wait.)
RELEASED: Final = """
  seq IN (SELECT value FROM json_each(:seqs)) AND +status = 'waiting' AND reason = 'deps'
  AND NOT EXISTS (SELECT 1 FROM job_deps WHERE child = jobs.seq AND state IN ('open', 'broken'))"""
# Nobody has to be asked how he stands on the way: a child of an open edge has not begun, and one that has ended (it was
# cancelled by itself) has no open edge to children of its own.
DOOMED: Final = """
  seq IN (
    WITH RECURSIVE doomed (seq) AS (
      SELECT value FROM json_each(:seqs)
      UNION
      SELECT child FROM doomed CROSS JOIN job_deps ON parent = doomed.seq
      WHERE state = 'open' AND on_failure = 'cancel')
    SELECT seq FROM doomed)
  AND +status IN ('waiting', 'paused')"""


def settle_edges(tx: Transaction, ended: Sequence[Ended], now: int) -> list[Facts]:
    """Settle the edges of jobs that ended; return the dependants that were cancelled over them."""
    completed = [seq for seq, status, _, _ in ended if status == "completed"]
    others = [seq for seq, status, _, _ in ended if status != "completed"]
    free = settle(tx, completed, completed=True)
    gone: list[Facts] = []
    if open_edges(tx, others, completed=False)[0]:
        gone = facts(tx, DOOMED, seqs=compact(others))
        end(tx, gone, "cancelled", "dependency", now)
        free += settle(tx, others + [job.seq for job in gone], completed=False)
    if free:
        release(tx, free, now)
    return gone


def open_edges(tx: Transaction, parents: Sequence[int], *, completed: bool) -> tuple[int, list[int]]:
    """Return how many open edges *parents* have, and the children that may go on when these are settled."""
    if not parents:
        return 0, []
    count, children = json.loads(tx.sql.execute(OPEN_EDGES, (compact(parents), completed)).fetchall()[0][0])
    return count, children


def settle(tx: Transaction, parents: Sequence[int], *, completed: bool) -> list[int]:
    """Settle the open edges of *parents*; return the children that may go on."""
    count, children = open_edges(tx, parents, completed=completed)
    if count:
        tx.sql.execute(SETTLE, (compact(parents), completed))
    return children


def release(tx: Transaction, children: Iterable[int], now: int) -> None:
    """Let those of *children* go on that wait for edges of which none holds them any more."""
    free = facts(tx, RELEASED, seqs=compact(sorted(set(children))))
    go_on(tx, free, now)
    tx.tell([("job.released", job.id, job.about) for job in free], now)


# -- limits and parts --------------------------------------------------------------------------------------------------

# The first so many of each key in each queue and lane, and how many of the key run. It goes from one queue to the
# next, so that only as many rows are looked at as are wanted.
NEXT_OF_KEY: Final = """
  WITH RECURSIVE places (key, queue) AS (
    SELECT value, (SELECT min(queue) FROM jobs
                   WHERE limit_key = value AND status = 'waiting' AND finished_at IS NULL) FROM json_each(?1)
    UNION ALL
    SELECT key, (SELECT min(jobs.queue) FROM jobs
                 WHERE limit_key = places.key AND status = 'waiting' AND finished_at IS NULL
                   AND jobs.queue > places.queue) FROM places WHERE queue IS NOT NULL)
  SELECT json_group_array(json_array(places.key, places.queue, lanes.value, jobs.rank, jobs.seq, jobs.limit_max, (
    SELECT count(*) FROM jobs AS running
    WHERE running.limit_key = places.key AND running.status = 'active' AND running.finished_at IS NULL)))
  FROM places CROSS JOIN json_each('["agent", "child", "loop"]') AS lanes CROSS JOIN jobs ON jobs.seq IN (
    SELECT seq FROM jobs WHERE limit_key = places.key AND status = 'waiting' AND finished_at IS NULL
      AND reason = 'limit' AND queue = places.queue AND lane = lanes.value ORDER BY rank, seq LIMIT ?2)
  WHERE places.queue IS NOT NULL"""


def free_keys(tx: Transaction, keys: Iterable[str] | Mapping[str, int], now: int) -> int:
    """Let the next job of each key come to be claimed, one for each time the key is named, where the key has room.

    The next one of every queue and lane comes, and whoever is not claimed first steps aside again: the best of all may
    stand in a queue that is paused, and must not hold up the others. To be called whenever a job of a key leaves it:
    it stops being active, or pending without having been claimed. Returns how many came.
    """
    places = Counter(keys)
    if not places:
        return 0
    rows = tx.sql.execute(NEXT_OF_KEY, (compact(list(places)), max(places.values()))).fetchall()[0][0]
    taken: Counter[tuple[str, str, str]] = Counter()
    full: set[tuple[str, str, str]] = set()
    coming = []
    for key, queue, lane, _, seq, most, active in sorted(json.loads(rows)):
        place = (key, queue, lane)
        if place in full or taken[place] == places[key] or active + taken[place] >= most:
            full.add(place)  # whoever is first and has no room yet is not overtaken
            continue
        taken[place] += 1
        coming.append(seq)
    if coming:
        wake(tx, facts(tx, AMONG, seqs=compact(coming)), now)
    return len(coming)


BEREFT: Final = """
  seq IN (SELECT value FROM json_each(:seqs)) AND +status = 'waiting' AND reason = 'children'
  AND NOT EXISTS (SELECT 1 FROM jobs AS part WHERE part.parent = jobs.seq AND part.finished_at IS NULL)"""


def wake_parents(tx: Transaction, parents: Iterable[int], now: int) -> None:
    """Let those of *parents* go on that wait for their children, of which none lives any more."""
    numbers = sorted(set(parents))
    if numbers:
        wake(tx, facts(tx, BEREFT, seqs=compact(numbers)), now)
