"""What simulated jobs do: a script of acts, played by the real worker with the real context, in virtual time.

A script is a list of [act, argument, ...]; it comes with the job's arguments, so it is the same at each attempt.
"""

from typing import Any, Final

import anyio

from runtime.outcomes import AsyncJobContext, Cancel, Fail, Retry, Snooze, WaitTimeout


class ProcessDied(Exception):
    """Stands for a child process that died by a signal."""


class Theatre:
    """What the acts leave behind in the outside world, and what must hold of it."""

    def __init__(self) -> None:
        self.recorded: dict[tuple[str, str], Any] = {}
        self.faults: list[str] = []

    def body(self, job: str, step: str, epoch: int) -> dict[str, int]:
        """Run a step's body."""
        if (job, step) in self.recorded:
            self.faults.append(f"the recorded step {step} of {job} ran again")
        return {"epoch": epoch}

    def record(self, job: str, step: str, output: Any) -> None:
        """Note that a step was told to be recorded."""
        if self.recorded.setdefault((job, step), output) != output:
            self.faults.append(f"the step {step} of {job} gave another output")

    def begins_anew(self, job: str) -> None:
        """A person retries a job: its steps stay done, but parts of it may have been forgotten meanwhile."""
        for key in [key for key in self.recorded if key[0] == job and key[1].startswith("children-")]:
            del self.recorded[key]


theatre = Theatre()
"""The one of the simulation that runs; each begins with a new one."""


async def play(ctx: AsyncJobContext, script: list[list[Any]]) -> dict[str, Any]:
    """Play *script*; the result tells which attempt was accepted."""
    for number, (act, *arguments) in enumerate(script):
        await ACTS[act](ctx, number, *arguments)
    return {"epoch": ctx.epoch}


async def nap(_ctx: AsyncJobContext, _number: int, seconds: float) -> None:
    """Work in its place."""
    await anyio.sleep(seconds)


async def step(ctx: AsyncJobContext, number: int, seconds: float) -> None:
    """Do something that must be recorded once."""
    name = f"step-{number}"

    async def body() -> dict[str, int]:
        output = theatre.body(ctx.job_id, name, ctx.epoch)
        await anyio.sleep(seconds)
        return output

    theatre.record(ctx.job_id, name, await ctx.step(name, body))


async def fail(ctx: AsyncJobContext, _number: int, times: int) -> None:
    """Fail in the first attempts."""
    if ctx.attempt <= times:
        raise RuntimeError("it does not work yet")


async def give_up(_ctx: AsyncJobContext, _number: int) -> None:
    """Fail for good."""
    raise Fail("no attempt will help", code="sim.no")


async def call_off(_ctx: AsyncJobContext, _number: int) -> None:
    """Be no longer wanted."""
    raise Cancel("called off")


async def retry(ctx: AsyncJobContext, _number: int, seconds: float) -> None:
    """Ask for another attempt, once."""
    if ctx.attempt == 1:
        raise Retry(seconds)


async def snooze(ctx: AsyncJobContext, number: int, seconds: float) -> None:
    """Ask to go on later, once; a step remembers that."""
    asked = await ctx.step(f"snooze-{number}", lambda: ctx.epoch)
    if asked == ctx.epoch:
        raise Snooze(seconds)


async def rest(ctx: AsyncJobContext, number: int, seconds: float) -> None:
    """Sleep over restarts."""
    await ctx.sleep(seconds, name=f"rest-{number}")


async def signal(ctx: AsyncJobContext, number: int, name: str, seconds: float) -> None:
    """Wait for a signal; where none comes go on without."""
    try:
        theatre.record(ctx.job_id, f"signal-{number}", await ctx.wait_signal(name, timeout=seconds))
    except WaitTimeout:
        theatre.record(ctx.job_id, f"signal-{number}", "none came")


async def children(ctx: AsyncJobContext, number: int, scripts: list[Any], kind: str) -> None:
    """Hand parts out and wait for all of them."""
    for n, script in enumerate(scripts):
        await ctx.submit(kind, {"script": script}, name=f"part-{number}-{n}")
    found = await ctx.wait_children()
    theatre.record(ctx.job_id, f"children-{number}", [one.id for one in found])


async def report(ctx: AsyncJobContext, number: int) -> None:
    """Tell how far it is."""
    ctx.progress({"at": number})
    ctx.log(f"act {number}")


async def die(ctx: AsyncJobContext, _number: int, times: int) -> None:
    """Bring its own process down, in the first starts."""
    if ctx.epoch <= times:
        raise ProcessDied


async def freeze(ctx: AsyncJobContext, _number: int, seconds: float) -> None:
    """Stand still, as a process that was stopped, in the first start; its leash hears nothing of it meanwhile."""
    if ctx.epoch == 1:
        frozen.add(ctx.job_id)
        try:
            await anyio.sleep(seconds)
        finally:
            frozen.discard(ctx.job_id)


frozen: Final[set[str]] = set()
"""Jobs whose process stands still."""

ACTS: Final[dict[str, Any]] = {
    act.__name__: act
    for act in (*(nap, step, fail, give_up, call_off, retry, snooze, rest, signal, children, report, die, freeze),)
}
