"""Random histories of a queue, each from its seed: whatever goes wrong, every job ends once and all is counted."""

import random
from typing import Any

import anyio
import pytest

from runtime.errors import StoreFull, UnderstudyError, problem
from runtime.store import port
from schemas.jobs import ENDED, JobEnded, Outcome

FAULT = problem("job.failed", "it broke")
CONFIG = """
    [queues.narrow]
    max_active = 1
    [agents.ada]
    llm = { provider = "scripted", model = "echo" }
    [kinds.work]
    run = "jobs:work"
    in_loop = true
    retry = { base = "500ms", max = "2s" }
"""
OUTCOMES = (
    *(Outcome(ok=True, result=n) for n in range(5)),
    Outcome(ok=True, result={1, 2}),
    Outcome(ok=False, error=FAULT, error_class="transient"),
    Outcome(ok=False, error=FAULT, error_class="permanent"),
    Outcome(ok=False, error=FAULT, error_class="rate_limited", retry_after_ms=700),
    Outcome(ok=False, error=FAULT, error_class="lost", crash=True),
    Outcome(ok=False, snooze=True, retry_after_ms=300),
    Outcome(ok=False, refund=True),
)


class History:
    """One run: who does what next is drawn from the seed."""

    def __init__(self, s: Any, seed: int) -> None:
        self.s, self.random = s, random.Random(seed)
        self.jobs: list[str] = []
        self.hands: list[Any] = []
        self.told: set[tuple[str, int]] = set()

    async def run(self, steps: int) -> None:
        for name, seat in (
            ("one", {}),
            ("two", {}),
            ("child", {"lane": "child"}),
            ("agent:ada", {"lane": "agent", "queue": "agent:ada", "slots": 3}),
        ):
            self.hands.append(await self.s.hand(name, **seat))
        acts = [self.submit] * 4 + [self.say] * 3 + [self.end] * 8 + [self.cancel, self.retry, self.leave]
        acts += [self.refuse, self.unheard, self.slow]
        for _ in range(steps):
            try:
                await self.random.choice(acts)()
            except UnderstudyError:
                continue  # refused, and told so
            await anyio.sleep(self.random.choice((0, 0, 0.01, 0.3)))
        await self.finish()

    async def submit(self) -> None:
        queue = self.random.choice((None, "narrow"))
        kind = self.random.choice(("work", "shell"))
        args = {"argv": ["true"]} if kind == "shell" else {}
        delay = self.random.choice((0, 0, 400))
        found = await self.s.submit(kind, args=args, queue=queue, delay_ms=delay, priority=self.random.randint(0, 200))
        self.jobs.append(found.id)

    async def say(self) -> None:
        self.jobs.append(await self.s.say("ada", "hi", self.random.choice("abc")))

    def attempts(self) -> list[Any]:
        return [job for hand in self.hands for job in hand.taken if (job.lease.id, job.lease.epoch) not in self.told]

    async def end(self) -> None:
        """Let an attempt end that has not yet; it may well have been taken back already."""
        if found := self.attempts():
            job = self.random.choice(found)
            self.told.add((job.lease.id, job.lease.epoch))
            outcome = self.random.choice(OUTCOMES)
            await self.s.system.ref("queue").tell(JobEnded(lease=job.lease, outcome=outcome))

    async def cancel(self) -> None:
        if self.jobs:
            await self.s.cancel(self.random.choice(self.jobs))

    async def retry(self) -> None:
        if self.jobs:
            await self.s.retry(self.random.choice(self.jobs))

    async def leave(self) -> None:
        await self.s.system.restart_child(self.random.choice(self.hands).name)

    async def refuse(self) -> None:
        self.s.disk.refuses = None if self.s.disk.refuses else StoreFull("no space left")

    async def unheard(self) -> None:
        self.s.disk.unheard = self.random.choice(
            (port.InsertJobs, port.FinishJobs, port.ClaimJobs, port.RecoverJobs, port.CancelJobs, port.PromoteDue)
        )

    async def slow(self) -> None:
        self.s.disk.takes = self.random.choice((0.0, 0.0, 0.02, 0.2))

    async def finish(self) -> None:
        """Mend what is broken and let every attempt end well, until nothing lives any more."""
        self.s.disk.refuses = self.s.disk.unheard = None
        self.s.disk.takes = 0.0
        with anyio.fail_after(1200):
            while True:
                for job in self.attempts():
                    self.told.add((job.lease.id, job.lease.epoch))
                    await self.s.system.ref("queue").tell(JobEnded(lease=job.lease, outcome=Outcome(ok=True)))
                await anyio.sleep(1)
                if not await self.s.disk.counts(ended=False):
                    break
        await anyio.sleep(60)  # memory and database are compared, twice


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_happens_every_job_ends_and_is_counted(stage: Any, seed: int) -> None:
    async with stage(CONFIG) as s:
        history = History(s, seed)
        await history.run(120)
        assert s.heard("actor.crashed") == []
        assert await s.counts() == await s.true_counts()
        assert set(s.house.workers.values()) == {0}
        for view in await s.disk.jobs(limit=1000):
            assert view.status in ENDED
            kinds = [event.type for event in await s.disk.events(after=0, subject=view.id)]
            assert kinds.count("job.completed") <= 1
