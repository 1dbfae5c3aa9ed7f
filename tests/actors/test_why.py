"""Why a job does not move: one sentence for each reason there is, word for word, and what to do about it."""

from typing import Any

import pytest

from actors.rates import Bucket
from actors.why import EXPLAIN, Pool, Scene, Seat, explain, moment
from runtime.errors import problem
from runtime.store.port import ChildResult, QueueRow, WhyFacts
from schemas.jobs import MOVES, REASONS, AttemptView, EdgeView, JobView, Rate, StepView, WhyView

NOW = 1_790_000_000_000
AT = "14:13:20 UTC"
BUSY = problem("job.failed", "the line\nis busy")


def job(status: Any = "pending", reason: str | None = None, **more: Any) -> JobView:
    usual: dict[str, Any] = {
        "id": "j",
        "name": "call",
        "queue": "mail",
        "status": status,
        "reason": reason,
        "priority": 100,
        "attempts": 1,
        "max_attempts": 3,
        "created_at": NOW - 60_000,
        "updated_at": NOW - 3_000,
        "execute_after": NOW - 60_000,
    }
    return JobView(**(usual | more))


def scene(view: JobView, ahead: int = 0, key: tuple[str, ...] = (), **more: Any) -> Scene:
    usual: dict[str, Any] = {
        "now": NOW,
        "facts": WhyFacts(view, ahead, key),
        "queue": QueueRow("mail"),
        "pool": Pool("child", 2),
    }
    return Scene(**(usual | more))


def told(view: JobView, *args: Any, **more: Any) -> list[tuple[str, str, str]]:
    """Return (code, text, hint) of every reason."""
    found = explain(scene(view, *args, **more))
    assert found.summary == f"{view.status}: {found.reasons[0].text}"
    return [(one.code, one.text, one.hint) for one in found.reasons]


def attempt(**more: Any) -> AttemptView:
    usual: dict[str, Any] = {"epoch": 1, "attempt": 1, "worker": "w", "started_at": NOW - 12_000}
    return AttemptView(**(usual | more))


def edges(*found: tuple[str, str, str]) -> tuple[EdgeView, ...]:
    return tuple(EdgeView(job=name, state=state, status=status) for name, state, status in found)  # type: ignore[arg-type]


def test_every_status_and_every_reason_of_it_is_explained() -> None:
    assert set(EXPLAIN) == set(MOVES)
    for status in MOVES:
        for reason in REASONS.get(status, (None,)):
            view = explain(scene(job(status, reason, limit_key="k", deadline_at=NOW + 1, waits_for="s", worker="w")))
            assert isinstance(view, WhyView)
            assert view.reasons[0].code
            assert "None" not in view.summary, view.summary


# -- waiting -----------------------------------------------------------------------------------------------------------


def test_blocked_by_one_job() -> None:
    view = job("waiting", "deps", depends_on=edges(("a", "open", "active"), ("b", "satisfied", "completed")))
    assert told(view) == [("deps.open", "it is blocked by job a, which is active", "understudy why a")]


def test_blocked_by_several_jobs_with_how_each_stands() -> None:
    view = job("waiting", "deps", depends_on=edges(("a", "open", "active"), ("b", "open", "delayed")))
    assert told(view) == [("deps.open", "it is blocked by 2 jobs: a (active), b (delayed)", "understudy why a")]


def test_blocked_by_more_jobs_than_a_sentence_can_hold() -> None:
    view = job("waiting", "deps", depends_on=edges(*((f"p{n}", "open", "pending") for n in range(1200))))
    ((_, text, _),) = told(view)
    assert text.startswith("it is blocked by 1,200 jobs: p0 (pending), p1 (pending), ")
    assert text.endswith("p4 (pending) and 1,195 more")


def test_held_by_a_job_that_failed_which_comes_before_those_that_go_on() -> None:
    view = job("waiting", "deps", depends_on=edges(("a", "open", "active"), ("b", "broken", "failed")))
    assert told(view) == [
        (
            "deps.broken",
            "it depends on job b, which failed, and is held until a person decides",
            "`understudy jobs retry b` runs that one again; `understudy jobs resume j` goes on without",
        ),
        ("deps.open", "it is blocked by job a, which is active", "understudy why a"),
    ]


