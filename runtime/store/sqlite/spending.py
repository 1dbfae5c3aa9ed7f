"""What agents have spent, a row a day."""

import sqlite3
from typing import Final

from runtime.store.port import Charge
from runtime.store.sqlite.transaction import Transaction

ADD: Final = """
  INSERT INTO spending (agent, day, calls, input_tokens, output_tokens, cost) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT (agent, day) DO UPDATE SET calls = calls + excluded.calls,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
    cost = cost + excluded.cost"""


def passed(tx: Transaction, charge: Charge) -> str | None:
    """Return the name of the limit that the day's spending would pass with *charge*; None: it may be spent."""
    if charge.max_tokens is None and charge.max_cost is None:
        return None
    row = tx.sql.execute(
        "SELECT input_tokens + output_tokens, cost FROM spending WHERE agent = ? AND day = ?",
        (charge.agent, charge.day),
    ).fetchone()
    tokens, cost = row or (0, 0)
    if charge.max_tokens is not None and tokens + charge.input_tokens + charge.output_tokens > charge.max_tokens:
        return "max_tokens"
    return "max_cost" if charge.max_cost is not None and cost + charge.cost > charge.max_cost else None


def spend(tx: Transaction, charge: Charge) -> None:
    """Add *charge* to what its agent has spent on its day, whatever its limits say."""
    used = (charge.calls, charge.input_tokens, charge.output_tokens, charge.cost)
    tx.sql.execute(ADD, (charge.agent, charge.day, *used))


def spent(sql: sqlite3.Connection, agent: str, since: str) -> tuple[Charge, ...]:
    rows = sql.execute(
        """SELECT agent, day, calls, input_tokens, output_tokens, cost FROM spending
           WHERE agent = ? AND day >= ? ORDER BY day""",
        (agent, since),
    ).fetchall()
    return tuple(Charge(*row) for row in rows)
