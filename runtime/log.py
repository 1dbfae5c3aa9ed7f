"""Sets up logging: events with fields, to the terminal and to a rotated JSON file, with secrets and floods kept out."""

import logging
import logging.handlers
import os
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from runtime.context import current

MAX_TEXT: Final = 8 * 1024
MAX_FILE: Final = 10 * 1024 * 1024
KEPT_FILES: Final = 5
BURST: Final = 10
BURST_WINDOW: Final = 60.0

# What these say below WARNING is either about every request or holds arguments of statements.
_NOISY: Final = (
    "aiosqlite",
    "asyncio",
    "client",  # the MCP SDK's session
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "mcp",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.asgi",
    "uvicorn.error",
)
_OWN: Final = "runtime.log"


class Redacts(Protocol):
    """What takes secrets out of text: `runtime.secrets.Redactor`, which stands above this room."""

    def text(self, text: str) -> str:
        """Return *text* without secrets."""
        ...


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of module *name*; its lines carry the request, actor and job of `runtime.context`."""
    return structlog.stdlib.get_logger(name)


def setup(level: str, *, console: bool, file: Path | None, redactor: Redacts) -> None:
    """Send all logging of the process, from *level* ("debug" to "error") up, to the places that are asked for.

    *console* is stderr, with colours on a terminal only. *file* gets a line of JSON for each event; it is readable by
    us alone, rotated at 10 MiB, with 5 old ones kept; its folder must exist (else OSError). Text is cut at 8 KiB. Of
    equal error lines (same logger, event, actor, job and error) 10 a minute are written; their number follows with the
    next line after that minute, or at `close`. A second call replaces the first.
    """
    close()
    before = _shared(redactor)
    outlets: list[logging.Handler] = []
    if console:
        outlets.append(_formatted(_Console(), _console_renderer(), before, redactor))
    if file is not None:
        outlets.append(_formatted(_JsonFile(file), structlog.processors.JSONRenderer(), before, redactor))
    root = logging.getLogger()
    root.addHandler(_Outlets(outlets))
    root.setLevel(level.upper())
    for name in _NOISY:
        noisy = logging.getLogger(name)
        noisy.handlers.clear()
        noisy.propagate = True
        noisy.setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a cached logger would keep the processors of an earlier setup
    )


def close() -> None:
    """Write the numbers of what was left out, close what `setup` opened and log nowhere."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Outlets)]:
        handler.finish()
        root.removeHandler(handler)
        handler.close()


Key: TypeAlias = tuple[str, ...]
"""What makes two lines equal: the logger, the event, and what they are about."""


@dataclass(slots=True)
class _Window:
    started: float
    seen: int = 0


