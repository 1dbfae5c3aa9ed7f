"""What becomes of a job when an attempt ends: every row of the table, and what holds of every wait."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.settle import settle
from runtime.errors import problem
from runtime.store.port import Finish
from schemas.errors import Problem
from schemas.jobs import MAX_RESULT, REASONS, Claimed, Outcome, RetryPolicy

NOW = 1_700_000_000_000
FAULT = problem("job.failed", "it broke")
EVERY_CLASS = ("transient", "rate_limited", "timeout", "permanent", "cancelled", "lost", "dependency", "bug")


def claimed(attempt: int = 1, max_attempts: int = 3, retry: RetryPolicy | None = None, crashes: int = 0) -> Claimed:
    return Claimed(
        seq=1,
        id="job-1",
        epoch=attempt,
        worker="w",
        boot="b",
        kind="resize",
        queue="default",
        lane="loop",
        args="{}",
        attempt=attempt,
        max_attempts=max_attempts,
        crashes=crashes,
        suspect=False,
        timeout_ms=None,
        retry=None if retry is None else retry.model_dump_json(),
        conversation=None,
        created_at=NOW,
    )


def decided(outcome: Outcome, *, chance: float = 0.0, result: str | None = None, **fields: Any) -> Finish:
    return settle(claimed(**fields), outcome, result, NOW, chance)


def failure(kind: Any = "transient", **fields: Any) -> Outcome:
    return Outcome(ok=False, error=FAULT, error_class=kind, **fields)


def short(finish: Finish) -> tuple[str, str | None, bool]:
    return finish.status, finish.reason, finish.refund


def test_a_result_completes_the_job() -> None:
    finish = decided(Outcome(ok=True, result=[1]), result="[1]")
    assert (short(finish), finish.result, finish.error) == (("completed", None, False), "[1]", None)


def test_no_result_completes_it_too() -> None:
    assert short(decided(Outcome(ok=True))) == ("completed", None, False)


@pytest.mark.parametrize(("size", "status"), [(MAX_RESULT, "completed"), (MAX_RESULT + 1, "failed")])
def test_a_result_over_a_mebibyte_fails_the_job_for_good(size: int, status: str) -> None:
    finish = decided(Outcome(ok=True), result="x" * size)
    assert finish.status == status
    if status == "failed":
        assert (finish.reason, finish.result) == ("permanent", None)
        assert Problem.model_validate_json(str(finish.error)).code == "job.result_too_large"


def test_a_result_is_measured_in_bytes_and_not_in_characters() -> None:
    assert decided(Outcome(ok=True), result='"' + "é" * (MAX_RESULT // 2) + '"').status == "failed"


def test_an_unknown_kind_is_held_and_costs_no_attempt() -> None:
    finish = decided(Outcome(ok=False, hold=True, error=FAULT))
    assert short(finish) == ("paused", "hold", True)
    assert finish.error == FAULT.model_dump_json()


def test_a_snooze_is_no_failure_and_costs_no_attempt() -> None:
    finish = decided(Outcome(ok=False, snooze=True, retry_after_ms=2_500))
    assert short(finish) == ("delayed", "snooze", True)
    assert (finish.execute_after, finish.error) == (NOW + 2_500, None)


def test_a_snooze_without_a_time_goes_on_at_once() -> None:
    assert decided(Outcome(ok=False, snooze=True)).execute_after == NOW


def test_a_stop_of_the_daemon_gives_the_attempt_back() -> None:
    assert short(decided(Outcome(ok=False, refund=True))) == ("pending", None, True)


def test_a_lost_lease_gives_the_attempt_back() -> None:
    assert short(decided(failure("lost", refund=True))) == ("pending", None, True)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_cancelled_attempt_ends_the_job_however_many_are_left(attempt: int) -> None:
    finish = decided(failure("cancelled"), attempt=attempt)
    assert short(finish) == ("cancelled", "user", False)
    assert finish.error == FAULT.model_dump_json()


def test_a_rate_limit_costs_no_attempt_even_at_the_last() -> None:
    finish = decided(failure("rate_limited", retry_after_ms=30_000), attempt=3)
    assert short(finish) == ("delayed", "rate_limit", True)
    assert finish.execute_after == NOW + 30_000


def test_a_rate_limit_that_the_policy_does_not_retry_fails() -> None:
    finish = decided(failure("rate_limited"), retry=RetryPolicy(retry_on=("transient",)))
    assert short(finish) == ("failed", "permanent", False)


@pytest.mark.parametrize("kind", ["permanent", "dependency"])
def test_what_no_attempt_can_mend_fails_at_the_first(kind: str) -> None:
    assert short(decided(failure(kind))) == ("failed", "permanent", False)


@pytest.mark.parametrize("kind", ["transient", "timeout", "lost", "bug"])
def test_a_failure_with_attempts_left_is_tried_again(kind: str) -> None:
    finish = decided(failure(kind))
    assert short(finish) == ("delayed", "retry", False)
    assert finish.execute_after == NOW + 1000


def test_a_class_the_policy_leaves_out_is_not_tried_again() -> None:
    assert short(decided(failure("bug"), retry=RetryPolicy(retry_on=("transient",)))) == ("failed", "permanent", False)


def test_a_failure_without_a_class_counts_as_a_bug() -> None:
    assert short(decided(Outcome(ok=False, error=FAULT))) == ("delayed", "retry", False)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("transient", "exhausted"), ("bug", "exhausted"), ("lost", "exhausted"), ("timeout", "timeout")],
)
def test_the_last_attempt_fails_the_job(kind: str, reason: str) -> None:
    finish = decided(failure(kind), attempt=3)
    assert short(finish) == ("failed", reason, False)
    assert finish.error == FAULT.model_dump_json()


def test_one_attempt_is_no_retry() -> None:
    assert short(decided(failure(), max_attempts=1)) == ("failed", "exhausted", False)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_crash_is_handed_on_to_be_counted(attempt: int) -> None:
    assert decided(failure("lost", crash=True), attempt=attempt).crash
    assert not decided(failure("lost"), attempt=attempt).crash


def test_a_crash_is_tried_again_whatever_the_policy_retries() -> None:
    finish = decided(failure("lost", crash=True), retry=RetryPolicy(retry_on=("transient",)))
    assert (short(finish), finish.crash) == (("delayed", "retry", False), True)


def test_the_jobs_own_policy_sets_the_waits() -> None:
    policy = RetryPolicy(max_attempts=9, base_ms=50, factor=3.0, max_ms=1000, jitter=0.0)
    waits = [
        (decided(failure(), attempt=n, max_attempts=9, retry=policy).execute_after or 0) - NOW for n in range(1, 6)
    ]
    assert waits == [50, 150, 450, 1000, 1000]


def test_a_wish_to_wait_longer_than_the_backoff_is_obeyed() -> None:
    assert decided(failure(retry_after_ms=60_000)).execute_after == NOW + 60_000


@pytest.mark.parametrize(
    "outcome", [failure(retry_after_ms=10**15), Outcome(ok=False, snooze=True, retry_after_ms=10**15)]
)
def test_no_wait_is_longer_than_a_year(outcome: Outcome) -> None:
    assert decided(outcome).execute_after == NOW + 366 * 86_400_000


def test_a_wish_to_wait_shorter_than_the_backoff_changes_nothing() -> None:
    assert decided(failure(retry_after_ms=10)).execute_after == NOW + 1000


@given(
    attempt=st.integers(1, 2000),
    base=st.integers(0, 10_000),
    factor=st.floats(1, 100),
    longest=st.integers(0, 400_000),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_never_negative_and_never_over_the_limit(
    attempt: int, base: int, factor: float, longest: int, jitter: float, chance: float
) -> None:
    policy = RetryPolicy(base_ms=base, factor=factor, max_ms=longest, jitter=jitter)
    finish = settle(claimed(attempt, 5000, policy), failure(), None, NOW, chance)
    assert NOW <= (finish.execute_after or 0) <= NOW + longest


@given(attempt=st.integers(1, 50))
def test_without_jitter_no_wait_is_shorter_than_the_one_before(attempt: int) -> None:
    policy = RetryPolicy(jitter=0.0)
    earlier, later = (settle(claimed(n, 99, policy), failure(), None, NOW, 0.7) for n in (attempt, attempt + 1))
    assert (earlier.execute_after or 0) <= (later.execute_after or 0)


@given(
    ok=st.booleans(),
    kind=st.sampled_from((None, *EVERY_CLASS)),
    attempt=st.integers(1, 5),
    refund=st.booleans(),
    crash=st.booleans(),
    snooze=st.booleans(),
    hold=st.booleans(),
    wait=st.none() | st.integers(0, 10**9),
)
def test_whatever_ends_an_attempt_the_job_lands_where_the_table_of_reasons_allows(
    ok: bool, kind: Any, attempt: int, refund: bool, crash: bool, snooze: bool, hold: bool, wait: int | None
) -> None:
    outcome = Outcome(
        ok=ok, error_class=kind, refund=refund, crash=crash, snooze=snooze, hold=hold, retry_after_ms=wait
    )
    finish = settle(claimed(attempt), outcome, None, NOW, 0.5)
    assert finish.reason in REASONS.get(finish.status, (None,))
    assert (finish.status == "delayed") == (finish.execute_after is not None)
    if ok:
        assert finish.status == "completed"
    if finish.status == "delayed" and finish.reason == "retry":
        assert attempt < 3


LATE = NOW - 1
RETRIED = ("transient", "timeout", "lost", "bug")
TABLE: list[tuple[str, Outcome, dict[str, Any], tuple[Any, ...]]] = [
    ("ok", Outcome(ok=True, result=1), {}, ("completed", None, False, False)),
    ("ok after the deadline", Outcome(ok=True, result=1), {"deadline_at": LATE}, ("completed", None, False, False)),
    ("a person must look", Outcome(ok=False, hold=True), {}, ("paused", "hold", True, False)),
    ("it stopped at a step", Outcome(ok=False, pause=True), {}, ("paused", "user", True, False)),
    ("a signal", Outcome(ok=False, waits="go", wait_until=NOW + 9), {}, ("waiting", "signal", True, False)),
    ("children", Outcome(ok=False, waits=""), {}, ("waiting", "children", True, False)),
    ("a snooze", Outcome(ok=False, snooze=True), {}, ("delayed", "snooze", True, False)),
    ("a snooze at the last", Outcome(ok=False, snooze=True), {"attempt": 3}, ("delayed", "snooze", True, False)),
    ("a stop", Outcome(ok=False, refund=True), {"attempt": 3}, ("pending", None, True, False)),
    ("a stop that late", Outcome(ok=False, refund=True), {"deadline_at": LATE}, ("pending", None, True, False)),
    ("cancelled", failure("cancelled"), {}, ("cancelled", "user", False, False)),
    ("cancelled after the deadline", failure("cancelled"), {"deadline_at": LATE}, ("cancelled", "user", False, False)),
    *((f"{kind} after the deadline", failure(kind), {"deadline_at": NOW}, ("failed", "deadline", False, False))
      for kind in (*RETRIED, "rate_limited", "permanent")),
    ("a crash that late", failure("lost", crash=True), {"deadline_at": NOW}, ("failed", "deadline", False, True)),
    *((f"{kind} before the deadline", failure(kind), {"deadline_at": NOW + 1}, ("delayed", "retry", False, False))
      for kind in RETRIED),
    ("429", failure("rate_limited"), {"attempt": 3}, ("delayed", "rate_limit", True, False)),
    ("permanent", failure("permanent"), {}, ("failed", "permanent", False, False)),
    ("dependency", failure("dependency"), {}, ("failed", "permanent", False, False)),
    ("silence, attempts left", failure("timeout"), {"heartbeat_ms": 100}, ("delayed", "retry", False, False)),
    ("silence at the last", failure("timeout"), {"attempt": 3}, ("failed", "timeout", False, False)),
    *((f"{kind} at the last", failure(kind), {"attempt": 3}, ("failed", "exhausted", False, False))
      for kind in RETRIED if kind != "timeout"),
    ("a crash", failure("lost", crash=True), {}, ("delayed", "retry", False, True)),
    ("a crash at the last", failure("lost", crash=True), {"attempt": 3}, ("failed", "exhausted", False, True)),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "fields", "becomes"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_each_row_of_the_table(outcome: Outcome, fields: dict[str, Any], becomes: tuple[Any, ...]) -> None:
    finish = settle(replace(claimed(), **fields), outcome, None, NOW, 0.5)
    assert (finish.status, finish.reason, finish.refund, finish.crash) == becomes


def test_a_wait_is_handed_on_with_its_end() -> None:
    finish = decided(Outcome(ok=False, waits="go", wait_until=NOW + 9))
    assert (finish.waits, finish.wait_until) == ("go", NOW + 9)
    finish = decided(Outcome(ok=False, waits=""))
    assert (finish.waits, finish.wait_until) == (None, None)


def test_a_429_without_a_time_waits_for_the_first_wait_of_the_policy_at_least() -> None:
    for chance in (0.0, 0.5, 0.999):
        finish = decided(failure("rate_limited"), retry=RetryPolicy(base_ms=4_000), chance=chance)
        assert finish.execute_after == NOW + 4_000
