"""Actors beside the least that could do the same work on asyncio: a deque, an event and a task."""

import asyncio
import gc
import sys
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.row import Row
from runtime.clock import SystemClock
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.errors import ActorCrashed
from runtime.policies import RestartLimit
from schemas.base import Message, Request

Measured = tuple[str, Callable[[int], Awaitable[float]], Callable[[int], Awaitable[float]], int, float]

ROUNDS = 3
CROWD = 1000
BURST = 10 * CROWD
"""Messages that a fan-out sends before it lets the receivers run: ten to each."""


class Tick(Message, type="bench.tick"):
    """Counted by whoever gets it."""


class Echo(Request[int], type="bench.echo"):
    """Answered with `n`."""

    n: int


class Fault(Request[int], type="bench.fault"):
    """Crashes whoever gets it."""


class Tally:
    """Counts messages and says when the last has come: what every handler here does, ours and the bare ones."""

    __slots__ = ("done", "seen", "want")

    def __init__(self, want: int) -> None:
        self.want = want
        self.seen = 0
        self.done = asyncio.Event()

    def tick(self, _message: Message) -> None:
        self.seen += 1
        if self.seen == self.want:
            self.done.set()

    async def count(self, message: Message) -> None:
        self.tick(message)


class Counter(Actor):
    """Counts ticks, echoes numbers, crashes on a fault."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    @handles
    async def tick(self, message: Tick) -> None:
        self.tally.tick(message)

    @handles
    async def echo(self, request: Echo) -> int:
        return request.n

    @handles
    def fault(self, request: Fault) -> int:
        raise ValueError("on purpose")


class Idle(Actor):
    """Does nothing; what it costs to have one."""

    @handles
    async def tick(self, message: Tick) -> None:
        return None


# -- the limit ---------------------------------------------------------------------------------------------------------


class Bare:
    """The least that is an actor of the same shape: a deque, an event, a task, an async tell, an async handler."""

    def __init__(self, handle: Callable[[Any], Awaitable[None]]) -> None:
        self.queue: deque[Any] = deque()
        self.event = asyncio.Event()
        self.handle = handle

    async def work(self) -> None:
        queue, event, handle = self.queue, self.event, self.handle
        while True:
            while queue:
                await handle(queue.popleft())
            event.clear()
            await event.wait()

    async def tell(self, item: Any) -> None:
        self.queue.append(item)
        self.event.set()


async def _reply(asked: tuple[int, asyncio.Future[int]]) -> None:
    asked[1].set_result(asked[0])


async def _limit_tell(n: int) -> float:
    tally, message = Tally(n), Tick()
    bare = Bare(tally.count)
    worker = asyncio.create_task(bare.work())
    began = perf_counter()
    for at in range(n):
        await bare.tell(message)
        if at % 1000 == 999:  # as far ahead as our mailbox lets a sender be
            await asyncio.sleep(0)
    await tally.done.wait()
    took = perf_counter() - began
    worker.cancel()
    assert tally.seen == n
    return n / took


async def _limit_ask(n: int) -> float:
    bare, loop = Bare(_reply), asyncio.get_running_loop()
    worker = asyncio.create_task(bare.work())
    began = perf_counter()
    for at in range(n):
        reply = loop.create_future()
        await bare.tell((at, reply))
        assert await reply == at
    took = perf_counter() - began
    worker.cancel()
    return n / took


async def _limit_ask_100(n: int) -> float:
    bare, loop = Bare(_reply), asyncio.get_running_loop()
    worker = asyncio.create_task(bare.work())

    async def ask(at: int) -> int:
        reply = loop.create_future()
        await bare.tell((at, reply))
        answer: int = await reply
        return answer

    async def asker(share: int) -> int:
        return sum([await ask(at) for at in range(share)])

    began = perf_counter()
    totals = await asyncio.gather(*(asker(n // 100) for _ in range(100)))
    took = perf_counter() - began
    worker.cancel()
    assert totals == [sum(range(n // 100))] * 100
    return n / took


async def _limit_fan_out(n: int) -> float:
    tally, message = Tally(n), Tick()
    crowd = [Bare(tally.count) for _ in range(CROWD)]
    workers = [asyncio.create_task(bare.work()) for bare in crowd]
    await asyncio.sleep(0)
    began = perf_counter()
    for at in range(n):
        await crowd[at % CROWD].tell(message)
        if at % BURST == BURST - 1:
            await asyncio.sleep(0)
    await tally.done.wait()
    took = perf_counter() - began
    for worker in workers:
        worker.cancel()
    assert tally.seen == n
    return n / took


async def _limit_spawn(n: int) -> float:
    async def child(bare: Bare) -> None:
        await bare.event.wait()

    began = perf_counter()
    for _ in range(n):
        bare = Bare(_reply)
        task = asyncio.create_task(child(bare))
        await asyncio.sleep(0)
        bare.event.set()
        await task
    return n / (perf_counter() - began)


# -- ours --------------------------------------------------------------------------------------------------------------


class Stage:
    """A running system with *children* under one supervisor."""

    def __init__(self, *children: ChildSpec) -> None:
        root = SupervisorSpec("root", children, limit=lambda: RestartLimit(allowed=sys.maxsize, reset_after=0.0))
        self.system = ActorSystem(root, clock=SystemClock())

    async def __aenter__(self) -> ActorSystem:
        up = asyncio.Event()
        self.task = asyncio.create_task(self.system.run(task_status=_Started(up)))
        await up.wait()
        return self.system

    async def __aexit__(self, *_: object) -> None:
        self.system.stop()
        await self.task
        assert not self.system.unstopped
        assert not self.system.dead_letters.counts


class _Started:
    def __init__(self, event: asyncio.Event) -> None:
        self.started = event.set


def _counter(name: str, tally: Tally) -> ChildSpec:
    return ChildSpec(name, lambda: Counter(tally))


async def _tell(n: int) -> float:
    tally, message = Tally(n), Tick()
    async with Stage(_counter("counter", tally)) as system:
        ref = system.ref("counter")
        began = perf_counter()
        for _ in range(n):
            await ref.tell(message)
        await tally.done.wait()
        took = perf_counter() - began
        assert tally.seen == n == system.cell("counter").handled
    return n / took


async def _ask(n: int) -> float:
    async with Stage(_counter("counter", Tally(0))) as system:
        ref = system.ref("counter")
        requests = [Echo(n=at) for at in range(100)]
        began = perf_counter()
        for at in range(n):
            assert await ref.ask(requests[at % 100]) == at % 100
        return n / (perf_counter() - began)


async def _ask_100(n: int) -> float:
    async with Stage(_counter("counter", Tally(0))) as system:
        ref = system.ref("counter")
        requests = [Echo(n=at) for at in range(n // 100)]

        async def asker() -> int:
            return sum([await ref.ask(request) for request in requests])

        began = perf_counter()
        totals = await asyncio.gather(*(asker() for _ in range(100)))
        took = perf_counter() - began
        assert totals == [sum(range(n // 100))] * 100
    return n / took


async def _fan_out(n: int) -> float:
    tally, message = Tally(n), Tick()
    async with Stage(*(_counter(f"counter-{at}", tally) for at in range(CROWD))) as system:
        crowd = [system.ref(name) for name in system.names()]
        await asyncio.sleep(0)
        began = perf_counter()
        for at in range(n):
            await crowd[at % CROWD].tell(message)
            if at % BURST == BURST - 1:
                await asyncio.sleep(0)
        await tally.done.wait()
        took = perf_counter() - began
        assert tally.seen == n
    return n / took


async def _spawn(n: int) -> float:
    async with Stage() as system:
        spec = ChildSpec("child", Idle, restart="temporary")
        began = perf_counter()
        for _ in range(n):
            await system.start_child("root", spec)
            await system.stop_child("child")
        took = perf_counter() - began
        assert system.names() == []
    return n / took


async def _idle_bytes(n: int) -> float:
    """Return the bytes of one idle actor with an async handler: everything, its task included."""
    async with Stage() as system:
        await system.start_child("root", ChildSpec("first", Idle))
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for at in range(n):
            await system.start_child("root", ChildSpec(f"idle-{at}", Idle))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(system.names()) == n + 1
    return (after - before) / n


async def _restart_seconds(n: int) -> float:
    """Return the seconds from a crash's answer until the next incarnation answers, taken over *n* crashes."""
    async with Stage(_counter("counter", Tally(0))) as system:
        ref = system.ref("counter")
        began = perf_counter()
        for at in range(n):
            with suppress(ActorCrashed):
                await ref.ask(Fault())
            assert await ref.ask(Echo(n=at)) == at
        took = perf_counter() - began
        assert system.cell("counter").restarts == n
    return took / n


