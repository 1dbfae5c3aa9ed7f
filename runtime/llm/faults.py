"""What a provider's refusal means: statuses and error objects to errors of ours, by pure functions."""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from runtime.errors import (
    LlmAuth,
    LlmContext,
    LlmError,
    LlmOverloaded,
    LlmProtocol,
    LlmRateLimited,
    LlmRequest,
)
from runtime.secrets import SHORTEST, spellings

QUOTE_CHARS: Final = 300
"""How much of a provider's own words an error may repeat."""

_LONGEST_WAIT: Final = 365 * 86_400.0
_CONTEXT: Final = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context|context (?:size|window|length|limit)"
    r"|(?:prompt|input) is too long|too many tokens|too large to process",
    re.IGNORECASE,
)
_WORDS: Final[tuple[tuple[re.Pattern[str], type[LlmError]], ...]] = (
    (re.compile(r"rate.?limit|quota|too.?many.?requests", re.IGNORECASE), LlmRateLimited),
    (re.compile(r"authenti|api.?key|permission|forbidden|unauthorized", re.IGNORECASE), LlmAuth),
    (re.compile(r"overloaded|server.?error|unavailable|internal|timeout", re.IGNORECASE), LlmOverloaded),
    (re.compile(r"invalid.?request|bad.?request|not.?found|unsupported|too.?large", re.IGNORECASE), LlmRequest),
)


def refused(status: int, body: bytes, *, secret: str | None, retry_after: float | None = None) -> LlmError:
    """Return the error that an answer of *status* with *body* stands for; it quotes the provider without *secret*."""
    message, words = _read(body)
    said = f"it answered {status}: {quote(message, secret)}" if message else f"it answered {status}"
    return _class_of(status, f"{words} {message}")(said, status=status, retry_after=retry_after)


def reported(error: Any, *, secret: str | None) -> LlmError:
    """Return what an error object within an answer of 200 stands for.

    An error that says nothing we know counts as the provider's own trouble, so it is tried again.
    """
    message, words = _message(error), _words(error)
    said = f"it reported an error: {quote(message or words.strip(), secret)}"
    status = _status(error)
    if status is not None:
        return _class_of(status, f"{words} {message}")(said, status=status)
    if _CONTEXT.search(f"{words} {message}"):
        return LlmContext(said)
    for pattern, kind in _WORDS:
        if pattern.search(words):
            return kind(said)
    return LlmOverloaded(said)


def sign(error: LlmError, provider: str) -> LlmError:
    """Write the name of the provider it came from into *error*, its sentence and its data, and return it."""
    if "provider" not in error.data:
        error.data["provider"] = provider
        error.args = (f"provider {provider!r}: {error.detail}",)
    return error


def retry_after(headers: Mapping[str, str], now_ms: int) -> float | None:
    """Return the seconds a provider wishes us to wait, from `Retry-After` as seconds or as a date; None if unsaid."""
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return min(millis / 1000, _LONGEST_WAIT)
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is None and text is not None:
        seconds = _until(text, now_ms)
    return None if seconds is None else min(seconds, _LONGEST_WAIT)


def quote(text: str, secret: str | None) -> str:
    """Return at most 300 characters of *text* on one line, without *secret* and without a page's markup."""
    if text.lstrip()[:1] == "<":
        return "an HTML page"
    if secret:
        # Before the cut, else half a key may be what is left at the end.
        forms = [form for form in spellings(secret) if len(form) >= SHORTEST or form == secret]
        text = re.sub("|".join(map(re.escape, forms)), "[key]", text)
    line = " ".join(text.split())
    return line if len(line) <= QUOTE_CHARS else line[: QUOTE_CHARS - 1] + "…"


def _class_of(status: int, text: str) -> type[LlmError]:
    if status in (401, 403):
        return LlmAuth
    if status == 429:
        return LlmRateLimited
    # Some servers say 500 when a conversation outgrows the window; to try it again unchanged cannot help.
    if status in (400, 413, 422, 500) and _CONTEXT.search(text):
        return LlmContext
    if status in (408, 409) or 500 <= status <= 599:
        return LlmOverloaded
    return LlmRequest if 400 <= status <= 499 else LlmProtocol


def _read(body: bytes) -> tuple[str, str]:
    """Return the message in an error's body and the words that classify it."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace"), ""
    inner = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    return _message(inner), _words(inner)


def _message(error: Any) -> str:
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for key in ("message", "detail", "error"):
            if error.get(key):
                return _message(error[key])
    return json.dumps(error, ensure_ascii=False) if error else ""


def _words(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    return " ".join(str(error[key]) for key in ("type", "code", "status") if error.get(key))


def _status(error: Any) -> int | None:
    for key in ("code", "status", "status_code"):
        value = error.get(key) if isinstance(error, dict) else None
        if isinstance(value, int | str) and re.fullmatch(r"[45][0-9]{2}", str(value)):
            return int(value)
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return max(0.0, value) if math.isfinite(value) else None


def _until(date: str, now_ms: int) -> float | None:
    try:
        at = parsedate_to_datetime(date)
        # A date without a zone is GMT, as every HTTP date is.
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - now_ms / 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
