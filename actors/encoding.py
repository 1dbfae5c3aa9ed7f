"""JSON text as every store takes it: short, without NaN, and with no half of a surrogate pair."""

import json
from collections.abc import Callable
from typing import Any, Final


def encoder(*, sort_keys: bool) -> Callable[[Any], str]:
    """Return a function that writes JSON. It raises TypeError, ValueError or RecursionError for what is none.

    `json.JSONEncoder.encode` makes a new C encoder at each call, which takes three times as long as to write a small
    object; here it is made once. Where Python has none, or one that takes other arguments, the slow way serves.
    """
    slow = json.JSONEncoder(ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
    encode: Callable[[Any], str] = slow.encode
    make = getattr(json.encoder, "c_make_encoder", None)
    escape = getattr(json.encoder, "encode_basestring", None)
    try:
        write = make(None, slow.default, escape, None, ":", ",", sort_keys, False, False)  # type: ignore[misc]
        fast: Callable[[Any], str] = lambda value: "".join(write(value, 0))  # noqa: E731
        if fast(SAMPLE) == encode(SAMPLE):
            encode = fast
    except TypeError:
        pass

    def text_of(value: Any) -> str:
        text = encode(value)
        if not text.isascii():
            text.encode()  # UnicodeEncodeError is a ValueError
        return text

    return text_of


SAMPLE: Final = {"b": [1, 2.5, None, True, "\u00e9\n"], "a": {}, "c": [{"z": 0, "y": ()}]}

in_order: Final = encoder(sort_keys=True)
"""Equal values are equal text."""

as_given: Final = encoder(sort_keys=False)
