"""What tests of tools share: a context, and notes that are kept in a dictionary."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runtime.clock import SystemClock
from runtime.tools.tool import ToolContext


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Notes:
    """Surroundings that remember in a dictionary."""

    kept: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def remember(self, key: str, text: str | None) -> None:
        if text is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = text

    async def recall(self, query: str, limit: int) -> list[tuple[str, str]]:
        self.asked.append((query, limit))
        return [(key, text) for key, text in self.kept.items() if query in text][:limit]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def ctx(workdir: Path, notes: Notes) -> ToolContext:
    return ToolContext("ada", "run", "call", "key", workdir, SystemClock(), notes)
