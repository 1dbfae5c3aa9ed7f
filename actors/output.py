"""An answer of a given shape: by the provider's own means, else by a tool the model has to call, else by words; what
does not fit is given back twice at most.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from runtime.errors import ConfigError, LlmError, LlmRequest, LoadFailed, OutputInvalid
from runtime.loader import load_object
from runtime.tools.schema import mistakes
from schemas.chat import ToolCall, ToolSpec

REPAIRS: Final = 2
ANSWER: Final = "give_answer"
"""The tool by which a model is made to answer in a shape."""

FENCE: Final = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n\s*```\s*", re.DOTALL)

ASKED: Final = "Give your answer as JSON that fits this schema, and nothing else:\n"
MISFIT: Final = "That does not fit the schema: {why}. Give the whole answer again, as JSON alone."


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is asked for the shape once: the words, and what holds it to it."""

    words: str
    schema: dict[str, Any] | None = None
    tools: tuple[ToolSpec, ...] = ()
    choice: str | None = None

    def text_of(self, text: str, calls: tuple[ToolCall, ...]) -> str:
        """Return the answer in what came."""
        return calls[0].arguments if calls else text


class Output:
    """The shape one turn's answer has to have; `value` is the answer once it fits."""

    def __init__(self, schema: dict[str, Any], model: type[BaseModel] | None = None) -> None:
        self.schema, self.model = schema, model
        self.value: Any = None
        self._why = "there was no answer"
        self._fits = False
        self._refused: set[str] = set()

    @classmethod
    def of(cls, wanted: str | dict[str, Any], folder: Path) -> "Output":
        """Return the shape that an agent's `output` names. Raises LoadFailed."""
        if isinstance(wanted, dict):
            return cls(wanted)
        found = load_object(wanted, folder)
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise LoadFailed(f"{wanted} is no pydantic model")
        try:
            return cls(found.model_json_schema(), found)
        except Exception as error:  # pydantic has many, for what JSON Schema cannot say
            raise ConfigError(f"{wanted} has no JSON Schema: {error}") from error

    def offer(self, text: str) -> bool:
        """Look whether *text* fits; then `value` is what it says."""
        fenced = FENCE.fullmatch(text)
        try:
            found = json.loads(fenced[1] if fenced else text)
        except (ValueError, RecursionError):
            self._why = "it is not JSON"
            return False
        wrong = mistakes(found, self.schema)
        if not wrong and self.model is not None:
            wrong = self._by_model(found)
        if wrong:
            self._why = "; ".join(wrong)[:1000]
            return False
        self.value, self._fits = found, True
        return True

    def _by_model(self, found: Any) -> list[str]:
        assert self.model is not None
        try:
            self.model.model_validate_json(json.dumps(found))
        except ValidationError as error:
            return [
                f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}"
                for one in error.errors(include_input=False, include_url=False)
            ]
        return []

    def ways(self, text: str) -> Iterator[Way | None]:
        """Yield how the model is to be asked next, and None once its answer fits (*text* may already)."""
        if self.offer(text):
            yield None
            return
        words = ASKED + json.dumps(self.schema, ensure_ascii=False)
        for _ in range(REPAIRS + 1):
            for way in (Way(words, schema=self.schema), self._by_tool(words), Way(words)):
                if kind(way) not in self._refused:
                    yield way
                    if kind(way) not in self._refused:
                        break
            if self._fits:
                yield None
                return
            words = MISFIT.format(why=self._why)

    def _by_tool(self, words: str) -> Way:
        tool = ToolSpec(name=ANSWER, description="Gives the answer.", parameters=self.schema)
        return Way(words, tools=(tool,), choice=ANSWER)

    def refused(self, way: Way, error: LlmError) -> bool:
        """Note that a provider does not know a way; False where the error is about something else."""
        if not isinstance(error, LlmRequest) or kind(way) == "words":
            return False
        self._refused.add(kind(way))
        return True

    def misfit(self) -> OutputInvalid:
        """Return the error of an answer that never fitted."""
        return OutputInvalid(f"the answer does not fit its schema after {REPAIRS} repairs: {self._why}", why=self._why)


def kind(way: Way) -> str:
    """Return what holds the model to the shape."""
    return "native" if way.schema is not None else "tool" if way.tools else "words"
