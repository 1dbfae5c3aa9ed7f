"""Says what was probably meant where a configuration has a mistake."""

import difflib
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from runtime.config_spans import Loc
from schemas.config import Settings

NAME_RULE: Final = "a name starts with a lower-case letter; lower-case letters, digits and _ . - follow, 64 at most"
TAG_RULE: Final = "a tag starts with a letter or a digit; letters, digits and _ . : / - follow, 64 at most"


def message(error: ErrorDetails, loc: Loc) -> str:
    """Return what is wrong, without the value that is."""
    match error["type"]:
        case "extra_forbidden":
            return f"there is no key `{loc[-1]}` here"
        case "missing":
            return f"`{loc[-1]}` is missing"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "a table is wanted here"
        case "union_tag_invalid":
            return f"`type` is one of {error['ctx']['expected_tags']}"
        case "string_pattern_mismatch" if error["loc"][-1] == "[key]":
            return NAME_RULE
        case "string_pattern_mismatch" if loc[-1] in ("actor", "run"):
            return "write module:name, such as jobs:resize"
        case "string_pattern_mismatch" if "tags" in loc:
            return TAG_RULE
        case "string_pattern_mismatch" if "queue" in loc or "queues" in loc:
            return NAME_RULE
    return error["msg"]


def hint(error: ErrorDetails, loc: Loc) -> str:
    """Return what to do about *error*; empty where its message says it all."""
    match error["type"]:
        case "extra_forbidden":
            return meant(str(loc[-1]), keys_at(loc[:-1]))
        case "unknown_provider" | "unknown_kind" | "unknown_tool":
            return meant(error["ctx"]["given"], error["ctx"]["known"])
        case "secret_literal":
            name = str(loc[1]).upper().replace("-", "_").replace(".", "_") if len(loc) > 1 else "OPENAI"
            return f"put it into the environment and write `env:{name}_API_KEY`, or into a file and write `file:/path`"
    return ""


def meant(word: str, known: list[str]) -> str:
    """Return "did you mean ..." for the closest of *known*, else all of them."""
    close = difflib.get_close_matches(word, known, 1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(known)}" if known else ""


def keys_at(loc: Loc) -> list[str]:
    """Return the keys that the schema knows in the table at *loc*, in the schema's order."""
    models: list[Any] = [Settings]
    for part in loc:
        models = [inner for model in models for inner in _step(model, part)]
    return list(dict.fromkeys(key for model in models if _is_model(model) for key in model.model_fields))


def _step(annotation: Any, part: str | int) -> list[Any]:
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return [] if field is None else _members(field.annotation)
    if get_origin(annotation) is dict:
        return _members(get_args(annotation)[1])
    return []


def _members(annotation: Any) -> list[Any]:
    """Return what an annotation may be: the members of a union, without what only decorates them."""
    if _is_model(annotation) or get_origin(annotation) is dict:
        return [annotation]
    return [inner for part in get_args(annotation) for inner in _members(part)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
