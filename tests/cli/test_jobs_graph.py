"""`jobs graph`: layers of text with marks, and DOT."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from runtime.cli.jobs_graph import MARKS, PLAIN_MARKS, layered, picture, quote
from schemas.jobs import MOVES

PATH = "/v1/jobs/j3/graph"


def node(name: str, status: str = "completed", reason: str | None = None, kind: str = "build") -> dict[str, Any]:
    return {"id": name, "kind": kind, "status": status, "reason": reason}


def edge(parent: str, child: str, **more: Any) -> dict[str, Any]:
    usual = {"parent": parent, "child": child, "relation": "depends", "on_failure": "cancel", "state": "satisfied"}
    return usual | more


VIEW = {
    "nodes": [
        node("j3", "waiting", "deps", "join"),
        node("j1"),
        node("j2", "failed", "exhausted"),
        node("j4", "active", kind="pack"),
        node("j5", "delayed", "scheduled", "pack"),
    ],
    "edges": [
        edge("j1", "j3"),
        edge("j2", "j3", on_failure="hold", state="broken"),
        edge("j1", "j4", relation="part"),
        edge("j3", "j5", on_failure="run", state="open"),
    ],
    "cut": False,
}
TEXT = """\
 1  +  build  completed          j1
 2  x  build  failed/exhausted   j2

*3  .  join   waiting/deps       j3  after 1, 2 (hold, broken)
 4  >  pack   active             j4  part of 1

 5  ~  pack   delayed/scheduled  j5  after 3 (run)

5 jobs: 1 waiting, 1 delayed, 1 active, 1 completed, 1 failed
"""


def test_a_graph_is_drawn_in_layers(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", PATH, VIEW)
    fancy = TEXT
    for status in ("completed", "failed", "waiting", "active", "delayed"):
        fancy = fancy.replace(f"  {PLAIN_MARKS[status]}  ", f"  {MARKS[status]}  ")
    ended = cli("jobs", "graph", "j3")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == fancy
    assert fake.asked("GET", PATH).query == {"limit": ["1000"]}
    assert cli("jobs", "graph", "j3", "--json").json == VIEW


def test_where_letters_are_few_the_marks_are_plain() -> None:
    assert "\n".join(picture(VIEW, "j3", fancy=False)) + "\n" == TEXT
    assert set(MARKS) == set(PLAIN_MARKS) == set(MOVES)
    assert len(set(MARKS.values())) == len(set(PLAIN_MARKS.values())) == len(MOVES)


def test_a_chain_takes_a_line_a_job() -> None:
    nodes = [node(f"j{n}") for n in (2, 1, 0)]
    view = {"nodes": nodes, "edges": [edge("j0", "j1"), edge("j1", "j2")]}
    assert "\n".join(picture(view, "j0", fancy=False)) == (
        "*1  +  build  completed  j0\n"
        " 2  +  build  completed  j1  after 1\n"
        " 3  +  build  completed  j2  after 2\n"
        "\n"
        "3 jobs: 3 completed"
    )


def test_one_job_alone_is_a_graph_too() -> None:
    lines = list(picture({"nodes": [node("j1")], "edges": []}, "j1", fancy=False))
    assert lines == ["*1  +  build  completed  j1", "", "1 job: 1 completed"]


def test_what_was_left_out_is_told(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", PATH, VIEW | {"cut": True})
    assert cli("jobs", "graph", "j3").err == "only the nearest 5 jobs; more with --limit\n"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_must_end_first_stands_above(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"j{n}" for n in range(60)]
    edges = [edge(names[a], names[b]) for a in range(60) for b in range(a + 1, 60) if chance.random() < 0.05]
    chance.shuffle(names)
    layers = layered(dict.fromkeys(names), edges)
    depth = {name: number for number, layer in enumerate(layers) for name in layer}
    assert depth.keys() == set(names)
    assert all(depth[one["parent"]] < depth[one["child"]] for one in edges)
    # No job stands lower than it must.
    assert all(
        depth[name] == max((depth[one["parent"]] + 1 for one in edges if one["child"] == name), default=0)
        for name in names
    )


def test_a_circle_that_cannot_be_is_shown_and_no_job_is_lost() -> None:
    layers = layered(dict.fromkeys("abc"), [edge("a", "b"), edge("b", "a")])
    assert layers == [["c"], ["a", "b"]]


def test_a_graph_of_many_jobs_is_drawn_at_once() -> None:
    nodes = [node(f"j{n}") for n in range(20_000)]
    edges = [edge(f"j{n // 2}", f"j{n}") for n in range(1, 20_000)]
    assert sum(map(len, layered({one["id"]: one for one in nodes}, edges))) == 20_000


def test_graphviz_gets_its_own_language(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", PATH, VIEW)
    out = cli("jobs", "graph", "j3", "--dot").out
    assert out.startswith("digraph jobs {\n")
    assert out.endswith("}\n")
    assert '  "j3" [label="join\\nwaiting/deps\\nj3", fillcolor="#eeeeee"];\n' in out
    assert '  "j1" -> "j3";\n' in out
    assert '  "j2" -> "j3" [style=dashed, label="hold", color=red];\n' in out
    assert '  "j1" -> "j4" [style=dotted, arrowhead=odot];\n' in out


def test_what_came_from_outside_stays_inside_its_quotes() -> None:
    assert quote('a"b\\c', "\x1b[2J") == '"a\\"b\\\\c\\n\\\\x1b[2J"'
