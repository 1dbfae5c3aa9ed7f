"""Where agents get their tools: built in, functions of the user's, MCP servers; and the folders and notes they work
on.
"""

from pathlib import Path
from typing import Any, Final

from actors.mcp_seat import McpSeat
from actors.together import DESCRIBED, elsewhere
from runtime.clock import Clock
from runtime.errors import ToolInvalid, UnderstudyError
from runtime.store import port
from runtime.tools.builtin import builtin_tools
from runtime.tools.functions import load_tool
from runtime.tools.schema import mistakes
from runtime.tools.tool import Tool, Toolbox
from schemas.config import AgentSettings, Settings
from schemas.tools import Trait

RECALLED: Final = 20


class Notes:
    """What one agent remembers: the `runtime.tools.tool.Surroundings` of its calls."""

    def __init__(self, agent: str, store: port.Store, clock: Clock) -> None:
        self._agent, self._store, self._clock = agent, store, clock

    async def remember(self, key: str, text: str | None) -> None:
        await self._store.commit((port.PutNote(self._agent, key, text, self._clock.now()),))

    async def recall(self, query: str, limit: int) -> list[tuple[str, str]]:
        words = tuple(query.lower().split())
        rows = await self._store.notes(self._agent, words=words, limit=min(limit, RECALLED))
        return [(row.key, row.text) for row in rows]


class Toolroom:
    """The tools of all agents.

    mcp  the seats of the MCP servers that the configuration names, by name
    """

    def __init__(self, settings: Settings, folder: Path, home: Path, store: port.Store, clock: Clock) -> None:
        self._folder, self._home, self._store, self._clock = folder, home, store, clock
        self.mcp: dict[str, McpSeat] = {name: McpSeat(name) for name in settings.tools.mcp}
        self._builtin: dict[str, Tool] = {}
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Go by *settings* from now on; MCP servers that are new need a new start."""
        self._builtin = builtin_tools(fetch_hosts=settings.tools.fetch_hosts) | {
            name: _of_the_turn(name) for name in DESCRIBED
        }

    async def ready(self, settings: AgentSettings) -> None:
        """Wait until the MCP servers of an agent are up, or are known not to be; for a while."""
        for server in {name.partition("/")[0] for name in settings.tools if "/" in name}:
            if (seat := self.mcp.get(server)) is not None:
                await seat.ready()

    def toolbox(self, settings: AgentSettings) -> Toolbox:
        """Return what an agent has now; what cannot be had is told in `missing`."""
        box = Toolbox()
        for name in settings.tools:
            try:
                found = self._find(name)
            except UnderstudyError as error:
                box.missing[name] = error.detail
                continue
            if isinstance(found, str):
                box.missing[name] = found
            else:
                box.tools[found.name] = found
        if box.tools and "results.read" not in box.tools:  # whoever has results can read on
            box.tools["results.read"] = self._builtin["results.read"]
        return box

    def _find(self, name: str) -> Tool | str:
        """Return the tool *name*, or why it is not there. Raises LoadFailed and other errors of ours."""
        server, slash, _ = name.partition("/")
        if slash:
            seat = self.mcp.get(server)
            if seat is None:
                return f"there is no MCP server {server!r} under [tools.mcp]"
            return seat.tools.get(name) or seat.why_not(name)
        if ":" in name:
            return load_tool(name, self._folder)
        return self._builtin.get(name) or f"there is no tool {name!r}; built in are {', '.join(sorted(self._builtin))}"

    def workdir(self, agent: str, settings: AgentSettings) -> Path:
        """Return the folder that an agent's file tools see; it is made where it is not there."""
        path = self._home / "work" / agent if settings.workdir is None else self._folder / settings.workdir
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    def surroundings(self, agent: str) -> Notes:
        """Return the notes of an agent."""
        return Notes(agent, self._store, self._clock)


def _of_the_turn(name: str) -> Tool:
    description, schema = DESCRIBED[name]

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := mistakes(arguments, schema):
            raise ToolInvalid("; ".join(wrong), errors=wrong)
        return arguments

    traits: frozenset[Trait] = frozenset({"untrusted"}) if name in ("agents.ask", "jobs.await") else frozenset()
    return Tool(name, description, schema, elsewhere, check, effect="idempotent", traits=traits)
