"""Python functions as tools: their schema, their words, their arguments, and how they end."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import pytest
from pydantic import BaseModel, Field

from runtime.errors import LoadFailed, ToolDenied, ToolInvalid
from runtime.tools.functions import load_tool, tool, tool_of
from runtime.tools.tool import Tool, ToolContext, ToolResult


class Size(BaseModel):
    width: int
    height: int = 1


@dataclass
class Point:
    x: int
    on: date


def draw(name: str, size: Size, colour: Literal["red", "blue"] = "red", times: int = 1) -> str:
    """Draw a thing.

    It is drawn on paper.

    name: what to draw
    size:   how large it is
    nobody: is no parameter
    """
    return f"{times} {colour} {name} {size.width}x{size.height}"


async def call(made: Tool, ctx: ToolContext, **arguments: Any) -> ToolResult:
    return await made.run(ctx, made.check(arguments))


# -- schema and words --------------------------------------------------------------------------------------------------


def test_the_schema_comes_from_the_signature() -> None:
    schema = tool_of(draw).parameters
    assert schema["type"] == "object"
    assert schema["required"] == ["name", "size"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == ["name", "size", "colour", "times"]
    assert schema["properties"]["name"] == {"type": "string", "description": "what to draw"}
    assert schema["properties"]["colour"] == {"type": "string", "enum": ["red", "blue"], "default": "red"}
    assert schema["properties"]["times"] == {"type": "integer", "default": 1}
    assert "title" not in schema


def test_the_docstring_describes_the_tool_and_its_parameters() -> None:
    made = tool_of(draw)
    assert made.name == "draw"
    assert made.description == "Draw a thing.\n\nIt is drawn on paper.\n\nnobody: is no parameter"
    assert made.parameters["properties"]["size"]["description"] == "how large it is"


def test_other_ways_of_describing_parameters_are_known() -> None:
    def google(path: str, count: int, last: int) -> None:
        """Do it.

        Args:
            path (str): where it is,
                from the folder
            count: how many
            last: the last

        Returns: nothing.
        """

    def sphinx(path: str, count: int, last: int) -> None:
        """Do it.

        :param path: where it is,
            from the folder
        :param count: how many
        :param last: the last

        Returns: nothing.
        """

    for function in (google, sphinx):
        made = tool_of(function)
        assert made.description == "Do it.\n\nReturns: nothing."
        assert {name: one["description"] for name, one in made.parameters["properties"].items()} == {
            "path": "where it is, from the folder",
            "count": "how many",
            "last": "the last",
        }


def test_words_and_limits_of_an_annotation_are_in_the_schema() -> None:
    def f(count: Annotated[int, Field(ge=1, description="how many")] = 3) -> int:
        return count

    assert tool_of(f).parameters["properties"]["count"] == {
        "type": "integer",
        "minimum": 1,
        "description": "how many",
        "default": 3,
    }
    with pytest.raises(ToolInvalid, match=r"^count: "):
        tool_of(f).check({"count": 0})


def test_a_function_without_parameters_and_words() -> None:
    def f() -> None: ...

    made = tool_of(f)
    assert (made.description, made.parameters) == (
        "",
        {"type": "object", "properties": {}, "additionalProperties": False},
    )
    assert made.check({}) == {}


@pytest.mark.parametrize("annotated", [True, False])
def test_the_context_is_no_parameter_of_the_tool(annotated: bool) -> None:
    def by_name(ctx, x: int): ...  # type: ignore[no-untyped-def]

    def by_type(x: int, where: ToolContext) -> None: ...

    made = tool_of(by_type if annotated else by_name)
    assert list(made.parameters["properties"]) == ["x"]
    with pytest.raises(ToolInvalid, match=r"^(ctx|where): "):
        made.check({"x": 1, ("where" if annotated else "ctx"): {}})


@pytest.mark.parametrize("name", ["schema", "copy", "json", "model_dump", "model_config", "_hidden", "self_", "dict"])
async def test_any_name_may_be_a_parameter(name: str, ctx: ToolContext) -> None:
    space: dict[str, Any] = {}
    exec(f"def f({name}: int) -> int:\n    return {name} + 1", space)
    made = tool_of(space["f"])
    assert list(made.parameters["properties"]) == [name]
    assert made.check({name: 1}) == {name: 1}
    assert await call(made, ctx, **{name: 1}) == ToolResult("2")


class Opaque:
    pass


def test_what_no_schema_can_say_is_not_loaded() -> None:
    def opaque(x: Opaque) -> None: ...

    def unknown(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def words(*words: str) -> None: ...

    def names(**names: str) -> None: ...

    def positional(x: int, /) -> None: ...

    for function in (opaque, unknown, words, names, positional):
        with pytest.raises(LoadFailed, match=function.__name__):
            tool_of(function)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_are_filled_in_and_coerced() -> None:
    assert tool_of(draw).check({"name": "cat", "size": {"width": "3"}}) == {
        "name": "cat",
        "size": {"width": 3, "height": 1},
        "colour": "red",
        "times": 1,
    }


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"size": {"width": 1}}, r"^name: Field required$"),
        ({"name": 3, "size": {"width": 1}}, r"^name: Input should be a valid string"),
        ({"name": "a", "size": {"width": "wide"}}, r"^size\.width: Input should be a valid integer"),
        ({"name": "a", "size": {"width": 1}, "colour": "green"}, r"^colour: Input should be 'red' or 'blue'"),
        ({"name": "a", "size": {"width": 1}, "more": 1}, r"^more: Extra inputs are not permitted"),
        ({"times": "x"}, r"^name: .*; size: .*; times: "),
    ],
)
def test_wrong_arguments_are_told_with_their_names(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ToolInvalid, match=told):
        tool_of(draw).check(wrong)


@pytest.mark.parametrize("default", [object(), float("inf"), {1, object()}])
def test_a_default_that_has_no_json_is_not_loaded(default: Any) -> None:
    def f(x: Any = default) -> None: ...

    with pytest.raises(LoadFailed, match="the default of x has no JSON"):
        tool_of(f)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_none(number: float) -> None:
    def f(x: float) -> None: ...

    with pytest.raises(ToolInvalid, match=r"^x: "):
        tool_of(f).check({"x": number})


async def test_a_default_of_none_may_be_left_out(ctx: ToolContext) -> None:
    def f(x: int = None) -> bool:  # type: ignore[assignment]  # noqa: RUF013
        return x is None

    assert await call(tool_of(f), ctx) == ToolResult("true")
    assert await call(tool_of(f), ctx, x=1) == ToolResult("false")


async def test_a_function_gets_what_its_types_say(ctx: ToolContext) -> None:
    def f(size: Size, day: date, where: Path, many: frozenset[int]) -> str:
        assert (type(size), type(day), isinstance(where, Path), type(many)) == (Size, date, True, frozenset)
        return day.strftime("%d.%m.%Y")

    arguments = {"size": {"width": 1}, "day": "2026-01-02", "where": "/x", "many": [1, 1]}
    assert await call(tool_of(f), ctx, **arguments) == ToolResult("02.01.2026")


# -- calls -------------------------------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_and_an_async_one_does_not(ctx: ToolContext) -> None:
    def plain() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def other() -> bool:
        await anyio.sleep(0)
        return threading.current_thread() is threading.main_thread()

    assert await call(tool_of(plain), ctx) == ToolResult("false")
    assert await call(tool_of(other), ctx) == ToolResult("true")


async def test_a_function_gets_the_context(ctx: ToolContext) -> None:
    async def f(x: int, ctx: ToolContext) -> str:
        return f"{ctx.agent} {ctx.key} {x}"

    assert await call(tool_of(f), ctx, x=1) == ToolResult("ada key 1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        ({"ä": [1, None]}, '{"ä": [1, null]}'),
        (Size(width=2), '{"width":2,"height":1}'),
        (Point(1, date(2026, 1, 2)), '{"x":1,"on":"2026-01-02"}'),
        ([Size(width=2)], '[{"width":2,"height":1}]'),
        (3, "3"),
    ],
)
async def test_what_it_returns_is_text_or_json(value: Any, text: str, ctx: ToolContext) -> None:
    assert await call(tool_of(lambda: value), ctx) == ToolResult(text)


async def test_a_result_is_handed_on_as_it_is(ctx: ToolContext) -> None:
    result = ToolResult("no", failed=True)
    assert await call(tool_of(lambda: result), ctx) is result


async def test_what_has_no_json_is_a_failure_and_no_crash(ctx: ToolContext) -> None:
    answer = await call(tool_of(lambda: [b"\xff"]), ctx)
    assert answer.failed
    assert "\n" not in answer.text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("first\n  second\n"), "ValueError: first second"),
        (KeyError("x"), "KeyError: 'x'"),
        (ValueError(), "ValueError"),
        (StopIteration(), ""),
    ],
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_an_exception_is_told_in_one_line(error: Exception, told: str, is_async: bool, ctx: ToolContext) -> None:
    def plain() -> None:
        raise error

    async def other() -> None:
        raise error

    answer = await call(tool_of(other if is_async else plain), ctx)
    assert answer.failed
    assert "\n" not in answer.text
    assert not told or answer.text == told


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_that_would_end_the_program_ends_its_call(is_async: bool, ctx: ToolContext) -> None:
    def plain() -> None:
        sys.exit("enough")

    async def eventual() -> None:
        sys.exit("enough")

    made = tool_of(eventual if is_async else plain)
    assert await call(made, ctx) == ToolResult("SystemExit: enough", failed=True)


async def test_a_tools_own_error_goes_through(ctx: ToolContext) -> None:
    def f() -> None:
        raise ToolDenied("not you")

    with pytest.raises(ToolDenied, match="not you"):
        await call(tool_of(f), ctx)


async def test_a_plain_function_that_takes_too_long_is_left_to_itself(ctx: ToolContext) -> None:
    begun, end = threading.Event(), threading.Event()

    def f() -> None:
        begun.set()
        end.wait(30)

    made = tool_of(f)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(made.run, ctx, {})
            with anyio.fail_after(10):
                while not begun.is_set():
                    await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert not end.is_set()
    finally:
        end.set()


# -- marks and loading -------------------------------------------------------------------------------------------------


def test_an_unmarked_function_is_told_allowed_and_has_a_minute() -> None:
    made = tool_of(draw)
    assert (made.effect, made.permission, made.traits, made.timeout) == ("tell_model", "allow", frozenset(), 60.0)
    assert not made.asks_always


def test_marks_of_the_decorator() -> None:
    @tool(name="paint", effect="idempotent", permission="ask", traits=["outward"], timeout=5)
    def f(x: int) -> int:
        return x

    made = tool_of(f)
    assert (made.name, made.effect, made.permission, made.timeout) == ("paint", "idempotent", "ask", 5)
    assert made.traits == frozenset({"outward"})
    assert tool_of(f, name="other").name == "other"
    assert f(3) == 3


MODULE = '''
from runtime.tools.functions import tool

@tool(effect="pure")
def double(x: int) -> int:
    """Double it."""
    return 2 * x

nothing = 3
'''


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "mytools.py").write_text(MODULE)
    (tmp_path / "mytools.py").chmod(0o600)
    return tmp_path


async def test_a_tool_is_loaded_from_the_users_module(folder: Path, ctx: ToolContext) -> None:
    made = load_tool("mytools:double", folder)
    assert (made.name, made.effect, made.source) == ("mytools:double", "pure", "mytools")
    assert made.spec.name == "mytools_double"
    assert await call(made, ctx, x=4) == ToolResult("8")


@pytest.mark.parametrize("reference", ["mytools:nothing", "mytools:absent", "nowhere:double", "mytools"])
def test_what_is_no_tool_is_not_loaded(reference: str, folder: Path) -> None:
    with pytest.raises(LoadFailed):
        load_tool(reference, folder)
