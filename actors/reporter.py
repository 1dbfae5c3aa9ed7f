"""What an attempt tells the queue while it runs: how far it is, what it logs, and that it lives."""

import json
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import anyio

from runtime.attempt import Attempt, tell_surely
from runtime.core.actor import ActorContext
from runtime.core.owned import TaskHandle
from runtime.core.ref import Ref
from runtime.errors import ActorError, StoreError, whole
from schemas.base import Request
from schemas.chat import MOST_TOKENS
from schemas.jobs import MAX_LOG_LINES, Claimed, JobHeard, JobLogged, JobProcess, JobProgress

TELL_EVERY: Final = 0.02
HEARD_EVERY: Final = 1.0
"""Seconds: how often the queue is told at most that a process lives; more often where the lease is short."""


class Reporter:
    """Passes on what one attempt tells. What comes in a burst is one message; of more lines than are kept of a job the
    oldest go. What an attempt says after its lease was lost goes nowhere.
    """

    def __init__(
        self, job: Claimed, attempt: Attempt, ctx: ActorContext, queue: Ref, now: Callable[[], int], lease: float
    ) -> None:
        self.used: int | None = None
        self._job, self._attempt, self._ctx, self._queue, self._now = job, attempt, ctx, queue, now
        self._lines: deque[tuple[int, str, str]] = deque(maxlen=MAX_LOG_LINES)
        self._progress: JobProgress | None = None
        self._sender: TaskHandle | None = None
        self._beat_at = -math.inf
        self._beat_every = min(HEARD_EVERY, lease / 4)  # a beat that comes a little early is not left out

    def progress(self, value: Any) -> None:
        """Tell how far it is; only the latest is kept. Raises TypeError or ValueError for what JSON cannot say."""
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what is no JSON is refused where it is said
        self.heard()
        self._progress = JobProgress(self._job, value)
        self._soon()

    def log(self, text: str, level: str = "info") -> None:
        """Write a line to the job's log."""
        self.heard()
        self._lines.append((self._now(), whole(level), whole(text)))
        self._soon()

    def tokens(self, used: int) -> None:
        """Keep what was used. Raises ValueError below 0 and beyond what any model takes."""
        if not 0 <= used <= MOST_TOKENS:
            raise ValueError(f"tokens used are 0 or more, and at most {MOST_TOKENS}")
        self.heard()
        self.used = used

    def heard(self) -> None:
        """Note that the job's code shows that it lives."""
        self._attempt.alive()

    def beat(self) -> None:
        """Tell that the attempt's process lives, though its code may be silent; at most once a second."""
        now = anyio.current_time()
        if now - self._beat_at >= self._beat_every and not self._attempt.lost:
            self._beat_at = now
            with suppress(ActorError):  # the queue is gone; whatever takes its place knows nothing of this attempt
                self._queue.tell_nowait(JobHeard(self._job))

    def silence(self) -> None:
        """Say nothing more: the lease is lost."""
        self._attempt.lost = True

    def _soon(self) -> None:
        if self._sender is None or self._sender.done:
            self._sender = self._ctx.start(self._send, name=f"reports of {self._job.id}")

    async def _send(self) -> None:
        while self._lines or self._progress is not None:
            await self._tell()
            await anyio.sleep(TELL_EVERY)

    async def _tell(self) -> None:
        progress, self._progress = self._progress, None
        lines = tuple(self._lines)
        self._lines.clear()
        if self._attempt.lost:
            return
        try:
            if progress is not None:
                await tell_surely(self._queue, progress)
            if lines:
                await tell_surely(self._queue, JobLogged(self._job, lines))
        except ActorError:
            return  # the queue is gone; then these words are too

    async def close(self) -> None:
        """Tell the rest, before it is told how the attempt ended."""
        if self._sender is not None:
            self._sender.cancel()
            await self._tell()

    async def started(self, pgid: int, started: int, kept: bool) -> bool:
        """Have the process group kept before its work begins.

        False where the attempt no longer owns the job, or where it cannot be kept now: then nothing begins, and the
        attempt does not count.
        """
        try:
            # Answered though it is a plain message: a request would be built by pydantic for every child.
            return await self._queue.ask(cast(Request[bool], JobProcess(self._job, pgid, started, kept)))
        except (StoreError, ActorError):
            return False