PAIRS: tuple[Measured, ...] = (
    ("tell", _tell, _limit_tell, 200_000, 0.40),
    ("ask, one after the other", _ask, _limit_ask, 40_000, 0.35),
    ("ask, 100 at once", _ask_100, _limit_ask_100, 100_000, 0.30),
    ("fan-out to 1,000", _fan_out, _limit_fan_out, 200_000, 0.40),
    ("spawn and stop", _spawn, _limit_spawn, 10_000, 0.25),
)


def measure(quick: bool = False) -> list[Row]:
    """Measure everything: ours and the limit in turns, three rounds, the round of the median ratio."""
    rows = []
    for name, ours, limit, n, bar in PAIRS:
        size = n // 10 if quick else n
        rounds = sorted(
            ((asyncio.run(_once(ours, size)), asyncio.run(_once(limit, size))) for _ in range(ROUNDS)),
            key=lambda pair: pair[0] / pair[1],
        )
        rows.append(Row(f"actors: {name}", *rounds[ROUNDS // 2], bar))
    size = 100 if quick else 1000
    restart = _median(_restart_seconds, size) * 1000
    idle = _median(_idle_bytes, size)
    rows.append(Row("actors: restart and answer", restart, 0.5, 1.0, "ms", higher_is_better=False))
    rows.append(Row("actors: idle actor", idle, 4096.0, 1.0, "bytes", higher_is_better=False))
    return rows


async def _once(work: Callable[[int], Awaitable[float]], size: int) -> float:
    gc.collect()
    return await work(size)


def _median(work: Callable[[int], Awaitable[float]], size: int) -> float:
    return median(asyncio.run(_once(work, size)) for _ in range(ROUNDS))


if __name__ == "__main__":
    for row in measure("--quick" in sys.argv):
        print(row)
