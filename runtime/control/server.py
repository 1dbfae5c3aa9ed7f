"""The control server: a thread and an event loop of its own, so that it answers while the actors' loop is blocked."""

# asyncio by name, because the server is uvicorn's protocol on the transports, timers and servers of an asyncio loop.
import asyncio
import logging
import resource
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from runtime.control.app import App
from runtime.control.backend import Limits
from runtime.control.exchange import Line
from runtime.control.listener import Listener, bind, is_allowed, peer_of
from runtime.control.replies import Refusal, problem_reply
from runtime.errors import Denied, Draining, UnderstudyError
from runtime.log import get

SPARE_FILES: Final = 64
"""File descriptors that are left for everything else when many clients connect."""

BACKLOG: Final = 128

GRACE: Final = 0.5
"""Seconds for answers to leave after a stop has cut off what they waited for."""

_log = get(__name__)
_quiet = logging.getLogger(__name__ + ".http")
_quiet.setLevel(logging.ERROR)


class State(ServerState):
    """What the connections of one server share. `empty` is set whenever none is open."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self.app = app
        self.room = _room(app.limits)
        self.stopping = False
        self.empty = asyncio.Event()


class Protocol(H11Protocol):
    """HTTP/1.1 on one connection: who calls, how many there are, how long a request may take, and readable refusals."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        self._line = Line()
        super().__init__(config, state, {"line": self._line})
        self._state = state
        self._limits = state.app.limits
        self._deadline: asyncio.TimerHandle | None = None
        self.logger = _quiet  # uvicorn warns of every unreadable request, and one can send those without end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._state.empty.clear()
        self._line.peer, uid = peer_of(transport.get_extra_info("socket"))
        if not is_allowed(uid):
            _log.warning("peer_denied", uid=uid)
            self._refuse(Denied("Only the daemon's own user and root may connect."))
        elif self._state.stopping:
            self._refuse(Draining())
        elif len(self.connections) > self._state.room:
            self._refuse(Refusal("request.overloaded", f"There are {self._state.room} connections already."))
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        self._line.lose()
        if not self.connections:
            self._state.empty.set()

    def handle_events(self) -> None:
        super().handle_events()
        if self._is_receiving():
            self._arm()
        else:
            self._disarm()
            if not self.conn.trailing_data[0]:
                self.flow.resume_reading()  # a large body paused it, and a hang-up is seen by reading only

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP. Called by uvicorn while it handles h11's error, which knows more than *msg*."""
        error = sys.exception()
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(Refusal("request.too_large", f"The headers are over {self._limits.headers} bytes."))
        else:
            self._refuse(Refusal("request.malformed", msg))

    def _is_receiving(self) -> bool:
        if self.conn.their_state is h11.SEND_BODY:
            return True
        return self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._limits.request, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE and not self._is_receiving():
            self.transport.close()  # not a byte came, so there is no request to answer
            return
        self._refuse(Refusal("request.timeout", f"The request took over {self._limits.request:g} seconds to arrive."))

    def _refuse(self, error: UnderstudyError) -> None:
        """Answer with *error*, if nothing has been answered yet, and close."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the app is told that its client left, and writes no more
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self._write(error)
        self.transport.close()

    def _write(self, error: UnderstudyError) -> None:
        identity = self._state.app.new_id()
        status, headers, body = problem_reply(error, identity)
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        headers += self._state.app.marks(identity)
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")


class ControlServer:
    """Serves *app* on a Unix socket at *path*, in a thread of its own.

    The caller holds the lock of the socket from before `start` until after `stop`.
    """

    def __init__(self, app: App, path: Path) -> None:
        self.path = path
        self._app = app
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._timeout = 0.0

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends by `stop` alone, unless something is very wrong (the log has it)."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Bind, and return when connections are accepted. Raises `HomeUnusable` and `AlreadyRunning`."""
        listener = bind(self.path)
        accepting: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(listener, accepting), name="control", daemon=True)
        self._thread.start()
        accepting.result()

    def stop(self, timeout: float = 5.0) -> None:
        """End streams with `daemon.draining`, wait *timeout* seconds for calls under way, close and remove the socket.

        Calls that are still under way then are answered `daemon.draining` too. Blocks until the thread has ended, so it
        must not be called on the actors' loop: the calls wait for that.
        """
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._timeout = timeout
        with suppress(RuntimeError):  # the loop is closed: it ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def _main(self, listener: Listener, accepting: "Future[None]") -> None:
        try:
            asyncio.run(self._serve(listener, accepting))
        except Exception as error:  # noqa: BLE001  # handed to whoever started us, or to the log: a thread has no caller
            if not accepting.done():
                accepting.set_exception(error)
            else:
                _log.exception("control_failed")
        finally:
            listener.unlink()
            listener.socket.close()

    async def _serve(self, listener: Listener, accepting: "Future[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        state = State(self._app)
        config = _config(self._app)
        server = await self._loop.create_server(lambda: Protocol(config, state), sock=listener.socket, backlog=BACKLOG)
        accepting.set_result(None)
        await self._stop.wait()
        listener.unlink()
        server.close()
        await self._drain(state)

    async def _drain(self, state: State) -> None:
        state.stopping = True
        self._app.end_streams()
        for connection in tuple(state.connections):
            if not connection.transport.is_closing():
                connection.shutdown()
        await _settled(state, self._timeout)
        self._app.close()
        await _settled(state, GRACE)
        for connection in tuple(state.connections):
            connection.transport.abort()
        await _settled(state, GRACE)


async def _settled(state: State, seconds: float) -> None:
    """Wait until every answer has been given and every connection is closed, at most *seconds*."""
    try:
        async with asyncio.timeout(seconds):
            while state.tasks or state.connections:
                await (asyncio.wait(state.tasks) if state.tasks else state.empty.wait())
    except TimeoutError:
        pass  # what is left is ended less gently by the caller


def _config(app: App) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=H11Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=int(app.limits.keep_alive),
        h11_max_incomplete_event_size=app.limits.headers,
    )
    config.load()
    return config


def _room(limits: Limits) -> int:
    # A connection is accepted before it is counted, a whole backlog at worst; without a descriptor left for it the
    # accept loop would fail again and again.
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(1, files - BACKLOG - SPARE_FILES))
