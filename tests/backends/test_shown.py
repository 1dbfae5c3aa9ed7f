"""What the examples and the page show, played against the backends; with a daemon around them tests/docs runs them."""

import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.port import Final, Note, Text
from runtime.backends.process import ProcessBackend
from runtime.outcomes import Suspended
from runtime.tools.tool import ToolResult
from schemas.chat import ToolSpec

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "how-to" / "agents-elsewhere.md"
PRICES = {"coffee": 350, "tea": 300, "cake": 400}

Take = Callable[..., Any]


async def price(arguments: dict[str, Any]) -> ToolResult:
    return ToolResult(str(PRICES[arguments["item"]]))


def page_blocks() -> list[str]:
    return re.findall(r"^```python(?: [\w.]+)?\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


async def test_the_program_of_the_examples(take: Take, ctx: Any, turn: Any) -> None:
    ctx.tools["till_price"] = price
    folder = EXAMPLES / "exec_agent"
    argv = tomllib.loads((folder / "config.toml").read_text())["agents"]["cashier"]["exec"]
    backend = ProcessBackend(tuple(argv), str(folder))

    events = await take(backend, ctx, turn("A coffee and a cake, please."))

    assert [type(event) for event in events] == [Text, Text, Final]
    assert events[-1] == Final(text="That is 7.50. You are guest number 1.")
    assert (await take(backend, ctx.again(), turn("nothing")))[-1].text == "That is 0.00. You are guest number 2."
    assert backend.state() == {"guests": 2}


async def test_the_program_of_the_page(take: Take, ctx: Any, turn: Any, tmp_path: Path) -> None:
    ctx.tools["till_price"] = price
    (tmp_path / "agent.py").write_text(page_blocks()[0])
    backend = ProcessBackend((sys.executable, "agent.py"), str(tmp_path))

    assert await take(backend, ctx, turn("How much is the coffee?")) == [Final(text="The coffee is 350 cents.")]


async def test_the_step_of_the_page(take: Take, ctx: Any, tmp_path: Path) -> None:
    (once,) = (block for block in page_blocks() if "def once" in block)
    more = """
turn = json.loads(sys.stdin.readline())
found = once("model/1", lambda: "dear")
print(json.dumps({"type": "log", "text": found}), flush=True)
print(json.dumps({"type": "final", "text": found}), flush=True)
"""
    (tmp_path / "agent.py").write_text(once + more)
    backend = ProcessBackend((sys.executable, "agent.py"), str(tmp_path))

    for attempt in (ctx, ctx.again()):
        assert await take(backend, attempt) == [Note(kind="log", data={"text": "dear"}), Final(text="dear")]
    assert ctx.done == ["model/1"]


async def test_the_class_of_the_page(take: Take, ctx: Any, turn: Any) -> None:
    (block,) = (block for block in page_blocks() if "class Cashier" in block)
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    ctx.tools["till_price"] = price

    events = await take(namespace["Cashier"](), ctx, turn("How much is the tea?"))

    assert events == [Text(text="The tea is "), Final(text="The tea is 300 cents.")]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_agent_of_pydantic_ai(take: Take, ctx: Any, turn: Any, anyio_backend: str) -> None:
    pytest.importorskip("pydantic_ai")
    spec = importlib.util.spec_from_file_location("shop", EXAMPLES / "pydantic_ai_agent" / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    said = turn("How much is a coffee?", tools=(ToolSpec(name="till_price"),))
    ctx.tools["till_price"] = ctx.tools["ask"]
    with pytest.raises(Suspended):
        await take(shop.cashier, ctx, said)

    ctx.tools["till_price"] = price
    *_, final = await take(shop.cashier, ctx.again(), said)

    assert final == Final(text="That is 3.50, please.")
