"""`runs`: the list, the timeline, and the end of one."""

from collections.abc import Callable
from typing import Any

import pytest

from runtime.cli import runs_view
from runtime.cli.text import first_line, money, took

NOW = 1_790_000_000_000
BEGAN = NOW - 120_000
RUN = {
    "id": "0193-r",
    "agent": "clerk",
    "conversation": "main",
    "status": "waiting",
    "reason": "signal",
    "text": "Tidy up\nplease\x1b",
    "parent": None,
    "attempts": 1,
    "created_at": BEGAN,
    "finished_at": None,
}
TIMELINE = [
    {"at": BEGAN, "what": "said", "text": "Tidy up\nplease\x1b[2J"},
    {"at": BEGAN + 900, "what": "model", "name": "m-1", "state": "done", "text": "I \x1blook", "ms": 820, "cost": 1230},
    {
        "at": BEGAN + 2000,
        "what": "tool",
        "name": "files.list",
        "state": "done",
        "text": "a\nb",
        "data": {"arguments": {"path": "."}},
        "ms": 1500,
    },
    {
        "at": BEGAN + 65_000,
        "what": "approval",
        "name": "shell",
        "state": "pending",
        "data": {"arguments": '{"argv": ["rm"]}'},
    },
]
SPENT = {"calls": 1, "input_tokens": 1000, "output_tokens": 234, "cost": 1230}
DETAIL = RUN | {
    "said": "Tidy up",
    "answer": None,
    "error": None,
    "spent": SPENT,
    "timeline": TIMELINE,
    "waits_for": "a person: shell",
}


def test_runs_are_a_table(cli: Callable[..., Any], fake: Any) -> None:
    ended = RUN | {"id": "0193-q", "status": "completed", "reason": None, "finished_at": BEGAN + 4200, "text": "x" * 60}
    fake.on("GET", "/v1/runs", [RUN, ended])
    assert cli("runs", "ls", "--agent", "clerk", "--status", "waiting", "-n", "7").out == (
        "ID      AGENT  CONVERSATION  STATUS     REASON  ATTEMPTS  CREATED    TOOK   SAID\n"
        "0193-r  clerk  main          waiting    signal         1  2 min ago  -      Tidy up …\n"
        f"0193-q  clerk  main          completed  -              1  2 min ago  4.2 s  {'x' * 48} …\n"
    )
    assert fake.seen[-1].query == {"agent": ["clerk"], "status": ["waiting"], "limit": ["7"]}
    assert cli("runs", "ls", "--json").json[0] == RUN


def test_on_a_terminal_a_full_list_says_how_to_go_on(terminal: Callable[..., str], fake: Any) -> None:
    fake.on("GET", "/v1/runs", [RUN])
    assert terminal("runs", "ls", "-n", "1").endswith("the latest 1; older ones: --before 0193-r\n")


