"""Words for a conversation in which a turn runs: refused, in its place, as if it had not been, or taken in by it."""

from typing import Any

import pytest

pytestmark = pytest.mark.daemon

CONFIG = """
[runtime]
pool = 1
child_pool = 1

[agents.slow]
role = "one who takes time"
llm = { provider = "scripted", model = "slow.toml" }
tools = ["kit:look"]
"""

SCRIPT = """
[[steps]]
match_tool = "looked"
reply = "I have looked."

[[steps]]
match = "look"
tool_calls = [{ name = "kit_look", arguments = {} }]

[[steps]]
match = "long"
reply = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
chunk_delay = 0.25

[[steps]]
reply = "short"
"""

TOOLS = """
import anyio
from pathlib import Path

from runtime.tools.functions import tool


@tool(effect="pure")
async def look() -> str:
    while not Path("go").exists():
        await anyio.sleep(0.02)
    return "looked"
"""


@pytest.fixture(scope="module")
def daemon(new_daemon: Any) -> Any:
    made = new_daemon(CONFIG, modules={"kit": TOOLS})
    (made.folder / "slow.toml").write_text(SCRIPT)
    (made.folder / "slow.toml").chmod(0o600)
    made.start()
    return made


def begun(daemon: Any, wait_until: Any, text: str, talk: str) -> str:
    """Have a turn run in a conversation; return its run."""
    message = {"text": text, "conversation": talk}
    job = daemon.submit("agent.message", args={"agent": "slow", "type": "agent.say", "message": message})
    wait_until("the turn runs", lambda: daemon.job(job)["steps"])
    return str(job)


def journal(daemon: Any, talk: str) -> list[tuple[str, str]]:
    found = daemon.call("GET", f"/v1/agents/slow/conversations/{talk}")
    return [(one["role"], one.get("content", "")) for one in found]


def test_words_may_be_refused(daemon: Any, wait_until: Any) -> None:
    run = begun(daemon, wait_until, "a long one", "a")
    refused = daemon.cli("ask", "slow", "and?", "--conversation", "a", "--when-busy", "reject")
    assert refused.returncode == 75
    assert "at work in this conversation" in refused.stderr
    assert daemon.cli("ask", "slow", "and?", "--conversation", "other", "--when-busy", "reject").stdout == "short\n"
    daemon.call("POST", f"/v1/runs/{run}/cancel", {})


def test_words_may_take_the_place_of_a_turn_and_what_it_said_is_kept(daemon: Any, wait_until: Any) -> None:
    run = begun(daemon, wait_until, "a long one", "b")
    asked = daemon.cli("ask", "slow", "stop it", "--conversation", "b", "--when-busy", "interrupt")
    assert asked.stdout == "short\n"
    assert daemon.job(run)["status"] == "cancelled"
    said = journal(daemon, "b")
    assert [role for role, _ in said] == ["user", "assistant", "user", "assistant"]
    assert said[1][1].startswith("one")
    assert said[1][1].endswith("[interrupted]")
    assert said[2:] == [("user", "stop it"), ("assistant", "short")]


def test_a_turn_may_be_ended_as_if_it_had_not_been(daemon: Any, wait_until: Any) -> None:
    run = begun(daemon, wait_until, "a long one", "c")
    asked = daemon.cli("ask", "slow", "never mind", "--conversation", "c", "--when-busy", "rollback")
    assert asked.stdout == "short\n"
    assert daemon.job(run)["status"] == "cancelled"
    assert journal(daemon, "c") == [("user", "never mind"), ("assistant", "short")]


def test_words_that_steer_are_answered_by_the_turn_that_took_them_in(daemon: Any, wait_until: Any) -> None:
    import threading

    run = begun(daemon, wait_until, "look", "d")
    told: list[Any] = []

    def steer() -> None:
        told.append(daemon.cli("ask", "slow", "and hurry", "--conversation", "d", "--when-busy", "steer"))

    thread = threading.Thread(target=steer)
    thread.start()
    wait_until("the words wait", lambda: daemon.call("GET", "/v1/jobs", queue="agent:slow", status="pending"))
    (daemon.folder / "go").touch()
    thread.join(20)
    assert told[0].returncode == 0, told[0].stderr
    assert told[0].stdout.endswith("short\n")  # its last words were those that steered it
    assert daemon.ended(run)["status"] == "completed"
    assert [text for role, text in journal(daemon, "d") if role == "user"] == ["look", "and hurry"]


def test_agents_come_and_go_at_run_time_and_are_there_after_a_restart(daemon: Any) -> None:
    settings = {"role": "new", "llm": {"provider": "scripted", "model": "echo"}}
    daemon.call("POST", "/v1/agents", {"name": "guest", "settings": settings})
    assert daemon.cli("ask", "guest", "hello").stdout == "hello\n"
    daemon.kill()
    daemon.start()
    assert daemon.cli("ask", "guest", "again").stdout == "again\n"
    assert daemon.call("GET", "/v1/agents/guest")["origin"] == "the database"
    edited = daemon.cli("agents", "edit", "guest", "--role", "an old friend")
    assert edited.returncode == 0, edited.stderr
    assert daemon.call("GET", "/v1/agents/guest")["role"] == "an old friend"
    assert daemon.cli("agents", "edit", "slow", "--role", "x").returncode == 1
    assert daemon.cli("agents", "pause", "guest").returncode == 0
    assert "paused" in daemon.cli("why", "agent:guest").stdout
    assert daemon.cli("agents", "resume", "guest").returncode == 0
    assert daemon.cli("reload").returncode == 0
    assert daemon.cli("ask", "guest", "still").stdout == "still\n"
    assert daemon.cli("agents", "rm", "guest", "--yes").returncode == 0
    assert daemon.cli("ask", "guest", "gone?").returncode == 4
    daemon.restart()
    assert daemon.cli("ask", "guest", "gone?").returncode == 4


def test_a_conversation_forks_and_is_exported(daemon: Any) -> None:
    for text in ("first", "second"):
        assert daemon.cli("ask", "slow", text, "--conversation", "e").returncode == 0
    forked = daemon.cli("agents", "fork", "slow", "e", "f", "--keep", "2")
    assert forked.returncode == 0, forked.stderr
    daemon.cli("ask", "slow", "third", "--conversation", "f")
    assert [text for role, text in journal(daemon, "f") if role == "user"] == ["first", "third"]
    assert [text for role, text in journal(daemon, "e") if role == "user"] == ["first", "second"]
    lines = daemon.cli("agents", "export", "slow", "--conversation", "f").stdout.splitlines()
    assert len(lines) == 4
