"""Agents against a provider that others wrote: aimock, where Node.js is. It speaks both dialects, refuses with 429,
cuts streams and lets them drip, and keeps a journal of what it was asked.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.daemon

SERVER = Path(sys.prefix) / "aimock/node_modules/@copilotkit/aimock/dist/cli.js"

CUT = "This answer is cut off in the middle of its only sentence."
SLOW = "This answer takes its time. " * 20

AGENTS = ("openai", "claude")
"""The same agent over one dialect and over the other."""


def played(agent: str) -> list[dict[str, Any]]:
    """Return what is answered to *agent*. The first that fits is played; `sequenceIndex` counts how often it did."""
    weather, busy, cut, slow = (f"{word} for {agent}" for word in ("weather", "busy", "cut", "slow"))
    call = {"id": "call_w", "name": "kit_weather", "arguments": {"city": "Oslo"}}
    refusal = {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429}
    cut_off = {"truncateAfterChunks": 3, "latency": 30}
    return [
        {"match": {"userMessage": weather, "hasToolResult": True}, "response": {"content": "It rains in Oslo."}},
        {"match": {"userMessage": weather, "hasToolResult": False}, "response": {"toolCalls": [call]}},
        {"match": {"userMessage": busy, "sequenceIndex": 0}, "response": refusal},
        {"match": {"userMessage": busy}, "response": {"content": "Now I have time."}},
        {"match": {"userMessage": cut, "sequenceIndex": 0}, "response": {"content": CUT}, "chunkSize": 10} | cut_off,
        {"match": {"userMessage": cut}, "response": {"content": CUT}, "chunkSize": 10},
        {"match": {"userMessage": slow}, "response": {"content": SLOW}, "chunkSize": 6, "latency": 200},
    ]


CONFIG = """
[runtime]
pool = 1
child_pool = 1

[providers.openai]
base_url = "{url}/v1"

[providers.claude]
type = "anthropic"
base_url = "{url}"
api_key = "env:AIMOCK_KEY"

[agents.openai]
role = "one who knows the weather"
llm = {{ provider = "openai", model = "gpt-4o", max_tokens = 200 }}
tools = ["kit:weather"]

[agents.claude]
role = "one who knows the weather"
llm = {{ provider = "claude", model = "claude-sonnet-4-5", max_tokens = 200 }}
tools = ["kit:weather"]
"""

TOOLS = """
from runtime.tools.functions import tool


@tool(effect="pure")
async def weather(city: str) -> str:
    return f"rain in {city}"
"""


class Aimock:
    """The server as it runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def asked(self, words: str) -> list[dict[str, Any]]:
        """Return the journal's entries of the requests that hold *words*, in their order."""
        entries = httpx.get(f"{self.url}/__aimock/journal", trust_env=False).json()
        return [entry for entry in entries if words in json.dumps(entry["body"])]


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    node = shutil.which("node")
    if node is None or not SERVER.exists():
        pytest.skip("aimock is not installed here: it needs Node.js, see `make test`")
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps({"fixtures": [one for agent in AGENTS for one in played(agent)]}))
    argv = [node, str(SERVER), "-h", "127.0.0.1", "-p", "0", "-f", str(fixtures), "--strict", "--log-level", "info"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        url = None
        for line in server.stdout:
            if found := re.search(r"listening on (http://\S+)", line):
                url = found[1]
                break
        rest = threading.Thread(target=server.stdout.read)  # what nobody reads would hold it up
        rest.start()
        try:
            assert url is not None, "it ended before it listened"
            yield Aimock(url)
        finally:
            server.terminate()
            server.wait(10)
            rest.join()


@pytest.fixture(scope="module")
def daemon(new_daemon: Any, aimock: Aimock) -> Any:
    made = new_daemon(CONFIG.format(url=aimock.url), modules={"kit": TOOLS}, environ={"AIMOCK_KEY": "sk-ant-test"})
    made.start()
    return made


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(daemon: Any, agent: str, text: str) -> str:
    """Return the run of a question."""
    message = {"text": text, "conversation": re.sub(r"\W+", "-", text)}
    return str(daemon.submit("agent.message", args={"agent": agent, "type": "agent.say", "message": message}))


def test_a_tool_is_called_and_its_result_is_answered_with(daemon: Any, aimock: Aimock, agent: str) -> None:
    words = f"weather for {agent}"

    answered = daemon.cli("ask", agent, words)

    assert answered.stdout == "It rains in Oslo.\n", answered.stderr
    first, second = aimock.asked(words)
    assert "rain in Oslo" not in json.dumps(first["body"])
    assert "rain in Oslo" in json.dumps(second["body"])
    assert ("anthropic-version" in first["headers"]) == (agent == "claude")


def test_a_refusal_that_says_when_is_waited_for(daemon: Any, aimock: Aimock, agent: str) -> None:
    words = f"busy for {agent}"

    answered = daemon.cli("ask", agent, words)

    assert answered.stdout == "Now I have time.\n", answered.stderr
    refused, served = aimock.asked(words)
    assert [refused["response"]["status"], served["response"]["status"]] == [429, 200]
    assert served["timestamp"] - refused["timestamp"] >= 1000  # `Retry-After: 1`


def test_half_an_answer_is_never_taken_for_one(daemon: Any, aimock: Aimock, agent: str) -> None:
    words = f"cut for {agent}"

    run = ask(daemon, agent, words)

    view = daemon.ended(run)
    assert view["status"] == "completed"
    assert view["result"]["text"] == CUT
    assert [attempt["error"]["code"] for attempt in view["history"] if attempt.get("error")] == ["llm.cut"]
    talk = daemon.call("GET", f"/v1/agents/{agent}/conversations/{words.replace(' ', '-')}")
    assert Counter(message["role"] for message in talk) == {"user": 1, "assistant": 1}
    assert len(aimock.asked(words)) == 2


def test_a_cancelled_run_hangs_up_on_the_provider(daemon: Any, aimock: Aimock, agent: str, wait_until: Any) -> None:
    words = f"slow for {agent}"
    run = ask(daemon, agent, words)
    wait_until("it hears the answer", lambda: connections(daemon, aimock))

    assert daemon.cli("runs", "cancel", run).returncode == 0

    assert daemon.ended(run)["status"] == "cancelled"
    assert not connections(daemon, aimock)


def connections(daemon: Any, aimock: Aimock) -> list[Any]:
    """Return the daemon's open connections to the provider."""
    port = int(aimock.url.rpartition(":")[2])
    found = psutil.Process(daemon.process.pid).net_connections("tcp")
    return [one for one in found if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED]
