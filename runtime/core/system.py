"""The actor system: the tree, the names in it, its start and its ordered stop."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.abc import TaskStatus

from runtime.core._loop import pick
from runtime.core.cell import Cell
from runtime.core.dead_letters import DeadLetter, DeadLetters, DeadReason
from runtime.core.deadlines import Deadlines
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.supervisor import Supervisor
from runtime.core.view import CellView, view_of
from runtime.errors import ActorStopped, NoSuchActor, StartFailed

if TYPE_CHECKING:
    from runtime.clock import Clock
    from runtime.core._port import Loop
    from runtime.core.actor import Actor
    from runtime.core.envelope import Envelope
    from runtime.core.incarnation import Incarnation
    from runtime.core.ref import Ref
    from schemas.system import ActorView

__all__ = ["ActorSystem", "CellView"]

Listener = Callable[[str, str, dict[str, Any]], None]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _NotRunning:
    """The loop of a system that does not run: it has a time and nothing else."""

    time: Callable[[], float] = time.monotonic

    def slot(self) -> NoReturn:
        raise ActorStopped("the system is not running")

    def spawn(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise ActorStopped("the system is not running")

    def wake_at(self, when: float) -> None:
        """Wait for nothing: there is no loop to wake."""


class ActorSystem:
    """Every actor of one event loop. Use it from that loop's thread; `tree` and `cell` may be read from any other.

    *on_event* is called with a type, the actor's name and data for everything that happens to actors. It must be quick;
    an error in it is logged and changes nothing.
    """

    def __init__(self, root: SupervisorSpec, *, clock: Clock, on_event: Listener | None = None) -> None:
        self.clock = clock
        self.loop: Loop = _NotRunning()  # type: ignore[assignment]  # it lacks what only a running system uses
        self.deadlines = Deadlines(self.loop.time, self.loop.wake_at)
        self.dead_letters = DeadLetters()
        self.unstopped: list[str] = []
        self.listening = on_event is not None
        self.stopping = self.hurried = False
        self._on_event = on_event
        self._cells: dict[str, Cell] = {}
        self._supervisors: dict[str, Supervisor] = {}
        self._error: BaseException | None = None
        self._finished: anyio.Event | None = None
        self.root = self._plant(root, None)

    def _plant(self, spec: SupervisorSpec, parent: Supervisor | None) -> Supervisor:
        self._claim(spec.id)
        node = self._supervisors[spec.id] = Supervisor(spec, parent, self)
        for child in spec.children:
            node.children.append(
                self._new_cell(child, node) if isinstance(child, ChildSpec) else self._plant(child, node)
            )
        return node

    def _new_cell(self, spec: ChildSpec, owner: Supervisor) -> Cell:
        self._claim(spec.id)
        cell = self._cells[spec.id] = Cell(spec, owner, self)
        return cell

    def _claim(self, name: str) -> None:
        if name in self._cells or name in self._supervisors:
            raise ValueError(f"there is an actor {name!r} already")

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until stopped; `started()` when the whole tree is up, which it also is with actors in quarantine.

        Raises `RestartLimitReached` when the root is exhausted. Cancelling it stops the system as `stop(now=True)` does
        and waits for that, within the bounds of the children. A system runs once.
        """
        assert self._finished is None, "a system runs once"
        self._finished = anyio.Event()
        self._bind(pick())
        async with self.loop.opened(self.deadlines.sweep, self._broken):
            try:
                self.root.launch()
                await self.root.settled()
                if not self.stopping:
                    task_status.started()
                await self._finished.wait()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    self.stop(now=True)
                    await self._finished.wait()
                raise
        if self._error is not None:
            raise self._error

    def _bind(self, loop: Loop) -> None:
        self.loop = loop
        self.deadlines = Deadlines(loop.time, loop.wake_at)
        for cell in self._cells.values():
            cell.mailbox.time = loop.time

    def stop(self, *, now: bool = False) -> None:
        """Begin the ordered stop: children in reverse start order, each within its bound; then `run` returns.

        With *now* running handlers are cancelled at once; a second call with *now* hurries a stop that is under way.
        """
        if self._finished is None or self._finished.is_set():
            return
        if now:
            self._hurry()
        if not self.stopping:
            self.stopping = True
            self.loop.spawn(self._shut_down, name="stop")

    def _hurry(self) -> None:
        self.hurried = True
        for cell in self._cells.values():
            if cell.state == "stopping" and cell.life is not None:
                cell.life.kill()

    async def _shut_down(self) -> None:
        await self.root.halt("shutdown", final=True)
        assert self._finished is not None
        self._finished.set()

    def root_failed(self, error: BaseException) -> None:
        """Hear that the root has given up: the system ends with its error."""
        self._error = self._error or error
        self.stop()

    def _broken(self, error: BaseException) -> None:
        # Not an actor's fault but the kernel's own: nothing can be relied on any more.
        self._error = self._error or error
        self.stop(now=True)

    # -- names ---------------------------------------------------------------------------------------------------------

    def ref(self, name: str) -> Ref:
        """Return a ref to the actor called *name*. Raises `NoSuchActor` with names that look alike."""
        return self._cell(name).ref

    def names(self) -> list[str]:
        """Return the names of all actors, in the order in which they were added."""
        return list(self._cells)

    def has(self, name: str) -> bool:
        """Tell whether there is an actor called *name*. Safe from another thread."""
        return name in self._cells

    def _cell(self, name: str) -> Cell:
        cell = self._cells.get(name)
        if cell is None:
            known = difflib.get_close_matches(name, list(self._cells))
            hint = f"; did you mean {known[0]}?" if known else ""
            raise NoSuchActor(f"there is no actor {name}{hint}", known=known)
        return cell

    # -- changing the tree ---------------------------------------------------------------------------------------------

    async def start_child(self, supervisor: str, spec: ChildSpec) -> Ref:
        """Add a child to *supervisor*, start it and wait until it is up, or parked, or waits to try again.

        Raises `StartFailed` when a temporary one did not come up, `NoSuchActor`, `ActorStopped` when the supervisor
        does not run, ValueError when the name is taken. A cancelled wait leaves the child where it is.
        """
        node = self._supervisors.get(supervisor)
        if node is None:
            raise NoSuchActor(f"there is no supervisor {supervisor}", known=list(self._supervisors))
        return await self.add_child(node, spec)

    async def add_child(self, node: Supervisor, spec: ChildSpec) -> Ref:
        """Add a child to the supervisor *node*; see `start_child`."""
        if node.state not in ("starting", "running"):
            raise ActorStopped(f"the supervisor {node.name} is {node.state}")
        cell = self._new_cell(spec, node)
        node.children.append(cell)
        cell.launch()
        await cell.settled()
        if spec.restart == "temporary" and cell.state == "stopped" and cell.last_error is not None:
            raise StartFailed(f"{spec.id} does not start: {cell.last_error}", actor=spec.id)
        return cell.ref

    def branch_of(self, life: Incarnation) -> Supervisor:
        """Return a supervisor for the children that one incarnation starts; its failure is that incarnation's crash."""
        branch = Supervisor(SupervisorSpec(id=f"{life.name}/children"), None, self, host=life)
        branch.move("starting")
        branch.move("running")
        return branch

    async def stop_child(self, name: str) -> None:
        """Stop an actor, or a supervisor with all below it, for good and forget its name. Raises `NoSuchActor`."""
        node = self._supervisors.get(name) or self._cell(name)
        owner = node.parent if isinstance(node, Supervisor) else node.owner
        if owner is not None and node in owner.children:
            owner.children.remove(node)
        await node.halt("stop", final=True)
        self._forget(node)

    def _forget(self, node: Cell | Supervisor) -> None:
        if isinstance(node, Cell):
            if self._cells.get(node.name) is node:
                del self._cells[node.name]
            return
        for child in node.children:
            self._forget(child)
        self._supervisors.pop(node.name, None)

    async def restart_child(self, name: str, factory: Callable[[], Actor] | None = None) -> None:
        """Replace the instance, made by *factory* from now on; leave quarantine; forget past crashes. Mailbox kept.

        Returns when the new instance is up, or parked, or waits to try again. Raises `NoSuchActor`, `ActorStopped`.
        """
        cell = self._cell(name)
        parked = cell.state == "quarantined"
        cell.factory = factory or cell.factory
        await cell.halt("restart", final=False)
        if self.stopping:
            raise ActorStopped("the system is stopping")
        if cell not in cell.owner.children:
            raise ActorStopped(f"{name} was stopped meanwhile")
        cell.limit = None
        if cell.life is None:
            cell.launch()
        if parked:
            self.emit("actor.unquarantined", name, {})
        await cell.settled()

    def suspend(self, name: str) -> None:
        """Let *name* start no further message until `resume`; it outlasts restarts. Raises `NoSuchActor`."""
        self._cell(name).suspend()

    def resume(self, name: str) -> None:
        """Let *name* go on with the messages that waited. Raises `NoSuchActor`."""
        self._cell(name).resume()

    def quarantine(self, name: str, reason: str) -> None:
        """Park *name* until `restart_child`: its mailbox is kept, senders and askers are refused from now on."""
        self._cell(name).park(reason)

    # -- what can be seen ----------------------------------------------------------------------------------------------

    def tree(self) -> ActorView:
        """Return a snapshot of all cells. Safe from another thread, also while a handler blocks the loop."""
        return view_of(self.root, self.loop.time())

    def cell(self, name: str) -> CellView:
        """Return a snapshot of one cell. Raises `NoSuchActor`. Safe from another thread."""
        return CellView.of(self._cell(name))

    def emit(self, type: str, subject: str, data: dict[str, Any]) -> None:  # noqa: A002  # the word of the event
        """Tell the listener, if there is one."""
        if self._on_event is None:
            return
        try:
            self._on_event(type, subject, data)
        except Exception:
            logger.exception("event_listener_failed")

    def bury(self, reason: DeadReason, envelope: Envelope, to: str, detail: str) -> None:
        """Record a dead letter."""
        word = envelope.message.TYPE
        self.dead_letters.add(DeadLetter(reason, word, to, envelope.sender, self.clock.now(), detail))
        self.emit("actor.dead_letter", to, {"reason": reason, "type": word})

    def report_unstopped(self, what: str, name: str, incarnation: int) -> None:
        """Note what did not end within its bound."""
        self.unstopped.append(what)
        self.emit("actor.zombie", name, {"incarnation": incarnation, "what": what})

    def cell_stopped(self, cell: Cell) -> None:
        """Hear that a cell stopped for good: the name of a temporary one is free again."""
        if cell.spec.restart == "temporary":
            if cell in cell.owner.children:
                cell.owner.children.remove(cell)
            self._forget(cell)
