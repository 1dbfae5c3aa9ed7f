"""All that people and misfortune do to one daemon, each by chance."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from runtime.core.system import ActorSystem
from runtime.errors import StoreBusy, StoreError, StoreFull, StoreReadOnly
from schemas.jobs import (
    Action,
    ActOnJobs,
    CancelJob,
    ChangeQueue,
    DrainWorker,
    JobFilter,
    NewJob,
    PauseJob,
    QueueState,
    ResizePool,
    ResumeJob,
    RetryJob,
    SignalJob,
    SubmitJob,
    SubmitJobs,
    Submitted,
)
from schemas.schedules import AddSchedule, PauseSchedule, RemoveSchedule, TriggerSchedule
from schemas.system import Reload
from tests.simulation.rules import Limits
from tests.simulation.scripts import QUEUES

if TYPE_CHECKING:
    from tests.simulation.world import World

REFUSALS: Final = (StoreFull, StoreReadOnly, StoreBusy, StoreError)


class Hands:
    """All that people and misfortune do to one daemon."""

    def __init__(self, world: "World", system: ActorSystem) -> None:
        self.world, self.system = world, system
        self.day, self.chance = world.day, world.chance

    def actions(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """Return what may be done, and how often each is."""
        return {
            "submit": (40, self.submit),
            "submit_sure": (10, self.submit_sure),
            "submit_twice": (3, self.submit_twice),
            "batch": (8, self.batch),
            "cancel": (6, self.cancel),
            "retry": (5, self.retry),
            "signal": (6, self.signal),
            "pause": (3, self.pause),
            "resume": (3, self.resume),
            "many": (2, self.many),
            "queue": (3, self.queue),
            "trigger": (2, self.trigger),
            "schedule": (3, self.schedule),
            "reload": (1, self.reload),
            "pool": (1, self.pool),
            "worker_dies": (4, self.worker_dies),
            "worker_drains": (1, self.worker_drains),
            "clock_steps": (2, self.clock_steps),
            "store_refuses": (2, self.store_refuses),
            "store_is_deaf": (3, self.store_is_deaf),
        }

    async def ask(self, message: Any, actor: str = "queue") -> Any:
        return await self.system.ref(actor).ask(message)

    async def _some_job(self) -> str:
        """Return one of the latest jobs; they are known by what was acknowledged."""
        known = list(self.world.acknowledged)[-60:]
        return self.chance.choice(known) if known else "none"

    async def _unsure_job(self) -> str:
        job = await self._some_job()
        return "none" if job in self.world.sure else job

    # -- people --------------------------------------------------------------------------------------------------------

    async def submit(self) -> None:
        job = self.day.job()
        told = await self.ask(SubmitJob(job=job))
        self._limit(job, told)
        self.world.accept([job], [told])

    def _limit(self, job: NewJob, told: Submitted) -> None:
        if job.limit_key is not None and not told.existing:
            self.world.rules.limits[told.id] = Limits(job.queue or "", job.limit_key, job.limit_max)

    async def submit_sure(self) -> None:
        job = self.day.sure_job()
        self.world.accept([job], [await self.ask(SubmitJob(job=job))], sure=True)

    async def submit_twice(self) -> None:
        """Submit with a key, and again as one does who did not hear the answer."""
        job = self.day.job(key=f"key of {self.chance.random()}")
        told: list[Submitted] = []
        while len(told) < 2:
            try:
                told.append(await self.ask(SubmitJob(job=job)))
            except StoreError:
                await anyio.sleep(7)
        self._limit(job, told[0])
        self.world.accept([job], told[:1])
        self.world.acknowledged.setdefault(told[0].id, job)
        if told[0].id != told[1].id:
            self.world.rules.broken(f"one key made two jobs: {told}")

    async def batch(self) -> None:
        jobs = self.day.batch()
        told = await self.ask(SubmitJobs(jobs=jobs))
        for job, one in zip(jobs, told, strict=True):
            self._limit(job, one)
        self.world.accept(jobs, told)

    async def cancel(self) -> None:
        await self.ask(CancelJob(id=await self._unsure_job()))

    async def retry(self) -> None:
        await self.ask(RetryJob(id=await self._some_job(), dependants=self.chance.random() < 0.5))

    async def signal(self) -> None:
        await self.ask(SignalJob(id=await self._some_job(), name="go", payload={"n": self.chance.random()}))

    async def pause(self) -> None:
        await self.ask(PauseJob(id=await self._some_job()))

    async def resume(self) -> None:
        await self.ask(ResumeJob(id=await self._some_job()))

    async def many(self) -> None:
        actions: tuple[Action, ...] = ("retry", "pause", "resume")
        action = self.chance.choice(actions)
        where = JobFilter(queue=self.chance.choice(QUEUES), status=None if action != "retry" else "failed")
        await self.ask(ActOnJobs(action=action, where=where, limit=20))

    async def queue(self) -> None:
        states: tuple[QueueState, ...] = ("paused", "running", "running")
        state = self.chance.choice(states)
        await self.ask(ChangeQueue(name=self.chance.choice(QUEUES), state=state))

    async def trigger(self) -> None:
        name = self.chance.choice(list(self.day.catchups))
        told = await self.ask(TriggerSchedule(name=name), "schedules")
        self.world.acknowledged.setdefault(told.id, NewJob(kind="act"))

    async def schedule(self) -> None:
        """Add, change, remove or pause a schedule of one's own."""
        name, rng = self.chance.choice(("own-1", "own-2")), self.chance
        match rng.choice(("add", "remove", "pause", "go on")):
            case "add":
                cron, tz = rng.choice((("*/30 * * * *", "UTC"), ("15 * * * *", "Asia/Kolkata")))
                job = NewJob(kind="act", args={"script": [["nap", 1]]}, queue="d")
                message: Any = AddSchedule(name=name, cron=cron, tz=tz, job=job, catchup="all", replace=True)
            case "remove":
                message = RemoveSchedule(name=name)
            case what:
                message = PauseSchedule(name=name, paused=what == "pause")
        await self.ask(message, "schedules")

    async def reload(self) -> None:
        await self.ask(Reload(), "system")

    async def pool(self) -> None:
        await self.ask(ResizePool(name=self.chance.choice(("loop", "child")), size=self.chance.randint(1, 4)))

    async def let_go_on(self) -> None:
        """Take away whatever a person may have put in the way."""
        for name in QUEUES:
            await self.ask(ChangeQueue(name=name, state="running"))
        for where in (JobFilter(status="paused"), JobFilter(status="waiting", reason="deps")):
            await self.ask(ActOnJobs(action="resume", where=where))
        for name in self._workers():
            await self.ask(DrainWorker(id=name, drain=False))
        for pool in ("loop", "child"):
            await self.ask(ResizePool(name=pool, size=2))

    # -- misfortune ----------------------------------------------------------------------------------------------------

    def _workers(self) -> list[str]:
        return sorted(name for name in self.system.names() if name.startswith("worker:"))

    async def worker_dies(self) -> None:
        await self.system.restart_child(self.chance.choice(self._workers()))

    async def worker_drains(self) -> None:
        drain = self.chance.random() < 0.4
        await self.ask(DrainWorker(id=self.chance.choice(self._workers()), drain=drain))

    async def clock_steps(self) -> None:
        """The clock is set, or the machine slept."""
        by = self.chance.choice((-7200, -600, -3, 3, 90, 600, 3600, 20_000)) * 1000
        self.world.clock.step(by)
        self.world.set_forward += max(0, by)

    async def store_refuses(self) -> None:
        self.world.troubled = True
        self.world.refusal = self.chance.choice(REFUSALS)
        self.world.blind = self.chance.random() < 0.2
        await anyio.sleep(self.chance.choice((0.5, 20, 400)))
        self.world.refusal, self.world.blind = None, False

    async def store_is_deaf(self) -> None:
        """The next commits are written, and nobody hears of it."""
        self.world.troubled = True
        self.world.deaf = self.chance.randint(1, 3)
