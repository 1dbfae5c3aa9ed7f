"""Programs that are agents, as real processes: what they say, what they ask for, and every way they can go wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.backends.playing import playing
from runtime.backends.port import (
    BackendFailed,
    BackendUnusable,
    Final,
    KeepsState,
    Note,
    Reasoning,
    Text,
    Turn,
    Used,
)
from runtime.backends.process import ProcessBackend
from runtime.errors import LeaseLost
from runtime.outcomes import Suspended
from runtime.sandbox import process
from runtime.sandbox.parent import CommandUnusable
from runtime.tools.tool import ToolResult
from schemas.chat import ChatMessage, ToolCall, ToolSpec, Usage

Program = Callable[[str], tuple[str, ...]]
Take = Callable[..., Any]
NewTurn = Callable[..., Turn]


async def gone(pid: int, within: float = 5.0) -> bool:
    with anyio.move_on_after(within):
        while (found := process.look(pid)) is not None and not found.zombie:
            await anyio.sleep(0.01)
        return True
    return False


# -- what is said ------------------------------------------------------------------------------------------------------


async def test_an_echo(take: Take, ctx: Any, program: Program) -> None:
    backend = ProcessBackend(program("say(type='final', text='you said: ' + turn['text'])"))

    assert await take(backend, ctx) == [Final(text="you said: hello")]


async def test_all_events_in_order_and_the_answer_of_the_pieces(take: Take, ctx: Any, program: Program) -> None:
    body = """
say(type='reasoning', text='hm')
say(type='text', text='good ')
say(type='text', text='day')
say(type='usage', input_tokens=3, output_tokens=2, model='m')
say(type='log', text='done')
say(type='final', output={'n': [1, None]})
"""
    assert await take(ProcessBackend(program(body)), ctx) == [
        Reasoning(text="hm"),
        Text(text="good "),
        Text(text="day"),
        Used(usage=Usage(input_tokens=3, output_tokens=2), model="m"),
        Note(kind="log", data={"text": "done"}),
        Final(text="good day", output={"n": [1, None]}),
    ]


async def test_the_turn_is_told_whole(take: Take, ctx: Any, program: Program, turn: NewTurn) -> None:
    call = ToolCall(id="c1", name="add", arguments='{"a": 1}')
    history = (
        ChatMessage(role="user", content="grüß dich"),
        ChatMessage(role="assistant", tool_calls=(call,)),
        ChatMessage(role="tool", name="add", tool_call_id="c1", content="1", failed=True),
    )
    tools = (ToolSpec(name="add", description="adds", parameters={"type": "object"}),)
    said = turn(history=history, tools=tools, system="a clerk", options={"x": 1}, attempt=2)

    events = await take(ProcessBackend(program("say(type='final', text='', output=turn)")), ctx, said)

    assert events[-1].output == {
        "type": "turn",
        "protocol": 1,
        "run": "run-1",
        "agent": "clerk",
        "conversation": "main",
        "text": "hello",
        "attempt": 2,
        "system": "a clerk",
        "options": {"x": 1},
        "state": {},
        "history": [
            {"role": "user", "content": "grüß dich"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}],
            },
            {"role": "tool", "content": "1", "name": "add", "tool_call_id": "c1", "failed": True},
        ],
        "tools": [{"name": "add", "description": "adds", "parameters": {"type": "object"}}],
    }


async def test_a_last_line_without_an_end_counts_and_blank_lines_do_not(take: Take, ctx: Any, program: Program) -> None:
    body = """sys.stdout.write(chr(10) + '  ' + chr(10) + '{"type": "final", "text": "here"}')"""

    assert await take(ProcessBackend(program(body)), ctx) == [Final(text="here")]


async def test_it_sees_no_more_of_our_environment_than_it_should(
    take: Take, ctx: Any, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNDERSTUDY_HOME", "/secret")
    monkeypatch.setenv("API_KEY", "secret")
    body = "import os\nsay(type='final', text=os.getcwd(), output=dict(os.environ))"

    (final,) = await take(ProcessBackend(program(body), str(tmp_path)), ctx)

    assert final.text == str(tmp_path.resolve())
    assert not {"UNDERSTUDY_HOME", "API_KEY"} & final.output.keys()
    assert final.output["PYTHONUNBUFFERED"] == "1"
    (final,) = await take(ProcessBackend(program(body), env={"ONLY": "this"}), ctx)
    assert final.output["ONLY"] == "this"
    assert "HOME" not in final.output


# -- what it asks for --------------------------------------------------------------------------------------------------


async def test_a_tool_call_goes_there_and_back(take: Take, ctx: Any, program: Program) -> None:
    body = """
