"""The process that a worker keeps for the kinds of job that share one."""

from typing import Any, Final

from actors.company import Company
from actors.kinds import Kind
from runtime.core.actor import ActorContext
from runtime.core.owned import TaskHandle
from runtime.sandbox.kept import Kept
from runtime.sandbox.run import Answer, Ear, OnAsk, run_python
from schemas.jobs import Claimed

MOST_APART: Final = 1000


class Processes:
    """Runs functions: in a new process, or in the one that is kept, as the kind wants it."""

    def __init__(self, house: Company, ctx: ActorContext) -> None:
        self.house, self._ctx = house, ctx
        self._kept: Kept | None = None
        self._life: TaskHandle | None = None

    async def run(
        self,
        kind: Kind,
        job: Claimed,
        payload: dict[str, Any],
        ear: Ear,
        on_ask: OnAsk,
        *,
        timeout: float | None,
        grace: float,
    ) -> tuple[Answer, bool]:
        """Return what `run_python` returns, and whether the process was the job's own: what ended it is the job's doing
        then. Where it was not and died, the next attempt has its own.
        """
        apart = self.house.apart
        if kind.per_process == 1 or job.suspect or job.id in apart:
            apart.discard(job.id)
            return await run_python(payload, ear, on_ask, timeout=timeout, grace=grace), True
        while True:
            kept = self._process(payload["folder"], kind.per_process)
            own, order = kept.served == 0, payload | {"keep": kept.served + 1 < kind.per_process}
            said = await kept.run(order, ear, on_ask, timeout=timeout, grace=grace)
            if said is not None:
                break
        if not own and died(said):
            if len(apart) >= MOST_APART:
                apart.clear()
            apart.add(job.id)
        return said, own

    def _process(self, folder: str, jobs: int) -> Kept:
        """Return the kept process if it can take one of *jobs* more, else a new one in its place."""
        kept = self._kept
        if kept is not None and kept.usable and kept.folder == folder and kept.served < jobs:
            return kept
        if self._life is not None:
            self._life.cancel()
        self._kept = kept = Kept(folder)
        self._life = self._ctx.start(kept.live, name="the process that is kept")
        return kept


def died(said: Answer) -> bool:
    """Tell whether a process came to an end by a signal that was not ours, with no answer before."""
    return not said.answered and said.exit.code is None and not said.exit.killed_by_us
