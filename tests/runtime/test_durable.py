"""Steps, sleeps and waits over a record: what is done once is not done again, and what waits ends the attempt."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from runtime import durable
from runtime.attempt import outcome_of, outcome_of_suspension
from runtime.durable import Begun, Blocking, Due, Durable, run_now
from runtime.errors import LeaseLost, RequestInvalid, StepAmbiguous, StepRepeated, StepUnfit, TooManySteps
from runtime.outcomes import ChildrenTimeout, JobResult, SignalTimeout, StepResult, Suspended


@dataclass
class Notebook:
    """A record in a dictionary, for one job at a time. Each `attempt` is a later one of the same job."""

    now: int = 1_000_000
    epoch: int = 0
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    signals: dict[str, list[str]] = field(default_factory=dict)
    parts: list[JobResult] = field(default_factory=list)
    held_over: set[str] = field(default_factory=set)
    submitted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pauses: bool = False
    full: bool = False
    lost: bool = False
    naps: list[float] = field(default_factory=list)

    def attempt(self) -> Durable:
        self.epoch += 1
        return Durable("job-1", self)

    def blocking(self) -> Blocking:
        self.epoch += 1
        return Blocking("job-1", self, self.naps.append)

    def _look(self) -> None:
        if self.lost:
            raise LeaseLost

    async def begin(self, name: str, retry: bool) -> Begun:
        self._look()
        known = self.steps.get(name)
        if known is not None and known["state"] == "done":
            return Begun("done", known["output"])
        if self.pauses:
            return Begun("pause")
        if known is not None and known["state"] == "started" and known["epoch"] != self.epoch and not retry:
            return Begun("ambiguous")
        if self.full:
            return Begun("full")
        self.steps[name] = {"state": "started", "epoch": self.epoch}
        return Begun("run")

    async def end(
        self, name: str, output: str | None = None, error: str | None = None, cost: float | None = None
    ) -> None:
        self._look()
        assert self.steps[name]["state"] == "started"
        state = "done" if error is None else "failed"
        self.steps[name] = {"state": state, "epoch": self.epoch, "output": output, "error": error, "cost": cost}

    async def decided(self, name: str) -> bool:
        return name in self.held_over

    async def due(self, name: str, after_ms: int) -> Due:
        begun = await self.begin(name, True)
        if begun.verdict == "run":
            await self.end(name, str(self.now + after_ms))
        if begun.verdict in ("run", "done"):
            return Due(begun.verdict, int(self.steps[name]["output"]), self.now)
        return Due(begun.verdict)

    async def take(self, name: str, step: str) -> str | None:
        self._look()
        if step not in self.steps and self.signals.get(name):
            await self.note(step, self.signals[name].pop(0))
        known = self.steps.get(step)
        return None if known is None else str(known["output"])

    async def note(self, step: str, output: str) -> None:
        await self.begin(step, True)
        await self.end(step, output)

    async def submit(self, name: str, job: dict[str, Any]) -> str:
        self._look()
        self.submitted.append((name, job))
        return f"id of {name}"

    async def children(self) -> list[JobResult]:
        return self.parts

    async def parents(self) -> list[JobResult]:
        return [JobResult("p", "echo", "completed", 7)]


@pytest.fixture
def notes() -> Notebook:
    return Notebook()


class Body:
    """A step's function that counts its calls."""

    def __init__(self, *outputs: Any) -> None:
        self.outputs, self.calls = list(outputs), 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        value = self.outputs.pop(0) if len(self.outputs) > 1 else self.outputs[0]
        if isinstance(value, BaseException):
            raise value
        return value


async def suspended(work: Any) -> dict[str, Any]:
    with pytest.raises(Suspended) as found:
        await work
    outcome_of_suspension(found.value.says)  # it is one that the daemon takes
    return found.value.says


# -- steps -------------------------------------------------------------------------------------------------------------


async def test_a_step_runs_once_and_later_attempts_get_its_output(notes: Notebook) -> None:
    body = Body({"n": 1}, {"n": 2})
    assert await notes.attempt().step("one", body) == {"n": 1}
    assert await notes.attempt().step("one", body) == {"n": 1}
    assert body.calls == 1


async def test_a_step_gets_its_arguments_and_may_be_async(notes: Notebook) -> None:
    async def slow(a: int, *, b: int) -> int:
        await anyio.lowlevel.checkpoint()
        return a - b

    assert await notes.attempt().step("one", slow, 5, b=2) == 3


