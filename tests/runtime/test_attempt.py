"""An attempt on the board: wishes that reach it, early or late, its deadline, and what its errors mean."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from runtime.attempt import Board, outcome_of, tell_surely
from runtime.clock import VirtualClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import ActorStopped, LlmAuth, LlmRateLimited, StoreFull
from runtime.outcomes import Cancel, Fail, Retry, SignalTimeout, Snooze
from schemas.base import Message
from schemas.jobs import Lease


class Word(Message, type="attempt_test.word"):
    n: int


def lease(job: str = "job-1", epoch: int = 1) -> Lease:
    return Lease(seq=1, id=job, epoch=epoch, worker="w", boot="b")


# -- the board ---------------------------------------------------------------------------------------------------------


async def test_a_wish_ends_the_attempt_it_is_for() -> None:
    board = Board()
    with board.running(lease()) as attempt:
        assert board.cancel("job-1", 1)
        await anyio.sleep_forever()
    assert (attempt.cancelled, attempt.timed_out) == (True, False)


@pytest.mark.parametrize(("job", "epoch"), [("job-2", 1), ("job-1", 2), ("job-1", 0)])
async def test_a_wish_for_another_attempt_does_not(job: str, epoch: int) -> None:
    board = Board()
    with board.running(lease()) as attempt:
        assert not board.cancel(job, epoch)
        await anyio.lowlevel.checkpoint()
    assert (attempt.wished, attempt.cancelled) == (False, False)


async def test_work_that_was_done_before_the_wish_reached_it_is_not_cancelled() -> None:
    board = Board()
    with board.running(lease()) as attempt:
        board.cancel("job-1", 1)
    assert (attempt.wished, attempt.cancelled) == (True, False)


async def test_a_wish_that_is_there_first_waits_for_its_attempt() -> None:
    board = Board()
    assert not board.cancel("job-1", 2)
    with board.running(lease(epoch=2)) as attempt:
        await anyio.sleep_forever()
    assert attempt.cancelled
    with board.running(lease(epoch=2)) as again:
        await anyio.lowlevel.checkpoint()
    assert not again.wished


async def test_a_wish_that_is_there_first_is_for_its_own_attempt_only() -> None:
    board = Board()
    board.cancel("job-1", 1)
    with board.running(lease(epoch=2)) as attempt:
        await anyio.lowlevel.checkpoint()
    assert not attempt.wished


async def test_a_wish_for_what_is_over_is_forgotten() -> None:
    board = Board()
    board.cancel("job-1", 1)
    board.over("job-1", 1)
    with board.running(lease()) as attempt:
        await anyio.lowlevel.checkpoint()
    assert not attempt.wished


async def test_the_end_of_an_older_attempt_keeps_the_wish_for_the_next() -> None:
    board = Board()
    board.cancel("job-1", 2)
    board.over("job-1", 1)
    with board.running(lease(epoch=2)) as attempt:
        await anyio.sleep_forever()
    assert attempt.cancelled


async def test_an_attempt_that_has_left_the_board_is_not_found() -> None:
    board = Board()
    with board.running(lease()):
        pass
    assert not board.cancel("job-1", 1)


async def test_an_attempt_has_its_time() -> None:
    with Board().running(lease(), 0.01) as attempt:
        await anyio.sleep_forever()
    assert (attempt.timed_out, attempt.cancelled) == (True, False)


async def test_a_newer_attempt_takes_the_place_of_an_older_one() -> None:
    board = Board()
    with board.running(lease(epoch=1)), board.running(lease(epoch=2)) as newer:
        assert board.cancel("job-1", 2)
        await anyio.sleep_forever()
    assert newer.cancelled


# -- a lost lease ------------------------------------------------------------------------------------------------------


async def test_an_attempt_whose_lease_is_lost_ends_and_is_neither_cancelled_nor_timed_out() -> None:
    board = Board()
    with board.running(lease(epoch=2)) as attempt:
        assert board.lose("job-1", 2)
        await anyio.sleep_forever()
    assert (attempt.lost, attempt.ending, attempt.cancelled, attempt.timed_out) == (True, True, False, False)


@pytest.mark.parametrize(("job", "epoch"), [("job-2", 1), ("job-1", 2)])
async def test_a_lease_lost_by_another_attempt_ends_nothing(job: str, epoch: int) -> None:
    board = Board()
    with board.running(lease()) as attempt:
        assert not board.lose(job, epoch)
        await anyio.lowlevel.checkpoint()
    assert not attempt.lost


# -- silence -----------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_is_silent_for_too_long_ends() -> None:
    async with anyio.create_task_group() as tasks:
        began = anyio.current_time()
        with Board().running(lease(), heartbeat=0.05) as attempt:
            tasks.start_soon(attempt.watch)
            await anyio.sleep_forever()
        assert (attempt.silent, attempt.timed_out, attempt.cancelled) == (True, True, False)
        assert anyio.current_time() - began >= 0.05


async def test_an_attempt_that_is_heard_of_in_time_goes_on(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        return  # only its clock jumps here: on a real one a slow machine would be late
    async with anyio.create_task_group() as tasks:
        with Board().running(lease(), heartbeat=0.5) as attempt:
            tasks.start_soon(attempt.watch)
            for _ in range(4):
                await anyio.sleep(0.2)
                attempt.alive()
            tasks.cancel_scope.cancel()
        assert not attempt.silent


# -- what errors mean --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Snooze(2.5), {"snooze": True, "retry_after_ms": 2500, "error": None}),
        (Snooze(-1), {"snooze": True, "retry_after_ms": 0}),
        (Snooze(float("inf")), {"retry_after_ms": 366 * 86_400_000}),
        (Retry(float("nan")), {"retry_after_ms": 0}),
        (Retry(3), {"error_class": "transient", "retry_after_ms": 3000}),
        (Retry(), {"error_class": "transient", "retry_after_ms": None}),
        (Fail("no"), {"error_class": "permanent"}),
        (Cancel(), {"error_class": "cancelled"}),
        (LlmRateLimited("x", retry_after=1.5), {"error_class": "rate_limited", "retry_after_ms": 1500}),
        (LlmAuth("x"), {"error_class": "permanent", "retry_after_ms": None}),
        (StoreFull("x"), {"error_class": "transient"}),
        (KeyError("x"), {"error_class": "bug"}),
        (SignalTimeout("x"), {"error_class": "timeout"}),
        (ExceptionGroup("two", [ExceptionGroup("one", [Retry(3)])]), {"error_class": "transient"}),
        (ExceptionGroup("two", [Retry(3), Retry(4)]), {"error_class": "bug"}),
    ],
)
def test_what_work_raised_says_what_becomes_of_it(error: Exception, expected: dict[str, Any]) -> None:
    outcome = outcome_of(error)
    assert not outcome.ok
    assert {name: getattr(outcome, name) for name in expected} == expected


def test_an_error_of_the_users_is_its_type_and_its_words() -> None:
    error = outcome_of(ValueError("x" * 9000)).error
    assert error is not None
    assert error.detail.startswith("ValueError: xxx")
    assert len(error.detail) == 2000


# -- telling surely ----------------------------------------------------------------------------------------------------


class Ear(Actor):
    def __init__(self, heard: list[int]) -> None:
        self.heard = heard

    @handles
    def hear(self, message: Word) -> None:
        self.heard.append(message.n)


@asynccontextmanager
async def ear(heard: list[int]) -> AsyncIterator[ActorSystem]:
    root = SupervisorSpec("root", children=(ChildSpec("ear", lambda: Ear(heard), mailbox=1),))
    system = ActorSystem(root, clock=VirtualClock())
    async with anyio.create_task_group() as tasks:
        await tasks.start(system.run)
        try:
            yield system
        finally:
            system.stop()


async def test_what_is_told_surely_waits_for_room_though_its_teller_is_being_cancelled() -> None:
    heard: list[int] = []
    async with ear(heard) as system:
        system.suspend("ear")
        await tell_surely(system.ref("ear"), Word(n=1))
        waits = anyio.Event()

        async def tell() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                waits.set()
                await tell_surely(system.ref("ear"), Word(n=2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell)
            await waits.wait()
            system.resume("ear")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tell_surely, system.ref("ear"), Word(n=3))
        with anyio.fail_after(5):
            while len(heard) < 3:
                await anyio.lowlevel.checkpoint()
    assert heard == [1, 2, 3]


async def test_whoever_is_told_surely_and_has_stopped_is_told_so() -> None:
    async with ear([]) as system:
        ref = system.ref("ear")
        await system.stop_child("ear")
        with pytest.raises(ActorStopped):
            await tell_surely(ref, Word(n=1))
