"""The daemon: locks, the tree, the control socket, signals, and an orderly end."""

import fcntl
import gc
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.to_thread

from runtime import log
from runtime.clock import Clock, SystemClock
from runtime.config import Loaded
from runtime.control import wire
from runtime.control.app import App
from runtime.control.bridge import Bridge
from runtime.control.server import ControlServer
from runtime.core.actor import Actor
from runtime.core.spec import ChildSpec, SupervisorSpec
from runtime.core.system import ActorSystem
from runtime.desk import Desk
from runtime.errors import ActorError, AlreadyRunning, HomeUnusable, RestartLimitReached, UnderstudyError
from runtime.events import EventBus
from runtime.house import House
from runtime.secrets import Redactor
from runtime.store.port import Store
from runtime.store.sqlite.store import SqliteStore
from runtime.version import VERSION
from runtime.watchdog import Watchdog
from schemas.codes import EXIT_OK, EXIT_ROOT_EXHAUSTED
from schemas.system import Happened, Reload

DATABASE: Final = "understudy.db"
FAILED_BOOTS: Final = 3
"""After this many starts in a row that failed by themselves, nobody of the user's is started: safe mode."""

logger = log.get(__name__)

H = TypeVar("H", bound=House)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the daemon brings to the house; the cast adds what it needs."""

    boot: str
    home: Path
    store: Store
    bus: EventBus
    clock: Clock
    redactor: Redactor
    loaded: Loaded
    started_at: int


class Cast(Protocol):
    """Who plays: the package that is run on this stage."""

    def company(self, parts: Parts) -> Any:
        """Return the house, furnished."""
        ...

    def tree(
        self, house: Any, stop: Callable[[bool], None], last: tuple[ChildSpec, ...], *, safe: bool
    ) -> SupervisorSpec:
        """Return the supervision tree; *last* are our own children, started after all others."""
        ...


def run(loaded: Loaded, cast: Cast, *, console: bool = True) -> int:
    """Run the daemon until it is told to stop; return its exit code.

    Raises AlreadyRunning where another daemon has this home, HomeUnusable, StoreError. Nothing was changed then.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold every secret
    home = prepare_home(wire.state_dir(os.environ))
    socket = wire.socket_path(os.environ)
    with locked(home / "lock", home), locked(socket.with_name(socket.name + ".lock"), home):
        redactor = Redactor()
        log.setup(loaded.settings.runtime.log_level, console=console, file=home / "daemon.log", redactor=redactor)
        try:
            return anyio.run(partial(Daemon(loaded, cast, home, socket, redactor).serve), backend="asyncio")
        finally:
            log.close()


def calm_collector() -> None:
    """Leave what was loaded out of every later garbage collection, and collect less often: a tenth of a job's time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def prepare_home(home: Path) -> Path:
    """Make the state directory ours alone. Raises HomeUnusable with what is in the way."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.lstat()
        if found.st_uid != os.getuid():
            raise HomeUnusable(
                f"{home} belongs to uid {found.st_uid}; name another one with UNDERSTUDY_HOME", path=str(home)
            )
        if found.st_mode & 0o077:
            home.chmod(0o700)
    except OSError as error:
        raise HomeUnusable(f"{home} cannot be used: {error.strerror}", path=str(home)) from error
    return home


