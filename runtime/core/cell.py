"""A cell: what the runtime keeps of an actor across its incarnations, and the moves of its lifecycle."""

from __future__ import annotations

import traceback
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from runtime.core.actor import LIFECYCLE
from runtime.core.deadlines import Timer
from runtime.core.directive import told
from runtime.core.envelope import Asked, Envelope, Item, answer_error, opened
from runtime.core.incarnation import GOODBYE, Incarnation
from runtime.core.mailbox import Mailbox
from runtime.core.owned import CURRENT
from runtime.core.ref import PATIENCE, Ref
from runtime.errors import ActorError, ActorQuarantined, ActorStopped, AskTimeout
from schemas.agents import Lifecycle

if TYPE_CHECKING:
    from runtime.core._port import Slot
    from runtime.core.dead_letters import DeadReason
    from runtime.core.spec import ChildSpec
    from runtime.core.supervisor import Supervisor
    from runtime.core.system import ActorSystem
    from runtime.policies import RestartLimit

Goal = Literal["backing_off", "quarantined", "stopped"]
"""Where a cell is to come to rest once its incarnation has ended; the later word overrules the earlier."""
_RANK: dict[Goal | None, int] = {None: 0, "backing_off": 1, "quarantined": 2, "stopped": 3}

UNMOVED: dict[Goal, tuple[Lifecycle, ...]] = {
    "backing_off": ("new", "quarantined", "stopped"),
    "quarantined": ("stopped",),
    "stopped": (),
}
"""In which states a cell without an incarnation stays when it is asked to come to rest as the key says."""


