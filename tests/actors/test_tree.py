"""The tree as data: who stands where, how many workers there are, and what becomes of an agent whose class is wrong."""

import os
from typing import Any

import pytest

from actors import tree
from runtime.core.spec import ChildSpec, SupervisorSpec

CONFIG = """
    [runtime]
    pool = 3
    child_pool = 2
    drain = "7s"
    [agents.ada]
    llm = { provider = "scripted", model = "echo" }
    mailbox = 5
    [agents.own]
    actor = "agents:Own"
    [agents.local]
    llm = { provider = "local", model = "smollm2" }
"""
NO_DEFAULT = """
from pydantic import BaseModel
from runtime.stateful import StatefulActor

class S(BaseModel):
    n: int

class Own(StatefulActor):
    State = S
"""


@pytest.fixture
def grown(furnish: Any) -> Any:
    def make(config: str = CONFIG, *last: ChildSpec, safe: bool = False) -> SupervisorSpec:
        return tree.tree(furnish(config), lambda now: None, last, safe=safe)

    return make


def names(spec: SupervisorSpec, branch: str) -> list[str]:
    (found,) = [child for child in spec.children if child.id == branch]
    assert isinstance(found, SupervisorSpec)
    return [child.id for child in found.children]


def test_what_a_part_needs_stands_before_it(grown: Any) -> None:
    spec = grown(CONFIG, ChildSpec("control", lambda: None))
    assert spec.strategy == "rest_for_one"
    assert [child.id for child in spec.children] == [
        "store",
        "queue",
        "workers",
        "models",
        "mcp",
        "agents",
        "schedules",
        "system",
        "control",
    ]


def test_the_pool_is_as_large_as_it_is_configured(grown: Any) -> None:
    assert names(grown(), "workers") == [
        "worker:loop-1",
        "worker:loop-2",
        "worker:loop-3",
        "worker:child-1",
        "worker:child-2",
    ]


def test_without_a_word_the_pool_follows_the_machine(grown: Any) -> None:
    cores = os.cpu_count() or 1
    found = names(grown(""), "workers")
    assert (len([n for n in found if "loop" in n]), len([n for n in found if "child" in n])) == (4 * cores, cores)


def test_agents_and_the_local_models_that_they_speak_with_have_branches_of_their_own(grown: Any) -> None:
    spec = grown()
    assert names(spec, "agents") == ["agent:ada", "agent:own", "agent:local"]
    assert names(spec, "models") == ["model:local"]
    (agents,) = [child for child in spec.children if child.id == "agents"]
    assert agents.on_exhausted == "quarantine"
    assert (agents.children[0].mailbox, agents.children[0].shutdown) == (5, 7.0)


def test_in_safe_mode_nobody_of_the_users_is_there(grown: Any) -> None:
    spec = grown(safe=True)
    assert [names(spec, branch) for branch in ("workers", "models", "agents")] == [[], [], []]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("class Own: pass", "neither derived from"),
        ("Own = 5", "neither derived from"),
        ("import nothing_of_the_kind", "nothing_of_the_kind"),
        ("def", "agents.py"),
        (
            NO_DEFAULT,
            "needs a default for each field",
        ),
    ],
    ids=["no actor", "no class", "a missing import", "no python", "a state without defaults"],
)
async def test_an_agent_whose_class_is_wrong_is_parked_alone(whole: Any, code: str, says: str) -> None:
    config = CONFIG[: CONFIG.index("    [agents.local]")]
    async with whole(config, agents_py=code) as s:
        cell = s.system.cell("agent:own")
        assert cell.state == "quarantined"
        assert says in (cell.reason or "")
        assert s.system.cell("agent:ada").state == "running"
        view = await s.until(await s.say("ada", "hi"))
        assert view.status == "completed"


async def test_everybody_comes_up_in_order_and_goes_down_in_reverse(whole: Any) -> None:
    config = CONFIG[: CONFIG.index("    [agents.own]")]
    async with whole(config) as s:
        up = [name for name, _ in s.heard("actor.started")]
        assert (up[0], up[1], up[-3:]) == ("store", "queue", ["agent:ada", "schedules", "system"])
        workers = [name for name in s.system.names() if name.startswith("worker:")]
        happened = s.happened
    down = [name for kind, name, _ in happened if kind == "actor.stopped"]
    assert down == ["system", "schedules", "agent:ada", *reversed(workers), "queue", "store"]