say(type='tool', id='1', name='add', arguments={'a': 2, 'b': 3})
first = hear()
say(type='tool', id='1', name='nothing')
say(type='final', text='', output=[first, hear()])
"""
    (final,) = await take(ProcessBackend(program(body)), ctx)

    assert final.output == [
        {"type": "tool_result", "id": "1", "text": "5", "failed": False},
        {"type": "tool_result", "id": "1", "text": "there is no tool nothing", "failed": True},
    ]
    assert ctx.made == [("add", {"a": 2, "b": 3})]


async def test_tools_side_by_side_are_answered_as_they_finish(take: Take, ctx: Any, program: Program) -> None:
    last_began = anyio.Event()

    async def wait(arguments: dict[str, Any]) -> ToolResult:
        if arguments["n"] == 7:
            last_began.set()
        await last_began.wait()
        if arguments["n"] == 0:
            await anyio.sleep(0.05)
        return ToolResult(str(arguments["n"]))

    ctx.tools["wait"] = wait
    body = """
for n in range(8):
    say(type='tool', id=str(n), name='wait', arguments={'n': n})
say(type='final', text='', output=[hear()['id'] for _ in range(8)])
"""
    (final,) = await take(ProcessBackend(program(body)), ctx)

    assert sorted(final.output) == [str(n) for n in range(8)]
    assert final.output[-1] == "0"
    assert [arguments["n"] for _, arguments in ctx.made] == list(range(8)), "the record goes by their order"


async def test_a_step_is_done_once_however_often_the_turn_is_tried(
    take: Take, ctx: Any, program: Program, tmp_path: Path
) -> None:
    body = f"""
def once(name, work):
    say(type='step', id=name, name=name)
    answer = hear()
    if answer['type'] == 'step_begin':
        say(type='step_done', id=name, output=work())
        answer = hear()
    assert answer['type'] == 'step_result'
    return answer['output']
def work():
    open({str(tmp_path / "paid")!r}, 'a').write('x')
    return {{'answer': 42}}
got = once('model/1', work)
say(type='tool', id='t', name='ask')
hear()
"""
    backend = ProcessBackend(program(body))
    with pytest.raises(Suspended):
        await take(backend, ctx)

    async def allowed(arguments: dict[str, Any]) -> ToolResult:
        return ToolResult("yes")

    ctx.tools["ask"] = allowed
    (final,) = await take(ProcessBackend(program(body + "say(type='final', text='', output=got)")), ctx.again())

    assert final.output == {"answer": 42}
    assert (tmp_path / "paid").read_text() == "x"
    assert ctx.done == ["model/1"]


async def test_a_wait_ends_the_process_once_the_other_calls_have_ended(
    take: Take, ctx: Any, program: Program, tmp_path: Path
) -> None:
    ended: list[str] = []

    async def slow(arguments: dict[str, Any]) -> ToolResult:
        await anyio.sleep(0.1)
        ended.append("slow")
        return ToolResult("")

    ctx.tools["slow"] = slow
    pid = tmp_path / "pid"
    body = f"""
