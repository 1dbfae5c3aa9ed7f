"""The system as a whole: start, ordered stop, bounds, zombies, cancellation of the host, snapshots."""

import threading
import time

import anyio
import pytest

from runtime.clock import SystemClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import ActorStopped
from schemas.base import Message, Request


class Work(Request[str], type="system.work"):
    pass


class Note(Message, type="system.note"):
    n: int


class Nap(Message, type="system.nap"):
    pass


class Worker(Actor):
    """Works until it is let go; notes what it sees."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.go = anyio.Event()
        self.log: list[str] = []

    async def on_stop(self, reason: str) -> None:
        await anyio.sleep(0)
        self.log.append(f"stop {reason}")

    @handles
    async def work(self, message: Work) -> str:
        self.started.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.log.append("cancelled")
            raise
        self.log.append("finished")
        return "done"

    @handles
    def note(self, message: Note) -> None:
        self.log.append(f"note {message.n}")


async def test_a_stop_lets_the_running_handler_finish_and_starts_no_further_message(running):
    worker = Worker()
    async with anyio.create_task_group() as group:
        async with running(ChildSpec("worker", lambda: worker)) as system:

            async def ask() -> None:
                assert await system.ref("worker").ask(Work()) == "done"

            group.start_soon(ask)
            await worker.started.wait()
            system.ref("worker").tell_nowait(Note(n=1))
            system.stop()
            await anyio.wait_all_tasks_blocked()
            worker.go.set()
    assert worker.log == ["finished", "stop shutdown"]
    assert system.cell("worker").state == "stopped"
    assert system.unstopped == []


async def test_a_handler_that_outlasts_the_bound_is_cancelled(running):
    worker = Worker()
    async with anyio.create_task_group() as group:
        async with running(ChildSpec("worker", lambda: worker, shutdown=0.05)) as system:

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await system.ref("worker").ask(Work())

            group.start_soon(ask)
            await worker.started.wait()
    assert worker.log == ["cancelled", "stop shutdown"]
    assert system.unstopped == []


async def test_stopping_now_waits_for_no_handler(running):
    worker = Worker()
    async with running(ChildSpec("worker", lambda: worker, shutdown=1000.0)) as system:
        await system.ref("worker").tell(Work())
        await worker.started.wait()
        system.stop()
        await anyio.wait_all_tasks_blocked()
        assert system.cell("worker").state == "stopping"
        system.stop(now=True)
    assert worker.log == ["cancelled", "stop shutdown"]


async def test_a_stop_during_the_start_ends_the_run(events):
    class Slow(Actor):
        async def on_start(self) -> None:
            begun.set()
            await anyio.sleep_forever()

    begun = anyio.Event()
    spec = SupervisorSpec("root", (ChildSpec("slow", Slow, shutdown=0.01), ChildSpec("next", Worker)), "rest_for_one")
    system = ActorSystem(spec, clock=SystemClock(), on_event=events.hear)
    async with anyio.create_task_group() as group:
        group.start_soon(system.run)
        await begun.wait()
        system.stop()
    assert events.of("actor.started") == []
    assert system.cell("next").state == "stopped"


async def test_a_handler_that_swallows_cancellation_is_left_behind_and_the_rest_stops(running, events):
    begun, let_go = anyio.Event(), anyio.Event()

    class Zombie(Actor):
        @handles
        async def work(self, message: Work) -> str:
            begun.set()
            with anyio.CancelScope(shield=True):
                await let_go.wait()
            return "too late"

    other = Worker()
    async with anyio.create_task_group() as group:
        async with running(
            ChildSpec("other", lambda: other), ChildSpec("zombie", Zombie, shutdown=0.01), strategy="rest_for_one"
        ) as system:

            async def ask() -> None:
                with pytest.raises(ActorStopped):
                    await system.ref("zombie").ask(Work())

            group.start_soon(ask)
            await begun.wait()
            system.stop()
            await events.wait("actor.stopped", "other")
            assert system.unstopped == ["zombie"]
            assert events.of("actor.zombie", "zombie")[0]["incarnation"] == 1
            let_go.set()
    assert other.log == ["stop shutdown"]


async def test_what_a_zombie_does_later_counts_no_more(running, events):
    begun, let_go, refused = anyio.Event(), anyio.Event(), anyio.Event()

    class Zombie(Actor):
        @handles
        async def work(self, message: Work) -> str:
            begun.set()
            with anyio.CancelScope(shield=True):
                await let_go.wait()
            with pytest.raises(ActorStopped, match="incarnation 1"):
                self.ctx.after(1, Note(n=1))
            refused.set()
            return "too late"

        @handles
        async def note(self, message: Note) -> None:
            noted.append((self.ctx.incarnation, message.n))
            got.set()

    noted: list[tuple[int, int]] = []
    got = anyio.Event()
    async with running(ChildSpec("zombie", Zombie, shutdown=0.01)) as system, anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await system.ref("zombie").ask(Work())

        group.start_soon(ask)
        await begun.wait()
        await system.restart_child("zombie")
        assert system.cell("zombie").incarnation == 2
        let_go.set()
        await refused.wait()
        await system.ref("zombie").tell(Note(n=5))
        await got.wait()
        assert noted == [(2, 5)]
        assert system.dead_letters.counts == {"late_reply": 1}


async def test_an_on_stop_that_hangs_is_bounded(running):
    class Clinging(Actor):
        async def on_stop(self, reason: str) -> None:
            await anyio.sleep_forever()

    async with running(ChildSpec("clinging", Clinging, shutdown=0.01)) as system:
        pass
    assert system.cell("clinging").state == "stopped"
    assert system.unstopped == []


async def test_an_error_in_on_stop_is_told_and_changes_nothing(running, events):
    class Sore(Actor):
        async def on_stop(self, reason: str) -> None:
            raise ValueError("ouch")

    async with running(ChildSpec("sore", Sore)):
        pass
    assert events.of("actor.error", "sore")[0]["error"] == "ValueError: ouch"
    assert events.subjects("actor.stopped") == ["sore"]


async def test_a_cancelled_host_stops_every_actor_in_order_with_on_stop_shielded(events):
    first, second = Worker(), Worker()
    spec = SupervisorSpec("root", (ChildSpec("first", lambda: first), ChildSpec("second", lambda: second)))
    system = ActorSystem(spec, clock=SystemClock(), on_event=events.hear)
    async with anyio.create_task_group() as group:
        await group.start(system.run)
        await system.ref("first").tell(Work())
        await first.started.wait()
        group.cancel_scope.cancel()
    assert first.log == ["cancelled", "stop shutdown"]
    assert second.log == ["stop shutdown"]
    assert events.subjects("actor.stopped") == ["second", "first"]


async def test_names_are_unique_across_the_tree():
    inner = SupervisorSpec("inner", (ChildSpec("a", Worker),))
    with pytest.raises(ValueError, match="'a'"):
        ActorSystem(SupervisorSpec("root", (ChildSpec("a", Worker), inner)), clock=SystemClock())


async def test_a_suspended_actor_handles_nothing_until_resumed_also_across_a_restart(running):
    worker = Worker()
    async with running(ChildSpec("worker", lambda: worker)) as system:
        system.suspend("worker")
        assert system.cell("worker").state == "suspended"
        await system.ref("worker").tell(Note(n=1))
        await anyio.wait_all_tasks_blocked()
        await system.restart_child("worker")
        assert system.cell("worker").state == "suspended"
        assert worker.log == ["stop restart"]
        system.resume("worker")
        await anyio.wait_all_tasks_blocked()
        assert worker.log == ["stop restart", "note 1"]


async def test_suspending_acts_at_once_on_a_long_mailbox(running):
    class Suspender(Actor):
        def __init__(self) -> None:
            self.seen = 0

        @handles
        def note(self, message: Note) -> None:
            self.seen += 1
            if message.n == 3:
                self.ctx.system.suspend("it")

    it = Suspender()
    async with running(ChildSpec("it", lambda: it)) as system:
        for n in range(100):
            system.ref("it").tell_nowait(Note(n=n))
        await anyio.wait_all_tasks_blocked()
        assert it.seen == 4
        assert system.cell("it").mailbox == 96
        system.resume("it")
        await anyio.wait_all_tasks_blocked()
        assert it.seen == 100


async def test_the_tree_can_be_read_from_another_thread_while_a_handler_blocks_the_loop(running):
    class Blocker(Actor):
        @handles
        def nap(self, message: Nap) -> None:
            entered.set()
            assert read.wait(10)

    entered, read = threading.Event(), threading.Event()
    views = []

    def look(system: ActorSystem) -> None:
        assert entered.wait(10)
        time.sleep(0.02)
        views.append(system.tree())
        views.append(system.cell("blocker"))
        read.set()

    inner = SupervisorSpec("inner", (ChildSpec("blocker", Blocker),))
    async with running(inner) as system:
        thread = threading.Thread(target=look, args=(system,))
        thread.start()
        system.ref("blocker").tell_nowait(Nap())
        system.ref("blocker").tell_nowait(Note(n=1))
        await anyio.wait_all_tasks_blocked()
        thread.join()
    tree, cell = views
    (branch,) = tree.children
    (actor,) = branch.children
    assert (actor.name, actor.kind, actor.state, actor.doing, actor.mailbox) == (
        "blocker",
        "actor",
        "running",
        "system.nap",
        1,
    )
    assert cell.mailbox == 1


async def test_a_full_mailbox_does_not_starve_the_loop(running):
    class Echoing(Actor):
        @handles
        def note(self, message: Note) -> None:
            if not over:
                self.ctx.ref.tell_nowait(message)

    over: list[bool] = []
    async with running(ChildSpec("endless", Echoing)) as system:
        system.ref("endless").tell_nowait(Note(n=1))
        for _ in range(20):
            await anyio.sleep(0)
        handled = system.cell("endless").handled
        assert handled > 0
        over.append(True)


async def test_an_error_of_the_listener_is_logged_and_changes_nothing(caplog):
    def listener(kind: str, subject: str, data: dict) -> None:
        raise ValueError("deaf")

    system = ActorSystem(SupervisorSpec("root", (ChildSpec("a", Worker),)), clock=SystemClock(), on_event=listener)
    async with anyio.create_task_group() as group:
        await group.start(system.run)
        system.stop()
    assert "event_listener_failed" in caplog.text


async def test_nothing_can_be_asked_of_a_system_that_does_not_run():
    system = ActorSystem(SupervisorSpec("root", (ChildSpec("a", Worker),)), clock=SystemClock())
    with pytest.raises(ActorStopped):
        await system.ref("a").ask(Work())
    system.stop()
    assert system.tree().children[0].state == "new"
    with pytest.raises(ActorStopped):
        await system.start_child("root", ChildSpec("b", Worker))


async def test_an_on_start_that_ignores_its_end_is_a_zombie_and_a_new_one_is_started(running, events):
    let_go = anyio.Event()

    class Deaf(Actor):
        async def on_start(self) -> None:
            if self.ctx.incarnation == 1:
                with anyio.CancelScope(shield=True):
                    await let_go.wait()

        @handles
        async def work(self, message: Work) -> str:
            return f"incarnation {self.ctx.incarnation}"

    async with running(ChildSpec("deaf", Deaf, start_timeout=0.05)) as system:
        assert await system.ref("deaf").ask(Work()) == "incarnation 2"
        assert system.unstopped == ["deaf"]
        let_go.set()
        await anyio.wait_all_tasks_blocked()
        assert system.cell("deaf").state == "running"
        assert system.cell("deaf").incarnation == 2


async def test_an_actor_whose_task_is_torn_down_from_outside_answers_its_askers_and_stays_down(
    running, anyio_backend_name
):
    if anyio_backend_name != "asyncio":
        pytest.skip("nobody can reach into a trio task")
    import asyncio

    worker = Worker()
    async with running(ChildSpec("worker", lambda: worker)) as system, anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(ActorStopped):
                await system.ref("worker").ask(Work())

        group.start_soon(ask)
        group.start_soon(ask)
        await worker.started.wait()
        next(task for task in asyncio.all_tasks() if task.get_name() == "worker").cancel()
        await anyio.wait_all_tasks_blocked()
        assert system.cell("worker").state == "stopped"


async def test_a_stop_is_not_delayed_by_a_long_mailbox(running):
    worker = Worker()
    async with running(ChildSpec("worker", lambda: worker, mailbox=10_000)) as system:
        for n in range(10_000):
            system.ref("worker").tell_nowait(Note(n=n))
        system.stop()
    assert len(worker.log) <= 1 + 512
    assert worker.log[-1] == "stop shutdown"
    assert system.dead_letters.counts["stopped"] >= 10_000 - 512


async def test_a_stop_bounds_a_whole_branch(running):
    workers = [Worker() for _ in range(3)]
    children = tuple(ChildSpec(f"w{n}", lambda n=n: workers[n], shutdown=1000.0) for n in range(3))
    branch = SupervisorSpec("branch", children, shutdown=0.05)
    async with running(branch) as system:
        for n in range(3):
            await system.ref(f"w{n}").tell(Work())
        for worker in workers:
            await worker.started.wait()
        began = system.clock.monotonic()
        system.stop()
        for worker in workers:
            while not worker.log:
                await anyio.sleep(0.01)
        assert system.clock.monotonic() - began < 5
    assert [worker.log for worker in workers] == [["cancelled", "stop shutdown"]] * 3
