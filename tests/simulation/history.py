"""One history from beginning to end, in a loop of its own."""

from collections.abc import Callable

import anyio

from runtime.store.port import Change
from tests.simulation.rules import Broken
from tests.simulation.stage import Lie
from tests.simulation.virtual import VirtualLoop
from tests.simulation.world import World


def play(seed: int, hours: float = 24.0, sabotage: Callable[[Change], Change | Lie] | None = None) -> World:
    """Play the history of *seed*; the same seed gives the same trace.

    Raises Broken where a rule did not hold, with the seed; and any other error that came up.
    """
    world = World(seed, hours, sabotage)
    try:
        anyio.run(world.run, backend="asyncio", backend_options={"loop_factory": VirtualLoop})
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  # raised again, as what was behind it
        broken = broken_in(error)
        found = error if broken is None else broken
        found.add_note(f"seed {seed}; again with: {again(seed, hours)}")
        raise found from None
    return world


def broken_in(error: BaseException) -> Broken | None:
    """Return the broken rule among errors that came up together."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(broken_in, error.exceptions)), None)
    return error if isinstance(error, Broken) else None


def again(seed: int, hours: float = 24.0) -> str:
    """Return the command that brings a history back."""
    more = "" if hours == 24.0 else f" --hours {hours:g}"
    return f"python -m tests.simulation --seed {seed}{more}"


def summary(world: World) -> str:
    """Return what happened, in a few lines."""
    counts = ", ".join(f"{name} {count}" for name, count in sorted(world.rules.counts.items()))
    return "\n".join(
        (
            f"trace {world.rules.trace}",
            f"{len(world.acknowledged)} jobs acknowledged, {len(world.sure)} of them sure",
            f"{world.boots} daemons, {world.exhausted} gave up",
            f"did: {dict(sorted(world.did.items()))}",
            f"refused: {dict(sorted(world.refused.items()))}",
            f"repairs: {dict(world.repairs)}",
            f"events: {counts}",
        )
    )
