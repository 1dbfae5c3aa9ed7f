"""What an instance owns and what ends with it: timers, tasks, children, watches, promises, batches, hooks."""

from typing import Any

import anyio
import pytest

from runtime.core.actor import Actor, Envelope, Promise, Terminated, handles
from runtime.core.spec import ChildSpec
from runtime.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    ConfigInvalid,
    LlmError,
    RequestCancelled,
    StartFailed,
)
from schemas.base import Message, Request


class Do(Request[Any], type="inc.do"):
    what: str
    arg: Any = None


class Note(Message, type="inc.note"):
    n: int


class Scripted(Actor):
    """Does what the test hands it as a function."""

    def __init__(self, **script: Any) -> None:
        self.script = script
        self.notes: list[int] = []
        self.ends: list[Terminated] = []
        self.noted = anyio.Event()

    @handles
    async def do(self, message: Do) -> Any:
        return await self.script[message.what](self, message.arg)

    @handles
    def note(self, message: Note) -> None:
        self.notes.append(message.n)
        self._heard()

    @handles
    def terminated(self, message: Terminated) -> None:
        self.ends.append(message)
        self._heard()

    def _heard(self) -> None:
        noted, self.noted = self.noted, anyio.Event()
        noted.set()

    async def until(self, condition) -> None:
        with anyio.fail_after(20):
            while not condition():
                await self.noted.wait()


def scripted(name: str = "it", *, restart: Any = "permanent", **script: Any) -> tuple[list[Scripted], ChildSpec]:
    """Return the list of instances made so far and the spec that makes them."""
    made: list[Scripted] = []

    def make() -> Scripted:
        made.append(Scripted(**script))
        return made[-1]

    return made, ChildSpec(name, make, restart=restart, shutdown=0.05)


async def die(actor: Scripted, arg: Any) -> None:
    raise ValueError("dead")


async def watch(actor: Scripted, name: str) -> None:
    actor.ctx.watch(actor.ctx.actor(name))


# -- timers ------------------------------------------------------------------------------------------------------------


async def test_a_timer_comes_before_waiting_messages_and_can_be_cancelled(running):
    async def arm(actor: Scripted, arg: Any) -> None:
        actor.ctx.after(0.01, Note(n=100))
        actor.ctx.after(0.01, Note(n=200)).cancel()
        for n in range(3):
            await actor.ctx.ref.tell(Note(n=n))
        await anyio.sleep(0.1)

    made, spec = scripted(arm=arm)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="arm"))
        await made[0].until(lambda: len(made[0].notes) == 4)
        assert made[0].notes == [100, 0, 1, 2]


async def test_a_timer_ends_with_its_incarnation(running):
    async def arm(actor: Scripted, arg: Any) -> None:
        actor.ctx.after(0.05, Note(n=1))
        raise ValueError("dead")

    made, spec = scripted(arm=arm)
    async with running(spec) as system:
        with pytest.raises(ActorCrashed):
            await system.ref("it").ask(Do(what="arm"))
        await anyio.sleep(0.1)
        assert [one.notes for one in made] == [[], []]


# -- tasks -------------------------------------------------------------------------------------------------------------


async def test_a_task_runs_beside_the_handlers_and_is_cancelled_with_the_instance(running):
    ended = []

    async def work(actor: Scripted) -> None:
        await actor.ctx.ref.tell(Note(n=1))
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(actor.ctx.incarnation)

    async def begin(actor: Scripted, arg: Any) -> None:
        actor.ctx.start(work, actor, name="work")

    made, spec = scripted(begin=begin)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="begin"))
        await made[0].until(lambda: made[0].notes == [1])
        await system.restart_child("it")
        assert ended == [1]


async def test_a_cancelled_task_is_done_and_hurts_nobody(running):
    handles_: list[Any] = []

    async def begin(actor: Scripted, arg: Any) -> None:
        handles_.append(actor.ctx.start(anyio.sleep_forever, name="work"))

    async def cancel(actor: Scripted, arg: Any) -> None:
        handles_[0].cancel()

    _, spec = scripted(begin=begin, cancel=cancel)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="begin"))
        await anyio.wait_all_tasks_blocked()
        assert not handles_[0].done
        await system.ref("it").ask(Do(what="cancel"))
        await anyio.wait_all_tasks_blocked()
        assert handles_[0].done
        assert system.cell("it").incarnation == 1


async def test_an_error_in_a_task_is_the_actors_crash_and_cuts_its_handler_off(running, events):
    async def work() -> None:
        raise LlmError("in the background")

    async def begin(actor: Scripted, arg: Any) -> None:
        actor.ctx.start(work, name="work")
        await anyio.sleep_forever()

    _, spec = scripted(begin=begin)
    async with running(spec) as system:
        with pytest.raises(LlmError, match="in the background"):
            await system.ref("it").ask(Do(what="begin"))
        await events.wait("actor.started", "it", count=2)
        assert events.of("actor.crashed", "it")[0]["type"] == "LlmError"