def test_its_key_is_full_and_who_holds_it() -> None:
    view = job("waiting", "limit", limit_key="smtp", limit_max=3)
    text = "its key smtp is full, 3 of 3: held by a, b, c"
    assert told(view, key=("a", "b", "c")) == [("limit.key", text, "understudy why a")]


def test_its_key_has_just_become_free() -> None:
    view = job("waiting", "limit", limit_key="smtp", limit_max=3)
    text = "its key smtp has room, 1 of 3: it goes on in a moment"
    assert told(view, key=("a",)) == [("limit.room", text, "")]


@pytest.mark.parametrize(
    ("until", "words"), [(None, "for as long as it takes"), (NOW + 90_000, "until 14:14:50 UTC (in 1 min)")]
)
def test_waiting_for_a_signal(until: int | None, words: str) -> None:
    view = job("waiting", "signal", waits_for="approved", wait_until=until)
    text = f"it waits for the signal approved, {words}"
    assert told(view) == [("signal", text, "understudy jobs signal j approved")]


def test_waiting_for_its_parts() -> None:
    ended, living = ChildResult("a", "pack", "failed", None, None), ChildResult("b", "pack", "active", None, None)
    view = job("waiting", "children", wait_until=NOW + 5_000)
    text = "it waits for 1 of its 2 parts to end: b (active), until 14:13:25 UTC (in 5 s)"
    assert told(view, parts=(ended, living)) == [("children", text, "understudy why b")]
    assert told(view, parts=(ended,)) == [("children.ended", "all its parts have ended: it goes on in a moment", "")]


# -- delayed -----------------------------------------------------------------------------------------------------------


def test_not_its_time_yet() -> None:
    view = job("delayed", "scheduled", execute_after=NOW + 7_200_000)
    text = "it was submitted to start later: at 16:13:20 UTC (in 2 h)"
    assert told(view) == [("delayed.scheduled", text, "")]


def test_an_attempt_failed_and_the_next_is_to_come() -> None:
    view = job("delayed", "retry", attempts=2, execute_after=NOW + 4_000, history=(attempt(error=BUSY),))
    text = "attempt 2 of 3 failed (the line is busy); the next one is at 14:13:24 UTC (in 4 s)"
    assert told(view) == [("delayed.retry", text, "understudy jobs show j")]


def test_its_code_asked_to_go_on_later() -> None:
    view = job("delayed", "snooze", execute_after=NOW + 500)
    assert told(view) == [("delayed.snooze", f"its code asked to go on later: at {AT} (in 500 ms)", "")]


def test_a_provider_asked_for_patience() -> None:
    view = job("delayed", "rate_limit", execute_after=NOW + 20_000, error=problem("job.failed", "slow down"))
    text = "a provider asked for patience (slow down): it goes on at 14:13:40 UTC (in 20 s), and no attempt is lost"
    assert told(view) == [("delayed.rate_limit", text, "")]


def test_what_will_hold_it_back_next_is_told_too() -> None:
    view = job("delayed", "scheduled", execute_after=NOW + 60_000)
    found = told(view, queue=QueueRow("mail", state="paused", by="ada"))
    text = "after that, its queue mail is paused by ada"
    assert found[1] == ("queue.paused", text, "understudy queues resume mail")


# -- paused ------------------------------------------------------------------------------------------------------------


def test_a_person_paused_it() -> None:
    text = "a person paused it at 14:13:17 UTC (3 s ago)"
    assert told(job("paused", "user")) == [("paused.user", text, "understudy jobs resume j")]


def test_nobody_knows_its_kind() -> None:
    hint = "define it under [kinds.call] in config.toml, then: understudy reload"
    assert told(job("paused", "hold"), kind_known=False) == [("paused.kind", "nobody knows its kind call", hint)]


def test_a_step_of_it_is_ambiguous() -> None:
    step = StepView(name="charge", state="started", epoch=1, started_at=NOW)
    view = job("paused", "hold", steps=(step,), error=problem("job.step_ambiguous"))
    text = "its step charge was begun and never ended, so nobody knows whether it took effect"
    assert told(view) == [("paused.step", text, "find out, and let it run again: understudy jobs resume j")]


def test_it_is_held_for_a_person_for_another_reason() -> None:
    view = job("paused", "hold", error=problem("job.failed", "look at this"))
    assert told(view) == [("paused.hold", "it is held for a person: look at this", "understudy jobs resume j")]


