"""A thread that notices when the actors' loop stands still, and names the actor and the message that hold it."""

import asyncio  # it watches an asyncio loop from outside
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from runtime import log

CHECK_EVERY: Final = 0.25
BLOCKED_AFTER: Final = 1.0

logger = log.get(__name__)


class Watchdog:
    """Measures how late the loop is. `lag_ms` and `blocked` may be read from any thread.

    blocked  None, or {"actor", "message", "seconds", "stack"} while the loop has not answered for over a second
    """

    def __init__(self, suspect: Callable[[FrameType], dict[str, Any] | None]) -> None:
        self._suspect = suspect
        self._stop = threading.Event()
        self._answered = threading.Event()
        self._thread: threading.Thread | None = None
        self.lag_ms = 0.0
        self.blocked: dict[str, Any] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to watch *loop*; called in the loop's own thread."""
        watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, watched), name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; safe to call twice."""
        self._stop.set()
        self._answered.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop, watched: int) -> None:
        while not self._stop.wait(CHECK_EVERY):
            asked = time.monotonic()
            self._answered.clear()
            try:
                loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop has ended
                return
            if not self._answered.wait(BLOCKED_AFTER):
                self._wait_out(asked, watched)
            self.lag_ms = (time.monotonic() - asked) * 1000

    def _wait_out(self, asked: float, watched: int) -> None:
        """Say once who blocks the loop, then wait until it answers."""
        found, stack = self._look(watched)
        said = stack is None
        while not self._stop.is_set():
            seconds = time.monotonic() - asked
            self.blocked = {**found, "seconds": seconds, "stack": stack}
            self.lag_ms = seconds * 1000
            if not said:
                said = True
                logger.error("loop_blocked", **found, seconds=round(seconds, 1), stack=stack)
            if self._answered.wait(CHECK_EVERY):
                logger.warning("loop_freed", **found, seconds=round(time.monotonic() - asked, 1))
                break
        self.blocked = None

    def _look(self, watched: int) -> tuple[dict[str, Any], str | None]:
        """Return who is at work in the loop's thread, and the stack."""
        frame = sys._current_frames().get(watched)  # noqa: SLF001  # the documented way to another thread's stack
        if frame is None:
            return {"actor": "unknown", "message": None}, None
        stack = "".join(traceback.format_stack(frame, limit=12))
        at: FrameType | None = frame
        while at is not None:
            found = self._suspect(at)
            if found is not None:
                return found, stack
            at = at.f_back
        return {"actor": "unknown", "message": None}, stack