class Cell:
    """Mailbox, counters, supervision data and the present incarnation, if there is one."""

    __slots__ = (
        "factory",
        "goal",
        "handled_before",
        "incarnation",
        "last_error",
        "life",
        "limit",
        "mailbox",
        "name",
        "owner",
        "paused",
        "reason",
        "ref",
        "restarts",
        "spec",
        "state",
        "stop_by",
        "system",
        "timer",
        "waiters",
        "watchers",
    )

    def __init__(self, spec: ChildSpec, owner: Supervisor, system: ActorSystem) -> None:
        self.name = spec.id
        self.spec = spec
        self.factory = spec.factory
        self.owner = owner
        self.system = system
        self.mailbox = Mailbox(spec.id, spec.mailbox, self._lost_room, system.loop.time)
        self.ref = Ref(self)
        self.state: Lifecycle = "new"
        self.incarnation = self.restarts = self.handled_before = 0
        self.life: Incarnation | None = None
        self.limit: RestartLimit | None = None
        self.paused = False
        self.goal: Goal | None = None
        self.stop_by: float | None = None
        self.reason: str | None = None
        self.last_error: str | None = None
        self.timer: Timer | None = None
        self.waiters: list[Slot] | None = None
        self.watchers: set[Incarnation] | None = None

    def __repr__(self) -> str:
        return f"Cell({self.name!r}, {self.state}, incarnation={self.incarnation})"

    @property
    def handled(self) -> int:
        """Messages handled by all incarnations."""
        life = self.life
        return self.handled_before + (0 if life is None else life.handled)

    # -- lifecycle -----------------------------------------------------------------------------------------------------

    def move(self, to: Lifecycle) -> None:
        """Go to the state *to*, which the table must allow, and let those look who wait for a change."""
        assert to in LIFECYCLE[self.state], f"{self.name}: {self.state} -> {to}"
        self.state = to
        if self.waiters:
            waiters, self.waiters = self.waiters, None
            for slot in waiters:
                if not slot.done():
                    slot.set_result(None)

    async def change(self) -> None:
        """Wait for the next move."""
        slot = self.system.loop.slot()
        if self.waiters is None:
            self.waiters = []
        self.waiters.append(slot)
        await slot

    async def settled(self) -> None:
        """Wait until the start that is under way has succeeded or failed."""
        while self.life is not None and self.state in ("starting", "stopping", "failed"):
            await self.change()

    def launch(self) -> None:
        """Start the next incarnation."""
        assert self.life is None, f"{self.name} runs already"
        self._end_timer()
        self.reason = self.stop_by = None
        self.mailbox.open()
        self.incarnation += 1
        self.life = Incarnation(self, self.incarnation)
        self.move("starting")
        self.system.loop.spawn(self.life.live, name=self.name)

    def came_up(self, life: Incarnation) -> None:
        """Hear that the instance is ready for messages."""
        self.move("running")
        if self.paused:
            self.move("suspended")
        self.emit("actor.started", incarnation=life.number)

    def back_off(self, delay: float) -> None:
        """Start again in *delay* seconds; 0 is now."""
        self.restarts += 1
        self.emit("actor.restarting", delay=delay)
        if delay <= 0:
            self.launch()
        else:
            self.move("backing_off")
            self.timer = Timer(self.system.deadlines, self.mailbox.time() + delay, self.launch)

    def _end_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def crashed(self, life: Incarnation, error: BaseException) -> None:
        """Hear that the incarnation is beyond help; its clearing up follows."""
        self.last_error = told(error)
        if self.state != "stopping":
            self.move("failed")
        self.emit("actor.crashed", error=error, type=type(error).__name__, incarnation=life.number)

    def ended(self, life: Incarnation) -> None:
        """Hear that the incarnation has ended, or is given up as a zombie, and decide what comes next."""
        if self.life is not life:
            return
        assert life.ending is not None
        self.life = None
        self.handled_before += life.handled
        self._tell_watchers(life)
        goal, self.goal = self.goal, None
        if goal is not None:
            self.rest(goal, life.ending.reason)
        elif life.ending.error is not None:
            self.owner.child_crashed(self, life)
        else:
            self.owner.child_left(self, life)

    def torn(self) -> None:
        """Hear that the task of the incarnation is torn down from outside: there is no next one."""
        if self.state in ("starting", "running", "suspended"):
            self.move("stopping")
        self.goal = "stopped"
        self.mailbox.close(self._is_stopped)

    def _tell_watchers(self, life: Incarnation) -> None:
        watchers, self.watchers = self.watchers, None
        assert life.ending is not None
        reason = "quarantine" if self.goal == "quarantined" else "zombie" if life.lost else life.ending.reason
        for watcher in sorted(watchers or (), key=lambda one: one.name):
            watcher.tell_of_end(self, life.number, reason)

    def watch(self, watcher: Incarnation) -> None:
        """Note who wants to hear of the end of the present or coming incarnation; of one that ended for good, now."""
        if self.life is None and self.state in ("stopped", "quarantined"):
            watcher.tell_of_end(self, self.incarnation, "stop" if self.state == "stopped" else "quarantine")
            return
        if self.watchers is None:
            self.watchers = set()
        self.watchers.add(watcher)

    def unwatch(self, watcher: Incarnation) -> None:
        """Forget a watcher that has ended itself."""
        if self.watchers is not None:
            self.watchers.discard(watcher)

    # -- stopping, parking, pausing ------------------------------------------------------------------------------------

    def request_stop(self, reason: str) -> None:
        """End the incarnation normally; what follows is up to the kind of child."""
        if self.life is not None and self.state in ("starting", "running", "suspended"):
            self._begin_to_end(reason, self.spec.shutdown)

    def end(self, reason: str, goal: Goal, grace: float | None = None) -> None:
        """Bring the cell to rest as *goal* says; the running handler has *grace* seconds. Takes effect at once."""
        if _RANK[goal] > _RANK[self.goal]:
            self.goal = goal
        self._close_gate(goal)
        grace = self.spec.shutdown if grace is None else min(grace, self.spec.shutdown)
        if self.system.hurried:
            grace = 0.0
        if self.life is None:
            self.goal = None
            self.rest(goal, reason)
        elif self.state in ("starting", "running", "suspended"):
            self._begin_to_end(reason, grace)
        elif grace <= 0 and self.state == "stopping":
            self.life.kill()

    def _begin_to_end(self, reason: str, grace: float) -> None:
        assert self.life is not None
        self.stop_by = self.mailbox.time() + grace
        self.move("stopping")
        self.life.ask_to_end(reason, grace)

    async def halt(self, reason: str, *, final: bool, grace: float | None = None) -> None:
        """Bring the cell to rest and wait until it is; every wait in here is bounded by the cell's own timers."""
        final = final or self.spec.restart == "temporary"
        goal: Goal = "stopped" if final else "backing_off"
        self.end(reason, goal, grace)
        while (life := self.life) is not None:
            while self.life is life:  # somebody else who waits may begin the next one before it is our turn
                await self.change()
            if not final:
                return
            if self.life is not None:
                self.end(reason, goal, grace)

    def goodbye(self) -> float:
        """Return the seconds that `on_stop` may take: what is left of the grace, and never less than one."""
        if self.stop_by is None:
            return max(GOODBYE, self.spec.shutdown)
        return max(GOODBYE, self.stop_by - self.mailbox.time())

    def rest(self, goal: Goal, reason: str) -> None:
        """Come to rest without an incarnation."""
        self._end_timer()
        self._close_gate(goal)
        if self.state == goal or self.state in UNMOVED[goal]:
            return
        self.move(goal)
        if goal == "stopped":
            self.reason = reason
            self._empty()
            self.emit("actor.stopped", reason=reason, incarnation=self.incarnation)
            self.system.cell_stopped(self)
        elif goal == "quarantined":
            self.emit("actor.quarantined", reason=self.reason)

    def park(self, reason: str) -> None:
        """Quarantine the cell: the mailbox and the reason are kept, senders are refused, until a person acts."""
        self.reason = reason
        self.end("stop", "quarantined")

    def _close_gate(self, goal: Goal) -> None:
        if goal == "stopped":
            self.mailbox.close(self._is_stopped)
        elif goal == "quarantined" and self.state != "stopped":
            self.mailbox.close(self._is_quarantined)
            for request in [one for one in self.mailbox.queue if isinstance(one, Asked)]:
                self.mailbox.discard(request)
                answer_error(self, request, self._is_quarantined())

    def _is_stopped(self) -> ActorError:
        return ActorStopped(f"{self.name} has stopped", actor=self.name)

    def _is_quarantined(self) -> ActorError:
        return ActorQuarantined(f"{self.name} is quarantined: {self.reason}", actor=self.name, reason=self.reason)

    def _empty(self) -> None:
        for item in self.mailbox.emptied():
            if isinstance(item, Asked):
                answer_error(self, item, self._is_stopped())
            else:
                self.bury("stopped", opened(item))

    def suspend(self) -> None:
        """Start no further message until `resume`; it outlasts restarts."""
        self.paused = True
        if self.state == "running":
            self.move("suspended")
        if self.life is not None:
            self.life.look_up()

    def resume(self) -> None:
        """Go on with the messages that waited."""
        self.paused = False
        if self.state == "suspended":
            self.move("running")
        if self.life is not None:
            self.life.look_up()

    def zombie(self, life: Incarnation) -> None:
        """Hear that the task of *life* ignores its end and is left behind."""
        self.system.report_unstopped(self.name, self.name, life.number)

    # -- messages off the fast path ------------------------------------------------------------------------------------

    async def put(self, item: Item, deadline: float) -> None:
        """Put *item* in, waiting for room until *deadline*. Raises `MailboxFull`, or what the gate says."""
        mailbox = self.mailbox
        if mailbox.put(item):
            return
        if self.life is not None and CURRENT.get() is self.life:
            raise mailbox.full()  # nobody would ever make room
        slot = self.system.loop.slot()
        sender = mailbox.wait(item, slot)
        timer = Timer(self.system.deadlines, deadline, partial(_refuse, mailbox, slot))
        try:
            await slot
        finally:
            mailbox.leave(sender)
            timer.cancel()

    async def put_request(self, request: Asked) -> None:
        """Put a request in as its type says; whoever is cancelled in here leaves nothing behind."""
        if request.message.OVERFLOW != "wait":
            self.mailbox.put_or_refuse(request)
            return
        try:
            await self.put(request, request.at + PATIENCE if request.deadline is None else request.deadline)
        except BaseException:
            self.call_off(request)
            raise

    def call_off(self, request: Asked) -> None:
        """Hear that the asker has left: a queued request is taken out, a running handler is cancelled."""
        reply = request.reply
        reply.cancel()
        if not reply.cancelled():
            reply.exception()  # it had just been answered; an error that nobody looks at would be logged
        elif not self.mailbox.discard(request) and self.life is not None:
            self.life.interrupt(request)

    def expire(self, request: Asked) -> None:
        """Hear that the time of a request is up."""
        error = AskTimeout(self.describe(request), actor=self.name)
        queued = self.mailbox.discard(request)
        request.reply.set_exception(error)
        if queued:
            self.bury("expired", request)
        elif self.life is not None:
            self.life.interrupt(request)

    def still_wanted(self, item: Item, now: float) -> bool:
        """Tell whether a message with a deadline is still worth handling; bury it where its time is up."""
        envelope = opened(item)
        reply = envelope.reply
        if reply is not None and reply.done():
            return False
        if envelope.deadline is None or envelope.deadline > now:
            return True
        self.bury("expired", envelope)
        if reply is not None:
            reply.set_exception(AskTimeout(f"{self.name} had no time for it before the deadline", actor=self.name))
        return False

    def describe(self, request: Asked) -> str:
        """Say what became of *request* so far, for the error that its asker gets."""
        now, life = self.mailbox.time(), self.life
        doing = ""
        if life is not None and (running := life.envelope) is not None:
            doing = f"handling {running.message.TYPE} for {now - life.began:.1f} s"
            if running is request:
                return f"no answer in {now - request.at:.1f} s: {self.name} is {doing}"
        if request.promise is not None:
            return f"no answer in {now - request.at:.1f} s: {self.name} has promised it and works on"
        place = next((place for place, one in enumerate(self.mailbox.queue) if one is request), len(self.mailbox.queue))
        where = f"queued behind {place}, {self.name} is {doing or self.state.replace('_', ' ')}"
        return f"no answer in {now - request.at:.1f} s: {where}"

    def _lost_room(self, item: Item) -> None:
        envelope = opened(item)
        answer_error(self, envelope, self.mailbox.full())
        self.bury("mailbox_full", envelope)

    def bury(self, reason: DeadReason, envelope: Envelope, detail: str = "") -> None:
        """Record a dead letter."""
        self.system.bury(reason, envelope, self.name, detail)

    def emit(self, kind: str, /, *, error: BaseException | None = None, **data: Any) -> None:
        """Tell the system's listener what happened to this actor; an error goes along as text with its traceback."""
        if not self.system.listening:
            return
        if error is not None:
            data["error"] = told(error)
            data.setdefault("type", type(error).__name__)
            data["traceback"] = "".join(traceback.format_exception(error))
        self.system.emit(kind, self.name, data)


def _refuse(mailbox: Mailbox, slot: Slot) -> None:
    if not slot.done():
        slot.set_exception(mailbox.full())