class Bursts:
    """Decides which of equal lines are written: 10 within a minute of the first. Pure; it remembers 1000 at most."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Key, _Window] = OrderedDict()

    def admit(self, key: Key, now: float) -> bool:
        """Count a line and return whether it is written; *now* is in seconds that never run backwards."""
        window = self._windows.setdefault(key, _Window(now))
        window.seen += 1
        return window.seen <= BURST

    def expired(self, now: float) -> list[tuple[Key, int]]:
        """Forget windows that are over, or are too many, and return how many lines each left out."""
        over = []
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now - window.started < BURST_WINDOW and len(self._windows) <= 1000:
                break
            del self._windows[key]
            if window.seen > BURST:
                over.append((key, window.seen - BURST))
        return over


class _Outlets(logging.Handler):
    """Hands each record to every outlet, unless it is one of a burst."""

    def __init__(self, outlets: list[logging.Handler], now: Callable[[], float] = time.monotonic) -> None:
        # Not the product's clock: that one belongs to an event loop, and log lines come from every thread.
        super().__init__()
        self._outlets = outlets
        self._bursts = Bursts()
        self._now = now

    def emit(self, record: logging.LogRecord) -> None:
        now = self._now()
        self._tell(self._bursts.expired(now))
        limited = record.levelno >= logging.ERROR and record.name != _OWN
        if limited and not self._bursts.admit(_key(record), now):
            return
        for outlet in self._outlets:
            outlet.handle(record)

    def finish(self) -> None:
        """Tell what was left out so far."""
        self.acquire()
        try:
            self._tell(self._bursts.expired(float("inf")))
        finally:
            self.release()

    def close(self) -> None:
        for outlet in self._outlets:
            with suppress(OSError):  # a full disk has no room for the last lines, and nobody is left to be told
                outlet.close()
        super().close()

    def _tell(self, over: list[tuple[Key, int]]) -> None:
        for (source, event, *_), count in over:
            get(_OWN).error("lines_left_out", source=source, like=event, count=count)


def _key(record: logging.LogRecord) -> Key:
    if not isinstance(record.msg, dict):
        return record.name, str(record.msg)
    about = [str(record.msg.get(field, "")) for field in ("event", "actor", "job", "code", "error")]
    return record.name, *about, str(record.msg.get("exception", "")).rpartition("\n")[2]


class _Outlet(logging.Handler):
    """An outlet that says once when it cannot be written, instead of printing the record, which may hold a secret."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name is logging's
        if self._told:
            return
        self._told = True
        error = sys.exc_info()[1]
        reason = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
        with suppress(OSError, ValueError):  # stderr itself may be what is closed, and there is no other place
            sys.stderr.write(f"understudy: the log cannot be written: {reason}\n")


class _Console(_Outlet, logging.StreamHandler[Any]):
    """stderr."""


class _JsonFile(_Outlet, logging.handlers.RotatingFileHandler):
    """The rotated file, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=MAX_FILE, backupCount=KEPT_FILES, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.baseFilename, flags, 0o600)
        os.fchmod(descriptor, 0o600)  # an older file may have been made with another mode
        return os.fdopen(descriptor, "a", encoding="utf-8")


def _formatted(
    handler: logging.Handler, renderer: Processor, before: list[Processor], redactor: Redacts
) -> logging.Handler:
    def redact(_: WrappedLogger, __: str, line: Any) -> str:
        return redactor.text(line)

    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before, processors=[remove, renderer, cast(Processor, redact)]
        )
    )
    return handler


def _console_renderer() -> Processor:
    colours = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)


def _shared(redactor: Redacts) -> list[Processor]:
    """Return what every line passes through, whoever wrote it."""
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        _add_context,
        _format_exception,
        _tidy(redactor),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _add_context(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    context = current()
    for key, value in (("request_id", context.request_id), ("actor", context.actor), ("job", context.job)):
        if value is not None:
            event.setdefault(key, value)
    return event


def _format_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Turn `exc_info` into the text `exception`: frames and messages, never local variables."""
    given = event.pop("exc_info", None)
    if isinstance(given, tuple):
        given = given[1]
    elif given and not isinstance(given, BaseException):
        given = sys.exc_info()[1]
    if given:
        event["exception"] = "".join(traceback.format_exception(given)).rstrip()
    return event


def _tidy(redactor: Redacts) -> Processor:
    def tidy(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Before the cut, or the half of a secret would be left at its edge.
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = _cut(_tame(redactor.text(value), lines=key == "exception"))
        return event

    return tidy


def _cut(text: str) -> str:
    """Return *text* with its middle left out if it is long: the end of a traceback says what happened."""
    if len(text) <= MAX_TEXT:
        return text
    head, tail = MAX_TEXT // 4, MAX_TEXT - MAX_TEXT // 4
    return f"{text[:head]}\n... {len(text) - MAX_TEXT} characters left out ...\n{text[-tail:]}"


def _tame(text: str, *, lines: bool) -> str:
    """Escape what could steer a terminal or forge a line; *lines* keeps line ends and tabs."""
    kept = "\n\t" if lines else ""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text
    )
