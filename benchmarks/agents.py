"""Agents as they are used: what an idle one weighs, and how much later words come because they pass the daemon.

The provider and the clients are processes of their own. Each word is the time at which it was sent, so its delay needs
no second look; the same clients read straight from the provider for comparison.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil

from benchmarks.daemon import daemon, home
from benchmarks.row import Row
from runtime.control.wire import Wire

KIB_BAR = 64.0
DELAY_BAR_MS = 20.0
STREAMS = 50
EVERY = 0.01
"""Seconds between two words of one stream."""
BEGINNING = 50
"""Words of each stream that do not count: half a second, in which all fifty begin at the same moment."""

IDLE = """
[agents.a{n}]
role = "one of many"
llm = {{ provider = "scripted", model = "echo" }}
"""
STREAMING = """
[providers.stream]
base_url = "http://127.0.0.1:{port}/v1"

[agents.speaker]
role = "a speaker"
concurrency = 1000
llm = {{ provider = "stream", model = "m" }}
"""


def weight(count: int) -> float:
    """Return the KiB that one of *count* idle agents adds, each with a conversation."""
    return (resident(count + 1) - resident(1)) / count / 1024


def resident(count: int) -> int:
    with home() as folder:
        config = "[runtime]\npool = 1\n" + "".join(IDLE.format(n=n) for n in range(count))
        (folder / "config.toml").write_text(config, encoding="utf-8")
        with daemon(folder) as (process, _):
            wire = Wire(folder / "home" / "control.sock")
            jobs = [say(wire, f"a{n}") for n in range(count)]
            for job in jobs:
                while wire.call("GET", f"/v1/jobs/{job}")["status"] != "completed":
                    time.sleep(0.01)
            time.sleep(1)
            return psutil.Process(process.pid).memory_info().rss


def say(wire: Wire, agent: str) -> str:
    message = {"text": "hello", "conversation": "main"}
    args = {"agent": agent, "type": "agent.say", "message": message}
    answer: Any = wire.call("POST", "/v1/jobs", {"kind": "agent.message", "args": args})
    return str(answer["id"])


# -- streams -----------------------------------------------------------------------------------------------------------


async def provide(words: int) -> None:
    """Be a provider: every answer is *words* times, one each 10 ms."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += await stream.receive()
            head, _, body = asked.partition(b"\r\n\r\n")
            left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
            while left > 0:  # what is not read would reset the connection when it is closed
                left -= len(await stream.receive())
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            due = anyio.current_time()
            for _ in range(words):
                due += EVERY
                await anyio.sleep_until(due)
                chunk = {"choices": [{"delta": {"content": f"{time.time():.6f} "}}]}
                await stream.send(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await stream.send(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        print(listener.extra(anyio.abc.SocketAttribute.local_port), flush=True)
        await listener.serve(answer)


async def listen(place: str, streams: int) -> None:
    """Be so many clients of *place* (an address, or a socket's path), and print the delays in milliseconds."""
    delays: list[float] = []
    straight = place.startswith("http")
    transport = None if straight else httpx.AsyncHTTPTransport(uds=place, limits=httpx.Limits(max_connections=None))
    url = place if straight else "http://daemon/v1/agents/speaker/ask"

    async def one(client: httpx.AsyncClient, n: int) -> None:
        body = {"model": "m", "messages": []} if straight else {"text": "speak", "conversation": f"c{n}"}
        headers = {"Accept": "text/event-stream"}
        heard: list[float] = []
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                now = time.time()
                if line.startswith("data: {") and (text := words_of(json.loads(line[6:]))):
                    heard.extend((now - float(word)) * 1000 for word in text.split())
        delays.extend(heard[BEGINNING:])

    async with httpx.AsyncClient(transport=transport, timeout=60) as client, anyio.create_task_group() as tasks:
        for n in range(streams):
            tasks.start_soon(one, client, n)
    print(json.dumps(delays))


def words_of(data: dict[str, Any]) -> str:
    """Return the words in an event, of the provider's or of ours; nothing of the one that has the whole answer."""
    if "choices" in data:
        return str(data["choices"][0]["delta"].get("content", "")) if data["choices"] else ""
    return str(data["text"]) if data.keys() == {"text"} else ""


@contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.agents", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as child:
        try:
            yield child
        finally:
            child.terminate()


def delays_of(place: str, streams: int, words: int) -> float:
    """Return the 99th percentile of the delays, in milliseconds."""
    with process("listen", place, str(streams)) as clients:
        assert clients.stdout is not None
        delays = sorted(json.loads(clients.stdout.read()))
    expected = streams * (words - BEGINNING)
    assert len(delays) == expected, f"{len(delays)} words of {expected} came"
    return float(delays[int(len(delays) * 0.99)])


def added_delay(streams: int, words: int) -> float:
    with process("provide", str(words)) as provider, home() as folder:
        assert provider.stdout is not None
        port = int(provider.stdout.readline())
        straight = delays_of(f"http://127.0.0.1:{port}/v1/chat/completions", streams, words)
        (folder / "config.toml").write_text(STREAMING.format(port=port), encoding="utf-8")
        with daemon(folder):
            through = delays_of(str(folder / "home" / "control.sock"), streams, words)
        return max(0.0, through - straight)


def measure(quick: bool) -> list[Row]:
    """Measure against fixed bars."""
    count, words = (30, 100) if quick else (100, 500)
    delay = added_delay(STREAMS, words)
    return [
        Row(f"agents: one of {count} idle ones", weight(count), KIB_BAR, 1.0, "KiB", higher_is_better=False),
        Row("agents: delay added to 50 streams, p99", delay, DELAY_BAR_MS, 1.0, "ms", higher_is_better=False),
    ]


if __name__ == "__main__":
    if sys.argv[1] == "provide":
        anyio.run(provide, int(sys.argv[2]))
    else:
        anyio.run(listen, sys.argv[2], int(sys.argv[3]))
