"""The shell tool: how programs end, what they see, and that nothing of them is left."""

import contextlib
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime.errors import ToolError, ToolInvalid
from runtime.tools.commands import MAX_OUTPUT
from runtime.tools.shell import shell_tool
from runtime.tools.tool import ToolContext, ToolResult


async def call(ctx: ToolContext, *argv: str) -> ToolResult:
    made = shell_tool()
    return await made.run(ctx, made.check({"argv": list(argv)}))


async def test_a_program_tells_its_end_and_its_output(ctx: ToolContext, workdir: Path) -> None:
    assert await call(ctx, "sh", "-c", "pwd; echo bad >&2") == ToolResult(f"exit code 0\n{workdir}\n\n[stderr]\nbad\n")
    assert await call(ctx, "true") == ToolResult("exit code 0")
    assert await call(ctx, "sh", "-c", "exit 3") == ToolResult("exit code 3", failed=True)
    assert await call(ctx, "sh", "-c", "kill -9 $$") == ToolResult("signal 9", failed=True)


async def test_words_are_words_and_no_shell_text(ctx: ToolContext, workdir: Path) -> None:
    assert await call(ctx, "printf", "%s|", "a b", "$(touch x)", ";", "") == ToolResult(
        "exit code 0\na b|$(touch x)|;||"
    )
    assert list(workdir.iterdir()) == []


async def test_a_program_that_is_not_there_is_told(ctx: ToolContext) -> None:
    with pytest.raises(ToolError, match="no such program"):
        await call(ctx, "no-such-program")


async def test_a_flood_is_kept_by_its_ends(ctx: ToolContext) -> None:
    text = (await call(ctx, "sh", "-c", "echo first; yes | head -c 1000000; echo last")).text
    assert text.startswith("exit code 0\nfirst\ny\n")
    assert text.endswith("y\nlast\n")
    assert "bytes are left out" in text
    assert len(text) < MAX_OUTPUT + 200


async def test_our_own_variables_and_secrets_are_not_seen(ctx: ToolContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNDERSTUDY_HOME", "UNDERSTUDY_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "hush")
    text = (await call(ctx, "env")).text
    assert "PATH=" in text
    for word in ("UNDERSTUDY_", "API_KEY", "hush"):
        assert word not in text


async def test_there_is_nothing_to_read(ctx: ToolContext) -> None:
    assert await call(ctx, "cat") == ToolResult("exit code 0")


def gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path("/proc/self").exists()


@pytest.mark.parametrize("by_timeout", [True, False])
async def test_a_call_that_is_ended_ends_all_it_started(by_timeout: bool, ctx: ToolContext, workdir: Path) -> None:
    script = "sleep 1000 & echo $! >>pids; setsid sleep 1000 & echo $! >>pids; echo $$ >>pids; touch ready; wait"
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(call, ctx, "sh", "-c", script)
            while not (workdir / "ready").exists():
                await anyio.sleep(0.005)
            if by_timeout:
                group.cancel_scope.deadline = anyio.current_time() + 0.01
            else:
                group.cancel_scope.cancel()
        pids = [int(pid) for pid in (workdir / "pids").read_text().split()]
        assert len(pids) == 3
        while not all(map(gone, pids)):
            await anyio.sleep(0.005)


async def test_a_cancelled_program_may_clean_up(ctx: ToolContext, workdir: Path) -> None:
    script = "trap 'touch cleaned; exit 0' TERM; touch ready; while :; do sleep 0.01; done"
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(call, ctx, "sh", "-c", script)
            while not (workdir / "ready").exists():
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()
    assert (workdir / "cleaned").exists()


def test_a_person_is_always_asked() -> None:
    made = shell_tool()
    assert (made.asks_always, made.permission, made.effect) == (True, "ask", "ask_human")
    assert made.traits == frozenset({"private", "outward"})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"argv": []},
        {"argv": "ls -l"},
        {"argv": ["ls", 3]},
        {"argv": [""]},
        {"argv": ["ls", "a\0b"]},
        {"argv": ["ls", "\ud800"]},
        {"argv": ["ls"], "cwd": "/"},
        {"argv": ["x"] * 1001},
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ToolInvalid):
        shell_tool().check(arguments)