async def test_a_task_that_swallows_its_cancellation_is_reported(running):
    begun, let_go = anyio.Event(), anyio.Event()

    async def work() -> None:
        begun.set()
        with anyio.CancelScope(shield=True):
            await let_go.wait()

    async def begin(actor: Scripted, arg: Any) -> None:
        actor.ctx.start(work, name="deaf")

    _, spec = scripted(begin=begin)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="begin"))
        await begun.wait()
        await system.restart_child("it")
        assert system.unstopped == ["it/deaf"]
        let_go.set()


async def test_an_ask_in_a_task_inherits_no_deadline(running):
    answered = anyio.Event()

    async def slow(actor: Scripted, arg: Any) -> str:
        await anyio.sleep(0.2)
        return "slow"

    async def work(actor: Scripted) -> None:
        assert await actor.ctx.actor("other").ask(Do(what="slow")) == "slow"
        answered.set()

    async def begin(actor: Scripted, arg: Any) -> None:
        actor.ctx.start(work, actor, name="work")

    _, spec = scripted(begin=begin)
    _, other = scripted("other", slow=slow)
    async with running(spec, other) as system:
        await system.ref("it").ask(Do(what="begin"), timeout=0.1)
        with anyio.fail_after(20):
            await answered.wait()


# -- children ----------------------------------------------------------------------------------------------------------


async def test_a_spawned_child_is_stopped_with_its_parent(running, events):
    _, child = scripted("child", restart="temporary")

    async def spawn(actor: Scripted, arg: Any) -> str:
        return (await actor.ctx.spawn(child)).name

    _, spec = scripted(spawn=spawn, die=die)
    async with running(spec) as system:
        assert await system.ref("it").ask(Do(what="spawn")) == "child"
        assert [one.name for one in system.tree().children[0].children] == ["child"]
        with pytest.raises(ActorCrashed):
            await system.ref("it").ask(Do(what="die"))
        await events.wait("actor.started", "it", count=2)
        assert events.subjects("actor.stopped") == ["child"]
        assert system.names() == ["it"]
        assert await system.ref("it").ask(Do(what="spawn")) == "child"


async def test_a_temporary_child_that_does_not_start_tells_its_parent_why(running):
    def broken() -> Actor:
        raise ConfigInvalid("no such tool")

    async def spawn(actor: Scripted, arg: Any) -> None:
        with pytest.raises(StartFailed, match="no such tool"):
            await actor.ctx.spawn(ChildSpec("child", broken, restart="temporary"))

    _, spec = scripted(spawn=spawn)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="spawn"))
        assert system.names() == ["it"]
        assert system.cell("it").incarnation == 1


async def test_a_child_that_crashes_too_often_is_its_parents_crash(running, events):
    made, child = scripted("child", die=die)

    async def spawn(actor: Scripted, arg: Any) -> None:
        await actor.ctx.spawn(child)

    _, spec = scripted(spawn=spawn)
    async with running(spec) as system:
        await system.ref("it").ask(Do(what="spawn"))
        ref = system.ref("child")
        for _ in range(6):
            await ref.tell(Do(what="die"))
        await events.wait("actor.started", "it", count=2)
        assert len(made) == 6
        assert events.of("actor.crashed", "it")[0]["type"] == "RestartLimitReached"


# -- watching ----------------------------------------------------------------------------------------------------------


async def test_a_watcher_hears_once_of_the_end_of_an_incarnation(running):
    made, spec = scripted(watch=watch)
    _, other = scripted("other", die=die)
    async with running(spec, other) as system:
        for _ in range(2):
            await system.ref("it").ask(Do(what="watch", arg="other"))
        with pytest.raises(ActorCrashed):
            await system.ref("other").ask(Do(what="die"))
        await made[0].until(lambda: made[0].ends)
        with pytest.raises(ActorCrashed):
            await system.ref("other").ask(Do(what="die"))
        await anyio.wait_all_tasks_blocked()
        assert made[0].ends == [Terminated(name="other", incarnation=1, reason="crash")]


async def test_a_watcher_of_a_dead_actor_hears_at_once(running):
    async def watch_ref(actor: Scripted, arg: Any) -> None:
        actor.ctx.watch(dead)

    made, spec = scripted(watch=watch_ref)
    _, other = scripted("other")
    async with running(spec, other) as system:
        dead = system.ref("other")
        await system.stop_child("other")
        await system.ref("it").ask(Do(what="watch"))
        await made[0].until(lambda: made[0].ends)
        await anyio.wait_all_tasks_blocked()
        assert made[0].ends == [Terminated(name="other", incarnation=1, reason="stop")]


