"""Cron text in a time zone: what is read, what is refused, and the nights in which clocks are changed."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.cron import MACROS, Cron
from runtime.errors import ScheduleInvalid

BERLIN = "Europe/Berlin"
DAY = 86_400_000


def at(text: str, tz: str = BERLIN, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).timestamp()) * 1000


def ticks(cron: str, after: int, count: int, tz: str = BERLIN) -> list[str]:
    found = Cron.parse(cron, tz).upcoming(after, count)
    return [datetime.fromtimestamp(tick / 1000, ZoneInfo(tz)).isoformat(timespec="minutes") for tick in found]


# -- what is read and what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cron", "first"),
    [
        ("30 3 * * *", "2026-01-15T03:30+01:00"),
        ("*/20 * * * *", "2026-01-14T12:20+01:00"),
        ("0 9-17/4 * * MON-FRI", "2026-01-14T13:00+01:00"),
        ("0 0 L * *", "2026-01-31T00:00+01:00"),
        ("0 0 * * 5L", "2026-01-30T00:00+01:00"),
        ("0 12 29 2 *", "2028-02-29T12:00+01:00"),
        ("  0   0 1,15 * *  ", "2026-01-15T00:00+01:00"),
        ("@daily", "2026-01-15T00:00+01:00"),
        ("@HOURLY", "2026-01-14T13:00+01:00"),
    ],
)
def test_the_next_tick_is_the_one_a_person_would_name(cron: str, first: str) -> None:
    assert ticks(cron, at("2026-01-14T12:00:30"), 1) == [first]


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("61 * * * *", "the minute '61' is not understood: it is 0 to 59"),
        ("* 24 * * *", "the hour '24'"),
        ("* * 0 * *", "the day of month '0'"),
        ("* * * JAM *", "the month 'JAM'"),
        ("* * * * 5#9", "the day of week '5#9'"),
        ("* * * *", "five fields are wanted (minute hour day month weekday), not 4"),
        ("0 * * * * *", "not 6"),
        ("", "not 0"),
        ("@dayly", "there is no @dayly; there are @hourly, @daily"),
        ("0 0 30 2 *", "never comes: none of its months has a day 30"),
        ("a-b */0 , 1- 5L/2", "the minute"),
    ],
)
def test_a_mistake_in_the_text_is_named(cron: str, says: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        Cron.parse(cron, "UTC")
    assert says in caught.value.detail
    assert (caught.value.code, caught.value.data) == ("schedule.invalid", {"field": "cron"})


@pytest.mark.parametrize(
    ("tz", "says"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("Atlantis", "there is no time zone 'Atlantis'"),
        ("", 'write one such as "Europe/Berlin", or "UTC"'),
        ("../../etc/passwd", "there is no time zone"),
        ("/etc/localtime", "there is no time zone"),
        ("Europe", "there is no time zone 'Europe'"),
        ("x\0y", "there is no time zone"),
    ],
)
def test_a_time_zone_that_does_not_exist_is_named(tz: str, says: str) -> None:
    with pytest.raises(ScheduleInvalid) as caught:
        Cron.parse("@daily", tz)
    assert says in caught.value.detail
    assert caught.value.data == {"field": "tz"}


@given(st.text(st.sampled_from("0123456789*/,-#LWMONJAN @٣ "), max_size=30))
def test_any_text_is_read_or_refused_in_our_own_words(text: str) -> None:
    try:
        cron = Cron.parse(text, "UTC")
    except ScheduleInvalid:
        return
    tick = cron.after(0)
    assert tick is None or tick > 0
    assert cron.says()


def test_words_for_a_person() -> None:
    assert Cron.parse("30 3 * * MON-FRI", BERLIN).says() == "At 03:30 on Monday through Friday"
    assert all(Cron.parse(text, "UTC").says() for text in MACROS)


# -- nights in which clocks are changed --------------------------------------------------------------------------------


def test_a_tick_that_does_not_exist_comes_once_when_there_is_a_time_again() -> None:
    assert ticks("30 2 * * *", at("2026-03-28T03:00"), 2) == ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]


def test_ticks_that_fall_together_after_the_missing_hour_are_one() -> None:
    assert ticks("0,30 2,3 * * *", at("2026-03-28T04:00"), 3) == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:30+02:00",
        "2026-03-30T02:00+02:00",
    ]


def test_a_tick_that_comes_twice_fires_the_first_time_only() -> None:
    assert ticks("30 2 * * *", at("2026-10-24T03:00"), 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    # Asked in the middle of the second 02 o'clock, the one that has been must not come again.
    assert ticks("30 2 * * *", at("2026-10-25T02:15", fold=1), 1) == ["2026-10-26T02:30+01:00"]


def test_what_comes_every_half_hour_follows_the_time_that_passes() -> None:
    assert ticks("*/30 * * * *", at("2026-03-29T01:30"), 2) == ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]
    assert ticks("*/30 * * * *", at("2026-10-25T01:30"), 5) == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
        "2026-10-25T03:00+01:00",
    ]


@pytest.mark.parametrize("tz", [BERLIN, "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "0,30 0-3 * * *", "*/30 * * * *", "0 */2 * * *", "15 1 * * SUN"])
@settings(max_examples=8, deadline=None)
@given(start=st.integers(0, 364 * 24), ahead=st.integers(1, 400))
def test_ticks_rise_and_do_not_depend_on_when_one_asks(cron: str, tz: str, start: int, ahead: int) -> None:
    begin = at("2018-01-01T00:10", "UTC") + start * 3_600_000
    read, until = Cron.parse(cron, tz), begin + 40 * DAY
    every = [tick for tick in read.upcoming(begin, 400) if tick <= until]
    assert every == sorted(set(every))
    assert all(tick > begin and tick % 60_000 == 0 for tick in every)
    later = begin + ahead * 1_800_000
    assert [tick for tick in every if tick > later] == [t for t in read.upcoming(later, len(every)) if t in every]


# -- what was missed ---------------------------------------------------------------------------------------------------


def test_the_latest_ticks_are_found_without_walking_through_all_of_them() -> None:
    cron, end = Cron.parse("* * * * *", "UTC"), at("2026-01-01T00:00", "UTC")
    assert cron.latest(0, end, 1) == [end]
    assert cron.latest(0, end, 1000) == [end - n * 60_000 for n in reversed(range(1000))]
    assert cron.latest(end - 150_000, end, 1000) == [end - 120_000, end - 60_000, end]
    assert cron.latest(end, end, 1000) == []


@settings(deadline=None)
@given(st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 0 1 * *"]), st.integers(0, 400 * 24), st.integers(1, 50))
def test_the_latest_ticks_are_the_end_of_all_ticks(cron: str, hours: int, most: int) -> None:
    read, begin = Cron.parse(cron, BERLIN), at("2025-03-01T00:10")
    until = begin + hours * 3_600_000
    every = []
    for tick in read.ticks(begin):
        if tick > until:
            break
        every.append(tick)
    assert read.latest(begin, until, most) == every[-most:]


def test_a_machine_without_time_zones_has_those_that_we_bring() -> None:
    code = "from runtime.cron import Cron; print(Cron.parse('30 2 * * *', 'Europe/Berlin').after(0))"
    environ = {"PYTHONTZPATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    assert done.stdout.strip() == str(at("1970-01-01T02:30"))