async def test_the_first_run_sees_the_output_as_every_later_one_will(notes: Notebook) -> None:
    body = Body((1, {2: "two"}))
    assert await notes.attempt().step("one", body) == await notes.attempt().step("one", body) == [1, {"2": "two"}]


@pytest.mark.parametrize(
    ("value", "cost", "kept"), [(1, None, None), (1, 3, 3), (StepResult(1, cost=2.5), 3, 2.5), (StepResult(1), 3, 3)]
)
async def test_a_step_tells_what_it_cost(notes: Notebook, value: Any, cost: Any, kept: Any) -> None:
    assert await notes.attempt().step("one", Body(value), cost=cost) == 1
    assert notes.steps["one"]["cost"] == kept


async def test_a_step_that_fails_passes_its_error_on_and_runs_again(notes: Notebook) -> None:
    body = Body(ValueError("no"), "yes")
    with pytest.raises(ValueError, match="no"):
        await notes.attempt().step("one", body)
    assert (notes.steps["one"]["state"], notes.steps["one"]["error"]) == ("failed", "ValueError: no")
    assert await notes.attempt().step("one", body) == "yes"


async def test_a_name_is_for_one_step_of_an_attempt(notes: Notebook) -> None:
    attempt = notes.attempt()
    await attempt.step("one", Body(1))
    with pytest.raises(StepRepeated) as found:
        await attempt.step("one", Body(2))
    assert found.value.code == "job.step_repeated"


@pytest.mark.parametrize("name", ["", "~sleep/1", "x" * 256, 7, None])
async def test_not_every_name_will_do(notes: Notebook, name: Any) -> None:
    attempt = notes.attempt()
    for call in (
        lambda: attempt.step(name, Body(1)),
        lambda: attempt.wait_signal(name),
        lambda: attempt.submit("echo", name=name),
    ):
        with pytest.raises(RequestInvalid):
            await call()
    assert notes.steps == {}


@pytest.mark.parametrize("value", [object(), "x" * (1024 * 1024), "\ud800", [[]]], ids=["no", "big", "half", "deep"])
async def test_an_output_that_cannot_be_kept_fails_for_good(notes: Notebook, value: Any) -> None:
    for _ in range(100_000 if value == [[]] else 0):
        value = [value]
    with pytest.raises(StepUnfit) as found:
        await notes.attempt().step("one", Body(value))
    assert outcome_of(found.value).error_class == "permanent"
    assert notes.steps["one"]["state"] == "failed"


async def test_an_output_of_a_mebibyte_is_kept(notes: Notebook) -> None:
    text = "x" * (1024 * 1024 - 2)
    assert await notes.attempt().step("one", Body(text)) == text


async def test_a_wish_to_pause_stops_before_the_next_step(notes: Notebook) -> None:
    notes.pauses, body = True, Body(1)
    assert await suspended(notes.attempt().step("one", body)) == {"pause": True}
    assert body.calls == 0


async def test_a_job_has_only_so_many_steps(notes: Notebook) -> None:
    notes.full = True
    with pytest.raises(TooManySteps):
        await notes.attempt().step("one", Body(1))


async def left_open(notes: Notebook) -> None:
    """Leave a step begun and never ended, as a death in the middle does."""
    notes.attempt()
    await notes.begin("one", True)


async def test_an_ambiguous_step_is_run_again_unless_told_otherwise(notes: Notebook) -> None:
    await left_open(notes)
    assert await notes.attempt().step("one", Body(1)) == 1


async def test_an_ambiguous_step_may_fail_its_job(notes: Notebook) -> None:
    await left_open(notes)
    with pytest.raises(StepAmbiguous) as found:
        await notes.attempt().step("one", body := Body(1), on_ambiguous="fail")
    outcome = outcome_of(found.value)
    assert outcome.error is not None
    assert (outcome.error_class, outcome.error.code, body.calls) == ("permanent", "job.step_ambiguous", 0)
    assert outcome.error.data == {"step": "one"}


async def test_an_ambiguous_step_may_hold_its_job(notes: Notebook) -> None:
    await left_open(notes)
    says = await suspended(notes.attempt().step("one", body := Body(1), on_ambiguous="hold"))
    outcome = outcome_of_suspension(says)
    assert outcome.error is not None
    assert (outcome.hold, outcome.error.code, outcome.error.data) == (True, "job.step_ambiguous", {"step": "one"})
    assert body.calls == 0


@pytest.mark.parametrize("policy", ["hold", "fail"])
async def test_a_step_over_which_a_person_has_decided_runs(notes: Notebook, policy: Any) -> None:
    await left_open(notes)
    notes.held_over.add("one")
    assert await notes.attempt().step("one", Body(1), on_ambiguous=policy) == 1


