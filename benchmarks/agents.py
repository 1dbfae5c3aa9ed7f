"""Agents as they are used: what an idle one weighs, and how much later words come because they pass the daemon.

The provider and the clients are processes of their own. Each word is the time at which it was sent, so its delay needs
no second look; the same clients read straight from the provider for comparison.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class Speaker(asyncio.Protocol):
    """A provider's side of one connection: *words* times, one each 10 ms, counted from when the question is here."""

    def __init__(self, words: int) -> None:
        self.words, self.asked = words, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.asked += data
        head, end, body = self.asked.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            self.say(self.words, asyncio.get_running_loop().time())

    def say(self, left: int, due: float) -> None:
        if left == 0:
            self.transport.write(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
            self.transport.close()
            return
        if left < self.words:
            self.transport.write(b'data: {"choices":[{"delta":{"content":"%.6f "}}]}\n\n' % time.time())
        asyncio.get_running_loop().call_at(due + EVERY, self.say, left - 1, due + EVERY)


async def provide(words: int) -> None:
    """Be a provider of *words* a stream, one each 10 ms."""
    server = await asyncio.get_running_loop().create_server(lambda: Speaker(words + 1), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Listener(asyncio.Protocol):
    """One client, as light as can be: what it takes for itself would be counted as the daemon's. An event is never cut
    in two by the framing of HTTP, so its lines need no parser; the words are counted at the end.
    """

    def __init__(self, request: bytes, delays: list[float]) -> None:
        self.request, self.delays = request, delays
        self.heard: list[float] = []
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {") and (text := words_of(json.loads(line[6:]))):
                self.heard.extend((now - float(word)) * 1000 for word in text.split())

    def connection_lost(self, exc: Exception | None) -> None:
        self.delays.extend(self.heard[BEGINNING:])
        self.over.set_result(None)


async def listen(place: str, streams: int) -> None:
    """Be so many clients of *place* (a port of this machine, or a socket's path); print the delays in milliseconds."""
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    straight = place.isdecimal()

    async def one(n: int) -> None:
        path = "/v1/chat/completions" if straight else "/v1/agents/speaker/ask"
        body = b'{"model":"m","messages":[]}' if straight else b'{"text":"speak","conversation":"c%d"}' % n
        head = "POST {} HTTP/1.1\r\nHost: daemon\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
        head += "Connection: close\r\nContent-Length: {}\r\n\r\n"
        client = Listener(head.format(path, len(body)).encode() + body, delays)
        if straight:
            await loop.create_connection(lambda: client, "127.0.0.1", int(place))
        else:
            await loop.create_unix_connection(lambda: client, place)
        await client.over

    await asyncio.gather(*(one(n) for n in range(streams)))
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
        straight = delays_of(str(port), streams, words)
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
        asyncio.run(provide(int(sys.argv[2])))
    else:
        asyncio.run(listen(sys.argv[2], int(sys.argv[3])))