import os
open({str(pid)!r}, 'w').write(str(os.getpid()))
say(type='tool', id='1', name='slow')
say(type='tool', id='2', name='ask')
hear(); hear(); hear()
"""
    with pytest.raises(Suspended) as suspended:
        await take(ProcessBackend(program(body)), ctx)

    assert suspended.value.says["waits"] == "approval/1"
    assert ended == ["slow"]
    assert await gone(int(pid.read_text()))


async def test_a_lost_lease_ends_the_turn(take: Take, ctx: Any, program: Program) -> None:
    async def lost(arguments: dict[str, Any]) -> ToolResult:
        raise LeaseLost

    ctx.tools["lost"] = lost
    with pytest.raises(LeaseLost):
        await take(ProcessBackend(program("say(type='tool', id='1', name='lost')\nhear()")), ctx)


async def test_calls_that_still_run_at_the_answer_come_to_their_end(take: Take, ctx: Any, program: Program) -> None:
    async def slow(arguments: dict[str, Any]) -> ToolResult:
        await anyio.sleep(0.1)
        return ToolResult("x" * 1_000_000)  # more than a pipe holds, and nobody reads it

    ctx.tools["slow"] = slow
    body = "say(type='tool', id='1', name='slow')\nsay(type='final', text='bye')"

    assert await take(ProcessBackend(program(body)), ctx) == [Final(text="bye")]
    assert ctx.results[0].text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("say(type='tool', id='1', name='ever')\nsay(type='tool', id='1', name='ever')\nhear()", "by the same id: '1'"),
        ("for n in range(3): say(type='tool', id=str(n), name='ever')\nhear()", "more than 2 things at once"),
        ("say(type='step_done', id='1', output=1)\nhear()", "a step that was not begun: id '1'"),
    ],
)
async def test_requests_that_make_no_sense(
    take: Take, ctx: Any, program: Program, body: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.backends.requests.MAX_AT_ONCE", 2)

    async def ever(arguments: dict[str, Any]) -> ToolResult:
        await anyio.sleep(0.5)  # longer than it takes to read three lines, on a machine that has much else to do
        return ToolResult("")

    ctx.tools["ever"] = ever
    with pytest.raises(BackendUnusable, match=said):
        await take(ProcessBackend(program(body)), ctx)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Hello, I am ready", r"line 2 of its stdout is no JSON .*'Hello, I am ready'; stdout is for the protocol"),
        ("[1]", "line 2 of its stdout is no message of the protocol"),
        ('{"type": "dance"}', "line 2 of its stdout is no message of the protocol"),
        ('{"type": "tool", "id": "1", "name": "x", "args": {}}', r"\(tool.args: Extra inputs are not permitted\)"),
        ('{"type": "text"}', r"\(text.text: Field required\)"),
        ('{"type": "final", "text": "", "output": NaN}', "no JSON"),
        ('{"type": "text", "text": "\\ud800"}', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\x00\xff", "no JSON"),
    ],
)
async def test_nonsense_on_stdout_names_the_line(take: Take, ctx: Any, program: Program, line: str, said: str) -> None:
    body = f"say(type='log', text='x')\nsys.stdout.write({line[:50]!r} * {max(1, len(line) // 50)})\nprint()\nhear()"
    if len(line) < 1000:
        body = f"say(type='log', text='x')\nsys.stdout.buffer.write({line.encode('latin-1')!r})\nprint()\nhear()"
    with pytest.raises(BackendUnusable, match=said) as raised:
        await take(ProcessBackend(program(body)), ctx)

    assert len(raised.value.detail) < 1000


async def test_a_huge_line(take: Take, ctx: Any, program: Program) -> None:
    body = "say(type='text', text='x' * 10_000_000)\nhear()"
    with pytest.raises(BackendUnusable, match=r"line 1 of its stdout has more than 1048576 bytes: .*xxx"):
        await take(ProcessBackend(program(body)), ctx)


async def test_too_much_in_all(take: Take, ctx: Any, program: Program) -> None:
    body = "while True: say(type='log', text='x' * 100)"
    with pytest.raises(BackendUnusable, match="more than 10000 bytes to its stdout"):
        await take(ProcessBackend(program(body), max_bytes=10_000), ctx)


async def test_an_answer_that_is_too_long(take: Take, ctx: Any, program: Program) -> None:
    body = "while True: say(type='text', text='x' * 100_000)"
    with pytest.raises(BackendUnusable, match="its answer has more than 1000000 characters"):
        await take(ProcessBackend(program(body)), ctx)


async def test_an_exit_without_an_answer_tells_the_code_and_the_last_words(
    take: Take, ctx: Any, program: Program
) -> None:
    body = "print('x' * 5000, file=sys.stderr)\nprint('no more paper', file=sys.stderr)\nsys.exit(3)"
    with pytest.raises(
        BackendFailed, match=r"(?s)ended with exit code 3 before it answered; .*no more paper$"
    ) as raised:
        await take(ProcessBackend(program(body)), ctx)

    assert len(raised.value.detail) < 1200
    assert raised.value.error_class == "transient"


async def test_a_death_by_a_signal(take: Take, ctx: Any, program: Program) -> None:
    with pytest.raises(BackendFailed, match=r"ended with signal 9 before it answered$"):
        await take(ProcessBackend(program("import os\nos.kill(os.getpid(), 9)")), ctx)


async def test_a_death_while_a_tool_runs_lets_the_call_end(take: Take, ctx: Any, program: Program) -> None:
    async def slow(arguments: dict[str, Any]) -> ToolResult:
        await anyio.sleep(0.3)
        return ToolResult("done")

    ctx.tools["slow"] = slow
    with pytest.raises(BackendFailed, match="exit code 0"):
        await take(ProcessBackend(program("say(type='tool', id='1', name='slow')")), ctx)

    assert ctx.results == {0: ToolResult("done")}


@pytest.mark.parametrize(
    ("retryable", "kind"),
    [("", BackendUnusable), (", retryable=True", BackendFailed), (", retryable=False", BackendUnusable)],
)
async def test_an_error_that_it_reports(
    take: Take, ctx: Any, program: Program, retryable: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=r"^the printer is on fire$"):
        await take(ProcessBackend(program(f"say(type='error', text='the printer is on fire'{retryable})")), ctx)


@pytest.mark.parametrize("argv", [("no-such-program-here",), ("",), (), ("/etc/passwd",)])
async def test_a_program_that_cannot_be_started(take: Take, ctx: Any, argv: tuple[str, ...]) -> None:
    with pytest.raises(CommandUnusable):
        await take(ProcessBackend(argv), ctx)


async def test_a_folder_that_is_not_there(take: Take, ctx: Any, program: Program, tmp_path: Path) -> None:
    with pytest.raises(CommandUnusable, match="no such directory"):
        await take(ProcessBackend(program(""), str(tmp_path / "none")), ctx)


async def test_an_answer_counts_whatever_comes_after_it(take: Take, ctx: Any, program: Program) -> None:
    body = "say(type='final', text='done')\nprint('rubbish')\nsys.exit(7)"

    assert await take(ProcessBackend(program(body)), ctx) == [Final(text="done")]


# -- how it ends -------------------------------------------------------------------------------------------------------

STUBBORN = """
import os, signal, subprocess
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(1000)'], start_new_session=True)
say(type='log', text=f'{os.getpid()} {other.pid}')
"""


async def test_one_that_hangs_is_cancelled_and_nothing_is_left(ctx: Any, program: Program, turn: NewTurn) -> None:
    backend = ProcessBackend(program(STUBBORN + "while True: signal.pause()"), grace=0.1)
    pids: list[int] = []
    with anyio.fail_after(20):
        async with playing(backend, turn(), ctx) as events:
            async for event in events:
                assert isinstance(event, Note)
                pids = [int(pid) for pid in event.data["text"].split()]
                assert all(process.look(pid) for pid in pids)
                break

    assert len(pids) == 2
    assert [await gone(pid) for pid in pids] == [True, True]


async def test_a_deadline_around_one_event_ends_it_too(ctx: Any, program: Program, turn: NewTurn) -> None:
    backend = ProcessBackend(program(STUBBORN + "while True: signal.pause()"), grace=0.1)
    async with playing(backend, turn(), ctx) as events:
        pids = [int(pid) for pid in (await anext(events)).data["text"].split()]
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await anext(events)

    assert [await gone(pid) for pid in pids] == [True, True]


async def test_a_cancelled_turn_asks_before_it_kills(ctx: Any, program: Program, turn: NewTurn, tmp_path: Path) -> None:
    body = f"""
