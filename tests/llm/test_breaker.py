"""The circuit breaker goes by its table, counts only what is the provider's fault, and lets one call try."""

import pytest

from runtime.clock import SystemClock
from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmCut,
    LlmError,
    LlmOverloaded,
    LlmProtocol,
    LlmRateLimited,
    LlmRequest,
    LlmTimeout,
    LlmTooLarge,
    LlmUnreachable,
)
from runtime.llm.breaker import TABLE, Breaker, Sign, State, sign_of


class Hands(SystemClock):
    """A clock that is set by hand."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def breaker(clock: Hands) -> Breaker:
    return Breaker("p", 3, 15.0, clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        permit = breaker.admit()
        permit.failed(LlmOverloaded())
        permit.release()


def test_failures_in_a_row_open_it_and_calls_are_refused_with_a_reason(breaker: Breaker, clock: Hands) -> None:
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"
    clock.at += 5
    with pytest.raises(LlmUnreachable) as caught:
        breaker.admit()
    assert caught.value.retry_after == 10.0
    assert caught.value.detail == (
        "provider 'p': refused without a call because 3 failures in a row came before; the next try is in 10.0 s"
    )
    assert caught.value.data == {"breaker": "open", "failures": 3, "provider": "p"}


def test_a_good_answer_begins_the_count_anew(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.admit().good()
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_after_the_pause_exactly_one_call_tries(breaker: Breaker, clock: Hands) -> None:
    fail(breaker, 3)
    clock.at += 15
    assert breaker.state == "half_open"
    trial = breaker.admit()
    with pytest.raises(LlmUnreachable, match="one call is trying already") as caught:
        breaker.check()
    assert caught.value.retry_after == 15.0
    trial.good()
    trial.release()
    assert (breaker.state, breaker.failures) == ("closed", 0)
    breaker.admit()
    breaker.admit()


def test_a_try_that_fails_opens_it_for_another_pause(breaker: Breaker, clock: Hands) -> None:
    fail(breaker, 3)
    clock.at += 20
    fail(breaker)
    assert (breaker.state, breaker.left) == ("open", 15.0)
    clock.at += 15
    assert (breaker.state, breaker.left) == ("half_open", 0.0)


def test_a_try_that_is_called_off_closes_nothing_and_makes_room(breaker: Breaker, clock: Hands) -> None:
    fail(breaker, 3)
    clock.at += 15
    breaker.admit().release()
    assert breaker.state == "half_open"
    trial = breaker.admit()
    trial.failed(LlmRateLimited())
    assert breaker.state == "half_open"
    fail(breaker)
    assert breaker.state == "open"


def test_the_first_part_closes_it_but_one_more_failure_opens_it_again(breaker: Breaker, clock: Hands) -> None:
    fail(breaker, 3)
    clock.at += 15
    trial = breaker.admit()
    trial.came()
    assert breaker.state == "closed"
    trial.failed(LlmCut())
    assert breaker.state == "open"


def test_who_began_before_it_opened_has_no_say(breaker: Breaker, clock: Hands) -> None:
    early, other = breaker.admit(), breaker.admit()
    fail(breaker, 3)
    clock.at += 10
    early.failed(LlmCut())
    early.release()
    other.good()
    assert (breaker.state, breaker.failures, breaker.left) == ("open", 3, 5.0)
    clock.at += 5
    other.failed(LlmCut())
    assert breaker.state == "half_open"
    trial = breaker.admit()
    other.release()
    with pytest.raises(LlmUnreachable):
        breaker.check()
    trial.good()
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LlmOverloaded, "bad"),
        (LlmUnreachable, "bad"),
        (LlmTimeout, "bad"),
        (LlmCut, "bad"),
        (LlmProtocol, "bad"),
        (LlmAuth, "good"),
        (LlmRequest, "good"),
        (LlmContext, "good"),
        (LlmTooLarge, "good"),
        (LlmRateLimited, "void"),
    ],
)
def test_only_what_is_the_providers_fault_counts(breaker: Breaker, error: type[LlmError], told: Sign) -> None:
    assert sign_of(error()) == told
    for _ in range(3):
        breaker.admit().failed(error())
    assert breaker.state == ("open" if told == "bad" else "closed")


def test_the_table_says_something_for_everything_that_can_be_told() -> None:
    states: tuple[State, ...] = ("closed", "open", "half_open")
    signs: tuple[Sign, ...] = ("came", "good", "bad", "last", "void")
    assert {(state, told) for state in states for told in signs} | {("open", "rested")} == set(TABLE)
    assert set(TABLE.values()) == set(states)
