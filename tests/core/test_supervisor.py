"""What happens when children crash: restarts, strategies, exhaustion, quarantine, escalation."""

import itertools
from collections.abc import Callable

import anyio
import pytest
from anyio.abc import TaskStatus

from runtime.clock import SystemClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import (
    ActorCrashed,
    ActorQuarantined,
    ActorStopped,
    AskTimeout,
    ConfigInvalid,
    LlmError,
    NoSuchActor,
    RestartLimitReached,
    StateUnreadable,
)
from runtime.policies import Backoff, RestartLimit
from schemas.base import Message, Request


class Die(Request[int], type="sup.die"):
    how: str = "crash"


class Ping(Request[int], type="sup.ping"):
    pass


class Note(Message, type="sup.note"):
    n: int


class Leave(Message, type="sup.leave"):
    pass


class Child(Actor):
    """Writes its starts and stops into a shared journal; answers with its incarnation; dies as told."""

    def __init__(self, journal: list[str], fail_start: Callable[[int], Exception | None] = lambda n: None) -> None:
        self.journal = journal
        self.fail_start = fail_start

    async def on_start(self) -> None:
        error = self.fail_start(self.ctx.incarnation)
        if error is not None:
            raise error
        self.journal.append(f"+{self.ctx.name}")

    async def on_stop(self, reason: str) -> None:
        self.journal.append(f"-{self.ctx.name} {reason}")

    @handles
    def ping(self, message: Ping) -> int:
        return self.ctx.incarnation

    @handles
    def note(self, message: Note) -> None:
        self.journal.append(f"{self.ctx.name} got {message.n}")

    @handles
    def leave(self, message: Leave) -> None:
        self.ctx.stop_self()

    @handles
    async def die(self, message: Die) -> int:
        raise {
            "crash": ValueError("dead"),
            "config": ConfigInvalid("wrong"),
            "state": StateUnreadable("garbled"),
            "memory": MemoryError(),
            "llm": LlmError("busy"),
            "group": ExceptionGroup("task group", [KeyError("inner")]),
        }[message.how]


@pytest.fixture
def journal() -> list[str]:
    return []


@pytest.fixture
def child(journal) -> Callable[..., ChildSpec]:
    def make(name: str, fail_start: Callable[[int], Exception | None] = lambda n: None, **options) -> ChildSpec:
        return ChildSpec(name, lambda: Child(journal, fail_start), **options)

    return make


async def crash(system: ActorSystem, name: str, how: str = "crash") -> None:
    with pytest.raises((ActorCrashed, ConfigInvalid, StateUnreadable)):
        await system.ref(name).ask(Die(how=how))


async def test_children_start_in_order_and_stop_in_reverse(running, child, journal):
    async with running(child("a"), child("b"), child("c"), strategy="rest_for_one"):
        assert journal == ["+a", "+b", "+c"]
        journal.clear()
    assert journal == ["-c shutdown", "-b shutdown", "-a shutdown"]


async def test_one_for_one_restarts_only_the_one_that_crashed(running, child, journal, events):
    async with running(child("a"), child("b")) as system:
        journal.clear()
        await crash(system, "a")
        assert await system.ref("a").ask(Ping()) == 2
        assert await system.ref("b").ask(Ping()) == 1
        assert journal == ["-a crash", "+a"]
        crashed = events.of("actor.crashed", "a")
        assert [(one["error"], one["type"], one["incarnation"]) for one in crashed] == [
            ("ValueError: dead", "ValueError", 1)
        ]
        assert "in die" in crashed[0]["traceback"]
        assert system.cell("a").last_error == "ValueError: dead"


async def test_rest_for_one_restarts_those_started_after_it(running, child, journal):
    async with running(child("a"), child("b"), child("c"), strategy="rest_for_one") as system:
        journal.clear()
        await crash(system, "b")
        assert await system.ref("c").ask(Ping()) == 2
        assert journal == ["-b crash", "-c restart", "+b", "+c"]
        assert await system.ref("a").ask(Ping()) == 1


async def test_one_for_all_restarts_everybody_in_order(running, child, journal):
    async with running(child("a"), child("b"), child("c"), strategy="one_for_all") as system:
        journal.clear()
        await crash(system, "b")
        assert await system.ref("c").ask(Ping()) == 2
        assert journal == ["-b crash", "-c restart", "-a restart", "+a", "+b", "+c"]