# -- pending: what is in the way of everything, of the queue, of the job -----------------------------------------------

FIRST = ("queue.position", "it is the first of its queue mail and starts as soon as it may", "")


def test_nothing_holds_it_back() -> None:
    assert told(job()) == [("queue.position", "it is the first of its queue mail and starts in a moment", "")]


@pytest.mark.parametrize(
    ("ahead", "text"),
    [
        (1, "1 job goes before it in its queue mail, it is number 2"),
        (41, "41 jobs go before it in its queue mail, it is number 42"),
        (1000, "1,000 or more jobs go before it in its queue mail"),
    ],
)
def test_its_place_in_the_queue(ahead: int, text: str) -> None:
    assert told(job(), ahead) == [("queue.position", text, "")]


def test_the_daemon_stops() -> None:
    told_first, *_ = told(job(), draining=True)
    assert told_first == ("daemon.draining", "the daemon is stopping, and starts nothing more", "understudy up")


def test_the_store_refuses_writes() -> None:
    told_first, *_ = told(job(), store_trouble="no space left")
    assert told_first == ("store.refuses", "the store refuses writes: no space left", "understudy doctor")


@pytest.mark.parametrize(
    ("row", "who"),
    [
        (QueueRow("mail", state="paused", by="ada", since=NOW - 180_000), "ada since 14:10:20 UTC (3 min ago)"),
        (QueueRow("mail", state="paused", by="config"), "the configuration"),
    ],
)
def test_its_queue_is_paused_by_somebody_since_a_time(row: QueueRow, who: str) -> None:
    text = f"its queue mail is paused by {who}"
    assert told(job(), queue=row) == [("queue.paused", text, "understudy queues resume mail"), FIRST]


def test_a_queue_that_drains_still_runs_what_is_in_it() -> None:
    assert told(job(), queue=QueueRow("mail", state="draining", by="ada"))[0][0] == "queue.position"


def test_a_provider_blocks_its_queue() -> None:
    text = "its queue mail is blocked until 14:13:32 UTC (in 12 s): a provider said 429"
    found = told(job(), queue=QueueRow("mail", blocked_until=NOW + 12_000))
    assert found == [("queue.blocked", text, "it goes on by itself"), FIRST]
    assert told(job(), queue=QueueRow("mail", blocked_until=NOW))[0][0] == "queue.position"


def test_its_queue_has_started_as_many_as_its_rate_allows() -> None:
    bucket = Bucket(Rate(requests=2, per_ms=10_000), 0.25, 0, NOW)
    text = "its queue mail is rate-limited to 2 starts in 10 s: the next is at 14:13:23 UTC (in 3 s)"
    assert told(job(), bucket=bucket) == [("queue.rate", text, "it goes on by itself"), FIRST]


def test_the_tokens_that_are_left_are_too_few() -> None:
    bucket = Bucket(Rate(tokens=1000, per_ms=60_000), 0, 100, NOW)
    text = (
        "its queue mail is rate-limited to 1,000 tokens in 1 min: 100 are left, it takes 400, "
        "and there will be enough at 14:13:38 UTC (in 18 s)"
    )
    assert told(job(tokens=400), bucket=bucket) == [("queue.tokens", text, "it goes on by itself"), FIRST]


def test_a_job_that_takes_more_than_all_tokens_starts_when_the_bucket_is_full() -> None:
    rate = Rate(tokens=1000, per_ms=60_000)
    assert told(job(tokens=5000), bucket=Bucket(rate, 0, 1000, NOW))[0][0] == "queue.position"
    assert "(in 6 s)" in told(job(tokens=5000), bucket=Bucket(rate, 0, 900, NOW))[0][1]


def test_a_rate_of_which_nothing_newer_is_known_is_named_all_the_same() -> None:
    row = QueueRow("mail", rate='{"requests": 2, "tokens": null, "per_ms": 10000}')
    text = "its queue mail starts no more than 2 jobs in 10 s"
    assert told(job(), queue=row) == [("queue.rate", text, "it goes on by itself"), FIRST]


def test_its_queue_runs_as_many_as_it_may() -> None:
    text = "its queue mail runs as many jobs as it may, 2 of 2"
    found = told(job(), queue=QueueRow("mail", max_active=2), active=2)
    assert found == [("queue.max_active", text, "understudy queues set mail --max-active 3"), FIRST]


