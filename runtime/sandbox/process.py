"""What is known of processes by their numbers, and how a group is ended that was started by a daemon now dead.

A number alone names nobody: it is given out again. So each look-up goes with the start time of the process.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KILL_WITHIN: Final = 2.0
_STEP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """One process as it was when looked at. `started` is in clock ticks since boot (macOS: hundredths since 1970)."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    zombie: bool
    terminal: bool


def start_time(pid: int) -> int:
    """Return when *pid* started (see `Process`); 0 when there is no such process."""
    process = look(pid)
    return process.started if process else 0


def host_boot() -> str:
    """Return what names this run of the machine: start times mean nothing across two of them. Empty where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def alive(pgid: int) -> bool:
    """Tell whether the process group has a member that is not a zombie."""
    return any(process.group == pgid and not process.zombie for process in table())


def descendants(pid: int) -> tuple[int, ...]:
    """Return the process ids of the children of *pid*, of their children, and so on. Orphans are not found."""
    return tuple(process.pid for process in _below({pid}, tuple(table())))


def kill_group(pgid: int, started: int) -> bool:
    """End what is left of a group whose leader was *pgid*, started at *started*; tell whether anything was killed.

    With the leader there, it must have that start time; its group and all its descendants are killed. With the leader
    gone, a member counts as ours only if the leader also led its session, it is no older and has no terminal: while
    such a member lives the number cannot be given out again. In doubt nothing is killed. Blocks until they are gone,
    at most `KILL_WITHIN` seconds: call it in a thread.
    """
    if pgid <= 1 or started <= 0 or pgid == os.getpgrp():
        return False
    doomed = {process.pid: process for process in _ours(pgid, started)}
    killed = bool(doomed)
    for _ in range(round(KILL_WITHIN / _STEP)):
        if not doomed:
            break
        for process in doomed.values():
            _kill(process)
        time.sleep(_STEP)
        # Looked for anew each round: whoever was forked meanwhile is a child of one of them or a member of the group.
        found = (*_ours(pgid, started), *filter(_same, doomed.values()))
        doomed = {process.pid: process for process in found if not process.zombie}
        doomed |= {process.pid: process for process in _below(set(doomed), tuple(table()))}
    return killed


def _ours(pgid: int, started: int) -> list[Process]:
    """Return the living of the group with all their descendants, if it is beyond doubt the one that was meant."""
    everyone = tuple(table())
    leader = next((process for process in everyone if process.pid == pgid), None)
    if leader is not None and leader.started != started:
        return []
    members = [process for process in everyone if process.group == pgid]
    if leader is None:
        members = [p for p in members if p.session == pgid and p.started >= started and not p.terminal]
    found = {process.pid: process for process in (*members, *_below({process.pid for process in members}, everyone))}
    return [process for process in found.values() if not process.zombie]


def _below(roots: set[int], everyone: Iterable[Process]) -> list[Process]:
    """Return all living descendants of *roots* among *everyone*."""
    children: dict[int, list[Process]] = {}
    for process in everyone:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting, seen = list(roots), set(roots)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                waiting.append(child.pid)
                if not child.zombie:
                    found.append(child)
    return found


def _same(process: Process) -> bool:
    """Tell whether that very process is still alive."""
    now = look(process.pid)
    return now is not None and now.started == process.started and not now.zombie


def _kill(process: Process) -> None:
    """Kill that very process. One that has gone, or belongs to another user, is left."""
    try:
        if sys.platform == "linux":
            handle = os.pidfd_open(process.pid)
            try:
                # The handle stays with who had the number when it was opened, so looking afterwards is safe.
                if _same(process):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
        elif _same(process):
            os.kill(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def table() -> Iterator[Process]:
    """Look at every process."""
    if sys.platform == "linux":
        pids: Iterable[int] = (int(name) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  # 4x as fast
    else:
        import psutil  # 20 ms, and needed only where there is no /proc

        pids = psutil.pids()
    for pid in pids:
        process = look(pid)
        if process is not None:
            yield process


def look(pid: int) -> Process | None:
    """Look at one process; None when there is none of that number."""
    if sys.platform != "linux":
        return _ask_psutil(pid)
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # called for every process; pathlib doubles it
            # The name, in parentheses, may itself hold spaces and parentheses.
            words = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    parent, group, session, terminal = map(int, words[1:5])
    return Process(pid, parent, group, session, int(words[19]), words[0] in b"ZX", terminal != 0)


def _ask_psutil(pid: int) -> Process | None:
    """Look at one process where there is no /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return Process(
                pid=pid,
                parent=process.ppid(),
                group=os.getpgid(pid),
                session=os.getsid(pid),
                started=round(process.create_time() * 100),
                zombie=process.status() == psutil.STATUS_ZOMBIE,
                terminal=process.terminal() is not None,
            )
    except (psutil.Error, ProcessLookupError, PermissionError):
        return None
