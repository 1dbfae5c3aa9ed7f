"""Days of operation in virtual time, by seed: whatever goes wrong, the rules hold and everything comes to its end."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from runtime.store import port
from tests.simulation import history
from tests.simulation.rules import Broken
from tests.simulation.stage import Lie

SEEDS = 50
AT_A_TIME = 5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_a_day_goes_well_whatever_goes_wrong(first: int) -> None:
    for seed in range(first, first + AT_A_TIME):
        history.play(seed)


def test_the_same_seed_gives_the_same_trace_in_another_process_too() -> None:
    """Names and addresses differ from process to process; what happens may not depend on them."""
    code = "import sys; from tests.simulation import history; print(history.play(7, 6).rules.trace)"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashing},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]
        for hashing in ("1", "2")
    }
    assert traces == {history.play(7, 6).rules.trace}
    assert history.play(8, 6).rules.trace not in traces


# -- negative controls: a store that does not keep its word is found out -----------------------------------------------


def without_keys(change: port.InsertJobs) -> port.InsertJobs:
    return replace(change, jobs=tuple(replace(job, limit_key=None) for job in change.jobs))


def never_kept(change: port.InsertJobs) -> Lie:
    return Lie([port.Inserted(job.id, "pending") for job in change.jobs])


def never_ended(change: port.FinishJobs) -> Lie:
    return Lie([port.Finished(f.fence.id, "a", "loop", f.status, f.reason, 0) for f in change.finishes])


def told_again(change: port.FireSchedule) -> port.FireSchedule:
    return replace(change, outcome="triggered")  # which does not ask whether the tick has been


@pytest.mark.parametrize(
    ("kind", "does"),
    [
        (port.InsertJobs, never_kept),
        (port.InsertJobs, without_keys),
        (port.FinishJobs, never_ended),
        (port.EndStep, lambda change: Lie(True)),
        (port.RecoverJobs, lambda change: Lie(())),
        (port.FireSchedule, lambda change: Lie(None)),
        (port.FireSchedule, told_again),
    ],
    ids=lambda found: found.__name__,
)
def test_a_store_that_breaks_its_word_is_found_out(kind: type, does: Callable[[Any], Any]) -> None:
    def sabotage(change: port.Change) -> Any:
        return does(change) if isinstance(change, kind) else change

    def some_days() -> None:
        for seed in range(8):
            history.play(seed, sabotage=sabotage)

    with pytest.raises(Broken):
        some_days()
