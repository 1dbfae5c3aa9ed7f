"""A change of the queue's next commit, with what hangs on its result and on its failure."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from runtime.core.actor import Promise
from runtime.errors import StoreError
from runtime.store.port import Change


def ignore(_: Any) -> None:
    """Nothing hangs on it."""


class Entry(NamedTuple):
    """A change, and who is told of its result or of its failure.

    apart  what is written in its place where the store refuses it for what is in it, which no later try would mend:
           its parts, or less than was wanted, or nothing. Without, it is tried again as it stands
    """

    change: Change
    heard: Callable[[Any], None] = ignore
    failed: Callable[[StoreError], None] = ignore
    apart: "Apart | None" = None


Apart: TypeAlias = Callable[[StoreError], list[Entry]]


def again(noted: list[Any], one: Any, _: StoreError) -> None:
    """Note once more what could not be written."""
    noted.append(one)


def fail_all(promises: list[Promise], error: StoreError) -> None:
    """Tell everybody who waits."""
    for promise in promises:
        promise.fail(error)


def given_up(failed: Callable[[StoreError], None] = ignore) -> Apart:
    """Return the `apart` of what is not written at all then; *failed* is told why."""

    def apart(error: StoreError) -> list[Entry]:
        failed(error)
        return []

    return apart
