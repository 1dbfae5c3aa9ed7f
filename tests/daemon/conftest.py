"""The user's own modules that the tests of the real daemon run, and one shared daemon a test module."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

AGENTS = '''
import os
import time
from pathlib import Path

import anyio

from runtime.stateful import AgentState, StatefulActor, handles
from schemas.base import Request


class Add(Request[int], type="demo.add", public=True):
    n: int = 1


class Break(Request[int], type="demo.break", public=True):
    n: int = 1


class Save(Request[int], type="demo.save", public=True, durable=True):
    n: int = 1


class Poison(Request[int], type="demo.poison", public=True, durable=True):
    n: int = 1


class Swell(Request[int], type="demo.swell", public=True, durable=True):
    size: int


class Gate(Request[int], type="demo.gate", public=True):
    """Wait until a file is there."""

    path: str


class Wait(Request[int], type="demo.wait", public=True, durable=True):
    """The same as a job."""

    path: str


class Block(Request[int], type="demo.block", public=True):
    seconds: float


class Die(Request[int], type="demo.die", public=True, durable=True):
    """Bring the daemon down, as long as the file is there."""

    path: str


class Counter(StatefulActor):
    class State(AgentState):
        total: int = 0

    @handles
    def add(self, message: Add) -> int:
        self.state.total += message.n
        return self.state.total

    @handles
    def crash(self, message: Break) -> int:
        self.state.total += message.n
        raise ZeroDivisionError("broken on purpose")

    @handles
    def save(self, message: Save) -> int:
        self.state.total += message.n
        return self.state.total

    @handles
    def poison(self, message: Poison) -> int:
        self.state.total += message.n
        raise ZeroDivisionError("poisonous")

    @handles
    def swell(self, message: Swell) -> int:
        self.state.general_notes = "x" * message.size
        return message.size

    @handles
    async def gate(self, message: Gate) -> int:
        while not Path(message.path).exists():
            await anyio.sleep(0.01)
        return self.state.total

    @handles
    async def wait(self, message: Wait) -> int:
        return await self.gate(Gate(path=message.path))

    @handles
    def block(self, message: Block) -> int:
        time.sleep(message.seconds)
        return 1

    @handles
    def die(self, message: Die) -> int:
        if Path(message.path).exists():
            os._exit(9)
        return 1


class Changed(StatefulActor):
    class State(AgentState):
        total: str = ""
'''

JOBS = '''
import os
import signal
import time
from pathlib import Path

import anyio

from runtime.outcomes import Fail, Retry, Snooze


def add(a, b):
    return a + b


def report(ctx):
    ctx.progress({"half": True})
    ctx.log("so far so good")
    print("printed")
    return ctx.attempt


async def inside(word, ctx):
    ctx.log("inside")
    await anyio.sleep(0)
    return {"said": word, "pid": os.getpid()}


def note(path):
    """Write down that it ran and where; return how often that was."""
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return len(Path(path).read_text().splitlines())


def oops():
    raise KeyError("nothing there")


def again(path):
    if note(path) < 2:
        raise Retry(after=0.05)
    return "second time"


def nap(path):
    if note(path) < 3:
        raise Snooze(0.05)
    return "awake"


def hopeless():
    raise Fail("no use", code="demo.hopeless")


def suicide(path):
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


def forever():
    time.sleep(600)


async def exits(path):
    note(path)
    os._exit(7)


async def pause(path):
    note(path)
    while not Path(path + ".go").exists():
        await anyio.sleep(0.01)
    return "went on"


async def block(seconds):
    time.sleep(seconds)
    return "unblocked"
'''

KINDS = """
[kinds.add]
run = "jobs:add"

[kinds.report]
run = "jobs:report"

[kinds.inside]
run = "jobs:inside"
in_loop = true

[kinds.oops]
run = "jobs:oops"
max_attempts = 2
retry = { base = "20ms" }

[kinds.again]
run = "jobs:again"

[kinds.nap]
run = "jobs:nap"
max_attempts = 1

[kinds.hopeless]
run = "jobs:hopeless"

[kinds.suicide]
run = "jobs:suicide"
max_attempts = 9
retry = { base = "20ms" }

[kinds.forever]
run = "jobs:forever"
max_attempts = 1

[kinds.exits]
run = "jobs:exits"
in_loop = true
max_attempts = 9
retry = { base = "20ms" }

[kinds.pause]
run = "jobs:pause"
in_loop = true

[kinds.block]
run = "jobs:block"
in_loop = true
"""

COUNTERS = """
[agents.counter]
role = "a counter"
actor = "my_agents:Counter"

[agents.sibling]
role = "another one"
actor = "my_agents:Counter"
"""


@pytest.fixture(scope="module")
def full(new_daemon: Callable[..., Any], base: str) -> Callable[..., Any]:
    """Make a daemon that knows every kind and actor of the user's."""

    def make(more: str = "", **options: Any) -> Any:
        return new_daemon(base + COUNTERS + KINDS + more, modules={"jobs": JOBS, "my_agents": AGENTS}, **options)

    return make


@pytest.fixture(scope="module")
def daemon(full: Callable[..., Any]) -> Iterator[Any]:
    """A started daemon, shared by the tests of a module: they leave it running."""
    made = full()
    made.start()
    yield made
    assert made.process.poll() is None, "the daemon died on the way"
