"""The MCP servers: the actor that keeps a server's process or session, and fills its seat with tools."""

import os
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import anyio
import anyio.to_thread

from actors.mcp_seat import McpSeat
from runtime import log
from runtime.clock import Clock
from runtime.config import Loaded
from runtime.core.actor import Actor, handles
from runtime.core.spec import ChildSpec
from runtime.errors import ActorError, ConfigError, McpUnavailable, StoreError, ToolError
from runtime.policies import Backoff
from runtime.sandbox.parent import Command, CommandUnusable, child_env
from runtime.secrets import Redactor, resolve
from runtime.store import port
from runtime.tools.mcp import INSTALL, Offered, judge, pins_of, pins_text, sort_out
from schemas.base import Message
from schemas.config import McpSettings
from schemas.tools import PinnedTools, PinTools

if TYPE_CHECKING:
    from runtime.tools.mcp_link import Link

__all__ = ["McpSeat", "McpServer", "Relist", "load", "mcp_spec", "mcp_specs"]

RELIST_EVERY: Final = 1.0
"""Seconds between two listings: a server that never stops telling of changes is not always asked for them."""
SILENCE: Final = 300.0
"""Seconds for which a server behind HTTP may say nothing while an answer is due; more where a call may take longer."""
LAST_WORDS: Final = 500
"""Characters of what a server wrote to stderr that are told with its end."""

logger = log.get(__name__)


Opening: TypeAlias = Callable[[], AbstractAsyncContextManager["Link"]]
"""What opens a session."""


class Leaving(Exception):
    """We end the session ourselves."""


class Relist(Message, type="mcp.relist"):
    """The server's tools are to be listed: it is up, or says that they have changed."""


class House(Protocol):
    """What of a house an MCP server needs."""

    @property
    def store(self) -> port.Store: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def redactor(self) -> Redactor: ...
    @property
    def loaded(self) -> Loaded: ...


class Rooms(Protocol):
    """Where the seats are."""

    @property
    def mcp(self) -> dict[str, McpSeat]: ...


class Furnished(House, Protocol):
    """A house with a room for tools."""

    @property
    def toolroom(self) -> Rooms: ...


def mcp_specs(house: Furnished) -> tuple[ChildSpec, ...]:
    """Return one actor for each MCP server that the configuration names. Their supervisor should park what it cannot
    restart (`on_exhausted="quarantine"`): a server that does not work is no trouble of anybody else's.
    """
    return tuple(mcp_spec(house, name) for name in house.loaded.settings.tools.mcp)


def mcp_spec(house: Furnished, name: str) -> ChildSpec:
    """Return the actor of the MCP server *name*, which goes by the settings that are in force when it starts."""
    seat = house.toolroom.mcp.setdefault(name, McpSeat(name))
    return ChildSpec(f"mcp:{name}", lambda: McpServer(seat, house))


