"""What can happen to a store, as random values: operations and histories of them."""

import json
from typing import Any, Final

from hypothesis import strategies as st

from runtime.store.port import SaveState

PLACES: Final = [("q", "loop"), ("q", "child"), ("agent:a", "agent")]
WORKERS: Final = ("w1", "w2", "w3")
KINDS: Final = ("a", "b")
WORDS: Final = ("x", "y")
KEYS: Final = {None: 1, "one": 1, "two": 2}
"""Limit keys with what they allow."""
PROBLEM: Final = json.dumps({"code": "job.failed", "title": "It failed", "status": 500, "detail": "no"})
ENDS: Final = [
    *[("completed", None)] * 4,
    ("failed", "exhausted"),
    ("failed", "permanent"),
    ("delayed", "retry"),
    ("delayed", "snooze"),
    *[("pending", None)] * 2,
    ("paused", "hold"),
    ("waiting", "signal"),
    ("waiting", "children"),
]
REFUSED: Final = SaveState("nobody", "{}", 1, expected=9, boot="b", incarnation=1, now=1)
"""A change that always raises, to have the others of its commit taken back."""

STALE: Final = 9
"""Which job or claim an operation is about is counted from the last one, modulo how many there are. Below this number
it is one that the operation is meant for (owned, to be retried); from there on any, or a lost claim to a job that
another attempt owns now."""

which = st.integers(0, 12)
some = st.lists(which, min_size=1, max_size=3)
edge = st.tuples(which, st.sampled_from(["cancel", "cancel", "run", "hold"]))
job = st.fixed_dictionaries(
    {
        "place": st.sampled_from(PLACES),
        "kind": st.sampled_from(KINDS),
        "priority": st.sampled_from([100, 100, 99, 0]),
        "delay": st.sampled_from([0, 0, 0, 0, -3, 40]),
        "key": st.sampled_from([None, None, None, None, "k1", "k2"]),
        "unique": st.sampled_from([None, None, None, None, "u"]),
        "args": st.sampled_from(['{"n": 1}', '{"n": 2}']),
        "conversation": st.sampled_from([None, "x", "y"]),
        "user_code": st.booleans(),
        "max_attempts": st.sampled_from([1, 3]),
        "deadline": st.sampled_from([None, None, None, 30, 7_000]),
        "tags": st.sampled_from([(), ("t",), ("keep", "t")]),
        "parent": st.one_of(st.none(), st.none(), which),
        "edges": st.one_of(st.just([]), st.just([]), st.lists(edge, max_size=3)),
        "limit_key": st.sampled_from([None, None, "one", "two"]),
        "tokens": st.sampled_from([0, 0, 2, 5]),
    }
)
end = st.fixed_dictionaries(
    {
        "which": which,
        "end": st.sampled_from(ENDS),
        "delay": st.sampled_from([None, 5, 60]),
        "until": st.sampled_from([None, 20]),
        "word": st.sampled_from(WORDS),
        "refund": st.sampled_from([False, False, True]),
        "crash": st.sampled_from([False, False, True]),
        "words": st.sampled_from([(None, None), ("1", None), (None, PROBLEM)]),
    }
)
OPERATIONS: Final[dict[str, st.SearchStrategy[tuple[Any, ...]]]] = {
    "insert": st.tuples(st.lists(job, min_size=1, max_size=4), st.booleans(), st.one_of(st.none(), st.none(), which)),
    "claim": st.tuples(st.sampled_from(PLACES), st.integers(1, 3), st.sampled_from([None, None, 4]), st.booleans()),
    "finish": st.tuples(st.lists(end, min_size=1, max_size=3), st.sampled_from([False, False, False, True])),
    "write": st.tuples(which, st.sampled_from(["process", "progress", "logs"])),
    "begin": st.tuples(which, st.sampled_from(WORDS), st.booleans()),
    "end": st.tuples(which, st.sampled_from(WORDS), st.sampled_from([None, "it broke"])),
    "take": st.tuples(which, st.sampled_from(WORDS), st.sampled_from([*WORDS, "z"])),
    "signal": st.tuples(which, st.sampled_from(WORDS)),
    "cancel": st.tuples(some),
    "pause": st.tuples(some),
    "resume": st.tuples(some),
    "retry": st.tuples(some, st.booleans()),
    "promote": st.tuples(st.sampled_from([1, 1000])),
    "release": st.tuples(st.sampled_from(KINDS)),
    "expire": st.tuples(st.sampled_from([1, 1000])),
    "expire leases": st.tuples(),
    "repair": st.tuples(),
    "daemon dies": st.tuples(),
    "worker dies": st.tuples(st.sampled_from(WORKERS)),
    "queue": st.tuples(st.sampled_from(PLACES), st.sampled_from(["paused", "draining", "running", "running"])),
    "prune": st.tuples(st.sampled_from([0, 3])),
    "beat": st.tuples(st.one_of(st.none(), which)),
    "delete": st.tuples(
        st.sampled_from(["completed", "failed", "cancelled"]),
        st.sampled_from(["q", None]),
        st.sampled_from([None, 1]),
        st.sampled_from([0, 1_000_000]),
        st.sampled_from([1, 500]),
    ),
    "fire": st.tuples(st.integers(1, 4), job, st.sampled_from(["fired", "triggered", "skipped_overlap"])),
    "wait": st.tuples(st.sampled_from([1, 50, 6_000])),
}
OFTEN: Final = [
    *["insert"] * 4,
    *["claim"] * 9,
    *["finish"] * 8,
    *["cancel", "retry", "resume", "promote", "write", "begin", "end"] * 2,
]
operation = st.sampled_from([*OFTEN, *OPERATIONS]).flatmap(lambda name: st.tuples(st.just(name), OPERATIONS[name]))
step = st.tuples(operation, st.sampled_from([False] * 9 + [True]))
history = st.lists(step, min_size=20, max_size=60)
