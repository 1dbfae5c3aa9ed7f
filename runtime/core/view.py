"""Snapshots of cells for people: read without a lock, so also while a handler blocks the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.core.mailbox import message_of
from schemas.system import ActorView

if TYPE_CHECKING:
    from runtime.core.cell import Cell
    from runtime.core.supervisor import Supervisor
    from schemas.agents import Lifecycle


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell at one moment. `last_error` is the error's type and text."""

    name: str
    state: Lifecycle
    incarnation: int
    restarts: int
    mailbox: int
    handled: int
    reason: str | None
    last_error: str | None

    @classmethod
    def of(cls, cell: Cell) -> CellView:
        """Take the snapshot of *cell*."""
        return cls(
            cell.name,
            cell.state,
            cell.incarnation,
            cell.restarts,
            len(cell.mailbox.queue),
            cell.handled,
            cell.reason,
            cell.last_error,
        )


def view_of(node: Cell | Supervisor, now: float) -> ActorView:
    """Return *node* with all below it; *now* is the loop's monotonic time, from which ages are counted."""
    # Each attribute is read once: the loop's thread may change it between two reads.
    children = getattr(node, "children", None)
    if children is not None:
        return ActorView(
            name=node.name,
            kind="supervisor",
            state=node.state,
            restarts=node.restarts,
            incarnation=node.incarnation,
            mailbox=0,
            handled=node.handled,
            reason=node.reason,
            children=tuple(view_of(child, now) for child in list(children)),
        )
    return _view_of_cell(node, now)  # type: ignore[arg-type]  # what has no children is a cell


def _view_of_cell(cell: Cell, now: float) -> ActorView:
    life = cell.life
    item = life.item if life is not None else None
    branch = life.branch if life is not None else None
    try:
        oldest = cell.mailbox.queue[0]
    except IndexError:
        oldest = None
    return ActorView(
        name=cell.name,
        kind="actor",
        state=cell.state,
        restarts=cell.restarts,
        incarnation=cell.incarnation,
        mailbox=len(cell.mailbox.queue),
        handled=cell.handled,
        oldest=None if oldest is None else max(0.0, now - (oldest[2] if isinstance(oldest, tuple) else oldest.at)),
        doing=None if item is None else message_of(item).TYPE,
        doing_for=None if item is None or life is None else max(0.0, now - life.began),
        reason=cell.reason,
        children=() if branch is None else tuple(view_of(child, now) for child in list(branch.children)),
    )
