"""Which class of error does what to an actor."""

import pytest

from runtime.core.directive import Directive, directive, told, unwrapped
from runtime.errors import (
    ActorStopped,
    AskTimeout,
    ConfigInvalid,
    LlmOverloaded,
    SecretUnavailable,
    StateUnreadable,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    VersionConflict,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreError(), Directive.RESTART),
        (StoreFull(), Directive.ANSWER),
        (StoreBusy(), Directive.ANSWER),
        (StoreReadOnly(), Directive.ANSWER),
        (VersionConflict(), Directive.RESTART),
        (ConfigInvalid(), Directive.QUARANTINE),
        (SecretUnavailable(), Directive.QUARANTINE),
        (StateUnreadable(), Directive.QUARANTINE),
        (LlmOverloaded(), Directive.ANSWER),
        (AskTimeout(), Directive.ANSWER),
        (ActorStopped(), Directive.ANSWER),
        (MemoryError(), Directive.ESCALATE),
        (ValueError(), Directive.RESTART),
        (AssertionError(), Directive.RESTART),
        (ExceptionGroup("two", [ValueError(), KeyError()]), Directive.RESTART),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.value,
)
def test_the_class_of_an_error_decides(error, expected):
    assert directive(error) is expected


def test_a_group_of_one_is_that_one():
    inner = StoreFull("no space")
    assert unwrapped(ExceptionGroup("outer", [ExceptionGroup("inner", [inner])])) is inner
    two = ExceptionGroup("two", [ValueError(), KeyError()])
    assert unwrapped(two) is two


def test_an_error_is_told_by_its_name_and_text():
    assert told(ValueError("bad")) == "ValueError: bad"
    assert told(ValueError()) == "ValueError"
