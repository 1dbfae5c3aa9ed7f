"""The bucket of a rate: how it fills, what is taken out, what a debt means, and what a clock that is set back does."""

import pytest

from actors.rates import Bucket
from schemas.jobs import Rate

START = 1_700_000_000_000
BOTH = Rate(requests=10, tokens=1000, per_ms=10_000)


def bucket(requests: float = 10, tokens: float = 1000, rate: Rate = BOTH) -> Bucket:
    return Bucket(rate, requests, tokens, START)


# -- filling -----------------------------------------------------------------------------------------------------------


def test_a_new_bucket_holds_all_that_the_rate_allows() -> None:
    full = Bucket.full(BOTH, START)
    assert (full.requests, full.tokens, full.filled_at) == (10, 1000, START)
    assert (full.starts(), full.budget(), full.is_full()) == (10, 1000, True)


@pytest.mark.parametrize(
    ("after", "requests", "tokens"), [(0, 0, 0), (1, 0.001, 0.1), (500, 0.5, 50), (10_000, 10, 1000)]
)
def test_it_fills_evenly(after: int, requests: float, tokens: float) -> None:
    found = bucket(0, 0)
    found.fill(START + after)
    assert [found.requests, found.tokens] == pytest.approx([requests, tokens])


def test_it_never_holds_more_than_the_rate() -> None:
    found = bucket(9, 999)
    found.fill(START + 86_400_000)
    assert (found.requests, found.tokens) == (10, 1000)


def test_many_small_fills_bring_as_much_as_a_large_one() -> None:
    small, large = bucket(0, 0), bucket(0, 0)
    for at in range(1, 7001):
        small.fill(START + at)
    large.fill(START + 7000)
    assert small.requests == pytest.approx(large.requests)
    assert small.tokens == pytest.approx(large.tokens)


def test_a_clock_that_is_set_back_fills_nothing_and_takes_nothing_away() -> None:
    found = bucket(3, 300)
    found.fill(START - 3_600_000)
    assert (found.requests, found.tokens) == (3, 300)
    found.fill(START - 3_600_000 + 1000)  # time goes on from there
    assert [found.requests, found.tokens] == pytest.approx([4, 400])


# -- taking ------------------------------------------------------------------------------------------------------------


def test_only_whole_requests_start_a_job() -> None:
    assert bucket(1.999).starts() == 1
    assert bucket(0.999).starts() == 0


def test_what_is_taken_is_gone() -> None:
    found = bucket()
    found.take(4, 250)
    assert (found.starts(), found.budget(), found.is_full()) == (6, 750, False)


def test_nothing_starts_while_tokens_are_owed() -> None:
    found = bucket()
    found.take(1, 1500)  # a job that says more than the bucket ever holds
    assert (found.tokens, found.starts()) == (-500, 0)
    found.fill(START + 5000)
    assert found.starts() == 0  # the debt is made up for, and nothing is left
    found.fill(START + 5010)
    assert (found.starts(), found.budget()) == (10, 1)


def test_a_rate_without_requests_bounds_no_number_of_jobs() -> None:
    found = Bucket.full(Rate(tokens=100), START)
    assert (found.starts(), found.budget()) == (None, 100)
    found.take(7, 30)
    assert (found.requests, found.budget()) == (0, 70)


def test_a_rate_without_tokens_bounds_no_tokens() -> None:
    found = Bucket.full(Rate(requests=5), START)
    assert (found.starts(), found.budget(), found.is_full()) == (5, None, False)
    found.take(2, 1_000_000)
    found.settle(0, 1_000_000)
    assert (found.starts(), found.tokens) == (3, 0)


# -- settling ----------------------------------------------------------------------------------------------------------


def test_what_was_not_used_comes_back() -> None:
    found = bucket()
    found.take(1, 400)
    found.settle(400, 100)
    assert (found.tokens, found.requests) == (900, 9)


def test_what_was_used_beyond_the_estimate_is_owed() -> None:
    found = bucket()
    found.take(1, 400)
    found.settle(400, 1900)
    assert (found.tokens, found.starts()) == (-900, 0)


def test_what_comes_back_does_not_overfill() -> None:
    found = bucket()
    found.take(1, 400)
    found.fill(START + 9000)
    found.settle(400, 0)
    assert found.tokens == 1000


# -- when to look again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 0.25, 0.5, 0.999])
def test_at_the_next_look_one_more_job_may_start(left: float) -> None:
    found = Bucket(Rate(requests=3, per_ms=10_000), left, 0, START)
    at = found.next_at(START)
    found.fill(at)
    assert found.starts() == 1
    early = Bucket(Rate(requests=3, per_ms=10_000), left, 0, START)
    early.fill(at - 3)
    assert early.starts() == 0


@pytest.mark.parametrize("owed", [0.0, 1.0, 499.5, 5000.0])
def test_at_the_next_look_a_debt_is_made_up_for(owed: float) -> None:
    found = bucket(tokens=-owed)
    at = found.next_at(START)
    assert at - START >= BOTH.per_ms / 20
    found.fill(at)
    assert found.starts() == 10
    assert (found.budget() or 0) >= 1


def test_the_next_look_is_always_later_so_that_nobody_looks_in_a_circle() -> None:
    assert bucket().next_at(START) > START
    assert Bucket.full(Rate(requests=1_000_000, per_ms=100), START).next_at(START) > START


@pytest.mark.parametrize("rate", [Rate(requests=1, per_ms=86_400_000), Rate(requests=7, per_ms=997), BOTH])
def test_who_looks_when_told_to_starts_as_many_as_the_rate_says_and_no_more(rate: Rate) -> None:
    assert rate.requests is not None
    found, at, starts = Bucket.full(rate, START), START, list[int]()
    while len(starts) < rate.requests * 4:
        found.fill(at)
        if found.starts():
            found.take(1, 0)
            starts.append(at)
        else:
            at = found.next_at(at)
    for first, one in enumerate(starts):
        for last in range(first, len(starts)):
            allowed = rate.requests + (starts[last] - one) * rate.requests / rate.per_ms
            assert last - first + 1 <= allowed + 1e-6
    # Three rounds beyond the first have to be waited for; the looks cost a moment each, and not more.
    assert starts[-1] - START <= 3 * rate.per_ms + 3 * 3 * rate.requests
