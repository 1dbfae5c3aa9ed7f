"""JSON text as every store takes it: the fast way says the same as the slow one, and refuses the same."""

import json
import random
from typing import Any

import pytest

from actors import encoding
from actors.encoding import encoder


def slow(value: Any, *, sort_keys: bool) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)


def some(chance: random.Random, depth: int = 3) -> Any:
    kind = chance.randrange(9 if depth else 6)
    match kind:
        case 0:
            return chance.choice((None, True, False))
        case 1:
            return chance.randint(-(10**20), 10**20)
        case 2:
            return chance.choice((0.5, 1e300, -0.0, 1e-9))
        case 3 | 4 | 5:
            return "".join(chance.choice('aé"\\\n\t\x00\u2028😀 ') for _ in range(chance.randrange(6)))
        case 6:
            return [some(chance, depth - 1) for _ in range(chance.randrange(4))]
        case 7:
            return tuple(some(chance, depth - 1) for _ in range(chance.randrange(4)))
        case _:
            return {chance.choice("abcdefg"): some(chance, depth - 1) for _ in range(chance.randrange(5))}


@pytest.mark.parametrize("seed", range(50))
def test_it_writes_what_json_writes(seed: int) -> None:
    value = some(random.Random(seed))
    assert encoding.in_order(value) == slow(value, sort_keys=True)
    assert encoding.as_given(value) == slow(value, sort_keys=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": {1, 2}}, object(), b"x", "\ud800", {"\ud800": 1}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encoding.in_order(value)


def test_what_holds_itself_is_refused_and_spoils_nothing() -> None:
    ring: list[Any] = []
    ring.append(ring)
    for _ in range(2):
        with pytest.raises((ValueError, RecursionError)):
            encoding.as_given(ring)
    assert encoding.as_given([[], []]) == "[[],[]]"


def test_without_the_c_encoder_the_slow_way_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert encoder(sort_keys=True)({"b": "é", "a": 1}) == '{"a":1,"b":"é"}'
