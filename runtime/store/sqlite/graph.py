"""What is read of how jobs hang together: parents, parts, the picture of a graph, and why one is not moving."""

import json
import sqlite3
from typing import Any, Final

from runtime.store.port import ChildResult, ParentResult, WhyFacts
from runtime.store.sqlite import views
from runtime.store.sqlite.transaction import compact
from schemas.jobs import GraphEdge, GraphNode, GraphView

COUNT_AHEAD: Final = 1_000


def parents(sql: sqlite3.Connection, job_id: str) -> tuple[ParentResult, ...]:
    rows = sql.execute(
        """SELECT parent.id, parent.kind, parent.status, state, result, error
           FROM jobs AS child JOIN job_deps ON job_deps.child = child.seq
           JOIN jobs AS parent ON parent.seq = job_deps.parent JOIN job_data ON job_data.seq = parent.seq
           WHERE child.id = ? ORDER BY parent.id""",
        (job_id,),
    ).fetchall()
    return tuple(ParentResult(*row) for row in rows)


def children(sql: sqlite3.Connection, job_id: str) -> tuple[ChildResult, ...]:
    rows = sql.execute(
        """SELECT part.id, part.kind, part.status, result, error
           FROM jobs AS whole JOIN jobs AS part ON part.parent = whole.seq JOIN job_data ON job_data.seq = part.seq
           WHERE whole.id = ? ORDER BY part.id""",
        (job_id,),
    ).fetchall()
    return tuple(ChildResult(*row) for row in rows)


# Rows of a recursive query are taken up in the order in which they were found, so the nearest come first.
NEAR: Final = """
  WITH RECURSIVE near (seq) AS (
    SELECT seq FROM jobs WHERE id = :id
    UNION
    SELECT child FROM near CROSS JOIN job_deps ON job_deps.parent = near.seq
    UNION
    SELECT job_deps.parent FROM near CROSS JOIN job_deps ON child = near.seq
    UNION
    SELECT part.seq FROM near CROSS JOIN jobs AS part ON part.parent = near.seq
    UNION
    SELECT whole.seq FROM near CROSS JOIN jobs AS part ON part.seq = near.seq
      CROSS JOIN jobs AS whole ON whole.seq = part.parent
    LIMIT :limit)
  SELECT json_group_array(json_array(seq, id, kind, status, reason)) FROM near CROSS JOIN jobs USING (seq)"""
# Two lists for two columns would be tried pair by pair, hence the plus signs: only the first list looks rows up.
EDGES: Final = """
  SELECT json_group_array(json_array(parent, child, on_failure, state)) FROM job_deps
  WHERE parent IN (SELECT value FROM json_each(?1)) AND +child IN (SELECT value FROM json_each(?1))"""
PARTS: Final = """
  SELECT json_group_array(json_array(parent, seq)) FROM jobs
  WHERE seq IN (SELECT value FROM json_each(?1)) AND +parent IN (SELECT value FROM json_each(?1))"""


def graph(sql: sqlite3.Connection, job_id: str, limit: int) -> GraphView | None:
    found = one(sql, NEAR, {"id": job_id, "limit": limit + 1})
    if not found:
        return None
    ids = {seq: name for seq, name, *_ in found[:limit]}
    numbers = (compact(list(ids)),)
    depends = [
        GraphEdge(parent=ids[parent], child=ids[child], on_failure=on_failure, state=state)
        for parent, child, on_failure, state in one(sql, EDGES, numbers)
    ]
    parts = [GraphEdge(parent=ids[whole], child=ids[part], relation="part") for whole, part in one(sql, PARTS, numbers)]
    nodes = (
        GraphNode(id=name, kind=kind, status=status, reason=reason) for _, name, kind, status, reason in found[:limit]
    )
    return GraphView(nodes=tuple(nodes), edges=(*depends, *parts), cut=len(found) > limit)


def one(sql: sqlite3.Connection, query: str, values: Any) -> list[Any]:
    """Return what a query that yields one JSON text found."""
    found: list[Any] = json.loads(sql.execute(query, values).fetchone()[0])
    return found


AHEAD: Final = f"""
  SELECT count(*) FROM (
    SELECT 1 FROM jobs AS mine CROSS JOIN jobs AS other
    WHERE mine.id = ? AND other.status = 'pending' AND other.queue = mine.queue AND other.lane = mine.lane
      AND (other.rank, other.seq) < (mine.rank, mine.seq) LIMIT {COUNT_AHEAD})"""


def why(sql: sqlite3.Connection, job_id: str) -> WhyFacts | None:
    job = views.job(sql, job_id)
    if job is None:
        return None
    ahead = sql.execute(AHEAD, (job_id,)).fetchone()[0] if job.status == "pending" else 0
    active = sql.execute(
        "SELECT id FROM jobs WHERE limit_key = ? AND status = 'active' AND finished_at IS NULL ORDER BY id",
        (job.limit_key,),
    ).fetchall()
    return WhyFacts(job, ahead, tuple(name for (name,) in active))