import signal
def end(*_):
    open({str(tmp_path / "mark")!r}, 'w').write('asked')
    sys.exit()
signal.signal(signal.SIGTERM, end)
say(type='text', text='up')
while True: signal.pause()
"""
    async with playing(ProcessBackend(program(body)), turn(), ctx) as events:
        assert await anext(events) == Text(text="up")

    assert (tmp_path / "mark").read_text() == "asked"


async def test_one_that_answers_and_stays_is_ended(take: Take, ctx: Any, program: Program) -> None:
    backend = ProcessBackend(program(STUBBORN + "say(type='final', text='bye')\nwhile True: signal.pause()"), grace=0.1)

    note, final = await take(backend, ctx)

    assert final == Final(text="bye")
    assert [await gone(int(pid)) for pid in note.data["text"].split()] == [True, True]


# -- what it keeps -----------------------------------------------------------------------------------------------------


async def test_state_goes_from_turn_to_turn(take: Take, ctx: Any, program: Program) -> None:
    body = """
seen = turn['state'].get('seen', 0) + 1
say(type='state', state={'seen': seen})
say(type='final', text=str(seen))
"""
    backend = ProcessBackend(program(body))
    assert isinstance(backend, KeepsState)
    assert backend.state() == {}

    assert [(await take(backend, ctx))[-1].text for _ in range(2)] == ["1", "2"]
    other = ProcessBackend(program(body))
    other.restore(backend.state())
    assert (await take(other, ctx))[-1].text == "3"
    assert other.state() == {"seen": 3}


async def test_state_of_a_turn_that_failed_never_was(take: Take, ctx: Any, program: Program) -> None:
    backend = ProcessBackend(program("say(type='state', state={'a': 1})\nsys.exit(1)"))
    with pytest.raises(BackendFailed):
        await take(backend, ctx)

    assert backend.state() == {}


async def test_turns_side_by_side_do_not_mix(take: Take, ctx: Any, program: Program, turn: NewTurn) -> None:
    backend = ProcessBackend(program("say(type='final', text=turn['text'])"))
    said: dict[int, str] = {}

    async def one(n: int) -> None:
        said[n] = (await take(backend, ctx.again(), turn(str(n))))[-1].text

    async with anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(one, n)

    assert said == {n: str(n) for n in range(4)}
