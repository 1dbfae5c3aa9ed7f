"""What holds a queue back: a person's word over the configuration, and both kept apart."""

import pytest

from actors.limits import bucket_of, changed, effective, rate_of, view_of
from runtime.store.port import QueueRow
from schemas.config import Settings
from schemas.jobs import ChangeQueue, QueueState, Rate

NOW = 1_700_000_000_000
MINUTE = Rate(requests=60, tokens=6000)
SETTINGS = Settings.model_validate(
    {"queues": {"mail": {"max_active": 4, "paused": True, "rate": {"requests": 10, "per": "5s"}}, "free": {}}}
)


def by_hand(row: QueueRow | None = None, **fields: object) -> QueueRow:
    return changed(row or QueueRow("mail"), ChangeQueue.model_validate({"name": "mail", "by": "Ada", **fields}), NOW)


# -- what counts -------------------------------------------------------------------------------------------------------


def test_a_queue_that_nobody_speaks_of_runs_without_limits() -> None:
    assert effective("other", SETTINGS, None) == QueueRow("other")
    assert effective("free", SETTINGS, None) == QueueRow("free")


def test_the_configuration_counts_where_no_person_has_set_anything() -> None:
    row = effective("mail", SETTINGS, None)
    assert (row.state, row.by, row.max_active, rate_of(row)) == ("paused", "config", 4, Rate(requests=10, per_ms=5000))


def test_what_was_kept_but_not_set_by_hand_gives_way_to_the_configuration() -> None:
    kept = QueueRow("mail", state="draining", by="nobody", max_active=99, rate=MINUTE.model_dump_json())
    row = effective("mail", SETTINGS, kept)
    assert (row.state, row.max_active, rate_of(row)) == ("paused", 4, Rate(requests=10, per_ms=5000))
    gone = effective("mail", Settings(), kept)
    assert (gone.state, gone.by, gone.max_active, gone.rate) == ("running", None, None, None)


def test_each_word_of_a_person_counts_by_itself() -> None:
    row = effective("mail", SETTINGS, by_hand(state="running"))
    assert (row.state, row.by, row.since, row.max_active) == ("running", "Ada", NOW, 4)
    row = effective("mail", SETTINGS, by_hand(max_active=1))
    assert (row.state, row.by, row.max_active, rate_of(row)) == ("paused", "config", 1, Rate(requests=10, per_ms=5000))
    row = effective("mail", SETTINGS, by_hand(rate=MINUTE.model_dump()))
    assert (row.max_active, rate_of(row)) == (4, MINUTE)


def test_a_limit_that_a_person_took_away_stays_away() -> None:
    row = effective("mail", SETTINGS, by_hand(max_active=0, rate={}))
    assert (row.max_active, row.rate, row.set_by_hand) == (None, None, ("max_active", "rate"))


def test_how_it_was_left_is_no_word_of_a_person_and_is_kept() -> None:
    kept = QueueRow("mail", blocked_until=NOW + 5, requests_left=2.5, tokens_left=-3.0, filled_at=NOW)
    row = effective("mail", SETTINGS, kept)
    assert (row.blocked_until, row.requests_left, row.tokens_left, row.filled_at) == (NOW + 5, 2.5, -3.0, NOW)


# -- a person's change -------------------------------------------------------------------------------------------------


def test_what_is_not_given_stays() -> None:
    first = by_hand(state="paused", max_active=3)
    second = by_hand(first, rate=MINUTE.model_dump())
    assert (second.state, second.max_active, rate_of(second)) == ("paused", 3, MINUTE)
    assert second.set_by_hand == ("max_active", "rate", "state")
    assert by_hand(second) == second


@pytest.mark.parametrize("state", ["running", "paused", "draining"])
def test_who_changed_the_state_and_when_is_kept_with_it(state: QueueState) -> None:
    row = by_hand(state=state)
    assert (row.state, row.by, row.since, row.set_by_hand) == (state, "Ada", NOW, ("state",))


def test_another_limit_does_not_say_who_paused() -> None:
    row = changed(by_hand(state="paused"), ChangeQueue(name="mail", max_active=2, by="Bob"), NOW + 1)
    assert (row.by, row.since) == ("Ada", NOW)


def test_a_new_rate_begins_with_a_full_bucket() -> None:
    kept = QueueRow("mail", requests_left=0.0, tokens_left=-500.0, filled_at=NOW)
    bucket = bucket_of(by_hand(kept, rate=MINUTE.model_dump()), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens) == (60, 6000)


def test_another_change_leaves_the_bucket_as_it_was() -> None:
    kept = QueueRow("mail", rate=MINUTE.model_dump_json(), requests_left=7.0, tokens_left=70.0, filled_at=NOW)
    bucket = bucket_of(by_hand(kept, state="paused", max_active=2), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens) == (7, 70)


# -- the bucket --------------------------------------------------------------------------------------------------------


def left(**fields: object) -> QueueRow:
    return QueueRow("mail", rate=MINUTE.model_dump_json(), **fields)  # type: ignore[arg-type]  # of any field


def test_a_queue_without_a_rate_has_no_bucket() -> None:
    assert bucket_of(QueueRow("mail"), NOW) is None


def test_a_bucket_nothing_was_taken_from_is_full() -> None:
    bucket = bucket_of(left(), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens, bucket.filled_at) == (60, 6000, NOW)


def test_a_bucket_is_as_it_was_left_and_filled_since() -> None:
    bucket = bucket_of(left(requests_left=3.0, tokens_left=-300.0, filled_at=NOW - 30_000), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens, bucket.filled_at) == (33, 2700, NOW)


def test_a_bucket_from_the_future_is_not_filled_but_not_lost_either() -> None:
    bucket = bucket_of(left(requests_left=3.0, tokens_left=5.0, filled_at=NOW + 3_600_000), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens, bucket.filled_at) == (3, 5, NOW)


def test_a_bucket_never_holds_more_than_the_rate_that_counts_now() -> None:
    bucket = bucket_of(left(requests_left=900.0, tokens_left=90_000.0, filled_at=NOW), NOW)
    assert bucket is not None
    assert (bucket.requests, bucket.tokens) == (60, 6000)


# -- shown -------------------------------------------------------------------------------------------------------------


def test_a_queue_is_shown_with_what_holds_it_back_and_what_stands_in_it() -> None:
    row = effective("mail", SETTINGS, QueueRow("mail", blocked_until=NOW + 9))
    view = view_of(row, {"pending": 2, "active": 0, "failed": 1})
    assert (view.name, view.state, view.by, view.max_active) == ("mail", "paused", "config", 4)
    assert (view.rate, view.blocked_until) == (Rate(requests=10, per_ms=5000), NOW + 9)
    assert view.counts == {"pending": 2, "failed": 1}