async def test_messages_wait_through_a_group_restart(running, child, journal):
    async with running(child("a"), child("b"), strategy="rest_for_one") as system:
        journal.clear()
        system.ref("a").tell_nowait(Die())
        for n in range(3):
            await system.ref("b").tell(Note(n=n))
        assert await system.ref("b").ask(Ping()) == 2 or "b got 0" in journal
        assert [line for line in journal if "got" in line] == ["b got 0", "b got 1", "b got 2"]


async def test_a_member_that_crashes_while_the_group_starts_is_started_again_with_those_after_it(
    running, child, journal, events
):
    fails = child("b", lambda n: ValueError("not yet") if n == 2 else None)
    async with running(child("a"), fails, child("c"), strategy="one_for_all") as system:
        journal.clear()
        await crash(system, "a")
        await events.wait("actor.started", "c", count=2)
        assert await system.ref("c").ask(Ping()) == 2
        assert journal[-3:] == ["+a", "+b", "+c"]
        assert system.cell("b").incarnation == 3


async def test_the_first_restart_is_immediate_and_the_next_wait_longer_and_longer(running, child, events):
    def limit() -> RestartLimit:
        return RestartLimit(allowed=4, backoff=Backoff(base=0.02, factor=2.0, max=30.0, jitter=0.0))

    async with running(child("a"), limit=limit) as system:
        for _ in range(4):
            await crash(system, "a")
        await events.wait("actor.started", "a", count=5)
        assert [one["delay"] for one in events.of("actor.restarting", "a")] == [0.0, 0.02, 0.04, 0.08]


async def test_the_sixth_crash_in_a_row_is_one_too_many(running, child, events):
    def limit() -> RestartLimit:
        return RestartLimit(backoff=Backoff(base=0.001, max=0.001))

    async with running(child("a"), limit=limit, on_exhausted="quarantine") as system:
        for _ in range(6):
            await crash(system, "a")
        await events.wait("actor.quarantined", "a")
        assert len(events.of("actor.crashed", "a")) == 6
        assert system.cell("a").restarts == 5


async def test_an_actor_that_cannot_start_is_tried_again_with_backoff_then_parked(running, child, events):
    async with running(child("a", lambda n: ValueError("never")), child("b"), on_exhausted="quarantine") as system:
        await events.wait("actor.quarantined", "a")
        assert [one["delay"] for one in events.of("actor.restarting", "a")] == [0.0, 0.01, 0.02]
        assert await system.ref("b").ask(Ping()) == 1
        assert "ended 4 times in a row, last: ValueError: never" in (system.cell("a").reason or "")


async def test_a_start_that_takes_too_long_is_a_crash(running, events):
    class Slow(Actor):
        async def on_start(self) -> None:
            if self.ctx.incarnation == 1:
                await anyio.sleep_forever()

        @handles
        def ping(self, message: Ping) -> int:
            return self.ctx.incarnation

    async with running(ChildSpec("slow", Slow, start_timeout=0.05)) as system:
        assert await system.ref("slow").ask(Ping()) == 2
        assert "took longer than 0.05 s" in events.of("actor.crashed", "slow")[0]["error"]


@pytest.mark.parametrize("how", ["config", "state"])
async def test_what_no_restart_can_mend_is_parked_at_once(running, child, events, how):
    async with running(child("a"), child("b")) as system:
        await crash(system, "a", how)
        await events.wait("actor.quarantined", "a")
        assert system.cell("a").incarnation == 1
        assert await system.ref("b").ask(Ping()) == 1


async def test_a_wrong_configuration_at_the_start_parks_the_actor_and_the_rest_comes_up(running, child):
    async with running(
        child("a"), child("b", lambda n: ConfigInvalid("no model")), child("c"), strategy="rest_for_one"
    ) as system:
        assert system.cell("b").state == "quarantined"
        assert system.cell("b").reason == "ConfigInvalid: no model"
        assert await system.ref("c").ask(Ping()) == 1


async def test_a_parked_actor_refuses_at_once_and_keeps_its_mailbox(running, child, journal, events):
    async with running(child("a"), on_exhausted="quarantine") as system:
        ref = system.ref("a")
        system.suspend("a")
        await ref.tell(Note(n=1))
        async with anyio.create_task_group() as group:

            async def waiting() -> None:
                with pytest.raises(ActorQuarantined, match="by hand"):
                    await ref.ask(Ping())

            group.start_soon(waiting)
            await anyio.wait_all_tasks_blocked()
            system.quarantine("a", "by hand")
        with pytest.raises(ActorQuarantined):
            await ref.ask(Ping())
        with pytest.raises(ActorQuarantined):
            await ref.tell(Note(n=2))
        await events.wait("actor.quarantined", "a")
        assert system.cell("a").mailbox == 1
        system.resume("a")
        await system.restart_child("a")
        assert system.cell("a").state == "running"
        assert await ref.ask(Ping()) == 2
        assert "a got 1" in journal
        assert events.subjects("actor.unquarantined") == ["a"]