def test_the_daemon_runs_as_many_as_it_may() -> None:
    text = "the daemon runs as many jobs as it may, 20 of 20"
    assert told(job(), at_work=20, cap=20) == [("runtime.max_active", text, "see max_active in [runtime]"), FIRST]


def test_a_suspect_runs_alone_first() -> None:
    text = "the daemon died while job s ran, so that one runs alone first"
    assert told(job(), suspect="s") == [("suspect", text, "understudy why s"), FIRST]


@pytest.mark.parametrize(
    ("pool", "code", "text", "hint"),
    [
        (
            Pool("big", 0),
            "workers.none",
            "no worker serves its queue mail: the pool big is empty",
            "understudy pools resize big 1",
        ),
        (
            Pool("child", 2, draining=2),
            "workers.draining",
            "all 2 workers of the pool child are draining",
            "understudy workers resume ID",
        ),
        (
            Pool("child", 2, busy=2),
            "workers.busy",
            "all 2 workers of the pool child are busy",
            "`understudy workers ls` shows with what; more: understudy pools resize child 3",
        ),
        (
            Pool("child", 3, busy=2, draining=1),
            "workers.busy",
            "all 3 workers of the pool child are busy, or drain (1)",
            "`understudy workers ls` shows with what; more: understudy pools resize child 4",
        ),
    ],
)
def test_nobody_has_a_hand_free(pool: Pool, code: str, text: str, hint: str) -> None:
    assert told(job(), pool=pool) == [(code, text, hint), FIRST]


@pytest.mark.parametrize(
    ("seat", "code", "text", "hint"),
    [
        (
            Seat("ada", None),
            "agent.unknown",
            "there is no agent ada any more",
            "define [agents.ada] in config.toml, then: understudy reload",
        ),
        (
            Seat("ada", "quarantined", "ValueError: broken"),
            "agent.quarantined",
            "the agent ada is quarantined: ValueError: broken",
            "mend it, then: understudy reload",
        ),
        (
            Seat("ada", "backing_off"),
            "agent.away",
            "the agent ada is backing_off",
            "understudy agents show ada",
        ),
        (
            Seat("ada", "running", held=1, slots=4, talk="k"),
            "agent.conversation",
            "an earlier message of its conversation main is being answered: job k",
            "understudy why k",
        ),
        (
            Seat("ada", "running", held=4, slots=4),
            "agent.busy",
            "the agent ada is busy with 4 of 4 turns",
            "understudy jobs ls --queue agent:ada --status active",
        ),
    ],
)
def test_its_agent_does_not_take_it(seat: Seat, code: str, text: str, hint: str) -> None:
    view = job(queue="agent:ada", conversation="main")
    assert told(view, pool=None, agent=seat)[0] == (code, text, hint)


def test_an_agent_that_is_there_and_free_is_no_reason() -> None:
    assert told(job(), pool=None, agent=Seat("ada", "running", held=1, slots=4))[0][0] == "queue.position"


def test_the_reason_that_decides_comes_first_and_no_other_is_left_out() -> None:
    row = QueueRow("mail", state="paused", by="ada", max_active=1, blocked_until=NOW + 1)
    found = told(job(), 7, queue=row, active=1, draining=True, pool=Pool("child", 1, busy=1), cap=1, at_work=1)
    assert [code for code, _, _ in found] == [
        "daemon.draining",
        "queue.paused",
        "queue.blocked",
        "queue.max_active",
        "runtime.max_active",
        "workers.busy",
        "queue.position",
    ]


def test_a_deadline_is_told_while_the_job_lives() -> None:
    text = "it fails unless it is done by 14:14:20 UTC (in 1 min)"
    assert told(job(deadline_at=NOW + 60_000))[-1] == ("deadline", text, "")
    assert [code for code, *_ in told(job("completed", deadline_at=NOW + 60_000, finished_at=NOW))] == [
        "ended.completed"
    ]


# -- active ------------------------------------------------------------------------------------------------------------


