"""`jobs graph`: the jobs that hang together with one, as layers of text or as Graphviz DOT."""

import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, TextIO

import click

from runtime.cli import daemon
from runtime.cli.params import STATUSES, json_option
from runtime.cli.text import cell, coloured_status, note, say, say_json, width

MARKS: Final = {
    "pending": "○",
    "waiting": "…",
    "delayed": "◷",
    "active": "▶",
    "paused": "‖",
    "completed": "✓",
    "failed": "✗",
    "cancelled": "⊘",
}
PLAIN_MARKS: Final = {
    "pending": "o",
    "waiting": ".",
    "delayed": "~",
    "active": ">",
    "paused": "=",
    "completed": "+",
    "failed": "x",
    "cancelled": "-",
}
FILLS: Final = {
    "pending": "#ffffff",
    "waiting": "#eeeeee",
    "delayed": "#e8e0f8",
    "active": "#cfe8ff",
    "paused": "#fff2cc",
    "completed": "#d5f0d5",
    "failed": "#f8cccc",
    "cancelled": "#f5e0cc",
}


@click.command(epilog="A picture: understudy jobs graph ID --dot | dot -Tsvg > graph.svg")
@click.argument("job_id", metavar="ID")
@click.option("--dot", is_flag=True, help="Print Graphviz DOT.")
@click.option("--limit", type=click.IntRange(1, 20_000), default=1000, show_default=True, help="How many jobs.")
@json_option
def graph(job_id: str, dot: bool, limit: int, as_json: bool) -> None:
    """Show the jobs that hang together with one, by dependencies or as its parts: what must end first stands above."""
    view = daemon.get(f"/v1/jobs/{daemon.segment(job_id)}/graph", subject=job_id, limit=limit)
    if as_json:
        say_json(view)
    else:
        say("\n".join(dot_of(view) if dot else picture(view, job_id, fits(sys.stdout))))
    if view.get("cut"):
        note(f"only the nearest {len(view['nodes'])} jobs; more with --limit")


def fits(stream: TextIO) -> bool:
    """Tell whether *stream* can write the marks."""
    try:
        "".join(MARKS.values()).encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# -- text --------------------------------------------------------------------------------------------------------------


def picture(view: dict[str, Any], asked: str, fancy: bool) -> Iterator[str]:
    """Give the lines: jobs in layers, each with a number, and after which numbers it comes."""
    nodes = {node["id"]: node for node in view["nodes"]}
    layers = layered(nodes, view["edges"])
    numbers = {job: n for n, job in enumerate((job for layer in layers for job in layer), 1)}
    above: dict[str, list[dict[str, Any]]] = {}
    for edge in view["edges"]:
        above.setdefault(edge["child"], []).append(edge)
    marks = MARKS if fancy else PLAIN_MARKS
    wide = {
        "number": len(str(len(nodes))),
        "kind": max(width(cell(node["kind"])) for node in nodes.values()),
        "standing": max(len(standing(node)) for node in nodes.values()),
    }
    a_chain = all(len(layer) == 1 for layer in layers)
    for depth, layer in enumerate(layers):
        if depth and not a_chain:
            yield ""
        for job in layer:
            after = links(above.get(job, ()), numbers)
            yield line(nodes[job], numbers[job], marks, wide, after, asked=job == asked)
    yield ""
    yield summary(nodes.values())


def line(
    node: dict[str, Any], number: int, marks: dict[str, str], wide: dict[str, int], after: str, *, asked: bool
) -> str:
    status = cell(node["status"])
    kind = cell(node["kind"])
    gap = " " * (wide["kind"] - width(kind))
    shown = standing(node)
    told = coloured_status(status, shown) + " " * (wide["standing"] - len(shown))
    parts = [
        f"{'*' if asked else ' '}{number:>{wide['number']}}",
        coloured_status(status, marks.get(status, "?")),
        f"{kind}{gap}",
        told,
        cell(node["id"]),
        after,
    ]
    return "  ".join(part for part in parts if part).rstrip()