async def test_a_watched_end_overtakes_waiting_messages(running):
    begun, go = anyio.Event(), anyio.Event()

    async def block(actor: Scripted, arg: Any) -> None:
        actor.ctx.watch(actor.ctx.actor("other"))
        begun.set()
        await go.wait()

    order = []

    class Watcher(Scripted):
        @handles
        def note(self, message: Note) -> None:
            order.append("note")

        @handles
        def terminated(self, message: Terminated) -> None:
            order.append("terminated")

    watcher = Watcher(block=block)
    _, other = scripted("other")
    async with running(ChildSpec("it", lambda: watcher), other) as system, anyio.create_task_group() as group:
        group.start_soon(system.ref("it").ask, Do(what="block"))
        await begun.wait()
        for n in range(3):
            await system.ref("it").tell(Note(n=n))
        await system.stop_child("other")
        go.set()
        await anyio.wait_all_tasks_blocked()
        assert order == ["terminated", "note", "note", "note"]


async def test_a_watch_ends_with_the_watcher(running):
    made, spec = scripted(watch=watch, die=die)
    _, other = scripted("other")
    async with running(spec, other) as system:
        await system.ref("it").ask(Do(what="watch", arg="other"))
        with pytest.raises(ActorCrashed):
            await system.ref("it").ask(Do(what="die"))
        await system.stop_child("other")
        await anyio.wait_all_tasks_blocked()
        assert [one.ends for one in made] == [[], []]


async def test_a_watcher_that_never_tires_of_a_dead_actor_does_not_starve_the_loop(running):
    over: list[bool] = []

    class Obsessed(Scripted):
        @handles
        def terminated(self, message: Terminated) -> None:
            if not over:
                self.ctx.watch(dead)

    async def watch_dead(actor: Scripted, arg: Any) -> None:
        actor.ctx.watch(dead)

    obsessed = Obsessed(watch=watch_dead)
    _, other = scripted("other")
    async with running(ChildSpec("it", lambda: obsessed), other) as system:
        dead = system.ref("other")
        await system.stop_child("other")
        await system.ref("it").ask(Do(what="watch"))
        for _ in range(20):
            await anyio.sleep(0)
        over.append(True)
        assert system.cell("it").handled > 512


# -- replies that come later -------------------------------------------------------------------------------------------


class Later(Actor):
    """Promises answers and gives them when told."""

    def __init__(self) -> None:
        self.promises: list[Promise] = []

    @handles
    def do(self, message: Do) -> str:
        if message.what == "promise":
            self.promises.append(self.reply_later())
        elif message.what == "resolve":
            self.promises[message.arg].resolve("kept")
        elif message.what == "fail":
            self.promises[message.arg].fail(LlmError("broken"))
        elif message.what == "die":
            raise ValueError("dead")
        return "ignored" if message.what == "promise" else "ok"


async def test_a_promise_is_kept_after_the_handler_returned(running):
    outcomes: list[Any] = []

    async def ask() -> None:
        try:
            outcomes.append(await ref.ask(Do(what="promise")))
        except (LlmError, ActorCrashed) as error:
            outcomes.append(type(error))

    later = Later()
    async with running(ChildSpec("it", lambda: later)) as system, anyio.create_task_group() as group:
        ref = system.ref("it")
        for _ in range(2):
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
        await ref.ask(Do(what="resolve", arg=0))
        await ref.ask(Do(what="fail", arg=1))
        await anyio.wait_all_tasks_blocked()
        assert outcomes == ["kept", LlmError]


async def test_an_open_promise_breaks_with_the_instance(running):
    async def ask() -> None:
        with pytest.raises(ActorCrashed, match="dead"):
            await ref.ask(Do(what="promise"))

    async with running(ChildSpec("it", Later)) as system, anyio.create_task_group() as group:
        ref = system.ref("it")
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ActorCrashed):
            await ref.ask(Do(what="die"))


async def test_an_open_promise_breaks_when_the_actor_stops(running):
    async def ask() -> None:
        with pytest.raises(ActorStopped):
            await ref.ask(Do(what="promise"))

    async with anyio.create_task_group() as group:
        async with running(ChildSpec("it", Later)) as system:
            ref = system.ref("it")
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()


async def test_a_promise_whose_asker_left_is_abandoned_and_its_answer_a_dead_letter(running):
    later = Later()
    async with running(ChildSpec("it", lambda: later)) as system:
        ref = system.ref("it")
        with pytest.raises(AskTimeout, match="has promised it"):
            await ref.ask(Do(what="promise"), timeout=0.05)
        assert later.promises[0].abandoned
        await ref.ask(Do(what="resolve", arg=0))
        assert system.dead_letters.counts == {"late_reply": 1}


