"""One life of an actor: the task that drains the mailbox, the handler it runs, and all that ends with the instance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, get_cancelled_exc_class

from runtime.core.actor import Actor, ActorContext, Terminated
from runtime.core.deadlines import Timer
from runtime.core.directive import Directive, directive, unwrapped
from runtime.core.envelope import Asked, Envelope, Item, Promise, answer_error, opened
from runtime.core.handlers import ASYNC, SYNC, Route, Table, table_of
from runtime.core.owned import CURRENT, Alarm, TaskHandle
from runtime.core.stream import Channel
from runtime.errors import ActorError, ActorStopped, RequestCancelled, StartFailed, UnhandledMessage

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable

    from runtime.core.cell import Cell
    from runtime.core.ref import Ref
    from runtime.core.spec import ChildSpec
    from runtime.core.supervisor import Supervisor
    from schemas.base import AnyMessage

__all__ = ["Ending", "Incarnation", "TaskHandle"]

BATCH = 512
"""Messages handled before every other task gets a turn."""
SLICE = 0.010
"""Seconds after which every other task gets a turn, however few messages that were."""
GOODBYE = 1.0
"""Seconds `on_stop` always gets, and seconds a cancelled task gets to notice, before it counts as a zombie."""


@dataclass(slots=True)
class Ending:
    """Why an incarnation ends. An error makes it a crash; *blame* names the durable message that did it."""

    reason: str
    error: BaseException | None = None
    directive: Directive = Directive.RESTART
    blame: str | None = None


class Incarnation:
    """The instance, its number, and everything that may not outlive it."""

    __slots__ = (
        "__weakref__",
        "actor",
        "attention",
        "batched",
        "began",
        "bound",
        "branch",
        "cell",
        "ctx",
        "cut",
        "ending",
        "finishing",
        "guarded",
        "handled",
        "item",
        "lost",
        "name",
        "number",
        "promises",
        "scope",
        "started_at",
        "table",
        "tasks",
        "tasks_over",
        "timers",
        "up",
        "watched",
    )

    def __init__(self, cell: Cell, number: int) -> None:
        self.cell = cell
        self.name = cell.name
        self.number = number
        self.actor: Actor | None = None
        self.table: Table | None = None
        self.item: Item | Envelope | None = None
        self.began = self.started_at = cell.mailbox.time()
        self.handled = self.batched = 0
        self.ending: Ending | None = None
        self.finishing = False
        self.lost = self.up = self.cut = self.guarded = self.attention = False
        self.scope: CancelScope | None = None
        self.bound: Timer | None = None
        self.ctx = ActorContext(self)
        self.branch: Supervisor | None = None
        self.tasks: set[TaskHandle] | None = None
        self.tasks_over: Any = None
        self.timers: set[Alarm] | None = None
        self.promises: set[Promise] | None = None
        self.watched: set[Cell] | None = None

    @property
    def envelope(self) -> Envelope | None:
        """The message being handled; made on demand and kept while it is handled."""
        return None if self.item is None else self._opened()

    def _opened(self) -> Envelope:
        item = self.item
        assert item is not None
        if isinstance(item, tuple):
            self.item = envelope = Envelope(*item)
            return envelope
        return item

    # -- the task ------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Start the instance, handle messages until something ends it, and clear up."""
        CURRENT.set(self)
        try:
            await self._start()
            while self.ending is None:
                try:
                    if self.guarded:
                        with CancelScope() as self.scope:
                            await self._serve()
                    else:
                        await self._serve()
                except get_cancelled_exc_class():
                    if self.cell.system.loop.is_cancelled():
                        raise
                    await self._stray_cancellation()
                if self.lost:
                    break  # the mailbox may be another's by now
                self.scope, self.cut, self.cell.mailbox.idle = None, False, None
                if (envelope := self.envelope) is not None:
                    await self._cut_off(envelope)
            if not self.lost:
                await self._finish()
        except BaseException:
            # The process or the whole loop goes down; whoever waits for us must not wait for ever.
            if not self.lost:
                self.ending = Ending("shutdown") if self.ending is None else self.ending
                self.cell.torn()
            raise
        finally:
            if not self.lost:
                self._close()
                self.cell.ended(self)

    async def _start(self) -> None:
        try:
            actor = self.actor = self.cell.factory()
            table = self.table = table_of(type(actor), Actor)
            actor.ctx = self.ctx
            if table.starts:
                await self._call_on_start(actor, self.cell.spec.start_timeout)
            if self.ending is None:
                self.guarded, self.up, self.started_at = table.guarded, True, self.cell.mailbox.time()
                self.cell.came_up(self)
        except Exception as error:  # noqa: BLE001  # the supervisor decides
            self._crash_in_start(unwrapped(error))
        except get_cancelled_exc_class():
            if self.cell.system.loop.is_cancelled():
                raise
            self._crash_in_start(RuntimeError("on_start awaited something that was cancelled"))

    async def _call_on_start(self, actor: Actor, timeout: float) -> None:
        until = self.cell.mailbox.time() + timeout
        self._bound(until + GOODBYE, self._give_up)
        with CancelScope(deadline=until) as self.scope:
            await actor.on_start()
        stuck, self.scope = self.scope.cancelled_caught, None
        if self.ending is None:
            self._unbind()
            if stuck:
                raise StartFailed(f"on_start of {self.name} took longer than {timeout:g} s")

    def _crash_in_start(self, error: Exception) -> None:
        decision = directive(error)
        self._end(Ending("crash", error, Directive.RESTART if decision is Directive.ANSWER else decision))

    async def _serve(self) -> None:
        """Take turns between the lanes until something ends the incarnation or cuts the handler off."""
        mailbox, table = self.cell.mailbox, self.table
        assert table is not None
        slot_of = self.cell.system.loop.slot
        # Once the scope is cancelled it is of no use for another message, even if the handler ended by itself.
        while self.ending is None and not self.cut:
            self.attention = False
            lane = mailbox.signals or mailbox.queue
            if lane and not self.cell.paused:
                await self._drain(lane)
            elif table.batches and self.handled > self.batched:
                await self._after_batch()
            else:
                self.batched = self.handled
                slot = mailbox.idle = slot_of()
                await slot

    async def _drain(self, lane: deque[Item]) -> None:
        """Handle what is in *lane*: at most 512 messages or 10 ms of them, then the others get their turn."""
        mailbox, cell, actor, table = self.cell.mailbox, self.cell, self.actor, self.table
        assert actor is not None
        assert table is not None
        routes, holds, time = table.routes, table.holds, mailbox.time
        now = time()
        until = now + SLICE
        for _ in range(BATCH - self.handled + self.batched):
            item = lane.popleft()
            if mailbox.waiting:
                mailbox.admit()
            if isinstance(item, tuple):
                message, _sender, _at, deadline = item
                asked = None
            else:
                asked = item
                message, deadline = asked.message, asked.deadline
            try:
                route: Route | None = routes[type(message)]
            except KeyError:
                route = self._route(item)
            if route is not None and (deadline is None or cell.still_wanted(item, now)):
                self.began = now
                self.item = item
                kind, method = route
                try:
                    if kind is SYNC:
                        result = method(actor, message)
                    elif kind is ASYNC:
                        result = await method(actor, message)
                    else:
                        await self._pour(asked, method(actor, message))
                        result = None
                    if holds:
                        result = await actor.after_handler(self._opened(), result)
                except Exception as error:  # noqa: BLE001  # the supervisor decides
                    await self._failed(unwrapped(error))
                else:
                    if asked is not None and asked.promise is None:
                        if asked.reply.done():
                            self._late(asked)
                        else:
                            asked.reply.set_result(result)
                self.handled += 1
            if self.attention or not lane or (now := time()) > until:
                break
        self.item = None
        if lane and not self.attention:
            if self.handled - self.batched >= BATCH:
                if table.batches:
                    await self._after_batch()
                self.batched = self.handled
            await cell.system.loop.pause()

    def _late(self, envelope: Asked) -> None:
        if type(envelope.reply) is not Channel:  # a reader may well leave before the end
            self.cell.bury("late_reply", envelope)

    async def _pour(self, asked: Asked | None, parts: Any) -> None:
        channel = None if asked is None else asked.reply
        try:
            if type(channel) is not Channel:
                raise UnhandledMessage(f"{self.name} answers this with a stream: use stream()", actor=self.name)
            async for part in parts:
                await channel.put(part)
                if channel.done():
                    raise RequestCancelled("the reader of the stream left")
        finally:
            await parts.aclose()

    def _route(self, item: Item) -> Route | None:
        """Return the route of a base class of the message, or say that there is none."""
        assert self.table is not None
        envelope = opened(item)
        route = self.table.route(type(envelope.message))
        if route is None:
            self._unhandled(envelope)
        return route

    def _unhandled(self, envelope: Envelope) -> None:
        assert self.table is not None
        word = envelope.message.TYPE
        answer_error(
            self.cell,
            envelope,
            UnhandledMessage(f"{self.name} has no handler for {word}", actor=self.name, known=list(self.table.known)),
        )
        self.cell.bury("unhandled_type", envelope)

    async def _after_batch(self) -> None:
        self.batched = self.handled
        assert self.actor is not None
        try:
            await self.actor.after_batch()
        except Exception as error:  # noqa: BLE001  # the supervisor decides
            self.fail(error)

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    async def _stray_cancellation(self) -> None:
        """Crash like after any other error: nobody cancelled us, it came out of something the handler awaited."""
        error = RuntimeError("the handler awaited something that was cancelled")
        if self.item is None:
            self.fail(error)
        else:
            await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        """Clean up after a handler that raised, answer its asker, and end the incarnation unless it was an answer."""
        envelope = self.envelope
        assert envelope is not None
        error = await self._clean_up(envelope, error)
        self.item = None
        self._judge(envelope, error)
        if envelope.reply is None and directive(error) is Directive.ANSWER:
            self.cell.emit("actor.error", error=error, type=envelope.message.TYPE, incarnation=self.number)
        answer_error(self.cell, envelope, error)  # last: it takes the traceback away

    def _judge(self, envelope: Envelope, error: Exception) -> None:
        decision = directive(error)
        if decision is not Directive.ANSWER and self.actor is not None:
            self._end(Ending("crash", error, decision, self.actor.blame(envelope)))

    async def _clean_up(self, envelope: Envelope, error: Exception) -> Exception:
        assert self.actor is not None
        try:
            await self.actor.on_handler_error(envelope, error)
        except Exception as worse:  # noqa: BLE001  # the supervisor decides
            worse = unwrapped(worse)
            worse.__context__ = error
            return worse
        return error

    async def _cut_off(self, envelope: Envelope) -> None:
        """Clean up after a handler that was cancelled: the asker left, the actor stops, or one of its tasks crashed."""
        ending = self.ending
        if ending is None:
            why: Exception = RequestCancelled(f"the asker of {envelope.message.TYPE} left")
        elif ending.error is not None:
            why = ActorStopped(f"{self.name} crashed while it handled {envelope.message.TYPE}", actor=self.name)
        else:
            why = ActorStopped(f"{self.name} stopped while it handled {envelope.message.TYPE}", actor=self.name)
        with CancelScope(deadline=self.cell.mailbox.time() + GOODBYE) as self.scope:
            why = await self._clean_up(envelope, why)
        self.scope = None
        self.item = None
        self._judge(envelope, why)
        answer_error(self.cell, envelope, ending.error if ending is not None and ending.error is not None else why)

    def fail(self, error: Exception) -> None:
        """Crash because of something beside the handlers: a task, a child, the end of a batch."""
        if self.lost or self.finishing:
            return
        error = unwrapped(error)
        decision = directive(error)
        self._end(Ending("crash", error, Directive.RESTART if decision is Directive.ANSWER else decision))
        # What a handler does of itself (the end of a batch) needs no cutting off; a task or a child that crashes does.
        if self.cell.mailbox.idle is None and CURRENT.get() is not self:
            self._bound(self.cell.mailbox.time() + GOODBYE, self._give_up)
            self._cut()
        self.look_up()

    def _end(self, ending: Ending) -> None:
        if self.lost:
            return
        # The first reason stands, except that a crash says more than a stop that was under way.
        if self.ending is None or (ending.error is not None and self.ending.error is None):
            self.ending = ending
            if ending.error is not None:
                self.cell.crashed(self, ending.error)
        self.attention = True

    # -- stopping ------------------------------------------------------------------------------------------------------

    def ask_to_end(self, reason: str, grace: float) -> None:
        """Start no further message; the running handler has *grace* seconds, then it is cancelled."""
        if self.ending is None:
            self.ending = Ending(reason)
        mailbox = self.cell.mailbox
        if mailbox.idle is not None or self.finishing:
            self.look_up()
            return
        self.attention = True
        if grace > 0:
            self._bound(mailbox.time() + grace, self.kill)
        else:
            self.kill()

    def look_up(self) -> None:
        """Look at signals, pause and stop before the next message, or now when idle."""
        self.attention = True
        self.cell.mailbox.wake()

    def kill(self) -> None:
        """Cancel what runs; what has not ended a second later is a zombie."""
        if self.finishing:
            return
        self._bound(self.cell.mailbox.time() + GOODBYE, self._give_up)
        self._cut()

    def _cut(self) -> None:
        if self.scope is not None:
            self.cut = True
            self.scope.cancel()

    def interrupt(self, request: Asked) -> None:
        """Cancel the handler of *request* if that is what runs; the actor lives on."""
        if self.item is request and not self.finishing:
            self.attention = True
            self._cut()

    def _give_up(self) -> None:
        """The task swallows its cancellation: it is left behind, and nothing it does counts any more."""
        self.bound = None
        if self.lost:
            return
        if self.ending is None:
            self._end(Ending("crash", StartFailed(f"on_start of {self.name} ignores its end")))
        self.lost = True
        self.cell.zombie(self)
        for task in self.tasks or ():
            task.cancel()
        if self.branch is not None:
            self.cell.system.loop.spawn(self._end_branch, name=self.name)
        self._close()
        self.cell.ended(self)

    async def _end_branch(self) -> None:
        if self.branch is not None:
            await self.branch.halt("stop", final=True)

    def _bound(self, when: float, do: Callable[[], None]) -> None:
        self._unbind()
        self.bound = Timer(self.cell.system.deadlines, when, do)

    def _unbind(self) -> None:
        if self.bound is not None:
            self.bound.cancel()
            self.bound = None

    async def _finish(self) -> None:
        """Let the instance say goodbye, then end its tasks and its children, each within a bound."""
        self.finishing = True
        self._unbind()
        assert self.ending is not None
        if self.up and self.table is not None and self.table.stops:
            await self._say_goodbye(self.ending.reason)
        if self.tasks:
            await self._end_tasks()
        if self.branch is not None:
            await self.branch.halt("shutdown" if self.ending.reason == "shutdown" else "stop", final=True)

    async def _say_goodbye(self, reason: str) -> None:
        assert self.actor is not None
        until = self.cell.mailbox.time() + self.cell.goodbye()
        self._bound(until + GOODBYE, self._give_up)
        try:
            with CancelScope(deadline=until, shield=True):
                await self.actor.on_stop(reason)
        except Exception as error:  # noqa: BLE001  # it ends anyway; the error is told
            self.cell.emit("actor.error", error=unwrapped(error), type="on_stop", incarnation=self.number)
        self._unbind()

    async def _end_tasks(self) -> None:
        assert self.tasks is not None
        for task in list(self.tasks):
            task.cancel()
        self.tasks_over = self.cell.system.loop.slot()
        patience = Timer(self.cell.system.deadlines, self.cell.mailbox.time() + GOODBYE, self._tasks_are_over)
        if self.tasks:
            await self.tasks_over
        patience.cancel()
        for task in self.tasks:
            self.cell.system.report_unstopped(f"{self.name}/{task.name}", self.name, self.number)

    def _tasks_are_over(self) -> None:
        if self.tasks_over is not None and not self.tasks_over.done():
            self.tasks_over.set_result(None)

    def _close(self) -> None:
        """Drop what may not outlive the instance: timers, watches, promises and the asker of a lost handler."""
        self._unbind()
        for alarm in list(self.timers or ()):
            alarm.cancel()
        for cell in self.watched or ():
            cell.unwatch(self)
        assert self.ending is not None
        error: BaseException = self.ending.error or ActorStopped(f"{self.name} stopped before it answered")
        for promise in list(self.promises or ()):
            promise.fail(error if isinstance(error, Exception) else ActorStopped())
        if isinstance(self.item, Asked):
            answer_error(self.cell, self.item, ActorStopped(f"{self.name} was given up", actor=self.name))

    # -- what the context offers ---------------------------------------------------------------------------------------

    def alive_for(self) -> float:
        """Return the seconds since it came up; 0 if it never did."""
        return self.cell.mailbox.time() - self.started_at if self.up else 0.0

    def _alive(self) -> None:
        if self.lost or self.cell.life is not self:
            raise ActorStopped(f"incarnation {self.number} of {self.name} has ended", actor=self.name)

    def shortened(self, deadline: float) -> float:
        """Return *deadline*, or that of the message being handled where it is earlier."""
        item = self.item
        inherited = None if item is None else item[3] if isinstance(item, tuple) else item.deadline
        return deadline if inherited is None else min(deadline, inherited)

    def promise(self) -> Promise:
        """Take the reply slot of the message being handled."""
        envelope = self.envelope
        if envelope is None:
            raise ActorError("reply_later() is for a handler")
        if self.promises is None:
            self.promises = set()
        promise = Promise(self.cell, envelope, self.promises)
        if isinstance(envelope, Asked):
            envelope.promise = promise
        return promise

    def watch(self, ref: Ref) -> None:
        """Note that this incarnation wants to hear of the end of *ref*'s."""
        self._alive()
        if self.watched is None:
            self.watched = set()
        self.watched.add(ref.cell)
        ref.cell.watch(self)

    def tell_of_end(self, cell: Cell, number: int, reason: str) -> None:
        """Hear that a watched incarnation has ended."""
        if self.watched is not None:
            self.watched.discard(cell)
        if not self.lost and self.cell.life is self:
            self.signal(Terminated(name=cell.name, incarnation=number, reason=reason), cell.name)

    def signal(self, message: AnyMessage, sender: str | None = None) -> None:
        """Put *message* in the signal lane of this actor."""
        self.cell.mailbox.signal((message, sender, self.cell.mailbox.time(), None))
        self.look_up()

    def after(self, delay: float, message: AnyMessage) -> Timer:
        """Put *message* in the signal lane in *delay* seconds, if this incarnation still lives then."""
        self._alive()
        if self.timers is None:
            self.timers = set()
        return Alarm(self, self.cell.mailbox.time() + delay, message)

    def start_task(self, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...], name: str) -> TaskHandle:
        """Run *work* as a task that ends with this incarnation."""
        self._alive()
        if self.tasks is None:
            self.tasks = set()
        handle = TaskHandle(self, name)
        self.tasks.add(handle)
        self.cell.system.loop.spawn(handle.run, work, args, name=f"{self.name}/{name}", inherit=True)
        return handle

    def task_ended(self, handle: TaskHandle) -> None:
        """Forget a task."""
        if self.tasks is not None:
            self.tasks.discard(handle)
            if not self.tasks:
                self._tasks_are_over()

    async def spawn(self, spec: ChildSpec) -> Ref:
        """Start a child that is stopped with this incarnation."""
        self._alive()
        if self.branch is None:
            self.branch = self.cell.system.branch_of(self)
        return await self.cell.system.add_child(self.branch, spec)