async def test_a_cancelled_step_is_left_in_doubt(notes: Notebook) -> None:
    attempt = notes.attempt()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await attempt.step("one", anyio.sleep_forever)
    assert notes.steps["one"]["state"] == "started"


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_a_sleep_gives_the_attempt_back_until_it_is_due(notes: Notebook) -> None:
    assert await suspended(notes.attempt().sleep(60)) == {"snooze": True, "retry_after_ms": 60_000}
    notes.now += 20_000
    assert await suspended(notes.attempt().sleep(60)) == {"snooze": True, "retry_after_ms": 40_000}
    notes.now += 40_000
    await notes.attempt().sleep(60)


async def test_each_sleep_of_an_attempt_is_one_of_its_own(notes: Notebook) -> None:
    with pytest.raises(Suspended):
        await notes.attempt().sleep(5)
    notes.now += 5_000
    attempt = notes.attempt()
    await attempt.sleep(5)
    assert (await suspended(attempt.sleep(5)))["retry_after_ms"] == 5_000
    assert set(notes.steps) == {"~sleep/1", "~sleep/2"}


async def test_a_sleep_may_have_a_name_and_only_one_has_it(notes: Notebook) -> None:
    with pytest.raises(Suspended):
        await notes.attempt().sleep(5, name="glue")
    notes.now += 5_000
    attempt = notes.attempt()
    await attempt.sleep(5, name="glue")
    with pytest.raises(StepRepeated):
        await attempt.sleep(5, name="glue")


def test_a_short_sleep_is_slept(notes: Notebook) -> None:
    run_now(notes.blocking().sleep(0.5))
    assert (notes.naps, notes.steps) == ([0.5], {})


def test_the_rest_of_a_sleep_is_slept_where_it_is_short(notes: Notebook) -> None:
    with pytest.raises(Suspended):
        run_now(notes.blocking().sleep(60))
    notes.now += 59_400
    run_now(notes.blocking().sleep(60))
    assert notes.naps == [0.6]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e12])
async def test_a_wait_without_end_is_refused(notes: Notebook, seconds: float) -> None:
    with pytest.raises(RequestInvalid):
        await notes.attempt().sleep(seconds)


async def test_signals_are_taken_once_each_in_order_and_stay_taken(notes: Notebook) -> None:
    notes.signals["go"] = ['{"n":1}', '{"n":2}']
    for _ in range(2):
        attempt = notes.attempt()
        assert [await attempt.wait_signal("go"), await attempt.wait_signal("go")] == [{"n": 1}, {"n": 2}]
        assert await suspended(attempt.wait_signal("go")) == {"waits": "go", "wait_until": None}


async def test_a_wait_for_a_signal_is_not_made_longer_by_another_attempt(notes: Notebook) -> None:
    says = await suspended(notes.attempt().wait_signal("go", timeout=60))
    until = notes.now + 60_000
    assert says == {"waits": "go", "wait_until": until}
    notes.now += 59_000
    assert (await suspended(notes.attempt().wait_signal("go", timeout=60)))["wait_until"] == until


async def test_a_wait_that_ended_without_a_signal_has_ended_so_for_every_attempt(notes: Notebook) -> None:
    await suspended(notes.attempt().wait_signal("go", timeout=60))
    notes.now += 60_000
    with pytest.raises(SignalTimeout) as found:
        await notes.attempt().wait_signal("go", timeout=60)
    assert outcome_of(found.value).error_class == "timeout"
    notes.signals["go"] = ["1"]
    attempt = notes.attempt()
    with pytest.raises(SignalTimeout):
        await attempt.wait_signal("go", timeout=60)
    assert await attempt.wait_signal("go") == 1


async def test_a_signal_that_came_in_time_counts_though_the_code_looks_late(notes: Notebook) -> None:
    await suspended(notes.attempt().wait_signal("go", timeout=60))
    notes.signals["go"] = ['"here"']
    notes.now += 61_000
    assert await notes.attempt().wait_signal("go", timeout=60) == "here"


async def test_children_are_waited_for_until_the_last_has_ended(notes: Notebook) -> None:
    notes.parts = [JobResult("a", "echo", "completed", 1), JobResult("b", "echo", "active")]
    assert await suspended(notes.attempt().wait_children()) == {"waits": "", "wait_until": None}
    notes.parts[1] = JobResult("b", "echo", "failed", None, {"code": "job.failed"})
    found = await notes.attempt().wait_children()
    assert [(one.id, one.ok, one.result) for one in found] == [("a", True, 1), ("b", False, None)]


