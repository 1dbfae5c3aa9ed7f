"""Runs a program for a tool: argv, the agent's folder, a small environment; its group ends with the call."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio

from runtime.errors import ToolError
from runtime.sandbox.parent import Command, CommandUnusable, Exit, child_env, spawn

MAX_OUTPUT: Final = 100_000
"""Bytes of each stream that are kept: the first half and the last half."""
GRACE: Final = 2.0


class Kept:
    """The beginning and the end of a stream."""

    def __init__(self) -> None:
        self._head, self._tail, self._left_out = bytearray(), bytearray(), 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        room = MAX_OUTPUT // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if (over := len(self._tail) - MAX_OUTPUT // 2) > 0:
            del self._tail[:over]
            self._left_out += over

    @property
    def text(self) -> str:
        """What was kept."""
        gap = f"\n[{self._left_out} bytes are left out]\n" if self._left_out else ""
        return self._head.decode(errors="replace") + gap + self._tail.decode(errors="replace")


async def run(
    argv: tuple[str, ...], folder: Path, extra: Mapping[str, str] | None = None, stdin: bytes = b""
) -> tuple[Exit, str, str]:
    """Run *argv* in *folder*, have it read *stdin*, and return how it ended and what it wrote.

    Raises ToolError where it cannot be started. Cancelled, it is asked to end, and killed with all it started after 2
    seconds.
    """
    out, err = Kept(), Kept()
    command = Command(argv, str(folder), child_env(extra=extra), stdin)
    try:
        async with spawn(
            command, on_output=lambda stream, data: (out if stream == "stdout" else err).add(data)
        ) as child:
            try:
                await child.go()
                ended = await child.wait()
            except anyio.get_cancelled_exc_class():
                with anyio.CancelScope(shield=True):
                    await child.terminate(GRACE)
                raise
    except CommandUnusable as error:
        raise ToolError(error.detail) from None
    return ended, out.text, err.text
