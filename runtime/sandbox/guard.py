"""The small process between the daemon and a command, which sees to it that nothing of the command outlives either.

It is started anew for each command, so it imports little and nothing of ours. Its arguments are three file descriptors,
CONTROL, REPORTS and EXTRA, and BEAT: EXTRA becomes descriptor 3 of the command, or is -1; BEAT is every how many
milliseconds it tells that the command lives, or 0.

CONTROL, from the daemon: eight hex digits of length, then the marshalled `(argv, cwd, env)`, then single letters: `g`
lets the command begin, `t` sends its group SIGTERM. The end of the pipe, whoever caused it, kills everything.
REPORTS, to the daemon: lines of JSON. `{"pgid", "started"}` once the process exists and waits; `{"running"}` or
`{"failed": errno, "stage"}` after `g`; `{"beat"}` while the command is not stopped; `{"exit"}` or `{"signal"}`, with
`asked` (we ended it), when all is over.
"""

# `signal` and `ctypes` cost 5 ms each of a 12 ms start; `_signal` is the same thing without the enums, and ctypes is
# imported below while the daemon writes down our first report.
import _signal  # type: ignore[import-not-found]  # typeshed knows only the module around it
import fcntl
import marshal
import os
import select
import sys
import time  # this program is alone: no event loop, no virtual clock

TYPE_CHECKING = False  # importing it would cost as much again
if TYPE_CHECKING:
    from typing import NoReturn

EXTRA_FD = 3
LOWEST_FD = 10
KILL_WITHIN = 2.0
PR_SET_CHILD_SUBREAPER = 36


class Guard:
    """One command: the leader of its group, and the pipes to it and to the daemon."""

    def __init__(self, control: int, reports: int, beat: int) -> None:
        self.control = control
        self.reports = reports
        self.beat = beat
        self.bell, self.status, self.gate = -1, -1, -1
        self.leader = 0
        self.ending: int | None = None
        self.asked = False

    def start(self, argv: list[bytes], cwd: bytes | None, env: dict[bytes, bytes], extra: int) -> None:
        """Fork the command up to the gate before `exec` and report who it is."""
        self.bell = ring_on_child_exit()
        gate, self.gate = pipe()
        self.status, status = pipe()
        self.leader = os.fork()
        if self.leader == 0:
            os.close(self.gate)
            become(argv, cwd, env, gate, status, extra)
        for fd in (gate, status, extra):
            if fd >= 0:
                os.close(fd)
        let_go_of_streams()
        os.read(self.status, 1)
        self.tell(f'"pgid": {self.leader}, "started": {start_time(self.leader)}')

    def watch(self) -> None:
        """Serve the daemon until the command has ended or the daemon has."""
        poll = select.poll()
        for fd in (self.bell, self.status, self.control):
            poll.register(fd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(self.beat or None)]
            if not ready and state(self.leader) not in b"Tt":  # one that is stopped does nothing, so it is not heard of
                self.tell('"beat": true')
            if self.status in ready:
                poll.unregister(self.status)
                self.hear()
            if self.bell in ready:
                os.read(self.bell, 4096)
            if self.leader_ended():
                return
            if self.control in ready and not self.obey():
                self.asked = True
                return

    def hear(self) -> None:
        """Pass on whether the program began: the pipe closes at `exec`, and carries text only where that failed."""
        text = os.read(self.status, 64).decode()
        os.close(self.status)
        self.status = -1
        if text:
            stage, number = text.split()
            self.tell(f'"failed": {number}, "stage": "{stage}"')
        elif self.gate < 0:
            self.tell('"running": true')

    def obey(self) -> bool:
        """Do what the daemon says; false when it says nothing any more."""
        order = os.read(self.control, 1)
        if order == b"g":
            os.write(self.gate, order)
            os.close(self.gate)
            self.gate = -1
        elif order == b"t":
            self.asked = True
            self.signal_group(_signal.SIGTERM)
            self.signal_group(_signal.SIGCONT)  # a stopped process would sleep through its grace
        return bool(order)

    def leader_ended(self) -> bool:
        """Tell whether the leader is dead, without burying it: so long nobody else can get its number."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            if self.bury(self.leader):
                self.signal_group(_signal.SIGKILL)
            return self.ending is not None
        while True:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None or dead.si_pid == self.leader:
                return dead is not None
            self.bury(dead.si_pid)  # an orphan that came to us

    def bury(self, pid: int) -> bool:
        """Collect one dead child (-1 for any); false when none is dead. ChildProcessError: there are no children."""
        dead, status = os.waitpid(pid, os.WNOHANG)
        if dead == self.leader:
            self.ending = os.waitstatus_to_exitcode(status)
        return dead > 0

    def sweep(self) -> None:
        """Kill the group, then whoever is or becomes our child, until there is none. Bounded by `KILL_WITHIN`.

        Killing children only is enough and cannot hit a stranger: a child's number is its own until we bury it, and its
        own children, in new sessions too, come to us when it dies.
        """
        if self.ending is None:
            self.signal_group(_signal.SIGKILL)
        until = time.monotonic() + KILL_WITHIN
        try:
            while time.monotonic() < until:
                while self.bury(-1):
                    pass
                for pid in children():
                    send(os.kill, pid, _signal.SIGKILL)
                if select.select([self.bell], [], [], 0.05)[0]:
                    os.read(self.bell, 4096)
        except ChildProcessError:
            return

    def finish(self) -> None:
        """Report how the command ended."""
        if self.status >= 0 and self.ending is not None:
            self.hear()
        asked = "true" if self.asked else "false"
        ending = -_signal.SIGKILL if self.ending is None else self.ending
        name, number = ("exit", ending) if ending >= 0 else ("signal", -ending)
        self.tell(f'"{name}": {number}, "asked": {asked}')

    def signal_group(self, number: int) -> None:
        """Signal the whole group at once, so that nobody forks out of the way."""
        send(os.killpg, self.leader, number)

    def tell(self, members: str) -> None:
        """Write one line to the daemon; *members* are those of a JSON object (the module would cost 8 ms)."""
        try:
            os.write(self.reports, b"{%b}\n" % members.encode())
        except BrokenPipeError:
            pass  # the daemon is gone; the sweep that follows needs nobody to hear of it


def become(
    argv: list[bytes], cwd: bytes | None, env: dict[bytes, bytes], gate: int, status: int, extra: int
) -> "NoReturn":
    """Turn this forked copy into the command, once the gate opens."""
    stage = b"session"
    try:
        os.setsid()
        reset_signals()
        if extra >= 0:
            os.dup2(extra, EXTRA_FD)
        os.write(status, b".")
        if os.read(gate, 1) == b"g":
            stage = b"cwd"
            if cwd is not None:
                os.chdir(cwd)
            stage = b"exec"
            os.execvpe(argv[0], argv, env)  # noqa: S606  # a list of words, as the daemon was given it
    except OSError as error:
        os.write(status, b"%b %d" % (stage, error.errno or 0))
    except ValueError:  # a NUL within a word
        os.write(status, b"%b 22" % stage)
    finally:
        os._exit(127)


def reset_signals() -> None:
    """Undo what this interpreter and the daemon did to signals: `exec` would hand it down."""
    _signal.set_wakeup_fd(-1)
    for number in _signal.valid_signals():
        if _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def ring_on_child_exit() -> int:
    """Return a descriptor that becomes readable whenever a child has died."""
    bell, hammer = pipe()
    os.set_blocking(hammer, False)
    _signal.set_wakeup_fd(hammer, warn_on_full_buffer=False)
    _signal.signal(_signal.SIGCHLD, lambda number, frame: None)
    return bell


def let_go_of_streams() -> None:
    """Drop our copies of the command's stdin and stdout; stderr stays, for a traceback of our own."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0, inheritable=False)
    os.dup2(nowhere, 1, inheritable=False)
    os.close(nowhere)