async def test_a_wait_for_children_may_end_before_they_do(notes: Notebook) -> None:
    notes.parts = [JobResult("a", "echo", "active")]
    says = await suspended(notes.attempt().wait_children(timeout=5))
    assert says == {"waits": "", "wait_until": notes.now + 5_000}
    notes.now += 5_000
    with pytest.raises(ChildrenTimeout, match="1 of 1"):
        await notes.attempt().wait_children(timeout=5)


# -- other jobs --------------------------------------------------------------------------------------------------------


async def test_a_child_is_submitted_with_its_fields(notes: Notebook) -> None:
    attempt = notes.attempt()
    assert await attempt.submit("echo", {"a": 1}, name="first", priority=5) == "id of first"
    assert notes.submitted == [("first", {"kind": "echo", "args": {"a": 1}, "priority": 5})]
    with pytest.raises(StepRepeated):
        await attempt.submit("echo", {"a": 1}, name="first")
    with pytest.raises(RequestInvalid, match="parent"):
        await attempt.submit("echo", name="second", parent="x")


async def test_parents_are_told(notes: Notebook) -> None:
    assert [one.result for one in await notes.attempt().parents()] == [7]


# -- ends --------------------------------------------------------------------------------------------------------------

CALLS: list[Callable[[Durable], Any]] = [
    lambda a: a.step("other", Body(1)),
    lambda a: a.sleep(0),
    lambda a: a.sleep(5),
    lambda a: a.wait_signal("other"),
    lambda a: a.submit("echo", name="other"),
    lambda a: a.wait_children(),
    lambda a: a.parents(),
]


@pytest.mark.parametrize("call", CALLS)
async def test_one_who_swallows_its_suspension_is_told_again(notes: Notebook, call: Any) -> None:
    attempt = notes.attempt()
    first = await suspended(attempt.wait_signal("go"))
    kept = dict(notes.steps)
    assert await suspended(call(attempt)) is first
    assert notes.steps == kept


@pytest.mark.parametrize("call", CALLS)
async def test_one_who_swallows_the_loss_of_its_lease_is_told_again(notes: Notebook, call: Any) -> None:
    attempt = notes.attempt()
    notes.lost = True
    with pytest.raises(LeaseLost):
        await attempt.step("one", Body(1))
    assert attempt.lost
    notes.lost = False  # whatever the record would say: the attempt is over
    with pytest.raises(LeaseLost):
        await call(attempt)


async def test_a_step_that_waits_within_is_begun_anew_and_not_in_doubt(notes: Notebook) -> None:
    def body_of(attempt: Durable) -> Callable[[], Any]:
        async def body() -> str:
            await attempt.sleep(10)
            return "slept"

        return body

    first = notes.attempt()
    await suspended(first.step("one", body_of(first), on_ambiguous="fail"))
    assert notes.steps["one"]["state"] == "failed"
    notes.now += 10_000
    second = notes.attempt()
    assert await second.step("one", body_of(second), on_ambiguous="fail") == "slept"


# -- without a loop ----------------------------------------------------------------------------------------------------


def test_a_plain_function_has_steps_without_a_loop(notes: Notebook) -> None:
    attempt = notes.blocking()
    assert run_now(attempt.step("one", Body({"n": 1}))) == {"n": 1}
    with pytest.raises(Suspended):
        run_now(attempt.wait_signal("go"))


def test_a_plain_function_cannot_have_async_steps(notes: Notebook) -> None:
    async def slow() -> int:
        return 1

    with pytest.raises(TypeError, match="is async"):
        run_now(notes.blocking().step("one", slow))


def test_what_really_waits_cannot_be_run_without_a_loop() -> None:
    class Wait:
        def __await__(self) -> Any:
            yield

    with pytest.raises(RuntimeError, match="cannot wait"):
        run_now(Wait())


def test_what_the_standard_library_cannot_write_pydantic_does() -> None:
    assert durable.as_json({"a": {1}}) == '{"a":[1]}'


@pytest.mark.parametrize(
    "says", [{}, {"snooze": True}, {"snooze": True, "retry_after_ms": -1}, {"hold": True, "code": "x"}, {"waits": 1}]
)
def test_no_other_suspension_is_taken_from_a_process(says: Any) -> None:
    with pytest.raises(ValueError, match="cannot be suspended"):
        outcome_of_suspension(says)