@contextmanager
def locked(path: Path, home: Path) -> Iterator[None]:
    """Hold the lock file *path* for as long as the context is open; a pid inside is for people, the lock decides."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HomeUnusable(f"{path} cannot be used: {error.strerror}", path=str(path)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(
            f"a daemon (pid {pid or '?'}) already runs on {home}; it was not touched", pid=pid
        ) from None
    try:
        with suppress(OSError):  # a full disk has no room for a pid, and the lock holds without one
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Daemon:
    """One run of the daemon, from its start to its end."""

    def __init__(self, loaded: Loaded, cast: Cast, home: Path, socket: Path, redactor: Redactor) -> None:
        self.home, self.socket, self.loaded = home, socket, loaded
        clock = SystemClock()
        self.house: House = cast.company(
            Parts(
                boot=clock.new_id(),
                home=home,
                store=SqliteStore(home / DATABASE, durability=loaded.settings.runtime.durability),
                bus=EventBus(),
                clock=clock,
                redactor=redactor,
                loaded=loaded,
                started_at=clock.now(),
            )
        )
        self.boots = Boots(home / "boots.json")
        self.safe = self.boots.failed >= FAILED_BOOTS
        control = ChildSpec("control", partial(Control, self))
        self.system = ActorSystem(
            cast.tree(self.house, self.stop, (control,), safe=self.safe), clock=clock, on_event=self._happened
        )
        self.watchdog = Watchdog(who_is_at_work)
        self.desk = Desk(self.house, self.system, self.watchdog)
        if self.safe:
            self.desk.safe_mode = f"the last {self.boots.failed} starts failed; agents and workers are not started"
        self.server: ControlServer | None = None

    async def serve(self) -> int:
        """Run until stopped; return the exit code."""
        import asyncio  # the watchdog watches an asyncio loop

        self.watchdog.start(asyncio.get_running_loop())
        failed = False
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._signals)
                await self._play()
                tasks.cancel_scope.cancel()
        except* RestartLimitReached as group:
            logger.critical("root_exhausted", reason=str(first_of(group)))
            self.boots.note_failure()
            failed = True
        finally:
            self.watchdog.stop()
        if self.house.unusable is not None:
            raise self.house.unusable
        return EXIT_ROOT_EXHAUSTED if failed else EXIT_OK

    async def _play(self) -> None:
        """Run the system to its end."""
        try:
            async with anyio.create_task_group() as tasks:
                try:
                    await tasks.start(self.system.run)
                except RuntimeError:  # it was stopped before it had come up
                    if not self.system.stopping:
                        raise
                else:
                    self._ready()
        finally:
            if self.server is not None:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self.server.stop)
        if self.system.unstopped:
            logger.warning("not_stopped_in_time", what=self.system.unstopped)
        logger.info("daemon_stopped")

    def _ready(self) -> None:
        self.desk.ready = True
        calm_collector()
        self.boots.note_success()
        logger.info(
            "daemon_ready",
            version=VERSION,
            pid=os.getpid(),
            socket=str(self.socket),
            agents=len(self.house.loaded.settings.agents),
            **({"safe_mode": True} if self.safe else {}),
        )

    def stop(self, now: bool) -> None:
        """Begin the end; called again with *now*, hurry it."""
        if not self.house.draining:
            logger.info("daemon_stopping", now=now)
        self.house.draining = True
        self.system.stop(now=now)

    async def _signals(self) -> None:
        """TERM and INT stop, a second one hurries; HUP reloads, unless we are stopping already."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    self.stop(self.house.draining)
                elif not self.house.draining:
                    await self._reload()

    async def _reload(self) -> None:
        try:
            result = await self.system.ref("system").ask(Reload())
        except UnderstudyError as error:
            logger.error("reload_refused", reason=error.detail)
        else:
            logger.info("reloaded", **result.model_dump())

    def _happened(self, kind: str, subject: str, data: dict[str, Any]) -> None:
        """Log what happens to actors, and have the keeper write it down."""
        level = "error" if kind in ("actor.crashed", "actor.quarantined", "supervisor.exhausted") else "debug"
        getattr(logger, level)(kind.replace(".", "_"), name=subject, **{k: v for k, v in data.items() if k != "name"})
        if kind == "actor.dead_letter" and subject == "store":
            return  # the keeper's own dead letters would only beget more
        try:
            facts = {key: value for key, value in data.items() if key != "traceback"}
            self.system.ref("store").tell_nowait(Happened(kind=kind, subject=subject, data=facts))
        except ActorError:
            return  # it is not up yet, or no more: the log has it


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error that is no group itself."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def who_is_at_work(frame: Any) -> dict[str, Any] | None:
    """Return whose handler a stack frame belongs to, if it is one of the kernel's."""
    from runtime.core.incarnation import Incarnation

    life = frame.f_locals.get("self")
    if not isinstance(life, Incarnation) or life.envelope is None:
        return None
    return {"actor": life.name, "message": life.envelope.message.TYPE}


class Control(Actor):
    """Opens the control socket once everything else stands. At the daemon's end it stays open, to say that it is
    stopping.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def on_start(self) -> None:
        if self.daemon.server is not None:
            return
        app = App(self.daemon.desk, Bridge.here())
        server = ControlServer(app, self.daemon.socket)
        await anyio.to_thread.run_sync(server.start)
        self.daemon.server = server


class Boots:
    """How many starts in a row failed by themselves. A kill from outside leaves no note and so never counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.failed = int(json.loads(path.read_bytes())["failed"])
        except (OSError, ValueError, KeyError, TypeError):
            self.failed = 0

    def note_failure(self) -> None:
        """This start failed by itself. A disk that does not take the note is the reason, and no case for safe mode."""
        try:
            self.path.write_text(json.dumps({"failed": self.failed + 1}), encoding="utf-8")
        except OSError as error:
            logger.error("boot_not_noted", reason=error.strerror)

    def note_success(self) -> None:
        """This start came to be ready."""
        if self.failed:
            self.path.unlink(missing_ok=True)