def adopt_orphans() -> None:
    """Become the one to whom orphaned descendants fall. Where that cannot be had only the group is killed."""
    if sys.platform != "linux":
        return
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def start_time(pid: int) -> int:
    """Return when *pid* started, in clock ticks since boot; 0 where there is no /proc (the daemon asks elsewhere)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib would double our start
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


def state(pid: int) -> bytes:
    """Return the letter for what *pid* does: T is stopped. `?` where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # as above
            return file.read().rpartition(b")")[2].split()[0]
    except OSError:
        return b"?"


def children() -> list[int]:
    """Return our children's process ids, as far as the system tells."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:  # noqa: PTH123  # as above
            return [int(word) for word in file.read().split()]
    except OSError:
        return [int(name) for name in processes() if parent(name) == me]


def processes() -> list[str]:
    """Return the names of all processes in /proc; none where there is no /proc."""
    try:
        return [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # as above
    except OSError:
        return []


def parent(name: str) -> int:
    """Return the parent of a process in /proc; 0 when it has gone."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123  # as above
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def send(kill: object, pid: int, number: int) -> None:
    """Call *kill*; one who has gone, or is not ours to signal, is left alone."""
    try:
        kill(pid, number)  # type: ignore[operator]  # os.kill or os.killpg; Callable would cost an import
    except (ProcessLookupError, PermissionError):
        return


def pipe() -> tuple[int, int]:
    """Return a pipe of two high descriptors."""
    left, right = os.pipe()
    return lift(left), lift(right)


def lift(fd: int) -> int:
    """Move a descriptor out of the way of those the command will have; it is not inherited any more."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_FD)
    os.close(fd)
    return high


def read_exactly(fd: int, size: int) -> bytes:
    """Read *size* bytes; EOFError when the daemon is gone before."""
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def main() -> None:
    """Guard one command; exits."""
    try:
        serve()
    except EOFError:  # the daemon died while it told us what to start
        return
    os._exit(0)  # nothing is left to tidy up, and the daemon waits for us


def serve() -> None:
    """Guard the command that the daemon tells of."""
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_IGN)
    control, reports, extra = (lift(fd) if fd >= 0 else fd for fd in map(int, sys.argv[1:4]))
    guard = Guard(control, reports, int(sys.argv[4]))
    argv, cwd, env = marshal.loads(read_exactly(control, int(read_exactly(control, 8), 16)))  # noqa: S302  # our daemon's
    try:
        guard.start(argv, cwd, env, extra)
    except OSError as error:  # no room for another process
        guard.tell(f'"failed": {error.errno or 0}, "stage": "fork"')
        return
    adopt_orphans()
    guard.watch()
    guard.sweep()
    guard.finish()
