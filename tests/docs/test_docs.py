"""What the documents say is true: names exist, links lead somewhere, and code in them runs."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime import config
from runtime.llm.scripted import load_script
from schemas import codes
from schemas.jobs import MOVES, REASONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md"), *ROOT.glob("benchmarks/*.md")]
)
OURS = ("architecture.md", "agents-of-your-own.md", "reference.md", "CONTRIBUTING.md", "SECURITY.md")
HOW_TO = ROOT / "docs" / "agents-of-your-own.md"
ROOM = re.compile(r"^#+ .*`([\w/]+)/`", re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+\.(?:py|sql|toml|md)|[\w.-]+(?:/[\w.-]+)*/)`")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}(?: [\w.-]+)?\n(.*?)^```$", text(path), re.DOTALL | re.MULTILINE)


def all_blocks(language: str) -> list[Any]:
    found = [(path, number, block) for path in PAGES for number, block in enumerate(blocks(path, language), 1)]
    return [pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}") for path, number, block in found]


def anchors(path: Path) -> set[str]:
    """Return what the headings of a page can be reached by."""
    titles = re.findall(r"^#+ (.+)$", text(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def named_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Give each file name in backticks with the room whose heading it stands under."""
    room = ROOT
    for line in text(path).splitlines():
        if line.startswith("#"):
            found = ROOM.search(line)
            room = ROOT / found[1] if found else ROOT
        for name in NAMED.findall(line):
            yield name, room


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        assert aim.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(aim), f"{target}: there are {sorted(anchors(aim))}"


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_every_file_that_is_named_exists(page: Path) -> None:
    missing = {name for name, room in named_files(page) if not ((room / name).exists() or (ROOT / name).exists())}

    assert missing == set()


def test_the_map_shows_every_file() -> None:
    shown = {(room / name).resolve() for name, room in named_files(ROOT / "docs" / "architecture.md")}
    there = {path for folder in ("schemas", "runtime", "actors") for path in (ROOT / folder).rglob("*.py")}

    assert {str(path.relative_to(ROOT)) for path in there - shown if path.name != "__init__.py"} == set()


@pytest.mark.parametrize("block", all_blocks("toml"))
def test_a_toml_block_loads(block: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "block.toml"
    file.write_text(block, encoding="utf-8")
    file.chmod(0o600)
    if "[[steps]]" in block:
        assert load_script(file.name, tmp_path).steps
    else:
        assert config.load(file, {}).settings


@pytest.mark.parametrize("block", all_blocks("python"))
def test_a_python_block_compiles(block: str) -> None:
    assert compile(block, "<block>", "exec")


def test_the_python_of_the_how_to_runs(tmp_path: Path) -> None:
    for block in blocks(HOW_TO, "python"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.daemon
def test_the_how_to_works_in_a_daemon(new_daemon: Callable[..., Any]) -> None:
    config_blocks = [block for block in blocks(HOW_TO, "toml") if "[[steps]]" not in block]
    script = next(block for block in blocks(HOW_TO, "toml") if "[[steps]]" in block)
    stock, jobs = blocks(HOW_TO, "python")
    without_a_model = "\n".join(config_blocks).replace('"local", model = "smollm2"', '"scripted", model = "echo"')
    daemon = new_daemon(without_a_model, modules={"stock": stock, "jobs": jobs})
    (daemon.folder / "scripts").mkdir()
    (daemon.folder / "scripts" / "answers.toml").write_text(script, encoding="utf-8")
    daemon.start()

    assert daemon.cli("ask", "sure", "hello there").stdout == "Good day.\n"
    assert daemon.ask("shelf", "stock.take", item="pens", n=-9) == 9
    assert [daemon.ask("shelf", "stock.take", key="order-17", item="pens", n=5) for _ in range(2)] == [4, 4]
    assert daemon.ask("shelf", "stock.count", item="pens") == 4
    assert daemon.cli("ask", "shelf", "What is there?").stdout == "There are 4 things here.\n"
    assert [event["data"] for event in daemon.events("agent.low")] == [{"item": "pens", "left": 4}]
    (order,) = daemon.call("GET", "/v1/jobs", queue="agent:writer")
    assert daemon.ended(order["id"])["result"]["text"] == "Write an order for pens."
    assert daemon.run("resize", args={"path": "a.png", "width": 320})["result"] == {"width": 320}
    assert daemon.run("resize", args={"path": "a.png", "width": 0})["error"]["data"] == {"code": "pictures.width"}


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The program that writes the reference."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_current(maker: ModuleType) -> None:
    written = text(ROOT / "docs" / "reference.md")

    assert written == maker.reference(), "run: python docs/make_reference.py"


def test_the_reference_explains_every_word_and_no_other(maker: ModuleType) -> None:
    reasons = {(state, reason) for state, of in REASONS.items() for reason in of}

    assert set(maker.STATES) == set(MOVES)
    assert set(maker.WHY) == reasons
    assert set(maker.EXITS) == {name for name in vars(codes) if name.startswith("EXIT_")}
    assert reasons >= maker.RESERVED


def test_the_pages_stay_short() -> None:
    assert len(text(ROOT / "docs" / "architecture.md").splitlines()) <= 240


@pytest.mark.parametrize("page", [path for path in PAGES if path.name in OURS], ids=lambda path: path.name)
def test_no_line_is_too_long_to_read(page: Path) -> None:
    prose = [line for line in text(page).splitlines() if not line.startswith(("|", "understudy ", "curl "))]

    assert [line for line in prose if len(line) > 130] == []
