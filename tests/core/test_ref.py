"""What a sender sees: tell, ask and stream, with their deadlines, refusals and cancellations."""

import anyio
import pytest

from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec
from runtime.errors import (
    ActorCrashed,
    ActorStopped,
    AskTimeout,
    LlmError,
    MailboxFull,
    NoSuchActor,
    StoreError,
    StoreFull,
    UnhandledMessage,
)
from schemas.base import Message, Request


class Add(Request[int], type="ref.add"):
    n: int


class Get(Request[list[int]], type="ref.get"):
    pass


class Note(Message, type="ref.note"):
    n: int


class Bit(Message, type="ref.bit", overflow="drop_oldest"):
    n: int


class Strict(Message, type="ref.strict", overflow="reject"):
    n: int


class Block(Request[str], type="ref.block"):
    pass


class Fail(Request[int], type="ref.fail"):
    how: str


class Via(Request[int], type="ref.via"):
    timeout: float


class Count(Request[int], type="ref.count"):
    to: int


class Strange(Request[int], type="ref.strange"):
    pass


class Keeper(Actor):
    """Keeps numbers; blocks until opened."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.gate = anyio.Event()
        self.blocked = anyio.Event()
        self.cancelled = 0
        self.senders: list[str | None] = []

    @handles
    async def add(self, message: Add) -> int:
        self.numbers.append(message.n)
        return sum(self.numbers)

    @handles
    def get(self, message: Get) -> list[int]:
        return self.numbers

    @handles
    def note(self, message: Note | Bit | Strict) -> None:
        self.numbers.append(message.n)
        assert self.ctx.envelope is not None
        self.senders.append(self.ctx.envelope.sender)

    @handles
    async def block(self, message: Block) -> str:
        self.blocked.set()
        try:
            await self.gate.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        return "opened"

    @handles
    def fail(self, message: Fail) -> int:
        raise {
            "crash": ValueError("bad"),
            "llm": LlmError("no model"),
            "store": StoreError("in doubt"),
            "full": StoreFull("no space"),
        }[message.how]

    @handles
    async def count(self, message: Count):
        for n in range(message.to):
            yield n


class Middle(Actor):
    """Asks the keeper something that takes for ever."""

    @handles
    async def via(self, message: Via) -> int:
        await self.ctx.actor("keeper").ask(Block(), timeout=message.timeout)
        return 1


def keeper(**options) -> tuple[Keeper, ChildSpec]:
    actor = Keeper()
    return actor, ChildSpec("keeper", lambda: actor, **options)


async def test_an_ask_is_answered_with_what_the_handler_returns(running):
    _, spec = keeper()
    async with running(spec) as system:
        assert await system.ref("keeper").ask(Add(n=2)) == 2
        assert await system.ref("keeper").ask(Add(n=3)) == 5


async def test_messages_of_one_sender_arrive_in_order(running):
    _, spec = keeper()
    async with running(spec) as system:
        ref = system.ref("keeper")
        for n in range(2000):
            await ref.tell(Note(n=n))
        assert await ref.ask(Get()) == list(range(2000))


async def test_an_unknown_name_says_which_names_look_alike(running):
    _, spec = keeper()
    async with running(spec) as system:
        with pytest.raises(NoSuchActor, match="did you mean keeper") as caught:
            system.ref("keepr")
        assert caught.value.data["known"] == ["keeper"]


async def test_one_handler_runs_at_a_time(running):
    actor, spec = keeper()
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=1))
        await anyio.wait_all_tasks_blocked()
        assert actor.numbers == []
        actor.gate.set()
        assert await ref.ask(Get()) == [1]


async def test_a_crash_answers_the_asker_with_the_errors_name_and_text(running):
    _, spec = keeper()
    async with running(spec) as system:
        with pytest.raises(ActorCrashed, match="ValueError: bad") as caught:
            await system.ref("keeper").ask(Fail(how="crash"))
        assert caught.value.__cause__ is None
        assert "Traceback" not in caught.value.detail
        assert await system.ref("keeper").ask(Get()) == []
        assert system.cell("keeper").incarnation == 2


async def test_an_error_of_ours_is_an_answer_and_the_actor_lives(running, events):
    _, spec = keeper()
    async with running(spec) as system:
        with pytest.raises(LlmError, match="no model"):
            await system.ref("keeper").ask(Fail(how="llm"))
        await system.ref("keeper").tell(Fail(how="llm"))
        assert (await events.wait("actor.error"))["error"] == "LlmError: no model"
        assert system.cell("keeper").incarnation == 1


async def test_a_storage_error_reaches_the_asker_and_costs_the_instance_unless_nothing_was_written(running):
    _, spec = keeper()
    async with running(spec) as system:
        with pytest.raises(StoreFull, match="no space"):
            await system.ref("keeper").ask(Fail(how="full"))
        assert system.cell("keeper").incarnation == 1
        with pytest.raises(StoreError, match="in doubt"):
            await system.ref("keeper").ask(Fail(how="store"))
        await system.ref("keeper").ask(Get())
        assert system.cell("keeper").incarnation == 2


async def test_the_failing_message_is_not_handled_again_and_those_behind_it_are_kept(running):
    _, spec = keeper()
    async with running(spec) as system:
        ref = system.ref("keeper")
        ref.tell_nowait(Fail(how="crash"))
        for n in range(5):
            ref.tell_nowait(Note(n=n))
        assert await ref.ask(Get()) == list(range(5))
        assert system.cell("keeper").restarts == 1


async def test_an_unknown_type_is_an_error_and_a_dead_letter(running):
    _, spec = keeper()
    async with running(spec) as system:
        with pytest.raises(UnhandledMessage) as caught:
            await system.ref("keeper").ask(Strange())
        assert "ref.add" in caught.value.data["known"]
        await system.ref("keeper").tell(Strange())
        await system.ref("keeper").ask(Get())
        assert [(one.reason, one.type, one.to) for one in system.dead_letters] == [
            ("unhandled_type", "ref.strange", "keeper")
        ] * 2
        assert system.dead_letters.counts["unhandled_type"] == 2


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_timed_out_ask_says_what_the_callee_does_and_calls_the_work_off(running):
    actor, spec = keeper()
    async with running(spec) as system:
        ref = system.ref("keeper")
        with pytest.raises(AskTimeout, match=r"keeper is handling ref\.block for 0\.1 s"):
            await ref.ask(Block(), timeout=0.1)
        assert await ref.ask(Get()) == []
        assert actor.cancelled == 1
        assert system.cell("keeper").incarnation == 1


async def test_a_request_that_expires_in_the_mailbox_is_never_handled(running):
    actor, spec = keeper()
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        ref.tell_nowait(Note(n=1))
        with pytest.raises(AskTimeout, match=r"queued behind 1, keeper is handling ref\.block"):
            await ref.ask(Add(n=9), timeout=0.05)
        assert system.cell("keeper").mailbox == 1
        actor.gate.set()
        assert await ref.ask(Get()) == [1]
        assert system.dead_letters.counts["expired"] == 1


async def test_a_told_message_past_its_deadline_is_not_handled(running):
    actor, spec = keeper()
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=1), deadline=system.clock.monotonic() + 0.05)
        await ref.tell(Note(n=2), deadline=system.clock.monotonic() + 500)
        await anyio.sleep(0.1)
        actor.gate.set()
        assert await ref.ask(Get()) == [2]
        assert [one.reason for one in system.dead_letters] == ["expired"]


async def test_an_ask_made_in_a_handler_inherits_the_shorter_deadline(running):
    _, spec = keeper()
    async with running(spec, ChildSpec("middle", Middle)) as system:
        began = system.clock.monotonic()
        with pytest.raises(AskTimeout):
            await system.ref("middle").ask(Via(timeout=1000.0), timeout=0.1)
        assert system.clock.monotonic() - began < 5
        with pytest.raises(AskTimeout, match="keeper"):
            await system.ref("middle").ask(Via(timeout=0.1), timeout=1000.0)
        assert await system.ref("keeper").ask(Get()) == []


async def test_cancelling_an_ask_cancels_the_handler_and_leaves_the_actor_alive(running):
    actor, spec = keeper()
    async with running(spec) as system:
        ref = system.ref("keeper")
        async with anyio.create_task_group() as group:
            group.start_soon(ref.ask, Block())
            await actor.blocked.wait()
            group.cancel_scope.cancel()
        assert await ref.ask(Get()) == []
        assert actor.cancelled == 1
        assert system.cell("keeper").incarnation == 1
        assert not system.dead_letters.counts


async def test_cancelling_a_queued_ask_takes_it_out_of_the_mailbox(running):
    actor, spec = keeper()
    async with running(spec) as system, anyio.create_task_group() as outer:
        ref = system.ref("keeper")
        outer.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(ref.ask, Add(n=1))
            await anyio.wait_all_tasks_blocked()
            assert system.cell("keeper").mailbox == 1
            group.cancel_scope.cancel()
        assert system.cell("keeper").mailbox == 0
        actor.gate.set()
        assert await ref.ask(Get()) == []


async def test_a_handler_that_swallows_its_cancellation_gives_a_late_reply_and_spares_the_next_message(running):
    started, ended = anyio.Event(), anyio.Event()

    class Stubborn(Actor):
        @handles
        async def block(self, message: Block) -> str:
            started.set()
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                ended.set()
            return "late"

        @handles
        async def add(self, message: Add) -> int:
            await anyio.sleep(0.01)
            return message.n

    async with running(ChildSpec("stubborn", Stubborn)) as system, anyio.create_task_group() as group:
        ref = system.ref("stubborn")

        async def impatient() -> None:
            with pytest.raises(AskTimeout):
                await ref.ask(Block(), timeout=0.05)

        group.start_soon(impatient)
        await started.wait()
        assert await ref.ask(Add(n=4)) == 4
        assert ended.is_set()
        assert system.dead_letters.counts == {"late_reply": 1}


# -- full mailboxes ----------------------------------------------------------------------------------------------------


async def test_a_tell_waits_for_room_in_order(running):
    actor, spec = keeper(mailbox=2)
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        for n in range(8):
            group.start_soon(ref.tell, Note(n=n))
            await anyio.wait_all_tasks_blocked()
        assert system.cell("keeper").mailbox == 2
        actor.gate.set()
        assert await ref.ask(Get()) == list(range(8))


async def test_a_tell_that_finds_no_room_until_its_deadline_is_refused(running):
    actor, spec = keeper(mailbox=1)
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=1))
        with pytest.raises(MailboxFull, match="holds 1 of 1"):
            await ref.tell(Note(n=2), deadline=system.clock.monotonic() + 0.05)
        with pytest.raises(MailboxFull):
            await ref.ask(Add(n=1), timeout=0.05)
        with pytest.raises(MailboxFull):
            ref.tell_nowait(Note(n=3))
        with pytest.raises(MailboxFull):
            await ref.tell(Strict(n=4))
        actor.gate.set()
        assert await ref.ask(Get()) == [1]


async def test_a_cancelled_sender_leaves_nothing_behind(running):
    actor, spec = keeper(mailbox=1)
    async with running(spec) as system, anyio.create_task_group() as outer:
        ref = system.ref("keeper")
        outer.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=1))
        async with anyio.create_task_group() as group:
            group.start_soon(ref.tell, Note(n=2))
            group.start_soon(ref.ask, Add(n=3))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        actor.gate.set()
        assert await ref.ask(Get()) == [1]
        await ref.tell(Note(n=5))
        assert await ref.ask(Get()) == [1, 5]


async def test_only_what_may_be_lost_gives_way_to_a_lossy_message(running):
    actor, spec = keeper(mailbox=3)
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=0))
        for n in range(1, 6):
            await ref.tell(Bit(n=n))
        actor.gate.set()
        assert await ref.ask(Get()) == [0, 4, 5]
        assert system.dead_letters.counts == {"mailbox_full": 3}


async def test_a_lossy_message_is_lost_itself_when_nothing_else_may_be(running):
    actor, spec = keeper(mailbox=1)
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")
        group.start_soon(ref.ask, Block())
        await actor.blocked.wait()
        await ref.tell(Note(n=0))
        ref.tell_nowait(Bit(n=1))
        actor.gate.set()
        assert await ref.ask(Get()) == [0]
        assert [one.type for one in system.dead_letters] == ["ref.bit"]


async def test_an_actor_that_fills_its_own_mailbox_is_refused_at_once(running):
    class Narcissus(Actor):
        @handles
        async def add(self, message: Add) -> int:
            for n in range(message.n):
                await self.ctx.ref.tell(Note(n=n))
            return 0

        @handles
        def note(self, message: Note) -> None:
            return None

    async with running(ChildSpec("self", Narcissus, mailbox=5)) as system:
        assert await system.ref("self").ask(Add(n=5)) == 0
        with pytest.raises(MailboxFull):
            await system.ref("self").ask(Add(n=6))


async def test_the_handler_learns_who_sent_a_message(running):
    class Sender(Actor):
        @handles
        async def add(self, message: Add) -> int:
            await self.ctx.actor("keeper").tell(Note(n=1))
            self.ctx.actor("keeper").tell_nowait(Note(n=2), sender="somebody")
            return 0

    actor, spec = keeper()
    async with running(spec, ChildSpec("sender", Sender)) as system:
        await system.ref("sender").ask(Add(n=0))
        await system.ref("keeper").tell(Note(n=3))
        await system.ref("keeper").ask(Get())
        assert actor.senders == ["sender", "somebody", None]


# -- streams -----------------------------------------------------------------------------------------------------------


async def test_a_stream_gives_every_part_in_order(running):
    _, spec = keeper()
    async with running(spec) as system, system.ref("keeper").stream(Count(to=300)) as parts:
        assert [part async for part in parts] == list(range(300))


async def test_leaving_a_stream_calls_the_handler_off(running):
    left = anyio.Event()
    made = 0

    class Endless(Actor):
        @handles
        async def count(self, message: Count):
            nonlocal made
            try:
                while True:
                    made += 1
                    yield made
            finally:
                left.set()

        @handles
        def add(self, message: Add) -> int:
            return message.n

    async with running(ChildSpec("endless", Endless)) as system:
        ref = system.ref("endless")
        async with ref.stream(Count(to=0)) as parts:
            assert await anext(aiter(parts)) == 1
            await anyio.wait_all_tasks_blocked()
            assert made <= 66  # 64 in the buffer, one read, one at the door
        await left.wait()
        assert await ref.ask(Add(n=1)) == 1
        assert system.cell("endless").incarnation == 1
        assert not system.dead_letters.counts


async def test_a_stream_ends_with_the_error_of_its_handler_after_what_came_before(running):
    class Breaking(Actor):
        @handles
        async def count(self, message: Count):
            yield 1
            raise ValueError("midway")

    async with running(ChildSpec("breaking", Breaking)) as system:
        async with system.ref("breaking").stream(Count(to=0)) as parts:
            assert await anext(parts) == 1
            with pytest.raises(ActorCrashed, match="midway"):
                await anext(parts)


async def test_a_stream_is_bounded_by_its_timeout(running):
    class Slow(Actor):
        @handles
        async def count(self, message: Count):
            yield 1
            await anyio.sleep_forever()

    async with running(ChildSpec("slow", Slow)) as system:
        async with system.ref("slow").stream(Count(to=0), timeout=0.05) as parts:
            assert await anext(parts) == 1
            with pytest.raises(AskTimeout):
                await anext(parts)
        assert system.cell("slow").incarnation == 1


async def test_a_plain_handler_streams_its_one_answer_and_a_stream_is_no_answer_to_ask(running):
    _, spec = keeper()
    async with running(spec) as system:
        ref = system.ref("keeper")
        async with ref.stream(Add(n=7)) as parts:
            assert [part async for part in parts] == [7]
        with pytest.raises(UnhandledMessage, match="stream"):
            await ref.ask(Count(to=3))
        assert system.cell("keeper").incarnation == 1


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_nobody_waits_for_an_actor_that_stopped(running):
    actor, spec = keeper()
    outcomes = []
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")

        async def ask(request) -> None:
            with pytest.raises(ActorStopped) as caught:
                await ref.ask(request)
            outcomes.append(caught.value.detail)

        group.start_soon(ask, Block())
        await actor.blocked.wait()
        for n in range(3):
            group.start_soon(ask, Add(n=n))
        await anyio.wait_all_tasks_blocked()
        system.stop(now=True)
    assert len(outcomes) == 4
    with pytest.raises(ActorStopped):
        ref.tell_nowait(Note(n=1))
    with pytest.raises(ActorStopped):
        await ref.tell(Note(n=1))
    with pytest.raises(ActorStopped):
        await ref.ask(Add(n=1))


async def test_messages_that_wait_when_an_actor_stops_for_good_are_dead_letters(running):
    actor, spec = keeper()
    async with running(spec) as system, anyio.create_task_group() as group:
        ref = system.ref("keeper")

        async def blocked() -> None:
            with pytest.raises(ActorStopped):
                await ref.ask(Block())

        group.start_soon(blocked)
        await actor.blocked.wait()
        ref.tell_nowait(Note(n=1), sender="me")
        system.stop(now=True)
    assert [(one.reason, one.type, one.sender) for one in system.dead_letters] == [("stopped", "ref.note", "me")]
