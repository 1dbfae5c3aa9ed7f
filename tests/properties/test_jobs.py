"""Random histories of jobs: the stores agree on every answer, and what must never happen does not."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings

from runtime.store.memory import MemoryStore
from runtime.store.port import Store
from runtime.store.sqlite.store import SqliteStore
from tests.properties.histories import history
from tests.properties.player import Player

COMPARE_EVERY = 20


async def play(stores: list[Store], steps: list[Any]) -> None:
    """Play *steps* to *stores*, and compare them now and then and in the end."""
    for store in stores:
        await store.open()
    try:
        player = Player(stores)
        await player.open()
        for n, (operation, taken_back) in enumerate(steps, 1):
            await player.play(operation, taken_back)
            if n % COMPARE_EVERY == 0:
                await player.compare()
        await player.compare()
    finally:
        for store in stores:
            await store.close()


def run(function: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    anyio.run(partial(function, *arguments))


QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.mark.timeout(400)  # only a failing history takes long: it is made small
@settings(QUICK, max_examples=80)
@given(history)
def test_no_history_breaks_the_rules_of_jobs(steps: list[Any]) -> None:
    run(play, [MemoryStore()], steps)


@pytest.mark.timeout(400)  # only a failing history takes long: it is made small
@settings(QUICK, max_examples=40)
@given(history)
def test_the_store_in_a_file_does_what_the_reference_does(steps: list[Any]) -> None:
    with TemporaryDirectory() as folder:
        file = SqliteStore(Path(folder) / "understudy.db", durability="relaxed")
        run(play, [MemoryStore(), file], steps)
