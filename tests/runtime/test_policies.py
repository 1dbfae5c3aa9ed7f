"""The pure deciders: how waits grow, and when a supervisor gives up on a child."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.policies import Backoff, RestartLimit


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(base=1.0, factor=2.0, max=10.0, jitter=0.0)
    assert [backoff.delay(n, 0.5) for n in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_full_jitter_takes_away_anything_up_to_the_whole() -> None:
    backoff = Backoff(base=8.0)
    assert (backoff.delay(0, 0.0), backoff.delay(0, 0.25), backoff.delay(0, 0.5)) == (8.0, 6.0, 4.0)


def test_jitter_comes_after_the_cap_so_that_a_herd_still_spreads() -> None:
    backoff = Backoff(base=1.0, factor=10.0, max=10.0, jitter=0.5)
    assert {backoff.delay(9, chance) for chance in (0.0, 0.5)} == {10.0, 7.5}


def test_a_wait_too_large_to_compute_is_the_longest() -> None:
    assert Backoff(jitter=0.0).delay(100_000, 0.0) == 300.0


@given(
    n=st.integers(0, 5000),
    base=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    longest=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_never_negative_and_never_over_the_longest(
    n: int, base: float, factor: float, longest: float, jitter: float, chance: float
) -> None:
    assert 0 <= Backoff(base, factor, longest, jitter).delay(n, chance) <= longest


def crash(limit: RestartLimit, *, alive: float = 0.0, handled: int = 0, blame: str | None = None) -> float | None:
    return limit.crashed(alive_for=alive, handled=handled, blame=blame, chance=0.0)


def test_the_first_restart_is_immediate_and_the_sixth_crash_in_a_row_is_the_last() -> None:
    limit = RestartLimit()
    assert [crash(limit) for _ in range(6)] == [0.0, 0.2, 0.4, 0.8, 1.6, None]


def test_the_waits_have_an_end_where_more_crashes_are_allowed() -> None:
    limit = RestartLimit(allowed=50)
    assert max(wait for _ in range(50) if (wait := crash(limit)) is not None) == 30.0


def test_a_minute_alive_with_a_message_handled_forgets_every_crash() -> None:
    limit = RestartLimit()
    for _ in range(5):
        crash(limit)
    assert crash(limit, alive=60.0, handled=1) == 0.0
    assert limit.crashes == 1


@pytest.mark.parametrize(("alive", "handled"), [(59.9, 1000), (3600.0, 0)])
def test_neither_a_minute_nor_a_message_alone_is_a_stable_stretch(alive: float, handled: int) -> None:
    limit = RestartLimit()
    for _ in range(5):
        crash(limit)
    assert crash(limit, alive=alive, handled=handled) is None


def test_crashes_by_one_durable_message_count_once() -> None:
    limit = RestartLimit()
    assert [crash(limit, blame="job-1") for _ in range(10)] == [0.0] * 10
    assert crash(limit, blame="job-2") == 0.2


def test_six_different_durable_messages_are_as_bad_as_six_crashes() -> None:
    limit = RestartLimit()
    assert [crash(limit, blame=f"job-{n}") for n in range(6)][-1] is None


def test_a_person_who_mended_it_starts_the_count_anew() -> None:
    limit = RestartLimit()
    for _ in range(6):
        crash(limit, blame="job-1")
        crash(limit)
    limit.reset()
    assert (crash(limit), crash(limit, blame="job-1")) == (0.0, 0.2)