async def test_restarting_by_hand_replaces_the_instance_forgets_crashes_and_may_change_the_factory(running, child):
    class Other(Actor):
        @handles
        def ping(self, message: Ping) -> int:
            return 100

    async with running(child("a")) as system:
        for _ in range(3):
            await crash(system, "a")
            await system.restart_child("a")
        assert await system.ref("a").ask(Ping()) == 7
        await system.restart_child("a", Other)
        assert await system.ref("a").ask(Ping()) == 100


@pytest.mark.parametrize(("first", "second"), list(itertools.product(("restart", "stop"), repeat=2)))
async def test_whoever_restarts_and_stops_one_actor_at_once_is_answered(running, child, first, second):
    async with running(child("a"), child("b")) as system:
        ends = {"restart": system.restart_child, "stop": system.stop_child}
        told = []

        async def end(how: str) -> None:
            try:
                await ends[how]("a")
                told.append(how)
            except (ActorStopped, NoSuchActor):
                told.append("gone")

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(end, first)
                tasks.start_soon(end, second)
        assert len(told) == 2
        if "stop" in (first, second):
            with pytest.raises((ActorStopped, NoSuchActor)):
                await system.ref("a").ask(Ping())
        else:
            assert await system.ref("a").ask(Ping()) in (2, 3)
        assert await system.ref("b").ask(Ping()) == 1


async def test_messages_wait_out_the_backoff_and_an_ask_times_out_on_its_own(running, child, journal):
    def limit() -> RestartLimit:
        return RestartLimit(backoff=Backoff(base=0.3, max=0.3, jitter=0.0))

    async with running(child("a"), limit=limit) as system:
        await crash(system, "a")
        await crash(system, "a")
        ref = system.ref("a")
        await ref.tell(Note(n=1))
        with pytest.raises(AskTimeout, match="queued behind 1, a is backing off"):
            await ref.ask(Ping(), timeout=0.05)
        assert await ref.ask(Ping()) == 3
        assert journal[-1] == "a got 1"


async def test_a_stable_stretch_forgets_earlier_crashes(running, child):
    def limit() -> RestartLimit:
        return RestartLimit(allowed=1, reset_after=0.05, backoff=Backoff(base=0.0))

    async with running(child("a"), limit=limit) as system:
        for n in range(4):
            await crash(system, "a")
            assert await system.ref("a").ask(Ping()) == n + 2
            await anyio.sleep(0.1)


async def test_crashes_over_one_durable_message_count_once(running, journal, events):
    class Blaming(Child):
        def blame(self, envelope) -> str | None:
            return "job-1"

    def limit() -> RestartLimit:
        return RestartLimit(allowed=1, backoff=Backoff(base=0.0))

    async with running(ChildSpec("a", lambda: Blaming(journal)), limit=limit) as system:
        for _ in range(5):
            await crash(system, "a")
        assert await system.ref("a").ask(Ping()) == 6
        assert not events.of("supervisor.exhausted")


async def test_an_exhausted_supervisor_fails_and_its_parent_restarts_it_with_its_children(
    running, child, journal, events
):
    inner = SupervisorSpec(
        "inner", (child("a"), child("b")), limit=lambda: RestartLimit(allowed=0), on_exhausted="escalate"
    )
    async with running(child("x"), inner) as system:
        journal.clear()
        await crash(system, "b")
        assert (await events.wait("supervisor.exhausted"))["child"] == "b"
        assert await system.ref("b").ask(Ping()) == 2
        assert await system.ref("a").ask(Ping()) == 2
        assert await system.ref("x").ask(Ping()) == 1
        assert journal[:2] == ["-b crash", "-a restart"]
        assert sorted(journal[2:]) == ["+a", "+b"]
        assert events.subjects("actor.restarting") == ["inner"]


async def test_running_out_of_memory_is_larger_than_one_actor(running, child, events):
    inner = SupervisorSpec("inner", (child("a"), child("b")), on_exhausted="quarantine")
    async with running(inner) as system:
        await crash(system, "b", "memory")
        assert await system.ref("a").ask(Ping()) == 2
        assert events.subjects("actor.restarting") == ["inner"]


