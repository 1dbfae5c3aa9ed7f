"""A change of the queue's next commit, with what hangs on its result and on its failure."""

from collections.abc import Callable
from typing import Any, NamedTuple

from runtime.core.actor import Promise
from runtime.errors import StoreError
from runtime.store.port import Change


def ignore(_: Any) -> None:
    """Nothing hangs on it."""


class Entry(NamedTuple):
    """A change, and who is told of its result or of its failure."""

    change: Change
    heard: Callable[[Any], None] = ignore
    failed: Callable[[StoreError], None] = ignore


def again(noted: list[Any], one: Any, _: StoreError) -> None:
    """Note once more what could not be written."""
    noted.append(one)


def fail_all(promises: list[Promise], error: StoreError) -> None:
    """Tell everybody who waits."""
    for promise in promises:
        promise.fail(error)
