"""Tools made of typed Python functions: the schema comes from the signature, the words from the docstring."""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, get_type_hints

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import to_jsonable_python

from runtime.clock import VirtualClock
from runtime.errors import LoadFailed, ToolError, ToolInvalid
from runtime.loader import load_object
from runtime.tools.tool import Tool, ToolContext, ToolResult
from schemas.tools import Effect, Permission, Trait

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT: Final = "ctx"
MARK: Final = "__understudy_tool__"
TIMEOUT: Final = 60.0
MAX_SAID: Final = 2_000
"""Characters of an exception that the model is told."""
ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any)
PARAMETER: Final = re.compile(r"^(\s*)(?::param\s+)?(\w+)\s*(?:\([^()]*\)\s*)?:\s+(\S.*)$")
"""`name: words`, `name (type): words` or `:param name: words`."""
HEADING: Final = re.compile(r"^\s*(Args|Arguments|Parameters):\s*$")


@dataclass(frozen=True, slots=True)
class Marks:
    """What `tool` has noted of a function."""

    name: str | None = None
    effect: Effect = "tell_model"
    permission: Permission = "allow"
    traits: frozenset[Trait] = frozenset()
    timeout: float = TIMEOUT


def tool(
    *,
    name: str | None = None,
    effect: Effect = "tell_model",
    permission: Permission = "allow",
    traits: Iterable[Trait] = (),
    timeout: float = TIMEOUT,
) -> Callable[[F], F]:
    """Say of a function what kind of tool it is; one without is `tell_model`, allowed, and has a minute.

    effect      what becomes of a call of which nobody knows how it ended (`schemas.tools.Effect`)
    permission  what holds unless the agent's `permissions` say otherwise
    traits      what a call brings into a run: `private`, `untrusted`, `outward`
    timeout     seconds
    """
    marks = Marks(name, effect, permission, frozenset(traits), timeout)

    def mark(function: F) -> F:
        setattr(function, MARK, marks)
        return function

    return mark


def load_tool(reference: str, folder: Path) -> Tool:
    """Return the tool that `module:function` names. Raises LoadFailed."""
    found = load_object(reference, folder)
    if isinstance(found, Tool):
        return found
    if not callable(found):
        raise LoadFailed(f"{reference} is neither a function nor a tool")
    return tool_of(found, name=reference, source=reference.partition(":")[0])


def tool_of(function: Callable[..., Any], *, name: str | None = None, source: str = "a function") -> Tool:
    """Make a tool of a function, async or not.

    Its parameters are the tool's, but for one named `ctx` or annotated `ToolContext`, which gets the context. A plain
    function runs in a thread, so it may block; it cannot be ended, and a call that takes too long is left to itself.
    What it returns is the result, as text or as JSON; what it raises is told to the model in one line. Raises
    LoadFailed for a signature that no schema can say.
    """
    marks: Marks = getattr(function, MARK, Marks())
    called = str(name or marks.name or getattr(function, "__name__", "tool"))
    words, about = documented(function)
    context, model = signature_of(function, called, about)

    def check(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            return model.model_validate(arguments).model_dump(mode="json", by_alias=True)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)
            ]
            raise ToolInvalid("; ".join(faults), errors=faults) from None

    async def run(given: ToolContext, arguments: dict[str, Any]) -> ToolResult:
        values = model.model_validate(arguments)
        named = {str(one.alias): getattr(values, key) for key, one in model.model_fields.items()}
        if context is not None:
            named[context] = given
        try:
            if inspect.iscoroutinefunction(function):
                found = await function(**named)
            elif isinstance(given.clock, VirtualClock):  # time that jumps does not wait for threads
                found = function(**named)
            else:
                found = await anyio.to_thread.run_sync(partial(function, **named), abandon_on_cancel=True)
            if inspect.isawaitable(found):
                found = await found
            return found if isinstance(found, ToolResult) else ToolResult(text_of(found))
        except ToolError:
            raise
        # The function's own trouble is for the model to know; one that would end the program must not end ours.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            said = " ".join(str(error).split())[:MAX_SAID]
            return ToolResult(f"{type(error).__name__}: {said}" if said else type(error).__name__, failed=True)

    return Tool(
        name=called,
        description=words,
        parameters=schema_of(model),
        run=run,
        check=check,
        effect=marks.effect,
        permission=marks.permission,
        traits=marks.traits,
        timeout=marks.timeout,
        source=source,
    )


def signature_of(function: Callable[..., Any], name: str, about: dict[str, str]) -> tuple[str | None, type[BaseModel]]:
    """Return the parameter that takes the context, and the others as a model. Raises LoadFailed."""
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise LoadFailed(f"the signature of {name} cannot be read: {error}") from None
    context: str | None = None
    fields: dict[str, Any] = {}
    for one in parameters:
        if one.name == CONTEXT or hints.get(one.name) is ToolContext:
            context = one.name
            continue
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise LoadFailed(f"{name}: a tool names each of its parameters; {one} is none of those")
        hint = hints.get(one.name, Any)
        more: dict[str, Any] = {} if one.default is one.empty else {"default": one.default}
        if one.default is not one.empty:
            _check_default(name, one)
        if one.default is None:  # many write `x: int = None`
            hint = hint | None
        if one.name in about:  # else an `Annotated` one keeps its own words
            more["description"] = about[one.name]
        # By another name, for pydantic has names of its own: `schema`, `copy`, those that begin with an underscore.
        fields[f"p{len(fields)}"] = (hint, Field(alias=one.name, **more))
    try:
        return context, create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise LoadFailed(f"{name}: its parameters cannot be a schema: {said}") from None


def _check_default(name: str, parameter: inspect.Parameter) -> None:
    """Raises LoadFailed for a default that cannot stand in a call as it is put on record."""
    try:
        json.dumps(to_jsonable_python(parameter.default), allow_nan=False)
    except ValueError:
        raise LoadFailed(f"{name}: the default of {parameter.name} has no JSON") from None


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model as the JSON Schema that is sent to providers: without titles, which say nothing. Raises
    LoadFailed.
    """
    try:
        schema = model.model_json_schema()
    except (PydanticUserError, ValueError) as error:
        raise LoadFailed(f"{model.__name__}: its parameters have no JSON Schema: {error}") from None
    schema.pop("title", None)
    schema.setdefault("properties", {})
    for one in schema["properties"].values():
        one.pop("title", None)
    return schema


def documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of a function, and of its parameters: lines of the form `name: words`, each with
    the lines below it that stand further in.
    """
    text = inspect.getdoc(function) or ""
    names = set(inspect.signature(function).parameters)
    words: list[str] = []
    about: dict[str, str] = {}
    last, margin = "", 0
    for line in text.splitlines():
        found = PARAMETER.match(line)
        if found is not None and found[2] in names:
            margin, last = len(found[1]), found[2]
            about[last] = found[3].strip()
        elif last and line.strip() and len(line) - len(line.lstrip()) > margin:
            about[last] += f" {line.strip()}"
        else:
            last = ""
            words += () if HEADING.match(line) else (line,)
    return re.sub(r"\n{2,}", "\n\n", "\n".join(words)).strip(), about


def text_of(found: Any) -> str:
    """Return what a function returned as a model reads it."""
    if isinstance(found, str):
        return found
    try:
        return json.dumps(found, ensure_ascii=False)
    except (TypeError, ValueError):
        return ANY.dump_json(found, fallback=str).decode()