def test_it_runs() -> None:
    view = job("active", worker="worker:child-1", history=(attempt(),), timeout_ms=300_000)
    assert told(view) == [
        (
            "active",
            "it runs on worker:child-1 since 14:13:08 UTC (12 s ago), attempt 1 of 3",
            "understudy jobs logs j -f",
        ),
        ("active.timeout", "this attempt is ended at 14:18:08 UTC (in 4 min)", ""),
    ]


def test_it_is_being_cancelled() -> None:
    text = "it was asked to end, and is being ended: its code has the grace, then its process is killed"
    assert told(job("active", cancel_requested=True))[0] == ("active.cancel", text, "")


def test_it_is_to_pause() -> None:
    text = "it was asked to pause, and stops at its next step"
    hint = "take it back: understudy jobs resume j"
    assert told(job("active", pause_requested=True))[0] == ("active.pause", text, hint)


# -- ended -------------------------------------------------------------------------------------------------------------


def test_it_completed() -> None:
    view = job("completed", finished_at=NOW - 3_000)
    text = "it completed at 14:13:17 UTC (3 s ago)"
    assert told(view) == [("ended.completed", text, "its result: understudy jobs wait j")]


@pytest.mark.parametrize(
    ("reason", "more", "text", "hint"),
    [
        (
            "exhausted",
            {"attempts": 3},
            "it failed after 3 of 3 attempts: the line is busy",
            "if that has passed, try it again: understudy jobs retry j",
        ),
        (
            "timeout",
            {"attempts": 3},
            "it failed after 3 of 3 attempts: the line is busy",
            "if that has passed, try it again: understudy jobs retry j",
        ),
        (
            "permanent",
            {},
            "it failed for good: the line is busy",
            "another attempt alone would not help; mend that, then: understudy jobs retry j",
        ),
        (
            "poison",
            {"crashes": 3},
            "it brought down its process, or the daemon, 3 times: the line is busy",
            "mend its code first, then: understudy jobs retry j",
        ),
        (
            "deadline",
            {"deadline_at": NOW - 1_000},
            "it was not done by its deadline, 14:13:19 UTC (1 s ago)",
            "run it without a deadline: understudy jobs retry j",
        ),
        (
            "dependency",
            {"depends_on": edges(("a", "broken", "failed"))},
            "it failed because it depends on job a, which failed",
            "take both back: understudy jobs retry a --with-dependants",
        ),
    ],
)
def test_it_failed(reason: str, more: dict[str, Any], text: str, hint: str) -> None:
    view = job("failed", reason, error=BUSY, finished_at=NOW, **more)
    assert told(view) == [(f"ended.failed.{reason}", text, hint)]


@pytest.mark.parametrize(
    ("reason", "more", "text", "hint"),
    [
        ("user", {}, f"it was cancelled at {AT} (just now)", "run it after all: understudy jobs retry j"),
        ("superseded", {}, "a newer job took its place", "run it after all: understudy jobs retry j"),
        ("deadline", {}, "it did not start by its deadline", "run it after all: understudy jobs retry j"),
        (
            "dependency",
            {"depends_on": edges(("a", "broken", "cancelled"))},
            "it was cancelled because it depends on job a, which was cancelled",
            "take both back: understudy jobs retry a --with-dependants",
        ),
    ],
)
def test_it_was_cancelled(reason: str, more: dict[str, Any], text: str, hint: str) -> None:
    view = job("cancelled", reason, finished_at=NOW, **more)
    assert told(view) == [(f"ended.cancelled.{reason}", text, hint)]


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (NOW - 1_000, "14:13:19 UTC (1 s ago)"),
        (NOW, "14:13:20 UTC (just now)"),
        (NOW + 23 * 3_600_000, "13:13:20 UTC (in 23 h)"),
        (NOW + 86_400_000 * 5, "2026-09-26 14:13:20 UTC (in 5 d)"),
        (NOW - 86_400_000, "2026-09-20 14:13:20 UTC (1 d ago)"),
        (None, "an unknown time"),
    ],
)
def test_a_time_is_told_both_ways(at: int | None, text: str) -> None:
    assert moment(at, NOW) == text


def test_an_error_is_told_on_one_line_that_ends() -> None:
    view = job("failed", "permanent", error=problem("job.failed", "x " * 500), finished_at=NOW)
    ((_, text, _),) = told(view)
    assert len(text) < 250
    assert text.endswith("\N{HORIZONTAL ELLIPSIS}")
