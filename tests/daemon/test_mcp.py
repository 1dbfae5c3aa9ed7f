"""Tools of an MCP server in the real daemon: asked for, allowed by hand or by configuration, gone with the daemon."""

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")
pytestmark = pytest.mark.daemon

SERVER = Path(__file__).parents[1] / "actors" / "mcp_server_tools.py"

CONFIG = """
[runtime]
pool = 1
child_pool = 1

[tools.mcp.sums]
command = ["{python}", "{server}", "{folder}"]

[agents.clerk]
role = "a clerk"
llm = {{ provider = "scripted", model = "clerk.toml" }}
tools = ["sums/add", "sums/greet"]
permissions = {{ "sums/add" = "allow" }}
"""

SCRIPT = """
[[steps]]
match_tool = "5"
reply = "It is five."

[[steps]]
match_tool = "hello"
reply = "Greeted."

[[steps]]
match = "add"
tool_calls = [{ name = "sums_add", arguments = { a = 2, b = 3 } }]

[[steps]]
tool_calls = [{ name = "sums_greet", arguments = { name = "Ada" } }]
"""


def test_an_agent_uses_the_tools_of_a_server(new_daemon: Any, wait_until: Any) -> None:
    daemon = new_daemon("")
    daemon.write(CONFIG.format(python=sys.executable, server=SERVER, folder=daemon.folder))
    (daemon.folder / "clerk.toml").write_text(SCRIPT)
    (daemon.folder / "clerk.toml").chmod(0o600)
    daemon.start()

    assert daemon.cli("ask", "clerk", "add").stdout.strip() == "It is five."

    job = daemon.submit("agent.message", args={"agent": "clerk", "message": {"text": "greet Ada"}})
    (asked,) = wait_until("a person is asked", lambda: daemon.call("GET", "/v1/approvals", status="pending"))
    assert asked["tool"] == "sums/greet"
    assert daemon.cli("approvals", "allow", asked["id"]).returncode == 0
    assert daemon.ended(job)["result"]["text"] == "Greeted."
    assert "mcp:sums" in daemon.cli("ps").stdout
    assert daemon.stop() == 0
    daemon.assert_alone()


def test_a_server_that_cannot_be_started_is_no_secret(new_daemon: Any, wait_until: Any) -> None:
    daemon = new_daemon("")
    config = CONFIG.format(python="./no-such-program", server=SERVER, folder=daemon.folder)
    daemon.write(config.replace("clerk.toml", "echo"))
    daemon.start()
    status = wait_until("it is told", lambda: (s := daemon.call("GET", "/v1/status"))["reasons"] and s)
    assert status["health"] == "degraded"
    (reason,) = status["reasons"]
    assert reason.startswith("the MCP server sums is not up: no such program: './no-such-program'")
    assert reason in daemon.cli("status").stdout
    assert daemon.cli("ask", "clerk", "hello").stdout.strip() == "hello"  # whoever does not need it goes on
    assert daemon.stop() == 0
