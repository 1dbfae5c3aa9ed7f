"""`schedules`: jobs that come again and again."""

from typing import Any, Final

import click

from runtime.cli import daemon
from runtime.cli.job_options import new_job, what_options
from runtime.cli.lazy import LazyGroup
from runtime.cli.params import DURATION, json_option, person
from runtime.cli.text import ago, cell, dump, fields, note, say, say_json, table, when

LIST: Final = ("NAME", "STATE", "CRON", "TZ", "KIND", "NEXT", "LAST", "BY")
TICKS: Final = ("TICK", "OUTCOME", "JOB", "DEALT WITH")


@click.group(
    cls=LazyGroup,
    lazy={
        "ls": ("runtime.cli.schedules", "ls", "List schedules with their next tick."),
        "show": ("runtime.cli.schedules", "show", "Show one schedule with its last ticks and the next ones."),
        "add": ("runtime.cli.schedules", "add", "Add a schedule."),
        "rm": ("runtime.cli.schedules", "rm", "Forget a schedule; its jobs stay."),
        "trigger": ("runtime.cli.schedules", "trigger", "Add the job of a schedule now, once."),
        "pause": ("runtime.cli.schedules", "pause", "Have a schedule fire no more."),
        "resume": ("runtime.cli.schedules", "resume", "Have a schedule fire again, from now on."),
    },
)
def schedules() -> None:
    """Jobs that come again and again: list, add, trigger, pause."""


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List schedules with their next tick."""
    found = daemon.get("/v1/schedules")
    if as_json:
        say_json(found)
        return
    say(table(LIST, map(_row, found)))
    for schedule in found:
        if schedule.get("trouble"):
            note(f"warning: {schedule['name']}: its job would be refused: {schedule['trouble']}")


def _row(schedule: dict[str, Any]) -> tuple[Any, ...]:
    return (
        schedule["name"],
        "paused" if schedule["paused"] else "trouble" if schedule.get("trouble") else "on",
        schedule["cron"],
        schedule["tz"],
        schedule["job"].get("kind"),
        ago(schedule.get("next_at")),
        ago(schedule.get("last_at")),
        schedule["by"],
    )


@click.command()
@click.argument("name")
@click.option("--ticks", type=click.IntRange(0, 1000), default=20, show_default=True, help="How many of the last ones.")
@json_option
def show(name: str, ticks: int, as_json: bool) -> None:
    """Show one schedule with its last ticks and the next ones."""
    schedule = daemon.get(f"/v1/schedules/{daemon.segment(name)}", subject=name, limit=ticks)
    if as_json:
        say_json(schedule)
        return
    say(_detail(schedule))
    rows = [(when(one["fire_at"]), one["outcome"], one.get("job"), ago(one["at"])) for one in schedule["ticks"]]
    if rows:
        say("\n" + table(TICKS, rows))


def _detail(schedule: dict[str, Any]) -> str:
    return fields(
        (
            ("name", schedule["name"]),
            ("cron", schedule["cron"]),
            ("time zone", schedule["tz"]),
            ("in words", schedule.get("says")),
            ("state", "paused" if schedule["paused"] else "on"),
            ("trouble", schedule.get("trouble")),
            ("missed ticks", schedule["catchup"]),
            ("overlap", schedule["overlap"]),
            ("defined by", schedule["by"]),
            ("job", dump(schedule["job"])),
            ("next", "\n".join(filter(None, map(when, schedule["upcoming"]))) or when(schedule.get("next_at"))),
            ("last", when(schedule.get("last_at"))),
            ("last job", schedule.get("last_job")),
        )
    )


@click.command(epilog="""Example: understudy schedules add tidy --cron "30 3 * * *" shell --arg 'argv=["./tidy"]'""")
@click.argument("name")
@click.argument("kind")
@click.option("--cron", required=True, help='When: "minute hour day month weekday", or @daily.')
@click.option("--tz", help='The time zone, such as "Europe/Berlin"; UTC if not given.')
@click.option("--catchup", type=click.Choice(("skip", "one", "all")), help="Ticks that were missed; `one` is usual.")
@click.option("--overlap", type=click.Choice(("allow", "skip")), help="skip: no tick while the last job runs.")
@click.option("--delay", type=DURATION, help="How long after its tick a job starts.")
@click.option("--unique", metavar="WORD", help="No job while one of the kind with this word has not ended.")
@click.option("--paused", is_flag=True, help="It does not fire until it is resumed.")
@click.option("--replace", is_flag=True, help="Change the schedule of this name that a person added.")
@what_options
@json_option
def add(name: str, kind: str, paused: bool, replace: bool, as_json: bool, **options: Any) -> None:
    """Add the schedule NAME, which submits a job of KIND at each tick. It is kept in the database."""
    body = {
        "name": name,
        "job": new_job(kind, options),
        "by": person(),
        **{word: options[word] for word in ("cron", "tz", "catchup", "overlap") if options[word] is not None},
        **({"paused": True} if paused else {}),
        **({"replace": True} if replace else {}),
    }
    schedule = daemon.post("/v1/schedules", body, subject=name)
    if as_json:
        say_json(schedule)
    else:
        _tell(schedule)


def _tell(schedule: dict[str, Any]) -> None:
    says = f", {schedule['says']}" if schedule.get("says") else ""
    coming = "paused" if schedule["paused"] else f"next {ago(schedule.get('next_at'))}"
    say(f"{cell(schedule['name'])} {coming}{says}")


@click.command()
@click.argument("name")
@json_option
def rm(name: str, as_json: bool) -> None:
    """Forget a schedule that a person added; its jobs stay."""
    answer = daemon.post(f"/v1/schedules/{daemon.segment(name)}/remove", {}, subject=name)
    say_json(answer) if as_json else say(f"{cell(name)} removed")


@click.command()
@click.argument("name")
@json_option
def trigger(name: str, as_json: bool) -> None:
    """Add the job of a schedule now, once, and print its id. Its ticks stay as they are."""
    submitted = daemon.post(f"/v1/schedules/{daemon.segment(name)}/trigger", {}, subject=name)
    say_json(submitted) if as_json else say(cell(submitted["id"]))


@click.command()
@click.argument("name")
@json_option
def pause(name: str, as_json: bool) -> None:
    """Have a schedule fire no more; ticks that pass are not made up for. Kept over restarts."""
    _pause(name, paused=True, as_json=as_json)


@click.command()
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Have a schedule fire again, from now on."""
    _pause(name, paused=False, as_json=as_json)


def _pause(name: str, *, paused: bool, as_json: bool) -> None:
    schedule = daemon.post(f"/v1/schedules/{daemon.segment(name)}/pause", {"paused": paused}, subject=name)
    if as_json:
        say_json(schedule)
    else:
        _tell(schedule)