def standing(node: dict[str, Any]) -> str:
    """Return status and reason in a word or two; of what is done the status says it all."""
    status, reason = cell(node["status"]), node.get("reason")
    return f"{status}/{cell(reason)}" if reason else status


def links(edges: Iterable[dict[str, Any]], numbers: dict[str, int]) -> str:
    """Return what a job comes after, and of what it is a part: `after 1, 2 (hold, broken)  part of 3`."""
    after, parts = [], []
    for edge in sorted(edges, key=lambda edge: numbers[edge["parent"]]):
        number = str(numbers[edge["parent"]])
        if edge["relation"] == "part":
            parts.append(number)
            continue
        words = [edge["on_failure"]] if edge["on_failure"] != "cancel" else []
        words += [edge["state"]] if edge["state"] in ("broken", "ignored") else []
        after.append(f"{number} ({', '.join(words)})" if words else number)
    told = [f"after {', '.join(after)}"] if after else []
    return "  ".join(told + ([f"part of {', '.join(parts)}"] if parts else []))


def layered(nodes: dict[str, Any], edges: Iterable[dict[str, Any]]) -> list[list[str]]:
    """Return ids by how long the longest way from the top to them is; within a layer as they were given."""
    below: dict[str, list[str]] = {}
    missing = Counter[str]()
    for edge in edges:
        below.setdefault(edge["parent"], []).append(edge["child"])
        missing[edge["child"]] += 1
    depth = dict.fromkeys((job for job in nodes if not missing[job]), 0)
    ready = deque(depth)
    while ready:
        job = ready.popleft()
        for child in below.get(job, ()):
            depth[child] = max(depth.get(child, 0), depth[job] + 1)
            missing[child] -= 1
            if not missing[child]:
                ready.append(child)
    last = max(depth.values(), default=-1)
    layers: list[list[str]] = [[] for _ in range(last + 1)]
    for job in nodes:
        if not missing[job]:
            layers[depth[job]].append(job)
    around = [job for job in nodes if missing[job]]  # there is no circle; were there one, it should be seen
    return [*layers, around] if around else layers


def summary(nodes: Iterable[dict[str, Any]]) -> str:
    counts = Counter(node["status"] for node in nodes)
    total = counts.total()
    told = ", ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts[status])
    return f"{total:,} {'job' if total == 1 else 'jobs'}: {told}"


# -- Graphviz ----------------------------------------------------------------------------------------------------------


def dot_of(view: dict[str, Any]) -> Iterator[str]:
    """Give the lines of a DOT document; dashed edges are not `cancel`, dotted ones lead to parts."""
    yield "digraph jobs {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=10];'
    yield '  edge [fontname="sans-serif", fontsize=9];'
    for node in view["nodes"]:
        label = quote(node["kind"], standing(node), node["id"])
        yield f"  {quote(node['id'])} [label={label}, fillcolor={quote(FILLS.get(node['status'], '#ffffff'))}];"
    for edge in view["edges"]:
        yield f"  {quote(edge['parent'])} -> {quote(edge['child'])}{style(edge)};"
    yield "}"


def style(edge: dict[str, Any]) -> str:
    if edge["relation"] == "part":
        return " [style=dotted, arrowhead=odot]"
    facts = [] if edge["on_failure"] == "cancel" else ["style=dashed", f"label={quote(edge['on_failure'])}"]
    facts += ["color=red"] if edge["state"] == "broken" else []
    return f" [{', '.join(facts)}]" if facts else ""


def quote(*lines: Any) -> str:
    """Return text as DOT wants it, in quotes; several lines are one label."""
    escaped = (cell(one).replace("\\", "\\\\").replace('"', '\\"') for one in lines)
    return '"' + "\\n".join(escaped) + '"'
