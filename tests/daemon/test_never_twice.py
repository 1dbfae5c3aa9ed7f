"""Agents over kill -9: no message is lost, no recorded call is made again, no effect happens twice, answers survive."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from runtime.control.wire import WireError

pytestmark = pytest.mark.daemon

TOOLS = '''
import os
from pathlib import Path

from runtime.tools.functions import tool


def note(line: str) -> str:
    """Write a line down."""
    with Path("notes.txt").open("a") as page:
        page.write(line + "\\n")
        page.flush()
        os.fsync(page.fileno())
    return "noted " + line


@tool(permission="ask")
def pay(amount: int) -> str:
    """Pay."""
    return note(f"paid {amount}")
'''

CONFIG = """
[runtime]
pool = 2
child_pool = 1

[providers.mind]
base_url = "http://127.0.0.1:{port}/v1"

[agents.clerk]
role = "a clerk"
llm = {{ provider = "mind", model = "m", max_tokens = 50 }}
tools = ["kit:note", "kit:pay", "shell"]
concurrency = 3
"""


class Provider(BaseHTTPRequestHandler):
    """Calls the tool that the last words of the user ask for, and says what came of it; counts what it was asked."""

    asked: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        messages = request["messages"]
        words = next(m["content"] for m in reversed(messages) if m["role"] == "user")
        told = messages[-1]["content"] if messages[-1]["role"] == "tool" else None
        with self.lock:
            self.asked[words, "call" if told is None else "answer"] += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for delta, reason in self._deltas(words, told):
                chunk = {"choices": [{"delta": delta, "finish_reason": reason}]}
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                self.wfile.flush()
                time.sleep(0.005)
            usage = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
            self.wfile.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        except OSError:
            return  # the daemon was killed in the middle

    def _deltas(self, words: str, told: str | None) -> Iterator[tuple[dict[str, Any], str | None]]:
        if told is not None:
            for word in ("You ", "said ", words, ", and ", told):
                yield {"content": word}, None
            yield {}, "stop"
            return
        name, _, rest = words.partition(" ")
        arguments = {"note": {"line": rest}, "pay": {"amount": 5}, "shell": {"argv": ["echo", rest]}}[name]
        wire = name if name == "shell" else f"kit_{name}"
        call = {"index": 0, "id": "c1", "function": {"name": wire, "arguments": json.dumps(arguments)}}
        yield {"tool_calls": [call]}, None
        yield {}, "tool_calls"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name in the standard library
        return


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def clerk(new_daemon: Any, port: int) -> Any:
    Provider.asked.clear()
    return new_daemon(CONFIG.format(port=port), modules={"kit": TOOLS})


def say(daemon: Any, text: str, conversation: str) -> str:
    message = {"text": text, "conversation": conversation}
    return str(daemon.submit("agent.message", args={"agent": "clerk", "type": "agent.say", "message": message}))


def recorded(daemon: Any) -> dict[str, str]:
    """Return the calls of the model that are on record, `job/step`, with what was said in the job."""
    rows = daemon.rows(
        """SELECT jobs.id || '/' || name, args ->> '$.message.text' FROM job_steps JOIN jobs USING (seq)
           JOIN job_data USING (seq) WHERE state = 'done' AND name LIKE 'model/%'"""
    )
    return dict(rows)


def talk(daemon: Any, conversation: str) -> list[dict[str, Any]]:
    found = daemon.call("GET", f"/v1/agents/clerk/conversations/{conversation}", limit=1000)
    assert isinstance(found, list)
    return found


def storm(daemon: Any, turns: int, kills: int, seed: int) -> None:
    """Let *turns* run over *kills*, and hold what came of them against what was acknowledged."""
    chance = random.Random(seed)
    daemon.start()
    waiting = [(f"note {n}", f"c{n % 3}") for n in range(turns)]
    accepted: dict[str, tuple[str, str]] = {}
    paid: dict[tuple[str, str], int] = {}
    for _ in range(kills):
        for _ in range(chance.randint(0, 3)):
            if waiting:
                text, conversation = waiting.pop(0)
                accepted[say(daemon, text, conversation)] = (text, conversation)
        time.sleep(chance.random() * 0.25)
        daemon.kill()
        for place, text in recorded(daemon).items():
            stage = "call" if place.endswith("/model/0") else "answer"
            paid.setdefault((text, stage), Provider.asked[text, stage])
        daemon.start()
    for text, conversation in waiting:
        accepted[say(daemon, text, conversation)] = (text, conversation)
    for job in accepted:
        view = daemon.ended(job, within=60)
        assert view["status"] == "completed", view["error"]
    for (text, stage), count in paid.items():  # what was on record when it was killed, nobody was asked for again
        assert Provider.asked[text, stage] == count, (text, stage)
    lines = (daemon.folder / "notes.txt").read_text().split("\n")[:-1]
    assert max(Counter(lines).values()) == 1, "an effect happened twice"
    for conversation in {c for _, c in accepted.values()}:
        said = [m["content"] for m in talk(daemon, conversation) if m["role"] == "user"]
        assert said == [text for text, c in accepted.values() if c == conversation]
        roles = [m["role"] for m in talk(daemon, conversation)]
        assert roles == ["user", "assistant", "tool", "assistant"] * len(said)


def test_turns_over_kills_lose_nothing_and_pay_nothing_twice(clerk: Any) -> None:
    storm(clerk, turns=9, kills=4, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_thirty_turns_over_twenty_kills(clerk: Any, seed: int) -> None:
    storm(clerk, turns=30, kills=20, seed=seed)


def pending(daemon: Any) -> list[dict[str, Any]]:
    found = daemon.call("GET", "/v1/approvals", status="pending")
    assert isinstance(found, list)
    return found


def test_a_person_may_answer_after_a_kill_and_only_what_was_asked_is_done(clerk: Any, wait_until: Any) -> None:
    clerk.start()
    job = say(clerk, "shell hello", "main")
    (asked,) = wait_until("a person is asked", lambda: pending(clerk))
    assert (asked["tool"], asked["arguments"]["argv"]) == ("shell", ["echo", "hello"])
    clerk.kill()
    clerk.start()

    answered = clerk.call("POST", f"/v1/approvals/{asked['id']}", {"allow": True, "by": "me"})

    assert answered["status"] == "allowed"
    view = clerk.ended(job)
    assert view["status"] == "completed", view["error"]
    assert "hello" in view["result"]["text"]
    assert Provider.asked == {("shell hello", "call"): 1, ("shell hello", "answer"): 1}
    with pytest.raises(WireError) as again:
        clerk.call("POST", f"/v1/approvals/{asked['id']}", {"allow": True})
    assert again.value.code == "approval.answered"


def test_other_arguments_than_those_allowed_are_refused(clerk: Any, wait_until: Any) -> None:
    """Somebody with the file in hand changes what was allowed: the digest does not fit, and nothing is run."""
    clerk.start()
    job = say(clerk, "pay", "main")
    (asked,) = wait_until("a person is asked", lambda: pending(clerk))
    clerk.call("POST", "/v1/queues/agent:clerk", {"state": "paused"})
    clerk.call("POST", f"/v1/approvals/{asked['id']}", {"allow": True})
    clerk.kill()
    import sqlite3

    with sqlite3.connect(clerk.database) as sql:
        sql.execute("UPDATE approvals SET digest = 'another' WHERE id = ?", (asked["id"],))
    sql.close()
    clerk.start()
    clerk.call("POST", "/v1/queues/agent:clerk", {"state": "running"})
    view = clerk.ended(job)
    assert view["status"] == "completed"
    assert "was not allowed" in view["result"]["text"]
    assert not (clerk.folder / "notes.txt").exists()


def test_a_tool_may_not_approve_itself(clerk: Any, wait_until: Any) -> None:
    clerk.start()
    say(clerk, "pay", "main")
    (asked,) = wait_until("a person is asked", lambda: pending(clerk))
    command = ["understudy", "approvals", "allow", asked["id"]]
    environ = {"UNDERSTUDY_HOME": str(clerk.home), "PATH": os.environ["PATH"]}
    argv = ["env", f"UNDERSTUDY_HOME={clerk.home}", str(bin_of(command[0])), *command[1:]]
    job = clerk.submit("shell", args={"argv": argv, "env": environ}, max_attempts=1)
    view = clerk.ended(job)
    assert view["status"] == "failed"
    assert view["error"]["data"].get("exit", view["error"]["data"].get("code")) in (77, None)
    assert [one["status"] for one in pending(clerk)] == ["pending"]
    log = clerk.call("GET", f"/v1/jobs/{job}/logs")
    assert any("a person has to" in line["text"] for line in log), log


def bin_of(name: str) -> Any:
    import sys
    from pathlib import Path

    return Path(sys.executable).parent / name


def test_sigterm_in_the_middle_of_a_turn_costs_nothing(clerk: Any) -> None:
    clerk.start()
    jobs = [say(clerk, f"note {n}", f"c{n}") for n in range(3)]
    os.kill(clerk.pid, signal.SIGTERM)
    clerk.await_end()
    clerk.start()
    for job in jobs:
        view = clerk.ended(job)
        assert (view["status"], view["attempts"]) == ("completed", 1)
    assert all(count == 1 for count in Provider.asked.values()), Provider.asked
