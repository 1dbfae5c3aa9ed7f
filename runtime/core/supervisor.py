"""Supervisors: start in order, stop in reverse, and what happens when a child crashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.core.actor import LIFECYCLE
from runtime.core.cell import UNMOVED, Cell
from runtime.core.deadlines import Timer
from runtime.core.directive import Directive, told
from runtime.core.spec import ChildSpec, Restart, Strategy, SupervisorSpec
from runtime.errors import RestartLimitReached

if TYPE_CHECKING:
    from runtime.core._port import Slot
    from runtime.core.cell import Goal
    from runtime.core.incarnation import Incarnation
    from runtime.core.system import ActorSystem
    from runtime.policies import RestartLimit
    from schemas.agents import Lifecycle

__all__ = ["ChildSpec", "Restart", "Strategy", "Supervisor", "SupervisorSpec"]


class Supervisor:
    """A node of the tree. It has no task of its own: it decides at once, and what takes time runs as a short task.

    Every such task carries the generation it was started for and gives up when that has passed.
    """

    def __init__(
        self, spec: SupervisorSpec, parent: Supervisor | None, system: ActorSystem, host: Incarnation | None = None
    ) -> None:
        self.name = spec.id
        self.spec = spec
        self.parent = parent
        self.system = system
        self.host = host
        self.state: Lifecycle = "new"
        self.restarts = self.incarnation = 0
        self.limit: RestartLimit | None = None
        self.reason: str | None = None
        self.started_at = 0.0
        self.handled_before = 0
        self._generation = 0
        self._group: set[Cell | Supervisor] = set()
        self._busy = False
        self._restart_at = 0.0
        self._nap: Slot | None = None
        self._timer: Timer | None = None
        self._waiters: list[Slot] = []
        self.children: list[Cell | Supervisor] = []

    def __repr__(self) -> str:
        return f"Supervisor({self.name!r}, {self.state})"

    def move(self, to: Lifecycle) -> None:
        """Go to the state *to*, which the table must allow."""
        if self.state != to:
            assert to in LIFECYCLE[self.state], f"{self.name}: {self.state} -> {to}"
            self.state = to
        waiters, self._waiters = self._waiters, []
        for slot in waiters:
            if not slot.done():
                slot.set_result(None)

    @property
    def handled(self) -> int:
        """Messages handled in the whole branch."""
        return sum(child.handled for child in self.children)

    # -- starting ------------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start every child that is not parked, as a task."""
        self._end_timer()
        self._generation += 1
        self.incarnation += 1
        self.reason = None
        self.move("starting")
        self.started_at, self.handled_before = self.system.loop.time(), self.handled
        self._restart_at = self.started_at
        if self.spec.strategy == "one_for_one":
            self.system.loop.spawn(self._start_each, self._generation, name=self.name)
        else:
            self._group.update(self.children)
            self._bring_up_soon()

    async def settled(self) -> None:
        """Wait until the start that is under way has succeeded or failed."""
        while self.state in ("starting", "stopping", "failed"):
            slot = self.system.loop.slot()
            self._waiters.append(slot)
            await slot

    async def _start_each(self, generation: int) -> None:
        # They do not depend on each other, so one that is slow to start, or waits to try again, holds up nobody.
        for child in list(self.children):
            if child.state in ("new", "backing_off"):
                child.launch()
        for child in list(self.children):
            await child.settled()
            if self._generation != generation:
                return
        self.move("running")

    def _bring_up_soon(self) -> None:
        if not self._busy:
            self._busy = True
            self.system.loop.spawn(self._bring_up, self._generation, name=self.name)

    async def _bring_up(self, generation: int) -> None:
        """Stop the group in reverse order, wait for the backoff, start it in order; again while members crash."""
        while self._group:
            members = [child for child in self.children if child in self._group]
            self._group.clear()
            for child in reversed(members):
                await child.halt("restart", final=False)
                if self._generation != generation:
                    return
            if not await self._sleep(generation) or not await self._start_members(members, generation):
                return
        self._busy = False
        if self.state == "starting":
            self.move("running")

    async def _start_members(self, members: list[Cell | Supervisor], generation: int) -> bool:
        for place, child in enumerate(members):
            if child.state in ("new", "backing_off") and child in self.children:
                child.launch()
            await child.settled()
            if self._generation != generation:
                return False
            if self._group:
                self._group.update(members[place + 1 :])
                break
        return True

    async def _sleep(self, generation: int) -> bool:
        loop = self.system.loop
        while self._restart_at > loop.time():
            nap = self._nap = loop.slot()
            timer = Timer(self.system.deadlines, self._restart_at, lambda nap=nap: nap.set_result(None))  # type: ignore[misc]
            await nap
            timer.cancel()
            if self._generation != generation:
                return False
        return True

    # -- what children report ------------------------------------------------------------------------------------------

    def child_crashed(self, child: Cell, life: Incarnation) -> None:
        """Decide what becomes of a cell whose incarnation crashed."""
        ending = life.ending
        assert ending is not None
        assert ending.error is not None
        if self.state not in ("starting", "running"):
            child.rest("stopped" if child.spec.restart == "temporary" else "backing_off", "crash")
        elif child.spec.restart == "temporary":
            child.rest("stopped", "crash")
        elif ending.directive is Directive.QUARANTINE:
            child.reason = told(ending.error)
            child.rest("quarantined", "crash")
        elif ending.directive is Directive.ESCALATE:
            child.rest("backing_off", "crash")
            self.fail(ending.error)
        else:
            self._again(child, life.alive_for(), life.handled, ending.blame, ending.error)

    def child_left(self, child: Cell, life: Incarnation) -> None:
        """Decide what becomes of a cell that ended normally."""
        if child.spec.restart == "permanent" and self.state in ("starting", "running"):
            self._again(child, life.alive_for(), life.handled, None, None)
        else:
            child.rest("stopped", "stop")

    def branch_failed(self, child: Supervisor, error: BaseException) -> None:
        """Decide what becomes of a supervisor below that gave up; all its children are down."""
        if self.state in ("starting", "running"):
            alive_for = self.system.loop.time() - child.started_at
            self._again(child, alive_for, child.handled - child.handled_before, None, error)

    def _again(
        self, child: Cell | Supervisor, alive_for: float, handled: int, blame: str | None, error: BaseException | None
    ) -> None:
        if child.limit is None:
            child.limit = self.spec.limit()
        chance = self.system.clock.random()
        delay = child.limit.crashed(alive_for=alive_for, handled=handled, blame=blame, chance=chance)
        if delay is None:
            self._exhausted(child, child.limit.crashes, error)
        elif self.spec.strategy == "one_for_one":
            child.back_off(delay)
        else:
            self._restart_group(child, delay)

    def _exhausted(self, child: Cell | Supervisor, crashes: int, error: BaseException | None) -> None:
        why = f"{child.name} ended {crashes} times in a row" + ("" if error is None else f", last: {told(error)}")
        self.system.emit("supervisor.exhausted", self.name, {"child": child.name, "reason": why})
        if self.spec.on_exhausted == "quarantine":
            child.reason = why
            child.rest("quarantined", "crash")
        else:
            child.rest("backing_off", "crash")
            failure = RestartLimitReached(why, child=child.name, supervisor=self.name)
            failure.__cause__ = error
            self.fail(failure)

    def _restart_group(self, child: Cell | Supervisor, delay: float) -> None:
        child.restarts += 1
        child.rest("backing_off", "crash")
        self.system.emit("actor.restarting", child.name, {"delay": delay})
        first = 0 if self.spec.strategy == "one_for_all" else self.children.index(child)
        self._group.update(self.children[first:])
        self._restart_at = max(self._restart_at, self.system.loop.time() + delay)
        self._bring_up_soon()

    def fail(self, error: BaseException) -> None:
        """Give up: stop every child, then let the parent decide."""
        if self.state not in ("starting", "running"):
            return
        if self.host is not None and isinstance(error, Exception):
            self.host.fail(error)
            return
        self.reason = told(error)
        self.move("failed")
        self._drop_plans()
        self.system.loop.spawn(self._collapse, self._generation, error, name=self.name)

    async def _collapse(self, generation: int, error: BaseException) -> None:
        for child in reversed(list(self.children)):
            await child.halt("restart", final=False)
        if self._generation == generation:
            if self.parent is None:
                self.system.root_failed(error)
            else:
                self.parent.branch_failed(self, error)

    # -- what a parent asks: the same words as a cell's ----------------------------------------------------------------

    def back_off(self, delay: float) -> None:
        """Start again in *delay* seconds; 0 is now."""
        self.restarts += 1
        self.system.emit("actor.restarting", self.name, {"delay": delay})
        if delay <= 0:
            self.launch()
        else:
            self.move("backing_off")
            self._timer = Timer(self.system.deadlines, self.system.loop.time() + delay, self.launch)

    async def halt(self, reason: str, *, final: bool, grace: float | None = None) -> None:
        """Stop the children in reverse start order, within `SupervisorSpec.shutdown` seconds for all of them."""
        self._drop_plans()
        if self.state in ("starting", "running"):
            self.move("stopping")
        generation = self._generation
        until = self._until(grace)
        for child in reversed(list(self.children)):
            left = None if until is None else max(0.0, until - self.system.loop.time())
            await child.halt(reason, final=final, grace=left)
        if self._generation == generation:
            self.rest("stopped" if final else "backing_off", reason)

    def _until(self, grace: float | None) -> float | None:
        bounds = [bound for bound in (grace, self.spec.shutdown) if bound is not None]
        return self.system.loop.time() + min(bounds) if bounds else None

    def rest(self, goal: Goal, reason: str) -> None:
        """Come to rest; the children are down, or go down by themselves."""
        self._end_timer()
        if self.state == goal or self.state in UNMOVED[goal]:
            return
        self.move(goal)
        if goal == "quarantined":
            self.system.emit("actor.quarantined", self.name, {"reason": self.reason})
            for child in self.children:
                child.park(f"{self.name} is quarantined: {self.reason}")

    def park(self, reason: str) -> None:
        """Quarantine the branch. The children go down one after the other, by themselves."""
        self.reason = reason
        self._drop_plans()
        if self.state in ("starting", "running"):
            self.move("stopping")
        self.rest("quarantined", "stop")

    def _drop_plans(self) -> None:
        self._generation += 1
        self._busy = False
        self._group.clear()
        self._end_timer()
        if self._nap is not None and not self._nap.done():
            self._nap.set_result(None)

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
