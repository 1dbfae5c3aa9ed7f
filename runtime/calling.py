"""How a function of the user's is called for a job: with the job's arguments, and the context where it asks for one."""

import inspect
from collections.abc import Callable
from typing import Any, Final

from runtime.outcomes import AsyncJobContext, JobContext

CONTEXTS: Final = (JobContext, AsyncJobContext)
_NAMES: Final = tuple(one.__name__ for one in CONTEXTS)


class Unfit(Exception):
    """The job and the function do not go together; no other attempt will change that."""

    code = "job.failed"


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether calling *function* gives a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004  # an object's own, which may be async
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def arguments(name: str, function: Callable[..., Any], args: dict[str, Any], context: Any) -> dict[str, Any]:
    """Return *args*, with *context* for each parameter that asks for it and that the job has no argument for.

    Raises Unfit where they do not fit the function.
    """
    if not callable(function):
        raise Unfit(f"{name} is not a function")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of C modules do not tell
        return args
    given = {one.name: context for one in signature.parameters.values() if wants_context(one)} | args
    try:
        signature.bind(**given)
    except TypeError as error:
        raise Unfit(f"the arguments do not fit {name}: {error}") from None
    return given


def wants_context(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is for the job's context: by its name, or by its annotation, which may be text."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        return parameter.name == "ctx" or annotation.rpartition(".")[2] in _NAMES
    return parameter.name == "ctx" or annotation in CONTEXTS