async def test_the_root_exhausted_ends_the_run_with_its_error(child, journal):
    root = SupervisorSpec("root", (child("a"), child("b")), limit=lambda: RestartLimit(allowed=0))
    system = ActorSystem(root, clock=SystemClock())
    ended: list[RestartLimitReached] = []

    async def run(*, task_status: TaskStatus[None]) -> None:
        with pytest.raises(RestartLimitReached) as caught:
            await system.run(task_status=task_status)
        ended.append(caught.value)

    async with anyio.create_task_group() as group:
        await group.start(run)
        await crash(system, "a")
    assert "a ended 1 times in a row, last: ValueError: dead" in str(ended[0])
    assert journal[2:] == ["-a crash", "-b restart"]


async def test_a_root_that_cannot_come_up_ends_the_run(child):
    root = SupervisorSpec("root", (child("a", lambda n: ValueError("never")),), limit=lambda: RestartLimit(allowed=0))
    system = ActorSystem(root, clock=SystemClock())
    with pytest.raises(RestartLimitReached, match="never"):
        await system.run()


async def test_a_supervisor_may_be_parked_with_its_branch(running, child, events):
    inner = SupervisorSpec("inner", (child("a"),), limit=lambda: RestartLimit(allowed=0))
    async with running(inner, child("x"), limit=lambda: RestartLimit(allowed=0), on_exhausted="quarantine") as system:
        await crash(system, "a")
        await events.wait("actor.quarantined", "inner")
        with pytest.raises(ActorQuarantined):
            await system.ref("a").ask(Ping())
        assert await system.ref("x").ask(Ping()) == 1


@pytest.mark.parametrize(
    ("restart", "after_crash", "after_leaving"),
    [("permanent", 2, 3), ("transient", 2, None), ("temporary", None, None)],
)
async def test_kinds_of_children(running, child, events, restart, after_crash, after_leaving):
    async with running(child("a", restart=restart)) as system:
        ref = system.ref("a")
        await crash(system, "a")
        if after_crash is None:
            await events.wait("actor.stopped", "a")
            assert "a" not in system.names()
            with pytest.raises(ActorStopped):
                await ref.ask(Ping())
            return
        assert await ref.ask(Ping()) == after_crash
        await ref.tell(Leave())
        if after_leaving is None:
            await events.wait("actor.stopped", "a")
            assert system.cell("a").state == "stopped"
            await system.restart_child("a")
            assert await ref.ask(Ping()) == 3
        else:
            await events.wait("actor.started", "a", count=after_leaving)
            assert await ref.ask(Ping()) == after_leaving


async def test_a_permanent_actor_that_keeps_leaving_is_not_restarted_for_ever(running, events):
    class Leaver(Actor):
        async def on_start(self) -> None:
            self.ctx.stop_self()

    async with running(ChildSpec("leaver", Leaver), on_exhausted="quarantine") as system:
        await events.wait("actor.quarantined", "leaver")
        assert system.cell("leaver").incarnation == 4


async def test_an_error_wrapped_by_a_task_group_is_named_as_itself(running, child):
    async with running(child("a")) as system:
        with pytest.raises(ActorCrashed, match="KeyError: 'inner'"):
            await system.ref("a").ask(Die(how="group"))


async def test_a_crash_hurts_no_sibling_while_it_handles_a_message(running, child):
    opened = anyio.Event()

    class Busy(Actor):
        @handles
        async def ping(self, message: Ping) -> int:
            await opened.wait()
            return 7

    async with running(child("a"), ChildSpec("busy", Busy)) as system, anyio.create_task_group() as group:

        async def ask() -> None:
            assert await system.ref("busy").ask(Ping()) == 7

        group.start_soon(ask)
        await crash(system, "a")
        opened.set()


async def test_dynamic_children_come_and_go(running, child, journal):
    async with running(SupervisorSpec("agents")) as system:
        ref = await system.start_child("agents", child("a"))
        assert await ref.ask(Ping()) == 1
        with pytest.raises(ValueError, match="already"):
            await system.start_child("agents", child("a"))
        await system.stop_child("a")
        assert system.names() == []
        assert journal == ["+a", "-a stop"]
        with pytest.raises(ActorStopped):
            await ref.ask(Ping())
        again = await system.start_child("agents", child("a"))
        assert await again.ask(Ping()) == 1


async def test_a_dynamic_child_survives_the_restart_of_its_supervisor(running, child):
    inner = SupervisorSpec("inner", (child("a"),))
    async with running(inner) as system:
        await system.start_child("inner", child("b"))
        await crash(system, "a", "memory")
        assert await system.ref("b").ask(Ping()) == 2
