"""Logging: both outlets, the context, floods, and canaries that must not come out."""

import io
import json
import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from runtime import log
from runtime.context import Context, bind, current
from runtime.secrets import Redactor, Secret

CANARY = "canary-0123456789-abcdefghij"


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.register(Secret(CANARY))
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.jsonl"


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    log.close()
    logging.getLogger().setLevel(level)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_an_event_comes_out_in_both_places(file: Path, capsys: pytest.CaptureFixture[str], redactor: Redactor) -> None:
    log.setup("info", console=True, file=file, redactor=redactor)
    log.get("runtime.core").info("actor_started", name="queue", restarts=0)
    (line,) = lines(file)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "actor_started", "level": "info", "logger": "runtime.core", "name": "queue", "restarts": 0}
    shown = capsys.readouterr().err
    assert "actor_started" in shown
    assert "\x1b" not in shown


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch, redactor: Redactor) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for variable, coloured in ((None, True), ("NO_COLOR", False)):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if variable:
            monkeypatch.setenv(variable, "1")
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        log.setup("info", console=True, file=None, redactor=redactor)
        log.get("t").info("seen")
        assert ("\x1b" in terminal.getvalue()) is coloured


def test_what_is_below_the_level_is_not_written(file: Path, redactor: Redactor) -> None:
    log.setup("warning", console=False, file=file, redactor=redactor)
    log.get("a").info("quiet")
    log.get("a").warning("loud")
    log.setup("debug", console=False, file=file, redactor=redactor)
    log.get("a").debug("now_heard")
    assert [line["event"] for line in lines(file)] == ["loud", "now_heard"]


@pytest.mark.parametrize(
    "name", ["httpx", "httpcore.connection", "uvicorn.access", "uvicorn.error", "aiosqlite", "asyncio"]
)
def test_libraries_are_heard_from_warning_on_and_look_like_ours(file: Path, redactor: Redactor, name: str) -> None:
    log.setup("debug", console=False, file=file, redactor=redactor)
    logging.getLogger(name).info("GET /?key=%s", CANARY)
    logging.getLogger(name).warning("slow: %s", CANARY)
    (line,) = lines(file)
    assert (line["event"], line["level"], line["logger"]) == ("slow: [secret]", "warning", name)


def test_lines_carry_what_the_code_works_for(file: Path, redactor: Redactor) -> None:
    log.setup("info", console=False, file=file, redactor=redactor)
    with bind(request_id="r1", actor="queue"):
        with bind(job="j1", actor="worker:1"):
            log.get("a").info("inner")
            logging.getLogger("foreign").info("too")
        log.get("a").info("outer", actor="own wins")
    log.get("a").info("outside")
    seen = [{key: line.get(key) for key in ("request_id", "actor", "job")} for line in lines(file)]
    assert seen == [
        {"request_id": "r1", "actor": "worker:1", "job": "j1"},
        {"request_id": "r1", "actor": "worker:1", "job": "j1"},
        {"request_id": "r1", "actor": "own wins", "job": None},
        {"request_id": None, "actor": None, "job": None},
    ]


async def test_a_task_inherits_the_context_and_keeps_its_own(anyio_backend: str) -> None:
    seen: list[Context] = []

    async def work(job: str) -> None:
        with bind(job=job):
            await anyio.lowlevel.checkpoint()
            seen.append(current())

    with bind(actor="a"):
        async with anyio.create_task_group() as group:
            group.start_soon(work, "1")
            group.start_soon(work, "2")
    assert sorted(seen, key=repr) == [Context(actor="a", job="1"), Context(actor="a", job="2")]
    assert current() == Context()


