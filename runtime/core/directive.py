"""What becomes of an actor whose code raised: a pure function of the error's class."""

from enum import Enum

from runtime.errors import (
    ConfigError,
    StateUnreadable,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreReadOnly,
    UnderstudyError,
)


class Directive(Enum):
    """What the supervisor does about an error."""

    ANSWER = "answer"
    """No crash: the asker gets the error and the actor goes on."""
    RESTART = "restart"
    """The instance is in doubt: a new one takes over the mailbox."""
    QUARANTINE = "quarantine"
    """Trying again cannot help: the cell is parked until a person acts."""
    ESCALATE = "escalate"
    """The trouble is larger than one actor: its supervisor fails."""


def directive(error: BaseException) -> Directive:
    """Decide by the class of *error* alone. After a storage error the outcome is unknown, so the instance goes.

    Where the error says that nothing was written it stays: else a full disk would park every actor that saves.
    """
    match error:
        case StoreFull() | StoreReadOnly() | StoreBusy():
            return Directive.ANSWER
        case StoreError():
            return Directive.RESTART
        case ConfigError() | StateUnreadable():
            return Directive.QUARANTINE
        case UnderstudyError():
            return Directive.ANSWER
        case MemoryError():
            return Directive.ESCALATE
        case _:
            return Directive.RESTART


def unwrapped(error: Exception) -> Exception:
    """Return what a task group wrapped, where it wrapped exactly one error: that one is what happened."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def told(error: BaseException) -> str:
    """Return the error as its type's name and its text, without a traceback."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