def test_a_run_is_a_timeline_with_totals_and_the_next_command(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/runs/0193-r", DETAIL)
    fake.on("GET", "/v1/approvals", [{"id": "0193-x", "run": "other"}, {"id": "0193-p", "run": "0193-r"}])
    assert cli("runs", "show", "0193-r").out == (
        "run           0193-r\n"
        "agent         clerk\n"
        "conversation  main\n"
        "status        waiting (signal)\n"
        "began         2 min ago (2026-09-21T14:11:20Z)\n"
        "\n"
        "TIME       WHAT      NAME        STATE    TOOK    COST     TEXT\n"
        "   +0.0 s  said      -           -        -       -        Tidy up …\n"
        "   +0.9 s  model     m-1         done     820 ms  0.00123  I \\x1blook\n"
        '   +2.0 s  tool      files.list  done     1.5 s   -        {"path": "."} -> a …\n'
        '+1:05 min  approval  shell       pending  -       -        {"argv": ["rm"]}\n'
        "\n"
        "total: 1 call, 1,234 tokens (1,000 in, 234 out), cost 0.00123\n"
        "\n"
        "waits for: a person: shell\n"
        "next: understudy approvals allow 0193-p, or: understudy approvals deny 0193-p\n"
    )
    assert cli("runs", "show", "0193-r", "--json").json == DETAIL


def test_the_approval_that_the_timeline_names_needs_no_looking_up(cli: Callable[..., Any], fake: Any) -> None:
    timeline = [TIMELINE[-1] | {"data": {"id": "0193-q"}}, TIMELINE[-1] | {"state": "used", "data": {"id": "0193-o"}}]
    fake.on("GET", "/v1/runs/0193-r", DETAIL | {"timeline": timeline})
    assert cli("runs", "show", "0193-r").out.endswith(
        "next: understudy approvals allow 0193-q, or: understudy approvals deny 0193-q\n"
    )
    assert len(fake.seen) == 1


def test_a_run_is_shown_also_where_its_approvals_cannot_be_had(cli: Callable[..., Any], fake: Any) -> None:
    fake.on("GET", "/v1/runs/0193-r", DETAIL)
    fake.problem("GET", "/v1/approvals", "store.busy", "locked")
    ended = cli("runs", "show", "0193-r")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.endswith("next: understudy why 0193-r\n")


@pytest.mark.parametrize(
    ("status", "reason", "end"),
    [
        ("completed", None, "cost 0.00123\n"),
        ("failed", "exhausted", "next: understudy jobs retry 0193-r\n"),
        ("paused", "user", "next: understudy jobs resume 0193-r\n"),
        ("active", None, "next: understudy jobs wait 0193-r\n"),
        ("delayed", "retry", "next: understudy why 0193-r\n"),
        ("waiting", "children", "next: understudy runs show 0193-c\n"),
    ],
)
def test_each_state_has_its_next_command(
    cli: Callable[..., Any], fake: Any, status: str, reason: str | None, end: str
) -> None:
    timeline = [*TIMELINE, {"at": BEGAN, "what": "ask", "name": "ada", "state": "started", "data": {"run": "0193-c"}}]
    fake.on(
        "GET",
        "/v1/runs/0193-r",
        DETAIL | {"status": status, "reason": reason, "waits_for": None, "timeline": timeline},
    )
    assert cli("runs", "show", "0193-r").out.endswith(end)


def test_an_error_and_who_asked_are_shown(cli: Callable[..., Any], fake: Any, make_problem: Callable[..., Any]) -> None:
    error = make_problem("agent.budget", "run_cost is spent\x07")
    ended = {"status": "failed", "reason": "permanent", "attempts": 3, "finished_at": NOW, "parent": "0193-z"}
    fake.on("GET", "/v1/runs/0193-r", DETAIL | ended | {"error": error, "timeline": [], "spent": {}})
    shown = cli("runs", "show", "0193-r").out
    assert "asked by      0193-z\nattempts      3\n" in shown
    assert (
        "took          2 min\nerror         agent.budget: run_cost is spent\\x07\n              Raise `data.limit`"
        in shown
    )
    assert "total: 0 calls, 0 tokens (0 in, 0 out), cost 0\n" in shown


def test_on_a_terminal_a_line_of_the_timeline_stays_a_line(
    terminal: Callable[..., str], fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("NO_COLOR", "1")
    fake.on(
        "GET",
        "/v1/runs/0193-r",
        DETAIL | {"status": "completed", "timeline": [*TIMELINE, TIMELINE[0] | {"text": "w " * 300}]},
    )
    lines = terminal("runs", "show", "0193-r").splitlines()
    shown = next(line for line in lines if "w w" in line)
    assert shown.endswith("…")
    assert len(shown) <= 90  # the columns before it and what the text gets at least


def test_a_run_that_is_not_there_is_exit_code_4(cli: Callable[..., Any], fake: Any) -> None:
    fake.problem("GET", "/v1/runs/1", "run.not_found", "there is no run 1")
    fake.problem("POST", "/v1/runs/1/cancel", "run.not_found", "there is no run 1")
    assert [cli("runs", word, "1").code for word in ("show", "cancel")] == [4, 4]


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [("cancelled", 0, "0193-r cancelled\n"), ("requested", 0, "0193-r being ended\n"), ("too_late", 1, "")],
)
def test_a_run_is_cancelled(cli: Callable[..., Any], fake: Any, outcome: str, code: int, said: str) -> None:
    fake.on("POST", "/v1/runs/0193-r/cancel", {"id": "0193-r", "outcome": outcome, "status": "completed"})
    ended = cli("runs", "cancel", "0193-r")
    assert (ended.code, ended.out) == (code, said)
    if outcome == "too_late":
        assert "it is completed\n  next: understudy runs show 0193-r\n" in ended.err
    assert cli("runs", "cancel", "0193-r", "--json").code == code


@pytest.mark.parametrize(
    ("micros", "shown"),
    [(0, "0"), (1, "0.000001"), (1_500_000, "1.5"), (1_234_567, "1.234567"), (-30, "-0.00003"), (20_000_000, "20")],
)
def test_money_has_six_decimals_without_the_zeros(micros: int, shown: str) -> None:
    assert money(micros) == shown


def test_times_are_written_for_people() -> None:
    assert [took(ms) for ms in (None, 0, 999, 1000, 59_900, 60_000)] == [
        None,
        "0 ms",
        "999 ms",
        "1.0 s",
        "59.9 s",
        "1 min",
    ]
    spans = [runs_view.offset(ms) for ms in (-5, 0, 59_999, 60_000, 3_600_000 + 62_000)]
    assert spans == ["+0.0 s", "+0.0 s", "+59.9 s", "+1:00 min", "+1:01:02 h"]


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("", 10, ""),
        ("\n \n a\nb", None, "a …"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcd …"),
        ("日本日本日本", 6, "日本 …"),
        ("a\x1b\x1b\x1b", 6, "a\\x1 …"),
    ],
)
def test_the_first_line_fits_its_room(text: str, room: int | None, shown: str) -> None:
    assert first_line(text, room) == shown