def test_the_file_is_ours_alone_and_stays_so_when_rotated(
    file: Path, redactor: Redactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_FILE", 2000)
    log.setup("info", console=False, file=file, redactor=redactor)
    for number in range(100):
        log.get("a").info("filler", number=number, text="x" * 200)
    files = sorted(path.name for path in file.parent.iterdir())
    assert files == ["daemon.jsonl", *(f"daemon.jsonl.{n}" for n in range(1, 6))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}
    assert lines(file)[-1]["number"] == 99


def test_a_file_that_others_could_read_is_closed_to_them(file: Path, redactor: Redactor) -> None:
    file.touch()
    file.chmod(0o644)
    log.setup("info", console=False, file=file, redactor=redactor)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_file_is_never_a_link_to_another(file: Path, tmp_path: Path, redactor: Redactor) -> None:
    (tmp_path / "victim").touch()
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        log.setup("info", console=False, file=file, redactor=redactor)


def test_long_exceptions_are_cut_in_the_middle(file: Path, redactor: Redactor) -> None:
    log.setup("info", console=False, file=file, redactor=redactor)
    try:
        raise ValueError("start " + "x" * 100_000 + " end")
    except ValueError:
        log.get("a").exception("failed")
    text = lines(file)[0]["exception"]
    assert len(text) < log.MAX_TEXT + 100
    assert text.startswith("Traceback")
    assert text.endswith(" end")
    assert "characters left out" in text


def test_text_cannot_forge_a_line_or_steer_a_terminal(capsys: pytest.CaptureFixture[str], redactor: Redactor) -> None:
    log.setup("info", console=True, file=None, redactor=redactor)
    log.get("a").info("seen", text="one\n2026-01-01T00:00:00Z [info] forged\x1b[2J\u202e")
    logging.getLogger("b").warning("two\nforged")
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 2
    assert "\x1b" not in shown
    assert "\u202e" not in shown


# -- canaries ----------------------------------------------------------------------------------------------------------


class Loose(BaseModel):
    n: int


class Holder:
    def __repr__(self) -> str:
        return f"Holder({CANARY})"


def leak(key: str) -> None:
    raise RuntimeError(f"cannot use {key}") from ValueError(key)


def test_no_canary_comes_out_by_any_path(file: Path, capsys: pytest.CaptureFixture[str], redactor: Redactor) -> None:
    log.setup("debug", console=True, file=file, redactor=redactor)
    logger, foreign = log.get("a"), logging.getLogger("foreign")
    logger.info("text", value=CANARY)
    logger.info(f"in the event {CANARY}")  # noqa: G004  # the case under test
    logger.info("nested", value={"k": [CANARY, (CANARY,)], CANARY: 1})
    logger.info("object", value=Holder(), secret=Secret(CANARY), raw=CANARY.encode())
    foreign.warning("%s and %r", CANARY, Holder())
    with bind(request_id=CANARY, actor=CANARY):
        logger.info("context")
    try:
        leak(CANARY)
    except RuntimeError:
        logger.exception("raised")
        foreign.exception("raised too")
    try:
        Loose.model_validate({"n": CANARY})
    except ValidationError as error:
        logger.error("invalid", error=str(error), errors=error.errors())
        logger.warning("invalid_too", exc_info=error)
    try:
        raise ExceptionGroup("group", [ValueError(CANARY), ExceptionGroup(CANARY, [KeyError(CANARY)])])
    except ExceptionGroup:
        logger.exception("group")
    try:
        raise ValueError("x" * (log.MAX_TEXT // 4 - 60) + CANARY + "y" * log.MAX_TEXT)
    except ValueError:
        logger.exception("cut_at_the_canary")
    for out in (file.read_text(), capsys.readouterr().err):
        assert out.count("[secret]") >= 15
        assert "canary-0" not in out
        assert "abcdefghij" not in out
        assert "Traceback" in out


@given(st.integers(log.MAX_TEXT // 4 - 300, log.MAX_TEXT // 4 + 50))
def test_a_cut_never_leaves_half_a_canary(before: int) -> None:
    made = Redactor()
    made.register(Secret(CANARY))
    text: Any = log._tidy(made)(None, "", {"event": "x" * before + CANARY + "y" * log.MAX_TEXT})
    assert "canary-0" not in text["event"]
    assert "abcdefghij" not in text["event"]


def test_locals_are_never_in_tracebacks(file: Path, capsys: pytest.CaptureFixture[str], redactor: Redactor) -> None:
    log.setup("info", console=True, file=file, redactor=redactor)
    unregistered = "another-" + "canary"
    try:
        raise ValueError(len(unregistered))
    except ValueError:
        log.get("a").exception("raised")
    assert unregistered not in file.read_text() + capsys.readouterr().err


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_says_so_once_without_the_line(
    file: Path, capsys: pytest.CaptureFixture[str], redactor: Redactor
) -> None:
    log.setup("info", console=False, file=file, redactor=redactor)
    outlets = next(one for one in logging.getLogger().handlers if isinstance(one, log._Outlets))
    (outlet,) = outlets._outlets
    assert isinstance(outlet, log._JsonFile)
    opened, outlet.stream = outlet.stream, FullDisk()
    try:
        log.get("a").info("one", key=CANARY)
        log.get("a").info("two", key=CANARY)
    finally:
        outlet.stream = opened
    assert capsys.readouterr().err == "understudy: the log cannot be written: No space left on device\n"


# -- floods ------------------------------------------------------------------------------------------------------------


def test_equal_errors_are_limited_and_then_counted(file: Path, redactor: Redactor) -> None:
    log.setup("info", console=False, file=file, redactor=redactor)
    for number in range(25):
        log.get("a").error("provider_failed", code="llm.unreachable", number=number)
        logging.getLogger("foreign").error("lost %s", number)
        log.get("a").info("not_limited")
    log.close()
    events = [line["event"] for line in lines(file)]
    assert events.count("provider_failed") == 10
    assert events.count("not_limited") == 25
    told = [(line["like"], line["source"], line["count"]) for line in lines(file) if line["event"] == "lines_left_out"]
    assert told == [("provider_failed", "a", 15), ("lost %s", "foreign", 15)]


def test_errors_about_different_things_are_not_equal(file: Path, redactor: Redactor) -> None:
    log.setup("info", console=False, file=file, redactor=redactor)
    for number in range(25):
        log.get("a").error("job_failed", job=f"j{number}")
    assert len(lines(file)) == 25


def test_after_a_minute_the_number_is_told_and_counting_starts_again() -> None:
    bursts = log.Bursts()
    assert [bursts.admit(("a", "x"), 0.0) for _ in range(12)].count(True) == 10
    assert bursts.expired(59.9) == []
    assert bursts.expired(60.0) == [(("a", "x"), 2)]
    assert bursts.expired(61.0) == []
    assert bursts.admit(("a", "x"), 61.0)


def test_a_flood_of_different_errors_keeps_the_memory_bounded() -> None:
    bursts = log.Bursts()
    for number in range(5000):
        assert bursts.admit((str(number),), 0.0)
        bursts.expired(0.0)
    assert len(bursts._windows) <= 1001


def test_logging_starts_without_rich() -> None:
    code = (
        "import sys; from runtime import log, secrets\n"
        "log.setup('info', console=True, file=None, redactor=secrets.Redactor())\n"
        "try: 1 / 0\nexcept ZeroDivisionError: log.get('a').exception('raised')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == ""
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "\x1b" not in done.stderr
    assert "╭" not in done.stderr