async def test_a_promise_for_a_told_message_answers_nobody(running):
    later = Later()
    async with running(ChildSpec("it", lambda: later)) as system:
        await system.ref("it").tell(Do(what="promise"))
        await system.ref("it").ask(Do(what="resolve", arg=0))
        assert later.promises[0].abandoned
        assert not system.dead_letters.counts


# -- hooks -------------------------------------------------------------------------------------------------------------


class Hooked(Scripted):
    """Writes down which hook was called with what."""

    def __init__(self, **script: Any) -> None:
        super().__init__(**script)
        self.log: list[Any] = []

    async def after_handler(self, envelope: Envelope, result: Any) -> Any:
        await anyio.sleep(0)
        self.log.append(("after", envelope.message.TYPE, result))
        return ("held", result)

    async def on_handler_error(self, envelope: Envelope, error: Exception) -> None:
        self.log.append(("error", envelope.message.TYPE, type(error)))
        if "worse" in self.script:
            raise self.script["worse"]


async def test_the_reply_is_what_the_after_handler_hook_returns(running):
    async def echo(actor: Scripted, arg: Any) -> Any:
        return arg

    actor = Hooked(echo=echo)
    async with running(ChildSpec("it", lambda: actor)) as system:
        assert await system.ref("it").ask(Do(what="echo", arg=3)) == ("held", 3)
        await system.ref("it").tell(Note(n=1))
        await anyio.wait_all_tasks_blocked()
        assert actor.log == [("after", "inc.do", 3), ("after", "inc.note", None)]


async def test_the_error_hook_runs_before_the_asker_hears(running):
    actor = Hooked(die=die)
    async with running(ChildSpec("it", lambda: actor)) as system:
        with pytest.raises(ActorCrashed):
            await system.ref("it").ask(Do(what="die"))
        assert actor.log == [("error", "inc.do", ValueError)]


async def test_the_error_hook_runs_also_for_a_handler_that_was_called_off(running):
    async def block(actor: Scripted, arg: Any) -> None:
        await anyio.sleep_forever()

    actor = Hooked(block=block)
    async with running(ChildSpec("it", lambda: actor)) as system:
        with pytest.raises(AskTimeout):
            await system.ref("it").ask(Do(what="block"), timeout=0.05)
        await anyio.wait_all_tasks_blocked()
        assert actor.log == [("error", "inc.do", RequestCancelled)]


async def test_an_error_in_the_error_hook_replaces_the_first(running):
    actor = Hooked(die=die, worse=KeyError("hook"))
    async with running(ChildSpec("it", lambda: actor)) as system:
        with pytest.raises(ActorCrashed, match="KeyError: 'hook'"):
            await system.ref("it").ask(Do(what="die"))


async def test_a_batch_ends_when_the_mailbox_is_empty_or_after_512_messages(running):
    batches: list[int] = []

    class Batching(Actor):
        def __init__(self) -> None:
            self.count = 0
            self.waiting: list[Promise] = []

        @handles
        def note(self, message: Note) -> None:
            self.count += 1

        @handles
        def do(self, message: Do) -> None:
            self.waiting.append(self.reply_later())

        async def after_batch(self) -> None:
            await anyio.sleep(0)
            batches.append(self.count)
            self.count = 0
            for promise in self.waiting:
                promise.resolve("committed")
            self.waiting.clear()

    async with running(ChildSpec("it", Batching, mailbox=5000)) as system:
        ref = system.ref("it")
        system.suspend("it")
        for n in range(1200):
            ref.tell_nowait(Note(n=n))
        system.resume("it")
        assert await ref.ask(Do(what="x")) == "committed"
        assert batches == [512, 512, 176]
        await anyio.wait_all_tasks_blocked()
        assert batches == [512, 512, 176]


async def test_an_error_at_the_end_of_a_batch_is_a_crash_and_breaks_the_promises_of_that_batch(running):
    class Batching(Actor):
        @handles
        def do(self, message: Do) -> None:
            self.reply_later()

        async def after_batch(self) -> None:
            raise ValueError("no commit")

    async with running(ChildSpec("it", Batching)) as system:
        with pytest.raises(ActorCrashed, match="no commit"):
            await system.ref("it").ask(Do(what="x"))


async def test_a_cancellation_out_of_something_awaited_is_a_crash_like_any_other(running, anyio_backend_name):
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no tasks that others can await and cancel")
    import asyncio

    async def stray(actor: Scripted, arg: Any) -> None:
        task = asyncio.ensure_future(asyncio.sleep(1000))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    _, spec = scripted(stray=stray)
    async with running(spec) as system:
        with pytest.raises(ActorCrashed, match="cancelled"):
            await system.ref("it").ask(Do(what="stray"))
        await system.ref("it").tell(Note(n=1))
        await anyio.wait_all_tasks_blocked()
        assert system.cell("it").incarnation == 2
        assert system.cell("it").handled == 1
