"""Every store: what agents spend. It is charged before a call is made, so that two at once cannot pass a limit."""

from typing import Any

import anyio
import pytest

from runtime.store.port import Charge, EndStep, RecoverJobs, StepBegun
from tests.store.agents_desk import DAY


async def spent(desk: Any, day: str = DAY, agent: str = "ada") -> tuple[int, int, int, int]:
    """Return calls, tokens of both kinds, and cost of a day."""
    rows = [row for row in await desk.store.spent(agent) if row.day == day]
    return (rows[0].calls, rows[0].input_tokens, rows[0].output_tokens, rows[0].cost) if rows else (0, 0, 0, 0)


async def test_a_charge_is_added_with_the_step_it_is_for(desk: Any) -> None:
    claimed = await desk.start()
    charge = desk.charge(calls=1, input_tokens=10, output_tokens=5, cost=7)
    assert await desk.begin(claimed, "model/1", charge=charge) == StepBegun("run")
    assert await spent(desk) == (1, 10, 5, 7)
    assert await desk.begin(claimed, "model/2", charge=charge) == StepBegun("run")
    assert await spent(desk) == (2, 20, 10, 14)


async def test_what_it_has_cost_in_the_end_is_made_up_for(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "model/1", charge=desk.charge(calls=1, input_tokens=10, output_tokens=50, cost=100))
    rest = desk.charge(input_tokens=1, output_tokens=-45, cost=-80)
    assert await desk.done(claimed, "model/1", "hello", charge=rest) is True
    assert await spent(desk) == (1, 11, 5, 20)
    assert await desk.done(claimed, "model/1", "hello", charge=rest) is False
    assert await spent(desk) == (1, 11, 5, 20)


async def test_what_failed_gives_back_what_it_reserved(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "model/1", charge=desk.charge(calls=1, output_tokens=50, cost=100))
    back = desk.charge(calls=-1, output_tokens=-50, cost=-100)
    assert await desk.one(EndStep(claimed, "model/1", now=desk.now, error="no luck", charge=back)) is True
    assert await spent(desk) == (0, 0, 0, 0)


async def test_the_end_of_a_step_may_pass_any_limit(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "model/1", charge=desk.charge(cost=1, max_cost=1))
    assert await desk.done(claimed, "model/1", charge=desk.charge(cost=9, max_cost=1, max_tokens=0)) is True
    assert await spent(desk) == (0, 0, 0, 10)


async def test_a_step_that_is_not_open_ends_without_a_charge(desk: Any) -> None:
    claimed = await desk.start()
    before = await desk.dump()
    assert await desk.done(claimed, "never begun", charge=desk.charge(cost=9)) is False
    assert await desk.dump() == before


@pytest.mark.parametrize(
    ("charge", "limit"),
    [
        ({"input_tokens": 6, "max_tokens": 20}, None),
        ({"output_tokens": 6, "max_tokens": 20}, None),
        ({"input_tokens": 3, "output_tokens": 4, "max_tokens": 20}, "max_tokens"),
        ({"cost": 5, "max_cost": 12}, None),
        ({"cost": 6, "max_cost": 12}, "max_cost"),
        ({"input_tokens": 99, "cost": 99, "max_tokens": 20, "max_cost": 12}, "max_tokens"),
        ({"input_tokens": 1, "cost": 99, "max_tokens": 20, "max_cost": 12}, "max_cost"),
        ({"max_tokens": 13}, "max_tokens"),
        ({"max_cost": 0}, "max_cost"),
        ({"input_tokens": 10**9, "cost": 10**9}, None),
    ],
)
async def test_a_limit_may_be_reached_and_not_be_passed(desk: Any, charge: dict[str, int], limit: str | None) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "first", charge=desk.charge(calls=1, input_tokens=10, output_tokens=4, cost=7))
    before = await desk.dump()
    begun = await desk.begin(claimed, "model/1", charge=desk.charge(**charge))
    if limit is None:
        assert begun == StepBegun("run")
        assert await desk.dump() != before
    else:
        assert begun == StepBegun("budget", limit)
        assert await desk.dump() == before


@pytest.mark.parametrize("charge", [{"input_tokens": 2, "max_tokens": 1}, {"cost": 2, "max_cost": 1}])
async def test_the_first_call_of_a_day_has_a_limit_too(desk: Any, charge: dict[str, int]) -> None:
    claimed = await desk.start()
    assert (await desk.begin(claimed, "model/1", charge=desk.charge(**charge))).verdict == "budget"
    assert await desk.store.spent("ada") == ()


