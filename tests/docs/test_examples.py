"""The examples and the pages with commands, run as they say: every command in a shell, every answer compared."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.daemon

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/README.md"))
PAGES = sorted(path for path in ROOT.glob("docs/**/*.md") if "```console" in path.read_text(encoding="utf-8"))
MARK = "--- end of a command:"


@dataclass
class Command:
    """One command of a README and the answer that it shows."""

    text: str
    shown: list[str] = field(default_factory=list)

    def fits(self, said: str) -> bool:
        """Tell whether *said* is what is shown, where `...` stands for anything and blanks for one or more of them."""
        return re.fullmatch(pattern("\n".join(self.shown)), said.strip(), re.DOTALL) is not None

    @property
    def fails(self) -> bool:
        """Whether its exit code is not 0: the answer shows an error."""
        return any(line.startswith("error:") for line in self.shown)


def pattern(shown: str) -> str:
    parts = (r"\s+".join(map(re.escape, part.split())) for part in shown.split("..."))
    return r"\s*.*?\s*".join(parts)


def commands(markdown: str) -> list[Command]:
    """Return the commands of all `console` blocks."""
    found: list[Command] = []
    for block in re.findall(r"^```console\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Command(line[2:]))
            else:
                found[-1].shown.append(line)
    return found


def script(all_of_them: list[Command]) -> str:
    """Return one shell script, so that variables and the folder last from command to command."""
    return "".join(f'{one.text}\necho "{MARK} $?"\n' for one in all_of_them)


@pytest.fixture
def stage(new_daemon: Callable[..., Any]) -> Iterator[Any]:
    """A copy of the examples that is ours alone, a folder for the homes they make, and no daemon left behind."""
    daemon = new_daemon()
    target = daemon.folder / "examples"
    shutil.copytree(ROOT / "examples", target, ignore=shutil.ignore_patterns("__pycache__", "*.ppm"))
    for path in (target, *target.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    daemon.environ |= {"TMPDIR": str(daemon.home), "LC_UNDERSTUDY_TEST": daemon.token}
    yield daemon
    for socket in daemon.home.glob("*/control.sock"):
        daemon.cli("down", "--now", UNDERSTUDY_HOME=str(socket.parent))


def files(markdown: str) -> dict[str, str]:
    """Return the blocks that name a file after their language, by that name."""
    return dict(re.findall(r"^```\w+ ([\w.-]+)\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE))


def compare(asked: list[Command], stage: Any, folder: Path) -> None:
    """Run commands in *folder* and compare what each says and whether it fails."""
    environment = stage.environment()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["sh"],
        input=script(asked),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    answers = re.split(rf"{MARK} (\d+)\n", done.stdout)
    said, codes = answers[:-1:2], answers[1::2]
    assert len(said) == len(asked), done.stdout
    for command, answer, code in zip(asked, said, codes, strict=True):
        assert command.fits(answer), f"$ {command.text}\n{answer}"
        assert (code != "0") is command.fails, f"$ {command.text}\nexit code {code}\n{answer}"
    stage.assert_alone()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_a_page_says_what_happens(stage: Any, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folder = stage.folder / "page"
    folder.mkdir(mode=0o700)
    for name, content in files(text).items():
        (folder / name).write_text(content, encoding="utf-8")
        (folder / name).chmod(0o600)
    compare(commands(text), stage, folder)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_does_what_its_readme_shows(stage: Any, example: str) -> None:
    asked = commands((ROOT / "examples" / example / "README.md").read_text(encoding="utf-8"))
    compare(asked, stage, stage.folder)
    assert unnamed_files(stage.home) == set()


def unnamed_files(homes: Path) -> set[str]:
    """Return the files of the example's home that the reference does not name."""
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = {path.name for path in homes.glob("*/*")}
    assert names, "the example made no home of its own"
    return {name for name in names if f"`{name}`" not in reference}


def test_all_three_examples_are_run() -> None:
    assert {"counter", "images", "scripted"} <= set(EXAMPLES)