class McpServer(Actor):
    """Keeps one MCP server: its process behind a guard, whose end is this actor's crash, or its session over HTTP,
    which is opened again by itself.

    What no restart would mend (the extra, a secret or the program is missing) is told at the seat, and the actor stays.
    """

    def __init__(self, seat: McpSeat, house: House, environ: Mapping[str, str] | None = None) -> None:
        self.seat, self.house = seat, house
        self.environ = dict(os.environ if environ is None else environ)
        self.link: Link | None = None
        self.listed = anyio.Event()
        self.said: deque[str] = deque(maxlen=1)
        self.asked = False
        self.found: dict[str, Offered] = {}
        self.refused: dict[str, str] = {}
        self.starting = anyio.CancelScope()
        self.asked_at = float("-inf")
        self.over = anyio.Event()

    @property
    def settings(self) -> McpSettings:
        """Return the server's table."""
        return self.house.loaded.settings.tools.mcp[self.seat.name]

    async def on_start(self) -> None:
        self.ctx.start(self._serve, name="session")

    async def on_stop(self, reason: str) -> None:
        if self.link is not None:  # so that the server may end by itself; without one there is nobody to wait for
            self.link.lose(Leaving("its actor crashed" if reason == "crash" else "it was stopped"))
            await self.over.wait()

    @handles
    async def relist(self, message: Relist) -> None:
        """Take the tools as the server lists them now."""
        self.asked = False
        link = self.link
        if link is None:
            return
        try:
            with anyio.fail_after(self.settings.start_timeout / 1000):
                listing = await link.tools()
        except (ToolError, TimeoutError) as error:
            reason = str(error) or "it does not list its tools in time"
            logger.warning("mcp_tools_not_listed", server=self.seat.name, reason=reason)
            if not self.listed.is_set():
                link.lose(RuntimeError(reason))
            return
        self.found, self.refused = sort_out(self.seat.name, listing)
        await self._take()
        if link is self.link and not link.gone.is_set():
            self.starting.deadline = float("inf")
            self.seat.came_up(link)
            if not self.listed.is_set():
                logger.info("mcp_server_ready", server=self.seat.name, tools=len(self.seat.tools))
                self.listed.set()

    @handles
    async def pin(self, message: PinTools) -> PinnedTools:
        """Take what was withheld."""
        seat = self.seat
        if self.link is None or not self.listed.is_set():
            raise McpUnavailable(
                f"the MCP server {seat.name} is not up: {seat.trouble or 'it starts'}", retry_after=1.0
            )
        changed = tuple(sorted(seat.changed))
        pins = pins_of(await self.house.store.setting(self._key))
        pins |= {change.now.name: change.now.digest for change in seat.changed.values()}
        await self.house.store.commit((port.PutSetting(self._key, pins_text(pins)),))
        await self._take()
        logger.info("mcp_tools_pinned", server=seat.name, changed=changed)
        return PinnedTools(tools=tuple(sorted(seat.tools)), changed=changed)

    @property
    def _key(self) -> str:
        return f"mcp/{self.seat.name}"

    async def _take(self) -> None:
        """Hold what was found against the pins, keep what is new, and show the rest to agents."""
        name, trust = self.seat.name, self.settings.trust
        pins = pins_of(await self.house.store.setting(self._key))
        verdict = judge(self.found, pins, trust=trust)
        if verdict.pins != pins:
            try:
                await self.house.store.commit((port.PutSetting(self._key, pins_text(verdict.pins)),))
            except StoreError as error:  # the tools can be used; they will be new once more
                logger.warning("mcp_pins_not_kept", server=name, reason=error.detail)
        if verdict.fresh:
            logger.info("mcp_tools_first_seen", server=name, tools=verdict.fresh)
        if verdict.changed and verdict.changed != self.seat.changed:
            logger.warning("mcp_tools_changed", server=name, tools=tuple(verdict.changed), withheld=not trust)
        if self.refused and not self.refused.items() <= self.seat.missing.items():
            logger.warning("mcp_tools_refused", server=name, tools=self.refused)
        self.seat.take(self.found, {} if trust else verdict.changed, self.refused, self.settings.call_timeout / 1000)

    # -- the session ---------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            await self._keep_up(await self._opening())
        except (McpUnavailable, CommandUnusable, ConfigError) as trouble:  # nothing a restart would mend
            logger.warning("mcp_server_unusable", server=self.seat.name, reason=trouble.detail)
            self.seat.went_down(trouble.detail)
        except Leaving:
            pass
        except Exception as error:
            self.seat.went_down(self._last_words(error))
            raise
        finally:
            if self.seat.trouble is None:
                self.seat.went_down("it was stopped")
            self.over.set()

    async def _keep_up(self, opening: Opening) -> None:
        """Hold a session. One over HTTP is opened again when it is lost: the network's trouble is nobody's crash."""
        backoff, tries = Backoff(base=1.0, max=60.0, jitter=0.5), 0
        while True:
            try:
                await self._hold(opening)
            except McpUnavailable as error:
                self.seat.went_down(f"{error.detail}; it is tried again")
                logger.warning("mcp_server_lost", server=self.seat.name, reason=error.detail)
            tries = 0 if self.listed.is_set() else tries + 1
            self.listed = anyio.Event()
            await anyio.sleep(backoff.delay(tries, self.house.clock.random()))

    async def _hold(self, opening: Opening) -> None:
        """Hold one session until it is over, and raise why. It is up when its tools are taken, which a handler does."""
        limit = self.settings.start_timeout / 1000
        with anyio.CancelScope(deadline=anyio.current_time() + limit) as self.starting:
            try:
                async with opening() as link:
                    self.link = link
                    await self._changed()
                    await link.gone.wait()
                    self.link = None
                    self.seat.went_down(str(link.error))  # now: to end it may take a while
                    raise link.error
            finally:
                self.link = None
        late = f"it did not come up within {limit:g} s"
        raise McpUnavailable(late) if self.settings.url is not None else TimeoutError(late)

    async def _changed(self) -> None:
        """Have the tools listed, at once or a while after the last time."""
        if not self.asked:
            self.asked = True
            now = self.house.clock.monotonic()
            wait = max(0.0, self.asked_at + RELIST_EVERY - now)
            self.asked_at = now + wait
            with suppress(ActorError):  # we end
                self.ctx.after(wait, Relist())

    async def _opening(self) -> Opening:
        """Return what opens a session. Raises McpUnavailable without the extra, SecretUnavailable, and ConfigError for
        a secret that no header can hold.
        """
        settings = self.settings
        wire = await load("runtime.tools.mcp_stdio" if settings.url is None else "runtime.tools.mcp_http")
        if settings.url is not None:
            url, silence = settings.url, max(SILENCE, settings.call_timeout / 1000 + 10)
            headers = {name: self._header(name, reference) for name, reference in settings.headers.items()}
            return lambda: wire.over_http(url, headers, changed=self._changed, silence=silence)
        env = child_env(self.environ, extra={name: self._secret(one) for name, one in settings.env.items()})
        folder = self.house.loaded.folder / (settings.cwd or ".")
        command = Command(tuple(settings.command), cwd=str(folder), env=env)
        return lambda: wire.over_stdio(command, changed=self._changed, hear=self._hear)

    def _secret(self, reference: str) -> str:
        secret = resolve(reference, self.environ)
        self.house.redactor.register(secret)
        return secret.reveal()

    def _header(self, name: str, reference: str) -> str:
        value = self._secret(reference).strip()
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(f"the header {name} of {self.seat.name} holds a character that no header has")
        return value

    def _hear(self, data: bytes) -> None:
        text = data.decode(errors="replace").strip()
        if text:
            self.said.append(self.house.redactor.text(text)[-LAST_WORDS:])  # cut last: half a secret is none it knows
            logger.debug("mcp_server_said", server=self.seat.name, text=text[:2000])

    def _last_words(self, error: Exception) -> str:
        said = f"; it said: {self.said[-1]}" if self.said else ""
        return f"{str(error) or type(error).__name__}{said}"


async def load(room: str) -> ModuleType:
    """Return the module *room*, which speaks MCP. Raises McpUnavailable where the SDK is not there.

    Loading it takes the better part of a second, so a thread does it.
    """
    try:
        return await anyio.to_thread.run_sync(import_module, room)
    except ImportError as error:
        raise McpUnavailable(f"MCP needs an extra: {INSTALL} ({error})") from error