async def test_every_agent_and_every_day_has_its_own(desk: Any) -> None:
    claimed = await desk.start()
    charges = [{}, {"agent": "bob"}, {"day": "2026-11-23"}, {}]
    verdicts = [
        (await desk.begin(claimed, f"s{n}", charge=desk.charge(cost=7, max_cost=12, **fields))).verdict
        for n, fields in enumerate(charges)
    ]
    assert verdicts == ["run", "run", "run", "budget"]
    assert await spent(desk, agent="bob") == (0, 0, 0, 7)


async def test_only_what_runs_is_charged(desk: Any) -> None:
    claimed = await desk.start()
    charge = desk.charge(calls=1, cost=5, max_cost=99)
    await desk.begin(claimed, "done", charge=charge)
    await desk.done(claimed, "done", 1)
    await desk.begin(claimed, "open", charge=charge)
    await desk.one(RecoverJobs(boot=desk.boot, now=desk.now, worker="w1"))
    (once_more,) = await desk.claim()
    before = await desk.dump()
    assert await desk.begin(once_more, "done", charge=charge) == StepBegun("done", "1")
    assert await desk.begin(once_more, "open", charge=charge, retry=False) == StepBegun("ambiguous")
    assert await desk.begin(claimed, "lost", charge=charge) is None
    assert await desk.dump() == before
    await desk.pause(once_more.id)
    assert await desk.begin(once_more, "new", charge=charge) == StepBegun("pause")
    assert await spent(desk) == (2, 0, 0, 10)
    await desk.resume(once_more.id)
    assert await desk.begin(once_more, "open", charge=charge) == StepBegun("run"), "made again, and paid again"
    assert await spent(desk) == (3, 0, 0, 15)


async def test_what_is_on_record_is_told_though_the_budget_is_spent(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "model/1", charge=desk.charge(cost=5, max_cost=5))
    await desk.done(claimed, "model/1", "hello")
    assert (await desk.begin(claimed, "model/1", charge=desk.charge(cost=5, max_cost=5))).verdict == "done"
    assert (await desk.begin(claimed, "model/2", charge=desk.charge(cost=5, max_cost=5))).verdict == "budget"
    assert [step.name for step in (await desk.view(claimed.id)).steps] == ["model/1"]


async def test_two_at_once_do_not_pass_a_limit_together(desk: Any) -> None:
    attempts = [await desk.start(queue=f"q{n}") for n in range(6)]
    verdicts: list[str] = []

    async def call(claimed: Any) -> None:
        charge = desk.charge(calls=1, input_tokens=30, output_tokens=10, cost=3, max_tokens=100, max_cost=50)
        verdicts.append((await desk.begin(claimed, "model/1", charge=charge)).verdict)

    async with anyio.create_task_group() as tasks:
        for claimed in attempts:
            tasks.start_soon(call, claimed)
    assert sorted(verdicts) == ["budget"] * 4 + ["run"] * 2
    assert await spent(desk) == (2, 60, 20, 6)


async def test_what_was_spent_is_told_by_day_oldest_first(desk: Any) -> None:
    claimed = await desk.start()
    days = ["2026-11-22", "2026-11-09", "2027-01-01"]
    for n, day in enumerate(days):
        await desk.begin(claimed, f"s{n}", charge=desk.charge(day=day, calls=1, cost=n, max_tokens=9, max_cost=9))
    await desk.begin(claimed, "other", charge=desk.charge(agent="bob", cost=1))
    expected = (
        Charge("ada", "2026-11-09", calls=1, cost=1),
        Charge("ada", "2026-11-22", calls=1, cost=0),
        Charge("ada", "2027-01-01", calls=1, cost=2),
    )
    assert await desk.store.spent("ada") == expected
    assert await desk.store.spent("ada", since="2026-11-22") == expected[1:]
    assert await desk.store.spent("ada", since="2027-01-02") == ()
    assert await desk.store.spent("eve") == ()


async def test_what_was_spent_is_known_after_a_new_start(desk: Any) -> None:
    claimed = await desk.start()
    await desk.begin(claimed, "model/1", charge=desk.charge(calls=1, cost=5))
    await desk.reopen()
    assert await spent(desk) == (1, 0, 0, 5)
    assert (await desk.begin(claimed, "model/2", charge=desk.charge(cost=5, max_cost=9))).verdict == "budget"
